"""What all displays draw alike."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.utils._optional_dependencies import check_matplotlib_support

# Okabe & Ito (2008): told apart by everybody. Black is kept for optima and ceilings.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#AA4499", "#56B4E9", "#E69F00", "#882255", "#999933")
MARKERS = "osD^vPX*"


def look(i: int) -> dict[str, str]:
    """Colour and marker of the i-th series; the pair repeats only after 8 × 8."""
    return {
        "color": COLORS[i % len(COLORS)],
        "marker": MARKERS[(i + i // len(COLORS)) % len(MARKERS)],
    }


def make_axes(display: Any, ax: Any, **figure: Any) -> Any:
    """The axes that were given, or those of a new figure."""
    check_matplotlib_support(f"{type(display).__name__}.plot")
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.subplots(layout="constrained", **figure)[1]


def bare(ax: Any) -> None:
    """No lines where there is no scale."""
    ax.spines[["top", "right"]].set_visible(False)


def level(ax: Any, value: float | None, name: str, *, upright: bool = False) -> None:
    """A thin line right across, for what a score is to be compared with."""
    if value is None:
        return
    draw = ax.axvline if upright else ax.axhline
    dashes = "-" if name.startswith("ceiling") else (0, (2, 3))
    color = "black" if name.startswith("ceiling") else "0.45"
    draw(value, color=color, lw=1, ls=dashes, zorder=0, label=f"{name} {value:.2f}")


def logarithmic(ax: Any, values: np.ndarray) -> None:
    """A horizontal axis that is labelled at decades, at two of them at least."""
    from matplotlib.ticker import NullFormatter

    low, high = values.min() / 1.3, values.max() * 1.3
    if high < 10 * low:
        low, high = 10.0 ** np.floor(np.log10(low)), 10.0 ** np.ceil(np.log10(high))
    ax.set(xscale="log", xlim=(low, high))
    ax.xaxis.set_minor_formatter(NullFormatter())
