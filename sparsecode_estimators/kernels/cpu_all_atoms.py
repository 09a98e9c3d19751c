"""What one row says about all atoms: sums of rows of the Gram matrix, and the best atom."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .cpu_jit import inlined, part
from .cpu_room import space
from .cpu_vectors import (
    WIDTH,
    absolute,
    at_least,
    both,
    divide,
    first,
    largest,
    load,
    maximum,
    more_than,
    multiply,
    plus,
    splat,
    store,
    subtract,
    where,
    zeros,
)
from .shared import CLASSES

CHOSEN = -1  # what is left of an atom that cannot be chosen


class Field(NamedTuple):
    """What one row says about all atoms; arrays of shape (n_components,) and some padding.

    Attributes
    ----------
    slope : array
        Products with the residual, for a row of length 1.
    left : array
        Squared length of the part that chosen atoms do not explain; ones for a rule that does
        not ask. Less than zero where an atom cannot be chosen.
    top, rest, place : arrays of shape (CLASSES,)
        The best atom of each class: its squared slope (0 if there is none), what is left of it,
        and the number of the first atom beside it.
    gain : array of shape (CLASSES,)
        The ratio of both, once :func:`best_atom` has been asked.
    floor, least : numbers
        An atom counts if its slope is above ``floor`` and more than ``least`` is left of it.
    positive : bool
        Whether only positive slopes count.
    """

    slope: np.ndarray
    left: np.ndarray
    top: np.ndarray
    rest: np.ndarray
    place: np.ndarray
    gain: np.ndarray
    floor: float
    least: float
    positive: bool


def new_field(like, width, floor, least, positive):
    """``width`` is that of a row of the Gram matrix."""
    kind = like.dtype.type
    slope, left = (space(width, like.dtype) for _ in range(2))
    top, rest, place, gain = (space(CLASSES, like.dtype) for _ in range(4))
    left[:] = rest[:] = 1
    return Field(slope, left, top, rest, place, gain, kind(floor), kind(least), positive)


@inlined
def _update(field, j, v, height, change):
    """Slopes and what is left of sixteen atoms, from the sum ``v``."""
    slope = subtract(load(field.slope, j), multiply(splat(height), v))
    left = plus(load(field.left, j), change, multiply(v, v))
    store(field.slope, j, slope)
    store(field.left, j, left)
    return slope, left


@inlined
def _better(slope, left, j, floor, least, positive, top, rest, place):
    """The best of a class: by fractions, without a division."""
    square = multiply(slope, absolute(slope) if positive else slope)
    better = more_than(multiply(square, rest), multiply(top, left))
    better = both(better, both(more_than(square, floor), more_than(left, least)))
    return where(better, square, top), where(better, left, rest), where(better, j, place)


@part
def spread(gram, atoms, weights, k, height, change, field):
    r"""With :math:`v = \sum_i w_i G_{e_i}`, ``slope −= height·v`` and ``left += change·v²``.

    And the best atom of each class: that with the largest slope²/left, which is twice what it
    would lower the residual by. A block of atoms stays in registers all the way.
    """
    width, kind, positive = gram.shape[1], field.slope.dtype.type, field.positive
    floors, leasts = splat(field.floor * field.floor), splat(field.least)
    none, one = zeros(field.slope), splat(kind(1))
    ta, tb, tc, td = none, none, none, none
    ra, rb, rc, rd = one, one, one, one
    pa, pb, pc, pd = none, none, none, none
    for j in range(0, width, CLASSES):
        a, b, c, d = none, none, none, none
        for i in range(k):
            place, w = atoms[i] * width + j, weights[i]
            a = plus(a, w, load(gram, place))
            b = plus(b, w, load(gram, place + WIDTH))
            c = plus(c, w, load(gram, place + 2 * WIDTH))
            d = plus(d, w, load(gram, place + 3 * WIDTH))
        here = splat(kind(j))
        s, left = _update(field, j, a, height, change)
        ta, ra, pa = _better(s, left, here, floors, leasts, positive, ta, ra, pa)
        s, left = _update(field, j + WIDTH, b, height, change)
        tb, rb, pb = _better(s, left, here, floors, leasts, positive, tb, rb, pb)
        s, left = _update(field, j + 2 * WIDTH, c, height, change)
        tc, rc, pc = _better(s, left, here, floors, leasts, positive, tc, rc, pc)
        s, left = _update(field, j + 3 * WIDTH, d, height, change)
        td, rd, pd = _better(s, left, here, floors, leasts, positive, td, rd, pd)
    _keep(field, 0, ta, ra, pa)
    _keep(field, 1, tb, rb, pb)
    _keep(field, 2, tc, rc, pc)
    _keep(field, 3, td, rd, pd)


@inlined
def _keep(field, which, top, rest, place):
    store(field.top, which * WIDTH, top)
    store(field.rest, which * WIDTH, rest)
    store(field.place, which * WIDTH, place)


@part
def best_atom(field):
    """Atom with the largest gain of all classes, or -1."""
    gain = zeros(field.top)
    for some in range(0, CLASSES, WIDTH):
        store(field.gain, some, divide(load(field.top, some), load(field.rest, some)))
        gain = maximum(gain, load(field.gain, some))
    best = largest(gain)
    if best == 0:
        return -1
    for some in range(0, CLASSES, WIDTH):
        here = first(at_least(load(field.gain, some), splat(best)))
        if here < WIDTH:
            return int(field.place[some + here]) + some + here
    return -1


@part
def best_listed(atoms, count, field):
    """The same among ``count`` atoms."""
    best, found = field.floor * 0, -1
    for i in range(count):
        slope, left = field.slope[atoms[i]], field.left[atoms[i]]
        size = slope if field.positive else abs(slope)
        if size > field.floor and left > field.least and size * size / left > best:
            best, found = size * size / left, atoms[i]
    return found
