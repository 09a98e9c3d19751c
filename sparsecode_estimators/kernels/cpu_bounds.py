"""Which atoms one row may violate, by products of all atoms with an earlier residual, compiled."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .cpu_gather import products_with
from .cpu_jit import inlined, part
from .cpu_room import space
from .cpu_vectors import (
    WIDTH,
    absolute,
    at_least,
    bits,
    get,
    how_many,
    largest,
    load,
    lowest,
    maximum,
    more_than,
    plus,
    splat,
    subtract,
)

# Measured: see benchmarks/NOTES.md.
GREED = 0.35  # atoms are violated by at least this share of the worst violation
POOL = 64  # about as many atoms are looked at, of all those that may be violated
HALVES = 24  # most steps of the search for a cut, which takes about ten
ROOM = 256  # if no more than so many may be, all of them are looked at


class Looked(NamedTuple):
    """Atoms that are looked at, and what is found out about them.

    Attributes
    ----------
    threshold : array of shape (n_components,)
        Penalties; infinite for atoms that are candidates already.
    top : array
        The worst violation of each ``WIDTH`` atoms, and what is always less at the end.
    near : int array of shape (ROOM + WIDTH,)
        Atoms whose slopes are computed.
    slope : array of shape (ROOM + WIDTH,)
        These slopes.
    violated : int array of shape (ROOM + WIDTH,)
        Those of them that are violated.
    longest, dearest : float
        The largest length of an atom, and the largest penalty.
    """

    threshold: np.ndarray
    top: np.ndarray
    near: np.ndarray
    slope: np.ndarray
    violated: np.ndarray
    longest: float
    dearest: float


def new_looked(penalty, longest):
    room, groups = ROOM + WIDTH, len(penalty) // WIDTH
    top = space(-(-groups // WIDTH) * WIDTH, penalty.dtype)
    top[groups:] = -np.inf
    return Looked(
        space(len(penalty), penalty.dtype),
        top,
        space(room, np.int64),
        space(room, penalty.dtype),
        space(room, np.int64),
        float(longest),
        float(penalty.max()),
    )


@inlined
def _size(slopes, place, positive):
    v = load(slopes, place)
    return v if positive else absolute(v)


@inlined
def _size_of(slopes, place, positive):
    v = get(slopes, place)
    return v if positive else abs(v)


@part
def _tops(slopes, start, looked, positive):
    """Write the worst violation of each ``WIDTH`` atoms; the worst of all."""
    threshold, top = looked.threshold, looked.top
    n_components, worst = len(threshold), top.dtype.type(-np.inf)
    for g in range(n_components // WIDTH):
        j = g * WIDTH
        top[g] = largest(subtract(_size(slopes, start + j, positive), load(threshold, j)))
        worst = max(worst, top[g])
    for j in range(n_components // WIDTH * WIDTH, n_components):
        worst = max(worst, _size_of(slopes, start + j, positive) - threshold[j])
    return worst


@part
def _above(slopes, start, lengths, reach, share, cut, positive, looked):
    """Write the atoms with ``slope + reach·length > share·threshold + cut``; how many, or as many
    as there is room for.
    """
    threshold, near, top = looked.threshold, looked.near, looked.top
    number = slopes.dtype.type
    n, n_components = 0, len(threshold)
    # no atom of a group can be above by more than the group's worst violation and this
    slack = number(reach * looked.longest + (1 - share) * looked.dearest - cut)
    for begin in range(0, len(top), WIDTH):
        groups = bits(more_than(load(top, begin), splat(-slack)))
        while groups:
            j = (begin + lowest(groups)) * WIDTH
            groups &= groups - 1
            bound = plus(_size(slopes, start + j, positive), reach, load(lengths, j))
            some = bits(more_than(bound, plus(splat(cut), share, load(threshold, j))))
            while some:
                near[n] = j + lowest(some)
                some &= some - 1
                n += 1
            if n >= ROOM:
                return ROOM
    for j in range(n_components // WIDTH * WIDTH, n_components):
        bound = _size_of(slopes, start + j, positive) + reach * lengths[j]
        if bound > share * threshold[j] + cut:
            near[n] = j
            n += 1
    return min(n, ROOM)


@part
def _cut(looked, k):
    """A number that the worst violations of about ``k`` groups are above.

    By halving, without the branches of a sort, of which half are not foreseen.
    """
    top = looked.top
    best = load(top, 0)
    for begin in range(WIDTH, len(top), WIDTH):
        best = maximum(best, load(top, begin))
    low, high = top.dtype.type(-looked.dearest), largest(best)
    half = top.dtype.type(0.5)
    for _ in range(HALVES):
        middle, count = half * (low + high), 0
        for begin in range(0, len(top), WIDTH):
            count += how_many(bits(at_least(load(top, begin), splat(middle))))
        if count < k:
            high = middle
        else:
            low = middle
        if count == k:
            break
    return low


@part
def most_violated(slopes, start, lengths, least, positive, looked):
    """Write the atoms that are violated most if the slopes are exact; how many."""
    number = slopes.dtype.type
    worst = _tops(slopes, start, looked, positive)
    cut = number(max(least, GREED * worst))
    n = _above(slopes, start, lengths, number(0), number(1), cut, positive, looked)
    for i in range(n):
        looked.violated[i] = looked.near[i]
    return n


@part
def look(slopes, start, lengths, reach, share, cut, residual, D, positive, looked):
    """Write the atoms that may exceed a share of their penalty, and their slopes.

    :func:`most_violated` has to be asked before.

    Parameters
    ----------
    slopes : array of shape (m, n_components)
        Those of the row begin at the place ``start``; they are off by at most ``reach`` times
        the lengths of the atoms.
    cut : float
        From the last look at this row, 0 at first.
    residual : array of shape (1, n_features)

    Returns
    -------
    n : int
        How many are looked at.
    all_ : bool
        Whether these are all that may.
    cut : float
        What, by the slopes as they are, no other atom is violated by; 0 if nobody asked yet.
    """
    number = slopes.dtype.type
    reach, share, zero = number(reach), number(share), number(0)
    n = _above(slopes, start, lengths, reach, share, zero, positive, looked)
    all_ = n < ROOM
    if not all_:
        if cut == 0:
            groups = len(looked.threshold) // WIDTH
            cut = _cut(looked, min(groups, POOL - POOL // 8))
        n = _above(slopes, start, lengths, zero, number(1), cut, positive, looked)
    products_with(residual, 0, D, looked.near, n, looked.slope)
    return n, all_, cut


@inlined
def violated(looked, n, penalty, least, positive):
    """Write those of the ``n`` atoms looked at that are violated most; how many."""
    near, slope, found = looked.near, looked.slope, looked.violated
    worst = least
    for i in range(n):
        size = slope[i] if positive else abs(slope[i])
        worst = max(worst, size - penalty[near[i]])
    cut, m = max(least, slope.dtype.type(GREED) * worst), 0
    for i in range(n):
        size = slope[i] if positive else abs(slope[i])
        if size - penalty[near[i]] > cut:
            found[m] = near[i]
            m += 1
    return m
