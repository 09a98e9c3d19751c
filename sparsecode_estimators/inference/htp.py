"""Hard thresholding pursuit: a thresholded gradient step chooses the atoms, then a refit."""

from __future__ import annotations

from torch import Tensor

from .iht import descend, project, threshold_step
from .least_squares import refit
from .problem import KSparse
from .solution import Solution


def htp(problem: KSparse, codes: Tensor, *, max_iter: int, tol: float | None) -> Solution:
    r"""Repeat: the support of :math:`H_k(s + \mu\,(x - sD)D^T)`, then least squares on it.

    Foucart (2011), with non-negative least squares for positive codes. After a refit the
    gradient vanishes on the support, so the step μ is the exact line search along its k
    largest entries, shortened until the residual cannot rise as in ``iht``. The residual
    falls with every step, so no support comes twice and finitely many steps are taken.

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
        trial, flops = threshold_step(problem, s, gradient, project(problem, gradient))
        fitted, spent = refit(problem, rows, trial)
        return fitted, flops + spent

    return descend(problem, codes, step, max_iter=max_iter, tol=tol)
