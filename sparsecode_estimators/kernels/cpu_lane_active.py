"""What the lasso over rows side by side holds: the problem, and the state of sixteen rows."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .cpu_lane_state import DEPTH, lanes, vectors
from .shared import FEW

BEYOND = 1e38  # penalty of atoms that there are not, and violation that none exceeds


class Penalised(NamedTuple):
    """The problem, as tables over atoms padded to ``FEW``.

    Attributes
    ----------
    atoms, gram, lengths
        As in :class:`~.cpu_lane_state.Lanes`.
    penalty : array of shape (FEW,)
        p.
    wide : float64 array of shape (n_features, FEW)
        ``Dᵀ``.
    rate : float64 array of shape (FEW,)
        ``1/p``, zeros as padding.
    bits : array of shape (FEW,)
        Numbers of the atoms, as bits of integers.
    """

    atoms: np.ndarray
    gram: np.ndarray
    lengths: np.ndarray
    penalty: np.ndarray
    wide: np.ndarray
    rate: np.ndarray
    bits: np.ndarray


class Active(NamedTuple):
    r"""State of ``WIDTH`` rows, in flat arrays of vectors that hold one number of each row.

    An atom that becomes active in step t takes slot t. Where a row has no newcomer, or after its
    atom was dropped, a slot is empty: its code and sign, and its row and column of the inverse,
    are zeros.

    Attributes
    ----------
    x : n_features vectors
    rest : float64, n_features vectors
        Residuals.
    products : FEW vectors
        Of all atoms with the row.
    column : DEPTH·FEW vectors
        Products of all atoms with the active ones.
    inverse : DEPTH·DEPTH vectors
        Of the active atoms' Gram matrix; its lower half.
    atom, code, sign : DEPTH vectors
        Of the slots.
    numbers : n_features·DEPTH vectors
        Of the slots' atoms.
    near, mix : DEPTH vectors
        Scratch: products of an atom with the active ones, and their mix that comes nearest to it.
    exact : float64, DEPTH vectors
        Codes that are not rounded.
    wide : float64, FEW vectors
        Products of all atoms with the residual.
    size, limit, lost : one vector
        Atoms added; what a violation must exceed to count; one where a newcomer was nearly
        spanned by the active atoms.
    """

    x: np.ndarray
    rest: np.ndarray
    products: np.ndarray
    column: np.ndarray
    inverse: np.ndarray
    atom: np.ndarray
    code: np.ndarray
    sign: np.ndarray
    numbers: np.ndarray
    near: np.ndarray
    mix: np.ndarray
    exact: np.ndarray
    wide: np.ndarray
    size: np.ndarray
    limit: np.ndarray
    lost: np.ndarray


def penalised(D: np.ndarray, penalty: np.ndarray) -> Penalised:
    """Pad a problem."""
    n_components, known = len(D), lanes(D)
    prices, rate = np.full(FEW, BEYOND, D.dtype), np.zeros(FEW)
    prices[:n_components] = penalty
    rate[:n_components] = 1 / penalty.astype(np.float64)
    bits = np.arange(FEW, dtype=np.int32).view(D.dtype)
    return Penalised(*known, prices, known.atoms.astype(np.float64), rate, bits)


def active(problem: Penalised) -> Active:
    """Room for some rows of a problem."""
    n_features = len(problem.atoms)
    sizes = {"x": n_features, "products": FEW, "column": DEPTH * FEW}
    sizes |= {"inverse": DEPTH * DEPTH, "numbers": n_features * DEPTH}
    sizes |= dict.fromkeys(("atom", "code", "sign", "near", "mix"), DEPTH)
    sizes |= dict.fromkeys(("size", "limit", "lost"), 1)
    wide = {"rest": n_features, "exact": DEPTH, "wide": FEW}
    narrow = vectors(sizes, problem.gram.dtype)
    return Active(**narrow, **vectors(wide, np.dtype(np.float64)))
