"""The best k-sparse codes of all, by trying every support."""

from __future__ import annotations

from itertools import combinations
from math import comb

import torch
from torch import Tensor

from ..kernels.least_squares import GATHER_LIMIT
from ..kernels.shared import INDEPENDENT
from .least_squares import refit
from .problem import KSparse
from .solution import Solution, finish_k_sparse

MOST_SUPPORTS = 200_000


def check_supports(n_components: int, k: int) -> None:
    """Raise ``ValueError`` if "l0" would try more supports than ``MOST_SUPPORTS``."""
    tried = sum(comb(n_components, size) for size in range(1, k + 1))
    if tried > MOST_SUPPORTS:
        raise ValueError(
            f"solver='l0' would try all {tried:,} supports of at most {k} of "
            f"{n_components} atoms, and its limit is {MOST_SUPPORTS:,}: take a smaller "
            "n_nonzero_coefs or dictionary, or solver='omp_replacement'."
        )


def l0(problem: KSparse, codes: Tensor, *, max_iter: int, tol: float | None) -> Solution:
    r"""Minimise :math:`\tfrac12\|x - sD\|^2` over all codes with at most k entries.

    Every support A of 1 to k atoms is tried: with correlations c and Gram matrix G of its
    atoms, least squares are :math:`u = G^{-1}c` and explain :math:`\tfrac12 c\cdot u`. For
    positive codes supports with a negative u are left out, which loses nothing: the positive
    entries of the best codes are a support whose least squares are positive. For small
    dictionaries, and to tell how far greedy answers are from the best.

    Parameters
    ----------
    problem : KSparse
        Rows (n, n_features), dictionary (n_components, n_features), k.
    codes : Tensor of shape (n, n_components)
        Not used: there is nothing that a start could save.
    max_iter, tol
        Not used.

    Raises
    ------
    ValueError
        If there are more supports than ``MOST_SUPPORTS``.
    """
    n, n_components = problem.shape
    check_supports(n_components, problem.k)
    correlations = problem.X @ problem.D.T
    best, found = codes.new_zeros(n), torch.zeros_like(codes)
    flops = 2 * n * problem.D.numel()
    for size in range(1, problem.k + 1):
        supports = torch.tensor(list(combinations(range(n_components), size)), device=codes.device)
        # a row's share of each support, and what a support takes once
        once = 2 * size * size * problem.D.shape[1] + size**3
        flops += len(supports) * (4 * size * size * n + once)
        for part in supports.split(max(1, GATHER_LIMIT // max(1, n * size))):
            explained, values, atoms = _best_of(problem, correlations, part)
            better = explained > best
            best = torch.where(better, explained, best)
            fresh = torch.zeros_like(codes).scatter_(1, atoms, values)
            found = torch.where(better[:, None], fresh, found)
    rows = torch.arange(n, device=codes.device)
    codes, spent = refit(problem, rows, found)
    return finish_k_sparse(problem, codes, torch.ones_like(rows), flops + spent)


def _best_of(
    problem: KSparse, correlations: Tensor, supports: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Of supports (m, size): what the best explains of each row, its values, its atoms."""
    atoms = problem.D[supports]
    gram = atoms @ atoms.mT
    size = gram.diagonal(dim1=1, dim2=2).amax(1, keepdim=True)
    # damped: atoms may depend on each other
    damping = torch.finfo(gram.dtype).eps ** INDEPENDENT * size.expand(-1, gram.shape[1])
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram + torch.diag_embed(damping)))
    c = correlations[:, supports]
    values = torch.einsum("nmi,mij->nmj", c, inverse)
    # of these values, whatever rounding has made of them: of the exact ones it is ½c·u
    explained = ((c - 0.5 * torch.einsum("nmi,mij->nmj", values, gram)) * values).sum(2)
    if problem.positive:
        explained = explained.masked_fill((values <= 0).any(2), 0.0)
    best, winner = explained.max(1)
    return best, values[torch.arange(len(values), device=values.device), winner], supports[winner]
