r"""What turns pre-activations into sparse codes. An activation is one class here.

In training an activation first says at which places codes may be non-zero
(:meth:`Activation.places`), and everything after that is computed at these places alone:
codes, penalties, and by autograd their derivatives. ``forward`` is what inference does: it
is row-wise, so that no code depends on the other rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..kernels import sparse
from ..kernels.sparse import Places
from .codes import SPARSE_SHARE, Codes, Dense, Sparse, Workspace

THRESHOLD_MEMORY = 0.02  # weight of a batch in the learned threshold of BatchTopK
BANDWIDTH = 0.5  # of the window around the threshold of JumpReLU, as a share of alpha
LEAST_BANDWIDTH = 1e-3  # in units in which rows have a variance of one


Screen = Callable[[Tensor], tuple[Places, Tensor]]


class Activation(nn.Module):
    """From pre-activations v to codes s.

    Attributes
    ----------
    penalised : bool
        Whether the loss has a penalty, which then depends on alpha.
    proportional : bool
        Whether codes are as many times as long as pre-activations are made.
    rectifies : bool
        Whether codes are max(v, 0) at their places, and nothing else is made of v, so that
        derivatives need no graph.
    """

    penalised = False
    proportional = True
    rectifies = False

    def places(self, pre: Tensor, bias: Tensor, work: Workspace) -> Codes:
        """Where codes of a batch may be non-zero, or their derivatives.

        ``pre`` does not hold the bias yet, which saves a pass over a large matrix.
        """
        return work.above(pre, -bias)

    def codes(self, v: Tensor, at: Codes) -> Tensor:
        """Codes, from pre-activations at some places."""
        return v.relu()

    def guess(self, v: Tensor) -> Tensor | None:
        """Codes that have to reconstruct the rows beside the true ones; None: there are none."""
        return None

    def price(self, alpha: float) -> float:
        """What a unit of each code costs."""
        return 0.0

    def penalty(self, v: Tensor, codes: Tensor, at: Codes, alpha: float) -> Tensor | None:
        """What all codes of the batch cost beyond their price; None: nothing."""
        return None

    def forward(self, pre: Tensor) -> Tensor:
        """Codes of rows, shape (n, n_components)."""
        return pre.relu()

    def of_batch(self, pre: Tensor) -> Tensor:
        """Codes of rows that are a batch of training."""
        return self(pre)

    def active(self, pre: Tensor, bias: Tensor) -> Sparse:
        """Where codes of :meth:`forward` are not zero, but for a few places; as :meth:`places`."""
        return _places_above(pre, -bias)

    def screen(self, weight: Tensor, bias: Tensor) -> Screen | None:
        """What finds the places of :meth:`active` faster than all pre-activations are there.

        A function of what the last layer sees, shape (n, n_in), to places and pre-activations
        there. None: there is no such thing.
        """
        return None

    def rescale_(self, factor: float) -> None:
        """Go over to rows, and codes, that are ``factor`` times as long."""

    @property
    def per_latent(self) -> list[nn.Parameter]:
        """What is learned, all of shape (n_components,)."""
        return list(self.parameters())

    def restart_(self, latents: Tensor, alpha: float) -> None:
        """Parameters of some latents as they were at the start."""


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
        return _bounded(codes, alpha) if self.bounded else None


class TopK(Activation):
    """The ``k`` largest positive pre-activations of each row, all others zero.

    With ``signed`` the ``k`` largest by absolute value, which keep their sign. Sparse by
    construction, so the loss has no penalty. Ties are broken so that never more than ``k``
    codes are active.

    References
    ----------
    Gao et al. (2024), arXiv 2406.04093, eq. 3; Zhu et al. (2025), "AbsTopK: Rethinking sparse
    autoencoders for bidirectional features", arXiv 2510.00404 (signed).
    """

    def __init__(self, k: int, *, signed: bool = False) -> None:
        super().__init__()
        self.k = self.k_now = k  # now: while it falls, in training
        self.signed = signed

    def places(self, pre: Tensor, bias: Tensor, work: Workspace) -> Codes:
        if work.nested or not self._is_dense(pre):
            return self.active(pre, bias)
        return work.dense(self._mask(pre + bias))

    def _is_dense(self, pre: Tensor) -> bool:
        return self.k_now > SPARSE_SHARE * pre.shape[1]

    def _mask(self, pre: Tensor) -> Tensor:
        size = pre.abs() if self.signed else pre
        largest = size.topk(min(self.k_now, pre.shape[1]), dim=1).indices
        return torch.zeros_like(pre, dtype=torch.bool).scatter_(1, largest, True)

    def active(self, pre: Tensor, bias: Tensor) -> Sparse:
        k = min(self.k_now, pre.shape[1])
        return Sparse(sparse.largest(pre.detach(), bias, k, signed=self.signed), pre.shape[1])

    def screen(self, weight: Tensor, bias: Tensor) -> Screen | None:
        return sparse.screen(weight, bias, min(self.k_now, len(weight)), signed=self.signed)

    def codes(self, v: Tensor, at: Codes) -> Tensor:
        return at.masked(v if self.signed else v.relu())

    def forward(self, pre: Tensor) -> Tensor:
        if self._is_dense(pre):
            return self.codes(pre, Dense(self._mask(pre.detach())))
        at = self.active(pre, pre.new_zeros(pre.shape[1]))
        return at.dense(self.codes(at.gather(pre), at))


class BatchTopK(Activation):
    """The ``n·k`` largest positive pre-activations of a batch of n rows, all others zero.

    At inference, where no row may know of others, those above a threshold. While it trains this is
    the running mean of the smallest active code of the batches, as in the paper, which lags behind
    a network that moves; at the end it is set so that as many codes are active as asked for
    (:meth:`settle_`).

    References
    ----------
    Bussmann, Leask & Nanda (2024), "BatchTopK sparse autoencoders", arXiv 2412.06410.
    """

    def __init__(self, k: int, threshold: Tensor | None = None) -> None:
        super().__init__()
        self.k = self.k_now = k  # now: while it falls, in training
        seen = 0 if threshold is None else int(1 / THRESHOLD_MEMORY)
        self.threshold: Tensor
        self.n_seen: Tensor
        self.register_buffer("threshold", torch.zeros(()) if threshold is None else threshold)
        self.register_buffer("n_seen", torch.tensor(seen))

    def places(self, pre: Tensor, bias: Tensor, work: Workspace) -> Sparse:
        n, n_components = pre.shape
        group = work.group
        wanted = int(group.sum_(torch.tensor(n))) * min(self.k_now, n_components)
        # few numbers are above half of what the threshold has been, and it seldom falls so far
        found = Sparse(sparse.above(pre, 0.5 * self.threshold.to(bias) - bias), n_components)
        v = work.at(found, pre) + found.spread(bias)
        of_all = group.gather(v)
        if len(of_all) < wanted:
            found = Sparse(sparse.above(pre, -bias), n_components)
            v = work.at(found, pre) + found.spread(bias)
            of_all = group.gather(v)
        if len(of_all) > wanted:
            of_all = of_all.topk(wanted).values
            keep = v >= of_all[-1]
            kept = torch.bincount(found.places.rows[keep], minlength=n)
            starts = torch.cat([kept.new_zeros(1), kept.cumsum(0)])
            found = Sparse(Places(starts, found.places.atoms[keep]), n_components)
        self._remember(of_all)
        return found

    def _remember(self, v: Tensor) -> None:
        """Take note of the active codes of the whole batch."""
        if len(v):
            self.n_seen = self.n_seen + 1
            rate = (1 / self.n_seen).clamp(min=THRESHOLD_MEMORY).to(v)
            self.threshold = self.threshold.to(v) * (1 - rate) + rate * v.min()

    @torch.no_grad()
    def settle_(self, pre: Tensor) -> None:
        """Set the threshold so that ``k`` codes of these rows are active in the mean.

        Halfway down to the largest of the others: on a code itself rounding would decide.
        """
        others = pre.numel() - min(self.k * len(pre), pre.numel())
        smallest = pre.flatten().kthvalue(others + 1).values
        below = torch.where(pre < smallest, pre, -torch.inf).max()
        self.threshold = ((smallest + below) / 2).clamp(min=0)

    def active(self, pre: Tensor, bias: Tensor) -> Sparse:
        below = torch.nextafter(self.threshold.to(pre), pre.new_zeros(()))
        return _places_above(pre, below - bias)

    def forward(self, pre: Tensor) -> Tensor:
        return torch.where(pre >= self.threshold.to(pre), pre.relu(), 0.0)

    def of_batch(self, pre: Tensor) -> Tensor:
        others = pre.numel() - min(self.k_now * len(pre), pre.numel())
        smallest = pre.flatten().kthvalue(others + 1).values
        return torch.where(pre >= smallest, pre.relu(), 0.0)

    def rescale_(self, factor: float) -> None:
        self.threshold = self.threshold * factor


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
        return _places_above(pre, self.threshold - bias)

    def codes(self, v: Tensor, at: Codes) -> Tensor:
        return _Jump.apply(v, at.spread(self.threshold), self.bandwidth)

    def penalty(self, v: Tensor, codes: Tensor, at: Codes, alpha: float) -> Tensor:
        if self.bounded:
            return _bounded(codes, alpha)
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


def _places_above(pre: Tensor, floor: Tensor) -> Sparse:
    return Sparse(sparse.above(pre, floor), pre.shape[1])


def _bounded(codes: Tensor, alpha: float) -> Tensor:
    return alpha**2 / 2 * (codes / alpha).tanh().sum() if alpha else 0 * codes.sum()


class _Jump(torch.autograd.Function):
    """``v·[v > θ]``, with the derivatives of :class:`JumpReLU`."""

    @staticmethod
    def forward(ctx, v, threshold, width):
        ctx.save_for_backward(v, threshold)
        ctx.width = width
        return torch.where(v > threshold, v, 0.0)

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


def make_activation(
    name: str, k: int | None, like: Tensor, alpha: float, *, bounded: bool
) -> Activation:
    """Activation of the given name before training.

    Parameters
    ----------
    name : {"relu", "topk", "abs_topk", "batch_topk", "jumprelu", "gated"}
    k : int or None
        Active codes of a row, for the three of them that are k-sparse.
    like : Tensor of shape (n_components, n_features)
    alpha : float
        For rows with a variance of one.
    bounded : bool
        Whether the penalty of relu and jumprelu is the bounded one.
    """
    if name in ("topk", "abs_topk", "batch_topk"):
        assert k is not None, "checked by the estimator"
        return BatchTopK(k) if name == "batch_topk" else TopK(k, signed=name == "abs_topk")
    if name == "jumprelu":
        return JumpReLU.start(like, alpha, bounded=bounded)
    return Gated.start(like) if name == "gated" else ReLU(bounded=bounded)
