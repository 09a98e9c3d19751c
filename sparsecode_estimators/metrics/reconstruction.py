"""How much of the data comes back."""

from typing import Any

import numpy as np

from .inputs import as_rows, check_same, dense_block, row_blocks

_SMALLEST = 1e-280  # sums of squares of which all digits are sure


def explained_variance(X: Any, X_hat: Any) -> float:
    r"""Share of the variance of `X` that `X_hat` explains, over all features at once.

    .. math::
        1 - \mathrm{FVU} = 1 -
        \frac{\sum_n \|x_n - \hat x_n\|^2}{\sum_n \|x_n - \bar x\|^2}

    This is one ratio of sums (a multi-output R² with
    ``multioutput="variance_weighted"``), and not the mean of a ratio per
    feature. It is 1 for a perfect reconstruction, 0 for the mean of `X`, and
    without lower bound.

    Parameters
    ----------
    X, X_hat : array-like, sparse, DataFrame or tensor of shape (n_samples, n_features)
        The data and their reconstruction. Anything whose rows can be sliced, a
        memory map or a store on disk, is read once, block by block, and summed
        in float64.

    Returns
    -------
    float
        If `X` does not vary: 1.0 if `X_hat` equals it, else 0.0, as in
        `sklearn.metrics.r2_score`.

    Raises
    ------
    ValueError
        If the shapes differ or values are not finite.

    See Also
    --------
    reconstruction_scorer : The same of a fitted estimator, for model selection.

    References
    ----------
    Chan, Golub & LeVeque (1979), "Updating formulae and a pairwise algorithm
    for computing sample variances", for the sums.

    Examples
    --------
    >>> import numpy as np
    >>> from sparsecode_estimators.metrics import explained_variance
    >>> X = np.array([[0.0, 0.0], [2.0, 4.0]])
    >>> explained_variance(X, X)
    1.0
    >>> explained_variance(X, X.mean(axis=0, keepdims=True).repeat(2, axis=0))
    0.0
    """
    X, X_hat = as_rows(X, "X"), as_rows(X_hat, "X_hat")
    names = ("X", "X_hat")
    check_same(X, X_hat, names, axis=0, remedy="give both for the same samples.")
    check_same(X, X_hat, names, axis=1, remedy="give the reconstruction in the space of X.")
    with np.errstate(over="ignore", invalid="ignore"):
        residual, variation = _sums_of_squares(X, X_hat)
        if not (_SMALLEST < variation < np.inf and residual < np.inf):
            # squares vanish or overflow, or there are none
            residual, variation = _sums_of_squares(X, X_hat, _largest(X) or 1.0)
    if variation == 0:
        return 1.0 if residual == 0 else 0.0
    return 1.0 - residual / variation


def _largest(X: Any) -> float:
    return max(float(np.abs(dense_block(X, rows, "X")).max()) for rows in row_blocks(*X.shape))


def _sums_of_squares(X: Any, X_hat: Any, unit: float = 1.0) -> tuple[float, float]:
    """Of ``X - X_hat`` and of ``X - mean``, in one pass, in units of ``unit`` squared."""
    n_samples, n_features = X.shape
    # Deviations from the first row: a constant X then varies by exactly 0.
    origin = dense_block(X, slice(0, 1), "X") / unit
    mean = np.zeros(n_features)
    residual = variation = 0.0
    for rows in row_blocks(n_samples, n_features):
        x = dense_block(X, rows, "X") / unit
        residual += float(np.sum((x - dense_block(X_hat, rows, "X_hat") / unit) ** 2))
        x = x - origin  # not in place: a block may be a view of the caller's array
        n_block, n_seen = rows.stop - rows.start, rows.stop
        step = x.mean(0) - mean
        variation += float(np.sum((x - x.mean(0)) ** 2))
        variation += rows.start * n_block / n_seen * float(step @ step)
        mean += step * n_block / n_seen
    return residual, variation
