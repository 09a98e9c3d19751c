"""What recovery costs, and which methods give most for the price."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..metrics import chance_level, mean_corr_coef
from ..theory import count_flops
from .axes import bare, level, logarithmic, look, make_axes
from .intervals import mean_interval


class FrontierDisplay:
    """A score against its price on a logarithmic axis, with the Pareto front.

    On the front lies what nothing else beats at its price or below. It is drawn as steps: at
    a price in between, the best that can be had is the next cheaper one.

    Parameters
    ----------
    curves : mapping of str to mapping
        For each method "cost", an array of shape (n_points,), above 0, and "score", of shape
        (n_points,) or (n_points, n_data_sets). With several data sets the mean is drawn, with
        its interval.
    cost_name : str, default="operations per row"
    score_name : str, default="recovery of the true codes (MCC)"
        Higher is better.
    chance, ceiling : float or None, default=None
        Lines across.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    lines_ : dict of str to ErrorbarContainer
    front_ : list of (str, int)
        The method and the point of each place on the front, from cheap to dear.
    front_line_ : matplotlib Line2D

    Raises
    ------
    ValueError
        If there is no method, shapes do not fit, a cost is not above 0, or a score is not
        finite.

    See Also
    --------
    RecoveryDisplay : The same without what it costs.
    sparsecode_estimators.theory.count_flops : What a row costs.

    Examples
    --------
    >>> from sparsecode_estimators.plotting import FrontierDisplay
    >>> display = FrontierDisplay.from_results(
    ...     {
    ...         "one pass": {"cost": [256], "score": [0.71]},
    ...         "solver": {"cost": [500, 5000, 50000], "score": [0.6, 0.9, 0.99]},
    ...     }
    ... )
    >>> display.front_
    [('one pass', 0), ('solver', 1), ('solver', 2)]
    """

    def __init__(
        self,
        curves: Mapping[str, Mapping[str, Any]],
        *,
        cost_name: str = "operations per row",
        score_name: str = "recovery of the true codes (MCC)",
        chance: float | None = None,
        ceiling: float | None = None,
    ):
        self.curves = curves
        self.cost_name = cost_name
        self.score_name = score_name
        self.chance = chance
        self.ceiling = ceiling

    def plot(self, ax: Any = None) -> FrontierDisplay:
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to. None: in a new figure.

        Returns
        -------
        display : FrontierDisplay
        """
        if not self.curves:
            raise ValueError("curves is empty; give at least one method.")
        points = {name: _points(name, curve) for name, curve in self.curves.items()}
        self.ax_ = make_axes(self, ax, figsize=(7, 4.6))
        self.figure_ = self.ax_.figure
        self.lines_ = {}
        for i, (name, (cost, score, low, high)) in enumerate(points.items()):
            error = None if np.isnan(low).all() else np.nan_to_num([score - low, high - score])
            order = np.argsort(cost, kind="stable")
            self.lines_[name] = self.ax_.errorbar(
                cost[order],
                score[order],
                yerr=None if error is None else error[:, order],
                label=name,
                capsize=2,
                elinewidth=0.8,
                lw=1.2,
                ms=5,
                **look(i),
            )
        self.front_ = _front({name: (cost, score) for name, (cost, score, *_) in points.items()})
        self._draw_front(points)
        level(self.ax_, self.chance, "chance")
        level(self.ax_, self.ceiling, "ceiling")
        self.ax_.set(xlabel=self.cost_name, ylabel=self.score_name)
        logarithmic(self.ax_, np.concatenate([values[0] for values in points.values()]))
        self.ax_.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
        bare(self.ax_)
        return self

    def _draw_front(self, points: dict[str, tuple]) -> None:
        cost = [points[name][0][i] for name, i in self.front_]
        score = [points[name][1][i] for name, i in self.front_]
        dearest = max(values[0].max() for values in points.values())
        (self.front_line_,) = self.ax_.step(
            [*cost, dearest],
            [*score, score[-1]],
            where="post",
            color="0.75",
            lw=5,
            zorder=0,
            label="best for the price",
        )

    @classmethod
    def from_results(
        cls, curves: Mapping[str, Mapping[str, Any]], *, ax: Any = None, **options: Any
    ) -> FrontierDisplay:
        """Draw what was measured before.

        Parameters
        ----------
        curves
            As for the class.
        ax : matplotlib Axes, default=None
        **options
            ``cost_name``, ``score_name``, ``chance`` and ``ceiling``, as for the class.

        Returns
        -------
        display : FrontierDisplay
        """
        return cls(curves, **options).plot(ax)

    @classmethod
    def from_estimators(
        cls,
        estimators: Mapping[str, Any],
        X: Any,
        codes: Any = None,
        *,
        cost: str = "flops",
        n_repeats: int = 3,
        random_state: int | np.random.RandomState | None = None,
        ax: Any = None,
    ) -> FrontierDisplay:
        """Measure score and price of fitted encoders, and draw.

        Parameters
        ----------
        estimators : mapping of str to fitted encoder, or to a list of them
            A list makes a curve.
        X : array-like of shape (n_samples, n_features)
        codes : array-like of shape (n_samples, n_components), default=None
            The true ones. None: the score is explained variance, the encoder's ``score(X)``.
        cost : {"flops", "seconds"}, default="flops"
            Of a row. "flops": as `count_flops` counts them, for estimators of this package.
            "seconds": those of ``transform``, the least of several, divided by the rows; they
            belong to this machine, to what else it does, and to this number of rows.
        n_repeats : int >= 1, default=3
            Times that ``transform`` runs for "seconds".
        random_state : int, RandomState or None, default=None
            Of chance, the MCC of random projections of the rows behind a ReLU; only with
            ``codes``.
        ax : matplotlib Axes, default=None

        Returns
        -------
        display : FrontierDisplay

        Examples
        --------
        >>> from sparsecode_estimators import SAEEncoder, SparseCodingEncoder
        >>> from sparsecode_estimators.datasets import make_sparse_codes
        >>> from sparsecode_estimators.plotting import FrontierDisplay
        >>> data = make_sparse_codes(600, 8, 16, 3, random_state=0)
        >>> D = data.dictionary
        >>> sae = SAEEncoder(dictionary=D, max_iter=20, random_state=0).fit(data.X[:400])
        >>> exact = SparseCodingEncoder(dictionary=D).fit(data.X[:400])
        >>> display = FrontierDisplay.from_estimators(
        ...     {"SAE": sae, "exact": exact}, data.X[400:], data.codes[400:], random_state=0
        ... )
        >>> display.ax_.get_xlabel()
        'operations per row'
        """
        if cost not in _PRICES:
            raise ValueError(f"cost={cost!r}; choose one of {list(_PRICES)}.")
        if n_repeats < 1:
            raise ValueError(f"n_repeats={n_repeats!r} must be at least 1.")
        curves, n = {}, X.shape[0] if hasattr(X, "shape") else len(X)
        for name, fitted in estimators.items():
            listed = list(fitted) if isinstance(fitted, (list, tuple)) else [fitted]
            if cost == "flops":
                price = [count_flops(encoder, X) / n for encoder in listed]
            else:
                price = [_seconds(encoder, X, n_repeats) / n for encoder in listed]
            if codes is None:
                score = [encoder.score(X) for encoder in listed]
            else:
                score = [mean_corr_coef(codes, encoder.transform(X)) for encoder in listed]
            curves[name] = {"cost": price, "score": score}
        options: dict[str, Any] = {"cost_name": _PRICES[cost]}
        if codes is None:
            options["score_name"] = "explained variance"
        else:
            options["chance"] = chance_level(
                codes, kind="projection", X=X, random_state=random_state
            )
        return cls(curves, **options).plot(ax)


_PRICES = {"flops": "operations per row", "seconds": "seconds per row"}


def _seconds(encoder: Any, X: Any, n_repeats: int) -> float:
    taken = []
    for _ in range(n_repeats):
        begin = time.perf_counter()
        encoder.transform(X)
        taken.append(time.perf_counter() - begin)
    return min(taken)


def _points(name: str, curve: Mapping[str, Any]) -> tuple[np.ndarray, ...]:
    """Cost, mean score, and the ends of its interval."""
    cost, score = np.asarray(curve["cost"], dtype=float), np.asarray(curve["score"], dtype=float)
    if cost.ndim != 1 or score.ndim not in (1, 2) or len(score) != len(cost) or not len(cost):
        raise ValueError(
            f"{name!r} has costs of shape {cost.shape} and scores of shape {score.shape}; give "
            "(n_points,) and (n_points,) or (n_points, n_data_sets)."
        )
    if not (np.isfinite(cost).all() and (cost > 0).all() and np.isfinite(score).all()):
        raise ValueError(
            f"{name!r} has a cost that is not above 0, or a number that is not finite; a "
            "logarithmic axis has no place for it."
        )
    rows = score[:, None] if score.ndim == 1 else score
    mean, low, high = np.transpose([mean_interval(row) for row in rows])
    return cost, mean, low, high


def _front(points: dict[str, tuple[np.ndarray, np.ndarray]]) -> list[tuple[str, int]]:
    """What nothing beats at its price or below, from cheap to dear."""
    places = [(name, i) for name, (cost, _) in points.items() for i in range(len(cost))]
    # at equal price the better first, so that the worse is not on the front
    places.sort(key=lambda place: (points[place[0]][0][place[1]], -points[place[0]][1][place[1]]))
    front: list[tuple[str, int]] = []
    best = -np.inf
    for name, i in places:
        if points[name][1][i] > best:
            best = points[name][1][i]
            front.append((name, i))
    return front
