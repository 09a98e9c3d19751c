"""The last digits of the codes of few atoms, and the proof that they are good, in vectors."""

from __future__ import annotations

import numpy as np

from .cpu_certificate import gap_of
from .cpu_few_state import DEPTH, LEAST
from .cpu_jit import inlined
from .cpu_vectors import (
    WIDTH,
    absolute,
    cast,
    divide,
    get,
    largest,
    load,
    maximum,
    multiply,
    plus,
    store,
    total,
    zeros,
)
from .shared import FEW

STEPS = 3  # most Newton steps
ENOUGH = 1e-11  # error of a slope, of the largest product, that needs no other step


@inlined
def _products(problem, state, r, k, width):
    """``d_j·(x − sD) − ridge·s_j`` of all atoms, from the Gram matrix and in double precision."""
    gram, exact = problem.exact_gram, state.exact
    for b in range(0, width, WIDTH):
        v = load(state.products, r * FEW + b)
        for i in range(k):
            v = plus(v, -get(exact, i), load(gram, get(state.atom, r * DEPTH + i) * FEW + b))
        store(state.found, b, v)


@inlined
def polish(problem, state, r, k, width):
    """Newton steps from the exact products: ``exact`` then holds the codes, ``found`` theirs.

    One is enough but where atoms are nearly dependent.
    """
    mix, found, exact, wanted = state.mix, state.found, state.exact, state.wanted
    mine, enough = r * DEPTH, ENOUGH * state.top[r]
    store(exact, 0, cast(load(state.code, mine), exact))
    _products(problem, state, r, k, width)
    store(wanted, 0, zeros(wanted))
    for _ in range(STEPS):
        off = 0.0
        for i in range(k):
            e = get(state.atom, mine + i)
            error = get(found, e) - get(problem.exact_penalty, e) * get(state.sign, mine + i)
            wanted[i], off = error, max(off, abs(error))
        if off <= enough:
            break
        right, step = load(wanted, 0), zeros(wanted)
        for t in range(k):  # the inverse of their Gram matrix is mixᵀ·mix
            w = load(mix, (mine + t) * DEPTH)
            step = plus(step, total(multiply(w, right)), w)
        store(exact, 0, plus(load(exact, 0), 1.0, cast(step, exact)))
        for i in range(k):
            if get(exact, i) * get(state.sign, mine + i) <= 0:
                exact[i] = 0
        _products(problem, state, r, k, width)


@inlined
def _worst_ratio(problem, found, width, positive):
    """Largest ``d_j·r/p_j``, active atoms, whose products are zero here, left out."""
    penalty = problem.exact_penalty
    worst = zeros(found)
    for b in range(0, width, WIDTH):
        v = load(found, b)
        v = v if positive else absolute(v)
        worst = maximum(worst, divide(v, load(penalty, b)))
    return largest(worst)


@inlined
def conclude(X, row, problem, state, r, width, ridge, positive, codes, gap, energy):
    r"""Write the codes of a row, their gap and the energy of its residual.

    With q = ``xDᵀ`` and g the products with the residual, less ρs,
    :math:`\|x - sD\|^2 + \rho\|s\|^2 = \|x\|^2 - s\cdot(q + g)`; all of it in double
    precision, and the products by the Gram matrix, so that the cost does not depend on the
    number of features. See :func:`~.cpu_certificate.gap_of`.
    """
    k = state.size[r]
    found, exact, penalty = state.found, state.exact, problem.exact_penalty
    polish(problem, state, r, k, width)
    whole = 0.0
    for m in range(X.shape[1]):
        whole += np.float64(X[row, m]) * np.float64(X[row, m])
    agreement, length, squares, ratio = 0.0, 0.0, 0.0, 0.0
    for i in range(k):
        e, value = get(state.atom, r * DEPTH + i), get(exact, i)
        codes[row, e] = value
        rounded = np.float64(codes[row, e])
        whole -= value * (get(state.products, r * FEW + e) + found[e])
        agreement += rounded * found[e]
        length += penalty[e] * abs(rounded)
        squares += value * value
        if penalty[e] > LEAST:
            ratio = max(ratio, found[e] * get(state.sign, r * DEPTH + i) / penalty[e])
        found[e] = 0
    ratio = max(ratio, _worst_ratio(problem, found, width, positive))
    whole = max(whole, 0.0)
    gap[row] = gap_of(whole, agreement, length, ratio)
    energy[row] = 0.5 * max(whole - ridge * squares, 0.0)
