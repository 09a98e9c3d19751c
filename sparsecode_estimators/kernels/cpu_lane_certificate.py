"""The last digits of the lasso's codes of rows side by side, and the proof that they are good."""

from __future__ import annotations

from .cpu_jit import inlined
from .cpu_lane_rows import look_up, multiply_rows
from .cpu_lane_state import DEPTH
from .cpu_lane_vectors import in_turn
from .cpu_vectors import (
    WIDTH,
    absolute,
    add,
    bits,
    cast,
    divide,
    get,
    load,
    maximum,
    more_than,
    multiply,
    splat,
    store,
    subtract,
    where,
    zeros,
)
from .shared import FEW

GOOD = 1e-9  # gap, of the energy of the row, up to which it is not solved again


@inlined
def _residual(problem, state, n_features, width, k):
    """``x − sD`` in double precision; the active atoms' numbers, which are wanted again."""
    wide = state.rest
    for i in range(k):
        store(state.exact, i * WIDTH, cast(load(state.code, i * WIDTH), wide))
        e = load(state.atom, i * WIDTH)
        for m in range(n_features):
            d = look_up(problem.atoms, m * FEW, width, e)
            store(state.numbers, (i * n_features + m) * WIDTH, d)
    for m in range(n_features):
        r = cast(load(state.x, m * WIDTH), wide)
        for i in range(k):
            d = load(state.numbers, (i * n_features + m) * WIDTH)
            less = subtract(zeros(wide), load(state.exact, i * WIDTH))
            r = in_turn(r, less, cast(d, wide))
        store(state.rest, m * WIDTH, r)


@inlined
def _errors(problem, state, n_features, width, k):
    """How far products of active atoms with the residual are from their penalties."""
    for i in range(k):
        e, sign = load(state.atom, i * WIDTH), load(state.sign, i * WIDTH)
        price = multiply(sign, look_up(problem.penalty, 0, width, e))
        error = subtract(zeros(state.rest), cast(price, state.rest))
        for m in range(n_features):
            d = cast(load(state.numbers, (i * n_features + m) * WIDTH), state.rest)
            error = add(error, multiply(d, load(state.rest, m * WIDTH)))
        store(state.near, i * WIDTH, cast(error, state.near))


@inlined
def times_inverse(state, i, k):
    """Entry ``i`` of the inverse, of which ``k`` slots are in use, times ``near``."""
    total = zeros(state.near)
    for u in range(i):
        h = load(state.inverse, (i * DEPTH + u) * WIDTH)
        total = in_turn(total, h, load(state.near, u * WIDTH))
    for u in range(i, k):
        h = load(state.inverse, (u * DEPTH + i) * WIDTH)
        total = in_turn(total, h, load(state.near, u * WIDTH))
    return total


@inlined
def _newton(state, k):
    """One step: ``mix`` holds it, ``exact`` and ``code`` where it leads."""
    for i in range(k):
        step = times_inverse(state, i, k)
        store(state.mix, i * WIDTH, step)
        exact = add(load(state.exact, i * WIDTH), cast(step, state.exact))
        store(state.exact, i * WIDTH, exact)
        store(state.code, i * WIDTH, cast(exact, state.code))


@inlined
def _follow(state, n_features, k):
    """The residual after the step.

    Returns ``‖x‖²``, ``‖x − sD‖²`` and the product of sD with the residual.
    """
    wide = state.rest
    whole, energy, agreement = zeros(wide), zeros(wide), zeros(wide)
    for m in range(n_features):
        change = zeros(state.mix)
        for i in range(k):
            d = load(state.numbers, (i * n_features + m) * WIDTH)
            change = in_turn(change, load(state.mix, i * WIDTH), d)
        r = subtract(load(state.rest, m * WIDTH), cast(change, wide))
        store(state.rest, m * WIDTH, r)
        x = cast(load(state.x, m * WIDTH), wide)
        whole = add(whole, multiply(x, x))
        energy = add(energy, multiply(r, r))
        agreement = add(agreement, multiply(subtract(x, r), r))
    return whole, energy, agreement


@inlined
def _worst_ratio(problem, state, n_features, width, positive):
    """Largest ``d_j·r/p_j``."""
    multiply_rows(problem.wide, state.rest, state.wide, n_features, width)
    worst = zeros(state.wide)
    for j in range(width):
        v = load(state.wide, j * WIDTH)
        v = v if positive else absolute(v)
        worst = maximum(worst, multiply(v, splat(get(problem.rate, j))))
    return worst


@inlined
def _length(problem, state, width, k):
    """``Σ p_j |s_j|``, and as bits the rows in which a code has not its sign."""
    length, wrong = zeros(state.exact), 0
    for i in range(k):
        price = look_up(problem.penalty, 0, width, load(state.atom, i * WIDTH))
        size = absolute(load(state.exact, i * WIDTH))
        length = in_turn(length, cast(price, state.exact), size)
        against = multiply(load(state.code, i * WIDTH), load(state.sign, i * WIDTH))
        wrong |= bits(more_than(zeros(state.code), against))
    return length, wrong


@inlined
def certify(problem, state, n_features, width, k, positive):
    """A Newton step from the exact residual, then gaps and energies (the first two of ``exact``).

    See :func:`~.cpu_certificate.gap_of`. They are those of codes that are not rounded to their
    type: at the optimum, rounding moves the objective by the square of what it moves codes.
    Returns, as bits, the rows that are not solved.
    """
    _residual(problem, state, n_features, width, k)
    _errors(problem, state, n_features, width, k)
    _newton(state, k)
    whole, energy, agreement = _follow(state, n_features, k)
    length, wrong = _length(problem, state, width, k)
    ratio = _worst_ratio(problem, state, n_features, width, positive)
    none, one = zeros(state.exact), splat(state.exact.dtype.type(1))
    some = more_than(energy, none)
    c = add(one, divide(where(some, agreement, none), where(some, energy, one)))
    c = divide(maximum(c, none), maximum(one, multiply(maximum(c, none), ratio)))
    slack = maximum(none, subtract(length, multiply(c, agreement)))
    c = subtract(one, c)
    half = splat(state.exact.dtype.type(0.5))
    gap = add(multiply(multiply(half, multiply(c, c)), energy), slack)
    store(state.exact, 0, gap)
    store(state.exact, WIDTH, multiply(half, energy))
    wrong |= bits(more_than(gap, multiply(splat(state.exact.dtype.type(0.5 * GOOD)), whole)))
    return wrong | bits(more_than(load(state.lost, 0), zeros(state.lost)))
