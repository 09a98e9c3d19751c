"""Products with codes of which only some places are known to be non-zero, compiled."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .cpu_chunks import in_chunks
from .cpu_jit import compiled, part
from .reference_sparse import ByAtom, Places

ROWS = 64  # of a chunk
GROUPS = 4  # maxima of so many groups for each entry that is looked for


def largest(pre: Tensor, k: int, *, signed: bool) -> Places:
    """See :func:`.reference_sparse.largest`."""
    scores = _array(pre.abs() if signed else pre)
    atoms = np.empty((len(scores), k), np.int64)
    in_chunks(_largest, len(scores), ROWS, scores, atoms)
    starts = torch.arange(0, atoms.size + 1, k)
    return Places(starts, torch.from_numpy(atoms.reshape(-1)))


def above(pre: Tensor, floor: Tensor) -> Places:
    """See :func:`.reference_sparse.above`."""
    scores, floors = _array(pre), _array(floor)
    starts = np.zeros(len(scores) + 1, np.int64)
    in_chunks(_count_above, len(scores), ROWS, scores, floors, starts)
    starts = starts.cumsum()
    atoms = np.empty(starts[-1], np.int64)
    in_chunks(_above, len(scores), ROWS, scores, floors, starts, atoms)
    return Places(torch.from_numpy(starts), torch.from_numpy(atoms))


def by_atom(places: Places, n_components: int) -> ByAtom:
    """See :func:`.reference_sparse.by_atom`."""
    arrays = _by_atom(places.starts.numpy(), places.atoms.numpy(), n_components)
    return ByAtom(*(torch.from_numpy(array) for array in arrays))


def decode(places: Places, values: Tensor, D: Tensor) -> Tensor:
    """See :func:`.reference_sparse.decode`."""
    out = D.new_empty(len(places.starts) - 1, D.shape[1])
    given = (places.starts, places.atoms, values, D, out)
    in_chunks(_sums, len(out), ROWS, *map(_array, given))
    return out


def products(places: Places, R: Tensor, D: Tensor) -> Tensor:
    """See :func:`.reference_sparse.products`."""
    out = D.new_empty(len(places.atoms))
    given = (places.starts, places.atoms, R, D, out)
    in_chunks(_products, len(places.starts) - 1, ROWS, *map(_array, given))
    return out


def rows_by_atom(places: ByAtom, values: Tensor, R: Tensor) -> Tensor:
    """See :func:`.reference_sparse.rows_by_atom`."""
    out = R.new_empty(len(places.starts) - 1, R.shape[1])
    given = (places.starts, places.rows, values[places.order], R, out)
    in_chunks(_sums, len(out), ROWS, *map(_array, given))
    return out


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().contiguous().numpy()


@part
def _kth_largest(values, n, k):
    """The k-th largest of the first ``n`` values, which are put in another order (Hoare)."""
    low, high = 0, n - 1
    while low < high:
        pivot = values[(low + high) // 2]
        i, j = low, high
        while i <= j:
            while values[i] > pivot:
                i += 1
            while values[j] < pivot:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i += 1
                j -= 1
        if k - 1 <= j:
            high = j
        elif k - 1 >= i:
            low = i
        else:
            break
    return values[k - 1]


@compiled
def _largest(rows, scores, atoms):
    """The ``k`` largest of each row; of equal ones the first.

    Column j belongs to group j modulo the number of groups. The k-th largest of the groups'
    maxima is not above the k-th largest of all, so that most groups need no second look.
    """
    n_components, k = scores.shape[1], atoms.shape[1]
    n_groups = min(n_components, -(-GROUPS * k // 16) * 16)
    top, kept = np.empty(n_groups, scores.dtype), np.empty(n_groups, scores.dtype)
    for row in rows:
        line = scores[row]
        for g in range(n_groups):
            top[g] = line[g]
        for start in range(n_groups, n_components, n_groups):
            for g in range(min(n_groups, n_components - start)):
                top[g] = max(top[g], line[start + g])
        kept[:] = top
        least = _kth_largest(kept, n_groups, k)
        found = _places_from(line, top, least, n_groups)
        if len(found) > k:
            values = line[found]
            least = _kth_largest(values, len(found), k)
            ties = k
            for j in found:
                ties -= line[j] > least
            n = 0
            for j in found:
                if line[j] > least or (line[j] == least and ties > 0):
                    ties -= line[j] == least
                    atoms[row, n] = j
                    n += 1
        else:
            atoms[row] = found


@part
def _places_from(line, top, least, n_groups):
    """Ascending columns with at least ``least``, all of them in groups whose maximum has it."""
    n = 0
    for g in range(n_groups):
        if top[g] >= least:
            for j in range(g, len(line), n_groups):
                n += line[j] >= least
    found, n = np.empty(n, np.int64), 0
    for g in range(n_groups):
        if top[g] >= least:
            for j in range(g, len(line), n_groups):
                if line[j] >= least:
                    found[n] = j
                    n += 1
    found.sort()
    return found


@compiled
def _count_above(rows, scores, floor, counts):
    for row in rows:
        n = 0
        for j in range(scores.shape[1]):
            n += scores[row, j] > floor[j]
        counts[row + 1] = n


@compiled
def _above(rows, scores, floor, starts, atoms):
    block = 64
    for row in rows:
        n = starts[row]
        for start in range(0, scores.shape[1], block):
            end, some = min(start + block, scores.shape[1]), 0
            for j in range(start, end):
                some += scores[row, j] > floor[j]
            if some:
                for j in range(start, end):
                    if scores[row, j] > floor[j]:
                        atoms[n] = j
                        n += 1


@compiled
def _by_atom(starts, atoms, n_components):
    """Counting sort."""
    ends = np.zeros(n_components + 1, np.int64)
    for a in atoms:
        ends[a + 1] += 1
    for a in range(n_components):
        ends[a + 1] += ends[a]
    places = ends[:-1].copy()
    rows, order = np.empty(len(atoms), np.int64), np.empty(len(atoms), np.int64)
    for row in range(len(starts) - 1):
        for p in range(starts[row], starts[row + 1]):
            here = places[atoms[p]]
            places[atoms[p]] += 1
            rows[here], order[here] = row, p
    return ends, rows, order


@compiled
def _sums(lists, starts, members, weights, matrix, out):
    """Weighted sums of rows of the matrix, one for each list of members; four at a time."""
    width = matrix.shape[1]
    for i in lists:
        start, end = starts[i], starts[i + 1]
        fours = start + (end - start) // 4 * 4
        for m in range(width):
            out[i, m] = 0
        for p in range(start, fours, 4):
            a, b, c, d = members[p], members[p + 1], members[p + 2], members[p + 3]
            u, v, w, x = weights[p], weights[p + 1], weights[p + 2], weights[p + 3]
            for m in range(width):
                out[i, m] += (u * matrix[a, m] + v * matrix[b, m]) + (
                    w * matrix[c, m] + x * matrix[d, m]
                )
        for p in range(fours, end):
            a, u = members[p], weights[p]
            for m in range(width):
                out[i, m] += u * matrix[a, m]


@compiled
def _products(rows, starts, atoms, R, D, out):
    for row in rows:
        for p in range(starts[row], starts[row + 1]):
            a, total = atoms[p], out.dtype.type(0)
            for m in range(R.shape[1]):
                total += R[row, m] * D[a, m]
            out[p] = total
