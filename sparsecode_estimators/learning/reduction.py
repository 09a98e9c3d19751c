"""One step of several processes, from what each has found in its part of a batch."""

from __future__ import annotations

import torch
from torch import Tensor

from .batches import Batch, part_of
from .distributed import Group
from .gradients import Step
from .memory import CommonMemory, common_memory
from .optimizers import Optimizer

# Share of touched atoms up to which their rows alone are sent. To pick them out and put them back
# are two passes over them in memory, which is less than to send the others.
SPARSE_SHARE = 0.75


class Reduction:
    """Gradients are sent, and every process moves all parameters.

    One sum over the group has all that is small, and on how many rows each atom was touched.
    Where few atoms were, as with k-sparse codes and many atoms, the rows of gradients that belong
    to these are sent, gathered in one block, and otherwise whole gradients. (On a GPU always
    whole ones: it would have to stop to tell how many they are.) A sum and not a gathering of
    the rows of each process, for it needs no memory that grows with the group, and rounds in all
    of them alike.

    Parameters
    ----------
    optimizer : Optimizer
        Of all parameters.
    n_components : int
        A matrix with so many rows has one for each atom.
    group : Group

    Attributes
    ----------
    optimizer : Optimizer
        Of what this process moves.
    found : dict
        Where gradients of some parameters are best written to, by parameter.
    """

    def __init__(self, optimizer: Optimizer, n_components: int, group: Group) -> None:
        self.optimizer, self.group, self._n = optimizer, group, n_components
        self.found: dict[Tensor, Tensor] = {}
        self._wide = [p for p in optimizer.params if self._is_wide(p)]
        self._narrow = [p for p in optimizer.params if not self._is_wide(p)]

    def _is_wide(self, tensor: Tensor) -> bool:
        return tensor.ndim == 2 and len(tensor) == self._n

    def size_in_common(self) -> int:
        """Bytes that all processes together need for matrices of atoms; 0 on a GPU."""
        params, slots = self._wide, self.optimizer.slots.values()
        if any(p.is_cuda for p in params):
            return 0
        kept = [t for slot in slots for t in slot if self._is_wide(t)]
        tensors = [*params, *kept, *(params * self.group.size)]
        return sum(CommonMemory.size(t) for t in tensors)

    def own(self, parameter: Tensor) -> Tensor:
        """What this process moves of it."""
        return parameter

    def mean(self, step: Step, batch: Batch) -> Step:
        """Means over the whole batch, with gradients of what this process moves.

        Parameters
        ----------
        step : Step
            Means over the rows that this process has; its gradients are written to.
        batch : Batch
        """
        if self.group.size == 1:
            return step
        wide = [step.gradients[p].contiguous() for p in self._wide]
        found, touched = self._small(step, batch, _touched(wide, step.counts) / batch.copies)
        if wide:
            _sum_rows(wide, touched, batch.share, self.group)
        return found._replace(
            gradients={**found.gradients, **dict(zip(self._wide, wide, strict=True))}
        )

    def _small(self, step: Step, batch: Batch, more: Tensor) -> tuple[Step, Tensor]:
        """All that is no matrix of atoms, and the sum of something else, in one message."""
        narrow = [step.gradients[p] for p in self._narrow]
        means = [step.loss.view(1), step.energy.view(1), *(g.flatten() for g in narrow)]
        counts = step.counts.to(step.loss) / batch.copies
        flat = torch.cat([*(m * batch.share for m in means), counts, more])
        self.group.sum_(flat)
        sizes = [*(m.numel() for m in means), len(counts), len(more)]
        loss, energy, *parts, counts, more = flat.split(sizes)
        gradients = {
            p: part.view_as(g) for p, g, part in zip(self._narrow, narrow, parts, strict=True)
        }
        return Step(loss.squeeze(), energy.squeeze(), counts, gradients), more

    def norm(self, gradients: dict[Tensor, Tensor]) -> Tensor:
        """Of all gradients together."""
        return _norm([gradients[p] for p in self.optimizer.params])

    def moved(self) -> None:
        """Wait until all processes have moved what they move."""

    def end(self) -> None:
        """No step follows."""


class CommonReduction(Reduction):
    """Parameters lie in memory that all processes see, and each moves the rows of some atoms.

    (The second stage of Rajbhandari et al. 2020, "ZeRO", arXiv 1910.02054, where nothing has to
    be sent.) Each process writes its gradients where the others can read them, takes the mean of
    those of its own atoms, and moves these. The message with what is small is what all wait for
    before they do so, and they wait for each other again when all have.

    Parameters
    ----------
    optimizer, n_components, group
        As for :class:`Reduction`.
    memory : CommonMemory
        Large enough.
    """

    def __init__(
        self, optimizer: Optimizer, n_components: int, group: Group, memory: CommonMemory
    ) -> None:
        super().__init__(optimizer, n_components, group)
        self._whole = optimizer
        self._rows = part_of(n_components, group.rank, group.size)
        for p in self._wide:
            p.data = self._placed(p.data, memory)
        for slot in optimizer.slots.values():
            slot[:] = [self._placed(t, memory) if self._is_wide(t) else t for t in slot]
        self._rooms = [{p: memory.like(p) for p in self._wide} for _ in range(group.size)]
        self.found = self._rooms[group.rank]
        group.hear(None)  # all is in place
        self.optimizer = type(optimizer)(
            [self._cut(p.data) for p in optimizer.params],
            {name: [self._cut(t) for t in slot] for name, slot in optimizer.slots.items()},
        )
        self._own = dict(zip(optimizer.params, self.optimizer.params, strict=True))

    def _placed(self, tensor: Tensor, memory: CommonMemory) -> Tensor:
        there = memory.like(tensor)
        if self.group.rank == 0:  # all have the same
            there.copy_(tensor)
        return there

    def _cut(self, tensor: Tensor) -> Tensor:
        return tensor[self._rows] if self._is_wide(tensor) else tensor

    def own(self, parameter: Tensor) -> Tensor:
        return self._own[parameter]

    def mean(self, step: Step, batch: Batch) -> Step:
        for p, room in self.found.items():
            if step.gradients[p].data_ptr() != room.data_ptr():
                room.copy_(step.gradients[p])
        shares = step.loss.new_zeros(self.group.size)
        shares[self.group.rank] = batch.share
        small, shares = self._small(step, batch, shares)
        gradients = {self._own[p]: g for p, g in small.gradients.items()}
        for p in self._wide:
            gradients[self._own[p]] = self._mean_rows(p, shares.tolist())
        return small._replace(gradients=gradients)

    def _mean_rows(self, parameter: Tensor, shares: list[float]) -> Tensor:
        """Mean gradient of the own atoms, where the own gradient was."""
        mean, total = self.found[parameter][self._rows], shares[self.group.rank]
        for rank, room in enumerate(self._rooms):
            if rank != self.group.rank:
                total += shares[rank]
                mean.lerp_(room[parameter][self._rows], shares[rank] / total)
        return mean

    def norm(self, gradients: dict[Tensor, Tensor]) -> Tensor:
        wide, narrow = (
            _norm([gradients[self._own[p]] for p in params]).square()
            for params in (self._wide, self._narrow)
        )
        return (self.group.sum_(wide) + narrow).sqrt()

    def moved(self) -> None:
        self.group.wait()

    def end(self) -> None:
        """Each process gets a copy of its own."""
        for p in self._wide:
            p.data = p.data.clone()
        for slot in self._whole.slots.values():
            slot[:] = [t.clone() if self._is_wide(t) else t for t in slot]


def over_group(optimizer: Optimizer, n_components: int, group: Group) -> Reduction:
    """How these processes come to one step: by common memory if they have some.

    Parameters
    ----------
    optimizer : Optimizer
        The same numbers in all of them; its large tensors may be put elsewhere until the end.
    n_components : int
    group : Group
        All of its processes call this together.
    """
    sent = Reduction(optimizer, n_components, group)
    if group.size == 1:
        return sent
    memory = common_memory(sent.size_in_common(), group)
    return sent if memory is None else CommonReduction(optimizer, n_components, group, memory)


def _norm(tensors: list[Tensor]) -> Tensor:
    return torch.stack(torch._foreach_norm(tensors)).norm()


def _touched(wide: list[Tensor], counts: Tensor) -> Tensor:
    """One for every atom of which some gradient is not zero, shape of ``counts``."""
    found = torch.zeros_like(counts, dtype=torch.bool)
    for g in wide:  # several times as fast as the largest absolute value
        found |= (g.amax(dim=1) != 0) | (g.amin(dim=1) != 0)
    return found.float()


def _sum_rows(wide: list[Tensor], touched: Tensor, share: float, group: Group) -> None:
    rows = None if touched.is_cuda else torch.nonzero(touched).squeeze(1)
    if rows is None or len(rows) > SPARSE_SHARE * len(touched):
        for g in wide:
            group.sum_(g.mul_(share))
        return
    picked = [g[rows] for g in wide]
    block = torch.cat([p.flatten() for p in picked]).mul_(share)
    parts = group.sum_(block).split([p.numel() for p in picked])
    for g, part in zip(wide, parts, strict=True):
        g[rows] = part.view(len(rows), -1)
