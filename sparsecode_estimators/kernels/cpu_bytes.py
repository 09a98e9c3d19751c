r"""Products of rows with all atoms by way of bytes, compiled.

AVX2 multiplies and adds twice as many bytes an instruction as numbers of float32, and then two
pairs of their products in 16 bits; VNNI four times as many, in 32 bits at once. Where
:math:`x = \hat x + \delta` and :math:`d = \hat d + \eta` are rounded to whole multiples of a
63rd (with VNNI a 127th) of their largest number,

.. math:: |x\cdot d - \hat x\cdot\hat d| \le \|\delta\|\,\|d\| + \|\hat x\|\,\|\eta\|,

and both errors are measured. The first factor of the instruction has no sign: bytes of rows are
:math:`\hat x + 64` (128), and 64 (128) times the sum of an atom's bytes is taken off in the end.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .cpu_byte_vectors import (
    ABREAST,
    FUSED,
    LARGEST,
    PAIRED,
    nothing,
    plus_products,
    put_bytes,
    totals,
    write,
)
from .cpu_chunks import in_chunks
from .cpu_jit import compiled, inlined
from .cpu_lane_vectors import has
from .cpu_room import LINE, space
from .cpu_vectors import (
    WIDTH,
    absolute,
    add,
    largest,
    load,
    maximum,
    multiply,
    nearest,
    put,
    splat,
    subtract,
    total,
    zeros,
)

TINY = 1e-30  # rows and atoms of smaller numbers are taken for zeros, of which all is lost
LONGEST = 2**16  # features for which sums fit in 32 bits
CHUNK = 512  # rows that a thread rounds at a time


def suit(D: np.ndarray) -> bool:
    """Whether these atoms can be multiplied in this way."""
    return D.dtype == np.float32 and has("avx2") and len(D) >= ABREAST and D.shape[1] <= LONGEST


def are_faster() -> bool:
    """Whether the processor has nothing better."""
    return not has("amx-bf16") and (FUSED or not has("avx512f"))


@inlined
def _largest(numbers, row):
    n = numbers.shape[1]
    whole, begin, found = n // WIDTH * WIDTH, row * n, zeros(numbers)
    for m in range(0, whole, WIDTH):
        found = maximum(found, absolute(load(numbers, begin + m)))
    most = largest(found)
    for m in range(whole, n):
        most = max(most, abs(numbers[row, m]))
    return most


@inlined
def _round(numbers, row, bytes_, start, step, zero):
    """Write a row's bytes; what one is worth, their sum, and which share of its length is lost.

    ``LINE`` of them from the place ``start`` on, and so on every ``step`` places.
    """
    n, most, number = numbers.shape[1], _largest(numbers, row), numbers.dtype.type
    if most < TINY:
        return number(0), np.int32(0), number(1)
    worth, times = most / number(LARGEST), number(LARGEST) / most
    whole, begin = n // WIDTH * WIDTH, row * n
    counts = squares = errors = zeros(numbers)
    for m in range(0, whole, WIDTH):
        value = multiply(load(numbers, begin + m), splat(times))
        count = nearest(value)
        put_bytes(bytes_, start + m // LINE * step + m % LINE, count, zero)
        off = subtract(value, count)
        counts = add(counts, count)
        squares = add(squares, multiply(value, value))
        errors = add(errors, multiply(off, off))
    sum_, size, lost = total(counts), total(squares), total(errors)
    for m in range(whole, n):
        value = numbers[row, m] * times
        count = np.rint(value)
        put(bytes_, start + m // LINE * step + m % LINE, np.int8(count) + zero)
        sum_ += count
        size += value * value
        lost += (value - count) * (value - count)
    return worth, np.int32(sum_), np.sqrt(lost / size)


@inlined
def _first(block, abreast, n):
    """Row that a block begins with: the last block begins where it is full."""
    return min(block * abreast, n - abreast)


@compiled
def round_rows(places, numbers, bytes_, abreast, zero, worth, sums, lost):
    """Bytes of rows or atoms, what one is worth, their sum, and the share of length that is lost.

    ``abreast`` rows make a block of ``bytes_``, in which the first ``LINE`` bytes of each come
    first, then the next ``LINE`` of each.
    """
    width = bytes_.shape[1]
    for place in places:
        block, i = place // abreast, place % abreast
        row = _first(block, abreast, numbers.shape[0]) + i
        start = block * abreast * width + i * LINE
        worth[row], sums[row], lost[row] = _round(numbers, row, bytes_, start, abreast * LINE, zero)


@inlined
def _products(rows, at, bytes_, there, width):
    """Of a row with the atoms of a block, each in a register."""
    a = b = c = d = e = f = g = h = nothing()
    for _ in range(0, width, LINE):
        a = plus_products(a, rows, at, bytes_, there)
        b = plus_products(b, rows, at, bytes_, there + LINE)
        c = plus_products(c, rows, at, bytes_, there + 2 * LINE)
        d = plus_products(d, rows, at, bytes_, there + 3 * LINE)
        e = plus_products(e, rows, at, bytes_, there + 4 * LINE)
        f = plus_products(f, rows, at, bytes_, there + 5 * LINE)
        g = plus_products(g, rows, at, bytes_, there + 6 * LINE)
        h = plus_products(h, rows, at, bytes_, there + 7 * LINE)
        at += LINE
        there += ABREAST * LINE
    return totals(a, b, c, d, e, f, g, h)


@inlined
def _plus_both(a, b, rows, at, next_, bytes_, there):
    return plus_products(a, rows, at, bytes_, there), plus_products(b, rows, next_, bytes_, there)


@inlined
def _products_of_two(rows, at, next_, bytes_, there, width):
    """Of two rows, for which atoms are read once."""
    a = b = c = d = e = f = g = h = nothing()
    q = r = s = t = u = v = w = x = nothing()
    for _ in range(0, width, LINE):
        a, q = _plus_both(a, q, rows, at, next_, bytes_, there)
        b, r = _plus_both(b, r, rows, at, next_, bytes_, there + LINE)
        c, s = _plus_both(c, s, rows, at, next_, bytes_, there + 2 * LINE)
        d, t = _plus_both(d, t, rows, at, next_, bytes_, there + 3 * LINE)
        e, u = _plus_both(e, u, rows, at, next_, bytes_, there + 4 * LINE)
        f, v = _plus_both(f, v, rows, at, next_, bytes_, there + 5 * LINE)
        g, w = _plus_both(g, w, rows, at, next_, bytes_, there + 6 * LINE)
        h, x = _plus_both(h, x, rows, at, next_, bytes_, there + 7 * LINE)
        at += LINE
        next_ += LINE
        there += ABREAST * LINE
    return totals(a, b, c, d, e, f, g, h), totals(q, r, s, t, u, v, w, x)


@compiled
def products(places, rows, units, bytes_, worth, sums, out):
    """Products of rows with all atoms.

    Parameters
    ----------
    places : int array
        Which rows: so few that their bytes stay in the second cache.
    rows, bytes_ : uint8 arrays of shape (n, width), (n_components, width) or a few more
        Bytes of rows one by one, with ``ZERO``, and of atoms in blocks of ``ABREAST``.
    units, worth : arrays of shape (n,), (n_components,)
        What one is worth.
    sums : int array of shape (n_components,)
    out : array of shape (n, n_components)
    """
    n_components, width, count = out.shape[1], rows.shape[1], len(places)
    for block in range(bytes_.shape[0] // ABREAST):
        j, there = _first(block, ABREAST, n_components), block * ABREAST * width
        for t in range(0, count, 1 + PAIRED):
            row = places[t]
            if PAIRED:
                next_ = places[min(t + 1, count - 1)]
                all_, more = _products_of_two(
                    rows, row * width, next_ * width, bytes_, there, width
                )
                write(out, next_ * n_components + j, more, sums, worth, j, units[next_])
            else:
                all_ = _products(rows, row * width, bytes_, there, width)
            write(out, row * n_components + j, all_, sums, worth, j, units[row])


class Rounded(NamedTuple):
    """Bytes of rows or atoms, see :func:`round_rows`.

    Attributes
    ----------
    bytes_ : uint8 array of shape (n, width) or a few more
        With zeros up to whole lines.
    worth : array of shape (n,)
    sums : int array of shape (n,)
    lost : array of shape (n,)
    """

    bytes_: np.ndarray
    worth: np.ndarray
    sums: np.ndarray
    lost: np.ndarray


def rounded(numbers: np.ndarray, abreast: int, zero: int) -> Rounded:
    """Rows or atoms as bytes, in blocks of ``abreast``."""
    n, n_features = numbers.shape
    whole = -(-n // abreast) * abreast
    into = Rounded(
        space((whole, -(-n_features // LINE) * LINE), np.uint8),
        np.zeros(n, np.float32),
        np.zeros(n, np.int32),
        np.zeros(n),
    )
    in_chunks(round_rows, whole, CHUNK, numbers, into[0], abreast, zero, *into[1:])
    return into
