"""Which entries of a row are large, sixteen at a time; entries may be of bfloat16 (uint16)."""

from __future__ import annotations

import numpy as np

from .cpu_jit import compiled, inlined, part
from .cpu_room import space
from .cpu_vectors import (
    WIDTH,
    absolute,
    at_least,
    bits,
    get,
    how_many,
    load,
    lowest,
    maximum,
    more_than,
    plus,
    splat,
    store,
)

GROUPS = 4  # maxima of so many groups for each entry that is looked for


@inlined
def _score(scores, start, bias, j, signed):
    """Scores of a row from column j on, with their bias."""
    v = plus(load(scores, start + j), bias.dtype.type(1), load(bias, j))
    return absolute(v) if signed else v


@inlined
def _score_of(scores, start, bias, j, signed):
    """The score in column j."""
    v = get(scores, start + j) + bias[j]
    return abs(v) if signed else v


@part
def kth_largest(values, n, k):
    """The k-th largest of the first ``n`` values, which are put in another order (Hoare)."""
    low, high = 0, n - 1
    while low < high:
        pivot = values[(low + high) // 2]
        i, j = low, high
        while i <= j:
            while values[i] > pivot:
                i += 1
            while values[j] < pivot:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i += 1
                j -= 1
        if k - 1 <= j:
            high = j
        elif k - 1 >= i:
            low = i
        else:
            break
    return values[k - 1]


@part
def write_largest(found, values, kept, n, k, row, atoms):
    """The columns of the ``k`` largest of ``n`` values; of equal ones the first."""
    for i in range(n):
        kept[i] = values[i]
    least = kth_largest(kept, n, k)
    ties = k
    for i in range(n):
        ties -= values[i] > least
    m = 0
    for i in range(n):
        if values[i] > least or (values[i] == least and ties > 0):
            ties -= values[i] == least
            atoms[row, m] = found[i]
            m += 1


@part
def _lower_bound(scores, start, bias, n_components, signed, k, top):
    """A number that the k-th largest score of the row is not below.

    Column j belongs to group j modulo the number of groups, and the k-th largest of the
    groups' maxima is such a number.
    """
    n_groups = min(len(top), n_components // WIDTH * WIDTH)
    if n_groups < k:
        return -np.inf
    for g in range(0, n_groups, WIDTH):
        best = _score(scores, start, bias, g, signed)
        for j in range(g + n_groups, n_components - WIDTH + 1, n_groups):
            best = maximum(best, _score(scores, start, bias, j, signed))
        store(top, g, best)
    return kth_largest(top, n_groups, k)


def group_maxima(k, dtype):
    """Room for the maxima of groups of entries."""
    return space(-(-GROUPS * k // WIDTH) * WIDTH, dtype)


def room_for_largest(n_components, k, dtype):
    """Room for :func:`places_of_largest`."""
    found = space(n_components, np.int64)
    return group_maxima(k, dtype), found, *(space(n_components, dtype) for _ in range(2))


@compiled
def places_of_largest(rows, scores, bias, signed, atoms, room):
    """The ``k`` largest scores of each row, by absolute value if signs count; of equal ones the
    first. A score is an entry with the bias of its column.
    """
    top, found, values, kept = room
    n_components, k = scores.shape[1], atoms.shape[1]
    for row in rows:
        start, n = row * n_components, 0
        least = bias.dtype.type(_lower_bound(scores, start, bias, n_components, signed, k, top))
        whole = n_components // WIDTH * WIDTH
        for j in range(0, whole, WIDTH):
            some = bits(at_least(_score(scores, start, bias, j, signed), splat(least)))
            while some:
                found[n] = j + lowest(some)
                some &= some - 1
                n += 1
        for j in range(whole, n_components):
            if _score_of(scores, start, bias, j, signed) >= least:
                found[n] = j
                n += 1
        for i in range(n):
            values[i] = _score_of(scores, start, bias, found[i], signed)
        write_largest(found, values, kept, n, k, row, atoms)


@compiled
def count_above(rows, scores, floor, counts):
    """How many entries of each row are above the floor of their column, one place on."""
    n_components = scores.shape[1]
    whole = n_components // WIDTH * WIDTH
    for row in rows:
        start, n = row * n_components, 0
        for j in range(0, whole, WIDTH):
            n += how_many(bits(more_than(load(scores, start + j), load(floor, j))))
        for j in range(whole, n_components):
            n += get(scores, start + j) > floor[j]
        counts[row + 1] = n


@compiled
def places_above(rows, scores, floor, starts, atoms):
    """Columns of these entries."""
    n_components = scores.shape[1]
    whole = n_components // WIDTH * WIDTH
    for row in rows:
        start, n = row * n_components, starts[row]
        for j in range(0, whole, WIDTH):
            some = bits(more_than(load(scores, start + j), load(floor, j)))
            while some:
                atoms[n] = j + lowest(some)
                some &= some - 1
                n += 1
        for j in range(whole, n_components):
            if get(scores, start + j) > floor[j]:
                atoms[n] = j
                n += 1
