"""Products of a row's active atoms, kept while it waits for slopes of all atoms, compiled."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .cpu_jit import part
from .cpu_room import space

MOST = 64  # atoms of a row; of a row with more nothing is kept


class Kept(NamedTuple):
    """Active atoms of rows, and their products.

    Attributes
    ----------
    size : int array of shape (n,)
        How many there are; -1 if nothing is known but a row's codes.
    atoms : int array of shape (n, MOST)
    gram : array of shape (n, MOST, MOST)
        With the ridge.
    """

    size: np.ndarray
    atoms: np.ndarray
    gram: np.ndarray


def kept_of(n: int, dtype: np.dtype) -> Kept:
    """Room for ``n`` rows, of which none has an atom."""
    atoms, gram = ((n, MOST), np.int64), ((n, MOST, MOST), dtype)
    return Kept(np.zeros(n, np.int64), space(*atoms, np.empty), space(*gram, np.empty))


@part
def keep(kept, row, face, cand, k):
    """The products of the k active atoms."""
    kept.size[row] = k if k <= MOST else -1
    for i in range(kept.size[row]):
        place = face.active[i]
        kept.atoms[row, i] = cand[place]
        for j in range(k):
            kept.gram[row, i, j] = face.gram[place, face.active[j]]


@part
def products_of(kept, row, face):
    """Write what was kept to the face; how many atoms these are."""
    for i in range(kept.size[row]):
        for j in range(kept.size[row]):
            face.gram[i, j] = kept.gram[row, i, j]
    return kept.size[row]
