"""How well latents and atoms were found: correlation under the best matching.

A dictionary is determined only up to the order, the sign and the scale of its
atoms. Correlation forgets the scale, its absolute value the sign, and the
matching the order.
"""

from typing import Any, Literal, overload

import numpy as np
from scipy import sparse
from scipy.optimize import linear_sum_assignment

from .columns import correlation_matrix, paired_correlations
from .inputs import as_codes, check_same

Matched = tuple[float, np.ndarray, np.ndarray]


@overload
def mean_corr_coef(
    codes_true: Any, codes_pred: Any, *, return_matching: Literal[False] = ...
) -> float: ...
@overload
def mean_corr_coef(
    codes_true: Any, codes_pred: Any, *, return_matching: Literal[True]
) -> Matched: ...
def mean_corr_coef(
    codes_true: Any, codes_pred: Any, *, return_matching: bool = False
) -> float | Matched:
    r"""Mean correlation between true and predicted latents under the best matching (MCC).

    .. math::
        \mathrm{MCC} = \frac1{N} \max_{\pi} \sum_{i=1}^{N} |r_{i\,\pi(i)}|

    where :math:`r_{ij}` is Pearson's correlation over samples between true
    column i and predicted column j, N the number of *true* columns and
    :math:`\pi` a one-to-one assignment, found by the Hungarian algorithm. A
    column that is constant up to rounding correlates with nothing (0). With
    fewer predicted than true columns the unmatched true columns count 0; with
    more, the best are chosen.

    An uninformed guess does not score 0, and the fewer the samples or the more
    the columns to choose from, the higher it scores: report `chance_level`
    beside this number.

    Parameters
    ----------
    codes_true, codes_pred : array-like, CSR, DataFrame or tensor
        Codes of the same samples, of shapes (n_samples, n_true) and
        (n_samples, n_pred), n_samples at least 2. If either is sparse, neither
        is made dense.
    return_matching : bool, default=False
        Return the assignment as well.

    Returns
    -------
    mcc : float
        Between 0 and 1, higher is better.
    row_ind, col_ind : ndarray of shape (min(n_true, n_pred),)
        True columns and the predicted ones matched to them; only if
        `return_matching`.

    Raises
    ------
    ValueError
        If the numbers of rows differ, there are fewer than 2, or values are
        not finite.

    See Also
    --------
    aligned_corr_coef : The same for columns already in order.
    chance_level : What an uninformed guess reaches.

    Notes
    -----
    Needs one float64 matrix of shape (n_true, n_pred) and about 100 MB beside
    the codes; the matching takes up to O(max(n_true, n_pred)^3) time.

    References
    ----------
    A. Hyvärinen, H. Morioka (2016), "Unsupervised feature extraction by
    time-contrastive learning and nonlinear ICA", for the score;
    "Compute Optimal Inference and Provable Amortisation Gap in Sparse
    Autoencoders" (2025), arXiv:2411.13117, for its use on codes.

    Examples
    --------
    >>> import numpy as np
    >>> from sparsecode_estimators.metrics import mean_corr_coef
    >>> codes = np.random.RandomState(0).rand(100, 4)
    >>> round(mean_corr_coef(codes, -3 * codes[:, ::-1]), 6)
    1.0
    """
    a, b = _check_pair(codes_true, codes_pred)
    score, row_ind, col_ind = _match(correlation_matrix(a, b))
    return (score, row_ind, col_ind) if return_matching else score


def aligned_corr_coef(codes_true: Any, codes_pred: Any) -> float:
    """Mean signed correlation between columns that already stand in the same order.

    The paper's metric for an encoder that was trained on the codes themselves,
    so that order and sign are known. Constant columns count 0.

    Parameters
    ----------
    codes_true, codes_pred : array-like, CSR, DataFrame or tensor
        Of the same shape (n_samples, n_components), n_samples at least 2.

    Returns
    -------
    float
        Between -1 and 1, higher is better.

    Raises
    ------
    ValueError
        If the shapes differ, there are fewer than 2 rows, or values are not
        finite.

    See Also
    --------
    mean_corr_coef : Finds the order of the columns first.

    References
    ----------
    arXiv:2411.13117, the experiments with known sparse codes.

    Examples
    --------
    >>> from sparsecode_estimators.metrics import aligned_corr_coef
    >>> aligned_corr_coef([[0, 1], [1, 2], [2, 3]], [[0, -1], [2, -2], [4, -3]])
    0.0
    """
    a, b = _check_pair(codes_true, codes_pred)
    check_same(a, b, _CODES, axis=1, remedy="for unequal widths use mean_corr_coef.")
    return float(paired_correlations(a, b).mean())


def dictionary_corr_coef(D_true: Any, D_pred: Any, *, centered: bool = False) -> float:
    r"""Mean absolute cosine between true and learned atoms under the best matching.

    .. math::
        \frac1{N} \max_{\pi} \sum_{i=1}^{N}
        \frac{|\langle d_i, \hat d_{\pi(i)} \rangle|}{\|d_i\|\,\|\hat d_{\pi(i)}\|}

    Zero atoms, and true atoms left unmatched, count 0.

    Parameters
    ----------
    D_true, D_pred : array-like, CSR, DataFrame or tensor
        Dictionaries with one atom per row, of shapes (n_true, n_features) and
        (n_pred, n_features).
    centered : bool, default=False
        Subtract from every atom the mean of its coordinates first, that is,
        take Pearson's correlation over coordinates. This is the number the
        paper reports. It cannot see the direction (1, ..., 1), which is nothing
        special in a space of activations, so it is not the default.

    Returns
    -------
    float
        Between 0 and 1, higher is better.

    Raises
    ------
    ValueError
        If the numbers of columns differ, or `centered` with a single column.

    See Also
    --------
    mean_corr_coef : The same for codes.

    References
    ----------
    arXiv:2411.13117, "dictionary MCC" (the centred form).

    Examples
    --------
    >>> import numpy as np
    >>> from sparsecode_estimators.metrics import dictionary_corr_coef
    >>> D = np.random.RandomState(0).randn(5, 3)
    >>> round(dictionary_corr_coef(D, -2 * D[::-1]), 6)
    1.0
    """
    a, b = as_codes(D_true, "D_true"), as_codes(D_pred, "D_pred")
    check_same(a, b, ("D_true", "D_pred"), axis=1, remedy="atoms must live in the same space.")
    if not centered:
        return _match(unit_rows(a) @ unit_rows(b).T)[0]
    if a.shape[1] < 2:
        raise ValueError(
            "centered=True needs atoms of at least 2 coordinates, but D_true has 1 column; "
            "use centered=False."
        )
    return _match(correlation_matrix(a.T, b.T))[0]


_CODES = ("codes_true", "codes_pred")


def _check_pair(codes_true: Any, codes_pred: Any) -> tuple[Any, Any]:
    a = as_codes(codes_true, "codes_true", min_samples=2)
    b = as_codes(codes_pred, "codes_pred", min_samples=2)
    check_same(a, b, _CODES, axis=0, remedy="give both for the same samples.")
    return a, b


def _match(similarity: np.ndarray) -> Matched:
    """Hungarian matching on the absolute similarity, which is overwritten."""
    # A cost made in place, not `maximize=True`, spares a copy of a matrix that
    # may be 10^4 by 10^4.
    cost = np.negative(np.abs(similarity, out=similarity), out=similarity)
    row_ind, col_ind = linear_sum_assignment(cost)
    return abs(float(cost[row_ind, col_ind].sum())) / cost.shape[0], row_ind, col_ind


def unit_rows(D: Any) -> np.ndarray:
    D = np.array(D.toarray() if sparse.issparse(D) else D, dtype=np.float64)
    D /= _one_if_zero(abs(D).max(1, keepdims=True))  # the squares of 1e-200 are all 0
    return D / _one_if_zero(np.linalg.norm(D, axis=1, keepdims=True))


def _one_if_zero(lengths: np.ndarray) -> np.ndarray:
    return np.where(lengths > 0, lengths, 1.0)
