"""k-sparse codes by stages of several atoms, then exchanges, one row at a time."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .cpu_all_atoms import best_atom
from .cpu_gather import products_with
from .cpu_inverse import border, downdate, times
from .cpu_jit import compiled, inlined, part
from .cpu_replacement import exchanges, product_with, slopes, towards_column
from .cpu_replacement import room_for as room_for_exchanges
from .cpu_residual import residual
from .cpu_room import space
from .cpu_support import choose, finish, length_of, project
from .shared import CLASSES, LIMIT, RESOLUTION


@inlined
def _enter(e, pull, support, gram, D, whole, k, eps):
    """Room for atom ``e`` at the end of the support; how many atoms there are."""
    atoms, inverse, column = support.atoms, support.inverse, support.column
    left = project(gram, D, whole, e, atoms, inverse, k, column, support.products)
    if left <= eps**RESOLUTION * whole:
        return k
    border(inverse, column, k, left)
    atoms[k], support.values[k], support.pull[k] = e, 0, pull
    return k + 1


@inlined
def _pull(X, row, length, D, Q, e):
    """Product of an atom with a row of length 1; ``Q`` may have no rows."""
    return Q[row, e] / length if len(Q) else product_with(X, row, length, D, e)


@part
def least_squares(support, field, gram, k, old, positive):
    """Codes to least squares on the support, of which ``old`` atoms were there; how many stay.

    Newcomers that would turn negative leave before anything moves.
    """
    times(support.inverse, support.pull, k, support.column)
    while positive:
        before = k
        for i in range(before - 1, old - 1, -1):
            if support.column[i] <= 0:
                downdate(support.inverse, k, i)
                k -= 1
                support.atoms[i], support.pull[i] = support.atoms[k], support.pull[k]
                support.column[i] = support.column[k]
        if k == before:
            break
        times(support.inverse, support.pull, k, support.column)
    return towards_column(support, field, gram, k, positive)


@inlined
def _enter_best(
    X, row, length, D, gram, lengths, Q, support, field, e, k, room, share, least, eps
):  # fmt: skip
    """Candidates with nearly the largest gain come in; how many atoms there are then."""
    floor = -1.0
    while e >= 0 and room > 0:
        place = e % CLASSES
        gain = np.float64(field.gain[place])
        if floor < 0:
            floor = max(least, share * share * gain)
        if gain < floor:
            break
        before = k
        pull = _pull(X, row, length, D, Q, e)
        k = _enter(e, pull, support, gram, D, lengths[e], k, eps)
        room -= k - before
        field.top[place] = 0
        e = best_atom(field)
    return k


@part
def _look_at_candidates(X, row, D, length, support, field, k, least, r, near):
    """Gains of the candidates, one a class, by the residual as it is now; the best one or -1."""
    residual(X, row, D, length, support.atoms, support.values, k, r)
    for m in range(r.shape[0]):
        near.residual[0, m] = r[m]
    n = 0
    for place in range(CLASSES):
        if field.top[place] >= least:
            near.atom[n] = int(field.place[place]) + place
            n += 1
        field.top[place] = 0
    products_with(near.residual, 0, D, near.atom, n, near.slope)
    for i in range(n):
        slope = near.slope[i]
        if (slope if field.positive else abs(slope)) > field.floor:
            field.top[near.atom[i] % CLASSES] = slope * slope
    return best_atom(field)


class Near(NamedTuple):
    """Candidates that are looked at, at most one a class.

    Attributes
    ----------
    residual : array of shape (1, n_features)
    atom : int array of shape (CLASSES,)
    slope : array of shape (CLASSES + 3,)
    """

    residual: np.ndarray
    atom: np.ndarray
    slope: np.ndarray


def room_for(X, gram, lengths, most, positive, eps):
    """What :func:`stages` works in; arguments are as there."""
    near = Near(
        space((1, X.shape[1]), X.dtype), space(CLASSES, np.int64), space(CLASSES + 3, X.dtype)
    )
    return *room_for_exchanges(X, gram, lengths, most, positive, eps), near


@part
def look(
    X, row, length, D, gram, lengths, Q, most, positive, share, depth, eps, most_steps,
    support, field, k, room, r, near,
):  # fmt: skip
    """Stages among the best atom of each class, by slopes of all atoms that are known.

    Returns how many atoms there are, for how many there is room, and the number of stages.
    """
    e, steps, least = choose(X, row, D, length, support, field, gram, k, r), 0, 0.0
    if e >= 0:
        least = depth * depth * np.float64(field.gain[e % CLASSES])
    while steps < most_steps:
        grown = _enter_best(
            X, row, length, D, gram, lengths, Q, support, field, e, k, room, share, least, eps
        )
        if grown == k:
            break
        left = least_squares(support, field, gram, grown, k, positive)
        # a single atom always finds a place among codes that may not be negative
        room = most - left if left > k else 1
        k, steps = left, steps + 1
        if k == most:
            break
        e = _look_at_candidates(X, row, D, length, support, field, k, least, r, near)
    return k, room, steps


@compiled
def stages(
    rows, X, D, gram, lengths, Q, most, positive, share, depth, eps, max_steps, tol, codes, energy,
    n_iter, room,
):  # fmt: skip
    r"""Lower :math:`\tfrac12\|x-sD\|^2` by several atoms at once, then by exchanges.

    The largest product of each of 64 classes of atoms with the residual makes a candidate. A stage
    takes the candidates with at least ``share`` times the largest one, and refits. The next stage
    is among the same candidates, as long as one has ``depth`` times the largest of all at the last
    look. So slopes of all atoms, a sum of rows of the Gram matrix, are needed once for
    several stages.

    Parameters
    ----------
    share, depth : float
        In (0, 1].
    max_steps : int
        Most stages of a row, and most exchanges after them.
    others
        As in :func:`~.cpu_replacement.replacement`; ``codes`` holds zeros.
    room : tuple
        See :func:`room_for`.
    """
    support, trial, field, r, near = room
    for row in rows:
        length, k, steps, more, free = length_of(X, row), 0, 0, 0, most
        if length > 0:
            slopes(support, field, gram, Q, row, length, k)
        while length > 0 and k < most and steps < min(max_steps, LIMIT * most):
            k, free, more = look(
                X, row, length, D, gram, lengths, Q, most, positive, share, depth, eps,
                min(max_steps, LIMIT * most) - steps, support, field, k, free, r, near,
            )  # fmt: skip
            if more == 0:
                break
            steps += more
            slopes(support, field, gram, Q, row, length, k)
        more = 0
        if length > 0:
            k, more = exchanges(
                X, row, length, D, gram, lengths, Q, most, positive, eps, max_steps, tol,
                support, trial, field, k, r,
            )  # fmt: skip
        energy[row] = finish(X, row, D, length, support, k, positive, r, codes)
        n_iter[row] = steps + more
