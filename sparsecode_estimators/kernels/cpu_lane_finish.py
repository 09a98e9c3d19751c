"""The last digits of codes of rows side by side."""

from __future__ import annotations

from .cpu_jit import inlined
from .cpu_lane_rows import look_up
from .cpu_lane_state import DEPTH, SOME
from .cpu_vectors import (
    WIDTH,
    add,
    at_least,
    bits,
    cast,
    load,
    more_than,
    multiply,
    store,
    subtract,
    where,
    zeros,
)
from .shared import FEW

STEPS = 3  # most Newton steps of a row whose atoms are nearly dependent; others take one
CLOSE = 0.01  # share of an atom's squared length below which the others nearly span it


@inlined
def _look_up(problem, state, first, last, n_components, k):
    """The chosen atoms' numbers for some features."""
    for i in range(k):
        e = load(state.atom, i * WIDTH)
        for m in range(first, last):
            d = look_up(problem.atoms, m * FEW, n_components, e)
            store(state.number, (i * SOME + m - first) * WIDTH, d)


@inlined
def _residual(state, first, last, k):
    """Some features of ``x − sD``, in double precision until it is there; its squared length."""
    wide = state.energy
    energy = zeros(wide)
    for m in range(first, last):
        r = cast(load(state.x, m * WIDTH), wide)
        for i in range(k):
            d = cast(load(state.number, (i * SOME + m - first) * WIDTH), wide)
            r = subtract(r, multiply(cast(load(state.code, i * WIDTH), wide), d))
        energy = add(energy, multiply(r, r))
        store(state.rest, (m - first) * WIDTH, cast(r, state.rest))
    return energy


@inlined
def _errors(state, n_some, k):
    """Add products of chosen atoms with the residual, which are zero for least squares."""
    for i in range(k):
        error = load(state.error, i * WIDTH)
        for m in range(n_some):
            d = load(state.number, (i * SOME + m) * WIDTH)
            error = add(error, multiply(d, load(state.rest, m * WIDTH)))
        store(state.error, i * WIDTH, error)


@inlined
def _look(problem, state, n_features, n_components, k):
    """``error`` and the squared length of the residual, some features after the other."""
    energy = zeros(state.energy)
    for i in range(k):
        store(state.error, i * WIDTH, zeros(state.error))
    for first in range(0, n_features, SOME):
        last = min(first + SOME, n_features)
        _look_up(problem, state, first, last, n_components, k)
        energy = add(energy, _residual(state, first, last, k))
        _errors(state, last - first, k)
    return energy


@inlined
def _newton(state, k, mask):
    """One step of the rows of a mask; how much it lowers the squared length of the residual.

    The inverse of the chosen atoms' Gram matrix is ``mixᵀ·mix``, in which atoms that a row does
    not have are zeros.
    """
    gain = zeros(state.energy)
    for i in range(k):
        store(state.share, i * WIDTH, zeros(state.share))
    for t in range(k):
        v = zeros(state.mix)
        for i in range(t + 1):
            w = load(state.mix, (t * DEPTH + i) * WIDTH)
            v = add(v, multiply(w, load(state.error, i * WIDTH)))
        for i in range(t + 1):
            w = load(state.mix, (t * DEPTH + i) * WIDTH)
            step = add(load(state.share, i * WIDTH), multiply(v, w))
            store(state.share, i * WIDTH, step)
        wide = cast(v, state.energy)
        gain = add(gain, multiply(wide, wide))
    for i in range(k):
        code = load(state.code, i * WIDTH)
        moved = add(code, load(state.share, i * WIDTH))
        store(state.code, i * WIDTH, where(mask, moved, code))
    return gain


@inlined
def polish(problem, state, n_features, n_components, k):
    """Newton steps from the exact residual, whose squared length ``energy`` then holds."""
    close = more_than(load(state.close, 0), zeros(state.close))
    mask = at_least(load(state.size, 0), zeros(state.size))
    for step in range(STEPS):
        if step > 0:
            mask = close
        if bits(mask) == 0:
            break
        energy = _look(problem, state, n_features, n_components, k)
        energy = subtract(energy, _newton(state, k, mask))
        store(state.energy, 0, where(mask, energy, load(state.energy, 0)))
