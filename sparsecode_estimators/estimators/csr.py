"""Codes of many rows as one CSR matrix, written as they come."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import scipy.sparse as sp
from sklearn import get_config
from torch import Tensor

from ..kernels.sparse import Places


def csr_of(
    parts: Iterable[Tensor | tuple[Places, Tensor]], n: int, width: int, dtype: type[np.floating]
) -> Any:
    """CSR, of the interface that scikit-learn is configured to (1.9: ``sparse_interface``).

    Beside the result, and room for what may still come, only one part is in memory.

    Parameters
    ----------
    parts : iterable of Tensor of shape (n_i, width), or of places and the values there
        Batches of rows, in order; zeros are left out.
    n, width : int
        Shape of the whole.
    dtype : type
    """
    index = np.int32 if width <= np.iinfo(np.int32).max else np.int64
    indices, data = np.empty(0, index), np.empty(0, dtype)
    starts, done, stored = np.zeros(n + 1, np.int64), 0, 0
    for part in parts:
        counts, atoms, values = _nonzero(part)
        end, last = done + len(counts), stored + len(values)
        starts[done + 1 : end + 1] = stored + counts.cumsum()
        if last > len(data):  # for as many as there will be if other rows are like these
            room = last if end == n else min(int(1.05 * last / end * n), 2 * last)
            for array in (indices, data):
                array.resize(room, refcheck=False)
        indices[stored:last], data[stored:last] = atoms, values
        done, stored = end, last
    for array in (indices, data):
        array.resize(stored, refcheck=False)
    kind = get_config().get("sparse_interface", "spmatrix")
    make = sp.csr_array if kind == "sparray" else sp.csr_matrix
    return make((data, indices, starts), shape=(n, width))


def _nonzero(part: Tensor | tuple[Places, Tensor]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How many codes of each row are not zero, their columns, and the codes."""
    if isinstance(part, Tensor):
        codes = part.cpu().numpy()
        rows, atoms = codes.nonzero()
        return np.bincount(rows, minlength=len(codes)), atoms, codes[rows, atoms]
    places, found = part
    starts, atoms, values = (t.cpu().numpy() for t in (*places, found))
    if values.all():
        return np.diff(starts), atoms, values
    kept = values != 0
    before = np.concatenate([[0], kept.cumsum()])
    return np.diff(before[starts]), atoms[kept], values[kept]
