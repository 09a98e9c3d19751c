"""k-sparse codes by stages of several atoms, then exchanges."""

from __future__ import annotations

from torch import Tensor

from .. import kernels
from .problem import KSparse
from .replacement import omp_replacement
from .solution import Solution, from_kernel


def stagewise(
    problem: KSparse, codes: Tensor | None, *, max_iter: int, tol: float | None
) -> Solution:
    r"""Take several atoms at once while they are good, then exchange as ``omp_replacement``.

    Donoho, Tsaig, Drori & Starck (2012), "Sparse solution of underdetermined systems of linear
    equations by stagewise orthogonal matching pursuit": a stage takes every atom whose product
    with the residual is above a threshold, here 0.6 of the largest, and refits. The next stages
    are among the candidates of the same look at all atoms, as long as these have 0.2 of its
    largest product. So the support is full after three looks or four, where ``omp`` needs k, and
    exchanges mend what a stage took too early. The guarantees of ``omp`` do not hold for a stage.
    Of few rows and many atoms no Gram matrix is made.

    Parameters
    ----------
    problem : KSparse
        Rows (n, n_features), dictionary (n_components, n_features), k.
    codes : Tensor of shape (n, n_components) or None
        A start: then there are exchanges only, as for ``omp_replacement``. Not written to.
    max_iter : int
        Most stages of a row, and most exchanges after them.
    tol : float or None
        An exchange that lowers the residual by less than ``tol·½‖x‖²`` ends a row;
        None: only one that does not lower it at all.
    """
    if codes is not None:
        return omp_replacement(problem, codes, max_iter=max_iter, tol=tol)
    answer = kernels.stages(
        problem.X,
        problem.D,
        problem.gram_that_pays("stages"),
        k=problem.k,
        positive=problem.positive,
        max_steps=max_iter,
        tol=tol or 0.0,
    )
    return from_kernel(answer, answer.n_iter < max_iter, _flops(problem, answer))


def _flops(problem: KSparse, answer: kernels.Answer) -> int:
    """As the kernel has counted, else what compiled loops do.

    Products with the row; for each stage or exchange (of stages that share a look, once too often)
    a sum of at most k rows of the Gram matrix; for each atom a border of the inverse; the last
    residual.
    """
    if answer.flops is not None:
        return answer.flops
    n, k = len(answer.codes), problem.k
    n_components, n_features = problem.D.shape
    row = 2 * n_components * n_features + 2 * k**3 + 6 * k * n_features
    return n * row + int(answer.n_iter.sum() + n) * 2 * k * n_components
