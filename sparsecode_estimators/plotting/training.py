"""How training went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from .axes import COLORS, bare, make_axes

_NAMES = {
    "loss": "objective (mean over rows)",
    "explained_variance": "explained variance",
    "l0": "active codes of a row",
    "dead": "share of dead latents",
}
_AGAINST = {"epoch": "epoch", "n_steps": "steps", "seconds": "seconds"}


class TrainingDisplay:
    """Curves of ``history_``, of one run or of several.

    Parameters
    ----------
    histories : mapping of str to mapping of str to array-like of shape (n_epochs,)
        For each run its ``history_``.
    curves : sequence of str, default=("loss", "explained_variance", "l0", "dead")
        What to draw, one panel for each.
    against : {"epoch", "n_steps", "seconds"}, default="epoch"
        The horizontal axis.

    Attributes
    ----------
    axes_ : ndarray of Axes of shape (n_curves,)
    ax_ : matplotlib Axes
        The first of them.
    figure_ : matplotlib Figure
    lines_ : dict of str to dict of str to Line2D
        For each run and curve.

    Raises
    ------
    ValueError
        If there is no run, a curve is named twice, a curve or `against` is not in a history or
        not one number for each epoch, or `ax` has not as many axes as there are curves.

    See Also
    --------
    sparsecode_estimators.SAEEncoder : Has ``history_`` after a fit.

    Examples
    --------
    >>> from sparsecode_estimators import SAEEncoder
    >>> from sparsecode_estimators.datasets import make_sparse_codes
    >>> from sparsecode_estimators.plotting import TrainingDisplay
    >>> X = make_sparse_codes(500, 8, 16, 3, random_state=0).X
    >>> runs = {
    ...     f"alpha {alpha}": SAEEncoder(16, alpha=alpha, max_iter=20, random_state=0).fit(X)
    ...     for alpha in (0.05, 0.2)
    ... }
    >>> display = TrainingDisplay.from_estimators(runs)
    >>> len(display.axes_), list(display.lines_)
    (4, ['alpha 0.05', 'alpha 0.2'])
    """

    def __init__(
        self,
        histories: Mapping[str, Mapping[str, Any]],
        *,
        curves: Sequence[str] = tuple(_NAMES),
        against: str = "epoch",
    ):
        self.histories = histories
        self.curves = curves
        self.against = against

    def plot(self, ax: Any = None) -> TrainingDisplay:
        """Draw.

        Parameters
        ----------
        ax : Axes or array-like of Axes of shape (n_curves,), default=None
            Where to. None: in a new figure.

        Returns
        -------
        display : TrainingDisplay
        """
        self._check()
        # before a figure is made, so that bad input leaves none behind
        series = {
            name: {curve: self._series(name, curve) for curve in self.curves}
            for name in self.histories
        }
        shape = (2, 2) if len(self.curves) == 4 else (1, len(self.curves))
        with_x = self.curves if ax is not None else self.curves[-shape[1] :]
        if ax is None:
            size = (4.2 * shape[1], 3.1 * shape[0])
            ax = make_axes(self, None, nrows=shape[0], ncols=shape[1], figsize=size, sharex=True)
        self.axes_ = np.ravel(np.asarray(ax, dtype=object))
        if len(self.axes_) != len(self.curves):
            raise ValueError(
                f"ax has {len(self.axes_)} axes, but there are {len(self.curves)} curves; give "
                "one for each, or choose other curves."
            )
        self.ax_ = self.axes_[0]
        self.figure_ = self.ax_.figure
        places = dict(zip(self.curves, self.axes_, strict=True))
        self.lines_ = {}
        for i, (name, curves) in enumerate(series.items()):
            look = {"label": name, "color": COLORS[i % len(COLORS)]}
            self.lines_[name] = {
                curve: places[curve].plot(x, y, marker="." if len(y) < 30 else "", **look)[0]
                for curve, (x, y) in curves.items()
            }
        for curve, axes in places.items():
            axes.set_ylabel(_NAMES.get(curve, curve))
            if curve == "dead":
                axes.set_ylim(0, max(0.1, 1.05 * axes.get_ylim()[1]))
            if curve in with_x:
                axes.set_xlabel(_AGAINST[self.against])
            bare(axes)
        if len(self.histories) > 1:
            self.ax_.legend(frameon=False, fontsize="small")
        return self

    def _check(self) -> None:
        if not self.histories:
            raise ValueError("histories is empty; give at least one run.")
        if self.against not in _AGAINST:
            raise ValueError(f"against={self.against!r}; choose one of {list(_AGAINST)}.")
        needed = [*self.curves, *([self.against] if self.against != "epoch" else [])]
        if not self.curves:
            raise ValueError("curves is empty; name at least one.")
        if len(set(self.curves)) < len(self.curves):
            raise ValueError(f"curves={tuple(self.curves)} names a curve twice; name each once.")
        for name, history in self.histories.items():
            missing = [curve for curve in needed if curve not in history]
            if missing:
                raise ValueError(
                    f"The history of {name!r} has no {missing[0]!r}; it has {sorted(history)}."
                )

    def _series(self, name: str, curve: str) -> tuple[np.ndarray, np.ndarray]:
        """A curve and its horizontal axis, which fit each other."""
        history = self.histories[name]
        values = np.asarray(history[curve], dtype=float)
        x = np.arange(1, values.size + 1)
        if self.against != "epoch":
            x = np.asarray(history[self.against], dtype=float)
        if values.ndim != 1 or x.shape != values.shape:
            raise ValueError(
                f"The history of {name!r} has {curve!r} of shape {values.shape} against "
                f"{self.against} of shape {x.shape}; give one number for each epoch."
            )
        return x, values

    @classmethod
    def from_results(
        cls, histories: Mapping[str, Mapping[str, Any]], *, ax: Any = None, **options: Any
    ) -> TrainingDisplay:
        """Draw histories that were kept.

        Parameters
        ----------
        histories
            As for the class.
        ax : Axes or array-like of Axes, default=None
        **options
            ``curves`` and ``against``, as for the class.

        Returns
        -------
        display : TrainingDisplay
        """
        return cls(histories, **options).plot(ax)

    @classmethod
    def from_estimator(
        cls, estimator: Any, *, name: str | None = None, ax: Any = None, **options: Any
    ) -> TrainingDisplay:
        """Draw the training of one fitted encoder.

        Parameters
        ----------
        estimator : fitted SAEEncoder, MLPEncoder or UnrolledEncoder
            Anything with ``history_``.
        name : str or None, default=None
            None: that of its class.
        ax : Axes or array-like of Axes, default=None
        **options
            ``curves`` and ``against``, as for the class.

        Returns
        -------
        display : TrainingDisplay
        """
        name = type(estimator).__name__ if name is None else name
        return cls.from_estimators({name: estimator}, ax=ax, **options)

    @classmethod
    def from_estimators(
        cls, estimators: Mapping[str, Any], *, ax: Any = None, **options: Any
    ) -> TrainingDisplay:
        """Draw the training of several fitted encoders.

        Parameters
        ----------
        estimators : mapping of str to fitted encoder
        ax : Axes or array-like of Axes, default=None
        **options
            ``curves`` and ``against``, as for the class.

        Returns
        -------
        display : TrainingDisplay
        """
        for estimator in estimators.values():
            check_is_fitted(estimator, "history_")
        return cls({name: e.history_ for name, e in estimators.items()}, **options).plot(ax)
