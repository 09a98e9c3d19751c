"""The chosen atoms of one row: how they come and go, and least squares on them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .cpu_all_atoms import best_atom, spread
from .cpu_inverse import border, dot_product, downdate, new_inverse, padded, times
from .cpu_jit import inlined, part
from .cpu_residual import dot, residual, square, subtract
from .cpu_room import space
from .cpu_rounded_atoms import all_slopes, best_of_near
from .shared import FLOOR, RESOLUTION

ROUNDED = 2  # bytes of a number of bfloat16


class Support(NamedTuple):
    r"""Chosen atoms of one row, in double precision; see :func:`new_support`.

    Attributes
    ----------
    atoms : int array of shape (size,)
    values : array of shape (size,)
        Their codes, least squares but while atoms come and go.
    pull : array of shape (size,)
        Their products with the row.
    inverse : array
        Of their Gram matrix; see :mod:`~.cpu_inverse`.
    column, products : arrays of shape (padded size,)
        Scratch: coefficients of a newcomer on the others, and its products with them.
    weights : array of shape (size,)
        Scratch, in the precision of the Gram matrix.
    listed : int array of shape (3·size,)
        Atoms to be tried before all others: those of a start, or those that turned negative
        since the last newcomer, since one may be wanted again after another has gone.
    """

    atoms: np.ndarray
    values: np.ndarray
    pull: np.ndarray
    inverse: np.ndarray
    column: np.ndarray
    products: np.ndarray
    weights: np.ndarray
    listed: np.ndarray


def new_support(size, like):
    return Support(
        space(size, np.int64),
        space(size),
        space(size),
        new_inverse(size, np.float64),
        space(padded(size)),
        space(padded(size)),
        space(size, like.dtype),
        space(3 * size, np.int64),
    )


@inlined
def length_of(X, row):
    """Length of a row, in double precision."""
    total = 0.0
    for m in range(X.shape[1]):
        total += np.float64(X[row, m]) * X[row, m]
    return np.sqrt(total)


@inlined
def spread_sum(gram, support, field, k, height, change):
    """A sum of rows of the Gram matrix, by ``support.weights``, into the field."""
    spread(gram, support.atoms, support.weights, k, height, change, field)


@inlined
def look_again(gram, support, field):
    """The best atoms of the field as it is."""
    none = field.slope.dtype.type(0)
    spread(gram, support.atoms, support.weights, 0, none, none, field)


@part
def choose(X, row, D, length, support, field, gram, k, r):
    """The best atom of all that are not chosen, or -1; exactly, even where sums are rounded."""
    e = best_atom(field)
    if e >= 0 and gram.itemsize == ROUNDED:
        residual(X, row, D, length, support.atoms, support.values, k, r)
        e = best_of_near(r, D, field, e)
        if e < 0:
            all_slopes(r, D, field.slope)
            look_again(gram, support, field)
            e = best_atom(field)
    return e


@inlined
def _product(gram, D, i, j):
    """Of two atoms, exactly; the Gram matrix may have no rows."""
    if gram.itemsize != ROUNDED and len(gram) > 0:
        return np.float64(gram[i, j])
    total = 0.0
    for m in range(D.shape[1]):
        total += np.float64(D[i, m]) * np.float64(D[j, m])
    return total


@inlined
def project(gram, D, whole, e, atoms, inverse, k, column, products):
    """Coefficients of an atom on the chosen ones; what is left of its squared length."""
    for i in range(k):
        products[i] = _product(gram, D, e, atoms[i])
    times(inverse, products, k, column)
    return whole - dot_product(column, products, k)


@inlined
def extend(support, gram, D, whole, e, pull, k, positive, eps):
    """Room for atom ``e``, whose product with the row is ``pull``, at the end of the support.

    ``support.column`` says where codes go for least squares with it, ``weights`` in which
    direction it extends the others' span. Returns the part of the row along that direction, one
    over the length of what is new (0 if nothing is: then all stays), and whether a code would
    turn negative.
    """
    atoms, values, inverse = support.atoms, support.values, support.inverse
    column, products, weights = support.column, support.products, support.weights
    unexplained = project(gram, D, whole, e, atoms, inverse, k, column, products)
    off = pull
    for i in range(k):
        off -= values[i] * products[i]
    floor = FLOOR * eps * np.sqrt(whole)
    if unexplained <= eps**RESOLUTION * whole or (off if positive else abs(off)) <= floor:
        return 0.0, 0.0, False
    border(inverse, column, k, unexplained)
    scale = 1 / np.sqrt(unexplained)
    blocked = False
    for i in range(k):
        weights[i] = -column[i] * scale
        column[i] = values[i] - column[i] * off / unexplained
        blocked |= column[i] <= 0
    atoms[k], values[k], weights[k], column[k] = e, 0, scale, off / unexplained
    support.pull[k] = pull
    return off * scale, scale, positive and blocked


@part
def _first_to_vanish(values, goal, k):
    """How much of the way to a goal can be gone before a code reaches zero, and whose."""
    share, who = 1.0, -1
    for i in range(k):
        way = values[i] - goal[i]
        if goal[i] <= 0 and values[i] <= share * way:
            # a code that is there already has no way to go
            share, who = (values[i] / way if way > 0 else 0.0), i
    return share, who


@part
def settle(support, field, gram, k, gone, ols):
    """Codes to least squares on the support, less the atoms that turn negative on the way.

    ``support.column`` holds where the codes go first. Returns how many atoms are left, and
    how many of ``support.listed`` there are.
    """
    atoms, values, pull, inverse = support.atoms, support.values, support.pull, support.inverse
    goal, weights, listed = support.column, support.weights, support.listed
    slope, left = field.slope, field.left
    none, one = slope.dtype.type(0), slope.dtype.type(1)
    while True:
        share, who = _first_to_vanish(values, goal, k)
        for i in range(k):
            values[i] += share * (goal[i] - values[i])
        if who < 0:
            return k, gone
        if gone < listed.shape[0]:
            listed[gone] = atoms[who]
            gone += 1
        left[atoms[who]] = one
        if ols:
            length = np.sqrt(inverse[who, who])
            for i in range(k):
                weights[i] = inverse[i, who] / length
            spread_sum(gram, support, field, k, none, one)
            left[atoms[who]] = 1 / inverse[who, who]
        downdate(inverse, k, who)
        k -= 1
        atoms[who], values[who], pull[who] = atoms[k], values[k], pull[k]
        times(inverse, pull, k, goal)


@part
def largest(codes, row, most, positive, found):
    """Atoms of the largest entries of a start, at most ``most``; how many."""
    count = 0
    for j in range(codes.shape[1]):
        value = codes[row, j] if positive else abs(codes[row, j])
        if not value > 0:
            continue
        if count < most:
            found[count] = j
            count += 1
            continue
        least = 0
        for i in range(1, count):
            if abs(codes[row, found[i]]) < abs(codes[row, found[least]]):
                least = i
        if value > abs(codes[row, found[least]]):
            found[least] = j
    return count


@part
def finish(X, row, D, length, support, k, positive, r, codes):
    """Write a row's codes after one Newton step from the exact residual; ``½‖x − sD‖²``."""
    atoms, values, inverse = support.atoms, support.values, support.inverse
    products, step = support.products, support.column
    for m in range(r.shape[0]):
        r[m] = X[row, m]
    for i in range(k):
        values[i] *= length
    subtract(r, values, D, atoms, k)
    for i in range(k):
        products[i] = dot(r, D, atoms[i])
    energy, held = square(r), False
    times(inverse, products, k, step)
    for i in range(k):
        if positive and values[i] + step[i] <= 0:
            held, step[i] = True, -values[i]
        energy -= step[i] * products[i]
        codes[row, atoms[i]] = values[i] + step[i]
    if held:  # then the step is not the whole one, and lowers the energy by something else
        subtract(r, step, D, atoms, k)
        energy = square(r)
    return 0.5 * max(energy, 0.0)
