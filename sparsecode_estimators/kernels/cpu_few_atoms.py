"""The lasso over few atoms: an active set in an orthogonal basis, held in vectors."""

from __future__ import annotations

import numpy as np

from .cpu_few_certificate import conclude
from .cpu_few_state import BLOCK, DEPTH
from .cpu_jit import compiled, inlined
from .cpu_vectors import (
    WIDTH,
    absolute,
    at_least,
    cast,
    first,
    get,
    largest,
    load,
    maximum,
    multiply,
    plus,
    splat,
    store,
    subtract,
    zeros,
)  # fmt: skip
from .shared import FEW, INDEPENDENT

TOL = 2  # an atom is violated by more than this many roundings of the largest product,
SURE = 4 * TOL  # and, if the active ones span it, by more than so many


@inlined
def _start_over(problem, state, r, width):
    """Codes zero; the slopes are the products with the row. Returns the largest of them."""
    products, slope = state.products, state.slope
    top = zeros(slope)
    for b in range(r * FEW, r * FEW + width, WIDTH):
        v = cast(load(products, b), slope)
        store(slope, b, v)
        store(state.left, b, load(problem.lengths, b - r * FEW))
        top = maximum(top, absolute(v))
    store(state.code, r * DEPTH, zeros(slope))
    return largest(top)


@inlined
def begin(X, row, scale, problem, state, r, width):
    """Products of a scaled row with all atoms, and codes of zero."""
    atoms, products = problem.atoms, state.products
    for b in range(0, width, WIDTH):
        v = zeros(products)
        for m in range(X.shape[1]):
            v = plus(v, scale * X[row, m], load(atoms, m * FEW + b))
        store(products, r * FEW + b, v)
    state.top[r] = _start_over(problem, state, r, width)
    store(state.sign, r * DEPTH, zeros(state.sign))
    state.size[r], state.open[r] = 0, r


@inlined
def _gain(slope, penalty, start, b, positive):
    v = load(slope, start + b)
    return subtract(v if positive else absolute(v), load(penalty, b))


@inlined
def _most_violated(slope, penalty, start, width, positive, tol):
    """Atom that gains most from leaving zero, or -1."""
    best = splat(tol)
    for b in range(0, width, WIDTH):
        best = maximum(best, _gain(slope, penalty, start, b, positive))
    top = largest(best)
    if top > tol:
        for b in range(0, width, WIDTH):
            place = first(at_least(_gain(slope, penalty, start, b, positive), splat(top)))
            if place < WIDTH:
                return b + place
    return -1


@inlined
def append(problem, state, r, k, e, sign, width, independent):
    """Make atom ``e`` active, and move to the minimiser for these signs.

    False, and nothing done, if the ``k`` active atoms span it.
    """
    gram, slope, left = problem.gram, state.slope, state.left
    basis, mix, code = state.basis, state.mix, state.code
    start, mine, here = r * DEPTH * FEW, r * DEPTH * DEPTH, r * FEW
    length = get(left, here + e)
    if not length > independent * get(problem.lengths, e):
        return False
    scale = slope.dtype.type(1) / np.sqrt(length)
    height = (get(slope, here + e) - get(problem.penalty, e) * sign) * scale
    w = load(problem.unit, k * DEPTH)
    for b in range(0, width, WIDTH):
        v = load(gram, e * FEW + b)
        for u in range(k):
            share = -get(basis, start + u * FEW + e)
            v = plus(v, share, load(basis, start + u * FEW + b))
            if b == 0:
                w = plus(w, share, load(mix, mine + u * DEPTH))
        v = multiply(v, splat(scale))
        store(basis, start + k * FEW + b, v)
        store(slope, here + b, plus(load(slope, here + b), -height, v))
        store(left, here + b, subtract(load(left, here + b), multiply(v, v)))
    w = multiply(w, splat(scale))
    store(mix, mine + k * DEPTH, w)
    store(code, r * DEPTH, plus(load(code, r * DEPTH), height, w))
    return True


@inlined
def _any_crossed(state, r):
    """Whether some active code is not on the side of its sign."""
    sign = load(state.sign, r * DEPTH)
    agreement = multiply(load(state.code, r * DEPTH), sign)
    idle = subtract(splat(state.code.dtype.type(1)), absolute(sign))
    return first(at_least(zeros(state.code), maximum(agreement, idle))) < WIDTH


@inlined
def _drop_crossed(state, r, k):
    """Go from the codes before as far as no code changes its sign; drop those that vanish.

    ``before`` then holds the codes there. Returns how many atoms stay active.
    """
    code, sign, atom, before = state.code, state.sign, state.atom, state.before
    share, mine = code.dtype.type(1), r * DEPTH
    for i in range(k):
        if code[mine + i] * sign[mine + i] <= 0:
            share = min(share, before[i] / (before[i] - code[mine + i]))
    kept = 0
    for i in range(k):
        target = code[mine + i]
        if target * sign[mine + i] <= 0 and before[i] / (before[i] - target) <= share:
            continue
        before[kept] = before[i] + share * (target - before[i])
        atom[mine + kept], sign[mine + kept] = atom[mine + i], sign[mine + i]
        kept += 1
    for i in range(kept, k):
        before[i], sign[mine + i] = 0, 0
    return kept


@inlined
def repair(problem, state, r, k, width, independent):
    """Drop atoms until all codes have their signs; how many stay, -1 if they are dependent."""
    while k > 0 and _any_crossed(state, r):
        k = _drop_crossed(state, r, k)
        _start_over(problem, state, r, width)
        for i in range(k):
            e, sign = state.atom[r * DEPTH + i], state.sign[r * DEPTH + i]
            if not append(problem, state, r, i, e, sign, width, independent):
                return -1
    return k


@inlined
def _step(problem, state, r, width, positive, tol, independent):
    """Add the most violated atom of a row; is it worth looking at again?"""
    slope, penalty, k = state.slope, problem.penalty, state.size[r]
    one, limit = slope.dtype.type(1), tol * state.top[r]
    e = _most_violated(slope, penalty, r * FEW, width, positive, limit)
    if e < 0:
        return False
    store(state.before, 0, load(state.code, r * DEPTH))
    violated = get(slope, r * FEW + e)
    sign = one if violated > 0 else -one
    if k == DEPTH or not append(problem, state, r, k, e, sign, width, independent):
        if violated * sign - penalty[e] > SURE / TOL * limit:
            state.size[r] = -1
        return False
    state.atom[r * DEPTH + k] = e
    signs = plus(load(state.sign, r * DEPTH), sign, load(problem.unit, k * DEPTH))
    store(state.sign, r * DEPTH, signs)
    state.size[r] = repair(problem, state, r, k + 1, width, independent)
    return state.size[r] >= 0


@compiled
def few_atoms(
    rows, left, X, problem, state, ridge, positive, eps, max_steps, codes, gap, energy, n_iter
):
    r"""Minimise :math:`\tfrac12\|x-sD\|^2 + \sum_j p_j|s_j| + \tfrac{\rho}{2}\|s\|^2`.

    Every row adds its most violated atom and moves to the minimiser for the signs of its
    active atoms, or until a code vanishes: then its atom is dropped, and the basis of the
    others is made anew. See :func:`~.cpu_active_set.descend`, which does the same with an
    inverse and for any number of atoms.

    Parameters
    ----------
    left : int array of shape (len(rows),)
        Receives the rows that are left: they need more than ``DEPTH`` atoms, or dependent ones.
    problem : Few
    state : Block
        Room to work in.
    others
        As in :func:`~.cpu_working_set.working_set`; ``codes`` holds zeros.

    Returns
    -------
    int
        How many rows are left.
    """
    kind = state.slope.dtype.type
    tol, independent, width = kind(TOL * eps), kind(eps**INDEPENDENT), problem.penalty.shape[0]
    n_left = 0
    for start in range(0, len(rows), BLOCK):
        busy = min(BLOCK, len(rows) - start)
        for r in range(busy):
            begin(X, rows[start + r], 1.0, problem, state, r, width)
            n_iter[rows[start + r]] = 0
        still = busy
        while still > 0:
            kept = 0
            for i in range(still):
                r = state.open[i]
                row = rows[start + r]
                if n_iter[row] < max_steps and _step(
                    problem, state, r, width, positive, tol, independent
                ):
                    n_iter[row] += 1
                    state.open[kept] = r
                    kept += 1
            still = kept
        for r in range(busy):
            row = rows[start + r]
            if state.size[r] < 0:
                left[n_left] = row
                n_left += 1
            else:
                conclude(X, row, problem, state, r, width, ridge, positive, codes, gap, energy)
    return n_left
