"""How many latents are active, which never are, and whether they are the right ones."""

from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

from .correlation import mean_corr_coef
from .inputs import as_codes, check_same, row_blocks


class SupportScores(NamedTuple):
    """Agreement of two supports, each number between 0 and 1.

    Attributes
    ----------
    precision : float
        Share of the predicted non-zeros that are true ones.
    recall : float
        Share of the true non-zeros that are predicted.
    f1 : float
        Their harmonic mean.

    See Also
    --------
    support_scores : Makes them.

    Examples
    --------
    >>> from sparsecode_estimators.metrics import support_scores
    >>> scores = support_scores([[1, 0, 2, 0]], [[5, 0, 0, 0]])
    >>> scores.precision, scores.recall
    (1.0, 0.5)
    """

    precision: float
    recall: float
    f1: float


def l0(codes: Any) -> float:
    """Mean number of non-zero entries per sample.

    Parameters
    ----------
    codes : array-like, CSR, DataFrame or tensor of shape (n_samples, n_components)

    Returns
    -------
    float
        Between 0 and n_components.

    See Also
    --------
    dead_latent_fraction : Latents that no row uses.
    sparsity_scorer : The same of a fitted estimator, for model selection.

    Examples
    --------
    >>> from sparsecode_estimators.metrics import l0
    >>> l0([[0.0, 1.5, 0.0], [0.2, 0.3, -0.1]])
    2.0
    """
    codes = as_codes(codes, "codes")
    return float(_activations(codes).sum() / codes.shape[0])


def dead_latent_fraction(codes: Any) -> float:
    """Share of the columns that are zero for every sample.

    Parameters
    ----------
    codes : array-like, CSR, DataFrame or tensor of shape (n_samples, n_components)

    Returns
    -------
    float
        Between 0 and 1.

    See Also
    --------
    l0 : How many latents a row uses.

    Examples
    --------
    >>> from sparsecode_estimators.metrics import dead_latent_fraction
    >>> dead_latent_fraction([[0.0, 1.5], [0.0, 0.3]])
    0.5
    """
    return float(np.mean(_activations(as_codes(codes, "codes")) == 0))


def support_scores(codes_true: Any, codes_pred: Any, *, matching: bool = False) -> SupportScores:
    r"""Precision, recall and F1 of the non-zero entries, counted over all samples.

    An entry that is non-zero in both is a true positive; precision divides
    their number by the non-zeros of `codes_pred`, recall by those of
    `codes_true`, and :math:`F_1 = 2PR/(P+R)`. A ratio 0/0 counts as 0.

    Parameters
    ----------
    codes_true, codes_pred : array-like, CSR, DataFrame or tensor
        Codes of the same samples. Column j of one stands for column j of the
        other unless `matching`.
    matching : bool, default=False
        Pair the columns as `mean_corr_coef` does. The widths may then differ:
        non-zeros of unmatched columns are misses or false alarms.

    Returns
    -------
    SupportScores
        Named tuple ``(precision, recall, f1)``.

    Raises
    ------
    ValueError
        If the numbers of rows differ, or those of columns without `matching`.

    See Also
    --------
    mean_corr_coef : Whether the values are right, in any order of the columns.

    Examples
    --------
    >>> from sparsecode_estimators.metrics import support_scores
    >>> scores = support_scores([[1, 0, 2], [0, 3, 0]], [[5, 1, 0], [0, 4, 0]])
    >>> print(f"{scores.precision:.2f} {scores.recall:.2f} {scores.f1:.2f}")
    0.67 0.67 0.67
    """
    a, b = as_codes(codes_true, "codes_true"), as_codes(codes_pred, "codes_pred")
    names = ("codes_true", "codes_pred")
    check_same(a, b, names, axis=0, remedy="give both for the same samples.")
    if not matching:
        check_same(a, b, names, axis=1, remedy="use matching=True for unequal widths.")
    true, pred = _support(a), _support(b)
    n_true, n_pred = true.nnz, pred.nnz
    if matching:
        _, row_ind, col_ind = mean_corr_coef(a, b, return_matching=True)
        true, pred = true[:, row_ind], pred[:, col_ind]
    hits = true.multiply(pred).nnz
    return SupportScores(
        precision=_ratio(hits, n_pred),
        recall=_ratio(hits, n_true),
        f1=_ratio(2 * hits, n_pred + n_true),
    )


def _activations(codes: Any) -> np.ndarray:
    """Samples for which each column is non-zero."""
    if sparse.issparse(codes):
        return np.bincount(codes.indices, minlength=codes.shape[1])
    counts = np.zeros(codes.shape[1], dtype=np.int64)
    for rows in row_blocks(*codes.shape):
        counts += np.count_nonzero(codes[rows], axis=0)
    return counts


def _support(codes: Any) -> sparse.csr_array:
    return codes.astype(bool) if sparse.issparse(codes) else sparse.csr_array(codes != 0)


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
