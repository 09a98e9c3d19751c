"""How far codes are from the best codes for their dictionary, and in what way."""

from __future__ import annotations

from numbers import Real
from typing import Any, NamedTuple

import numpy as np
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline
from sklearn.utils import check_array
from sklearn.utils.validation import check_is_fitted

from ..estimators.functional import sparse_encode
from .inputs import as_codes, as_rows, check_same, dense_block, from_tensor, row_blocks
from .restricted import minimise_on_supports


class AmortisationGap(NamedTuple):
    """Objective above its minimum, row by row, on the scale of the squared rows.

    Attributes
    ----------
    excess : ndarray of shape (n_samples,)
        Objective of the codes minus the lowest that was found: the gap is at least this.
        Never negative.
    bound : ndarray of shape (n_samples,)
        Objective of the codes minus a lower bound from the dual: the gap is at most this.
    objective : ndarray of shape (n_samples,)
        Objective of the codes.
    support : ndarray of shape (n_samples,)
        The part of ``excess`` that stays if the codes are made as good as they can be
        without new latents: what the wrong choice of latents costs. Never negative.
    magnitude : ndarray of shape (n_samples,)
        The part of ``excess`` that this would repair: what wrong values of the chosen
        latents cost. Never negative; ``support + magnitude`` is ``excess`` to rounding.
    split_gap : ndarray of shape (n_samples,)
        Duality gap of the best codes on the support: ``magnitude`` is at most this much
        larger than it says.

    See Also
    --------
    amortisation_gap : Makes it.
    sparsecode_estimators.plotting.GapDisplay : Draws it.

    Examples
    --------
    >>> import numpy as np
    >>> from sparsecode_estimators.metrics import amortisation_gap
    >>> X, codes = np.array([[2.0, 0.0]]), np.array([[0.5, 0.0]])
    >>> gap = amortisation_gap(None, X, codes=codes, dictionary=np.eye(2), alpha=1.0)
    >>> gap.objective.tolist(), gap.excess.tolist()
    ([1.625], [0.125])
    """

    excess: np.ndarray
    bound: np.ndarray
    objective: np.ndarray
    support: np.ndarray
    magnitude: np.ndarray
    split_gap: np.ndarray


def amortisation_gap(
    estimator: Any,
    X: Any,
    *,
    codes: Any = None,
    dictionary: Any = None,
    alpha: float | None = None,
    positive_code: bool | None = None,
) -> AmortisationGap:
    r"""Objective of an encoder's codes above the certified optimum, for its own dictionary.

    With :math:`P(s) = \tfrac12\|x - b - sD\|^2 + \alpha\|s\|_1` it is
    :math:`P(s_{\text{encoder}}) - \min_s P(s)`, which is zero only if the encoder
    solves the problem that it was trained on. It is the sum of two errors,

    .. math::
        \underbrace{P(s_{\text{encoder}}) - \min_{\operatorname{supp} s \subseteq
        \operatorname{supp} s_{\text{encoder}}} P(s)}_{\text{magnitude}} +
        \underbrace{\min_{\operatorname{supp} s \subseteq \operatorname{supp}
        s_{\text{encoder}}} P(s) - \min_s P(s)}_{\text{support}},

    of the values of the latents that it chose, and of the choice. (A latent that fires but
    should not is no error of the support: the best value for it is zero.) Both minima come
    with a certificate from the dual problem.

    Parameters
    ----------
    estimator : fitted encoder, Pipeline that ends in one, or None
        Needs ``components_``, and ``transform`` unless `codes` are given; ``intercept_`` (else
        scikit-learn's ``mean_``), ``positive_code`` and ``alpha_`` are used if it has them. None:
        codes, dictionary and alpha are given, and the offset b is zero (take yours off X).
    X : array-like of shape (n_samples, n_features)
        What the estimator's ``transform`` takes.
    codes : array-like, CSR, DataFrame or tensor of shape (n_samples, n_components), default=None
        Codes of X to be judged. None: what the estimator makes of X.
    dictionary : array-like of shape (n_components, n_features), default=None
        Atoms that the codes are for. None: the encoder's ``components_``.
    alpha : float >= 0 or None, default=None
        None: the encoder's ``alpha_``. (A "topk" encoder has one too, but was not trained
        with it: choose the alpha whose optimum is as sparse as its codes.)
    positive_code : bool or None, default=None
        Whether only codes that are not negative compete. None: the encoder's rule; True if
        it has none.

    Returns
    -------
    AmortisationGap
        ``(excess, bound, objective, support, magnitude, split_gap)``, each of shape
        (n_samples,).

    Raises
    ------
    ValueError
        If codes, dictionary or alpha are neither given nor known from the estimator, do not
        fit together, or codes are negative that must not be.

    See Also
    --------
    sparsecode_estimators.plotting.GapDisplay : Gaps of several encoders as curves.
    support_scores : Which codes are wrong, where the truth is known.

    References
    ----------
    O'Neill, Gumran & Klindt (2025), arXiv 2411.13117, section 3, for the gap.

    Examples
    --------
    >>> import numpy as np
    >>> from sparsecode_estimators import SAEEncoder
    >>> from sparsecode_estimators.datasets import make_sparse_codes
    >>> from sparsecode_estimators.metrics import amortisation_gap
    >>> data = make_sparse_codes(500, 8, 16, 3, random_state=0)
    >>> sae = SAEEncoder(16, max_iter=20, random_state=0).fit(data.X)
    >>> gap = amortisation_gap(sae, data.X)
    >>> bool((gap.bound >= gap.excess).all())
    True
    >>> bool(np.allclose(gap.support + gap.magnitude, gap.excess))
    True

    Codes from elsewhere. The first has the wrong latent, the second the right one at half
    its value:

    >>> X, codes = np.array([[0.0, 2.0], [2.0, 0.0]]), np.array([[0.0, 0.0], [0.5, 0.0]])
    >>> gap = amortisation_gap(None, X, codes=codes, dictionary=np.eye(2), alpha=1.0)
    >>> print(gap.support, gap.magnitude)
    [0.5 0. ] [0.    0.125]
    """
    if estimator is not None:
        check_is_fitted(estimator)
    encoder, X = _last_step(estimator, X)
    if dictionary is None and getattr(encoder, "objective", None) == "targets":
        raise ValueError(
            "estimator has objective='targets': its dictionary is one of y and not of X. Pass y as "
            "X, with codes, dictionary and alpha, and estimator=None."
        )
    problem = _problem(encoder, dictionary, alpha, positive_code)
    if codes is None:
        codes = _transform(encoder, X)
    codes, rows = as_codes(codes, "codes"), as_rows(X, "X")
    _check_shapes(codes, rows, problem)
    parts = [
        _gap(
            dense_block(rows, block, "X") - problem.offset,
            dense_block(codes, block, "codes"),
            problem,
        )
        for block in row_blocks(rows.shape[0], max(problem.D.shape))
    ]
    return AmortisationGap(*(np.concatenate(part) for part in zip(*parts, strict=True)))


class _Problem(NamedTuple):
    """What codes are judged by: ``½‖x − b − sD‖² + α‖s‖₁``, and their sign."""

    D: np.ndarray
    offset: np.ndarray
    alpha: float
    positive: bool

    def objective(self, X: np.ndarray, codes: np.ndarray) -> np.ndarray:
        return 0.5 * ((X - codes @ self.D) ** 2).sum(axis=1) + self.alpha * np.abs(codes).sum(1)


def _gap(X: np.ndarray, codes: np.ndarray, problem: _Problem) -> AmortisationGap:
    """Of some rows, the offset taken off."""
    if problem.positive and (codes < 0).any():
        raise ValueError(
            "codes has negative entries, but positive_code=True: give positive_code=False if "
            "negative codes are allowed."
        )
    D, alpha, positive = problem.D, problem.alpha, problem.positive
    # an atom of zeros, as a latent may have that was never trained, has no code in any optimum
    used, best = D.any(axis=1), np.zeros((len(X), len(D)))
    best[:, used], info = sparse_encode(
        X, D[used], alpha=alpha, positive_code=positive, return_info=True
    )
    allowed = codes != 0
    refined, split_gap = minimise_on_supports(
        X, D, allowed, np.where(allowed, best, 0), alpha, positive=positive
    )
    given, on_support, solved = (problem.objective(X, s) for s in (codes, refined, best))
    # a code of the smaller set competes in the larger: each is as good as what it contains
    on_support = np.minimum(on_support, given)
    lowest = np.minimum(solved, on_support)
    excess = given - lowest
    bound = np.maximum(given - solved + info.dual_gap, excess)
    return AmortisationGap(excess, bound, given, on_support - lowest, given - on_support, split_gap)


def _last_step(estimator: Any, X: Any) -> tuple[Any, Any]:
    """The encoder at the end of a pipeline, and what arrives there of X."""
    while isinstance(estimator, (Pipeline, FrozenEstimator)):
        if isinstance(estimator, FrozenEstimator):
            estimator = estimator.estimator
        else:
            X = estimator[:-1].transform(X) if len(estimator) > 1 else X
            estimator = estimator[-1]
    return estimator, X


def _problem(encoder: Any, dictionary: Any, alpha: Any, positive: bool | None) -> _Problem:
    """What is given, else what the encoder has."""
    name = type(encoder).__name__
    components = getattr(encoder, "components_", None) if dictionary is None else dictionary
    if components is None:
        raise ValueError(
            "estimator=None and dictionary=None: give a fitted encoder, or codes, dictionary "
            "and alpha."
            if encoder is None
            else f"estimator={name} has no components_: give the dictionary that its codes are for."
        )
    D = check_array(from_tensor(components), dtype=np.float64, input_name="dictionary")
    offset = getattr(encoder, "intercept_", getattr(encoder, "mean_", None))
    offset = np.zeros(D.shape[1]) if offset is None else np.asarray(offset, dtype=np.float64)
    alpha = getattr(encoder, "alpha_", None) if alpha is None else alpha
    if alpha is None:
        raise ValueError(
            f"alpha=None, and estimator={None if encoder is None else name} has no alpha_: give "
            "the alpha of the objective to compare by."
        )
    if not (isinstance(alpha, Real) and 0 <= float(alpha) < np.inf):
        raise ValueError(f"alpha={alpha!r} must be a finite number that is not negative.")
    if positive is None:
        # a refiner's own parameter may say "as the encoder"; what it fitted says which
        positive = getattr(encoder, "positive_code_", getattr(encoder, "positive_code", True))
    return _Problem(D, offset, float(alpha), bool(positive))


def _transform(encoder: Any, X: Any) -> Any:
    if encoder is None:
        raise ValueError("estimator=None and codes=None: give the codes to be judged.")
    return encoder.transform(X)


def _check_shapes(codes: Any, rows: Any, problem: _Problem) -> None:
    check_same(codes, rows, ("codes", "X"), axis=0, remedy="give the codes of these samples.")
    names = ("X", "dictionary")
    check_same(rows, problem.D, names, axis=1, remedy="give both in the same space.")
    if codes.shape[1] != len(problem.D):
        raise ValueError(
            f"codes has {codes.shape[1]} columns and dictionary has {len(problem.D)} rows; give "
            "one column for each atom."
        )
    if len(problem.offset) != problem.D.shape[1]:
        raise ValueError(
            f"dictionary has {problem.D.shape[1]} columns and the estimator's intercept_ has "
            f"{len(problem.offset)} entries; give a dictionary for the encoder's space."
        )
