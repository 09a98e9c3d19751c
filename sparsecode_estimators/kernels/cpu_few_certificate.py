"""The last digits of the codes of few atoms, and the proof that they are good, in vectors."""

from __future__ import annotations

import numpy as np

from .cpu_certificate import gap_of
from .cpu_jit import inlined
from .cpu_vectors import (
    WIDTH,
    absolute,
    cast,
    divide,
    largest,
    load,
    maximum,
    multiply,
    plus,
    store,
    total,
    zeros,
)

STEPS = 3  # most Newton steps
ENOUGH = 1e-11  # error of a slope, of the largest product, that needs no other step
LEAST = 1e-300  # stands for a penalty of zero where one divides by it


@inlined
def _products(problem, state, r, k):
    """``d_j·(x − sD) − ridge·s_j`` of all atoms, from the Gram matrix and in double precision."""
    products, gram, found, exact = state.products, problem.exact_gram, state.found, state.exact
    width = found.shape[0]
    for b in range(0, width, WIDTH):
        v = load(products, r * width + b)
        for i in range(k):
            v = plus(v, -exact[i], load(gram, state.atom[r, i] * width + b))
        store(found, b, v)


@inlined
def _polish(problem, state, r, k, eps):
    """Newton steps from the exact products: ``exact`` then holds the codes, ``found`` theirs.

    One is enough but where atoms are nearly dependent.
    """
    code, mix, found, exact, wanted = state.code, state.mix, state.found, state.exact, state.wanted
    mine = r * mix.shape[1] * WIDTH
    enough = ENOUGH * state.top[r]
    for i in range(k):
        exact[i] = code[r, i]
    _products(problem, state, r, k)
    for _ in range(STEPS):
        store(wanted, 0, zeros(wanted))
        off = 0.0
        for i in range(k):
            e = state.atom[r, i]
            error = found[e] - problem.exact_penalty[e] * state.sign[r, i]
            wanted[i], off = error, max(off, abs(error))
        if off <= enough:
            break
        right, step = load(wanted, 0), zeros(wanted)
        for t in range(k):  # the inverse of their Gram matrix is mixᵀ·mix
            w = load(mix, mine + t * WIDTH)
            step = plus(step, total(multiply(w, right)), w)
        store(exact, 0, plus(load(exact, 0), 1.0, cast(step, exact)))
        for i in range(k):
            if exact[i] * state.sign[r, i] <= 0:
                exact[i] = 0
        _products(problem, state, r, k)


@inlined
def _worst_ratio(problem, found, positive):
    """Largest ``d_j·r/p_j``, active atoms, whose products are zero here, left out."""
    penalty = problem.exact_penalty
    worst = zeros(found)
    for b in range(0, penalty.shape[0], WIDTH):
        v = load(found, b)
        v = v if positive else absolute(v)
        worst = maximum(worst, divide(v, load(penalty, b)))
    return largest(worst)


@inlined
def conclude(X, row, problem, state, r, ridge, positive, eps, codes, gap, energy):
    r"""Write the codes of a row, their gap and the energy of its residual.

    With q = ``xDᵀ`` and g the products with the residual, less ρs,
    :math:`\|x - sD\|^2 + \rho\|s\|^2 = \|x\|^2 - s\cdot(q + g)`; all of it in double
    precision, and the products by the Gram matrix, so that the cost does not depend on the
    number of features. See :func:`~.cpu_certificate.gap_of`.
    """
    k = state.size[r]
    found, exact, penalty = state.found, state.exact, problem.exact_penalty
    _polish(problem, state, r, k, eps)
    whole = 0.0
    for m in range(X.shape[1]):
        whole += np.float64(X[row, m]) * np.float64(X[row, m])
    agreement, length, squares, ratio = 0.0, 0.0, 0.0, 0.0
    for i in range(k):
        e, value = state.atom[r, i], exact[i]
        codes[row, e] = value
        rounded = np.float64(codes[row, e])
        whole -= value * (state.products[r, e] + found[e])
        agreement += rounded * found[e]
        length += penalty[e] * abs(rounded)
        squares += value * value
        if penalty[e] > LEAST:
            ratio = max(ratio, found[e] * state.sign[r, i] / penalty[e])
        found[e] = 0
    ratio = max(ratio, _worst_ratio(problem, found, positive))
    whole = max(whole, 0.0)
    gap[row] = gap_of(whole, agreement, length, ratio)
    energy[row] = 0.5 * max(whole - ridge * squares, 0.0)
