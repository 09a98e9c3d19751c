"""Sixteen rows side by side, and their products with few atoms."""

from __future__ import annotations

from .cpu_jit import inlined
from .cpu_lane_vectors import columns, pick
from .cpu_vectors import (
    WIDTH,
    add,
    at_least,
    equal,
    get,
    load,
    plus,
    put,
    splat,
    store,
    where,
    zeros,
)
from .shared import FEW


@inlined
def read(X, rows, start, busy, x):
    """Sixteen of the rows, side by side; those that there are not are zeros.

    Rows that follow each other in memory are transposed in registers.
    """
    n_features, row, m = X.shape[1], rows[start], 0
    together = busy == WIDTH and rows[start + WIDTH - 1] - row == WIDTH - 1
    if together:
        for m in range(0, n_features - 3, 4):
            a, b, c, d = columns(X, row * n_features + m, n_features)
            store(x, m * WIDTH, a)
            store(x, (m + 1) * WIDTH, b)
            store(x, (m + 2) * WIDTH, c)
            store(x, (m + 3) * WIDTH, d)
    done = n_features // 4 * 4 if together else 0
    for m in range(done, n_features):
        store(x, m * WIDTH, zeros(x))
        for lane in range(busy):
            put(x, m * WIDTH + lane, get(X, rows[start + lane] * n_features + m))


@inlined
def multiply_rows(atoms, x, products, n_features, n_components):
    """Products of rows with all atoms, four at a time; tables are padded."""
    for j in range(0, n_components, 4):
        a, b, c, d = zeros(products), zeros(products), zeros(products), zeros(products)
        for m in range(n_features):
            v, place = load(x, m * WIDTH), m * FEW + j
            a = plus(a, get(atoms, place), v)
            b = plus(b, get(atoms, place + 1), v)
            c = plus(c, get(atoms, place + 2), v)
            d = plus(d, get(atoms, place + 3), v)
        store(products, j * WIDTH, a)
        store(products, (j + 1) * WIDTH, b)
        store(products, (j + 2) * WIDTH, c)
        store(products, (j + 3) * WIDTH, d)


@inlined
def look_up(table, place, n_components, e):
    """Entry ``e`` of the table over atoms that begins at a place, each lane its own."""
    v = pick(load(table, place), e)
    for b in range(WIDTH, n_components, WIDTH):
        beyond = at_least(e, splat(table.dtype.type(b)))
        v = where(beyond, pick(load(table, place + b), e), v)
    return v


@inlined
def of_atom(table, first, n_components, atom):
    """Entry ``atom`` of the vectors over atoms that begin with the ``first``, each lane its own."""
    one = splat(table.dtype.type(1))
    found, j = zeros(table), zeros(table)
    for place in range(first * WIDTH, (first + n_components) * WIDTH, WIDTH):
        found = where(equal(atom, j), load(table, place), found)
        j = add(j, one)
    return found
