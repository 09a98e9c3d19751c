"""Least squares on the supports of codes."""

from __future__ import annotations

import torch
from torch import Tensor

from ..kernels.least_squares import REFINEMENTS, least_squares, top_support
from .problem import Problem
from .solution import Solution


def refit(problem: Problem, rows: Tensor, codes: Tensor) -> Tensor:
    """Least squares on the supports of ``codes``, which those of ``rows`` are; same shape.

    A row keeps its codes where rounding leaves nothing to gain.
    """
    k = int((codes != 0).sum(1).max()) if codes.numel() else 0
    if not k:
        return codes
    indices, valid = top_support(codes, k)
    values = least_squares(
        problem.X[rows], problem.D, indices, valid, codes.gather(1, indices),
        positive=problem.positive,
    )  # fmt: skip
    fitted = torch.zeros_like(codes).scatter_(1, indices, values)
    better = problem.residual_energy(fitted, rows) < problem.residual_energy(codes, rows)
    return torch.where(better[:, None], fitted, codes)


def refit_flops(problem: Problem, k: int) -> int:
    """Of one refit of one row with ``k`` atoms, and of the look whether it is better."""
    solving = k**3 // 3 + 2 * REFINEMENTS * k * k
    return (2 * k * k + 4 * REFINEMENTS * k) * problem.D.shape[1] + solving + 4 * problem.D.numel()


def debias(problem: Problem, solution: Solution) -> Solution:
    """The same supports, or smaller, with least squares on them in place of the values.

    Takes back the shrinkage that a penalty puts on codes ("post-lasso"; Belloni &
    Chernozhukov 2013). Non-negative least squares for positive codes may drop atoms.
    ``residual`` is that of the new codes; ``gap`` and ``converged`` still speak of the codes
    whose support it is.
    """
    rows = torch.arange(len(solution.codes), device=solution.codes.device)
    sizes = (solution.codes != 0).sum(1).tolist()
    solution.codes = refit(problem, rows, solution.codes)
    solution.residual = problem.residual_energy(solution.codes)
    solution.flops += sum(refit_flops(problem, k) for k in sizes)
    return solution
