"""The two problems that a code can solve, and how good an answer to them is."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


def alpha_max(X: Tensor, D: Tensor, *, positive: bool) -> Tensor:
    r"""Smallest alpha at which a row's code is all zeros, shape (n,).

    :math:`\alpha_{\max}(x) = \max_j |d_j \cdot x|`, without the absolute
    value (but never below 0) when codes must not be negative.
    """
    return _largest(X @ D.T, positive=positive)


def _largest(correlations: Tensor, *, positive: bool) -> Tensor:
    return correlations.amax(1).clamp(min=0) if positive else correlations.abs().amax(1)


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
    """

    X: Tensor
    D: Tensor
    positive: bool

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


@dataclass
class Lasso(Problem):
    r"""Minimise :math:`P(s) = \tfrac12\|x - sD\|^2 + \alpha\|s\|_1` for every row x."""

    alpha: float = 0.0

    def objective(self, codes: Tensor, rows: Tensor | slice = slice(None)) -> Tensor:
        """``P(s)``, shape (n,)."""
        return self.residual_energy(codes, rows) + self.alpha * codes.abs().sum(1)

    def gradient(self, codes: Tensor, rows: Tensor | slice = slice(None)) -> Tensor:
        """Gradient of the smooth part, ``−(x − sD)Dᵀ``, shape (n, n_components)."""
        return -self.residual(codes, rows) @ self.D.T

    def prox(self, codes: Tensor, step: float) -> Tensor:
        """Soft threshold at ``step·alpha``, one-sided for positive codes."""
        threshold = step * self.alpha
        if self.positive:
            return (codes - threshold).clamp_(min=0)
        return codes - codes.clamp(-threshold, threshold)

    @cached_property
    def lipschitz(self) -> float:
        """Largest eigenvalue of ``DDᵀ``: the step ``1/lipschitz`` never overshoots."""
        short = self.D if self.D.shape[0] <= self.D.shape[1] else self.D.T
        largest = torch.linalg.eigvalsh((short @ short.T).double())[-1].item()
        return largest * (1 + 1e-6)  # a hair above, for the rounding of the products

    def duality_gap(self, codes: Tensor, rows: Tensor | slice = slice(None)) -> Tensor:
        r"""How far ``P(s)`` can at most be above its minimum, shape (n,).

        With the residual r = x − sD, every θ = c·r with
        :math:`\max_j |d_j\cdot\theta| \le \alpha` is feasible in the dual
        (one-sided for positive codes), and

        .. math:: P(s) - \mathrm{dual}(\theta) = \tfrac12\|r-\theta\|^2
                  + \sum_j \bigl(\alpha|s_j| - s_j\, d_j\cdot\theta\bigr).

        Every term on the right is non-negative, so the gap keeps its meaning
        in float32 where the difference of two objectives would not. The best
        feasible c is used.
        """
        r = self.residual(codes, rows)
        correlations = r @ self.D.T
        energy = r.square().sum(1)
        agreement = (codes * correlations).sum(1)
        largest = _largest(correlations, positive=self.positive)
        # 0/0 is a zero residual, or a row that no atom points along: any c is feasible.
        best = torch.where(energy > 0, 1 + agreement / energy, 1.0).clamp(min=0)
        c = torch.minimum(best, (self.alpha / largest).nan_to_num(torch.inf, torch.inf))
        slack = self.alpha * codes.abs().sum(1) - c * agreement
        return 0.5 * (1 - c).square() * energy + slack.clamp(min=0)
