"""The activations by name. A new one is a class, and a line in :func:`make_activation`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .activation import Activation, bounded_penalty
from .codes import Codes
from .jumprelu import JumpReLU
from .topk import BatchTopK, TopK

# all of them: those of which at most k codes are active, and the others with their penalties
K_SPARSE = ("topk", "abs_topk", "batch_topk")
PENALTIES = {"relu": ("l1", "tanh"), "jumprelu": ("l0", "tanh"), "gated": ("l1",)}


class ReLU(Activation):
    r"""``s = max(v, 0)``, penalised by :math:`\alpha\|s\|_1`, or by a bounded penalty.

    The bounded one, "tanh", is :math:`\tfrac{\alpha^2}{2}\sum_j\tanh(s_j/\alpha)`: it costs
    large codes no more than others, so that they are not shrunk.

    References
    ----------
    Cunningham et al. (2023), arXiv 2309.08600; Conerly et al. (2025), "Dictionary learning
    optimization techniques", transformer-circuits.pub (tanh).
    """

    penalised = True

    def __init__(self, *, bounded: bool = False) -> None:
        super().__init__()
        self.bounded = bounded
        self.rectifies = not bounded

    def price(self, alpha: float) -> float:
        return 0.0 if self.bounded else alpha

    def penalty(self, v: Tensor, codes: Tensor, at: Codes, alpha: float) -> Tensor | None:
        return bounded_penalty(codes, alpha) if self.bounded else None


class Gated(Activation):
    r"""A gate says which codes are active, a scaled and shifted copy how large they are.

    .. math:: s_j = [v_j > 0]\,\max(e^{\rho_j} v_j + \mu_j,\, 0)

    The gate learns by a penalty, :math:`\alpha\sum_j\max(v_j, 0)`, and by a second
    reconstruction of the rows from ``max(v, 0)``, for which dictionary and offset are held
    fixed. (The paper shifts the gate and the codes; here both are relative to the gate, which
    is the same family.)

    References
    ----------
    Rajamanoharan et al. (2024), "Improving dictionary learning with gated sparse
    autoencoders", arXiv 2404.16014, eq. 6–8.
    """

    penalised = True

    def __init__(self, log_scale: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(log_scale)
        self.shift = nn.Parameter(shift)

    @classmethod
    def start(cls, like: Tensor) -> Gated:
        """The gate's pre-activations are the codes."""
        return cls(like.new_zeros(len(like)), like.new_zeros(len(like)))

    def codes(self, v: Tensor, at: Codes) -> Tensor:
        size = at.spread(self.log_scale.exp()) * v + at.spread(self.shift)
        return torch.where(v > 0, size.relu(), 0.0)

    def guess(self, v: Tensor) -> Tensor:
        return v.relu()

    def penalty(self, v: Tensor, codes: Tensor, at: Codes, alpha: float) -> Tensor:
        return alpha * v.relu().sum()

    def forward(self, pre: Tensor) -> Tensor:
        size = self.log_scale.exp() * pre + self.shift
        return torch.where(pre > 0, size.relu(), 0.0)

    @torch.no_grad()
    def rescale_(self, factor: float) -> None:
        self.shift.mul_(factor)

    @torch.no_grad()
    def restart_(self, latents: Tensor, alpha: float) -> None:
        self.log_scale[latents] = 0
        self.shift[latents] = 0


def make_activation(
    name: str, k: int | None, like: Tensor, alpha: float, *, bounded: bool
) -> Activation:
    """Activation of the given name before training.

    Parameters
    ----------
    name : str
        Of ``K_SPARSE`` or ``PENALTIES``.
    k : int or None
        Active codes of a row, for the three of them that are k-sparse.
    like : Tensor of shape (n_components, n_features)
    alpha : float
        For rows with a variance of one.
    bounded : bool
        Whether the penalty of relu and jumprelu is the bounded one.
    """
    if name in K_SPARSE:
        assert k is not None, "checked by the estimator"
        return BatchTopK(k) if name == "batch_topk" else TopK(k, signed=name == "abs_topk")
    if name == "jumprelu":
        return JumpReLU.start(like, alpha, bounded=bounded)
    return Gated.start(like) if name == "gated" else ReLU(bounded=bounded)
