"""The two problems that a code can solve, and how good an answer to them is."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from .. import kernels
from ..kernels.reference import gap_of, largest_ratio


def alpha_max(X: Tensor, D: Tensor, *, positive: bool, weights: Tensor | None = None) -> Tensor:
    r"""Smallest alpha at which a row's code is all zeros, shape (n,).

    :math:`\alpha_{\max}(x) = \max_j |d_j \cdot x| / w_j`, without the absolute
    value (but never below 0) when codes must not be negative. A ridge does not
    change it: its gradient is zero at zero.
    """
    correlations = X @ D.T
    return _largest(correlations if weights is None else correlations / weights, positive=positive)


def usual_alpha_max(
    X: Tensor, D: Tensor, *, positive: bool, weights: Tensor | None = None
) -> float:
    """The median of :func:`alpha_max` over rows that have codes at all; 0 if none has."""
    found = alpha_max(X, D, positive=positive, weights=weights)
    found = found[found > 0]
    return found.median().item() if len(found) else 0.0


def _largest(correlations: Tensor, *, positive: bool) -> Tensor:
    return correlations.amax(1).clamp(min=0) if positive else correlations.abs().amax(1)


@dataclass
class Atoms:
    """What is worked out about a dictionary once, however many batches it codes.

    Parameters
    ----------
    D : Tensor of shape (n_components, n_features)
    """

    D: Tensor

    @cached_property
    def gram(self) -> Tensor:
        """``DDᵀ``, shape (n_components, n_components)."""
        return self.D @ self.D.T

    @cached_property
    def rounded_gram(self) -> Tensor:
        """The same in bfloat16, padded for the loops that take it."""
        return kernels.rounded_gram(self.D)

    @property
    def has_gram(self) -> bool:
        """Whether ``gram`` has been worked out."""
        return "gram" in self.__dict__

    @cached_property
    def largest_eigenvalue(self) -> float:
        """Of ``DDᵀ``."""
        short = self.D if self.D.shape[0] <= self.D.shape[1] else self.D.T
        return torch.linalg.eigvalsh((short @ short.T).double())[-1].item()


@dataclass
class Problem:
    """Rows to be coded with a dictionary.

    Parameters
    ----------
    X : Tensor of shape (n, n_features)
        Rows, the offset already taken off.
    D : Tensor of shape (n_components, n_features)
        Dictionary; its rows are the atoms.
    positive : bool
        Whether codes must not be negative.
    known : Atoms or None
        What is known of D already; None: nothing.
    """

    X: Tensor
    D: Tensor
    positive: bool
    known: Atoms | None = field(default=None, kw_only=True)

    @cached_property
    def atoms(self) -> Atoms:
        """What follows from the dictionary alone."""
        return self.known or Atoms(self.D)

    @cached_property
    def scale(self) -> Tensor:
        """Objective of the all-zero code, ``½‖x‖²``, shape (n,)."""
        return 0.5 * self.X.square().sum(1)

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the codes."""
        return self.X.shape[0], self.D.shape[0]

    def residual(self, codes: Tensor, rows: Tensor | slice = slice(None)) -> Tensor:
        """``x − sD``, shape (n, n_features)."""
        return self.X[rows] - codes @ self.D

    def residual_energy(self, codes: Tensor, rows: Tensor | slice = slice(None)) -> Tensor:
        """``½‖x − sD‖²``, shape (n,)."""
        return 0.5 * self.residual(codes, rows).square().sum(1)


@dataclass
class KSparse(Problem):
    """Minimise ``½‖x − sD‖²`` with at most ``k`` non-zero codes a row."""

    k: int = 1

    def gram_that_pays(self, rule: str) -> Tensor | None:
        """Products of atoms for compiled loops, if there are any and making it is worth it.

        Exact, or rounded where that is faster; ``rule`` says how atoms are chosen.
        """
        n, n_components = self.shape
        if not kernels.accelerated(self.D):
            return None
        if self.atoms.has_gram:
            return self.atoms.gram
        if not kernels.gram_pays(n, n_components, self.D.shape[1], k=self.k, rule=rule):
            return None
        rounded = kernels.rounded_gram_serves(self.D)
        return self.atoms.rounded_gram if rounded else self.atoms.gram


@dataclass
class Lasso(Problem):
    r"""The lasso, with a weight for each atom and a ridge (the elastic net).

    Minimise, for every row x,

    .. math:: P(s) = \tfrac12\|x - sD\|^2 + \sum_j \alpha w_j |s_j|
              + \tfrac{\rho}{2}\|s\|^2.

    Parameters
    ----------
    alpha : float
    weights : Tensor of shape (n_components,) or None
        w, all above zero; None: ones. A free atom (a weight of zero) would make every
        certificate vacuous, since no multiple of a residual is feasible in the dual.
    ridge : float
        ρ, at least zero.

    References
    ----------
    Tibshirani (1996); Zou (2006), weights; Zou & Hastie (2005), the ridge: the problem is
    the lasso of ``(x, 0)`` with the atoms ``(d_j, √ρ e_j)``.
    """

    alpha: float = 0.0
    weights: Tensor | None = None
    ridge: float = 0.0

    @cached_property
    def penalty(self) -> Tensor:
        """What a unit of each code costs, ``alpha·weights``, shape (n_components,)."""
        ones = self.D.new_ones(self.D.shape[0])
        return self.alpha * (ones if self.weights is None else self.weights)

    def objective(self, codes: Tensor, rows: Tensor | slice = slice(None)) -> Tensor:
        """``P(s)``, shape (n,)."""
        squares = 0.5 * self.ridge * codes.square().sum(1)
        return self.residual_energy(codes, rows) + codes.abs() @ self.penalty + squares

    def certified(
        self, gap: Tensor, tol: float | None, rows: Tensor | slice = slice(None)
    ) -> Tensor:
        """Whether gaps are at most ``tol·½‖x‖²``; never for None, nor where squares overflow.

        Nor where they vanish though the row does not.
        """
        if tol is None:
            return torch.zeros_like(gap, dtype=torch.bool)
        scale = self.scale[rows]
        measured = scale.isfinite() & gap.isfinite() & ((scale > 0) | ~self.X[rows].any(1))
        return (gap <= tol * scale) & measured

    def gradient(self, codes: Tensor, rows: Tensor | slice = slice(None)) -> Tensor:
        """Gradient of the smooth part, ``−(x − sD)Dᵀ + ridge·s``, shape (n, n_components)."""
        gradient = -self.residual(codes, rows) @ self.D.T
        return gradient.add_(codes, alpha=self.ridge) if self.ridge else gradient

    def prox(self, codes: Tensor, step: float) -> Tensor:
        """Soft threshold at ``step·penalty``, one-sided for positive codes."""
        return kernels.soft_threshold(codes, step * self.penalty, positive=self.positive)

    @cached_property
    def lipschitz(self) -> float:
        """Largest eigenvalue of ``DDᵀ + ridge·I``: the step ``1/lipschitz`` never overshoots."""
        largest = self.atoms.largest_eigenvalue + self.ridge
        return largest * (1 + 1e-6)  # a hair above, for the rounding of the products

    def duality_gap(self, codes: Tensor, rows: Tensor | slice = slice(None)) -> Tensor:
        r"""How far ``P(s)`` can at most be above its minimum, shape (n,).

        With the residual r of the lasso of ``(x, 0)`` and ``(d_j, √ρ e_j)``, which is
        ``(x − sD, −√ρ s)``, every θ = c·r with
        :math:`|d_j\cdot\theta| \le \alpha w_j` for all j is feasible in the dual
        (one-sided for positive codes), and

        .. math:: P(s) - \mathrm{dual}(\theta) = \tfrac12\|r-\theta\|^2
                  + \sum_j \bigl(\alpha w_j|s_j| - s_j\, d_j\cdot\theta\bigr).

        Every term on the right is non-negative, so the gap keeps its meaning
        in float32 where the difference of two objectives would not. The best
        feasible c is used. With a ridge there is a second bound, which is the better
        one where the ridge is what matters, and the smaller of both is returned.
        """
        r = self.residual(codes, rows)
        products = r @ self.D.T
        correlations = products - self.ridge * codes if self.ridge else products
        energy = r.square().sum(1) + self.ridge * codes.square().sum(1)
        agreement = (codes * correlations).sum(1)
        ratio = largest_ratio(correlations, self.penalty, positive=self.positive)
        gap = gap_of(energy, agreement, codes.abs() @ self.penalty, ratio)
        return torch.minimum(gap, self._ridge_gap(codes, products)) if self.ridge else gap

    def _ridge_gap(self, codes: Tensor, products: Tensor) -> Tensor:
        r"""The bound whose dual variable is x − sD itself, feasible for every ridge > 0.

        With :math:`u_j = d_j\cdot(x - sD)` and its soft threshold :math:`v_j`, it is
        :math:`\sum_j (v_j - \rho s_j)^2/(2\rho) + \alpha w_j|s_j| - s_j(u_j - v_j)`: the
        slack of the inequality of Fenchel and Young for each code.
        """
        kept = self.prox(products, 1.0)
        slack = codes.abs() * self.penalty - codes * (products - kept)
        return (0.5 / self.ridge * (kept - self.ridge * codes).square() + slack.clamp(min=0)).sum(1)
