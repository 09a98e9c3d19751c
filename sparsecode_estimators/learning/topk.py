"""Activations that keep the largest pre-activations, of a row or of a batch."""

from __future__ import annotations

import torch
from torch import Tensor

from ..kernels import sparse
from ..kernels.sparse import Places
from .activation import Activation, Screen, places_above
from .codes import SPARSE_SHARE, Codes, Dense, Sparse, Workspace

THRESHOLD_MEMORY = 0.02  # weight of a batch in the learned threshold of BatchTopK


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
        smallest = _smallest(pre, self.k)
        below = torch.where(pre < smallest, pre, -torch.inf).max()
        self.threshold = ((smallest + below) / 2).clamp(min=0)

    def active(self, pre: Tensor, bias: Tensor) -> Sparse:
        below = torch.nextafter(self.threshold.to(pre), pre.new_zeros(()))
        return places_above(pre, below - bias)

    def forward(self, pre: Tensor) -> Tensor:
        return torch.where(pre >= self.threshold.to(pre), pre.relu(), 0.0)

    def of_batch(self, pre: Tensor) -> Tensor:
        return torch.where(pre >= _smallest(pre, self.k_now), pre.relu(), 0.0)

    def rescale_(self, factor: float) -> None:
        self.threshold = self.threshold * factor


def _smallest(pre: Tensor, k: int) -> Tensor:
    """The smallest of the ``n·k`` largest numbers."""
    others = pre.numel() - min(k * len(pre), pre.numel())
    return pre.flatten().kthvalue(others + 1).values
