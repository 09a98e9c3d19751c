"""Codes of a batch that is trained on: all of them, or only places that may be non-zero.

Both kinds have the same products with matrices, so that a step of training is written once.
"""

from __future__ import annotations

import math
from functools import cached_property

import torch
from torch import Tensor

from ..kernels import sparse
from ..kernels.sparse import Places
from .distributed import Group

SPARSE_SHARE = 0.03  # share of active codes below which sparse products are the faster ones
_LOOK_EVERY = 16  # steps between two looks whether dense codes have become sparse


class Dense:
    """All codes: values are of shape (n, n_components).

    Parameters
    ----------
    mask : Tensor of shape (n, n_components) or None
        Which of them may be non-zero, if that does not follow from the values.
    work : Workspace or None
        Has the room for products, and says whether numbers are rounded.
    """

    def __init__(self, mask: Tensor | None = None, work: Workspace | None = None) -> None:
        self.mask = mask
        self._work = work or Workspace()

    def masked(self, values: Tensor) -> Tensor:
        """Zeros where codes are known to be zero."""
        return values if self.mask is None else torch.where(self.mask, values, 0.0)

    def gather(self, matrix: Tensor) -> Tensor:
        """Entries of a matrix (n, n_components) at these places."""
        return matrix

    def spread(self, per_atom: Tensor) -> Tensor:
        """What belongs to the atom of each place, given what belongs to each atom."""
        return per_atom

    def per_atom(self, values: Tensor) -> Tensor:
        """Sums over the rows, shape (n_components,)."""
        return values.sum(0, dtype=_sums(values))

    def counts(self, values: Tensor) -> Tensor:
        """How many of them are not zero, shape (n_components,)."""
        return values.count_nonzero(0)

    def decode(self, values: Tensor, D: Tensor) -> Tensor:
        """``SD``, shape (n, n_features)."""
        return self._product(values, D, D.new_empty(len(values), D.shape[1]))

    def products(self, R: Tensor, D: Tensor, out: Tensor | None = None) -> Tensor:
        """``RDᵀ`` at these places, in the memory of ``out``."""
        return self._product(R, D.T, D.new_empty(len(R), len(D)) if out is None else out)

    def rows_by_atom(self, values: Tensor, R: Tensor, out: Tensor) -> Tensor:
        """``SᵀR``, shape (n_components, n_features), in the memory of ``out``."""
        return self._product(values.T, R, out)

    def _product(self, A: Tensor, B: Tensor, out: Tensor) -> Tensor:
        if not self._work.in_bfloat16:
            return torch.mm(A, B, out=out)
        left, right = self._work.rounded("left", A), self._work.rounded("right", B)
        if out.dtype == torch.bfloat16:
            return torch.mm(left, right, out=out)
        room = self._work.like("rounded result", out, torch.bfloat16)
        return out.copy_(torch.mm(left, right, out=room))


def _sums(values: Tensor) -> torch.dtype:
    """In what sums of values are held: rounded numbers are too short for it."""
    return torch.float32 if values.dtype == torch.bfloat16 else values.dtype


class Sparse:
    """Codes at some places: values are of shape (n_places,).

    Parameters
    ----------
    places : Places
    n_components : int
    """

    def __init__(self, places: Places, n_components: int) -> None:
        self.places = places
        self.n_components = n_components

    @cached_property
    def _by_atom(self) -> sparse.ByAtom:
        return sparse.by_atom(self.places, self.n_components)

    @cached_property
    def _flat(self) -> Tensor:
        return self.places.rows * self.n_components + self.places.atoms

    def masked(self, values: Tensor) -> Tensor:
        """Values are at no other places anyway."""
        return values

    def gather(self, matrix: Tensor) -> Tensor:
        """Entries of a matrix (n, n_components) at these places."""
        return matrix.reshape(-1)[self._flat]

    def dense(self, values: Tensor) -> Tensor:
        """All codes, shape (n, n_components)."""
        n = len(self.places.starts) - 1
        flat = values.new_zeros(n * self.n_components).scatter(0, self._flat, values)
        return flat.view(n, self.n_components)

    def spread(self, per_atom: Tensor) -> Tensor:
        """What belongs to the atom of each place, given what belongs to each atom."""
        return per_atom[self.places.atoms]

    def per_atom(self, values: Tensor) -> Tensor:
        """Sums over the rows, shape (n_components,)."""
        return sparse.sums_by_atom(self.places, self._by_atom, values)

    def counts(self, values: Tensor) -> Tensor:
        """How many of them are not zero, shape (n_components,)."""
        return self.per_atom((values != 0).to(values))

    def decode(self, values: Tensor, D: Tensor) -> Tensor:
        """``SD``, shape (n, n_features)."""
        return sparse.decode(self.places, values, D)

    def products(self, R: Tensor, D: Tensor, out: Tensor | None = None) -> Tensor:
        """``RDᵀ`` at these places. They are few: new memory does as well as that of ``out``."""
        return sparse.products(self.places, R, D)

    def rows_by_atom(self, values: Tensor, R: Tensor, out: Tensor) -> Tensor:
        """``SᵀR``, shape (n_components, n_features), in the memory of ``out``."""
        return sparse.rows_by_atom(self._by_atom, values, R, out)

    def split(self, ends: Tensor) -> Sparse:
        """The same places, every row cut where the atoms reach ``ends``.

        Row i becomes the rows from ``i·len(ends)`` on.
        """
        n, n_parts = len(self.places.starts) - 1, len(ends)
        part = torch.bucketize(self.places.atoms, ends, right=True)
        new_rows = torch.arange(n * n_parts + 1, device=part.device)
        starts = torch.searchsorted(self.places.rows * n_parts + part, new_rows)
        return Sparse(Places(starts, self.places.atoms), self.n_components)


Codes = Dense | Sparse


class Workspace:
    """What a run keeps from step to step: the room for products, and which are the faster ones.

    Codes that are active above a floor are handled as sparse from the step on at which few of
    them are.

    Parameters
    ----------
    nested : bool
        Whether dictionaries are nested, for which codes have to be :class:`Sparse`.
    in_bfloat16 : bool
        Whether dense products are those of numbers rounded to bfloat16. Codes of
        :class:`Sparse` are computed again from the numbers themselves.
    group : Group or None
        The processes that share each batch; None: there is one.

    Attributes
    ----------
    gradients : dict
        Where gradients of parameters are written to.
    """

    def __init__(
        self, *, nested: bool = False, in_bfloat16: bool = False, group: Group | None = None
    ) -> None:
        self.nested, self.in_bfloat16 = nested, in_bfloat16
        self.group = group or Group()
        self.steps_dense = 0
        self.gradients: dict[Tensor, Tensor] = {}
        self._rooms: dict[str, Tensor] = {}
        self._factors: tuple[Tensor, Tensor] | None = None

    def room(self, name: str, shape: tuple[int, ...], dtype: torch.dtype, like: Tensor) -> Tensor:
        """Memory for a result, which lasts until the next one of this name.

        Where memory is new, the system clears it first, which takes half as long as a product,
        and longer than a gradient.
        """
        size, kept = math.prod(shape), self._rooms.get(name)
        if kept is None or kept.numel() < size or kept.dtype != dtype:
            kept = self._rooms[name] = torch.empty(size, dtype=dtype, device=like.device)
        return kept[:size].view(shape)

    def product(self, hidden: Tensor, weight: Tensor) -> Tensor:
        """Pre-activations without their bias; the next call writes to the same place."""
        self._factors = hidden, weight
        if self.in_bfloat16:
            hidden, weight = self.rounded("left", hidden), self.rounded("right", weight)
        room = self.room("product", (len(hidden), len(weight)), hidden.dtype, hidden)
        return torch.mm(hidden, weight.T, out=room)

    def like(self, name: str, matrix: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Room for what is as large as a matrix."""
        return self.room(name, tuple(matrix.shape), dtype or matrix.dtype, matrix)

    def gradient(self, parameter: Tensor) -> Tensor:
        """Room for the gradient of a parameter, which lasts until the next one."""
        if parameter not in self.gradients:
            self.gradients[parameter] = torch.empty_like(parameter.detach())
        return self.gradients[parameter]

    def rounded(self, name: str, matrix: Tensor) -> Tensor:
        """The matrix in bfloat16, itself or in the room of this name, in its own order."""
        if matrix.dtype == torch.bfloat16:
            return matrix
        if not matrix.is_contiguous() and matrix.T.is_contiguous():
            return self.rounded(name, matrix.T).T
        return self.like(name, matrix, torch.bfloat16).copy_(matrix)

    def rectified(self, places: Codes, pre: Tensor, bias: Tensor) -> Tensor:
        """``max(v, 0)`` at some places, without a graph; the next call writes to the same place."""
        if isinstance(places, Sparse):
            return (self.at(places, pre) + places.spread(bias)).relu_()
        codes = torch.add(pre, bias.to(pre.dtype), out=self.like("codes", pre))
        return places.masked(codes.relu_())

    def at(self, places: Codes, pre: Tensor) -> Tensor:
        """Entries of the last product at some places, not rounded if they are few."""
        if self.in_bfloat16 and self._factors is not None and isinstance(places, Sparse):
            return places.products(*self._factors)
        return places.gather(pre)

    def above(self, pre: Tensor, floor: Tensor) -> Codes:
        """Places at which entries are above the floor of their column."""
        if self.steps_dense % _LOOK_EVERY == 0 and self._few(pre > floor):
            self.steps_dense = 0
            return Sparse(sparse.above(pre, floor), pre.shape[1])
        self.steps_dense += 1
        return self.dense()

    def _few(self, active: Tensor) -> bool:
        """Whether few codes of the whole batch are active."""
        found = torch.stack([active.sum(), active.new_tensor(active.numel(), dtype=torch.int64)])
        n_active, n = self.group.sum_(found).tolist()
        return bool(n_active <= SPARSE_SHARE * n)

    def dense(self, mask: Tensor | None = None) -> Dense:
        """All codes."""
        return Dense(mask, self)
