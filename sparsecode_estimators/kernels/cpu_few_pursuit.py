"""Greedy k-sparse codes over few atoms, in the vectors of the lasso over few atoms."""

from __future__ import annotations

import numpy as np

from .cpu_few_atoms import append, begin, repair
from .cpu_few_certificate import polish
from .cpu_few_state import BLOCK, DEPTH
from .cpu_jit import compiled, inlined
from .cpu_vectors import (
    WIDTH,
    absolute,
    at_least,
    divide,
    first,
    get,
    largest,
    load,
    maximum,
    multiply,
    plus,
    splat,
    store,
    where,
    zeros,
)
from .shared import FEW, FLOOR, RESOLUTION


@inlined
def _gains(problem, state, here, b, positive, ols, floor, resolution):
    """How much the residual falls with each atom, or the square of its slope; zero if useless."""
    slope, left, nothing = (
        load(state.slope, here + b),
        load(state.left, here + b),
        zeros(state.slope),
    )
    length = load(problem.lengths, b)
    square = multiply(slope, absolute(slope)) if positive else multiply(slope, slope)
    gain = divide(square, left) if ols else square
    gain = where(at_least(multiply(splat(floor), length), square), nothing, gain)
    return where(at_least(multiply(splat(resolution), length), left), nothing, gain)


@inlined
def _best(problem, state, r, width, positive, ols, floor, resolution):
    """Atom with the largest gain, or -1 if none has any."""
    best, here = zeros(state.slope), r * FEW
    for b in range(0, width, WIDTH):
        gains = _gains(problem, state, here, b, positive, ols, floor, resolution)
        best = maximum(best, gains)
    top = largest(best)
    if top > 0:
        for b in range(0, width, WIDTH):
            gains = _gains(problem, state, here, b, positive, ols, floor, resolution)
            place = first(at_least(gains, splat(top)))
            if place < WIDTH:
                return b + place
    return -1


@inlined
def _add(problem, state, r, width, positive, ols, floor, resolution):
    """Add the best atom of a row and refit; was there one?"""
    k = state.size[r]
    e = _best(problem, state, r, width, positive, ols, floor, resolution)
    if e < 0:
        return False
    store(state.before, 0, load(state.code, r * DEPTH))
    one = state.slope.dtype.type(1)
    if not append(problem, state, r, k, e, one, width, resolution):
        state.size[r] = -1
        return False
    state.atom[r * DEPTH + k] = e
    state.size[r] = k + 1
    if positive:
        signs = plus(load(state.sign, r * DEPTH), one, load(problem.unit, k * DEPTH))
        store(state.sign, r * DEPTH, signs)
        state.size[r] = repair(problem, state, r, k + 1, width, resolution)
    return state.size[r] >= 0


@inlined
def _conclude(row, length, problem, state, r, width, positive, codes, energy):
    """Write the codes of a row, refitted in double precision, and the energy of its residual.

    Unless one that should be positive was so by rounding only; then it is false.
    """
    k, mine = state.size[r], r * DEPTH
    for i in range(k):
        state.sign[mine + i] = 1 if get(state.code, mine + i) > 0 else -1
    polish(problem, state, r, k, width)
    for i in range(k):
        if positive and get(state.exact, i) <= 0:
            return False
    share = 1.0
    for i in range(k):
        e, value = get(state.atom, mine + i), get(state.exact, i)
        codes[row, e] = value * length
        share -= value * (get(state.products, r * FEW + e) + get(state.found, e))
    energy[row] = 0.5 * length * length * max(share, 0.0)
    return True


@compiled
def few_pursuit(
    rows, left, X, problem, state, most, positive, ols, eps, max_steps, codes, energy, n_iter
):
    """Add one atom after the other to every row, as :func:`~.cpu_pursuit.pursuit`.

    Parameters
    ----------
    left : int array of shape (len(rows),)
        Receives the rows that are left, as a refit found their atoms dependent, or signs that
        are rounding.
    problem : Few
        Without penalty.
    state : Block
        Room to work in.
    most : int
        Most atoms of a row, at most ``DEPTH``.
    others
        As in :func:`~.cpu_pursuit.pursuit`; ``codes`` holds zeros.

    Returns
    -------
    int
        How many rows are left.
    """
    kind, width = state.slope.dtype.type, problem.penalty.shape[0]
    floor, resolution = kind(FLOOR * eps * FLOOR * eps), kind(eps**RESOLUTION)
    n_left = 0
    for start in range(0, len(rows), BLOCK):
        busy = min(BLOCK, len(rows) - start)
        for r in range(busy):
            row, square = rows[start + r], 0.0
            for m in range(X.shape[1]):
                square += np.float64(X[row, m]) * np.float64(X[row, m])
            state.length[r] = np.sqrt(square)
            begin(X, row, 1 / state.length[r] if square > 0 else 0.0, problem, state, r, width)
            n_iter[row] = 0
        still = busy
        while still > 0:
            kept = 0
            for i in range(still):
                r = state.open[i]
                row = rows[start + r]
                if n_iter[row] < max_steps and _add(
                    problem, state, r, width, positive, ols, floor, resolution
                ):
                    n_iter[row] += 1
                    if state.size[r] < most:
                        state.open[kept] = r
                        kept += 1
            still = kept
        for r in range(busy):
            row = rows[start + r]
            if state.size[r] < 0 or not _conclude(
                row, state.length[r], problem, state, r, width, positive, codes, energy
            ):
                left[n_left] = row
                n_left += 1
    return n_left
