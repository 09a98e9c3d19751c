r"""The inverse of chosen atoms' Gram matrix: products with it, one atom more, one atom less.

Of an array made by :func:`new_inverse` the first k rows and columns are in use. Up to the next
multiple of ``WIDTH`` columns these rows hold zeros, so that loops take whole vectors: the ends of
rows, number by number, would take longer than all the rest.
"""

from __future__ import annotations

import numpy as np

from .cpu_jit import inlined, part
from .cpu_room import space
from .cpu_vectors import WIDTH, add, load, multiply, plus, store, total, zeros


def padded(size: int) -> int:
    """The next multiple of a vector."""
    return -(-size // WIDTH) * WIDTH


def new_inverse(size: int, dtype: np.dtype) -> np.ndarray:
    """Of up to ``size`` atoms."""
    return space((size, padded(size)), dtype)


@part
def times(inverse, v, k, out):
    """Write ``vH``, and zeros up to the next multiple of a vector.

    A sum of rows, as H is symmetric: no sum over the numbers of a vector has to be taken.
    """
    stride = inverse.shape[1]
    for j in range(0, k, 2 * WIDTH):
        a = b = zeros(inverse)
        if j + WIDTH < k:
            for i in range(k):
                a = plus(a, v[i], load(inverse, i * stride + j))
                b = plus(b, v[i], load(inverse, i * stride + j + WIDTH))
            store(out, j + WIDTH, b)
        else:
            for i in range(k):
                a = plus(a, v[i], load(inverse, i * stride + j))
        store(out, j, a)


@inlined
def dot_product(a, b, k):
    """Of k numbers; one of both holds zeros up to the next multiple of a vector."""
    sums = zeros(a)
    for j in range(0, k, WIDTH):
        sums = add(sums, multiply(load(a, j), load(b, j)))
    return total(sums)


@part
def border(inverse, column, k, left):
    """One more atom.

    ``column``, as :func:`times` leaves it, holds its coefficients on the others, ``left`` what
    these leave of its squared length.
    """
    stride, weight, none = inverse.shape[1], 1 / left, zeros(inverse)
    if k % WIDTH == 0:
        for i in range(k + 1):
            store(inverse, i * stride + k, none)
    for i in range(k):
        scaled = column[i] * weight
        for j in range(0, k, WIDTH):
            place = i * stride + j
            store(inverse, place, plus(load(inverse, place), scaled, load(column, j)))
        inverse[i, k] = -scaled
    for j in range(0, k, WIDTH):
        store(inverse, k * stride + j, plus(none, -weight, load(column, j)))
    inverse[k, k] = weight


@part
def downdate(inverse, k, which):
    """One atom less, number ``which``; the last one takes its number."""
    stride, last = inverse.shape[1], k - 1
    if which != last:
        for j in range(0, k, WIDTH):
            one, other = load(inverse, which * stride + j), load(inverse, last * stride + j)
            store(inverse, which * stride + j, other)
            store(inverse, last * stride + j, one)
        for i in range(k):
            inverse[i, which], inverse[i, last] = inverse[i, last], inverse[i, which]
    weight = 1 / inverse[last, last]
    for i in range(last):
        scaled = inverse[i, last] * weight
        for j in range(0, last, WIDTH):
            place = i * stride + j
            end = load(inverse, last * stride + j)
            store(inverse, place, plus(load(inverse, place), -scaled, end))
        inverse[i, last] = 0
