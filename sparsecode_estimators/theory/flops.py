"""Floating point operations of training and inference, by two ways of counting."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from ..estimators.base import BaseSparseCoder, thawed
from ..estimators.coding import EncodeInfo, info_of
from ..estimators.ito import ITORefiner
from ..estimators.learned import DictionaryLearner
from ..estimators.trained import BaseSparseEncoder
from .paper_flops import PAPER, Shape
from .training_flops import encoder_products, training

_PHASES, _CONVENTIONS = ("inference", "training"), ("exact", "paper")


def count_flops(
    estimator: Any,
    samples: Any,
    *,
    phase: str = "inference",
    convention: str = "exact",
    n_features: int | None = None,
) -> int:
    r"""Floating point operations of an estimator, one multiply-add being two.

    **"exact"** counts what runs, of everything whose work grows with
    ``n_components × n_features``: products with matrices, small systems of solvers, updates of
    parameters. What is linear in their sum, biases and activations, is left out, for encoders
    as for solvers, and so is what a fit does once before its first step.

    - Inference is from rows to codes; decoding is no part of it. Encoders cost
      :math:`2\sum n_{in} n_{out}` a row over their layers, an unrolled one of T steps
      :math:`(4T-2)MN`. Solvers cost what they have counted on the rows that are given, with the
      iterations that each row took; ITO adds the encoder that it starts from.
    - Training of an encoder is its products in each epoch that ran, with sparse products where
      training uses them (by the mean number of active latents of the epoch), the auxiliary
      loss of dead latents (by their number at its end), and for each step 12 operations a
      parameter of Adam (8 of sign descent) and the scaling of the atoms. The start, also that
      of dead latents, is left out. Dictionary learning has counted itself while it ran.

    **"paper"** are the formulas of O'Neill et al., to the digit, with N = n_components,
    M = n_features, B samples, T iterations, h hidden units and ℓ = 1 if the iterations learn
    the dictionary, which they do neither from known codes nor when it is given:

    .. math::
       &\text{SAE} && B(4MN+N), && BT\,[10MN+5N+3\ell MN] \\
       &\text{MLP} && B(2Mh+h+2hN+N+2MN), && BT\,[6Mh+6hN+4MN+5h+5N+3\ell MN] \\
       &\text{sparse coding, ITO} && B\,[MN+N+T(4MN+2M+11N)] \\
       &\text{sparse coding} && && BT\,[3F+(2M+N)B+NB+\ell MN], \quad F=2MN+N+3\ell MN

    for inference (left) and training (right). Training of sparse coding has the batch in it
    twice, inference the decoder, and a step its price for every sample: for comparisons with
    their numbers only. They give no formula for inference by sparse coding with a known
    dictionary; it is that of ITO, the same computation.

    Parameters
    ----------
    estimator : estimator of this package
        Fitted, unless only its sizes are needed (``convention="paper"``, or inference of an
        encoder): then `n_features` may be. A frozen one is taken for what is in it.
    samples : int >= 1 or array-like of shape (n_samples, n_features)
        How many rows, of training those of one epoch; or the rows themselves. Solvers need
        the rows for "exact", as their iterations depend on them; for "paper" T is then the
        number of iterations that they take, and else the most that they may take.
    phase : {"inference", "training"}, default="inference"
    convention : {"exact", "paper"}, default="exact"
    n_features : int >= 1 or None, default=None
        None: what the estimator was fitted with.

    Returns
    -------
    int

    Raises
    ------
    ValueError
        For an unknown phase or convention, or an estimator that is not of this package; if rows
        or n_features are missing; if the paper has no formula (unrolled encoders, more than one
        hidden layer, ``objective="targets"``).
    sklearn.exceptions.NotFittedError
        If what is to be counted is known only after ``fit``.

    See Also
    --------
    sparsecode_estimators.plotting.FrontierDisplay : Quality against operations.

    References
    ----------
    O'Neill, Gumran & Klindt (2025), arXiv 2411.13117, appendix, for the formulas.

    Examples
    --------
    >>> import numpy as np
    >>> from sparsecode_estimators import ITORefiner, SAEEncoder
    >>> from sparsecode_estimators.theory import count_flops
    >>> count_flops(SAEEncoder(16), 1024, n_features=8), 1024 * 2 * 16 * 8
    (262144, 262144)
    >>> ito = ITORefiner(dictionary=np.eye(16, 8) + 1, max_iter=10_000, tol=None)
    >>> count_flops(ito, 1024, convention="paper")
    7209107456
    """
    if phase not in _PHASES or convention not in _CONVENTIONS:
        raise ValueError(
            f"phase={phase!r} and convention={convention!r}: choose one of {_PHASES} and one of "
            f"{_CONVENTIONS}."
        )
    estimator = thawed(estimator)
    if not isinstance(estimator, BaseSparseCoder):
        raise ValueError(
            f"estimator={type(estimator).__name__} is not an estimator of this package, whose "
            "operations are known: of a pipeline give the last step."
        )
    if n_features is not None and n_features < 1:
        raise ValueError(f"n_features={n_features!r} must be at least 1.")
    n, X = _rows(samples)
    if convention == "paper":
        return _paper(estimator, n, X, phase, n_features)
    if phase == "training":
        return _training(estimator, n)
    return _inference(estimator, n, X, n_features)


def _rows(samples: Any) -> tuple[int, Any]:
    """How many rows, and the rows if they are there."""
    if not isinstance(samples, Integral) or isinstance(samples, bool):
        shape = np.shape(samples)
        if len(shape) != 2:
            raise ValueError(
                f"samples must be a number of rows, or rows of shape (n_samples, n_features), got "
                f"shape {shape}."
            )
        return int(shape[0]), samples
    if samples < 1:
        raise ValueError(f"samples={samples!r} must be at least 1.")
    return int(samples), None


def _shape(estimator: Any, n_features: int | None) -> Shape:
    """Atoms and their length: as fitted, as given, or as they would be."""
    if hasattr(estimator, "components_"):
        return Shape(*estimator.components_.shape)
    known = estimator.dictionary
    if known is not None and not callable(known):
        return Shape(*np.shape(known))
    if n_features is None:
        raise ValueError(
            f"{type(estimator).__name__} is not fitted and n_features=None: fit it, or say how "
            "many features rows have."
        )
    inner = estimator.estimator if isinstance(estimator, ITORefiner) else estimator
    return Shape(inner.n_components or 8 * n_features, n_features)


def _inference(estimator: Any, n: int, X: Any, n_features: int | None) -> int:
    if isinstance(estimator, BaseSparseEncoder):
        N, M = _shape(estimator, n_features)
        # rows of a transcoder are not as wide as its atoms
        return n * encoder_products(
            estimator, N, getattr(estimator, "n_features_in_", n_features or M)
        )
    info, before = _solved(estimator, X)
    return info.flops + before


def _solved(estimator: Any, X: Any) -> tuple[EncodeInfo, int]:
    """What the solver says of its codes for X, and what the encoder before it costs."""
    check_is_fitted(estimator)
    if X is None:
        raise ValueError(
            f"{type(estimator).__name__} solves for codes, and how many operations that takes "
            "depends on the rows: give the rows as samples, not their number."
        )
    inner = _before(estimator)
    if inner is not None and not isinstance(inner, BaseSparseCoder):
        raise ValueError(
            f"estimator={type(inner).__name__}, from whose codes ITORefiner starts, is not of this "
            "package, and its operations are not known: set init='zeros', or count it yourself."
        )
    return info_of(estimator, X), 0 if inner is None else count_flops(inner, X)


def _before(estimator: Any) -> Any:
    """The encoder whose codes a solver starts from, or None."""
    starts = isinstance(estimator, ITORefiner) and estimator.init == "encoder"
    return estimator._inner() if starts else None


def _most_iterations(estimator: Any) -> int:
    """Of a solver, for a row."""
    refines = isinstance(estimator, ITORefiner)
    return estimator.max_iter if refines else estimator.transform_max_iter


def _training(estimator: Any, n: int) -> int:
    check_is_fitted(estimator)
    if isinstance(estimator, ITORefiner):
        inner = estimator._inner()
        return 0 if inner is None else count_flops(inner, n, phase="training")
    if isinstance(estimator, DictionaryLearner):
        return estimator._flops
    return training(estimator, n)


def _paper(estimator: Any, n: int, X: Any, phase: str, n_features: int | None) -> int:
    if phase == "training" and isinstance(estimator, ITORefiner):
        inner = thawed(getattr(estimator, "estimator_", estimator.estimator))
        return 0 if inner is None else _paper(inner, n, X, phase, n_features)
    shape = _shape(estimator, n_features)
    kind = "solver"
    if phase == "training" or isinstance(estimator, BaseSparseEncoder):
        kind = type(estimator).__name__
    formula = PAPER.get((kind, phase))
    if formula is None or getattr(estimator, "objective", None) == "targets":
        kind += "" if formula is None else " with objective='targets'"
        raise ValueError(
            f"estimator={kind}: the paper has no formula for it, choose convention='exact'."
        )
    if phase == "training":
        return formula(estimator, shape, n, getattr(estimator, "n_iter_", estimator.max_iter))
    iterations = 0
    if kind == "solver" and X is None:
        iterations = n * _most_iterations(estimator)
    elif kind == "solver":
        iterations = int(_solved(estimator, X)[0].n_iter.sum())
    return formula(estimator, shape, n, iterations)
