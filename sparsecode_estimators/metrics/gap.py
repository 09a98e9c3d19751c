"""How far an encoder's codes are from the best codes for its own dictionary."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from ..estimators.functional import sparse_encode
from .inputs import as_codes, as_rows, dense_block, row_blocks


class AmortisationGap(NamedTuple):
    """Objective above its minimum, row by row, on the scale of the squared rows.

    Attributes
    ----------
    excess : ndarray of shape (n_samples,)
        Objective of the encoder's codes minus that of the solved codes: the gap is at
        least this.
    bound : ndarray of shape (n_samples,)
        ``excess`` plus the duality gap of the solved codes: the gap is at most this.
    objective : ndarray of shape (n_samples,)
        Objective of the encoder's codes.
    """

    excess: np.ndarray
    bound: np.ndarray
    objective: np.ndarray


def amortisation_gap(estimator: Any, X: Any, *, alpha: float | None = None) -> AmortisationGap:
    r"""Objective of an encoder's codes above the certified optimum, for its own dictionary.

    With :math:`P(s) = \tfrac12\|x - b - sD\|^2 + \alpha\|s\|_1` it is
    :math:`P(s_{\text{encoder}}) - \min_s P(s)`, which is zero only if the encoder
    solves the problem that it was trained on.

    Parameters
    ----------
    estimator : fitted encoder or Pipeline that ends in one
        Needs ``components_`` and ``transform``; ``intercept_``, ``positive_code`` and
        ``alpha_`` are used if it has them.
    X : array-like of shape (n_samples, n_features)
    alpha : float >= 0 or None, default=None
        None: the encoder's ``alpha_``. (A "topk" encoder has one too, but was not trained
        with it: choose the alpha whose optimum is as sparse as its codes.)

    Returns
    -------
    AmortisationGap
        ``(excess, bound, objective)``, each of shape (n_samples,).

    Raises
    ------
    ValueError
        If the encoder has no ``components_``, or alpha is neither given nor known.

    References
    ----------
    O'Neill, Gumran & Klindt (2025), arXiv 2411.13117, section 3.

    Examples
    --------
    >>> from sparsecode_estimators import SAEEncoder
    >>> from sparsecode_estimators.datasets import make_sparse_codes
    >>> from sparsecode_estimators.metrics import amortisation_gap
    >>> data = make_sparse_codes(500, 8, 16, 3, random_state=0)
    >>> sae = SAEEncoder(16, max_iter=20, random_state=0).fit(data.X)
    >>> bool((amortisation_gap(sae, data.X).bound >= 0).all())
    True
    """
    check_is_fitted(estimator)
    encoder = estimator
    if isinstance(estimator, Pipeline):
        encoder = estimator[-1]
        X = estimator[:-1].transform(X) if len(estimator) > 1 else X
    if not hasattr(encoder, "components_"):
        raise ValueError(
            f"estimator={type(encoder).__name__} has no components_: the gap is measured "
            "for the dictionary of an encoder."
        )
    alpha = getattr(encoder, "alpha_", None) if alpha is None else alpha
    if alpha is None:
        raise ValueError(
            f"alpha=None, and {type(encoder).__name__} has no alpha_: give the alpha of the "
            "objective to compare by."
        )
    rows = as_rows(X, "X")
    D = np.asarray(encoder.components_, dtype=np.float64)
    offset = np.asarray(getattr(encoder, "intercept_", np.zeros(D.shape[1])), dtype=np.float64)
    codes = as_codes(encoder.transform(X), "codes")
    # a refiner's own parameter may say "as the encoder"; what it fitted says which
    positive = getattr(encoder, "positive_code_", getattr(encoder, "positive_code", True))
    guessed, solved, gap = (np.empty(rows.shape[0]) for _ in range(3))
    for block in row_blocks(rows.shape[0], max(D.shape)):
        centred = dense_block(rows, block, "X") - offset
        guessed[block] = _objective(centred, dense_block(codes, block, "codes"), D, alpha)
        best, info = sparse_encode(
            centred, D, alpha=alpha, positive_code=positive, return_info=True
        )
        solved[block], gap[block] = _objective(centred, best, D, alpha), info.dual_gap
    excess = guessed - solved
    return AmortisationGap(excess, np.maximum(excess, 0) + gap, guessed)


def _objective(X: np.ndarray, codes: np.ndarray, D: np.ndarray, alpha: float) -> np.ndarray:
    return 0.5 * ((X - codes @ D) ** 2).sum(axis=1) + alpha * np.abs(codes).sum(axis=1)
