"""Exchanges of atoms in k-sparse codes, one row at a time."""

from __future__ import annotations

import numpy as np

from .cpu_all_atoms import CHOSEN, new_field
from .cpu_inverse import border, downdate, times
from .cpu_jit import compiled, inlined, part
from .cpu_residual import residual, square
from .cpu_room import space
from .cpu_support import (
    choose,
    extend,
    finish,
    largest,
    length_of,
    look_again,
    new_support,
    project,
    settle,
    spread_sum,
)
from .cpu_vectors import WIDTH, load, store
from .shared import FLOOR, RESOLUTION

SURELY = 1e-6  # share by which an exchange has to lose before it is tried, for rounding


@part
def copy(support, other, k):
    """``k`` atoms of ``other`` and what is known of them."""
    for i in range(k):
        support.atoms[i], support.values[i] = other.atoms[i], other.values[i]
        support.pull[i] = other.pull[i]
        place = i * support.inverse.shape[1]
        for j in range(0, k, WIDTH):
            store(support.inverse, place + j, load(other.inverse, place + j))


@part
def product_with(X, row, length, D, e):
    """Product of an atom with a row of length 1, exactly."""
    total = 0.0
    for m in range(D.shape[1]):
        total += np.float64(X[row, m]) * D[e, m]
    return total / length


@part
def begin(X, row, length, D, gram, lengths, codes, support, field, most, positive, eps):
    """Least squares on the atoms of the largest codes; how many atoms there are."""
    atoms, values, pull, inverse = support.atoms, support.values, support.pull, support.inverse
    column, start, k = support.column, support.listed, 0
    for i in range(largest(codes, row, most, positive, start)):
        e, code = start[i], np.float64(codes[row, start[i]])
        left = project(gram, D, lengths[e], e, atoms, inverse, k, column, support.products)
        if left > eps**RESOLUTION * lengths[e]:
            border(inverse, column, k, left)
            atoms[k], values[k], pull[k] = e, code / length, product_with(X, row, length, D, e)
            k += 1
    times(inverse, pull, k, column)
    return towards_column(support, field, gram, k, positive)


@inlined
def towards_column(support, field, gram, k, positive):
    """Codes to ``support.column``, those that may not be negative by settling."""
    if positive:
        k, _ = settle(support, field, gram, k, 0, False)
        return k
    for i in range(k):
        support.values[i] = support.column[i]
    return k


@part
def _drop_smallest(support, field, gram, k, positive):
    """Least squares without the atom of the smallest code; how many atoms are left."""
    atoms, values, pull, inverse = support.atoms, support.values, support.pull, support.inverse
    goal, who = support.column, 0
    for i in range(1, k):
        if abs(values[i]) < abs(values[who]):
            who = i
    share = values[who] / inverse[who, who]
    for i in range(k):
        goal[i] = values[i] - inverse[i, who] * share
    downdate(inverse, k, who)
    k -= 1
    atoms[who], values[who], pull[who], goal[who] = atoms[k], values[k], pull[k], goal[k]
    return towards_column(support, field, gram, k, positive)


@inlined
def slopes(support, field, gram, Q, row, length, k):
    """Products of the residual with all atoms; which atoms are chosen."""
    slope, left = field.slope, field.left
    for j in range(Q.shape[1]):
        slope[j], left[j] = Q[row, j] / length, 1
    for i in range(k):
        support.weights[i] = support.values[i]
    for i in range(k):
        left[support.atoms[i]] = CHOSEN
    spread_sum(gram, support, field, k, slope.dtype.type(1), slope.dtype.type(0))


@part
def _energy(X, row, D, length, support, k, r):
    """``‖r‖²`` of the residual of a row of length 1, exactly."""
    residual(X, row, D, length, support.atoms, support.values, k, r)
    return square(r)


@inlined
def _in_vain(support, gram, D, whole, e, pull, k, most, positive, eps):
    """Whether exchanging an atom for ``e`` cannot lower the residual, by what is known before.

    With what the chosen atoms leave of ``e``, ``left``, it lowers ``‖r‖²`` by ``off²/left``, and
    to drop atom i then raises it by ``s_i²/H_ii``, H being the inverse with ``e``. Codes that
    may not be negative can only do worse, unless ``e`` makes one negative on the way.
    """
    if k < most:
        return False
    values, inverse, column = support.values, support.inverse, support.column
    left = project(gram, D, whole, e, support.atoms, inverse, k, column, support.products)
    if left <= eps**RESOLUTION * whole:
        return False
    off = pull
    for i in range(k):
        off -= values[i] * support.products[i]
    code = off / left
    smallest, price = abs(code), np.inf  # the newcomer would leave again
    for i in range(k):
        value = values[i] - column[i] * code
        if positive and value <= 0:
            return False
        if abs(value) < smallest:
            smallest = abs(value)
            price = value * value / (inverse[i, i] + column[i] * column[i] / left)
    return off * code < price * (1 - SURELY)


@part
def exchange(
    X, row, length, D, gram, lengths, most, positive, eps, tol, now, support, trial, field, k, r
):
    """An exchange of a row whose slopes are known, if one helps.

    ``now`` is the energy ``‖r‖²`` of its residual, less than zero if that is not known. Returns
    how many atoms there are after it, and the energy then: less than zero if none helps.
    """
    while True:
        e = choose(X, row, D, length, support, field, gram, k, r)
        if e < 0:
            return k, -1.0
        field.left[e] = CHOSEN
        pull = product_with(X, row, length, D, e)
        if _in_vain(support, gram, D, lengths[e], e, pull, k, most, positive, eps):
            return k, -1.0
        if now < 0:
            now = _energy(X, row, D, length, support, k, r)
        copy(trial, support, k)
        _, scale, _ = extend(trial, gram, D, lengths[e], e, pull, k, positive, eps)
        if scale == 0:  # the chosen ones span it
            look_again(gram, support, field)
            continue
        size = towards_column(trial, field, gram, k + 1, positive)
        if size > most:
            size = _drop_smallest(trial, field, gram, size, positive)
        after = _energy(X, row, D, length, trial, size, r)
        if not after < now - tol:
            return k, -1.0
        copy(support, trial, size)
        return size, after


@inlined
def exchanges(
    X, row, length, D, gram, lengths, Q, most, positive, eps, most_steps, tol,
    support, trial, field, k, r,
):  # fmt: skip
    """Exchanges as long as they help; slopes are known. Returns atoms and exchanges."""
    now, steps = -1.0, 0
    while steps < most_steps:
        k, now = exchange(
            X, row, length, D, gram, lengths, most, positive, eps, tol, now,
            support, trial, field, k, r,
        )  # fmt: skip
        if now < 0:
            break
        steps += 1
        if steps < most_steps:
            slopes(support, field, gram, Q, row, length, k)
    return k, steps


def room_for(X, gram, lengths, most, positive, eps):
    """What :func:`replacement` works in; arguments are as there."""
    floor = FLOOR * eps * np.sqrt(lengths.min())
    field = new_field(X, gram.shape[1], floor, 0.0, positive)
    return new_support(most + 1, X), new_support(most + 1, X), field, space(X.shape[1])


@compiled
def replacement(
    rows, X, D, gram, lengths, Q, most, positive, eps, max_steps, tol, codes, energy, n_iter,
    room,
):  # fmt: skip
    r"""Lower :math:`\tfrac12\|x-sD\|^2` by exchanges of atoms, as long as they help.

    The inverse of the chosen atoms' Gram matrix follows their coming and going; slopes of all
    atoms are a sum of rows of the Gram matrix. Whether an exchange has helped is said by the
    exact residual.

    Parameters
    ----------
    rows, X, D, gram, lengths, Q, most, positive, eps
        As in :func:`~.cpu_pursuit.pursuit`.
    max_steps : int
        Most exchanges of a row.
    tol : float
        Share of ``½‖x‖²`` by which an exchange has to lower the residual.
    codes : array of shape (n, n_components)
        The start. Written to, as are ``energy`` (``½‖x−sD‖²``) and ``n_iter``, of shape (n,):
        exchanges that helped.
    room : tuple
        See :func:`room_for`.
    """
    support, trial, field, r = room
    n_components = D.shape[0]
    for row in rows:
        length, k, steps = length_of(X, row), 0, 0
        if length > 0:
            k = begin(X, row, length, D, gram, lengths, codes, support, field, most, positive, eps)
        for j in range(n_components):
            codes[row, j] = 0
        if length > 0 and max_steps > 0:
            slopes(support, field, gram, Q, row, length, k)
            k, steps = exchanges(
                X, row, length, D, gram, lengths, Q, most, positive, eps, max_steps, tol,
                support, trial, field, k, r,
            )  # fmt: skip
        energy[row] = finish(X, row, D, length, support, k, positive, r, codes)
        n_iter[row] = steps
