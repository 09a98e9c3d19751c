"""Arrays as compiled loops hand them on: where they begin, and how long their axes are.

An array of Numba's is up to nine numbers, all of which every call copies and LLVM has to see
through, and each index into it is asked whether it counts from the end. That took a quarter of a
first call.
"""

from __future__ import annotations

import functools
import operator
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.errors import TypingError
from numba.core.imputils import RefType, iternext_impl
from numba.core.typing import signature
from numba.core.typing.templates import (
    AbstractTemplate,
    AttributeTemplate,
    infer_getattr,
    infer_global,
)
from numba.extending import intrinsic, lower_builtin, lower_getattr, models, register_model


class Flat(types.IterableType):
    """A contiguous array. Indices are whole numbers that are not negative; there are no slices."""

    def __init__(self, dtype: Any, ndim: int) -> None:
        self.dtype, self.ndim = dtype, ndim
        super().__init__(name=f"Flat({dtype}, {ndim})")

    @property
    def iterator_type(self) -> _Numbers:
        if self.ndim != 1:
            raise TypingError(f"compiled loops go over arrays with one axis, not {self}")
        return _Numbers(self)


class _Numbers(types.SimpleIteratorType):
    """Those of an array with one axis, one after the other."""

    def __init__(self, array: Flat) -> None:
        self.array = array
        super().__init__(f"Numbers({array})", array.dtype)


@register_model(Flat)
class _FlatModel(models.StructModel):
    def __init__(self, manager: Any, kind: Flat) -> None:
        shape = types.UniTuple(types.intp, kind.ndim)
        members = [("data", types.CPointer(kind.dtype)), ("shape", shape)]
        super().__init__(manager, kind, members)


@register_model(_Numbers)
class _NumbersModel(models.StructModel):
    def __init__(self, manager: Any, kind: _Numbers) -> None:
        members = [("place", types.EphemeralPointer(types.intp)), ("array", kind.array)]
        super().__init__(manager, kind, members)


def _flat_type(kind):
    if isinstance(kind, types.Array):
        if kind.layout != "C":
            raise TypingError(f"compiled loops take contiguous arrays, not {kind}")
        return Flat(kind.dtype, kind.ndim)
    if isinstance(kind, types.BaseNamedTuple):
        return types.NamedTuple([_flat_type(k) for k in kind.types], kind.instance_class)
    if isinstance(kind, types.BaseTuple):
        return types.Tuple([_flat_type(k) for k in kind.types])
    return kind


def _flat_value(context, builder, kind, value):
    if isinstance(kind, types.Array):
        array = context.make_array(kind)(context, builder, value)
        return _made(context, builder, _flat_type(kind), array.data, array.shape)
    if isinstance(kind, types.BaseTuple):
        parts = zip(kind.types, cgutils.unpack_tuple(builder, value), strict=True)
        values = [_flat_value(context, builder, *part) for part in parts]
        return context.make_tuple(builder, _flat_type(kind), values)
    return value


def _made(context, builder, kind, data, shape):
    array = cgutils.create_struct_proxy(kind)(context, builder)
    array.data, array.shape = data, shape
    return array._getvalue()


@intrinsic
def flat(_, given):
    """A tuple whose arrays, and those in tuples within it, are :class:`Flat`."""

    def codegen(context, builder, sig, args):
        return _flat_value(context, builder, sig.args[0], args[0])

    return _flat_type(given)(given), codegen


def pointer(builder: Any, array: Any, place: Any) -> Any:
    """To the number at a place, counted over the whole array, as LLVM's code."""
    return builder.gep(builder.extract_value(array, 0), [place])


def _length(builder, array, axis):
    return builder.extract_value(array, [1, axis])


@infer_getattr
class _Attributes(AttributeTemplate):
    key = Flat

    def resolve_shape(self, array):
        return types.UniTuple(types.intp, array.ndim)

    def resolve_dtype(self, array):
        return types.DType(array.dtype)

    def resolve_itemsize(self, array):
        return types.intp


@lower_getattr(Flat, "shape")
def _shape(context, builder, kind, array):
    return builder.extract_value(array, 1)


@lower_getattr(Flat, "dtype")
def _dtype(context, builder, kind, array):
    return context.get_dummy_value()


@lower_getattr(Flat, "itemsize")
def _itemsize(context, builder, kind, array):
    return context.get_constant(types.intp, kind.dtype.bitwidth // 8)


@infer_global(len)
class _Len(AbstractTemplate):
    def generic(self, args, kws):
        return signature(types.intp, *args) if isinstance(args[0], Flat) else None


@lower_builtin(len, Flat)
def _len(context, builder, sig, args):
    return _length(builder, args[0], 0)


def _index(array, index):
    """The type of an index to one number; None if it is none."""
    if isinstance(array, Flat) and array.ndim == 1 and isinstance(index, types.Integer):
        return types.intp
    if isinstance(array, Flat) and isinstance(index, types.BaseTuple) and len(index) == array.ndim:
        return types.UniTuple(types.intp, array.ndim)
    return None


@infer_global(operator.getitem)
class _GetItem(AbstractTemplate):
    def generic(self, args, kws):
        array, index = args
        if isinstance(array, Flat) and array.ndim > 1 and isinstance(index, types.Integer):
            return signature(Flat(array.dtype, array.ndim - 1), array, types.intp)  # a row
        index = _index(array, index)
        return index and signature(array.dtype, array, index)


@infer_global(operator.setitem)
class _SetItem(AbstractTemplate):
    def generic(self, args, kws):
        array, index, _ = args
        index = _index(array, index)
        return index and signature(types.none, array, index, array.dtype)


@lower_builtin(operator.getitem, Flat, types.Any)
def _get(context, builder, sig, args):
    if not isinstance(sig.return_type, Flat):
        return context.unpack_value(builder, sig.return_type, _entry(builder, sig.args[1], *args))
    array, row = args
    lengths = [_length(builder, array, axis) for axis in range(1, sig.args[0].ndim)]
    data = pointer(builder, array, functools.reduce(builder.mul, lengths, row))
    shape = context.make_tuple(builder, types.UniTuple(types.intp, len(lengths)), lengths)
    return _made(context, builder, sig.return_type, data, shape)


@lower_builtin(operator.setitem, Flat, types.Any, types.Any)
def _set(context, builder, sig, args):
    entry = _entry(builder, sig.args[1], *args[:2])
    context.pack_value(builder, sig.args[0].dtype, args[2], entry)
    return context.get_dummy_value()


def _entry(builder, kind, array, index):
    if not isinstance(kind, types.BaseTuple):
        return pointer(builder, array, index)
    place, *others = cgutils.unpack_tuple(builder, index)
    for axis, i in enumerate(others, 1):
        place = builder.add(builder.mul(place, _length(builder, array, axis)), i)
    return pointer(builder, array, place)


@lower_builtin("getiter", Flat)
def _numbers(context, builder, sig, args):
    numbers = context.make_helper(builder, sig.return_type)
    numbers.place = cgutils.alloca_once_value(builder, context.get_constant(types.intp, 0))
    numbers.array = args[0]
    return numbers._getvalue()


@lower_builtin("iternext", _Numbers)
@iternext_impl(RefType.UNTRACKED)
def _next(context, builder, sig, args, result):
    numbers = context.make_helper(builder, sig.args[0], args[0])
    place = builder.load(numbers.place)
    more = builder.icmp_signed("<", place, _length(builder, numbers.array, 0))
    result.set_valid(more)
    with builder.if_then(more):
        here = pointer(builder, numbers.array, place)
        result.yield_(context.unpack_value(builder, sig.args[0].array.dtype, here))
        builder.store(builder.add(place, ir.Constant(place.type, 1)), numbers.place)
