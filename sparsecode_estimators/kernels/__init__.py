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

__all__ = ["Answer", "accelerated", "working_set"]


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
    make = (_compiled() if X.device.type == "cpu" else None) or reference
    return make.working_set(
        X, D, gram, penalty, ridge=ridge, positive=positive, start=start, max_steps=max_steps
    )
