"""What stages of several atoms mean, in torch, for any device."""

from __future__ import annotations

import torch
from torch import Tensor

from .least_squares import descend_on_support, top_support
from .reference import Answer
from .reference_replacement import replacement
from .shared import CLASSES, FLOOR, LIMIT


def stages(
    X: Tensor,
    D: Tensor,
    gram: Tensor | None,
    *,
    k: int,
    positive: bool,
    share: float,
    depth: float,
    max_steps: int,
    tol: float,
) -> Answer:
    """See :func:`sparsecode_estimators.kernels.stages`; ``gram`` is not needed.

    All rows at a time and in double precision.
    """
    x, d = X.double(), D.double()
    codes = x.new_zeros(len(x), len(d))
    n_iter = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    floor = FLOOR * torch.finfo(X.dtype).eps * x.norm(dim=1, keepdim=True) * d.norm(dim=1).min()
    room = torch.full_like(n_iter, k)
    most, flops = min(max_steps, LIMIT * k), 0

    def gains(rows: Tensor) -> Tensor:
        slope = (x[rows] - codes[rows] @ d) @ d.T
        gain = slope if positive else slope.abs()
        return gain.masked_fill((codes[rows] != 0) | (gain <= floor[rows]), 0.0)

    rows = torch.arange(len(x), device=x.device) if most else room[:0]
    while len(rows):
        gain = gains(rows)
        candidates, least = _best_of_each_class(gain), depth * gain.amax(1, keepdim=True)
        entered_any = torch.zeros_like(rows, dtype=torch.bool)
        places = torch.arange(len(rows), device=x.device)
        while len(places):
            here = rows[places]
            candidates[places] &= gain >= least[places]
            newcomers = _nearly_best(gain * candidates[places], share, room[here])
            entered = newcomers.any(1)
            places, here, newcomers = places[entered], here[entered], newcomers[entered]
            candidates[places] &= ~newcomers
            before = (codes[here] != 0).sum(1)
            codes[here], spent = _refit(x[here], d, codes[here], newcomers, k, positive)
            flops += spent + 4 * len(here) * d.numel()
            n_iter[here] += 1
            size = (codes[here] != 0).sum(1)
            room[here] = torch.where(size > before, k - size, 1)
            entered_any[places] = True
            places = places[(size < k) & (n_iter[here] < most)]
            gain = gains(rows[places])
        full = (codes[rows] != 0).sum(1) == k
        rows = rows[entered_any & ~full & (n_iter[rows] < most)]
    answer = replacement(
        X, D, gram, k=k, positive=positive, start=codes, max_steps=max_steps, tol=tol
    )
    assert answer.flops is not None, "the definition counts"
    return answer._replace(n_iter=n_iter + answer.n_iter, flops=answer.flops + flops)


def _best_of_each_class(gain: Tensor) -> Tensor:
    """Which atoms these are, of those that have a gain; shape (n, n_components)."""
    n, n_components = gain.shape
    padded = torch.nn.functional.pad(gain, (0, -n_components % CLASSES))
    best, block = padded.view(n, -1, CLASSES).max(1)
    place = block * CLASSES + torch.arange(CLASSES, device=gain.device)
    mask = torch.zeros_like(padded, dtype=torch.bool)
    return mask.scatter_(1, place, best > 0)[:, :n_components].contiguous()


def _nearly_best(gain: Tensor, share: float, room: Tensor) -> Tensor:
    """Atoms that are nearly the best, as many as there is room for."""
    n_components = gain.shape[1]
    best, order = gain.topk(min(CLASSES, n_components), dim=1)
    rank = torch.arange(best.shape[1], device=gain.device)
    chosen = (best > 0) & (best >= share * best[:, :1]) & (rank < room[:, None])
    return torch.zeros_like(gain, dtype=torch.bool).scatter_(1, order, chosen)


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
