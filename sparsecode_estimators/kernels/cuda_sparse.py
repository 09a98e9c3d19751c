"""Products with codes of which only some places are known to be non-zero, in Triton.

To decode and to turn places round is that of the definition: rows have few places and are many,
so that torch's sums of atoms keep a device busy, and its sort is one already.

Sums are always taken in the same order, so that results are the same from run to run.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import reference_sparse
from .cuda_select import count_above, places_above, places_of_largest
from .reference_sparse import ByAtom, Places, by_atom, decode, starts_of

__all__ = [
    "above",
    "by_atom",
    "decode",
    "largest",
    "products",
    "rows_by_atom",
    "sums_by_atom",
    "works",
]

ROW = 2**17  # bytes of scores of a row that stay in the registers of one program
PART = 2**12  # columns that are read together
WARP = 2**10  # and those of each warp
PLACES, FEATURES = 16, 128  # of a sum that one program takes together


def works(device: torch.device) -> bool:
    """Whether a row of two numbers comes out right."""
    X = torch.arange(2.0, device=device).view(1, 2)
    places = largest(X, X[0], 1, signed=False)
    found = rows_by_atom(by_atom(places, 2), products(places, X, X.T @ X), X)
    return torch.equal(found, X.T @ X) and torch.equal(above(X, 0 * X[0]).atoms, places.atoms)


def largest(pre: Tensor, bias: Tensor, k: int, *, signed: bool) -> Places:
    """See :func:`.reference_sparse.largest`. Of equal entries the first ones are taken."""
    n, n_components = pre.shape
    bias = bias.to(torch.promote_types(pre.dtype, bias.dtype)).contiguous()
    if bias.dtype not in (torch.float32, torch.float64):
        return reference_sparse.largest(pre, bias, k, signed=signed)
    atoms = torch.empty(n * k, dtype=torch.int64, device=pre.device)
    block = _block(n_components, ROW // bias.element_size())
    with torch.cuda.device_of(pre):
        places_of_largest[(n,)](
            pre.contiguous(), bias, atoms, k, n_components=n_components,
            block=block, part=min(block, PART), signed=signed, num_warps=_warps(block),
        )  # fmt: skip
    return Places(torch.arange(0, n * k + 1, k, device=pre.device), atoms)


def above(pre: Tensor, floor: Tensor) -> Places:
    """See :func:`.reference_sparse.above`. The device is waited for: how many are there?"""
    n, n_components = pre.shape
    floor = floor.to(torch.promote_types(pre.dtype, floor.dtype)).contiguous()
    pre, counts = pre.contiguous(), torch.empty(n, dtype=torch.int64, device=pre.device)
    block = _block(n_components, PART)
    sizes = {"n_components": n_components, "block": block, "num_warps": _warps(block)}
    with torch.cuda.device_of(pre):
        count_above[(n,)](pre, floor, counts, **sizes)
        starts = starts_of(counts)
        atoms = counts.new_empty(int(starts[-1]))
        places_above[(n,)](pre, floor, starts, atoms, **sizes)
    return Places(starts, atoms)


def products(places: Places, R: Tensor, D: Tensor) -> Tensor:
    """See :func:`.reference_sparse.products`."""
    out = R.new_empty(len(places.atoms))
    n_features = R.shape[1]
    with torch.cuda.device_of(R):
        _products[(len(places.starts) - 1,)](
            places.starts, places.atoms, R.contiguous(), D.contiguous(), out,
            n_features=n_features, few=PLACES, block=_block(n_features, FEATURES),
        )  # fmt: skip
    return out


def rows_by_atom(places: ByAtom, values: Tensor, R: Tensor, out: Tensor | None = None) -> Tensor:
    """See :func:`.reference_sparse.rows_by_atom`."""
    n_components, n_features = len(places.starts) - 1, R.shape[1]
    if out is None:
        out = R.new_empty(n_components, n_features)
    block = _block(n_features, FEATURES)
    with torch.cuda.device_of(R):
        _rows_by_atom[(n_components, triton.cdiv(n_features, block))](
            *places, values.contiguous(), R.contiguous(), out, *out.stride(),
            n_features=n_features, few=PLACES, block=block,
        )  # fmt: skip
    return out


def sums_by_atom(places: Places, turned: ByAtom, values: Tensor) -> Tensor:
    """See :func:`.reference_sparse.sums_by_atom`, which adds in any order on a device."""
    ones = values.new_ones(len(places.starts) - 1, 1)
    return rows_by_atom(turned, values, ones).squeeze(1)


def _block(size: int, most: int) -> int:
    return min(triton.next_power_of_2(size), most)


def _warps(block: int) -> int:
    return min(max(block // WARP, 4), 16)


@triton.jit
def _products(
    starts, atoms, R, D, out,
    n_features: tl.constexpr, few: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """Products of one row with its atoms, ``few`` at a time.

    Parameters
    ----------
    starts, atoms : pointers to (n + 1,) and (n_places,), int64
    R, D : pointers to (n, n_features) and (n_components, n_features)
    out : pointer to (n_places,)
        Written to.
    block : int
        Features looked at together.
    """
    row = tl.program_id(0).to(tl.int64)
    place, end = tl.load(starts + row), tl.load(starts + row + 1)
    while place < end:
        here = place + tl.arange(0, few)
        atom = tl.load(atoms + here, mask=here < end, other=0)
        total = tl.zeros((few, block), out.dtype.element_ty)
        for first in range(0, n_features, block):
            m = first + tl.arange(0, block)
            both = (here < end)[:, None] & (m < n_features)[None, :]
            r = tl.load(R + row * n_features + m, mask=m < n_features, other=0.0)
            d = tl.load(D + atom[:, None] * n_features + m[None, :], mask=both, other=0.0)
            total += r[None, :] * d
        tl.store(out + here, tl.sum(total, axis=1), mask=here < end)
        place += few


@triton.jit
def _rows_by_atom(
    starts, rows, order, values, R, out, stride, step,
    n_features: tl.constexpr, few: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """Some features of the sum of the rows of one atom, ``few`` rows at a time.

    Parameters
    ----------
    starts, rows, order : pointers to (n_components + 1,), (n_places,) and (n_places,), int64
        See :class:`.reference_sparse.ByAtom`.
    values : pointer to (n_places,)
    R : pointer to (n, n_features)
    out : pointer to (n_components, n_features)
        Written to.
    stride, step : int
        From an atom to the next one there, and from a feature to the next one.
    """
    atom = tl.program_id(0).to(tl.int64)
    m = tl.program_id(1) * block + tl.arange(0, block)
    place, end = tl.load(starts + atom), tl.load(starts + atom + 1)
    total = tl.zeros((few, block), out.dtype.element_ty)
    while place < end:
        here = place + tl.arange(0, few)
        real = here < end
        row = tl.load(rows + here, mask=real, other=0)
        value = tl.load(values + tl.load(order + here, mask=real, other=0), mask=real, other=0.0)
        both = real[:, None] & (m < n_features)[None, :]
        r = tl.load(R + row[:, None] * n_features + m[None, :], mask=both, other=0.0)
        total += value[:, None] * r
        place += few
    tl.store(out + atom * stride + m * step, tl.sum(total, axis=0), mask=m < n_features)
