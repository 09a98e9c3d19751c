"""What exchanges of atoms mean, in torch, for any device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .least_squares import descend_on_support, top_support
from .reference import Answer
from .shared import FLOOR


def replacement(
    X: Tensor,
    D: Tensor,
    gram: Tensor | None,
    *,
    k: int,
    positive: bool,
    start: Tensor,
    max_steps: int,
    tol: float,
) -> Answer:
    """See :func:`sparsecode_estimators.kernels.replacement`; ``gram`` is not needed.

    All rows at a time and in double precision.
    """
    x, d = X.double(), D.double()
    rows = torch.arange(len(x), device=x.device)
    floor = FLOOR * torch.finfo(X.dtype).eps * x.norm(dim=1)
    supports, flops = _refit(x, d, _Supports.of(start.double(), k, positive), positive)
    n_iter = torch.zeros_like(rows)
    for _ in range(max_steps):
        if not len(rows):
            break
        trial, useful, before, spent = _exchanged(
            x[rows], d, supports[rows], k, positive, floor[rows]
        )
        gain = before - _energy(x[rows], d, trial)
        better = useful & (gain > tol * 0.5 * x[rows].square().sum(1))  # False for NaN too
        flops += spent + 2 * len(rows) * d.numel()
        rows = rows[better]
        supports[rows] = trial[better]
        n_iter[rows] += 1
    codes = supports.dense(len(d))
    energy = 0.5 * (x - codes @ d).square().sum(1)
    gap = torch.full_like(energy, torch.nan)
    return Answer(codes.to(X.dtype), gap, energy, n_iter, flops + 2 * len(x) * d.numel())


@dataclass
class _Supports:
    """Chosen atoms of some rows: k + 1 places each, the last one for a newcomer."""

    indices: Tensor
    valid: Tensor
    values: Tensor

    @classmethod
    def of(cls, codes: Tensor, k: int, positive: bool) -> _Supports:
        indices, valid = top_support(codes.clamp(min=0) if positive else codes, k)
        values = codes.gather(1, indices) * valid
        return cls(_pad(indices), _pad(valid), _pad(values))

    def __getitem__(self, rows: Tensor) -> _Supports:
        return _Supports(self.indices[rows], self.valid[rows], self.values[rows])

    def __setitem__(self, rows: Tensor, other: _Supports) -> None:
        self.indices[rows], self.valid[rows] = other.indices, other.valid
        self.values[rows] = other.values

    def __len__(self) -> int:
        return len(self.indices)

    def dense(self, n_components: int) -> Tensor:
        codes = self.values.new_zeros(len(self), n_components)
        return codes.scatter_add_(1, self.indices, self.values * self.valid)

    def with_atom(self, atom: Tensor) -> _Supports:
        """The same with one more atom, of value zero, at the first free place."""
        place = (~self.valid).to(torch.uint8).argmax(1, keepdim=True)
        return _Supports(
            self.indices.scatter(1, place, atom[:, None]),
            self.valid.scatter(1, place, True),
            self.values.scatter(1, place, 0.0),
        )

    def without_smallest(self, k: int) -> _Supports:
        """The same, but the smallest code is dropped where there are more than ``k``."""
        smallest = self.values.abs().masked_fill(~self.valid, torch.inf).argmin(1, keepdim=True)
        full = self.valid.sum(1, keepdim=True) > k
        valid = self.valid & ~(torch.zeros_like(self.valid).scatter(1, smallest, True) & full)
        return _Supports(self.indices, valid, self.values * valid)


def _pad(columns: Tensor) -> Tensor:
    return torch.nn.functional.pad(columns, (0, 1))


def _refit(x: Tensor, d: Tensor, supports: _Supports, positive: bool) -> tuple[_Supports, int]:
    """Least squares on the supports, less what turns negative on the way. And operations."""
    values, valid, flops = descend_on_support(
        x, d, supports.indices, supports.valid, supports.values, positive=positive
    )
    return _Supports(supports.indices, valid, values), flops


def _energy(x: Tensor, d: Tensor, supports: _Supports) -> Tensor:
    return 0.5 * (x - supports.dense(len(d)) @ d).square().sum(1)


def _exchanged(
    x: Tensor, d: Tensor, supports: _Supports, k: int, positive: bool, floor: Tensor
) -> tuple[_Supports, Tensor, Tensor, int]:
    """Supports after one exchange, whether there was one, residuals before it, operations."""
    residual = x - supports.dense(len(d)) @ d
    slope = residual @ d.T
    taken = torch.zeros_like(slope, dtype=torch.int8)
    taken.scatter_add_(1, supports.indices, supports.valid.to(torch.int8))
    strength = (slope if positive else slope.abs()).masked_fill(taken > 0, -torch.inf)
    best, atom = strength.max(1)
    trial, spent = _refit(x, d, supports.with_atom(atom), positive)
    if (trial.valid.sum(1) > k).any():
        trial, more = _refit(x, d, trial.without_smallest(k), positive)
        spent += more
    useful = best > floor * d.norm(dim=1)[atom]  # below, a slope is rounding
    return trial, useful, 0.5 * residual.square().sum(1), spent + 4 * len(x) * d.numel()
