"""Slopes of all atoms by the Gram matrix, and which atoms they violate, one row at a time.

Between two sweeps the residual moves, and the slope of an atom no further than that times the
atom's length. Atoms that cannot have come near their penalty keep the slopes they had.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .cpu_certificate import NEAR, off
from .cpu_inverse import padded
from .cpu_jit import inlined, part
from .cpu_room import space
from .cpu_vectors import (
    WIDTH,
    absolute,
    add,
    bits,
    get,
    largest,
    load,
    lowest,
    maximum,
    more_than,
    plus,
    put,
    splat,
    store,
    subtract,
)

TOGETHER = 4  # vectors of atoms that stay in registers until all active atoms are subtracted
SOON = 4  # largest penalties by which slopes still move when gains of each vector are noted


class Sums(NamedTuple):
    """What a sweep over all atoms is made with, and what is known since the last one.

    Attributes
    ----------
    gains : array of shape (padded n_vectors,)
        What an atom of a vector gains at most from leaving zero.
    todo : int array of shape (n_vectors + TOGETHER,)
        Which vectors of atoms are looked at.
    places : int array of shape (size,)
        Where rows of active atoms begin in the Gram matrix.
    weights : array of shape (size,)
        Their codes, less than zero.
    codes, slopes : arrays of shape (cap,)
        Of candidates, when the last sweep had been.
    """

    gains: np.ndarray
    todo: np.ndarray
    places: np.ndarray
    weights: np.ndarray
    codes: np.ndarray
    slopes: np.ndarray


def new_sums(gram, size, cap):
    """For up to ``size`` active atoms of ``cap`` candidates."""
    n_vectors, dtype = -(-len(gram) // WIDTH), gram.dtype
    gains = space(padded(n_vectors), dtype)
    gains[n_vectors:] = -np.inf
    return Sums(
        gains,
        space(n_vectors + TOGETHER, np.int64),
        space(size, np.int64),
        space(size, dtype),
        space(cap, dtype),
        space(cap, dtype),
    )


@inlined
def remember(face, p, sums):
    """Where candidates are, before they move."""
    for d in range(p):
        sums.codes[d], sums.slopes[d] = face.code[d], face.slope[d]


@inlined
def _moved(face, p, loose, scale, sums):
    r"""How far at most the slope of an atom has moved since candidates were remembered.

    :math:`\|\delta D\| \|d_j\|` with :math:`\|\delta D\|^2 \le \delta H\delta^T`, of which
    :math:`\delta H` is what slopes have lost, which are off by ``loose``.
    """
    square, length = 0.0, 0.0
    for d in range(p):
        step = np.float64(face.code[d]) - sums.codes[d]
        square += step * (np.float64(sums.slopes[d]) - face.slope[d])
        length += abs(step)
    return scale.longest * np.sqrt(max(square, 0.0) + loose * length)


@inlined
def _gain(v, threshold, j, positive):
    return subtract(v if positive else absolute(v), load(threshold, j))


@part
def _fewer_than_a_vector(Q, start, gram, k, slope, threshold, positive, sums):
    worst = slope.dtype.type(-np.inf)
    for j in range(len(slope)):
        v = get(Q, start + j)
        for i in range(k):
            v += sums.weights[i] * get(gram, sums.places[i] + j)
        put(slope, j, v)
        worst = max(worst, (v if positive else abs(v)) - threshold[j])
    return worst


@inlined
def _to_look_at(sums, n_vectors, all_, move, sure):
    """Vectors of atoms of which one may gain more than ``sure``; how many, by fours."""
    gains, todo, count = sums.gains, sums.todo, 0
    if all_:
        count = n_vectors
        for b in range(n_vectors):
            todo[b] = b
    for start in range(count, n_vectors, WIDTH):
        gain = add(load(gains, start), splat(move))
        store(gains, start, gain)
        some = bits(more_than(gain, splat(sure)))
        while some:
            todo[count] = start + lowest(some)
            some &= some - 1
            count += 1
    while count % TOGETHER:
        todo[count] = todo[count - 1]
        count += 1
    return count


@inlined
def _begin(b, n):
    """The first atom of a vector; the last vector ends with the last atom."""
    return min(b * WIDTH, n - WIDTH)


@part
def sweep(
    Q, row, gram, cand, face, p, k, slope, threshold, positive, sums, scale, size, afresh
):  # fmt: skip
    """Bring the slopes ``q − uG`` of atoms up to date. Returns the largest gain from leaving zero.

    Atoms below their penalties by ``NEAR`` of the largest keep the slopes they had. Those of
    candidates are known.

    Parameters
    ----------
    size : float
        Length of the row.
    afresh : bool
        Whether no slopes are known.
    """
    places, weights, todo, gains = sums.places, sums.weights, sums.todo, sums.gains
    n, kind, length = len(slope), slope.dtype.type, 0.0
    for i in range(k):
        places[i] = cand[face.active[i]] * n
        weights[i] = -face.code[face.active[i]]
        length += abs(weights[i])
    if n < WIDTH:
        return _fewer_than_a_vector(Q, row * n, gram, k, slope, threshold, positive, sums)
    for d in range(p):
        slope[cand[d]] = face.slope[d]
    loose = off(scale, size, length)
    move = np.inf if afresh else _moved(face, p, loose, scale, sums)
    each, sure = move < SOON * scale.largest, -kind(NEAR * scale.largest + loose)
    count = _to_look_at(sums, -(-n // WIDTH), move >= scale.largest, kind(move), sure)
    worst = kind(-np.inf)
    for t in range(0, count, TOGETHER):
        va, vb, vc, vd = todo[t], todo[t + 1], todo[t + 2], todo[t + 3]
        ja, jb, jc, jd = _begin(va, n), _begin(vb, n), _begin(vc, n), _begin(vd, n)
        a, b = load(Q, row * n + ja), load(Q, row * n + jb)
        c, d = load(Q, row * n + jc), load(Q, row * n + jd)
        for i in range(k):
            w, place = weights[i], places[i]
            a = plus(a, w, load(gram, place + ja))
            b = plus(b, w, load(gram, place + jb))
            c = plus(c, w, load(gram, place + jc))
            d = plus(d, w, load(gram, place + jd))
        store(slope, ja, a)
        store(slope, jb, b)
        store(slope, jc, c)
        store(slope, jd, d)
        a, b = _gain(a, threshold, ja, positive), _gain(b, threshold, jb, positive)
        c, d = _gain(c, threshold, jc, positive), _gain(d, threshold, jd, positive)
        top = largest(maximum(maximum(a, b), maximum(c, d)))
        worst = max(worst, top)
        if each:
            put(gains, va, largest(a))
            put(gains, vb, largest(b))
            put(gains, vc, largest(c))
            put(gains, vd, largest(d))
        else:
            put(gains, va, top)
            put(gains, vb, top)
            put(gains, vc, top)
            put(gains, vd, top)
    return worst


@inlined
def violated(slope, threshold, positive, sums, cut, found, room):
    """Atoms that gain more than ``cut`` from leaving zero; how many, at most the room."""
    n, m = len(slope), 0
    for start in range(0, -(-n // WIDTH), WIDTH):
        vectors = bits(more_than(load(sums.gains, start), splat(cut)))
        while vectors:
            b = start + lowest(vectors)
            vectors &= vectors - 1
            j = _begin(b, n)
            before = b * WIDTH - j  # of the last vector, what the one before has
            gain = _gain(load(slope, j), threshold, j, positive)
            some = bits(more_than(gain, splat(cut))) >> before << before
            while some and m < room:
                found[m] = j + lowest(some)
                some &= some - 1
                m += 1
    return m
