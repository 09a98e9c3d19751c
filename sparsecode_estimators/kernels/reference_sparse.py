"""Products with codes of which only some places are known to be non-zero, in torch."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

_BLOCK = 2**22  # numbers that are gathered at once


class Places(NamedTuple):
    """Where the codes of some rows may differ from zero, row after row.

    Attributes
    ----------
    starts : Tensor of shape (n + 1,), int64
        Row i has the places from ``starts[i]`` up to ``starts[i + 1]``.
    atoms : Tensor of shape (n_places,), int64
        Ascending in every row.
    """

    starts: Tensor
    atoms: Tensor

    @property
    def rows(self) -> Tensor:
        """Row of every place, shape (n_places,)."""
        n = torch.arange(len(self.starts) - 1, device=self.starts.device)
        return n.repeat_interleave(self.starts.diff(), output_size=len(self.atoms))


class ByAtom(NamedTuple):
    """The same places, atom after atom.

    Attributes
    ----------
    starts : Tensor of shape (n_components + 1,), int64
    rows : Tensor of shape (n_places,), int64
        Ascending for every atom.
    order : Tensor of shape (n_places,), int64
        Number of each place in :class:`Places`.
    """

    starts: Tensor
    rows: Tensor
    order: Tensor


def starts_of(counts: Tensor) -> Tensor:
    """Where each of some lists begins that follow each other, and where the last one ends."""
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])


def largest(pre: Tensor, bias: Tensor, k: int, *, signed: bool) -> Places:
    """Places of the ``k`` largest entries of each row, by absolute value if ``signed``.

    To each entry the bias of its column is added.
    """
    scores = pre + bias
    atoms = (scores.abs() if signed else scores).topk(k, dim=1).indices.sort(dim=1).values
    starts = torch.arange(0, atoms.numel() + 1, k, device=pre.device)
    return Places(starts, atoms.flatten())


def above(pre: Tensor, floor: Tensor) -> Places:
    """Places of the entries that are above the floor of their column."""
    found = pre > floor
    return Places(starts_of(found.sum(1)), found.nonzero()[:, 1])


def by_atom(places: Places, n_components: int) -> ByAtom:
    """Turn places round. To count them would ask a device for a number: it would be waited for."""
    atoms, order = places.atoms.sort(stable=True)
    starts = torch.searchsorted(atoms, torch.arange(n_components + 1, device=atoms.device))
    return ByAtom(starts, places.rows[order], order)


def decode(places: Places, values: Tensor, D: Tensor) -> Tensor:
    """``SD``, shape (n, n_features)."""
    return embedding_bag(
        places.atoms, D, places.starts, per_sample_weights=values, mode="sum",
        include_last_offset=True,
    )  # fmt: skip


def products(places: Places, R: Tensor, D: Tensor) -> Tensor:
    """``RDᵀ`` at the places, shape (n_places,)."""
    size = max(1, _BLOCK // D.shape[1])
    parts = zip(places.rows.split(size), places.atoms.split(size), strict=True)
    return torch.cat([R.new_empty(0), *((R[i] * D[j]).sum(1) for i, j in parts)])


def sums_by_atom(places: Places, turned: ByAtom, values: Tensor) -> Tensor:
    """Sums of the values of each atom, shape (n_components,); the places are given both ways."""
    total = values.new_zeros(len(turned.starts) - 1)
    return total.index_add_(0, places.atoms, values)


def rows_by_atom(places: ByAtom, values: Tensor, R: Tensor, out: Tensor | None = None) -> Tensor:
    """``SᵀR``, shape (n_components, n_features), in the memory of ``out`` if it is given."""
    found = embedding_bag(
        places.rows, R, places.starts, per_sample_weights=values[places.order], mode="sum",
        include_last_offset=True,
    )  # fmt: skip
    return found if out is None else out.copy_(found)
