"""Residuals of one row in double precision, and what atoms have in common with them."""

from __future__ import annotations

import numpy as np

from .cpu_jit import inlined, part
from .cpu_vectors import WIDTH, add, cast, get, load, multiply, plus, store, total, zeros


@part
def subtract(r, values, D, atoms, k):
    """``r −= Σ valueᵢ·d_atomsᵢ``, two atoms at a time."""
    n = r.shape[0]
    whole = n // WIDTH * WIDTH
    for i in range(0, k, 2):
        other = min(i + 1, k - 1)
        u, v = -values[i], -values[other] if other > i else 0.0
        a, b = atoms[i] * n, atoms[other] * n
        for m in range(0, whole, WIDTH):
            left = plus(load(r, m), u, cast(load(D, a + m), r))
            store(r, m, plus(left, v, cast(load(D, b + m), r)))
        for m in range(whole, n):
            r[m] += u * get(D, a + m) + v * get(D, b + m)


@part
def dot(r, D, j):
    """``r·d_j``."""
    n = r.shape[0]
    whole, sums = n // WIDTH * WIDTH, zeros(r)
    for m in range(0, whole, WIDTH):
        sums = add(sums, multiply(load(r, m), cast(load(D, j * n + m), r)))
    product = total(sums)
    for m in range(whole, n):
        product += r[m] * D[j, m]
    return product


@inlined
def square(r):
    """``‖r‖²``."""
    product = 0.0
    for m in range(r.shape[0]):
        product += r[m] * r[m]
    return product


@part
def residual(X, row, D, length, atoms, values, k, r):
    """That of a row of length 1, whose codes are ``values``."""
    for m in range(r.shape[0]):
        r[m] = np.float64(X[row, m]) / length
    subtract(r, values, D, atoms, k)
