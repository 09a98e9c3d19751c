"""The last digits of codes of rows side by side."""

from __future__ import annotations

from .cpu_jit import inlined
from .cpu_lane_rows import look_up
from .cpu_lane_state import DEPTH, FEW
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

STEPS = 3  # most Newton steps of a row whose atoms are nearly dependent; others take one
CLOSE = 0.01  # share of an atom's squared length below which the others nearly span it


@inlined
def _residual(problem, state, n_features, n_components, k):
    """``x − sD``, in double precision until it is there, and its squared length."""
    wide = state.energy
    energy = zeros(wide)
    for m in range(n_features):
        r = cast(load(state.x, m * WIDTH), wide)
        for i in range(k):
            d = look_up(problem.atoms, m * FEW, n_components, load(state.atom, i * WIDTH))
            r = subtract(r, multiply(cast(load(state.code, i * WIDTH), wide), cast(d, wide)))
        energy = add(energy, multiply(r, r))
        store(state.rest, m * WIDTH, cast(r, state.rest))
    return energy


@inlined
def _errors(problem, state, n_features, n_components, k):
    """Products of chosen atoms with the residual, which are zero for least squares."""
    for i in range(k):
        error, e = zeros(state.error), load(state.atom, i * WIDTH)
        for m in range(n_features):
            d = look_up(problem.atoms, m * FEW, n_components, e)
            error = add(error, multiply(d, load(state.rest, m * WIDTH)))
        store(state.error, i * WIDTH, error)


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
        energy = _residual(problem, state, n_features, n_components, k)
        _errors(problem, state, n_features, n_components, k)
        energy = subtract(energy, _newton(state, k, mask))
        store(state.energy, 0, where(mask, energy, load(state.energy, 0)))
