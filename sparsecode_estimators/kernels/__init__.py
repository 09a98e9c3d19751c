"""The hot loops: one meaning each, several makes, and no caller that asks which.

``reference`` is the definition, in torch, for any device. ``cpu`` holds compiled loops
for the CPU (numba); where they cannot be used the reference serves, slower.
"""

from __future__ import annotations

from functools import cache
from types import ModuleType

from torch import Tensor

from . import reference
from .reference import Answer

__all__ = ["Answer", "accelerated", "gram_pays", "pursuit", "working_set"]

LARGEST_GRAM = 2**14  # atoms beyond which the Gram matrix takes too much memory
SMALL_GRAM = 2**10  # atoms up to which it is made even for one row


@cache
def _compiled() -> ModuleType | None:
    """The compiled loops, if numba can be used; it is imported here, not with the package."""
    try:
        from . import cpu
    except ImportError:  # not there, or not for this version of NumPy
        return None
    return cpu


def accelerated(X: Tensor) -> bool:
    """Whether compiled loops serve rows like these."""
    return X.device.type == "cpu" and _compiled() is not None


def working_set(
    X: Tensor,
    D: Tensor,
    gram: Tensor,
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
    gram : Tensor of shape (n_components, n_components)
        ``DDᵀ``, without the ridge.
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
    if ridge:
        gram = gram.clone()
        gram.diagonal().add_(ridge)
    make = (_compiled() if X.device.type == "cpu" else None) or reference
    return make.working_set(
        X, D, gram, penalty, ridge=ridge, positive=positive, start=start, max_steps=max_steps
    )


def gram_pays(n: int, n_components: int, *, k: int, rule: str) -> bool:
    """Whether :func:`pursuit` is faster with a Gram matrix, its making included.

    The definition multiplies the dictionary with a vector for each atom that a row adds, and
    for "ols" with each atom it has. Measured: each costs as much as some thirty rows of
    the Gram matrix.

    Parameters
    ----------
    n, n_components, k : int
        Rows, atoms, and most atoms of a row.
    rule : {"omp", "ols"}
    """
    if n_components <= SMALL_GRAM:
        return True
    products = n * k * (k + 1) // 2 if rule == "ols" else n * k
    return n_components <= LARGEST_GRAM and 32 * products >= n_components


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
        ``DDᵀ``; without it no compiled loops serve.
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
    compiled = _compiled() if X.device.type == "cpu" and gram is not None else None
    return (compiled or reference).pursuit(
        X, D, gram, k=k, positive=positive, rule=rule, start=start, max_steps=max_steps
    )
