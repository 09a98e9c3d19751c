"""Which atoms one row may violate, by products of all atoms with an earlier residual, compiled."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .cpu_gather import products_with
from .cpu_jit import inlined, part
from .cpu_room import space
from .cpu_select import kth_largest
from .cpu_vectors import (
    WIDTH,
    absolute,
    bits,
    get,
    load,
    lowest,
    maximum,
    more_than,
    plus,
    splat,
    store,
    subtract,
)

# Measured: see benchmarks/NOTES.md.
GREED = 0.35  # atoms are violated by at least this share of the worst violation
POOL = 128  # about as many atoms are looked at, of all those that may be violated
ROOM = 256  # if no more than so many may be, all of them are looked at
GROUPS = 1024  # maxima of so many groups tell which ones are worth a look


class Looked(NamedTuple):
    """Atoms that are looked at, and what is found out about them.

    Attributes
    ----------
    threshold : array of shape (n_components,)
        Penalties; infinite for atoms that are candidates already.
    top : array of shape (GROUPS,)
        Scratch.
    near : int array of shape (ROOM + WIDTH,)
        Atoms whose slopes are computed.
    slope : array of shape (ROOM + WIDTH,)
        These slopes.
    violated : int array of shape (ROOM + WIDTH,)
        Those of them that are violated.
    """

    threshold: np.ndarray
    top: np.ndarray
    near: np.ndarray
    slope: np.ndarray
    violated: np.ndarray


def new_looked(penalty):
    room = ROOM + WIDTH
    return Looked(
        space(len(penalty), penalty.dtype),
        space(GROUPS, penalty.dtype),
        space(room, np.int64),
        space(room, penalty.dtype),
        space(room, np.int64),
    )


@inlined
def _size(slopes, place, positive):
    v = load(slopes, place)
    return v if positive else absolute(v)


@inlined
def _size_of(slopes, place, positive):
    v = get(slopes, place)
    return v if positive else abs(v)


@inlined
def _groups(threshold, top):
    return min(len(top), len(threshold) // WIDTH * WIDTH)


@part
def _tops(slopes, start, looked, positive):
    """Write the worst violation of each group of atoms; the worst of all.

    Atom j belongs to group j modulo the number of groups; the last few atoms to none.
    """
    threshold, top = looked.threshold, looked.top
    n_components = len(threshold)
    n_groups = _groups(threshold, top)
    worst = -np.inf
    for g in range(0, n_groups, WIDTH):
        best = subtract(_size(slopes, start + g, positive), load(threshold, g))
        for j in range(g + n_groups, n_components - WIDTH + 1, n_groups):
            gain = subtract(_size(slopes, start + j, positive), load(threshold, j))
            best = maximum(best, gain)
        store(top, g, best)
        for i in range(g, g + WIDTH):
            worst = max(worst, top[i])
    for j in range(n_components // WIDTH * WIDTH, n_components):
        worst = max(worst, _size_of(slopes, start + j, positive) - threshold[j])
    return worst


@part
def _above(slopes, start, lengths, reach, share, cut, positive, looked):
    """Write the atoms with ``slope + reach·length > share·threshold + cut``; how many, or as many
    as there is room for.
    """
    threshold, near = looked.threshold, looked.near
    n, n_components = 0, len(threshold)
    whole = n_components // WIDTH * WIDTH
    for j in range(0, whole, WIDTH):
        bound = plus(_size(slopes, start + j, positive), reach, load(lengths, j))
        some = bits(more_than(bound, plus(splat(cut), share, load(threshold, j))))
        while some:
            near[n] = j + lowest(some)
            some &= some - 1
            n += 1
        if n >= ROOM:
            return ROOM
    for j in range(whole, n_components):
        bound = _size_of(slopes, start + j, positive) + reach * lengths[j]
        if bound > share * threshold[j] + cut:
            near[n] = j
            n += 1
    return min(n, ROOM)


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

    If there is no room for them, :func:`most_violated` has to be asked before.

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
            n_groups = _groups(looked.threshold, looked.top)
            cut = kth_largest(looked.top, n_groups, min(n_groups, POOL - POOL // 8))
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
