"""Sixteen numbers at a time, in registers, for compiled loops.

LLVM turns a loop over an array into vector instructions only after it has made sure that no
two arrays overlap, which for rows of sixteen numbers takes longer than the work. Here
vectors are values: what is loaded, computed and stored is written down, and LLVM makes of it
what the processor has, whatever the width of its registers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

from .cpu_flat import pointer

WIDTH = 16  # of every vector, whatever the processor

# Sums may be reordered and contracted, and NaN does not come up (see cpu_jit); infinities may.
_FAST = ("reassoc", "contract", "arcp", "nsz", "nnan")


class Vector(types.Type):
    """``WIDTH`` numbers of one floating point type."""

    def __init__(self, dtype: types.Float) -> None:
        self.dtype = dtype
        super().__init__(name=f"Vector({dtype})")


class Mask(types.Type):
    """``WIDTH`` truth values."""

    def __init__(self) -> None:
        super().__init__(name="Mask")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Vector) -> None:
        number = ir.FloatType() if kind.dtype == types.float32 else ir.DoubleType()
        super().__init__(manager, kind, ir.VectorType(number, WIDTH))


@register_model(Mask)
class _MaskModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Mask) -> None:
        super().__init__(manager, kind, ir.VectorType(ir.IntType(1), WIDTH))


def _place(context, builder, kind, array, place):
    """Pointer to the vector that begins at a place of the flat array; its alignment."""
    vector = ir.VectorType(context.get_data_type(kind.dtype), WIDTH)
    here = builder.bitcast(pointer(builder, array, place), vector.as_pointer())
    return here, kind.dtype.bitwidth // 8


def _number(dtype):
    """Type of the numbers in an array: NumPy has no bfloat16, its bits come as uint16."""
    return types.float32 if dtype == types.uint16 else dtype


def _widen(builder, bits, wide, result):
    """bfloat16 is the upper half of float32."""
    half = [16] * WIDTH if isinstance(wide, ir.VectorType) else 16
    upper = builder.shl(builder.zext(bits, wide), ir.Constant(wide, half))
    return builder.bitcast(upper, result)


@intrinsic
def load(_, array, place):
    """Vector that begins at ``place``, counted over the whole of a contiguous array."""

    def codegen(context, builder, signature, args):
        here, align = _place(context, builder, signature.args[0], *args)
        vector = builder.load(here, align=align)
        if signature.args[0].dtype != types.uint16:
            return vector
        wide = ir.VectorType(ir.IntType(32), WIDTH)
        return _widen(builder, vector, wide, ir.VectorType(ir.FloatType(), WIDTH))

    return Vector(_number(array.dtype))(array, types.intp), codegen


@intrinsic
def store(_, array, place, vector):
    """Write a vector to ``place`` and what follows it."""

    def codegen(context, builder, signature, args):
        here, align = _place(context, builder, signature.args[0], *args[:2])
        builder.store(args[2], here, align=align)
        return context.get_dummy_value()

    return types.none(array, types.intp, vector), codegen


@intrinsic
def get(_, array, place):
    """The number at a place that is not negative, counted over a contiguous array."""

    def codegen(context, builder, signature, args):
        number = builder.load(pointer(builder, *args))
        if signature.args[0].dtype != types.uint16:
            return number
        return _widen(builder, number, ir.IntType(32), ir.FloatType())

    return _number(array.dtype)(array, types.intp), codegen


@intrinsic
def put(_, array, place, number):
    """Write a number to a place that is not negative, counted over a contiguous array."""

    def codegen(context, builder, signature, args):
        builder.store(args[2], pointer(builder, *args[:2]))
        return context.get_dummy_value()

    return types.none(array, types.intp, array.dtype), codegen


@intrinsic
def without_sign(_, number):
    """A number's bits but for its sign, as an integer: ordered as sizes are, NaN the largest."""

    def codegen(context, builder, signature, args):
        whole = ir.IntType(number.bitwidth)
        others = ir.Constant(whole, 2 ** (number.bitwidth - 1) - 1)
        return builder.zext(builder.and_(builder.bitcast(args[0], whole), others), ir.IntType(64))

    return types.int64(number), codegen


def spread(builder, number, width=WIDTH):
    """The number in every place of a vector, as LLVM's code."""
    undefined = ir.Constant(ir.VectorType(number.type, width), ir.Undefined)
    one = builder.insert_element(undefined, number, ir.Constant(ir.IntType(32), 0))
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), width), [0] * width)
    return builder.shuffle_vector(one, undefined, zeros)


@intrinsic
def splat(_, number):
    """The number in every place."""

    def codegen(context, builder, signature, args):
        return spread(builder, args[0])

    return Vector(number)(number), codegen


@intrinsic
def zeros(_, like):
    """Zeros of the type of an array."""

    def codegen(context, builder, signature, args):
        return ir.Constant(context.get_value_type(signature.return_type), [0.0] * WIDTH)

    return Vector(like.dtype)(like), codegen


@intrinsic
def cast(_, vector, like):
    """The vector in the type of an array."""

    def codegen(context, builder, signature, args):
        wanted = context.get_value_type(signature.return_type)
        if args[0].type == wanted:
            return args[0]
        narrower = isinstance(wanted.element, ir.FloatType)
        return (builder.fptrunc if narrower else builder.fpext)(args[0], wanted)

    return Vector(like.dtype)(vector, like), codegen


def _operation(name: str) -> Callable[..., Any]:
    @intrinsic
    def operation(_, a, b):
        def codegen(context, builder, signature, args):
            return getattr(builder, name)(*args, flags=_FAST)

        return a(a, b), codegen

    return operation


add, subtract, multiply, divide = (_operation(name) for name in ("fadd", "fsub", "fmul", "fdiv"))


@intrinsic
def plus(_, vector, number, other):
    """``vector + number·other``."""

    def codegen(context, builder, signature, args):
        product = builder.fmul(spread(builder, args[1]), args[2], flags=_FAST)
        return builder.fadd(args[0], product, flags=_FAST)

    return vector(vector, vector.dtype, vector), codegen


def _call(builder, name, result, args):
    """Call an intrinsic function of LLVM that is overloaded on the type of its last argument."""
    bits = 64 if isinstance(args[-1].type.element, ir.DoubleType) else 32
    kind = ir.FunctionType(result, [a.type for a in args])
    function = cgutils.get_or_insert_function(builder.module, kind, f"{name}.v{WIDTH}f{bits}")
    return builder.call(function, args, fastmath=_FAST)


@intrinsic
def maximum(_, a, b):
    """The larger one in every place."""

    def codegen(context, builder, signature, args):
        return _call(builder, "llvm.maxnum", args[0].type, args)

    return a(a, b), codegen


@intrinsic
def absolute(_, vector):
    """Absolute values."""

    def codegen(context, builder, signature, args):
        return _call(builder, "llvm.fabs", args[0].type, args)

    return vector(vector), codegen


@intrinsic
def root(_, vector):
    """Square roots."""

    def codegen(context, builder, signature, args):
        return _call(builder, "llvm.sqrt", args[0].type, args)

    return vector(vector), codegen


@intrinsic
def nearest(_, vector):
    """The nearest whole numbers."""

    def codegen(context, builder, signature, args):
        return _call(builder, "llvm.rint", args[0].type, args)

    return vector(vector), codegen


@intrinsic
def largest(_, vector):
    """The largest number in it."""

    def codegen(context, builder, signature, args):
        return _call(builder, "llvm.vector.reduce.fmax", args[0].type.element, args)

    return vector.dtype(vector), codegen


@intrinsic
def total(_, vector):
    """The sum of it."""

    def codegen(context, builder, signature, args):
        zero = ir.Constant(args[0].type.element, -0.0)
        return _call(builder, "llvm.vector.reduce.fadd", zero.type, [zero, args[0]])

    return vector.dtype(vector), codegen


@intrinsic
def where(_, mask, a, b):
    """``a`` where the mask is true, ``b`` elsewhere."""

    def codegen(context, builder, signature, args):
        return builder.select(*args)

    return a(mask, a, b), codegen


@intrinsic
def first(_, mask):
    """Number of the first place that is true; ``WIDTH`` if none is."""

    def codegen(context, builder, signature, args):
        bits = builder.bitcast(args[0], ir.IntType(WIDTH))
        place = builder.cttz(bits, ir.Constant(ir.IntType(1), 0))
        return builder.zext(place, ir.IntType(64))

    return types.int64(mask), codegen


@intrinsic
def bits(_, mask):
    """The truth values as bits of a number, the first place the lowest."""

    def codegen(context, builder, signature, args):
        return builder.zext(builder.bitcast(args[0], ir.IntType(WIDTH)), ir.IntType(64))

    return types.int64(mask), codegen


@intrinsic
def lowest(_, number):
    """Place of the lowest bit of a number that is not zero."""

    def codegen(context, builder, signature, args):
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.int64), codegen


@intrinsic
def how_many(_, number):
    """How many bits of a number are set."""

    def codegen(context, builder, signature, args):
        return builder.ctpop(args[0])

    return types.int64(types.int64), codegen


def _comparison(sign: str) -> Callable[..., Any]:
    @intrinsic
    def comparison(_, a, b):
        def codegen(context, builder, signature, args):
            return builder.fcmp_ordered(sign, *args)

        return Mask()(a, b), codegen

    return comparison


at_least, more_than, equal = (_comparison(sign) for sign in (">=", ">", "=="))


@intrinsic
def both(_, a, b):
    """Where both masks are true."""

    def codegen(context, builder, signature, args):
        return builder.and_(*args)

    return Mask()(a, b), codegen
