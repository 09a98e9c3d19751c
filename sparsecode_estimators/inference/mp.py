"""Matching pursuit: one atom after the other, and no code is ever revised."""

from __future__ import annotations

import torch
from torch import Tensor

from .problem import KSparse
from .solution import Solution, finish_k_sparse
from .support import largest_entries, rounding_floor


def mp(problem: KSparse, codes: Tensor, *, max_iter: int, tol: float | None) -> Solution:
    r"""Subtract from the residual what the best atom explains of it, until k atoms are in use.

    Mallat & Zhang (1993): with the residual r, the atom with the largest
    :math:`|d_j\cdot r|/\|d_j\|` gets :math:`d_j\cdot r/\|d_j\|^2` added to its code. The
    same atom may be taken again. A row ends when its next atom would be number k + 1.
    Nothing is refitted, which makes a step as cheap as one encoder pass; ``omp`` is the same
    with a refit. For positive codes only positive products count.

    Parameters
    ----------
    problem : KSparse
        Rows (n, n_features), dictionary (n_components, n_features), k.
    codes : Tensor of shape (n, n_components)
        The ``k`` largest entries of a row are where it starts, if they are better than zeros. Not
        written to.
    max_iter : int
        Most steps of a row.
    tol : float or None
        A step that lowers the residual by less than ``tol·½‖x‖²`` ends a row; None: only
        rounding does.
    """
    length = problem.D.norm(dim=1)
    codes = largest_entries(codes, problem.k)
    worse = problem.residual_energy(codes) > problem.scale  # no code is ever taken back
    codes[worse] = 0
    rows = torch.arange(len(codes), device=codes.device)
    n_iter = torch.zeros_like(rows)
    flops = 2 * len(codes) * problem.D.numel()
    for iteration in range(1, max_iter + 1):
        if not len(rows):
            break
        products = problem.residual(codes[rows], rows) @ problem.D.T / length
        strength = products if problem.positive else products.abs()
        best, atom = strength.max(1)
        fall = 0.5 * best.square()
        useful = (best > rounding_floor(problem, rows)) & (
            fall >= (tol or 0.0) * problem.scale[rows]
        )
        known = codes[rows, atom] != 0
        going = useful & (known | ((codes[rows] != 0).sum(1) < problem.k))
        flops += len(rows) * 4 * problem.D.numel()
        rows, atom, products = rows[going], atom[going, None], products[going]
        step = products.gather(1, atom) / length[atom]
        codes[rows] = codes[rows].scatter_add(1, atom, step)
        n_iter[rows] = iteration
    solution = finish_k_sparse(problem, codes, n_iter, flops)
    solution.converged[rows] = False  # max_iter came first
    return solution
