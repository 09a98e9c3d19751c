"""Greedy k-sparse codes: orthogonal matching pursuit and orthogonal least squares."""

from __future__ import annotations

from torch import Tensor

from .. import kernels
from .problem import KSparse
from .solution import Solution, from_kernel


def omp(problem: KSparse, codes: Tensor | None, *, max_iter: int, tol: float | None) -> Solution:
    r"""Add one atom after the other to every row, refit, stop at ``k`` atoms.

    Pati, Rezaiifar & Krishnaprasad (1993): the next atom is the one that correlates
    most with the residual, then all values are refitted by least squares. For
    positive codes only positive correlations count and the refit is a non-negative
    least squares (Bruckstein, Elad & Zibulevsky 2008); atoms that it drops make
    room for others. Atoms are compared as they are: give them unit norm.

    Parameters
    ----------
    problem : KSparse
        Rows (n, n_features), dictionary (n_components, n_features), k.
    codes : Tensor of shape (n, n_components) or None
        The ``k`` largest entries of a row are its first support; zeros for none. Not
        written to.
    max_iter : int
        Most atoms added to a row.
    tol : float or None
        Not used: a row ends with ``k`` atoms, or when no atom lowers its residual.
    """
    return _pursue(problem, codes, max_iter, rule="omp")


def ols(problem: KSparse, codes: Tensor | None, *, max_iter: int, tol: float | None) -> Solution:
    r"""Add the atom whose refit leaves the smallest residual, refit, stop at ``k`` atoms.

    Chen, Billings & Luo (1989); "order-recursive matching pursuit" of Rebollo-Neira & Lowe
    (2002), "optimised OMP". With the residual r of least squares on the atoms so far and the
    part :math:`d_j^\perp` of an atom that they cannot explain, adding it lowers the residual by

    .. math:: \tfrac12 \frac{(d_j\cdot r)^2}{\|d_j^\perp\|^2}.

    (:func:`omp` leaves the denominator out.) For positive codes only atoms with
    :math:`d_j\cdot r > 0` count, the refit is a non-negative least squares, and atoms that it
    drops make room for others (Yaghoobi & Davies 2015; "suboptimal NNOLS" of Nguyen,
    Soussen, Idier & Djermoune 2019).

    Parameters
    ----------
    problem, codes, max_iter, tol
        As for :func:`omp`.
    """
    return _pursue(problem, codes, max_iter, rule="ols")


def _pursue(problem: KSparse, codes: Tensor | None, max_iter: int, *, rule: str) -> Solution:
    answer = kernels.pursuit(
        problem.X,
        problem.D,
        problem.gram_that_pays(rule),
        k=problem.k,
        positive=problem.positive,
        rule=rule,
        start=codes,
        max_steps=max_iter,
    )
    converged = answer.n_iter < max_iter
    if not converged.all():  # with room for more atoms, the last one still helped
        converged |= (answer.codes != 0).sum(1) >= problem.k
    return from_kernel(answer, converged, _flops(problem, answer))


def _flops(problem: KSparse, answer: kernels.Answer) -> int:
    """As the kernel has counted, else what compiled loops do.

    Products with the row, then for each atom a sum of as many rows of the Gram matrix.
    """
    if answer.flops is not None:
        return answer.flops
    n_components, n_features = problem.D.shape
    added = answer.n_iter.double()
    total = int(added.sum())
    sums = (int(added.dot(added)) + total) * n_components
    return 2 * len(added) * problem.D.numel() + sums + 8 * total * n_features
