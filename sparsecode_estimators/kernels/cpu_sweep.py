"""Slopes of all atoms by the Gram matrix, and which atoms they violate, one row at a time."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .cpu_jit import inlined, part
from .cpu_room import space
from .cpu_vectors import (
    WIDTH,
    absolute,
    get,
    largest,
    load,
    maximum,
    plus,
    put,
    store,
    subtract,
)

BLOCK = 64  # atoms looked at together: four vectors


class Sums(NamedTuple):
    """What a sweep over all atoms is made with.

    Attributes
    ----------
    blocks : array of shape (n_blocks,)
        Largest gain from leaving zero in each block of atoms.
    places : int array of shape (size,)
        Where rows of active atoms begin in the Gram matrix.
    weights : array of shape (size,)
        Their codes, less than zero.
    """

    blocks: np.ndarray
    places: np.ndarray
    weights: np.ndarray


def new_sums(slope, size):
    """For up to ``size`` active atoms."""
    n_blocks = -(-len(slope) // BLOCK)
    return Sums(space(n_blocks, slope.dtype), space(size, np.int64), space(size, slope.dtype))


@inlined
def _gain(v, threshold, j, positive):
    return subtract(v if positive else absolute(v), load(threshold, j))


@inlined
def _last_block(Q, start, gram, k, slope, threshold, positive, sums, j):
    """The same for the atoms from ``j`` on, fewer than a block; their largest gain."""
    n, best = len(slope), slope.dtype.type(-np.inf)
    while j + WIDTH <= n:
        v = load(Q, start + j)
        for i in range(k):
            v = plus(v, sums.weights[i], load(gram, sums.places[i] + j))
        store(slope, j, v)
        best = max(best, largest(_gain(v, threshold, j, positive)))
        j += WIDTH
    while j < n:
        v = get(Q, start + j)
        for i in range(k):
            v += sums.weights[i] * get(gram, sums.places[i] + j)
        put(slope, j, v)
        best = max(best, (v if positive else abs(v)) - threshold[j])
        j += 1
    return best


@part
def sweep(Q, row, gram, cand, face, k, slope, threshold, positive, sums):
    """Write the slopes ``q − uG`` of all atoms, and each block's largest gain from leaving zero.

    A block stays in registers until all active atoms are subtracted. Returns the largest gain.
    """
    blocks, places, weights = sums.blocks, sums.places, sums.weights
    n, whole = len(slope), len(slope) // BLOCK * BLOCK
    for i in range(k):
        places[i] = cand[face.active[i]] * n
        weights[i] = -face.code[face.active[i]]
    worst = slope.dtype.type(-np.inf)
    for j in range(0, whole, BLOCK):
        start = row * n + j
        a, b = load(Q, start), load(Q, start + WIDTH)
        c, d = load(Q, start + 2 * WIDTH), load(Q, start + 3 * WIDTH)
        for i in range(k):
            w, place = weights[i], places[i] + j
            a = plus(a, w, load(gram, place))
            b = plus(b, w, load(gram, place + WIDTH))
            c = plus(c, w, load(gram, place + 2 * WIDTH))
            d = plus(d, w, load(gram, place + 3 * WIDTH))
        store(slope, j, a)
        store(slope, j + WIDTH, b)
        store(slope, j + 2 * WIDTH, c)
        store(slope, j + 3 * WIDTH, d)
        a, b = _gain(a, threshold, j, positive), _gain(b, threshold, j + WIDTH, positive)
        c = _gain(c, threshold, j + 2 * WIDTH, positive)
        d = _gain(d, threshold, j + 3 * WIDTH, positive)
        blocks[j // BLOCK] = largest(maximum(maximum(a, b), maximum(c, d)))
        worst = max(worst, blocks[j // BLOCK])
    if whole < n:
        blocks[whole // BLOCK] = _last_block(
            Q, row * n, gram, k, slope, threshold, positive, sums, whole
        )
        worst = max(worst, blocks[whole // BLOCK])
    return worst


@inlined
def violated(slope, threshold, positive, sums, cut, found, room):
    """Atoms that gain more than ``cut`` from leaving zero; how many, at most the room."""
    blocks, m = sums.blocks, 0
    for b in range(blocks.shape[0]):
        if blocks[b] > cut:
            for j in range(b * BLOCK, min(slope.shape[0], (b + 1) * BLOCK)):
                gain = (slope[j] if positive else abs(slope[j])) - threshold[j]
                if gain > cut and m < room:
                    found[m] = j
                    m += 1
    return m
