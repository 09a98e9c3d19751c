"""What methods recover, between chance and what can be had."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..estimators.sparse_coding import SparseCodingEncoder
from ..metrics import chance_level, mean_corr_coef
from .axes import COLORS, bare, level, make_axes
from .intervals import mean_interval


class RecoveryDisplay:
    """Recovery of the truth by several methods, with intervals, chance and ceiling.

    A dot for each measurement, a bar for the mean and its interval. See
    :func:`~sparsecode_estimators.plotting.mean_interval` for what the interval says.

    Parameters
    ----------
    scores : mapping of str to array-like of shape (n_data_sets,) or (n_data_sets, n_starts)
        For each method what it reached.
    chance : float or None, default=None
        What an uninformed guess reaches, see `chance_level`.
    ceiling : float or None, default=None
        What the exact codes for the true dictionary reach.
    metric : str, default="recovery of the true codes (MCC)"
        Name of the score.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    points_ : dict of str to PathCollection
        The measurements of each method.
    bars_ : dict of str to ErrorbarContainer
        Mean and interval of each method; a single data set has no interval.

    Raises
    ------
    ValueError
        If `scores` is empty, or a method has no score, or an infinite one.

    See Also
    --------
    FrontierDisplay : The same against what it costs.

    Examples
    --------
    >>> from sparsecode_estimators.plotting import RecoveryDisplay
    >>> display = RecoveryDisplay.from_results(
    ...     {"SAE": [0.61, 0.64, 0.63], "exact": [0.99, 0.98, 0.99]}, chance=0.48, ceiling=0.99
    ... )
    >>> display.ax_.get_xlabel()
    'recovery of the true codes (MCC)'
    """

    def __init__(
        self,
        scores: Mapping[str, Any],
        *,
        chance: float | None = None,
        ceiling: float | None = None,
        metric: str = "recovery of the true codes (MCC)",
    ):
        self.scores = scores
        self.chance = chance
        self.ceiling = ceiling
        self.metric = metric

    def plot(self, ax: Any = None) -> RecoveryDisplay:
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to. None: in a new figure.

        Returns
        -------
        display : RecoveryDisplay
        """
        if not self.scores:
            raise ValueError("scores is empty; give at least one method.")
        # before a figure is made, so that bad input leaves none behind
        means = {name: mean_interval(values) for name, values in self.scores.items()}
        self.ax_ = make_axes(self, ax, figsize=(6.4, 1.2 + 0.45 * len(means)))
        self.figure_ = self.ax_.figure
        self.points_, self.bars_ = {}, {}
        for place, (name, (mean, low, high)) in enumerate(means.items()):
            color = COLORS[place % len(COLORS)]
            values = np.ravel(self.scores[name])
            self.points_[name] = self.ax_.scatter(
                values, np.full(len(values), place), s=14, color=color, alpha=0.35, lw=0
            )
            self.bars_[name] = self.ax_.errorbar(
                mean,
                place,
                xerr=None if np.isnan(low) else [[mean - low], [high - mean]],
                fmt="D",
                ms=5,
                capsize=4,
                color=color,
            )
        level(self.ax_, self.chance, "chance", upright=True)
        level(self.ax_, self.ceiling, "ceiling", upright=True)
        self.ax_.set_yticks(range(len(means)), list(means))
        self.ax_.set(xlabel=self.metric, ylim=(len(means) - 0.5, -0.5))
        levels = [level for level in (self.chance, self.ceiling) if level is not None]
        self._limit(np.concatenate([*map(np.ravel, self.scores.values()), levels]))
        if self.chance is not None or self.ceiling is not None:
            self.ax_.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, frameon=False)
        bare(self.ax_)
        return self

    def _limit(self, values: np.ndarray) -> None:
        """Where scores lie between 0 and 1 the axis ends there, though an interval may not."""
        left, right = self.ax_.get_xlim()
        if np.nanmin(values) >= 0:
            left = max(left, -0.02)
        if np.nanmax(values) <= 1:
            right = min(right, 1.02)
        self.ax_.set_xlim(left, right)

    @classmethod
    def from_results(
        cls,
        scores: Mapping[str, Any],
        *,
        chance: float | None = None,
        ceiling: float | None = None,
        metric: str = "recovery of the true codes (MCC)",
        ax: Any = None,
    ) -> RecoveryDisplay:
        """Draw scores that were measured before.

        Parameters
        ----------
        scores, chance, ceiling, metric
            As for the class.
        ax : matplotlib Axes, default=None

        Returns
        -------
        display : RecoveryDisplay
        """
        return cls(scores, chance=chance, ceiling=ceiling, metric=metric).plot(ax)

    @classmethod
    def from_estimators(
        cls,
        estimators: Mapping[str, Any],
        X: Any,
        codes: Any,
        *,
        dictionary: Any = None,
        random_state: int | np.random.RandomState | None = None,
        ax: Any = None,
    ) -> RecoveryDisplay:
        """Measure fitted encoders on rows whose codes are known, and draw.

        Parameters
        ----------
        estimators : mapping of str to fitted encoder, or to a list of them
            A list holds several starts of one method. With one data set there is no interval.
        X : array-like of shape (n_samples, n_features)
            Rows that no encoder was fitted on.
        codes : array-like of shape (n_samples, n_components)
            Their true codes.
        dictionary : array-like of shape (n_components, n_features), default=None
            The true one. The ceiling is then what `SparseCodingEncoder` finds with it, at its
            default alpha; None: no ceiling.
        random_state : int, RandomState or None, default=None
            Of chance, which is that of random projections of the rows behind a ReLU.
        ax : matplotlib Axes, default=None

        Returns
        -------
        display : RecoveryDisplay

        Examples
        --------
        >>> from sparsecode_estimators import SAEEncoder
        >>> from sparsecode_estimators.datasets import make_sparse_codes
        >>> from sparsecode_estimators.plotting import RecoveryDisplay
        >>> data = make_sparse_codes(600, 8, 16, 3, random_state=0)
        >>> sae = SAEEncoder(16, max_iter=20, random_state=0).fit(data.X[:400])
        >>> display = RecoveryDisplay.from_estimators(
        ...     {"SAE": sae}, data.X[400:], data.codes[400:], random_state=0
        ... )
        >>> bool(0 < display.chance < 1)
        True
        """
        scores = {
            name: [[mean_corr_coef(codes, encoder.transform(X)) for encoder in _listed(fitted)]]
            for name, fitted in estimators.items()
        }
        chance = chance_level(codes, kind="projection", X=X, random_state=random_state)
        ceiling = None
        if dictionary is not None:
            exact = SparseCodingEncoder(dictionary=dictionary).fit(X)
            ceiling = mean_corr_coef(codes, exact.transform(X))
        return cls(scores, chance=chance, ceiling=ceiling).plot(ax)


def _listed(fitted: Any) -> list:
    return list(fitted) if isinstance(fitted, (list, tuple)) else [fitted]
