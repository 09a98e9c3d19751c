"""Products with codes of which only some places are known to be non-zero, compiled.

To decode is that of the definition: torch's sums of rows are as fast as compiled loops. So are its
sums of numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .cpu_chunks import few_for_each, in_chunks
from .cpu_jit import compiled
from .cpu_select import count_above, places_above, places_of_largest, room_for_largest
from .reference_sparse import ByAtom, Places, decode, sums_by_atom

__all__ = ["above", "by_atom", "decode", "largest", "products", "rows_by_atom", "sums_by_atom"]

LEAST = 16  # rows of a chunk


def share_out(work, n: int, *given: Any, room: Callable[[], Any] | None = None) -> None:
    """Call a loop on all rows: few chunks, for each costs a change of threads."""
    more = (_array(a) if isinstance(a, Tensor) else a for a in given)
    in_chunks(work, n, few_for_each(n, LEAST), *more, room=room)


def _array(tensor: Tensor) -> np.ndarray:
    tensor = tensor.detach().contiguous()
    return (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()


def largest(pre: Tensor, bias: Tensor, k: int, *, signed: bool) -> Places:
    """See :func:`.reference_sparse.largest`."""
    atoms = np.empty((len(pre), k), np.int64)
    given = (pre, bias, signed, atoms)
    dtype = _array(bias).dtype
    share_out(
        places_of_largest, len(pre), *given, room=lambda: room_for_largest(len(bias), k, dtype)
    )
    starts = torch.arange(0, atoms.size + 1, k)
    return Places(starts, torch.from_numpy(atoms.reshape(-1)))


def above(pre: Tensor, floor: Tensor) -> Places:
    """See :func:`.reference_sparse.above`."""
    starts = np.zeros(len(pre) + 1, np.int64)
    share_out(count_above, len(pre), pre, floor, starts)
    starts = starts.cumsum()
    atoms = np.empty(starts[-1], np.int64)
    share_out(places_above, len(pre), pre, floor, starts, atoms)
    return Places(torch.from_numpy(starts), torch.from_numpy(atoms))


def by_atom(places: Places, n_components: int) -> ByAtom:
    """See :func:`.reference_sparse.by_atom`."""
    starts, atoms = places.starts.numpy(), places.atoms.numpy()
    ends, (rows, order) = np.zeros(n_components + 1, np.int64), np.empty((2, len(atoms)), np.int64)
    _by_atom(starts, atoms, ends, np.empty(n_components, np.int64), rows, order)
    return ByAtom(*(torch.from_numpy(array) for array in (ends, rows, order)))


def products(places: Places, R: Tensor, D: Tensor) -> Tensor:
    """See :func:`.reference_sparse.products`."""
    out = D.new_empty(len(places.atoms))
    share_out(_products, len(places.starts) - 1, places.starts, places.atoms, R, D, out)
    return out


def rows_by_atom(places: ByAtom, values: Tensor, R: Tensor, out: Tensor | None = None) -> Tensor:
    """See :func:`.reference_sparse.rows_by_atom`."""
    n_components = len(places.starts) - 1
    if out is None:
        out = R.new_empty(n_components, R.shape[1])
    share_out(_rows_by_atom, n_components, *places, values, R, out)
    return out


@compiled
def _by_atom(starts, atoms, ends, places, rows, order):
    """Counting sort."""
    n_components = len(places)
    for a in atoms:
        ends[a + 1] += 1
    for a in range(n_components):
        places[a] = ends[a]
        ends[a + 1] += ends[a]
    for row in range(len(starts) - 1):
        for p in range(starts[row], starts[row + 1]):
            here = places[atoms[p]]
            places[atoms[p]] += 1
            rows[here], order[here] = row, p


@compiled
def _products(rows, starts, atoms, R, D, out):
    for row in rows:
        for p in range(starts[row], starts[row + 1]):
            a, total = atoms[p], out.dtype.type(0)
            for m in range(R.shape[1]):
                total += R[row, m] * D[a, m]
            out[p] = total


@compiled
def _rows_by_atom(atoms, starts, rows, order, values, R, out):
    for a in atoms:
        total, first, end = out[a], starts[a], starts[a + 1]
        value = values[order[first]] if first < end else out.dtype.type(0)
        row = R[rows[first]] if first < end else R[0]
        for m in range(len(total)):  # written once, and not read before
            total[m] = value * row[m]
        for p in range(first + 1, end):
            value, row = values[order[p]], R[rows[p]]
            for m in range(len(total)):
                total[m] += value * row[m]
