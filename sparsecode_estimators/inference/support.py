"""Exact answers once the support is known."""

from __future__ import annotations

import torch
from torch import Tensor

from ..kernels.least_squares import GATHER_LIMIT, damped_factor
from ..kernels.shared import FLOOR, INDEPENDENT
from .problem import Problem


def largest_entries(codes: Tensor, k: int) -> Tensor:
    """A copy of ``codes`` with all but the ``k`` largest of each row set to zero."""
    indices = codes.abs().topk(k, dim=1).indices
    return torch.zeros_like(codes).scatter_(1, indices, codes.gather(1, indices))


def rounding_floor(problem: Problem, rows: Tensor) -> Tensor:
    """Below this a residual's product with a unit atom is rounding, shape (n,)."""
    return FLOOR * torch.finfo(problem.X.dtype).eps * problem.X[rows].norm(dim=1)


def minimise_on_support(
    problem: Problem,
    rows: Tensor,
    indices: Tensor,
    values: Tensor,
    valid: Tensor,
    shift: Tensor | float = 0.0,
    ridge: float = 0.0,
) -> Tensor:
    r"""Least squares over the atoms A of each row, with a linear term and a ridge.

    Minimises :math:`\tfrac12\|x - uA\|^2 + u\cdot\text{shift} + \tfrac{\rho}{2}\|u\|^2` by one
    Newton step from ``values``, :math:`u \leftarrow u + \bigl((x - uA)A^T - \text{shift}
    - \rho u\bigr)(AA^T + (\rho + \varepsilon) I)^{-1}`.
    The damping ε is tiny: it changes nothing where the atoms are independent, and where
    they are not it makes the step a descent direction along which some code vanishes.

    Parameters
    ----------
    problem : Problem
    rows : Tensor of shape (n,)
        Which rows of the problem are meant.
    indices, values, valid : Tensor of shape (n, k)
        Atoms of each row and their codes; where ``valid`` is false the place is padding.
    shift : Tensor of shape (n, k) or float
        Linear term, ``alpha·sign(s)`` for the lasso.
    ridge : float
        ρ, weight of ``½‖u‖²``.

    Returns
    -------
    Tensor of shape (n, k)
        Zero at padding.
    """
    n, k = indices.shape
    shift = torch.as_tensor(shift, dtype=values.dtype, device=values.device).expand(n, k)
    size = max(1, GATHER_LIMIT // max(1, k * problem.D.shape[1]))
    parts = zip(*(t.split(size) for t in (rows, indices, values, valid, shift)), strict=True)
    return torch.cat(
        [_newton(problem.X[r], problem.D[i], u, v, s, ridge) for r, i, u, v, s in parts]
    )


def _newton(
    X: Tensor, atoms: Tensor, values: Tensor, valid: Tensor, shift: Tensor, ridge: float
) -> Tensor:
    atoms = atoms * valid.unsqueeze(2)
    gram = atoms @ atoms.mT + ridge * torch.diag_embed(valid.to(atoms))
    residual = X - (values.unsqueeze(1) @ atoms).squeeze(1)
    descent = (atoms @ residual.unsqueeze(2)).squeeze(2) - (shift + ridge * values) * valid
    factor = damped_factor(gram, valid, torch.finfo(X.dtype).eps ** INDEPENDENT)
    return values + torch.cholesky_solve(descent.unsqueeze(2), factor).squeeze(2)


def newton_flops(k: int, n_features: int) -> int:
    """Of one call of :func:`minimise_on_support` for one row of ``k`` atoms."""
    return (2 * k * k + 4 * k) * n_features + k**3 // 3 + 2 * k * k


def towards(values: Tensor, target: Tensor) -> Tensor:
    """From ``values`` to ``target``, or until the first code of a row reaches zero.

    Codes that reach zero first are set to exactly zero, so that they leave the
    support; a code that starts at zero and would turn negative does so at once.

    Parameters
    ----------
    values, target : Tensor of shape (n, k)

    Returns
    -------
    Tensor of shape (n, k)
    """
    blocking = (target * values.sign() <= 0) & ((values != 0) | (target < 0))
    ratio = (values / (values - target)).masked_fill(~blocking, torch.inf)
    step = ratio.amin(1, keepdim=True).clamp(max=1)
    return (values + step * (target - values)).masked_fill(blocking & (ratio <= step), 0.0)
