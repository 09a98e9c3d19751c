"""Orthogonal matching pursuit that exchanges atoms as long as it helps."""

from __future__ import annotations

from torch import Tensor

from .. import kernels
from .problem import KSparse
from .solution import Solution, from_kernel


def omp_replacement(
    problem: KSparse, codes: Tensor, *, max_iter: int, tol: float | None
) -> Solution:
    r"""As ``omp``, then exchange atoms as long as the residual falls.

    Jain, Tewari & Dhillon (2011), in steps that are only taken downhill: add the
    best atom to a full support, refit, drop the smallest code, refit. A local
    optimum that starts well from another encoder's codes and is never worse than
    least squares on their support. (Compiled loops in float32 give an atom of a start up that
    lies within about a degree of the span of the others.)

    Parameters
    ----------
    problem : KSparse
        Rows (n, n_features), dictionary (n_components, n_features), k.
    codes : Tensor of shape (n, n_components)
        The ``k`` largest entries of a row are its first support; zeros for none.
    max_iter : int
        Most exchanges of a row.
    tol : float or None
        A step that lowers the residual by less than ``tol·½‖x‖²`` ends a row;
        None: only steps that do not lower it at all.
    """
    answer = kernels.replacement(
        problem.X,
        problem.D,
        problem.gram_that_pays("stages"),
        k=problem.k,
        positive=problem.positive,
        start=codes,
        max_steps=max_iter,
        tol=tol or 0.0,
    )
    return from_kernel(answer, answer.n_iter < max_iter, _flops(problem, answer))


def _flops(problem: KSparse, answer: kernels.Answer) -> int:
    """As the kernel has counted, else what compiled loops do.

    Products with the row; for the start the inverse; for each exchange, and the one that does
    not help, a sum of rows of the Gram matrix, two residuals and a few products with the inverse.
    """
    if answer.flops is not None:
        return answer.flops
    n, k = len(answer.codes), problem.k
    n_components, n_features = problem.D.shape
    start = 2 * n_components * n_features + 2 * k**3 + 2 * k * n_features
    exchange = 2 * k * n_components + 6 * k * n_features + 10 * k * k
    return n * start + (int(answer.n_iter.sum()) + n) * exchange
