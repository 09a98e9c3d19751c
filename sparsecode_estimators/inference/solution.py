"""An answer with its certificate, and which rows still need work."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from ..kernels import Answer
from ..kernels.least_squares import top_support
from .problem import KSparse, Lasso
from .support import minimise_on_support, newton_flops, towards

# Per look at a settled row: enough to drop two atoms, or to polish the last digits.
NEWTON_STEPS = 3
STRAGGLER = 1000  # iterations after which a row is moved whether or not it has settled


@dataclass
class Solution:
    """Codes and what is known about them, row by row.

    Attributes
    ----------
    codes : Tensor of shape (n, n_components)
    gap : Tensor of shape (n,)
        Duality gap; NaN for k-sparse codes, which have no such certificate.
    residual : Tensor of shape (n,)
        ``½‖x − sD‖²``.
    n_iter : Tensor of shape (n,)
        Iterations spent on the row.
    converged : Tensor of shape (n,)
    flops : int
        Floating point operations spent on all rows, one multiply-add being two.
    """

    codes: Tensor
    gap: Tensor
    residual: Tensor
    n_iter: Tensor
    converged: Tensor
    flops: int = 0


def from_kernel(answer: Answer, converged: Tensor, flops: int = 0) -> Solution:
    """What a kernel says, in the type of its codes."""
    gap, residual = answer.gap.to(answer.codes), answer.energy.to(answer.codes)
    return Solution(answer.codes, gap, residual, answer.n_iter, converged, flops)


def finish_k_sparse(problem: KSparse, codes: Tensor, n_iter: Tensor, flops: int) -> Solution:
    """Answer of a greedy solver: a residual, no dual certificate."""
    residual = problem.residual_energy(codes)
    done = residual.isfinite()
    flops += 2 * len(codes) * problem.D.numel()
    return Solution(codes, torch.full_like(residual, torch.nan), residual, n_iter, done, flops)


class Look(NamedTuple):
    """What a solver hears back when it hands in its codes.

    Attributes
    ----------
    keep : Tensor of shape (n,)
        Which of the rows stay open.
    codes : Tensor of shape (n, n_components)
        Where to go on from: what was handed in, but for ``moved`` rows.
    moved : Tensor of shape (n,)
        Rows that were set to the best codes on their support; momentum and the
        like belong to the old place and have to be dropped.
    """

    keep: Tensor
    codes: Tensor
    moved: Tensor


@dataclass
class LassoProgress:
    """Keeps the certified code of every row while a lasso solver runs.

    A solver hands in its current codes with :meth:`update`. A row is closed when
    its duality gap is at most ``tol·½‖x‖²``. A row whose support has not changed
    since the last look, or whose gap is small enough, is moved to the minimiser on
    that support, or as far towards it as no code changes its sign. This never
    raises the objective, makes closed rows exact to rounding and ends the slow
    tail that ill-conditioned supports have in every first-order method: as in an
    active-set method, only finitely many supports can be visited.

    Parameters
    ----------
    problem : Lasso
    start : Tensor of shape (n, n_components)
        Where the solver starts; not written to.
    tol : float or None
        Relative duality gap. With None no row is closed: the solver takes all its
        steps, which is what a point on a curve of compute needs.
    """

    problem: Lasso
    start: Tensor
    tol: float | None
    codes: Tensor = field(init=False)
    gap: Tensor = field(init=False)
    n_iter: Tensor = field(init=False)
    support: Tensor = field(init=False)
    flops: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        n = len(self.start)
        self.codes = self.start.clone()
        self.gap = self.problem.duality_gap(self.codes)
        self.n_iter = torch.zeros(n, dtype=torch.int64, device=self.start.device)
        self.support = torch.zeros_like(self.start, dtype=torch.bool)
        self.flops += n * self.step_flops

    @property
    def step_flops(self) -> int:
        """Of one gradient, or one gap, of one row: two products with the dictionary."""
        return 4 * self.problem.D.numel()

    def open_rows(self) -> Tensor:
        """Rows that the start does not already solve."""
        return torch.nonzero(~self._closed(self.gap, slice(None))).squeeze(1)

    def _closed(self, gap: Tensor, rows: Tensor | slice) -> Tensor:
        return self.problem.certified(gap, self.tol, rows)

    def update(self, rows: Tensor, codes: Tensor, iteration: int, steps: int) -> Look:
        """Take in the codes of ``rows`` after ``steps`` more steps."""
        support = codes != 0
        gap = self.problem.duality_gap(codes, rows)
        self.flops += len(rows) * self.step_flops * (steps + 1)
        settled = self._closed(gap, rows) | (support == self.support[rows]).all(1)
        settled |= iteration >= STRAGGLER
        codes, gap, moved = self._move(rows, codes, gap, settled)
        self.codes[rows], self.gap[rows], self.n_iter[rows] = codes, gap, iteration
        self.support[rows] = support
        return Look(~self._closed(gap, rows), codes, moved)

    def _move(
        self, rows: Tensor, codes: Tensor, gap: Tensor, settled: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Settled rows at, or on the way to, the minimiser on their support."""
        moved = torch.zeros_like(settled)
        size = (codes != 0).sum(1)
        trial = torch.nonzero(settled & (size > 0)).squeeze(1)
        if not len(trial):
            return codes, gap, moved
        problem, k = self.problem, int(size[trial].max())
        # the steps, the gap of where they lead, and two objectives
        newton = NEWTON_STEPS * newton_flops(k, problem.D.shape[1])
        self.flops += len(trial) * (2 * self.step_flops + newton)
        indices, valid = top_support(codes[trial], k)
        values = codes[trial].gather(1, indices)
        for _ in range(NEWTON_STEPS):
            shift = problem.penalty[indices] * values.sign()
            target = minimise_on_support(
                problem, rows[trial], indices, values, valid, shift, problem.ridge
            )
            values = towards(values, target)
            valid = values != 0
        candidate = torch.zeros_like(codes[trial]).scatter_(1, indices, values)
        candidate_gap = problem.duality_gap(candidate, rows[trial])
        # rounding can spoil the step where atoms nearly coincide: then stay
        before = problem.objective(codes[trial], rows[trial])
        better = problem.objective(candidate, rows[trial]) <= before
        better |= self._closed(candidate_gap, rows[trial])
        chosen = trial[better]
        codes, gap = codes.clone(), gap.clone()
        codes[chosen], gap[chosen], moved[chosen] = candidate[better], candidate_gap[better], True
        return codes, gap, moved

    def solution(self) -> Solution:
        """What has been reached."""
        return Solution(
            codes=self.codes,
            gap=self.gap,
            residual=self.problem.residual_energy(self.codes),
            n_iter=self.n_iter,
            converged=self._closed(self.gap, slice(None)),
            flops=self.flops + 2 * len(self.codes) * self.problem.D.numel(),  # of the residual
        )
