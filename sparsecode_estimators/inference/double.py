"""Rows that float32 cannot solve, once more in double precision."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .problem import Lasso
from .solution import Solution


def finish(
    solve: Callable[..., Solution],
    otherwise: Callable[..., Solution],
    problem: Lasso,
    solution: Solution,
    open_: Tensor,
    *,
    max_iter: int,
    tol: float,
) -> None:
    """Rows without a certificate, in double precision by the same solver, or else by another one.

    Codes that are worse than zeros become zeros, whether rows go on or not. The certificate is that
    of the codes before they are rounded to the type of the rows, and what rounding costs: the dual
    point of rounded codes is a much worse one.

    Parameters
    ----------
    solve, otherwise : callable
        Solvers of rows in float32 and of rows that are in double precision already.
    solution : Solution
        Written to.
    open_ : bool Tensor of shape (n,)
        Which rows.
    """
    within = solution.gap <= problem.scale  # a gap of zeros is no larger than that
    if not within.all():
        worse = ~within
        solution.codes[worse] = 0
        solution.gap[worse] = solution.residual[worse] = problem.scale[worse]
    rows = torch.nonzero(open_).squeeze(1)
    if not len(rows):
        return
    weights = None if problem.weights is None else problem.weights.double()
    exact = Lasso(
        problem.X[rows].double(), problem.D.double(), problem.positive,
        alpha=problem.alpha, weights=weights, ridge=problem.ridge,
    )  # fmt: skip
    solver = solve if problem.X.dtype == torch.float32 else otherwise
    start = solution.codes[rows].double()
    better = solver(exact, start, max_iter=max_iter, tol=0.1 * tol)
    codes = better.codes.to(solution.codes)
    rounding = exact.objective(codes.double()) - exact.objective(better.codes)
    gap = (better.gap + rounding).clamp_(min=0).to(solution.gap)
    chosen = gap < solution.gap[rows]
    where = rows[chosen]
    solution.codes[where], solution.gap[where] = codes[chosen], gap[chosen]
    solution.residual[where] = problem.residual_energy(codes[chosen], where)
    solution.n_iter[where] += better.n_iter[chosen]
    solution.converged[where] = problem.certified(solution.gap[where], tol, where)
    solution.flops += better.flops
