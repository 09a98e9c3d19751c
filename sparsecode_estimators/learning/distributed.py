"""Processes that train one model together.

Where the script has initialised ``torch.distributed``, every process of its group sees the whole
model and the same rows, and computes its part of every batch; what they find is added up, so
that all of them take the same step. Elsewhere a group is one process, and nothing is sent.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


class Group:
    """The processes that train together, seen from one of them.

    As a context it is what comes before training: an error in one process ends the others with
    it, in place of leaving them waiting.

    Parameters
    ----------
    rank : int
        Number of this process.
    size : int
        How many there are.
    device : torch.device or None
        Where messages lie; None: on the CPU.
    """

    def __init__(self, rank: int = 0, size: int = 1, device: torch.device | None = None) -> None:
        self.rank, self.size = rank, size
        self.device = device or torch.device("cpu")
        self._heard = size > 1  # whether the others wait for a word of this one

    @classmethod
    def present(cls) -> Group:
        """That of ``torch.distributed``, or this process alone."""
        if not (dist.is_available() and dist.is_initialized()):
            return cls()
        backends = dist.get_backend_config()
        on_gpu = "cpu:" not in backends and "cuda" in backends
        device = torch.device("cuda", torch.cuda.current_device()) if on_gpu else None
        return cls(dist.get_rank(), dist.get_world_size(), device)

    def __enter__(self) -> Group:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, Exception) and self._heard:
            self._exchange(f"{type(error).__name__}: {error}", None)

    def _exchange(self, error: str | None, value: T) -> list[tuple[str | None, T]]:
        messages: list[Any] = [None] * self.size
        dist.all_gather_object(messages, (error, value))
        return messages

    def hear(self, value: T) -> list[T]:
        """What every process says, by rank.

        Raises
        ------
        RuntimeError
            If another one has failed.
        """
        if self.size == 1:
            return [value]
        messages = self._exchange(None, value)
        for rank, (error, _) in enumerate(messages):
            if error is not None:
                self._heard = False
                raise RuntimeError(f"Rank {rank} of {self.size} could not train. {error}")
        return [value for _, value in messages]

    def first(self, value: T) -> T:
        """What rank 0 says."""
        return self.hear(value)[0]

    def agree(self, facts: dict[str, str]) -> None:
        """Make sure that all processes have been asked for the same.

        Raises
        ------
        ValueError
            In all of them, naming the first thing in which one differs from rank 0.
        """
        first, *others = self.hear(facts)
        for rank, there in enumerate(others, 1):
            for name in sorted({*first, *there}):
                if first.get(name) != there.get(name):
                    self._heard = False
                    raise ValueError(
                        f"{name} is {there.get(name)} in rank {rank}, but {first.get(name)} in "
                        "rank 0: processes of torch.distributed train one model together, so all "
                        "of them have to call fit with the same parameters and the same rows."
                    )

    def begin(self) -> None:
        """From here on nobody is told of errors: what is sent are numbers."""
        self._heard = False

    def sum_(self, tensor: Tensor) -> Tensor:
        """Add up over all processes, in place, to the same bits in each."""
        if self.size > 1:
            there = self._reachable(tensor)
            dist.all_reduce(there)
            _copy(there, tensor)
        return tensor

    def wait(self) -> None:
        """Until all processes are here."""
        self.sum_(torch.zeros(1))

    def gather(self, values: Tensor) -> Tensor:
        """Values of all processes, which may have more or fewer, shape (n_all,)."""
        if self.size == 1:
            return values
        there = self._reachable(values)
        counts = torch.zeros(self.size, dtype=torch.int64, device=there.device)
        counts[self.rank] = len(values)
        dist.all_reduce(counts)
        padded = there.new_zeros(int(counts.max()))
        padded[: len(values)] = there
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        dist.all_gather(parts, padded)
        held = zip(parts, counts.tolist(), strict=True)
        return torch.cat([part[:n] for part, n in held]).to(values.device)

    def same_(self, tensors: Iterable[Tensor]) -> None:
        """Make them those of rank 0, in place."""
        if self.size > 1:
            for tensor in tensors:
                there = self._reachable(tensor)
                dist.broadcast(there, 0)
                _copy(there, tensor)

    def state(
        self, tensors: dict[str, Tensor], numbers: dict[str, Any]
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The state of a run in rank 0; tensors lie where this process has its own."""
        if self.size == 1:
            return tensors, numbers
        like = {name: (tuple(t.shape), t.dtype) for name, t in tensors.items()}
        like, numbers = self.first((like, numbers))
        found = tensors
        if self.rank > 0:
            found = {
                name: torch.empty(shape, dtype=dtype, device=tensors[name].device)
                for name, (shape, dtype) in like.items()
            }
        self.same_(found.values())
        return found, numbers

    def _reachable(self, tensor: Tensor) -> Tensor:
        """The tensor in memory that the group can send: itself, if it lies there."""
        nccl = tensor.is_cuda and "nccl" in dist.get_backend_config()
        tensor = tensor.detach()
        return (tensor if nccl else tensor.to(self.device)).contiguous()


def _copy(source: Tensor, target: Tensor) -> None:
    if source.data_ptr() != target.data_ptr():
        target.detach().copy_(source)
