"""Least squares on the supports of codes."""

from __future__ import annotations

import torch
from torch import Tensor

from ..kernels.least_squares import least_squares, top_support
from .problem import Problem
from .solution import Solution


def refit(problem: Problem, rows: Tensor, codes: Tensor) -> tuple[Tensor, int]:
    """Least squares on the supports of ``codes``, which those of ``rows`` are; same shape.

    A row keeps its codes where rounding leaves nothing to gain. And the operations spent.
    """
    k = int((codes != 0).sum(1).max()) if codes.numel() else 0
    if not k:
        return codes, 0
    indices, valid = top_support(codes, k)
    values, flops = least_squares(
        problem.X[rows], problem.D, indices, valid, codes.gather(1, indices),
        positive=problem.positive,
    )  # fmt: skip
    fitted = torch.zeros_like(codes).scatter_(1, indices, values)
    better = problem.residual_energy(fitted, rows) < problem.residual_energy(codes, rows)
    flops += 4 * len(codes) * problem.D.numel()  # of both residuals
    return torch.where(better[:, None], fitted, codes), flops


def debias(problem: Problem, solution: Solution) -> Solution:
    """The same supports, or smaller, with least squares on them in place of the values.

    Takes back the shrinkage that a penalty puts on codes ("post-lasso"; Belloni &
    Chernozhukov 2013). Non-negative least squares for positive codes may drop atoms.
    ``residual`` is that of the new codes; ``gap`` and ``converged`` still speak of the codes
    whose support it is.
    """
    rows = torch.arange(len(solution.codes), device=solution.codes.device)
    solution.codes, flops = refit(problem, rows, solution.codes)
    solution.residual = problem.residual_energy(solution.codes)
    solution.flops += flops + 2 * len(rows) * problem.D.numel()
    return solution
