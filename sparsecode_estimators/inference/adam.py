"""Inference-time optimisation as the paper does it: Adam on log-codes."""

from __future__ import annotations

import math

from torch import Tensor

from .problem import Lasso
from .solution import LassoProgress, Solution

START = -10.0  # log-codes of the paper's start
LEARNING_RATE = 1e-3
BETA1, BETA2, EPS = 0.9, 0.999, 1e-8
PAPER_ROWS = 1024


def adam(problem: Lasso, codes: Tensor, *, max_iter: int, tol: float | None) -> Solution:
    r"""Minimise the lasso over codes :math:`s = e^v` by ``max_iter`` Adam steps on v.

    O'Neill, Gumran & Klindt (2025), inference-time optimisation: v starts at −10,
    learning rate 1e-3, no schedule. Kept for comparison: a convex problem becomes a
    non-convex one, codes never reach zero, and 10⁴ steps are not enough.

    The paper's loss is a mean over 1,024 rows and all features, and Adam's ε is
    added to gradients of that mean. The same factor is used here whatever the
    number of rows, so that no row's answer depends on its neighbours.

    Parameters
    ----------
    problem : Lasso
        Rows (n, n_features), dictionary (n_components, n_features), alpha, weights, ridge.
    codes : Tensor of shape (n, n_components)
        Where to start; entries below e⁻¹⁰ start there, as the logarithm of zero
        has no gradient. Not written to.
    max_iter : int
    tol : float or None
        Duality gap, relative to ``½‖x‖²``, below which a row is called converged.
        All steps are taken all the same.

    Raises
    ------
    ValueError
        If codes may be negative: an exponential cannot be.
    """
    if not problem.positive:
        raise ValueError(
            "solver='adam' optimises log-codes, which are positive: "
            "set positive_code=True or choose another solver."
        )
    factor = 2 / (PAPER_ROWS * problem.D.shape[1])
    v = codes.clamp(min=math.exp(START)).log()
    mean, square = v.new_zeros(v.shape), v.new_zeros(v.shape)
    for iteration in range(1, max_iter + 1):
        s = v.exp()
        gradient = factor * s * (problem.gradient(s) + problem.penalty)
        mean.lerp_(gradient, 1 - BETA1)
        square.mul_(BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
        spread = (square / (1 - BETA2**iteration)).sqrt_().add_(EPS)
        v = v.addcdiv(mean, spread, value=-LEARNING_RATE / (1 - BETA1**iteration))
    progress = LassoProgress(problem, v.exp(), tol)
    progress.n_iter += max_iter
    progress.flops += len(v) * max_iter * progress.step_flops
    return progress.solution()
