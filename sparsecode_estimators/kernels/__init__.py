"""The hot loops: one meaning each, several makes, and no caller that asks which.

``reference`` is the definition, in torch, for any device. ``cpu`` holds compiled loops
for the CPU (numba), ``cuda`` kernels for CUDA devices (Triton); where they cannot be used
the reference serves, slower.
"""

from __future__ import annotations

from functools import partial
from types import ModuleType

import torch
from torch import Tensor

from . import reference, reference_replacement, reference_stages, rounded
from .cpu_probe import compiled_loops
from .cuda_probe import fused
from .reference import Answer, soft_threshold
from .shared import FEW

__all__ = [
    "Answer",
    "accelerated",
    "gram_pays",
    "proximal_step",
    "pursuit",
    "replacement",
    "rounded_gram",
    "rounded_gram_serves",
    "soft_threshold",
    "stages",
    "working_set",
]

LARGEST_GRAM = 2**14  # atoms beyond which the Gram matrix takes too much memory
LARGEST_LASSO_GRAM = 2**12  # and is not worth its price for the lasso
ROUNDING = 1e-14  # of an energy of 1 in double precision, after some operations
MEDIUM_GRAM = 2**11  # atoms up to which it is made for stages and exchanges
SMALL_GRAM = 2**10  # atoms up to which it is made even for one row of k-sparse codes
LASSO_ROW = 1_750_000  # multiply-adds of making it, in the time that it saves a row of the lasso
STAGE_SHARE = 0.6  # of the largest product with the residual, from which on atoms enter together
STAGE_DEPTH = 0.2  # of the largest one at a look, down to which stages go on without another look

_compiled = partial(compiled_loops, "cpu")


def _make(D: Tensor) -> ModuleType:
    """What solves for codes of these atoms fastest."""
    made = None
    if D.device.type == "cpu":
        made = _compiled()
    elif D.device.type == "cuda" and len(D) <= FEW:
        made = fused("cuda", D.device)
    return made or reference


def accelerated(D: Tensor) -> bool:
    """Whether loops or kernels made for the device solve for codes of these atoms."""
    return _make(D) is not reference


def working_set(
    X: Tensor,
    D: Tensor,
    gram: Tensor | None,
    penalty: Tensor,
    *,
    ridge: float,
    positive: bool,
    start: Tensor | None,
    max_steps: int,
) -> Answer:
    r"""Minimise :math:`\tfrac12\|x-sD\|^2 + \sum_j p_j|s_j| + \tfrac{\rho}{2}\|s\|^2` exactly.

    Parameters
    ----------
    X : Tensor of shape (n, n_features)
    D : Tensor of shape (n_components, n_features)
    gram : Tensor of shape (n_components, n_components) or None
        ``DDᵀ``, without the ridge. None: where it would be too big to be worth it.
    penalty : Tensor of shape (n_components,)
        p, at least zero.
    ridge : float
        ρ, at least zero.
    positive : bool
    start : Tensor of shape (n, n_components) or None
        Its largest entries say which atoms are looked at first.
    max_steps : int
        Most atoms that may be added to a row.

    Returns
    -------
    Answer
    """
    if ridge and gram is not None:
        gram = gram.clone()
        gram.diagonal().add_(ridge)
    return _make(D).working_set(
        X, D, gram, penalty, ridge=ridge, positive=positive, start=start, max_steps=max_steps
    )


def proximal_step(
    z: Tensor,
    gradient: Tensor,
    codes: Tensor,
    t: Tensor,
    threshold: Tensor,
    *,
    step: Tensor,
    positive: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """One accelerated proximal step of each row, once its gradient is known.

    A row whose step goes against its last movement loses its momentum (O'Donoghue &
    Candès 2015).

    Parameters
    ----------
    z : Tensor of shape (n, n_components)
        Where the step starts.
    gradient : Tensor of shape (n, n_components)
        Of the smooth part, at z.
    codes : Tensor of shape (n, n_components)
        Where the last step ended.
    t : Tensor of shape (n, 1)
        What the momentum follows from.
    threshold : Tensor of shape (n_components,)
        Step times penalty.
    step : Tensor of shape ()
        Length of the step.
    positive : bool

    Returns
    -------
    codes, z, t : tuple of Tensors
        Where the step ends, where the next one starts, and its t.
    """
    make = fused("cuda", codes.device) if codes.device.type == "cuda" else None
    return (make or reference).proximal_step(
        z, gradient, codes, t, threshold, step=step, positive=positive
    )


def gram_pays(n: int, n_components: int, n_features: int, *, k: int = 1, rule: str) -> bool:
    """Whether solving is faster with a Gram matrix, its making included.

    Without one :func:`pursuit` multiplies the dictionary with a vector for each atom that a row
    adds, and for "ols" with each atom it has. Measured: each costs as much as some thirty rows of
    the Gram matrix. :func:`working_set` multiplies with many residuals at once: a Gram matrix saves
    each row as much time as ``LASSO_ROW`` multiply-adds of its making take. :func:`stages` and
    :func:`replacement` do, too, but what they find depends on rounding where atoms are nearly as
    good as each other: whether there is a Gram matrix must not depend on how many rows come along.

    Parameters
    ----------
    n, n_components, n_features, k : int
        Rows, atoms, features, and most atoms of a row.
    rule : {"lasso", "omp", "ols", "stages"}
    """
    if rule == "lasso":
        cheap = n_components <= FEW or n_components**2 * n_features <= LASSO_ROW * n
        return n_components <= LARGEST_LASSO_GRAM and cheap
    if rule == "stages":
        return n_components <= MEDIUM_GRAM
    if n_components <= SMALL_GRAM:
        return True
    worth = {"omp": 32 * n * k, "ols": 16 * n * k * (k + 1)}
    return n_components <= LARGEST_GRAM and worth[rule] >= n_components


def rounded_gram_serves(D: Tensor) -> bool:
    """Whether :func:`pursuit` is faster with a Gram matrix in bfloat16, its making included.

    Choosing atoms by it and computing the best few exactly takes a little longer than sums of
    exact numbers; the matrix is made several times as fast.
    """
    compiled = D.device.type == "cpu" and D.dtype == torch.float32 and accelerated(D)
    return compiled and len(D) > SMALL_GRAM and rounded.is_faster(D.device)


def rounded_gram(D: Tensor) -> Tensor:
    """``DDᵀ`` in bfloat16 for :func:`pursuit`, with columns of zeros up to a multiple of 64."""
    return rounded.gram(D)


def pursuit(
    X: Tensor,
    D: Tensor,
    gram: Tensor | None,
    *,
    k: int,
    positive: bool,
    rule: str,
    start: Tensor | None,
    max_steps: int,
) -> Answer:
    r"""Lower :math:`\tfrac12\|x-sD\|^2` by one atom after the other, refitting all codes.

    A row ends with ``k`` atoms, or when no atom lowers its residual by more than rounding.
    For positive codes only atoms count whose product with the residual is positive, refits
    are non-negative least squares, and atoms that a refit drops make room for others.

    Parameters
    ----------
    X : Tensor of shape (n, n_features)
    D : Tensor of shape (n_components, n_features)
    gram : Tensor of shape (n_components, n_components) or None
        ``DDᵀ``, or :func:`rounded_gram`; without it no compiled loops serve.
    k : int
        Most atoms of a row, at most ``n_components`` and ``n_features``.
    positive : bool
    rule : {"omp", "ols"}
        Which atom is best: the one with the largest product with the residual, or the one
        whose refit would leave the smallest residual, its code being free to turn the
        others negative.
    start : Tensor of shape (n, n_components) or None
        The ``k`` largest entries of a row (for positive codes only positive ones) are its
        first support.
    max_steps : int
        Most atoms that may be added to a row.

    Returns
    -------
    Answer
    """
    served = gram is not None and (X.device.type == "cpu" or start is None)
    return (_make(D) if served else reference).pursuit(
        X, D, gram, k=k, positive=positive, rule=rule, start=start, max_steps=max_steps
    )


def replacement(
    X: Tensor,
    D: Tensor,
    gram: Tensor | None,
    *,
    k: int,
    positive: bool,
    start: Tensor,
    max_steps: int,
    tol: float,
) -> Answer:
    r"""Lower :math:`\tfrac12\|x-sD\|^2` by exchanges of atoms, as long as they help.

    An exchange adds the atom whose product with the residual is largest, refits, drops the
    smallest code if there are more than ``k``, and refits. For positive codes only positive
    products count, and a refit drops what would turn negative.

    Parameters
    ----------
    X : Tensor of shape (n, n_features)
    D : Tensor of shape (n_components, n_features)
    gram : Tensor of shape (n_components, n_components) or None
        ``DDᵀ``, or :func:`rounded_gram`; without it compiled loops wait for products of all
        atoms with many residuals.
    k : int
        Most atoms of a row, at most ``n_components`` and ``n_features``.
    positive : bool
    start : Tensor of shape (n, n_components)
        The ``k`` largest entries of a row are its first support, its values where refits
        begin.
    max_steps : int
        Most exchanges of a row.
    tol : float
        Share of ``½‖x‖²`` by which an exchange has to lower the residual to be made, at least
        ``1e-14``, which is rounding.

    Returns
    -------
    Answer
        ``n_iter`` counts the exchanges that were made: a row with fewer than ``max_steps`` has
        reached its end.
    """
    served = D.device.type == "cpu" and accelerated(D)
    make = _make(D) if served else reference_replacement
    tol = max(tol, ROUNDING)
    return make.replacement(
        X, D, gram, k=k, positive=positive, start=start, max_steps=max_steps, tol=tol
    )


def stages(
    X: Tensor,
    D: Tensor,
    gram: Tensor | None,
    *,
    k: int,
    positive: bool,
    share: float = STAGE_SHARE,
    depth: float = STAGE_DEPTH,
    max_steps: int,
    tol: float,
) -> Answer:
    r"""Lower :math:`\tfrac12\|x-sD\|^2` by several atoms at once, then by exchanges.

    At a look at all atoms, the best of each 64 classes (of atoms whose numbers differ by a multiple
    of 64) is a candidate. A stage takes the candidates whose products with the residual are at
    least ``share`` times the largest one, as many as there is room for, the largest first, and
    refits; for positive codes only positive products count, and a refit drops what would turn
    negative. The next stage is among the same candidates, until none has ``depth`` times the
    largest product at the look; then there is another look. With ``k`` atoms, or when none is
    useful, exchanges follow as in :func:`replacement`.

    Parameters
    ----------
    X, D, gram, k, positive, tol
        As for :func:`replacement`.
    share, depth : float in (0, 1]
    max_steps : int
        Most stages of a row, and most exchanges after them.

    Returns
    -------
    Answer
        ``n_iter`` counts stages and exchanges.
    """
    served = D.device.type == "cpu" and accelerated(D)
    make = _make(D) if served else reference_stages
    tol = max(tol, ROUNDING)
    return make.stages(
        X, D, gram, k=k, positive=positive, share=share, depth=depth, max_steps=max_steps, tol=tol
    )
