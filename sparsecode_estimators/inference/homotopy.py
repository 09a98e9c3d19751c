"""The lasso by its path: codes are piecewise linear in alpha, so follow the pieces."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from ..kernels.least_squares import damped_factor, top_support
from ..kernels.shared import INDEPENDENT
from .double import finish
from .fista import fista
from .problem import Lasso, alpha_max
from .solution import LassoProgress, Solution

PART = 2**24  # numbers of the active atoms of rows whose paths are followed together
STALLS = 30  # breakpoints in a row that do not lower the level: ties that go in circles


def homotopy(problem: Lasso, codes: Tensor, *, max_iter: int, tol: float | None) -> Solution:
    r"""Minimise the objective of :class:`Lasso` by following its minimiser from zero.

    Osborne, Presnell & Turlach (2000); Efron et al. (2004), LARS with the lasso
    modification; Malioutov, Çetin & Willsky (2005). The penalty's level λ falls from
    ``alpha_max``, where codes are zero, to alpha. On the active atoms A with signs z the
    minimiser moves along :math:`(G_A + \rho I)^{-1} w_A z_A` until an atom's correlation reaches
    its bound :math:`\lambda w_j` (it joins) or a code reaches zero (it leaves). The answer is
    exact after as many steps as there are breakpoints, usually about as many as active atoms.

    Rows whose path rounding leads astray, which takes ties or dependent atoms, do not get
    their certificate at its end. In float32 they follow it once more in double precision; otherwise
    ``fista`` goes on from there.

    Parameters
    ----------
    problem : Lasso
        Rows (n, n_features), dictionary (n_components, n_features), alpha, weights, ridge.
    codes : Tensor of shape (n, n_components)
        Used only to skip the rows that they solve already: a path starts at zero. Not
        written to.
    max_iter : int
        Most breakpoints of a row.
    tol : float or None
        Duality gap, relative to ``½‖x‖²``, that makes an answer converged. None: the path
        alone.
    """
    progress = LassoProgress(problem, codes, tol)
    rows = progress.open_rows()
    reached = torch.zeros(len(codes), dtype=torch.bool, device=codes.device)
    n_iter = torch.zeros_like(progress.n_iter)
    found = torch.zeros_like(codes)
    progress.flops += 2 * len(rows) * problem.D.numel()  # of where the paths begin
    n_features = problem.D.shape[1]
    for part in rows.split(max(1, PART // (n_features * min(problem.D.shape)))):
        front = _Front.at_zero(problem, part)
        for _ in range(max_iter):
            if not len(front.rows):
                break
            n_iter[front.rows] += 1
            ended = front.advance()
            progress.flops += front.flops
            found[front.rows], reached[front.rows] = front.codes, ended
            front = front.select(~ended)
    progress.support[reached] = found[reached] != 0  # settled: the last digits may be polished
    progress.update(rows, found[rows], 0, 0)
    progress.n_iter = n_iter
    solution = progress.solution()
    if tol is not None:
        open_ = reached & ~solution.converged
        finish(homotopy, fista, problem, solution, open_, max_iter=max_iter, tol=tol)
    return solution


class LassoPath(NamedTuple):
    """Breakpoints of the paths of n rows, the last ones repeated where others have more.

    Attributes
    ----------
    alphas : Tensor of shape (n_points, n)
        Falling, from ``alpha_max`` or, where that is lower, the alpha of the problem.
    codes : Tensor of shape (n_points, n, n_components)
        The minimisers there; those in between are on the straight line.
    """

    alphas: Tensor
    codes: Tensor

    def k_sparse(self, k: int) -> Tensor:
        """Codes of each row where its path is about to use more than ``k`` atoms, (n, N)."""
        within = ((self.codes != 0).sum(2) <= k).cumprod(0)  # up to the first that has more
        last = within.sum(0) - 1
        return self.codes[last, torch.arange(len(last), device=last.device)]


def lasso_path(problem: Lasso, *, max_iter: int = 1000) -> LassoPath:
    """The whole path of every row, from zero codes down to the problem's alpha.

    Parameters
    ----------
    problem : Lasso
    max_iter : int
        Most breakpoints of a row.
    """
    front = _Front.at_zero(problem, torch.arange(len(problem.X), device=problem.X.device))
    alphas, codes = [front.level.clone()], [front.codes.clone()]
    for _ in range(max_iter):
        if not len(front.rows):
            break
        ended = front.advance()
        alphas.append(alphas[-1].clone())
        codes.append(codes[-1].clone())
        alphas[-1][front.rows], codes[-1][front.rows] = front.level, front.codes
        front = front.select(~ended)
    return LassoPath(torch.stack(alphas), torch.stack(codes))


@dataclass
class _Front:
    """Where on their paths some rows are.

    Attributes
    ----------
    rows : Tensor of shape (n,)
        Which rows of the problem.
    codes, signs : Tensor of shape (n, n_components)
        Minimisers at the present level; +1 or −1 for active atoms and 0 for the others.
    level : Tensor of shape (n,)
        λ, falling.
    barred : Tensor of shape (n,)
        Atom that has just left, −1 for none: its correlation is still on the bound, from
        where it goes inwards, and rounding must not make it join again.
    stalls : Tensor of shape (n,)
        Breakpoints since λ last fell.
    """

    problem: Lasso
    rows: Tensor
    codes: Tensor
    signs: Tensor
    level: Tensor
    barred: Tensor
    stalls: Tensor
    flops: int = field(init=False, default=0)

    @classmethod
    def at_zero(cls, problem: Lasso, rows: Tensor) -> _Front:
        codes = problem.X.new_zeros(len(rows), problem.shape[1])
        top = alpha_max(
            problem.X[rows], problem.D, positive=problem.positive, weights=problem.weights
        )
        level = top.clamp(min=problem.alpha)
        nothing = torch.full_like(rows, -1)
        return cls(problem, rows, codes, codes.clone(), level, nothing, torch.zeros_like(rows))

    def select(self, keep: Tensor) -> _Front:
        state = (self.rows, self.codes, self.signs, self.level, self.barred, self.stalls)
        return _Front(self.problem, *(t[keep] for t in state))

    def advance(self) -> Tensor:
        """To the next breakpoint or to alpha; which rows have ended, shape (n,)."""
        slope, pull = self._slopes()
        join, newcomer, side = self._next_to_join(pull)
        leave, leaver = self._next_to_leave(slope)
        end = self.level - self.problem.alpha
        step = torch.minimum(torch.minimum(join, leave), end)
        self.codes = self.codes + step[:, None] * slope
        ended, leaves = step >= end, (leave <= join) & (leave < end)
        joins = ~ended & ~leaves
        self.level = torch.where(ended, self.problem.alpha, self.level - step)
        self._set_sign(leaves, leaver, torch.zeros_like(step))
        self._set_sign(joins, newcomer, side)
        self.barred = torch.where(leaves, leaver, -1)
        stalled = step <= torch.finfo(step.dtype).eps * self.level
        self.stalls = torch.where(stalled, self.stalls + 1, 0)
        return ended | (self.stalls > STALLS)

    def _set_sign(self, which: Tensor, atom: Tensor, sign: Tensor) -> None:
        """A new sign for one atom of the rows ``which``; those of sign 0 have code 0."""
        rows, atom = torch.nonzero(which).squeeze(1), atom[which]
        self.signs[rows, atom] = sign[which]
        self.codes[rows, atom] = self.codes[rows, atom] * sign[which].abs()

    @property
    def weights(self) -> Tensor:
        weights = self.problem.weights
        return self.codes.new_ones(self.codes.shape[1]) if weights is None else weights

    def _slopes(self) -> tuple[Tensor, Tensor]:
        """How fast codes rise and correlations fall while λ falls, both (n, n_components)."""
        problem = self.problem
        k = max(1, int((self.signs != 0).sum(1).max()))
        indices, valid = top_support(self.signs, k)
        atoms = problem.D[indices] * valid[..., None]
        gram = atoms @ atoms.mT + problem.ridge * torch.diag_embed(valid.to(atoms))
        factor = damped_factor(gram, valid, torch.finfo(gram.dtype).eps ** INDEPENDENT)
        wanted = ((self.weights * self.signs).gather(1, indices) * valid).unsqueeze(2)
        rise = torch.cholesky_solve(wanted, factor)
        for _ in range(2):  # takes back what the damping cost
            rise = rise + torch.cholesky_solve(wanted - gram @ rise, factor) * valid.unsqueeze(2)
        # two products with the dictionary here, two more for the correlations
        small = 2 * k * (k + 1) * problem.D.shape[1] + k**3 // 3 + 10 * k * k
        self.flops = len(indices) * (6 * problem.D.numel() + small)
        slope = torch.zeros_like(self.codes).scatter_(1, indices, rise.squeeze(2) * valid)
        return slope, (rise.mT @ atoms).squeeze(1) @ problem.D.T

    def _next_to_join(self, pull: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """By how much λ falls until an idle atom reaches its bound, which, and on which side.

        A correlation q falls by ``pull`` for a unit of λ, the bound λw by w; they meet
        after ``(λw − q)/(w − pull)``, unless the denominator says that they part.
        """
        correlations = -self.problem.gradient(self.codes, self.rows)
        idle = self.signs == 0
        known = self.barred >= 0
        idle[known, self.barred[known]] = False
        bound = self.level[:, None] * self.weights
        sides = (1.0,) if self.problem.positive else (1.0, -1.0)
        # atoms that the active ones explain run along the bound and never reach it
        parallel = 100 * torch.finfo(pull.dtype).eps * self.weights
        waits = []
        for side in sides:
            closing = self.weights - side * pull
            wait = (bound - side * correlations).clamp(min=0) / closing
            waits.append(wait.masked_fill(~idle | (closing <= parallel), torch.inf))
        wait, place = torch.cat(waits, 1).min(1)
        atom = place % self.codes.shape[1]
        return wait, atom, torch.where(place == atom, 1.0, -1.0).to(wait)

    def _next_to_leave(self, slope: Tensor) -> tuple[Tensor, Tensor]:
        """By how much λ falls until an active code reaches zero, and which."""
        towards_zero = self.signs * slope < 0
        wait = (self.codes / slope).abs().masked_fill(~towards_zero, torch.inf)
        return wait.min(1)
