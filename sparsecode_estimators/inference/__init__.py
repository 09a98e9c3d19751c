"""Codes for a given dictionary: one table of solvers, one way to call them.

Tensors in, tensors out. A new solver is one file and one line in :data:`SOLVERS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from .. import kernels
from .adam import adam
from .exhaustive import l0
from .fista import fista
from .homotopy import homotopy, lasso_path
from .htp import htp
from .iht import iht
from .lca import lca
from .least_squares import debias as debiased
from .matching_pursuit import ols, omp
from .mp import mp
from .problem import Atoms, KSparse, Lasso, alpha_max, usual_alpha_max
from .replacement import omp_replacement
from .solution import Solution
from .stagewise import stagewise
from .working_set import working_set

__all__ = [
    "SOLVERS",
    "Atoms",
    "KSparse",
    "Lasso",
    "Solution",
    "Solver",
    "alpha_max",
    "choose",
    "lasso_path",
    "solve",
    "usual_alpha_max",
]


@dataclass(frozen=True)
class Solver:
    """A row of the table.

    Parameters
    ----------
    run : callable
        ``run(problem, codes, *, max_iter, tol) -> Solution``.
    solves : {"lasso", "k-sparse"}
    signed : bool
        Whether codes may be negative.
    exact : bool
        Whether enough iterations reach the optimum, which for the lasso the certificate
        proves.
    finite : bool
        Whether it ends by itself, however many iterations it may take.
    refits : bool
        Whether its codes are least squares on their support (for k-sparse codes).
    cold : bool
        Whether it takes None for a start at zero, which saves it a look at every code.
    loops : bool
        Whether there are compiled loops for it.
    """

    run: Callable[..., Solution]
    solves: str
    signed: bool = True
    exact: bool = True
    finite: bool = False
    refits: bool = True
    cold: bool = False
    loops: bool = False


SOLVERS = {
    "working_set": Solver(working_set, solves="lasso", finite=True, cold=True, loops=True),
    "fista": Solver(fista, solves="lasso"),
    "lca": Solver(lca, solves="lasso"),
    "homotopy": Solver(homotopy, solves="lasso", finite=True),
    "adam": Solver(adam, solves="lasso", signed=False, exact=False),
    "omp": Solver(omp, solves="k-sparse", exact=False, finite=True, cold=True, loops=True),
    "omp_replacement": Solver(
        omp_replacement, solves="k-sparse", exact=False, finite=True, loops=True
    ),
    "stagewise": Solver(
        stagewise, solves="k-sparse", exact=False, finite=True, cold=True, loops=True
    ),
    "ols": Solver(ols, solves="k-sparse", exact=False, finite=True, cold=True, loops=True),
    "matching_pursuit": Solver(mp, solves="k-sparse", exact=False, refits=False),
    "iht": Solver(iht, solves="k-sparse", exact=False),
    "htp": Solver(htp, solves="k-sparse", exact=False, finite=True),
    "l0": Solver(l0, solves="k-sparse", finite=True),
}


def choose(solver: str, D: Tensor, *, k_sparse: bool, warm: bool, tol: float | None) -> str:
    """Name of the solver that ``"auto"`` stands for; any other name is returned as it is.

    For the lasso ``"working_set"`` where loops or kernels made for the device serve, ``"fista"``
    elsewhere and for a run of exactly ``max_iter`` steps (``tol=None``).
    """
    if solver != "auto":
        return solver
    if not k_sparse:
        return "working_set" if tol is not None and kernels.accelerated(D) else "fista"
    return "omp_replacement" if warm else "omp"


def solve(
    X: Tensor,
    D: Tensor,
    *,
    alpha: float | None = None,
    n_nonzero_coefs: int | None = None,
    solver: str = "auto",
    positive: bool = True,
    codes: Tensor | None = None,
    max_iter: int = 1000,
    tol: float | None = 1e-6,
    weights: Tensor | None = None,
    ridge: float = 0.0,
    debias: bool = False,
    known: Atoms | None = None,
) -> Solution:
    r"""Codes of the rows of X for the dictionary D.

    Minimises :math:`\tfrac12\|x - sD\|^2 + \sum_j \alpha w_j|s_j| + \tfrac{\rho}{2}\|s\|^2`,
    or without penalties :math:`\tfrac12\|x - sD\|^2` over codes with at most
    ``n_nonzero_coefs`` entries.

    Parameters
    ----------
    X : Tensor of shape (n, n_features)
    D : Tensor of shape (n_components, n_features)
    alpha : float or None
        For solvers of the lasso.
    n_nonzero_coefs : int or None
        For k-sparse solvers; at most ``n_components`` and ``n_features`` are used.
    solver : str
        A key of :data:`SOLVERS`, or ``"auto"``.
    positive : bool
    codes : Tensor of shape (n, n_components) or None
        Where to start; None: at zero.
    max_iter : int
    tol : float or None
    weights : Tensor of shape (n_components,) or None
        w, above zero, for solvers of the lasso; None: ones.
    ridge : float
        ρ, at least zero, for solvers of the lasso.
    debias : bool
        Whether codes are refitted by least squares on the support that was found.
    known : Atoms or None
        What is known of D from earlier batches; None: nothing.

    Returns
    -------
    Solution
    """
    k_sparse, warm = n_nonzero_coefs is not None, codes is not None
    name = choose(solver, D, k_sparse=k_sparse, warm=warm, tol=tol)
    chosen = SOLVERS[name]
    start = X.new_zeros(len(X), len(D)) if codes is None and not chosen.cold else codes
    problem: KSparse | Lasso
    if chosen.solves == "k-sparse":
        assert n_nonzero_coefs is not None, "k-sparse solvers need n_nonzero_coefs"
        assert weights is None, "k-sparse solvers have no penalty to weigh"
        assert ridge == 0, "k-sparse solvers have no ridge"
        problem = KSparse(X, D, positive, k=min(n_nonzero_coefs, *D.shape), known=known)
    else:
        assert alpha is not None, "solvers of the lasso need alpha"
        problem = Lasso(X, D, positive, alpha=alpha, weights=weights, ridge=ridge, known=known)
    solution = chosen.run(problem, start, max_iter=max_iter, tol=tol)
    return debiased(problem, solution) if debias else solution
