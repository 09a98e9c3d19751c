"""The activation that jumps at a learned threshold."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .activation import Activation, bounded_penalty, places_above
from .codes import Codes, Sparse, Workspace

BANDWIDTH = 0.5  # of the window around the threshold of JumpReLU, as a share of alpha
LEAST_BANDWIDTH = 1e-3  # in units in which rows have a variance of one


class JumpReLU(Activation):
    r"""``s = v`` above a threshold :math:`\theta_j` that is learned, zero below.

    The penalty is :math:`\tfrac{\alpha^2}{2}\|s\|_0`: the threshold of a single unit atom is
    then α, as that of the lasso. Or "tanh", see :class:`ReLU`. Neither the jump nor the count
    has a derivative; for that of the threshold a rectangle of width ε around it takes the place
    of Dirac's delta,

    .. math:: \frac{\partial s}{\partial\theta} = -\frac{\theta}{\varepsilon}
              \,\Pi\bigl(\tfrac{v-\theta}{\varepsilon}\bigr), \qquad
              \frac{\partial\|s\|_0}{\partial\theta} = -\frac{1}{\varepsilon}
              \,\Pi\bigl(\tfrac{v-\theta}{\varepsilon}\bigr).

    Parameters
    ----------
    log_threshold : Tensor of shape (n_components,)
        Logarithms, so that thresholds stay positive and the learning rate is relative.
    bandwidth : float
        ε.
    bounded : bool

    References
    ----------
    Rajamanoharan et al. (2024), "Jumping ahead", arXiv 2407.14435, eq. 11–12; Conerly et al.
    (2025), "Dictionary learning optimization techniques" (tanh).
    """

    penalised = True
    proportional = False

    def __init__(self, log_threshold: Tensor, bandwidth: float, *, bounded: bool = False) -> None:
        super().__init__()
        self.log_threshold = nn.Parameter(log_threshold)
        self.bandwidth = bandwidth
        self.bounded = bounded

    @classmethod
    def start(cls, like: Tensor, alpha: float, *, bounded: bool) -> JumpReLU:
        """Every threshold at alpha, for rows with a variance of one."""
        width = max(BANDWIDTH * alpha, LEAST_BANDWIDTH)
        return cls(like.new_full((len(like),), max(alpha, width)).log(), width, bounded=bounded)

    @property
    def threshold(self) -> Tensor:
        """θ."""
        return self.log_threshold.exp()

    def places(self, pre: Tensor, bias: Tensor, work: Workspace) -> Codes:
        floor = (self.threshold.detach() - self.bandwidth / 2).clamp(min=0)
        return work.above(pre, floor - bias)

    def active(self, pre: Tensor, bias: Tensor) -> Sparse:
        return places_above(pre, self.threshold - bias)

    def codes(self, v: Tensor, at: Codes) -> Tensor:
        return _Jump.apply(v, at.spread(self.threshold), self.bandwidth)

    def penalty(self, v: Tensor, codes: Tensor, at: Codes, alpha: float) -> Tensor:
        if self.bounded:
            return bounded_penalty(codes, alpha)
        count = _Count.apply(v.detach(), at.spread(self.threshold), self.bandwidth)
        return alpha**2 / 2 * count.sum()

    def forward(self, pre: Tensor) -> Tensor:
        return _Jump.apply(pre, self.threshold.expand_as(pre), self.bandwidth)

    @torch.no_grad()
    def rescale_(self, factor: float) -> None:
        self.log_threshold.add_(math.log(factor))
        self.bandwidth *= factor

    @torch.no_grad()
    def restart_(self, latents: Tensor, alpha: float) -> None:
        least = self.bandwidth
        self.log_threshold[latents] = math.log(max(alpha, least))


class _Jump(torch.autograd.Function):
    """``v·[v > θ]``, with the derivatives of :class:`JumpReLU`, also for ``torch.func``."""

    generate_vmap_rule = True

    @staticmethod
    def forward(v, threshold, width):
        return torch.where(v > threshold, v, 0.0)

    @staticmethod
    def setup_context(ctx, inputs, output):
        v, threshold, ctx.width = inputs
        ctx.save_for_backward(v, threshold)
        ctx.save_for_forward(v, threshold)

    @staticmethod
    def jvp(ctx, by_v, by_threshold, _):
        v, threshold = ctx.saved_tensors
        near = (v - threshold).abs() < ctx.width / 2
        moved = torch.where(v > threshold, by_v, 0.0)
        return moved - torch.where(near, threshold / ctx.width * by_threshold, 0.0)

    @staticmethod
    def backward(ctx, upstream):
        v, threshold = ctx.saved_tensors
        near = (v - threshold).abs() < ctx.width / 2
        down = torch.where(near, -threshold / ctx.width * upstream, 0.0)
        return torch.where(v > threshold, upstream, 0.0), down, None


class _Count(torch.autograd.Function):
    """``[v > θ]``, with the derivatives of :class:`JumpReLU`."""

    @staticmethod
    def forward(ctx, v, threshold, width):
        ctx.save_for_backward(v, threshold)
        ctx.width = width
        return (v > threshold).to(v)

    @staticmethod
    def backward(ctx, upstream):
        v, threshold = ctx.saved_tensors
        near = (v - threshold).abs() < ctx.width / 2
        return None, torch.where(near, -upstream / ctx.width, 0.0), None
