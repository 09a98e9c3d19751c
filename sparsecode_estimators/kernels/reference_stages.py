"""What stages of several atoms mean, in torch, for any device."""

from __future__ import annotations

import torch
from torch import Tensor

from .least_squares import descend_on_support, top_support
from .reference import Answer
from .reference_replacement import replacement

CLASSES = 64  # of atoms, by their number; one of each enters at a time
LIMIT = 3  # stages for each atom of a row: Lawson & Hanson's limit, which rounding may reach


def stages(
    X: Tensor,
    D: Tensor,
    gram: Tensor | None,
    *,
    k: int,
    positive: bool,
    share: float,
    max_steps: int,
    tol: float,
) -> Answer:
    """See :func:`sparsecode_estimators.kernels.stages`; ``gram`` is not needed.

    All rows at a time and in double precision.
    """
    x, d = X.double(), D.double()
    codes = x.new_zeros(len(x), len(d))
    n_iter = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    floor = 10 * torch.finfo(X.dtype).eps * x.norm(dim=1, keepdim=True) * d.norm(dim=1).min()
    room = torch.full_like(n_iter, k)
    rows, flops = torch.arange(len(x), device=x.device), 0
    for _ in range(min(max_steps, LIMIT * k)):
        if not len(rows):
            break
        before = codes[rows]
        slope = (x[rows] - before @ d) @ d.T
        gain = slope if positive else slope.abs()
        gain = gain.masked_fill((before != 0) | (gain <= floor[rows]), 0.0)
        newcomers = _nearly_best(gain, share, room[rows])
        after, spent = _refit(x[rows], d, before, newcomers, k, positive)
        flops += spent + 4 * len(rows) * d.numel()
        entered = newcomers.any(1)
        codes[rows] = after
        n_iter[rows] += entered
        size, grown = (after != 0).sum(1), (after != 0).sum(1) > (before != 0).sum(1)
        room[rows] = torch.where(grown, k - size, 1)
        rows = rows[entered & (size < k)]
    answer = replacement(
        X, D, gram, k=k, positive=positive, start=codes, max_steps=max_steps, tol=tol
    )
    assert answer.flops is not None, "the definition counts"
    return answer._replace(n_iter=n_iter + answer.n_iter, flops=answer.flops + flops)


def _nearly_best(gain: Tensor, share: float, room: Tensor) -> Tensor:
    """The best atom of each class if it is nearly the best of all, as many as there is room for."""
    n, n_components = gain.shape
    padded = torch.nn.functional.pad(gain, (0, -n_components % CLASSES))
    best, block = padded.view(n, -1, CLASSES).max(1)
    place = block * CLASSES + torch.arange(CLASSES, device=gain.device)
    best, order = best.sort(dim=1, descending=True, stable=True)
    rank = torch.arange(CLASSES, device=gain.device)
    chosen = (best > 0) & (best >= share * best[:, :1]) & (rank < room[:, None])
    mask = torch.zeros_like(padded, dtype=torch.bool)
    return mask.scatter_(1, place.gather(1, order), chosen)[:, :n_components]


def _refit(
    x: Tensor, d: Tensor, codes: Tensor, newcomers: Tensor, k: int, positive: bool
) -> tuple[Tensor, int]:
    """Least squares on the atoms and the newcomers, and operations."""
    support = (codes != 0) | newcomers
    indices, valid = top_support(support.double(), k)
    values, valid, flops = descend_on_support(
        x, d, indices, valid, codes.gather(1, indices), positive=positive
    )
    return torch.zeros_like(codes).scatter_(1, indices, values * valid), flops
