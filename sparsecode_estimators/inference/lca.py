"""Locally competitive algorithm: the lasso by leaky neurons that inhibit each other."""

from __future__ import annotations

import torch
from torch import Tensor

from .fista import CHECK_EVERY
from .problem import Lasso
from .solution import LassoProgress, Solution


def lca(problem: Lasso, codes: Tensor, *, max_iter: int, tol: float | None) -> Solution:
    r"""Minimise the objective of :class:`Lasso` for every row x.

    Rozell et al. (2008), eq. 2.3: membrane potentials u with
    :math:`\tau \dot u = xD^T - u - s(DD^T - I)`, codes :math:`s = T_\alpha(u)`
    (soft threshold), by Euler steps of length ``τ/lipschitz``. A fixed point has
    :math:`u - s = (x - sD)D^T`, which is the optimality condition of the lasso. Weights
    give each neuron its own threshold; a ridge is a leak :math:`-\rho s` more. Longer or
    shorter atoms are brought to about unit length first, as potentials leak at that rate.

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
    square = problem.D.square().sum(1).max().item() or 1.0
    step = 1 / max(1.0, problem.lipschitz / square)
    progress = LassoProgress(problem, codes, tol)
    rows = progress.open_rows()
    s = codes[rows]
    u = s + problem.penalty / square * s.sign()
    for iteration in range(1, max_iter + 1):
        if not len(rows):
            break
        u = u + step * (s - u - problem.gradient(s, rows) / square)
        s = problem.prox(u, 1 / square)
        if iteration % CHECK_EVERY == 0 or iteration == max_iter:
            steps = (iteration - 1) % CHECK_EVERY + 1
            keep, s, moved = progress.update(rows, s, iteration, steps)
            u = torch.where(moved[:, None], _potentials(problem, rows, s, square), u)
            progress.flops += 2 * len(rows) * progress.step_flops
            rows, s, u = rows[keep], s[keep], u[keep]
    return progress.solution()


def _potentials(problem: Lasso, rows: Tensor, s: Tensor, square: float) -> Tensor:
    """Potentials for codes that were moved: those of the optimum, if these codes are it.

    Where they are not that is a step of the gradient, and a long one: where the objective would
    rise, potentials that hold the codes.
    """
    pull, bound = -problem.gradient(s, rows) / square, problem.penalty / square
    there = problem.prox(s + pull, 1 / square)
    rises = problem.objective(there, rows) > problem.objective(s, rows)
    below = torch.minimum(pull, bound) if problem.positive else pull.clamp(-bound, bound)
    held = torch.where(s != 0, s + bound * s.sign(), below)
    return torch.where(rises[:, None], held, s + pull)
