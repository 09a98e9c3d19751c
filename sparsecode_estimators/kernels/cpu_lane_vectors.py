"""What vectors that hold one number of each of sixteen rows need beside the rest."""

from __future__ import annotations

from functools import cache

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic

from .cpu_flat import pointer
from .cpu_vectors import WIDTH, Vector

_IN_TURN = ("contract", "nsz", "nnan")  # as elsewhere, but sums must not be regrouped


def shuffle(builder, a, b, places):
    numbers = ir.Constant(ir.VectorType(ir.IntType(32), len(places)), list(places))
    return builder.shuffle_vector(a, b, numbers)


@intrinsic
def columns(_, array, place, step):
    """Four numbers from ``place`` on, and those that come ``step`` later, ``WIDTH`` times: the
    first of each four as a vector, the second ones, and so on.
    """

    def codegen(context, builder, signature, args):
        number = context.get_data_type(signature.args[0].dtype)
        place, fours = args[1], []
        for _ in range(WIDTH):
            here = pointer(builder, args[0], place)
            four = builder.bitcast(here, ir.VectorType(number, 4).as_pointer())
            fours.append(builder.load(four, align=4))
            place = builder.add(place, args[2])
        rows = []
        for i in range(4):
            halves = [shuffle(builder, fours[i + j], fours[i + j + 4], range(8)) for j in (0, 8)]
            rows.append(shuffle(builder, *halves, range(16)))
        return context.make_tuple(builder, signature.return_type, _transposed(builder, rows))

    return types.UniTuple(Vector(array.dtype), 4)(array, types.intp, types.intp), codegen


@intrinsic
def put_columns(_, array, place, step, a, b, c, d):
    """Write where :func:`columns` would read these vectors from."""

    def codegen(context, builder, signature, args):
        place, rows = args[1], _transposed(builder, args[3:])
        for lane in range(WIDTH):
            first = lane // 4 * 4
            four = shuffle(builder, *[rows[lane % 4]] * 2, range(first, first + 4))
            here = builder.bitcast(pointer(builder, args[0], place), four.type.as_pointer())
            builder.store(four, here, align=4)
            place = builder.add(place, args[2])
        return context.get_dummy_value()

    return types.none(array, types.intp, types.intp, a, b, c, d), codegen


def _transposed(builder, rows):
    """Each four of four vectors, in two rounds of shuffles."""
    quarters = range(0, WIDTH, 4)
    low = [q + p for q in quarters for p in (0, 16, 1, 17)]
    high = [q + p for q in quarters for p in (2, 18, 3, 19)]
    first = [q + p for q in quarters for p in (0, 1, 16, 17)]
    second = [q + p for q in quarters for p in (2, 3, 18, 19)]
    found = []
    for half in (low, high):
        a, b = (shuffle(builder, rows[i], rows[i + 1], half) for i in (0, 2))
        found += [shuffle(builder, a, b, first), shuffle(builder, a, b, second)]
    return found


@intrinsic
def in_turn(_, total, a, b):
    """``total + a·b``, for sums whose last digit must not depend on how many zeros follow.

    Other sums may be regrouped, which LLVM does by fours where it unrolls a loop.
    """

    def codegen(context, builder, signature, args):
        product = builder.fmul(*args[1:], flags=_IN_TURN)
        return builder.fadd(args[0], product, flags=_IN_TURN)

    return total(total, a, b), codegen


@intrinsic
def power_below(_, vector):
    """The largest powers of two that are not above numbers of float32; 0 for 0 and subnormal ones.

    Infinity stays what it is.
    """

    def codegen(context, builder, signature, args):
        whole = ir.VectorType(ir.IntType(32), WIDTH)
        exponents = ir.Constant(whole, [0x7F800000] * WIDTH)
        number = builder.and_(builder.bitcast(args[0], whole), exponents)
        return builder.bitcast(number, args[0].type)

    return vector(vector), codegen


def has(feature: str, context=cpu_target.target_context) -> bool:
    return f"+{feature}" in context.codegen().magic_tuple()[-1]


@cache
def permutes() -> bool:
    """Whether the processor has an instruction for :func:`pick`."""
    return has("avx512f") or has("avx2")


@intrinsic
def pick(_, vector, places):
    """The numbers of float32 in these places of the vector, whole ones that count modulo ``WIDTH``.

    LLVM has a name for it only on some processors; elsewhere it is written out.
    """

    def codegen(context, builder, signature, args):
        number = ir.IntType(32)
        whole = ir.VectorType(number, WIDTH)
        last = ir.Constant(whole, [WIDTH - 1] * WIDTH)
        numbers = builder.and_(builder.fptosi(args[1], whole), last)
        if has("avx512f", context):
            return _named(builder, "llvm.x86.avx512.permvar.sf.512", args[0], numbers)
        if has("avx2", context):
            return _pick_in_halves(builder, args[0], numbers)
        result = ir.Constant(args[0].type, ir.Undefined)
        for i in range(WIDTH):
            here = ir.Constant(number, i)
            value = builder.extract_element(args[0], builder.extract_element(numbers, here))
            result = builder.insert_element(result, value, here)
        return result

    return vector(vector, places), codegen


def _named(builder, name, vector, numbers):
    kind = ir.FunctionType(vector.type, [vector.type, numbers.type])
    return builder.call(
        cgutils.get_or_insert_function(builder.module, kind, name), [vector, numbers]
    )


def _pick_in_halves(builder, vector, numbers):
    """Registers of eight numbers: from the lower half and from the upper, of which one counts."""
    low, high = range(WIDTH // 2), range(WIDTH // 2, WIDTH)
    tables = [shuffle(builder, vector, vector, half) for half in (low, high)]
    found = []
    for half in (low, high):
        wanted = shuffle(builder, numbers, numbers, half)
        below, above = (_named(builder, "llvm.x86.avx2.permps", t, wanted) for t in tables)
        middle = ir.Constant(wanted.type, [WIDTH // 2] * (WIDTH // 2))
        found.append(builder.select(builder.icmp_signed("<", wanted, middle), below, above))
    return shuffle(builder, *found, range(WIDTH))


@intrinsic
def tagged(_, vector, number):
    """Numbers of float32 whose last six bits are those of another: they come along in a maximum.

    They change by less than one part in 10⁵.
    """

    def codegen(context, builder, signature, args):
        whole = ir.VectorType(ir.IntType(32), WIDTH)
        kept, brought = (builder.bitcast(a, whole) for a in args)
        others = ir.Constant(whole, [0xFFFFFFC0] * WIDTH)
        return builder.bitcast(builder.or_(builder.and_(kept, others), brought), args[0].type)

    return vector(vector, vector), codegen


@intrinsic
def tag(_, vector):
    """The numbers that came along, see :func:`tagged`, as float32."""

    def codegen(context, builder, signature, args):
        whole = ir.VectorType(ir.IntType(32), WIDTH)
        last = ir.Constant(whole, [0x3F] * WIDTH)
        number = builder.and_(builder.bitcast(args[0], whole), last)
        return builder.sitofp(number, args[0].type)

    return vector(vector), codegen
