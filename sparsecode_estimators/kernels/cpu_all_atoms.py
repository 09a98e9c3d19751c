"""What one row says about all atoms: sums of rows of the Gram matrix, and the best atom."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .cpu_jit import part

LANES = 64  # atoms compared side by side
WIDTH = 1024  # atoms whose products are summed together, so that they stay in the first cache


class Field(NamedTuple):
    """What one row says about all atoms; arrays of shape (n_components,) and some padding.

    Attributes
    ----------
    slope : array
        Products with the residual, for a row of length 1.
    left : array
        Squared length of the part that chosen atoms do not explain; ones for a rule that does
        not ask. Infinite where an atom cannot be chosen.
    total : array
        Scratch.
    tops : array of shape (LANES,)
        Largest gains of the atoms of a lane; scratch.
    """

    slope: np.ndarray
    left: np.ndarray
    total: np.ndarray
    tops: np.ndarray


@part
def new_field(like, n_components):
    padded = -(-n_components // LANES) * LANES
    dtype = like.dtype
    return Field(
        np.zeros(padded, dtype),
        np.ones(padded, dtype),
        np.zeros(padded, dtype),
        np.zeros(LANES, dtype),
    )


@part
def _clear(total):
    for j in range(total.shape[0]):
        total[j] = 0


@part
def _add_four(a, b, c, d, wa, wb, wc, wd, total):
    for j in range(total.shape[0]):
        total[j] += wa * a[j] + wb * b[j] + wc * c[j] + wd * d[j]


@part
def _add_one(a, wa, total):
    for j in range(total.shape[0]):
        total[j] += wa * a[j]


@part
def _add_squares(a, wa, total):
    for j in range(total.shape[0]):
        total[j] += wa * a[j] * a[j]


@part
def spread(gram, atoms, weights, k, height, change, slope, left, total):
    r"""With :math:`v = \sum_i w_i G_{e_i}`, ``slope −= height·v`` and ``left += change·v²``."""
    w, n_components = weights, gram.shape[0]
    for start in range(0, n_components, WIDTH):
        stop = min(n_components, start + WIDTH)
        # slices of single rows, as only of them the loops are sure to be contiguous
        s, rest, v = slope[start:stop], left[start:stop], total[start:stop]
        _clear(v)
        i = 0
        while i + 4 <= k:
            a, b = gram[atoms[i], start:stop], gram[atoms[i + 1], start:stop]
            c, d = gram[atoms[i + 2], start:stop], gram[atoms[i + 3], start:stop]
            _add_four(a, b, c, d, w[i], w[i + 1], w[i + 2], w[i + 3], v)
            i += 4
        while i < k:
            _add_one(gram[atoms[i], start:stop], w[i], v)
            i += 1
        _add_one(v, -height, s)
        if change != 0:
            _add_squares(v, change, rest)


@part
def _gain(slope, left, floor, least, positive):
    """Twice what an atom would lower the residual by (for ``omp`` its squared slope)."""
    size = slope if positive else abs(slope)
    useful = size > floor and left > least
    return size * size / left if useful else slope * 0


@part
def best_atom(slope, left, floor, least, positive, tops):
    """Atom with the largest gain, or -1.

    The maximum is taken in lanes, since numba does not vectorise a single one.
    """
    for lane in range(LANES):
        tops[lane] = 0
    for block in range(slope.shape[0] // LANES):
        for lane in range(LANES):
            j = block * LANES + lane
            gain = _gain(slope[j], left[j], floor, least, positive)
            tops[lane] = gain if gain > tops[lane] else tops[lane]
    first = 0
    for lane in range(1, LANES):
        first = lane if tops[lane] > tops[first] else first
    best, found = slope.dtype.type(0), -1
    for j in range(first, slope.shape[0], LANES):
        gain = _gain(slope[j], left[j], floor, least, positive)
        if gain > best:
            best, found = gain, j
    return found


@part
def best_listed(atoms, count, slope, left, floor, least, positive):
    """The same among ``count`` atoms."""
    best, found = slope.dtype.type(0), -1
    for i in range(count):
        j = atoms[i]
        gain = _gain(slope[j], left[j], floor, least, positive)
        if gain > best:
            best, found = gain, j
    return found
