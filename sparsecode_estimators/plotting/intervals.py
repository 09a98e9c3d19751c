"""How far a mean over data sets may be from the truth."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.stats import t


def mean_interval(values: Any, *, confidence: float = 0.95) -> tuple[float, float, float]:
    r"""Mean over data sets, and the interval of Student's t around it.

    With n independent data sets of mean :math:`\bar x` and standard deviation s

    .. math:: \bar x \pm t_{n-1}\, s / \sqrt n .

    Starts on one data set are not independent of each other: they are averaged first, and only
    data sets count.

    Parameters
    ----------
    values : array-like of shape (n_data_sets,) or (n_data_sets, n_starts)
        NaN marks what was not measured, and is left out. Infinity is refused: leaving it out
        would hide that a measurement went wrong.
    confidence : float in (0, 1), default=0.95

    Returns
    -------
    mean, low, high : float
        Of a single data set the interval is unknown: low and high are NaN. The interval does not
        know that a score ends at 1.

    Raises
    ------
    ValueError
        If there is no value, one is infinite, there are more than two dimensions, or `confidence`
        is out of its range.

    See Also
    --------
    RecoveryDisplay : Draws such intervals.

    References
    ----------
    Student (1908), "The probable error of a mean", Biometrika 6, 1–25.

    Examples
    --------
    >>> from sparsecode_estimators.plotting import mean_interval
    >>> print("{:.2f} {:.2f} {:.2f}".format(*mean_interval([0.8, 0.9, 1.0])))
    0.90 0.65 1.15
    """
    scores = np.asarray(values, dtype=float)
    if scores.ndim not in (1, 2):
        raise ValueError(
            f"values has shape {scores.shape}; give one number for each data set, or a row of "
            "starts for each."
        )
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence!r} must lie between 0 and 1.")
    if np.isinf(scores).any():
        raise ValueError(
            f"values has {int(np.isinf(scores).sum())} that are infinite; give NaN for what was "
            "not measured, and mend the others."
        )
    rows = [row[~np.isnan(row)] for row in np.atleast_2d(scores.T).T]
    means = np.array([row.mean() for row in rows if row.size])
    if not means.size:
        raise ValueError("values has no finite number; give at least one.")
    if means.size == 1:
        return float(means[0]), np.nan, np.nan
    half = t.ppf(0.5 + confidence / 2, means.size - 1) * means.std(ddof=1) / np.sqrt(means.size)
    return float(means.mean()), float(means.mean() - half), float(means.mean() + half)
