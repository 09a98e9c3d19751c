"""Orthogonal matching pursuit that exchanges atoms as long as it helps."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..kernels.least_squares import top_support
from .problem import KSparse
from .solution import Solution, finish_k_sparse
from .support import minimise_on_support, newton_flops


def omp_replacement(
    problem: KSparse, codes: Tensor, *, max_iter: int, tol: float | None
) -> Solution:
    r"""As ``omp``, then exchange atoms as long as the residual falls.

    Jain, Tewari & Dhillon (2011), in steps that are only taken downhill: add the
    best atom to a full support, refit, drop the smallest code, refit. A local
    optimum that starts well from another encoder's codes and is never worse than
    least squares on their support.

    Parameters
    ----------
    problem : KSparse
        Rows (n, n_features), dictionary (n_components, n_features), k.
    codes : Tensor of shape (n, n_components)
        The ``k`` largest entries of a row are its first support; zeros for none.
    max_iter : int
        Most atoms tried for a row.
    tol : float or None
        A step that lowers the residual by less than ``tol·½‖x‖²`` ends a row;
        None: only steps that do not lower it at all.
    """
    n, n_components = problem.shape
    rows = torch.arange(n, device=codes.device)
    supports, flops = _refit(problem, rows, _Supports.of(codes, problem.k))
    n_iter = torch.zeros_like(rows)
    for iteration in range(1, max_iter + 1):
        if not len(rows):
            break
        improved, spent = _exchange(problem, rows, supports, tol or 0.0)
        n_iter[rows] = iteration
        flops += spent
        rows = rows[improved]
    solution = finish_k_sparse(problem, supports.dense(n_components), n_iter, flops)
    solution.converged[rows] = False  # the last step still helped when max_iter came
    return solution


@dataclass
class _Supports:
    """Chosen atoms of some rows: k + 1 places each, the last one for a newcomer."""

    indices: Tensor
    valid: Tensor
    values: Tensor

    @classmethod
    def of(cls, codes: Tensor, k: int) -> _Supports:
        indices, valid = top_support(codes, k)
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


def _refit(problem: KSparse, rows: Tensor, supports: _Supports) -> tuple[_Supports, int]:
    """Least squares on the supports; non-negative by Lawson & Hanson's inner loop. And flops."""
    indices, valid, values = supports.indices, supports.valid, supports.values
    flops = 0
    while True:
        flops += len(rows) * newton_flops(indices.shape[1], problem.D.shape[1])
        target = minimise_on_support(problem, rows, indices, values, valid)
        blocking = valid & (target <= 0)
        if not problem.positive or not blocking.any():
            return _Supports(indices, valid, target), flops
        # as far towards the target as no code turns negative; what blocks is dropped
        ratio = (values / (values - target)).masked_fill(~blocking, torch.inf).nan_to_num(0.0)
        step = ratio.amin(1, keepdim=True).clamp(max=1)
        valid = valid & ~(blocking & (ratio <= step))
        values = (values + step * (target - values)).clamp(min=0) * valid


def _exchange(
    problem: KSparse, rows: Tensor, supports: _Supports, tol: float
) -> tuple[Tensor, int]:
    """One step for ``rows``, written into ``supports`` where it helps; which it helped."""
    current = supports[rows]
    dense = current.dense(problem.D.shape[0])
    residual = problem.residual(dense, rows)
    correlations = residual @ problem.D.T
    taken = torch.zeros_like(dense).scatter_add_(1, current.indices, current.valid.to(dense))
    strength = correlations if problem.positive else correlations.abs()
    best, atom = strength.masked_fill(taken > 0, -torch.inf).max(1)
    # below this a correlation is rounding
    floor = (
        10
        * torch.finfo(dense.dtype).eps
        * problem.X[rows].norm(dim=1)
        * problem.D.norm(dim=1)[atom]
    )
    possible = best > floor
    trial, spent = _refit(problem, rows, current.with_atom(atom))
    if (trial.valid.sum(1) > problem.k).any():
        trial, more = _refit(problem, rows, trial.without_smallest(problem.k))
        spent += more
    energy = 0.5 * problem.residual(trial.dense(problem.D.shape[0]), rows).square().sum(1)
    gain = 0.5 * residual.square().sum(1) - energy
    improved = possible & (gain > tol * problem.scale[rows])  # False for NaN too
    supports[rows[improved]] = trial[improved]
    return improved, spent + 6 * len(rows) * problem.D.numel()  # two residuals, and products
