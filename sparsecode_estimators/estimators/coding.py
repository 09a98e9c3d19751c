"""Solving for codes batch by batch, and telling how well it went."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from .. import kernels
from ..inference import SOLVERS, Atoms, Solution, choose, solve
from .arrays import Rows, optional_tensor, read_rows, to_shared, to_tensor
from .validation import Interval, StrOptions

# Ranges of what SparseCodingEncoder, ITORefiner and sparse_encode ask of a solver.
SOLVER_CONSTRAINTS: dict[str, list] = {
    "n_nonzero_coefs": [Interval(Integral, 1, None, closed="left"), None],
    "solver": [StrOptions({"auto", *SOLVERS})],
    "tol": [Interval(Real, 0, None, closed="neither"), None],
    "weights": ["array-like", None],
    "ridge": [Interval(Real, 0, None, closed="left")],
    "debias": ["boolean"],
}


class EncodeInfo(NamedTuple):
    """How good codes are, row by row.

    Attributes
    ----------
    dual_gap : ndarray of shape (n_samples,)
        Upper bound on how far the objective is above its minimum; NaN for k-sparse codes.
        With ``debias`` it is that of the codes before the refit, and so is ``converged``.
    residual : ndarray of shape (n_samples,)
        ``½‖x − b − sD‖²``.
    n_iter : ndarray of shape (n_samples,)
        Iterations spent on the row.
    converged : ndarray of shape (n_samples,)
        Lasso: whether ``dual_gap <= tol·½‖x − b‖²``. k-sparse: whether the solver stopped
        by its own rule and not by ``max_iter``.
    flops : int
        Floating point operations spent on all rows, one multiply-add being two.

    See Also
    --------
    sparse_encode : Returns it with ``return_info=True``.

    Examples
    --------
    >>> import numpy as np
    >>> from sparsecode_estimators import sparse_encode
    >>> X = np.array([[3.0, 0.5, -2.0], [0.0, 0.0, 4.0]])
    >>> codes, info = sparse_encode(X, np.eye(3), alpha=1.0, return_info=True)
    >>> info.residual.tolist(), info.converged.tolist()
    ([2.625, 0.5], [True, True])
    """

    dual_gap: np.ndarray
    residual: np.ndarray
    n_iter: np.ndarray
    converged: np.ndarray
    flops: int


def check_solver(
    solver: str, *, k_sparse: bool, positive: bool, weighted: bool = False, ridge: float = 0.0
) -> None:
    """Refuse a solver that does not solve the problem that the other parameters state.

    Parameters
    ----------
    solver : str
    k_sparse : bool
        Whether ``n_nonzero_coefs`` is given.
    positive : bool
    weighted : bool
        Whether ``weights`` are given.
    ridge : float

    Raises
    ------
    ValueError
        With the parameter to change.
    """
    if k_sparse and (weighted or ridge):
        given = "weights" if weighted else f"ridge={ridge}"
        raise ValueError(
            f"{given} belongs to the penalty, but n_nonzero_coefs asks for k-sparse codes, which "
            "have none: set n_nonzero_coefs=None, or leave weights=None and ridge=0."
        )
    if solver == "auto":
        return
    if solver not in SOLVERS:
        raise ValueError(f"solver={solver!r} is unknown: choose 'auto' or one of {list(SOLVERS)}.")
    row = SOLVERS[solver]
    if k_sparse and row.solves != "k-sparse":
        raise ValueError(
            f"solver={solver!r} solves the lasso, but n_nonzero_coefs asks for k-sparse codes: "
            f"set n_nonzero_coefs=None, or choose {_solvers_of('k-sparse')}."
        )
    if not k_sparse and row.solves == "k-sparse":
        raise ValueError(
            f"solver={solver!r} gives k-sparse codes: set n_nonzero_coefs, or choose "
            f"{_solvers_of('lasso')} for the lasso."
        )
    if not positive and not row.signed:
        raise ValueError(
            f"solver={solver!r} gives positive codes only: set positive_code=True, or choose "
            "another solver."
        )


def _solvers_of(problem: str) -> str:
    """The names that can be chosen for a problem, for messages."""
    names = [repr(name) for name, row in SOLVERS.items() if row.solves == problem]
    return f"solver={', '.join(names)} or 'auto'"


@dataclass
class Coder:
    """The inference of one ``transform``: call it on batches, then ask how it went.

    Parameters
    ----------
    D : Tensor of shape (n_components, n_features)
    offset : Tensor of shape (n_features,)
    alpha : float or None
    k : int or None
    solver : str
    positive : bool
    max_iter : int
    tol : float or None
    weights : Tensor of shape (n_components,) or None
    ridge : float
    debias : bool
    """

    D: Tensor
    offset: Tensor
    alpha: float | None
    k: int | None
    solver: str
    positive: bool
    max_iter: int
    tol: float | None
    weights: Tensor | None = None
    ridge: float = 0.0
    debias: bool = False
    solutions: list[Solution] = field(default_factory=list)
    atoms: Atoms = field(init=False)

    def __post_init__(self) -> None:
        check_solver(  # parameters may have been set after the fit
            self.solver,
            k_sparse=self.k is not None,
            positive=self.positive,
            weighted=self.weights is not None,
            ridge=self.ridge,
        )
        self.atoms = Atoms(self.D)

    @classmethod
    def of(
        cls, estimator: Any, rows: Rows, *, k: int | None, positive: bool, max_iter: int
    ) -> Coder:
        """That of a fitted estimator, by its parameters as they are now, on the rows' device."""
        return cls(
            D=to_shared(estimator.components_, rows),
            offset=to_tensor(estimator.intercept_, rows),
            alpha=estimator.alpha_,
            k=k,
            solver=estimator.solver,
            positive=positive,
            max_iter=max_iter,
            tol=estimator.tol,
            weights=optional_tensor(estimator.weights_, rows),
            ridge=estimator.ridge,
            debias=estimator.debias,
        )

    def __call__(self, x: Tensor, start: Tensor | None = None) -> Tensor:
        """Codes of a batch, from ``start`` or from zero."""
        if start is not None and self.positive:
            start = start.clamp(min=0)
        answer = solve(
            x - self.offset if self.offset.any() else x,
            self.D,
            alpha=self.alpha,
            n_nonzero_coefs=self.k,
            solver=self.solver,
            positive=self.positive,
            codes=start,
            max_iter=self.max_iter,
            tol=self.tol,
            weights=self.weights,
            ridge=self.ridge,
            debias=self.debias,
            known=self.atoms,
        )
        codes = answer.codes
        answer.codes = codes.new_empty(0)  # handed on; only the certificates are kept
        self.solutions.append(answer)
        return codes

    @property
    def loops(self) -> bool:
        """Whether codes come from compiled loops, for which batches may be large."""
        k_sparse = self.k is not None
        name = choose(self.solver, self.D, k_sparse=k_sparse, warm=False, tol=self.tol)
        return SOLVERS[name].loops and kernels.accelerated(self.D)

    def info(self) -> EncodeInfo:
        """Certificates of all batches so far."""

        def joined(name: str) -> Any:
            return torch.cat([getattr(s, name) for s in self.solutions]).cpu().numpy()

        return EncodeInfo(
            dual_gap=joined("gap"),
            residual=joined("residual"),
            n_iter=joined("n_iter"),
            converged=joined("converged"),
            flops=sum(s.flops for s in self.solutions),
        )

    def warn(self, max_iter_name: str) -> None:
        """Warn once if rows did not converge; a run of fixed length (``tol=None``) is meant."""
        if self.tol is None:
            return
        missed = sum(int((~s.converged).sum()) for s in self.solutions)
        if missed:
            total = sum(len(s.converged) for s in self.solutions)
            warnings.warn(
                f"{missed} of {total} rows did not reach tol={self.tol} within "
                f"{max_iter_name}={self.max_iter}: their codes are close to, but not certified to "
                f"be, optimal. Raise {max_iter_name} or tol, or use float64 if X is float32; "
                "sparse_encode(..., return_info=True) tells the gap of every row.",
                ConvergenceWarning,
                stacklevel=4,
            )


def info_of(estimator: Any, X: Any) -> EncodeInfo:
    """What the solver of a fitted estimator says of its codes for X, which are not kept."""
    rows = read_rows(estimator, X, reset=False, device=estimator.device)
    encode = estimator._encoder(rows)
    with torch.no_grad():
        for batch in rows.batches(len(estimator.components_), loops=encode.loops):
            encode(batch)
    return encode.info()
