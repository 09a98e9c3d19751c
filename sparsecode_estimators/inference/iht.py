"""Iterative hard thresholding: gradient steps that keep the k largest codes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .least_squares import refit
from .problem import KSparse
from .solution import Solution, finish_k_sparse
from .support import largest_entries

SHRINK = 0.5  # of a step that is too long for descent
SLACK = 1e-6  # by how much rounding may make a step of exactly the right length look too long


def iht(problem: KSparse, codes: Tensor, *, max_iter: int, tol: float | None) -> Solution:
    r"""Repeat :math:`s \leftarrow H_k\bigl(s + \mu\,(x - sD)D^T\bigr)`, end with a refit.

    Blumensath & Davies (2009); the step of their normalised form (2010): the exact line
    search on the present support, shortened until the residual cannot rise. :math:`H_k`
    keeps the k largest entries, of the positive ones for positive codes (the projection on
    such codes). The values that the iteration tends to are least squares on the support; once
    a row ends they are computed.

    Parameters
    ----------
    problem : KSparse
        Rows (n, n_features), dictionary (n_components, n_features), k.
    codes : Tensor of shape (n, n_components)
        The ``k`` largest entries of a row are where it starts. Not written to.
    max_iter : int
    tol : float or None
        A step that lowers the residual by less than ``tol·½‖x‖²`` ends a row; None: only one
        that does not lower it at all.
    """

    def step(rows: Tensor, s: Tensor) -> tuple[Tensor, int]:
        gradient = problem.residual(s, rows) @ problem.D.T
        first = project(problem, gradient) != 0
        where = torch.where((s != 0).any(1, keepdim=True), s != 0, first)
        return threshold_step(problem, s, gradient, gradient * where)

    return descend(problem, codes, step, max_iter=max_iter, tol=tol)


def descend(
    problem: KSparse,
    codes: Tensor,
    step: Callable[[Tensor, Tensor], tuple[Tensor, int]],
    *,
    max_iter: int,
    tol: float | None,
) -> Solution:
    """Take steps as long as they lower a row's residual, then refit.

    A step is ``(rows, codes) -> (codes, flops)``; its gradient is counted here.
    """
    codes = largest_entries(codes, problem.k)
    rows = torch.arange(len(codes), device=codes.device)
    n_iter = torch.zeros_like(rows)
    energy = problem.residual_energy(codes)
    product = 2 * problem.D.numel()
    flops = len(rows) * product
    for iteration in range(1, max_iter + 1):
        if not len(rows):
            break
        trial, spent = step(rows, codes[rows])
        reached = problem.residual_energy(trial, rows)
        better = energy[rows] - reached > (tol or 0.0) * problem.scale[rows]
        flops += spent + 3 * len(rows) * product  # its gradient, and the residual after it
        rows = rows[better]
        codes[rows], energy[rows], n_iter[rows] = trial[better], reached[better], iteration
    codes, spent = refit(problem, torch.arange(len(codes), device=codes.device), codes)
    solution = finish_k_sparse(problem, codes, n_iter, flops + spent)
    solution.converged[rows] = False  # the last step still helped when max_iter came
    return solution


def project(problem: KSparse, codes: Tensor) -> Tensor:
    """The nearest codes with at most k entries, and none below zero where that is asked."""
    return largest_entries(codes.clamp(min=0) if problem.positive else codes, problem.k)


def threshold_step(
    problem: KSparse, s: Tensor, gradient: Tensor, along: Tensor
) -> tuple[Tensor, int]:
    r"""``H_k(s + μ·gradient)`` with a μ for which the residual does not rise, and its flops.

    μ starts at the exact line search along ``along``. With
    :math:`\Delta = H_k(s + \mu g) - s` the residual falls by at least
    :math:`\tfrac12(\|\Delta\|^2/\mu - \|\Delta D\|^2)`, so μ is halved until that is not negative.
    """
    step = along.square().sum(1) / (along @ problem.D).square().sum(1)
    step = step.nan_to_num(0.0, 0.0)[:, None]
    product = 2 * len(s) * problem.D.numel()
    flops = product
    while True:
        flops += product
        trial = project(problem, s + step * gradient)
        change = trial - s
        curvature = (change @ problem.D).square().sum(1, keepdim=True)
        too_long = step * curvature > (1 + SLACK) * change.square().sum(1, keepdim=True)
        if not too_long.any():
            return trial, flops
        step = torch.where(too_long, SHRINK * step, step)
