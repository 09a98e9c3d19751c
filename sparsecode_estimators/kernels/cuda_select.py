"""Which places of a row are active: its largest scores, or those above a floor."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _keys(pre, bias, first, n_components: tl.constexpr, block: tl.constexpr, signed: tl.constexpr):
    """Unsigned integers in the order of the scores from column ``first`` on.

    Of a positive number the bits are in its order, of a negative one in the opposite order.
    Columns that are not there have 0, and no number has less.
    """
    columns = first + tl.arange(0, block)
    inside = columns < n_components
    score = tl.load(pre + columns, mask=inside, other=0.0).to(bias.dtype.element_ty)
    score += tl.load(bias + columns, mask=inside, other=0.0)
    if signed:
        score = tl.abs(score)
    score = tl.where(score == 0, 0.0, score)  # as −0 is no less than 0
    kind: tl.constexpr = tl.uint64 if score.dtype == tl.float64 else tl.uint32
    bits = score.to(kind, bitcast=True)
    sign = tl.full((), 1, kind) << (kind.primitive_bitwidth - 1)
    return tl.where(inside, tl.where(bits >= sign, ~bits, bits | sign), 0)


@triton.jit
def _beyond(
    key, keys, pre, bias,
    n_components: tl.constexpr, part: tl.constexpr, signed: tl.constexpr,
):  # fmt: skip
    """How many keys of a row are above this one; the first of them are given."""
    block: tl.constexpr = keys.shape[0]
    count = tl.sum((keys > key).to(tl.int32), axis=0)
    if block < n_components:
        more = tl.zeros((part,), tl.int32)
        for first in range(block, n_components, part):
            more += (_keys(pre, bias, first, n_components, part, signed) > key).to(tl.int32)
        count += tl.sum(more, axis=0)
    return count


@triton.jit(do_not_specialize=["k"])
def places_of_largest(
    pre, bias, atoms, k,
    n_components: tl.constexpr, block: tl.constexpr, part: tl.constexpr, signed: tl.constexpr,
):  # fmt: skip
    """One row a program. The k-th largest key is found bit by bit, then places are written.

    The first ``block`` columns stay in registers, those beyond are read again for every bit.

    Parameters
    ----------
    pre, bias : pointers to (n, n_components) and (n_components,)
        Scores are computed in the type of the bias.
    atoms : pointer to (n, k), int64
        Written to.
    k : int
    block, part : int
        Columns that stay, and that are read together; powers of two.
    signed : bool
        Whether the size of a score counts.
    """
    row = tl.program_id(0).to(tl.int64)
    pre += row * n_components
    atoms += row * k
    keys = _keys(pre, bias, 0, n_components, block, signed)
    floor = tl.full((), 0, keys.dtype)
    count = tl.full((), n_components, tl.int32)  # of keys from the floor on: at least k
    step = tl.full((), 1, keys.dtype) << (keys.dtype.primitive_bitwidth - 1)
    while (step > 0) & (count != k):
        found = _beyond(floor + (step - 1), keys, pre, bias, n_components, part, signed)
        floor = tl.where(found >= k, floor + step, floor)
        count = tl.where(found >= k, found, count)
        step = step >> 1

    room = k - _beyond(floor, keys, pre, bias, n_components, part, signed)  # at the floor
    written = tl.full((), 0, tl.int32)
    for first in range(0, n_components, part):
        some = _keys(pre, bias, first, n_components, part, signed)
        level = (some == floor).to(tl.int32)
        taken = (some > floor) | ((level > 0) & (tl.cumsum(level, axis=0) <= room))
        place = written + tl.cumsum(taken.to(tl.int32), axis=0) - 1
        tl.store(atoms + place, (first + tl.arange(0, part)).to(tl.int64), mask=taken)
        written += tl.sum(taken.to(tl.int32), axis=0)
        room -= tl.sum(level, axis=0)


@triton.jit
def _is_above(pre, floor, columns, n_components: tl.constexpr):
    inside = columns < n_components
    least = tl.load(floor + columns, mask=inside, other=0.0)
    return (tl.load(pre + columns, mask=inside, other=0.0).to(least.dtype) > least) & inside


@triton.jit
def count_above(pre, floor, counts, n_components: tl.constexpr, block: tl.constexpr):
    """How many entries of a row are above the floor of their column.

    Parameters
    ----------
    pre, floor : pointers to (n, n_components) and (n_components,)
        Entries are compared in the type of the floor.
    counts : pointer to (n,), int64
        Written to.
    """
    row = tl.program_id(0).to(tl.int64)
    count = tl.zeros((block,), tl.int32)
    for first in range(0, n_components, block):
        columns = first + tl.arange(0, block)
        count += _is_above(pre + row * n_components, floor, columns, n_components).to(tl.int32)
    tl.store(counts + row, tl.sum(count, axis=0).to(tl.int64))


@triton.jit
def places_above(pre, floor, starts, atoms, n_components: tl.constexpr, block: tl.constexpr):
    """Where these entries are.

    Parameters
    ----------
    pre, floor : pointers to (n, n_components) and (n_components,)
    starts : pointer to (n + 1,), int64
    atoms : pointer to (n_places,), int64
        Written to, from ``starts`` of the row on.
    """
    row = tl.program_id(0).to(tl.int64)
    atoms += tl.load(starts + row)
    written = tl.full((), 0, tl.int32)
    for first in range(0, n_components, block):
        columns = first + tl.arange(0, block)
        found = _is_above(pre + row * n_components, floor, columns, n_components)
        place = written + tl.cumsum(found.to(tl.int32), axis=0) - 1
        tl.store(atoms + place, columns.to(tl.int64), mask=found)
        written += tl.sum(found.to(tl.int32), axis=0)
