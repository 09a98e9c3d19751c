"""How the amortisation gap spreads over rows, and of what it consists."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..metrics import AmortisationGap, amortisation_gap
from .axes import COLORS, bare, make_axes

# Below, as a share of the mean objective, two objectives differ by rounding.
_ROUNDING = 1e-9


class GapDisplay:
    """Histogram of the amortisation gap of an encoder over rows, on a logarithmic axis.

    Every row is counted in each of the histograms: of its whole gap, and of the two parts that
    add up to it, of the wrong values (magnitude) and of the wrong latents (support). A
    logarithmic axis has no place for zero: rows without any error, to rounding, are in no
    histogram, and their share is in the legend.

    Parameters
    ----------
    gap : AmortisationGap
        As `amortisation_gap` returns it.
    name : str or None, default=None
        Of the encoder, for the title.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    bins_ : ndarray of shape (n_bins + 1,)
        Edges, the same for all three.
    patches_ : dict of str to list of Patch
        Under "excess", "magnitude" and "support".
    mean_ : matplotlib Line2D
        At the mean gap.

    Raises
    ------
    ValueError
        If there are no rows, or a part is not finite.

    See Also
    --------
    sparsecode_estimators.metrics.amortisation_gap : Makes the numbers.

    Examples
    --------
    >>> from sparsecode_estimators import SAEEncoder
    >>> from sparsecode_estimators.datasets import make_sparse_codes
    >>> from sparsecode_estimators.plotting import GapDisplay
    >>> data = make_sparse_codes(500, 8, 16, 3, random_state=0)
    >>> sae = SAEEncoder(16, max_iter=20, random_state=0).fit(data.X)
    >>> display = GapDisplay.from_estimator(sae, data.X)
    >>> display.ax_.get_xscale()
    'log'
    """

    def __init__(self, gap: AmortisationGap, *, name: str | None = None):
        self.gap = gap
        self.name = name

    def plot(self, ax: Any = None, *, bins: int = 48) -> GapDisplay:
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to. None: in a new figure.
        bins : int >= 1, default=48
            From the smallest part that is not zero to the largest gap.

        Returns
        -------
        display : GapDisplay
        """
        parts = {name: np.asarray(getattr(self.gap, name)) for name in _LOOKS}
        if not parts["excess"].size or not all(np.isfinite(part).all() for part in parts.values()):
            raise ValueError("gap has no rows, or values that are not finite; give finite ones.")
        floor = _ROUNDING * max(float(np.mean(self.gap.objective)), np.finfo(float).tiny)
        self.bins_ = _edges(np.concatenate(list(parts.values())), floor, bins)
        self.ax_ = make_axes(self, ax, figsize=(6.4, 3.4))
        self.figure_ = self.ax_.figure
        self.patches_ = {}
        for name, part in parts.items():
            seen = part[part > floor]
            none = 1 - len(seen) / len(part)
            label = f"{_NAMES[name]}, mean {part.mean():.2g}" + (
                f", none: {none:.0%}" * (none >= 0.005)
            )
            # the last edge may be a rounding below the largest
            clipped = np.minimum(seen, self.bins_[-1])
            self.patches_[name] = self.ax_.hist(clipped, self.bins_, label=label, **_LOOKS[name])[2]
        mean = float(parts["excess"].mean())
        self.mean_ = self.ax_.axvline(max(mean, floor), color="black", lw=1, label="mean gap")
        self.ax_.set(xscale="log", xlabel="objective above the optimum", ylabel="rows")
        if self.name is not None:
            self.ax_.set_title(self.name, loc="left", fontsize="medium")
        self.ax_.legend(frameon=False, fontsize="small")
        bare(self.ax_)
        return self

    @classmethod
    def from_results(
        cls, gap: AmortisationGap, *, name: str | None = None, ax: Any = None
    ) -> GapDisplay:
        """Draw a gap that was measured before.

        Parameters
        ----------
        gap, name
            As for the class.
        ax : matplotlib Axes, default=None

        Returns
        -------
        display : GapDisplay
        """
        return cls(gap, name=name).plot(ax)

    @classmethod
    def from_estimator(
        cls, estimator: Any, X: Any, *, name: str | None = None, ax: Any = None, **options: Any
    ) -> GapDisplay:
        """Measure the gap of an encoder, and draw.

        Parameters
        ----------
        estimator : fitted encoder, or Pipeline that ends in one
        X : array-like of shape (n_samples, n_features)
        name : str or None, default=None
            None: that of its class.
        ax : matplotlib Axes, default=None
        **options
            Further arguments of `amortisation_gap`.

        Returns
        -------
        display : GapDisplay
        """
        name = type(estimator).__name__ if name is None else name
        return cls(amortisation_gap(estimator, X, **options), name=name).plot(ax)


_NAMES = {"excess": "gap", "magnitude": "of the magnitudes", "support": "of the support"}
_LOOKS: dict[str, dict[str, Any]] = {
    "excess": {"histtype": "step", "color": "black", "lw": 1.2},
    "magnitude": {"color": COLORS[4], "alpha": 0.8},
    "support": {"color": COLORS[1], "alpha": 0.7},
}


def _edges(values: np.ndarray, floor: float, bins: int) -> np.ndarray:
    """Of bins of equal width on a logarithmic axis."""
    seen = values[values > floor]
    if not seen.size:
        return np.geomspace(floor, 10 * floor, bins + 1)
    return np.geomspace(seen.min(), max(seen.max(), 1.01 * seen.min()), bins + 1)
