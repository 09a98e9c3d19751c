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
        If there is no run, a curve or `against` is not in a history, or `ax` has not as many
        axes as there are curves.

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
        shape = (2, 2) if len(self.curves) == 4 else (1, len(self.curves))
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
        self.lines_ = {}
        for i, (name, history) in enumerate(self.histories.items()):
            self.lines_[name] = {
                curve: self._line(ax, curve, history, label=name, color=COLORS[i % len(COLORS)])
                for ax, curve in zip(self.axes_, self.curves, strict=True)
            }
        for ax, curve in zip(self.axes_, self.curves, strict=True):
            ax.set_ylabel(_NAMES.get(curve, curve))
            if curve == "dead":
                ax.set_ylim(0, max(0.1, 1.05 * ax.get_ylim()[1]))
            bare(ax)
        for ax in self.axes_[-shape[1] :]:
            ax.set_xlabel(_AGAINST[self.against])
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
        for name, history in self.histories.items():
            missing = [curve for curve in needed if curve not in history]
            if missing:
                raise ValueError(
                    f"The history of {name!r} has no {missing[0]!r}; it has {sorted(history)}."
                )

    def _line(self, ax: Any, curve: str, history: Mapping[str, Any], **look: Any) -> Any:
        values = np.asarray(history[curve], dtype=float)
        x = np.arange(1, len(values) + 1) if self.against == "epoch" else history[self.against]
        return ax.plot(x, values, marker="." if len(values) < 30 else "", **look)[0]

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
