"""Intervals by the bootstrap over groups of what belongs together."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

_NUMBERS = 2**22  # counts that are drawn at a time

Statistic = Callable[[NDArray[np.float64]], NDArray[np.float64]]


def percentile_intervals(
    sums: NDArray[np.float64],
    statistic: Statistic,
    *,
    confidence: float,
    n_resamples: int,
    generator: np.random.RandomState,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Percentile bootstrap of statistics of sums over groups.

    Parameters
    ----------
    sums : ndarray of shape (n_groups, n_sums)
        Of every group, as a document; groups are drawn with replacement.
    statistic : callable
        From sums (n, n_sums) of n resamples to their statistics (n, n_statistics).
    confidence : float
    n_resamples : int
    generator : numpy.random.RandomState

    Returns
    -------
    low, high : ndarray of shape (n_statistics,)
        NaN if there is only one group, which says nothing of others.

    References
    ----------
    Efron & Tibshirani (1993), "An introduction to the bootstrap", chapter 13.
    """
    n_groups = len(sums)
    if n_groups == 1:
        unknown = np.full_like(statistic(sums)[0], np.nan)
        return unknown, unknown
    parts, left = [], n_resamples
    while left:
        n = min(left, max(1, _NUMBERS // n_groups))
        counts = generator.multinomial(n_groups, np.full(n_groups, 1 / n_groups), size=n)
        parts.append(statistic(counts @ sums))
        left -= n
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(parts), [tail, 1 - tail], axis=0)
    return low, high
