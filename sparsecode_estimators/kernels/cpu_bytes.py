r"""Products of rows with all atoms by way of bytes, compiled.

AVX2 multiplies and adds twice as many bytes an instruction as numbers of float32, and then two
pairs of their products in 16 bits. Where :math:`x = \hat x + \delta` and
:math:`d = \hat d + \eta` are rounded to whole multiples of a 63rd of their largest number,

.. math:: |x\cdot d - \hat x\cdot\hat d| \le \|\delta\|\,\|d\| + \|\hat x\|\,\|\eta\|,

and both errors are measured. The first factor of the instruction has no sign: bytes of rows are
:math:`\hat x + 64`, and 64 times the sum of an atom's bytes is taken off in the end.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

from .cpu_jit import compiled, inlined
from .cpu_lane_vectors import has, shuffle
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
    spread,
    subtract,
    total,
    zeros,
)

MOST = 63  # largest byte: four products of an atom's with a row's, at most 127, fit in 16 bits
ZERO = 64  # what stands for zero in rows
TINY = 1e-30  # rows and atoms of smaller numbers are taken for zeros, of which all is lost
LONGEST = 2**17  # features for which sums fit in 32 bits
ABREAST = 8  # atoms whose sums are in registers

_BYTES = ir.VectorType(ir.IntType(8), LINE // 2)
_PAIRS = ir.VectorType(ir.IntType(16), LINE // 4)
_SUMS = ir.VectorType(ir.IntType(32), LINE // 8)

# Neighbours of two vectors side by side are added: of eight vectors, of four, and then of two.
_TREE = {
    8: ((0, 8, 1, 9, 4, 12, 5, 13), (2, 10, 3, 11, 6, 14, 7, 15)),
    4: ((0, 1, 8, 9, 4, 5, 12, 13), (2, 3, 10, 11, 6, 7, 14, 15)),
    2: ((0, 1, 2, 3, 8, 9, 10, 11), (4, 5, 6, 7, 12, 13, 14, 15)),
}


class Sums(types.Type):
    """Eight whole numbers, whose sum is wanted."""

    def __init__(self) -> None:
        super().__init__(name="Sums")


@register_model(Sums)
class _SumsModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Sums) -> None:
        super().__init__(manager, kind, _SUMS)


def _call(builder, name, result, args):
    kind = ir.FunctionType(result, [a.type for a in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), args)


@intrinsic
def nothing(_):
    """Sums of nothing."""

    def codegen(context, builder, signature, args):
        return ir.Constant(_SUMS, [0] * _SUMS.count)

    return Sums()(), codegen


@intrinsic
def plus_products(_, sums, rows, i, atoms, j):
    """The sums with the products of ``LINE`` bytes from the places i and j on."""

    def codegen(context, builder, signature, args):
        pairs = []
        for half in (0, LINE // 2):
            factors = []
            for array, place, kind in zip(
                args[1::2], args[2::2], signature.args[1::2], strict=True
            ):
                data = context.make_array(kind)(context, builder, array).data
                here = builder.gep(data, [builder.add(place, ir.Constant(place.type, half))])
                pointer = builder.bitcast(here, _BYTES.as_pointer())
                factors.append(builder.load(pointer, align=LINE // 2))
            pairs.append(_call(builder, "llvm.x86.avx2.pmadd.ub.sw", _PAIRS, factors))
        ones = ir.Constant(_PAIRS, [1] * _PAIRS.count)
        more = [builder.add(*pairs), ones]
        return builder.add(args[0], _call(builder, "llvm.x86.avx2.pmadd.wd", _SUMS, more))

    return sums(sums, rows, types.intp, atoms, types.intp), codegen


@intrinsic
def totals(_, a, b, c, d, e, f, g, h):
    """The sum of each, all in one vector."""

    def codegen(context, builder, signature, args):
        while len(args) > 1:
            pairs = [
                [shuffle(builder, *args[i : i + 2], places) for places in _TREE[len(args)]]
                for i in range(0, len(args), 2)
            ]
            args = [builder.add(*pair) for pair in pairs]
        return args[0]

    return Sums()(a, b, c, d, e, f, g, h), codegen


@intrinsic
def write(_, out, place, sums, taken, worth, j, unit):
    """Write ``(sums − taken)·worth·unit`` to ``ABREAST`` places of ``out``."""

    def codegen(context, builder, signature, args):
        def pointer(i, array, place):
            data = context.make_array(signature.args[i])(context, builder, array).data
            here = builder.gep(data, [place])
            kind = ir.VectorType(context.get_data_type(signature.args[i].dtype), ABREAST)
            return builder.bitcast(here, kind.as_pointer())

        out, place, sums, taken, worth, j, unit = args
        target = pointer(0, out, place)
        left = builder.sub(sums, builder.load(pointer(3, taken, j), align=4))
        units = spread(builder, unit, ABREAST)
        scale = builder.fmul(builder.load(pointer(4, worth, j), align=4), units)
        numbers = builder.sitofp(left, scale.type)
        builder.store(builder.fmul(numbers, scale), target, align=4)
        return context.get_dummy_value()

    return types.none(out, types.intp, sums, taken, worth, types.intp, unit), codegen


def suit(D: np.ndarray) -> bool:
    """Whether these atoms can be multiplied in this way."""
    return D.dtype == np.float32 and has("avx2") and len(D) >= ABREAST and D.shape[1] <= LONGEST


def are_faster() -> bool:
    """Whether the processor has nothing better."""
    return not has("avx512f")


@intrinsic
def put_bytes(_, array, place, whole, zero):
    """Write whole numbers between -127 and 127 as bytes, of which one stands for zero."""

    def codegen(context, builder, signature, args):
        array, place, whole, zero = args
        data = context.make_array(signature.args[0])(context, builder, array).data
        kind = ir.VectorType(ir.IntType(8), WIDTH)
        pointer = builder.bitcast(builder.gep(data, [place]), kind.as_pointer())
        wide = builder.fptosi(whole, ir.VectorType(ir.IntType(32), WIDTH))
        zeros = spread(builder, builder.trunc(zero, ir.IntType(8)), WIDTH)
        builder.store(builder.add(builder.trunc(wide, kind), zeros), pointer, align=WIDTH)
        return context.get_dummy_value()

    return types.none(array, types.intp, whole, types.intp), codegen


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
        return number(0), 0, 1.0
    worth, times = most / number(MOST), number(MOST) / most
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
        lost += (value - count) ** 2
    return worth, int(sum_), np.sqrt(lost / size)


@compiled
def round_atoms(blocks, D, bytes_, worth, sums, lost):
    """Bytes of atoms, what one is worth, ``ZERO`` times their sum, and the share that is lost.

    ``ABREAST`` atoms make a block of ``bytes_``, in which the first ``LINE`` bytes of each come
    first, then the next ``LINE`` of each. The last block begins where it is full.
    """
    for block in blocks:
        first = _first(block, D.shape[0])
        for i in range(ABREAST):
            j, start = first + i, block * bytes_.shape[1] + i * LINE
            worth[j], sum_, lost[j] = _round(D, j, bytes_, start, ABREAST * LINE, 0)
            sums[j] = ZERO * sum_


@inlined
def _first(block, n_components):
    """Atom that a block begins with."""
    return min(block * ABREAST, n_components - ABREAST)


@compiled
def products(places, X, bytes_, worth, sums, out, lost, room):
    """Products of rows with all atoms.

    Parameters
    ----------
    places : int array
        Which rows; as many as there is room for, at most.
    X : array of shape (n, n_features)
    bytes_, worth, sums : arrays
        Of at least ``ABREAST`` atoms, see :func:`round_atoms`.
    out : array of shape (n, n_components)
    lost : array of shape (n,)
        Receives the share of each row's length that is lost.
    room : tuple
        See :func:`room_for`.
    """
    n_components = out.shape[1]
    rows, units = room
    width = rows.shape[1]
    for i in range(len(places)):
        start = i * width
        units[i], _, lost[places[i]] = _round(X, places[i], rows, start, LINE, ZERO)
    for block in range(bytes_.shape[0]):
        j = _first(block, n_components)
        for i in range(len(places)):
            at, there = i * width, block * ABREAST * width
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
            all_ = totals(a, b, c, d, e, f, g, h)
            write(out, places[i] * n_components + j, all_, sums, worth, j, units[i])


def room_for_atoms(D: np.ndarray) -> np.ndarray:
    """Bytes of atoms, with zeros up to whole lines."""
    return space((-(-len(D) // ABREAST), ABREAST * _width(D)), np.int8)


def room_for(n: int, D: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What :func:`products` works in: bytes of ``n`` rows, and what one is worth."""
    return space((n, _width(D)), np.uint8), np.zeros(n, np.float32)


def _width(D: np.ndarray) -> int:
    return -(-D.shape[1] // LINE) * LINE
