"""The lasso solved exactly, by an active set among few candidate atoms."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import kernels
from .double import finish
from .homotopy import homotopy
from .problem import Lasso
from .solution import Solution, from_kernel

# atoms added to a row for each feature, after which it goes in circles
LAPS = {torch.float32: 8, torch.float64: 16}


def working_set(
    problem: Lasso, codes: Tensor | None, *, max_iter: int, tol: float | None
) -> Solution:
    r"""Minimise the lasso of every row, to rounding.

    The atoms that would gain most from leaving zero become candidates. On them the
    problem is solved by an active set: one atom after the other becomes active, codes move
    to the minimiser on the active atoms, or until one of them reaches zero and leaves.
    Then the gains of all atoms follow, from the Gram matrix or, of many atoms, from a product of
    many rows with all of them, and so on until no atom gains.
    (Osborne, Presnell & Turlach 2000; Lawson & Hanson 1974 for positive codes.)

    It does not stop early, because the last digits cost next to nothing: ``tol`` only says
    which rows are called converged. The certificate is computed in double precision, with
    a Newton step from the exact residual before it, so that float32 codes are as good as
    their type allows. Rows that it does not certify in float32 (active atoms are nearly dependent,
    as where there are as many of them as features) are solved once more in double precision;
    those that are left then, by :func:`homotopy`, whose steps do not build on each other.

    Parameters
    ----------
    problem : Lasso
        Rows (n, n_features), dictionary (n_components, n_features), alpha.
    codes : Tensor of shape (n, n_components) or None
        Atoms with large codes become candidates first. Not written to. None: no start.
    max_iter : int
        Most atoms that are added to a row, in each precision.
    tol : float or None
        Duality gap, relative to ``½‖x‖²``, at which a row is called converged; None: none is.
    """
    if codes is None:
        answer = _kernel(problem, slice(None), None, max_iter)
        unknown = torch.zeros(len(problem.X), dtype=torch.bool, device=problem.X.device)
        solution = from_kernel(answer, unknown)
    else:
        solution = _certified(problem, codes, tol)
        rows = torch.nonzero(~solution.converged).squeeze(1)
        if not len(rows):
            return solution
        answer = _kernel(problem, rows, codes[rows], max_iter)
        solution.codes[rows] = answer.codes
        solution.gap[rows] = answer.gap.to(solution.gap)
        solution.residual[rows] = answer.energy.to(solution.residual)
        solution.n_iter[rows] = answer.n_iter
    solution.flops += _flops(problem, answer)
    if tol is not None:
        solution.converged = problem.certified(solution.gap, tol)
        open_ = ~solution.converged & (solution.n_iter < max_iter)
        finish(working_set, homotopy, problem, solution, open_, max_iter=max_iter, tol=tol)
    return solution


def _kernel(
    problem: Lasso, rows: Tensor | slice, start: Tensor | None, max_steps: int
) -> kernels.Answer:
    n, n_components = problem.shape
    laps = LAPS[problem.X.dtype] * min(problem.D.shape) + (n_components if problem.ridge else 0)
    n_features = problem.D.shape[1]
    pays = problem.atoms.has_gram or kernels.gram_pays(n, n_components, n_features, rule="lasso")
    return kernels.working_set(
        problem.X[rows],
        problem.D,
        problem.atoms.gram if pays else None,
        problem.penalty,
        ridge=problem.ridge,
        positive=problem.positive,
        start=start,
        max_steps=min(max_steps, laps),
    )


def _certified(problem: Lasso, codes: Tensor, tol: float | None) -> Solution:
    """The start as an answer; the rows that it already solves are done."""
    gap = problem.duality_gap(codes)
    return Solution(
        codes=codes.clone(),
        gap=gap,
        residual=problem.residual_energy(codes),
        n_iter=torch.zeros(len(codes), dtype=torch.int64, device=codes.device),
        converged=problem.certified(gap, tol),
        flops=6 * len(codes) * problem.D.numel(),
    )


def _flops(problem: Lasso, answer: kernels.Answer) -> int:
    """As the kernel has counted, else what compiled loops do.

    Correlations, then for each atom added its row of the Gram matrix; the certificate.
    """
    if answer.flops is not None:
        return answer.flops
    n_components, n_features = problem.D.shape
    added = int(answer.n_iter.sum())  # at least as many as are active in the end
    return 2 * (len(answer.codes) * problem.D.numel() + added * (n_components + 4 * n_features))
