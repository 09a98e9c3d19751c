"""Orthogonal least squares: the next atom is the one that lowers the residual most."""

from __future__ import annotations

import torch
from torch import Tensor

from .least_squares import least_squares, refit, refit_flops, resolution
from .problem import KSparse
from .solution import Solution, finish_k_sparse
from .support import largest_entries, rounding_floor, top_support


def ols(problem: KSparse, codes: Tensor, *, max_iter: int, tol: float | None) -> Solution:
    r"""Add the atom whose refit leaves the smallest residual, refit, stop at ``k`` atoms.

    Chen, Billings & Luo (1989); "order-recursive matching pursuit" of Rebollo-Neira & Lowe
    (2002), "optimised OMP". With the residual r of least squares on the atoms so far and the
    part :math:`d_j^\perp` of an atom that they cannot explain, adding it lowers the residual by

    .. math:: \tfrac12 \frac{(d_j\cdot r)^2}{\|d_j^\perp\|^2}.

    (``omp`` leaves the denominator out.) For positive codes only atoms with
    :math:`d_j\cdot r > 0` count, the refit is a non-negative least squares, and atoms that it
    drops make room for others (Yaghoobi & Davies 2015; "suboptimal NNOLS" of Nguyen,
    Soussen, Idier & Djermoune 2019).

    Parameters
    ----------
    problem : KSparse
        Rows (n, n_features), dictionary (n_components, n_features), k.
    codes : Tensor of shape (n, n_components)
        The ``k`` largest entries of a row are its first support; zeros for none. Not
        written to.
    max_iter : int
        Most atoms tried for a row.
    tol : float or None
        Not used: a row ends with ``k`` atoms, or when no atom lowers its residual.
    """
    rows = torch.arange(len(codes), device=codes.device)
    codes = refit(problem, rows, largest_entries(codes, problem.k))
    n_iter = torch.zeros_like(rows)
    flops = 0
    for iteration in range(1, max_iter + 1):
        rows = rows[(codes[rows] != 0).sum(1) < problem.k]
        if not len(rows):
            break
        trial = _with_best_atom(problem, rows, codes[rows])
        fall = problem.residual_energy(codes[rows], rows) - problem.residual_energy(trial, rows)
        k = int((trial != 0).sum(1).max())
        flops += len(rows) * ((2 * k + 4) * problem.D.numel() + refit_flops(problem, k))
        better = fall > 0
        rows = rows[better]
        codes[rows], n_iter[rows] = trial[better], iteration
    solution = finish_k_sparse(problem, codes, n_iter, flops)
    solution.converged[rows[(codes[rows] != 0).sum(1) < problem.k]] = False
    return solution


def _with_best_atom(problem: KSparse, rows: Tensor, codes: Tensor) -> Tensor:
    """Codes with one more atom, refitted; as they are where no atom is left to gain from."""
    products = problem.residual(codes, rows) @ problem.D.T
    strength = products if problem.positive else products.abs()
    indices, valid = top_support(codes, int((codes != 0).sum(1).max()) + 1)
    left, whole = _unexplained(problem.D, indices, valid), problem.D.square().sum(1)
    # an atom that the others explain to the precision of a refit can add nothing to them
    new = left > resolution(codes.dtype) * whole
    new &= strength > rounding_floor(problem, rows)[:, None] * whole.sqrt()
    gain = (strength.square() / left).masked_fill(~new, 0.0)
    best, atom = gain.max(1)
    place = valid.sum(1, keepdim=True)  # non-zeros come first, so this one is free
    indices = indices.scatter(1, place, atom[:, None])
    valid = valid.scatter(1, place, best[:, None] > 0)
    values = least_squares(problem, rows, indices, valid, codes.gather(1, indices))
    trial = torch.zeros_like(codes).scatter_add_(1, indices, values)
    return torch.where(best[:, None] > 0, trial, codes)


def _unexplained(D: Tensor, indices: Tensor, valid: Tensor) -> Tensor:
    """Squared length of every atom's part outside the span of the chosen ones, (n, N)."""
    basis = torch.linalg.qr((D[indices] * valid[..., None]).mT).Q * valid[:, None]
    left = D.square().sum(1).expand(len(indices), -1)
    for direction in basis.unbind(2):  # one after the other: no (n, k, N) in memory
        left = left - (direction @ D.T).square()
    return left
