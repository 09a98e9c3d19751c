"""Greedy k-sparse codes over few atoms, sixteen rows side by side."""

from __future__ import annotations

import numpy as np

from .cpu_jit import compiled, inlined
from .cpu_lane_finish import CLOSE, polish
from .cpu_lane_rows import look_up, multiply_rows, of_atom, read
from .cpu_lane_state import DEPTH
from .cpu_lane_vectors import power_below
from .cpu_vectors import (
    WIDTH,
    absolute,
    add,
    at_least,
    bits,
    both,
    divide,
    get,
    load,
    lowest,
    maximum,
    more_than,
    multiply,
    put,
    root,
    splat,
    store,
    subtract,
    where,
    zeros,
)
from .shared import FEW, FLOOR, RESOLUTION


@inlined
def _scale(state, n_features, floor):
    """Divide rows by a power of two, so that nothing under- or overflows."""
    x, one = state.x, splat(state.x.dtype.type(1))
    top = zeros(x)
    for m in range(n_features):
        top = maximum(top, absolute(load(x, m * WIDTH)))
    scale = power_below(top)
    nothing = at_least(zeros(x), scale)
    shrink = where(nothing, zeros(x), divide(one, where(nothing, one, scale)))
    square = zeros(x)
    for m in range(n_features):
        v = multiply(load(x, m * WIDTH), shrink)
        store(x, m * WIDTH, v)
        square = add(square, multiply(v, v))
    store(state.scale, 0, scale)
    store(state.floor, 0, multiply(splat(floor), square))
    store(state.size, 0, zeros(x))
    store(state.close, 0, zeros(x))


@inlined
def _begin(problem, state, n_features, n_components):
    """No atom is chosen."""
    multiply_rows(problem.atoms, state.x, state.slope, n_features, n_components)
    one = state.left.dtype.type(1)
    for j in range(n_components):
        length = get(problem.lengths, j)
        store(state.left, j * WIDTH, splat(length if length > 0 else one))
        store(state.left, (FEW + j) * WIDTH, splat(one))


@inlined
def _gain(problem, state, j, least, shares):
    """Slope of an atom, and its gain as a fraction: slope², zero where it is rounding, over
    the numbers from ``shares`` on, which are what is left of atoms, or ones, and never zero.

    No branches: what is compared before one and used after it would be packed into bytes.
    """
    s = load(state.slope, j * WIDTH)
    size = maximum(s, least)
    square = multiply(size, size)
    rounding = multiply(load(state.floor, 0), splat(get(problem.lengths, j)))
    square = where(more_than(square, rounding), square, zeros(state.slope))
    return s, square, load(state.left, (shares + j) * WIDTH)


@inlined
def _larger(a, slope_a, square_a, rest_a, b, slope_b, square_b, rest_b):
    """Of two atoms the second if its gain is larger. Fractions are compared without a division."""
    second = more_than(multiply(square_b, rest_a), multiply(square_a, rest_b))
    slope, square = where(second, slope_b, slope_a), where(second, square_b, square_a)
    return where(second, b, a), slope, square, where(second, rest_b, rest_a)


@inlined
def _best(problem, state, n_components, positive, ols):
    """The atom with the largest gain, its slope, what is left of it, and whether there is one.

    Of each two atoms first: each comparison with the best so far waits for the one before.
    """
    kind, none = state.slope.dtype.type, zeros(state.slope)
    one, two = splat(kind(1)), splat(kind(2))
    least = splat(kind(0) if positive else kind(-np.inf))
    shares = 0 if ols else FEW
    atom, slope, top, left, j = none, none, none, one, none
    for i in range(0, n_components - 1, 2):
        first = _gain(problem, state, i, least, shares)
        second = _gain(problem, state, i + 1, least, shares)
        winner = _larger(j, *first, add(j, one), *second)
        atom, slope, top, left = _larger(atom, slope, top, left, *winner)
        j = add(j, two)
    if n_components % 2:
        last = _gain(problem, state, n_components - 1, least, shares)
        atom, slope, top, left = _larger(atom, slope, top, left, j, *last)
    if not ols:
        left = of_atom(state.left, 0, n_components, atom)
    return atom, slope, left, more_than(top, none)


@inlined
def _shares(state, t, n_components, atom):
    """Products of an atom with the basis."""
    for u in range(t):
        store(state.share, u * WIDTH, of_atom(state.basis, u * FEW, n_components, atom))


@inlined
def _move(state, t, scale, height):
    """Codes to least squares with the newcomer, the ``t``-th."""
    mix, code, mine = state.mix, state.code, t * DEPTH
    for i in range(t):
        w = zeros(mix)
        for u in range(i, t):
            part = load(mix, (u * DEPTH + i) * WIDTH)
            w = subtract(w, multiply(load(state.share, u * WIDTH), part))
        w = multiply(w, scale)
        store(mix, (mine + i) * WIDTH, w)
        store(code, i * WIDTH, add(load(code, i * WIDTH), multiply(height, w)))
    store(mix, (mine + t) * WIDTH, scale)
    store(code, t * WIDTH, multiply(height, scale))


@inlined
def _spread(problem, state, t, n_components, atom, scale, height, resolution):
    """Slopes of all atoms, and what is left of them, after the ``t``-th atom has come in."""
    basis, slope = state.basis, state.slope
    for j in range(n_components):
        v = look_up(problem.gram, j * FEW, n_components, atom)
        for u in range(t):
            part = load(basis, (u * FEW + j) * WIDTH)
            v = subtract(v, multiply(load(state.share, u * WIDTH), part))
        v = multiply(v, scale)
        store(basis, (t * FEW + j) * WIDTH, v)
        left = subtract(load(state.left, j * WIDTH), multiply(v, v))
        rounding = splat(resolution * get(problem.lengths, j))
        store(state.left, j * WIDTH, maximum(left, rounding))
        s = subtract(load(slope, j * WIDTH), multiply(height, v))
        there = more_than(left, rounding)
        store(slope, j * WIDTH, where(there, s, zeros(slope)))


@inlined
def _any_crossed(state, t):
    """Rows, as bits, in which one of the first codes is not positive."""
    crossed = 0
    for i in range(t + 1):
        code, size = load(state.code, i * WIDTH), load(state.size, 0)
        chosen = more_than(size, splat(state.size.dtype.type(i)))
        crossed |= bits(both(chosen, at_least(zeros(state.code), code)))
    return crossed


@inlined
def _pursue(problem, state, n_components, most, positive, ols, resolution):
    """Atoms of sixteen rows. Returns most atoms of a row, and rows that lose one, as bits."""
    crossed, one, none = 0, splat(state.slope.dtype.type(1)), zeros(state.slope)
    for t in range(most):
        atom, found, rest, some = _best(problem, state, n_components, positive, ols)
        if bits(some) == 0:
            return t, crossed
        scale = where(some, divide(one, root(rest)), none)
        height = multiply(found, scale)
        store(state.atom, t * WIDTH, atom)
        store(state.size, 0, add(load(state.size, 0), where(some, one, none)))
        length = look_up(problem.lengths, 0, n_components, atom)
        near = more_than(multiply(splat(state.slope.dtype.type(CLOSE)), length), rest)
        store(state.close, 0, where(near, one, load(state.close, 0)))
        _shares(state, t, n_components, atom)
        _move(state, t, scale, height)
        if positive:
            crossed |= _any_crossed(state, t)
        if t + 1 < most:
            _spread(problem, state, t, n_components, atom, scale, height, resolution)
    return most, crossed


@inlined
def _write(state, row, busy, crossed, k, codes, energy, n_iter):
    """What was found."""
    n_components = codes.shape[1]
    for i in range(k):
        code = multiply(load(state.code, i * WIDTH), load(state.scale, 0))
        store(state.code, i * WIDTH, code)
    for lane in range(busy):
        here = (row + lane) * n_components
        if crossed >> lane & 1:
            continue
        size, scale = int(get(state.size, lane)), np.float64(get(state.scale, lane))
        for i in range(size):
            place = i * WIDTH + lane
            put(codes, here + int(get(state.atom, place)), get(state.code, place))
        put(energy, row + lane, 0.5 * scale * scale * max(get(state.energy, lane), 0.0))
        put(n_iter, row + lane, size)


@compiled
def lane_pursuit(rows, left, X, problem, state, most, positive, ols, eps, codes, energy, n_iter):
    """Add one atom after the other to every row, as :func:`~.cpu_pursuit.pursuit`.

    A row's numbers meet only those of the dictionary, so that its answer does not depend on
    the fifteen rows beside it.

    Parameters
    ----------
    rows : int array
        Rows that follow each other.
    left : int array of shape (len(rows),)
        Receives the rows that are left, as a refit to non-negative codes dropped an atom.
    problem : Lanes
    state : Abreast
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
    kind, n_features, n_components = state.x.dtype.type, X.shape[1], codes.shape[1]
    floor, resolution = kind(FLOOR * eps * FLOOR * eps), kind(eps**RESOLUTION)
    n_left = 0
    for start in range(0, len(rows), WIDTH):
        busy = min(WIDTH, len(rows) - start)
        read(X, rows, start, busy, state.x)
        _scale(state, n_features, floor)
        _begin(problem, state, n_features, n_components)
        k, crossed = _pursue(problem, state, n_components, most, positive, ols, resolution)
        polish(problem, state, n_features, n_components, k)
        if positive:  # a code of a hair above zero may have been rounding
            crossed |= _any_crossed(state, k - 1)
        _write(state, rows[start], busy, crossed, k, codes, energy, n_iter)
        crossed &= (1 << busy) - 1
        while crossed:
            left[n_left] = rows[start] + lowest(crossed)
            crossed &= crossed - 1
            n_left += 1
    return n_left
