"""One step of several processes, from what each has found in its part of a batch."""

from __future__ import annotations

import torch
from torch import Tensor

from .batches import Batch
from .distributed import Group
from .gradients import Step

# Share of touched atoms up to which their rows alone are sent. To pick them out and put them back
# are two passes over them in memory, which is less than to send the others.
FEW = 0.75


def over_group(step: Step, batch: Batch, params: list[Tensor], group: Group) -> Step:
    """Means over the whole batch, the same bits in every process.

    One sum over the group has all that is small, and on how many rows each atom was touched.
    Where few atoms were, as with k-sparse codes and many atoms, the rows of gradients that belong
    to these are sent, gathered in one block, and otherwise whole gradients. (On a GPU always
    whole ones: it would have to stop to tell how many they are.) A sum and not a gathering of
    the rows of each process, for it needs no memory that grows with the group, and rounds in all
    of them alike.

    Parameters
    ----------
    step : Step
        Means over the rows that this process has; its gradients are written to.
    batch : Batch
    params : list of Tensor
        What gradients are wanted of.
    group : Group
    """
    if group.size == 1:
        return step
    gradients = {p: step.gradients[p].contiguous() for p in params}
    n = len(step.counts)
    wide = [g for g in gradients.values() if g.ndim == 2 and len(g) == n]
    ids = set(map(id, wide))
    narrow = [g for g in gradients.values() if id(g) not in ids]
    means = [step.loss.view(1), step.energy.view(1), *(g.flatten() for g in narrow)]
    sums = [step.counts.to(step.loss), _touched(wide, step.counts)]
    flat = torch.cat([*(m * batch.share for m in means), *(s / batch.copies for s in sums)])
    group.sum_(flat)
    loss, energy, *parts = flat.split([*(m.numel() for m in means), n, n])
    counts, touched = parts[-2:]
    for g, part in zip(narrow, parts, strict=False):
        g.copy_(part.view_as(g))
    if wide:
        _sum_rows(wide, touched, batch.share, group)
    return Step(loss.squeeze(), energy.squeeze(), counts, gradients)


def _touched(wide: list[Tensor], counts: Tensor) -> Tensor:
    """One for every atom of which some gradient is not zero, shape of ``counts``."""
    found = torch.zeros_like(counts, dtype=torch.bool)
    for g in wide:
        found |= torch.linalg.vector_norm(g, ord=torch.inf, dim=1) != 0
    return found.float()


def _sum_rows(wide: list[Tensor], touched: Tensor, share: float, group: Group) -> None:
    rows = None if touched.is_cuda else torch.nonzero(touched).squeeze(1)
    if rows is None or len(rows) > FEW * len(touched):
        for g in wide:
            group.sum_(g.mul_(share))
        return
    picked = [g[rows] for g in wide]
    block = torch.cat([p.flatten() for p in picked]).mul_(share)
    parts = group.sum_(block).split([p.numel() for p in picked])
    for g, part in zip(wide, parts, strict=True):
        g[rows] = part.view(len(rows), -1)
