"""How gradients move parameters, and how fast over a run."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from ..kernels.adam import adam, to_unit_length_

MIX = 0.95  # β of sign descent


def rate(schedule: str, progress: float, warmup: float) -> float:
    """Share of the learning rate to use when a share ``progress`` of all steps is done.

    Parameters
    ----------
    schedule : {"constant", "decay", "linear", "cosine"}
        "decay": constant for two thirds of the steps, then linearly towards zero.
    progress : float in [0, 1]
    warmup : float in [0, 1]
        Share of the steps over which the rate rises from zero.
    """
    rise = min(1.0, progress / warmup) if warmup else 1.0
    if schedule == "cosine":
        return rise * (1 + math.cos(math.pi * progress)) / 2
    falls = {"constant": 1.0, "decay": 3 * (1 - progress), "linear": 1 - progress}
    return rise * min(1.0, falls[schedule])


def clip_(grads: list[Tensor], norm: Tensor, largest: float) -> None:
    """Scale all gradients together so that their norm, which is given, is at most ``largest``."""
    torch._foreach_mul_(grads, (largest / norm).clamp(max=1.0))


class Optimizer(ABC):
    """What moves parameters along their gradients.

    Parameters
    ----------
    params : list of Tensor
    slots : dict of lists of Tensor
        What it remembers, by name; lists with one tensor for each parameter.
    """

    def __init__(self, params: list[Tensor], slots: dict[str, list[Tensor]]) -> None:
        self.params, self.slots = params, slots

    @classmethod
    @abstractmethod
    def fresh(cls, params: list[Tensor]) -> Optimizer:
        """With nothing to remember yet."""

    @abstractmethod
    def step(
        self,
        gradients: dict[Tensor, Tensor],
        learning_rate: float,
        *,
        skip: Tensor,
        unit: Tensor | None,
    ) -> None:
        """One step, in place, unless ``skip`` is one; rows of ``unit`` get unit length."""

    @abstractmethod
    def forget(self, params: list[Tensor], latents: Tensor) -> None:
        """Begin anew with some latents, rows of these parameters."""

    # nothing to do where the parameters are the answer
    def finish_(self) -> None:  # noqa: B027
        """Put into the parameters what training has come to."""

    def resume_(self) -> None:  # noqa: B027
        """Take that back, to go on."""

    def fits(self, params: list[Tensor]) -> bool:
        """Whether what it remembers is about parameters of these shapes."""
        shapes = [p.shape for p in params]
        return any([t.shape for t in slot] == shapes for slot in self.slots.values())


class Adam(Optimizer):
    """Kingma & Ba (2015), see :mod:`sparsecode_estimators.kernels.adam`."""

    @classmethod
    def fresh(cls, params: list[Tensor]) -> Adam:
        means, squares = ([torch.zeros_like(p) for p in params] for _ in range(2))
        steps = [torch.zeros((), device=p.device) for p in params]
        return cls(params, {"means": means, "squares": squares, "steps": steps})

    def step(
        self,
        gradients: dict[Tensor, Tensor],
        learning_rate: float,
        *,
        skip: Tensor,
        unit: Tensor | None,
    ) -> None:
        adam(
            self.params,
            [gradients[p].contiguous() for p in self.params],  # in memory order, as parameters
            self.slots["means"],
            self.slots["squares"],
            self.slots["steps"],
            learning_rate=learning_rate,
            skip=skip,
            unit=unit,
        )

    def forget(self, params: list[Tensor], latents: Tensor) -> None:
        for mean in _those_of(params, self.params, self.slots["means"]):
            mean.index_fill_(0, latents, 0.0)
        for square in _those_of(params, self.params, self.slots["squares"]):
            # With zeros a step soon is six learning rates long, for the correction of young moments
            # goes by the age of the whole parameter. So those of the other latents.
            others = torch.ones(len(square), dtype=square.dtype, device=square.device)
            others.index_fill_(0, latents, 0.0)
            usual = torch.tensordot(others, square, dims=1) / others.sum().clamp(min=1)
            square[latents] = usual


class SignDescent(Optimizer):
    r"""Steps along the signs of gradients, and the average of where they lead.

    Schedule-free (Defazio et al. 2024, arXiv 2405.15682): gradients are taken at
    :math:`y = (1-\beta) z + \beta x`,

    .. math:: z \leftarrow z - \gamma\operatorname{sign}\nabla(y), \qquad
              x \leftarrow (1-c) x + c z,

    with :math:`c = \gamma^2/\sum\gamma^2`, and the answer is the average x. While it trains the
    parameters hold y. One tensor for each parameter is remembered, half as much as by Adam.
    """

    @classmethod
    def fresh(cls, params: list[Tensor]) -> SignDescent:
        points = [p.detach().clone() for p in params]
        return cls(params, {"points": points, "weights": [torch.zeros(()) for _ in params]})

    def step(
        self,
        gradients: dict[Tensor, Tensor],
        learning_rate: float,
        *,
        skip: Tensor,
        unit: Tensor | None,
    ) -> None:
        share = 1 - skip
        for y, z, total in zip(
            self.params, self.slots["points"], self.slots["weights"], strict=True
        ):
            weight = learning_rate**2
            total += weight
            c = weight / max(total.item(), weight) if weight else 0.0
            y.data.sub_(z, alpha=1 - MIX).mul_(1 - c)  # β(1 − c)x
            z.sub_(gradients[y].sign().nan_to_num_() * share, alpha=learning_rate)
            y.data.add_(z, alpha=MIX * c + 1 - MIX)
        to_unit_length_(unit)

    def forget(self, params: list[Tensor], latents: Tensor) -> None:
        points = _those_of(params, self.params, self.slots["points"])
        here = _those_of(params, self.params, self.params)
        for z, y in zip(points, here, strict=True):
            z[latents] = y.data[latents]

    def finish_(self) -> None:
        for y, z in zip(self.params, self.slots["points"], strict=True):
            y.data.sub_(z, alpha=1 - MIX).div_(MIX)

    def resume_(self) -> None:
        for y, z in zip(self.params, self.slots["points"], strict=True):
            y.data.mul_(MIX).add_(z, alpha=1 - MIX)


def _those_of(chosen: list[Tensor], params: list[Tensor], tensors: list[Tensor]) -> list[Tensor]:
    """The tensors of some of the parameters."""
    ids = {id(p) for p in chosen}
    return [t for p, t in zip(params, tensors, strict=True) if id(p) in ids]


OPTIMIZERS: dict[str, type[Optimizer]] = {"adam": Adam, "sign": SignDescent}
