"""What the vectors over few atoms hold: the problem, and the state of some rows."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .cpu_room import space
from .cpu_vectors import WIDTH
from .shared import FEW

DEPTH = WIDTH  # most active atoms
BLOCK = 16  # rows that take turns, so that one is computed while another waits
LEAST = 1e-300  # stands for a penalty of zero where one divides by it


class Few(NamedTuple):
    """The problem, atoms padded to whole vectors.

    Attributes
    ----------
    atoms : float64 array of shape (n_features, FEW)
        ``Dᵀ``, zeros as padding.
    gram, exact_gram : arrays of shape (n_components, FEW)
        ``DDᵀ + ridge·I`` in the type of the rows, and in double precision.
    penalty, exact_penalty : arrays of shape (width,)
        p, infinite as padding to whole vectors.
    lengths : array of shape (FEW,)
        Diagonal of ``gram``.
    unit : array of shape (DEPTH, DEPTH)
        Rows of the identity.
    """

    atoms: np.ndarray
    gram: np.ndarray
    exact_gram: np.ndarray
    penalty: np.ndarray
    exact_penalty: np.ndarray
    lengths: np.ndarray
    unit: np.ndarray


class Block(NamedTuple):
    r"""State of some rows, in flat arrays: their steps are constants, which saves most of the work.

    Gram–Schmidt on the active atoms in the geometry of the Gram matrix G: step t makes
    :math:`\text{basis}_t = (G_{e_t} - \sum_{u<t} \text{basis}_{u e_t}\,\text{basis}_u)/\ell_t`,
    the products of all atoms with the part of atom :math:`e_t` that the atoms before it do
    not span, of length :math:`\ell_t`, scaled to length 1. ``mix`` says which mix of atoms this is.

    Attributes
    ----------
    products : float64 array of shape (BLOCK·FEW,)
        ``xDᵀ``.
    slope : array of shape (BLOCK·FEW,)
        Products of all atoms with the residual of the present codes.
    left : array of shape (BLOCK·FEW,)
        Squared lengths of what the active atoms do not span of all atoms.
    basis : array of shape (BLOCK·DEPTH·FEW,)
    mix : array of shape (BLOCK·DEPTH·DEPTH,)
    code, sign : arrays of shape (BLOCK·DEPTH,)
        Of active atoms, in the order in which they became so.
    atom : int array of shape (BLOCK·DEPTH,)
    size : int array of shape (BLOCK,)
        How many atoms are active; -1 for a row that must be solved in another way.
    open : int array of shape (BLOCK,)
        Rows that are not done.
    top : array of shape (BLOCK,)
        Largest size of a product.
    length : float64 array of shape (BLOCK,)
        Of the rows.
    before : array of shape (DEPTH,)
        Codes before a step.
    found : float64 array of shape (FEW,)
        Products of all atoms with the residual of a row that is being finished.
    exact : float64 array of shape (DEPTH,)
        Its codes.
    wanted : array of shape (DEPTH,)
        Scratch of :func:`~.cpu_few_certificate.polish`: errors of the active atoms' products.
    """

    products: np.ndarray
    slope: np.ndarray
    left: np.ndarray
    basis: np.ndarray
    mix: np.ndarray
    code: np.ndarray
    sign: np.ndarray
    atom: np.ndarray
    size: np.ndarray
    open: np.ndarray
    top: np.ndarray
    length: np.ndarray
    before: np.ndarray
    found: np.ndarray
    exact: np.ndarray
    wanted: np.ndarray


def few(D: np.ndarray, penalty: np.ndarray, ridge: float) -> Few:
    """Pad a problem."""
    n_components, n_features = D.shape
    width = -(-n_components // WIDTH) * WIDTH
    atoms = np.zeros((n_features, FEW))
    atoms[:, :n_components] = D.T
    exact_gram = atoms.T[:n_components] @ atoms
    exact_gram[np.arange(n_components), np.arange(n_components)] += ridge
    exact_penalty = np.full(width, np.inf)
    exact_penalty[:n_components] = np.maximum(penalty, LEAST)
    lengths = np.zeros(FEW, D.dtype)
    lengths[:n_components] = exact_gram.diagonal()
    unit = np.eye(DEPTH, dtype=D.dtype)
    narrow = exact_gram.astype(D.dtype), exact_penalty.astype(D.dtype)  # LEAST may become 0
    return Few(atoms, narrow[0], exact_gram, narrow[1], exact_penalty, lengths, unit)


def block(problem: Few) -> Block:
    """Room for some rows of a problem."""
    dtype = problem.gram.dtype
    return Block(
        products=space(BLOCK * FEW),
        slope=space(BLOCK * FEW, dtype),
        left=space(BLOCK * FEW, dtype),
        basis=space(BLOCK * DEPTH * FEW, dtype),
        mix=space(BLOCK * DEPTH * DEPTH, dtype),
        code=space(BLOCK * DEPTH, dtype),
        sign=space(BLOCK * DEPTH, dtype),
        atom=space(BLOCK * DEPTH, np.int64),
        size=space(BLOCK, np.int64),
        open=space(BLOCK, np.int64),
        top=space(BLOCK, dtype),
        length=space(BLOCK),
        before=space(DEPTH, dtype),
        found=space(FEW),
        exact=space(DEPTH),
        wanted=space(DEPTH, dtype),
    )
