"""Products with sparse codes, by whatever makes them fastest on the device.

What each function means is said in :mod:`.reference_sparse`. Tensors on the CPU go to the
compiled loops of :mod:`.cpu_sparse` where numba can be used, those on CUDA devices to the kernels
of :mod:`.cuda_sparse` where Triton works, all others to the definition.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import ModuleType

import torch
from torch import Tensor

from . import reference_sparse, rounded
from .cpu_probe import compiled_loops
from .cuda_probe import fused
from .reference_sparse import ByAtom, Places

__all__ = [
    "ByAtom",
    "Places",
    "above",
    "by_atom",
    "decode",
    "largest",
    "products",
    "rows_by_atom",
    "screen",
    "sums_by_atom",
]

_FEW = 64  # one atom of so many may be looked for by rounded products

_compiled = partial(compiled_loops, "cpu_sparse")


def _make(X: Tensor) -> ModuleType:
    made = None
    if X.device.type == "cpu":
        made = _compiled()
    elif X.device.type == "cuda":
        made = fused("cuda_sparse", X.device)
    return made or reference_sparse


def largest(pre: Tensor, bias: Tensor, k: int, *, signed: bool) -> Places:
    """Places of the ``k`` largest entries of each row, after adding the bias of their column."""
    return _make(pre).largest(pre, bias, k, signed=signed)


def screen(
    weight: Tensor, bias: Tensor, k: int, *, signed: bool
) -> Callable[[Tensor], tuple[Places, Tensor]] | None:
    """What finds the ``k`` largest products of rows with these weights without computing all.

    Of rows of shape (n, n_features) it returns places and the products there, with their bias,
    as :func:`largest` and a product would. None: a whole product is as fast.
    """
    make = _compiled()
    large = weight.numel() >= rounded.WORTH and k * _FEW <= len(weight)
    single = weight.dtype == torch.float32
    if make is None or not (large and single and rounded.is_faster(weight.device)):
        return None
    if weight.device.type != "cpu":
        return None
    from .cpu_screen import Screen

    return Screen(weight, bias, k, signed=signed)


def above(pre: Tensor, floor: Tensor) -> Places:
    """Places of the entries that are above the floor of their column, shape (n_components,)."""
    return _make(pre).above(pre, floor)


def by_atom(places: Places, n_components: int) -> ByAtom:
    """The same places, atom after atom."""
    return _make(places.atoms).by_atom(places, n_components)


def decode(places: Places, values: Tensor, D: Tensor) -> Tensor:
    """``SD``, shape (n, n_features)."""
    return _make(D).decode(places, values, D)


def products(places: Places, R: Tensor, D: Tensor) -> Tensor:
    """``RDᵀ`` at the places, shape (n_places,)."""
    return _make(D).products(places, R, D)


def sums_by_atom(places: Places, turned: ByAtom, values: Tensor) -> Tensor:
    """Sums of the values of each atom, shape (n_components,); the places are given both ways."""
    return _make(values).sums_by_atom(places, turned, values)


def rows_by_atom(places: ByAtom, values: Tensor, R: Tensor, out: Tensor | None = None) -> Tensor:
    """``SᵀR``, shape (n_components, n_features), in the memory of ``out`` if it is given."""
    return _make(R).rows_by_atom(places, values, R, out)
