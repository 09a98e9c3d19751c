"""Sums of rows of a Gram matrix in bfloat16, and what makes up for its rounding."""

from __future__ import annotations

from .cpu_all_atoms import LANES
from .cpu_certificate import dot, subtract
from .cpu_jit import inlined, part
from .cpu_vectors import WIDTH, load, multiply, plus, splat, store, zeros

TOGETHER = 1024  # columns whose sums stay in the first cache
NEARLY = 0.8  # share of the largest gain from which an atom's slope is computed exactly
OFF = 0.1  # share of the best slope that may be rounding: what NEARLY leaves room for


@inlined
def _add(gram, atoms, weights, i, k, start, stop, total):
    """Up to four rows of the Gram matrix; those beyond the last are the last, times zero."""
    width, none = gram.shape[1], total.dtype.type(0)
    p, q, r = min(i + 1, k - 1), min(i + 2, k - 1), min(i + 3, k - 1)
    a, b, c, d = atoms[i] * width, atoms[p] * width, atoms[q] * width, atoms[r] * width
    wb = weights[p] if i + 1 < k else none
    wc = weights[q] if i + 2 < k else none
    wd = weights[r] if i + 3 < k else none
    for j in range(start, stop, WIDTH):
        v = plus(load(total, j), weights[i], load(gram, a + j))
        v = plus(v, wb, load(gram, b + j))
        v = plus(v, wc, load(gram, c + j))
        store(total, j, plus(v, wd, load(gram, d + j)))


@part
def spread_rounded(gram, atoms, weights, k, height, change, slope, left, total):
    r"""As :func:`~.cpu_all_atoms.spread`; columns are padded to a multiple of ``LANES``."""
    width, one = gram.shape[1], slope.dtype.type(1)
    for start in range(0, width, TOGETHER):
        stop = min(start + TOGETHER, width)
        for j in range(start, stop, WIDTH):
            store(total, j, zeros(total))
        i = 0
        while i < k:
            _add(gram, atoms, weights, i, k, start, stop, total)
            i += 4
        for j in range(start, stop, WIDTH):
            v = load(total, j)
            store(slope, j, plus(load(slope, j), -height, v))
            if change != 0:
                squares = multiply(multiply(v, v), splat(change))
                store(left, j, plus(load(left, j), one, squares))


@part
def residual(X, row, D, length, atoms, values, k, r):
    """That of a row of length 1, in double precision."""
    for m in range(r.shape[0]):
        r[m] = X[row, m] / length
    for i in range(k):
        subtract(r, values[i], D, atoms[i])


@part
def all_slopes(r, D, slope):
    """Products of a residual with all atoms."""
    for j in range(D.shape[0]):
        slope[j] = dot(r, D, j)


@part
def best_of_near(r, D, slope, left, positive, tops, found):
    """Of the atoms with nearly the largest gain the one that has it, by exact slopes.

    Parameters
    ----------
    r : array
        Residual.
    tops : array of shape (LANES,)
        Largest gains of the atoms of a lane.
    found : int
        The atom with the largest gain by rounded slopes.

    Returns
    -------
    atom : int
        -1 if so much of its slope was rounding that others may be missing.
    """
    largest = tops[0]
    for lane in range(LANES):
        largest = max(largest, tops[lane])
    atom, best, off = found, slope.dtype.type(0), slope.dtype.type(0)
    for lane in range(LANES):
        if tops[lane] < NEARLY * largest:
            continue
        top, here = slope.dtype.type(0), -1
        for j in range(lane, D.shape[0], LANES):
            size = slope[j] if positive else abs(slope[j])
            gain = size * size / left[j] if size > 0 else top
            if gain > top:
                top, here = gain, j
        if here < 0:
            continue
        exact = slope.dtype.type(dot(r, D, here))
        off = max(off, abs(exact - slope[here]))
        size = exact if positive else abs(exact)
        gain = size * size / left[here] if size > 0 else slope.dtype.type(0)
        slope[here] = exact
        if gain > best:
            best, atom = gain, here
    return -1 if off > OFF * abs(slope[atom]) else atom
