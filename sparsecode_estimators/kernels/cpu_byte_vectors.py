"""Bytes in registers, for products of rows with atoms: instructions of AVX2, or of VNNI."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

from .cpu_flat import pointer
from .cpu_lane_vectors import has, shuffle
from .cpu_room import LINE
from .cpu_vectors import WIDTH, spread

ABREAST = 8  # atoms whose sums are in registers
FUSED = has("avx512vnni") or has("avxvnni")  # products are added up in 32 bits at once
PAIRED = FUSED and has("avx512vl")  # there are registers for the sums of two rows
LARGEST = 127 if FUSED else 63  # four products with a row's byte, twice as large, fit in 16 bits
ZERO = LARGEST + 1  # what stands for zero in rows

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
        def factors(kind, half):
            for array, place in zip(args[1::2], args[2::2], strict=True):
                here = pointer(builder, array, builder.add(place, ir.Constant(place.type, half)))
                here = builder.bitcast(here, kind.as_pointer())
                yield builder.load(here, align=LINE // 2)

        result, halves = args[0], (0, LINE // 2)
        if FUSED:
            for half in halves:
                more = [result, *factors(_SUMS, half)]
                result = _call(builder, "llvm.x86.avx512.vpdpbusd.256", _SUMS, more)
            return result
        pairs = [
            _call(builder, "llvm.x86.avx2.pmadd.ub.sw", _PAIRS, [*factors(_BYTES, half)])
            for half in halves
        ]
        more = [builder.add(*pairs), ir.Constant(_PAIRS, [1] * _PAIRS.count)]
        return builder.add(result, _call(builder, "llvm.x86.avx2.pmadd.wd", _SUMS, more))

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
    """Write ``(sums − ZERO·taken)·worth·unit`` to ``ABREAST`` places of ``out``."""

    def codegen(context, builder, signature, args):
        def vector(i, array, place):
            kind = ir.VectorType(context.get_data_type(signature.args[i].dtype), ABREAST)
            return builder.bitcast(pointer(builder, array, place), kind.as_pointer())

        out, place, sums, taken, worth, j, unit = args
        target = vector(0, out, place)
        all_ = builder.load(vector(3, taken, j), align=4)
        left = builder.sub(sums, builder.mul(all_, ir.Constant(_SUMS, [ZERO] * _SUMS.count)))
        units = spread(builder, unit, ABREAST)
        scale = builder.fmul(builder.load(vector(4, worth, j), align=4), units)
        numbers = builder.sitofp(left, scale.type)
        builder.store(builder.fmul(numbers, scale), target, align=4)
        return context.get_dummy_value()

    return types.none(out, types.intp, sums, taken, worth, types.intp, unit), codegen


@intrinsic
def put_bytes(_, array, place, whole, zero):
    """Write whole numbers between -127 and 127 as bytes, of which one stands for zero."""

    def codegen(context, builder, signature, args):
        array, place, whole, zero = args
        kind = ir.VectorType(ir.IntType(8), WIDTH)
        here = builder.bitcast(pointer(builder, array, place), kind.as_pointer())
        wide = builder.fptosi(whole, ir.VectorType(ir.IntType(32), WIDTH))
        zeros = spread(builder, builder.trunc(zero, ir.IntType(8)), WIDTH)
        builder.store(builder.add(builder.trunc(wide, kind), zeros), here, align=WIDTH)
        return context.get_dummy_value()

    return types.none(array, types.intp, whole, types.intp), codegen
