"""What the loops over rows side by side hold: the problem, and the state of sixteen rows."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .cpu_room import space
from .cpu_vectors import WIDTH
from .shared import FEW

DEPTH = 16  # most chosen atoms
SOME = 32  # features whose numbers are looked up at a time


class Lanes(NamedTuple):
    """The problem, as tables over atoms padded to ``FEW``.

    Attributes
    ----------
    atoms : array of shape (n_features, FEW)
        ``Dᵀ``.
    gram : array of shape (FEW, FEW)
        ``DDᵀ``.
    lengths : array of shape (FEW,)
        Its diagonal.
    """

    atoms: np.ndarray
    gram: np.ndarray
    lengths: np.ndarray


class Abreast(NamedTuple):
    r"""State of ``WIDTH`` rows, in flat arrays of vectors that hold one number of each row.

    Gram–Schmidt as in :class:`~.cpu_few_state.Block`.

    Attributes
    ----------
    x : n_features vectors
        The rows, scaled by a power of two.
    slope : FEW vectors
        Products of all atoms with the residual.
    left : 2·FEW vectors
        Squared lengths of what the chosen atoms do not span of all atoms; ones.
    basis : DEPTH·FEW vectors
    mix : DEPTH·DEPTH vectors
    atom, code, share, error : DEPTH vectors
        Chosen atoms, and their codes. Scratch: products of a newcomer with the basis; products
        of the chosen atoms with the residual.
    number, rest : DEPTH·SOME and SOME vectors
        Scratch: some numbers of the chosen atoms, and of the residual.
    scale, size, close, floor : one vector
        Power of two that a row was divided by; how many atoms are chosen; whether one of
        them was nearly spanned by those before it; squared slope of an atom of length 1 that
        is rounding.
    energy : float64, one vector
        Squared length of the residual.
    """

    x: np.ndarray
    slope: np.ndarray
    left: np.ndarray
    basis: np.ndarray
    mix: np.ndarray
    atom: np.ndarray
    code: np.ndarray
    share: np.ndarray
    error: np.ndarray
    number: np.ndarray
    rest: np.ndarray
    scale: np.ndarray
    size: np.ndarray
    close: np.ndarray
    floor: np.ndarray
    energy: np.ndarray


def vectors(counts: dict[str, int], dtype: np.dtype) -> dict[str, np.ndarray]:
    """Room for so many vectors each."""
    return {name: space(count * WIDTH, dtype) for name, count in counts.items()}


def lanes(D: np.ndarray) -> Lanes:
    """Pad a problem."""
    n_components, n_features = D.shape
    atoms = np.zeros((n_features, FEW), D.dtype)
    atoms[:, :n_components] = D.T
    gram = np.zeros((FEW, FEW), D.dtype)
    gram[:n_components, :n_components] = D.astype(np.float64) @ D.T.astype(np.float64)
    return Lanes(atoms, gram, gram.diagonal().copy())


def abreast(problem: Lanes) -> Abreast:
    """Room for some rows of a problem."""
    n_features = len(problem.atoms)
    sizes = {"x": n_features, "slope": FEW, "left": 2 * FEW}
    sizes |= {"basis": DEPTH * FEW, "mix": DEPTH * DEPTH}
    sizes |= {"number": DEPTH * SOME, "rest": SOME}
    sizes |= dict.fromkeys(("atom", "code", "share", "error"), DEPTH)
    sizes |= dict.fromkeys(("scale", "size", "close", "floor"), 1)
    wide = vectors({"energy": 1}, np.dtype(np.float64))
    return Abreast(**vectors(sizes, problem.gram.dtype), **wide)
