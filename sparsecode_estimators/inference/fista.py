"""Accelerated proximal gradient for the lasso, a batch of rows at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import kernels
from .problem import Lasso
from .solution import LassoProgress, Solution

CHECK_EVERY = 10


def fista(problem: Lasso, codes: Tensor, *, max_iter: int, tol: float | None) -> Solution:
    r"""Minimise the objective of :class:`Lasso` for every row x.

    Beck & Teboulle (2009), eq. 4.1–4.3, with the gradient restart of O'Donoghue &
    Candès (2015). A row that reaches ``tol`` leaves the batch, so no row's answer
    depends on its neighbours.

    Parameters
    ----------
    problem : Lasso
        Rows (n, n_features), dictionary (n_components, n_features), alpha, weights, ridge.
    codes : Tensor of shape (n, n_components)
        Where to start; not written to.
    max_iter : int
    tol : float or None
        Duality gap, relative to ``½‖x‖²``, at which a row is done; None: never.
    """
    step = codes.new_tensor(1 / problem.lipschitz)
    threshold = step * problem.penalty
    progress = LassoProgress(problem, codes, tol)
    rows = progress.open_rows()
    s = z = codes[rows]
    t = s.new_ones(len(rows), 1)
    for iteration in range(1, max_iter + 1):
        if not len(rows):
            break
        gradient = problem.gradient(z, rows)
        s, z, t = kernels.proximal_step(
            z, gradient, s, t, threshold, step=step, positive=problem.positive
        )
        if iteration % CHECK_EVERY == 0 or iteration == max_iter:
            steps = (iteration - 1) % CHECK_EVERY + 1
            keep, s, moved = progress.update(rows, s, iteration, steps)
            z, t = torch.where(moved[:, None], s, z), t.masked_fill(moved[:, None], 1.0)
            rows, s, z, t = rows[keep], s[keep], z[keep], t[keep]
    return progress.solution()
