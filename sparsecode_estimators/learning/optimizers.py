"""How gradients move parameters, and how fast over a run."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim.adam import adam

BETA1, BETA2, EPS = 0.9, 0.999, 1e-8


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


def clip_(grads: list[Tensor], largest: float) -> None:
    """Scale all gradients together so that their norm is at most ``largest``."""
    norm = torch.stack(torch._foreach_norm(grads)).norm()
    torch._foreach_mul_(grads, (largest / norm).clamp(max=1.0))


@dataclass
class Adam:
    """Moments of every parameter that is trained.

    Kingma & Ba (2015), in the fused implementation of torch.

    Parameters
    ----------
    params : list of Tensor
    means, squares, steps : lists of Tensor
        One for each parameter.
    """

    params: list[Tensor]
    means: list[Tensor]
    squares: list[Tensor]
    steps: list[Tensor]

    @classmethod
    def fresh(cls, params: list[Tensor]) -> Adam:
        """Moments of zero."""
        means, squares = ([torch.zeros_like(p) for p in params] for _ in range(2))
        return cls(params, means, squares, [torch.zeros((), device=p.device) for p in params])

    def step(self, gradients: dict[Tensor, Tensor], learning_rate: float, *, skip: Tensor) -> None:
        """One step, in place, unless ``skip`` is one.

        The functional form: the class would import a compiler.
        """
        adam(
            self.params,
            [gradients[p].contiguous() for p in self.params],  # in memory order, as parameters
            self.means,
            self.squares,
            [],
            self.steps,
            fused=True,
            found_inf=skip,
            amsgrad=False,
            beta1=BETA1,
            beta2=BETA2,
            lr=learning_rate,
            weight_decay=0.0,
            eps=EPS,
            maximize=False,
        )

    def forget(self, params: list[Tensor], latents: Tensor) -> None:
        """Drop the moments of some latents, rows of these parameters."""
        known = {id(p) for p in params}
        for moments in (self.means, self.squares):
            for parameter, moment in zip(self.params, moments, strict=True):
                if id(parameter) in known:
                    moment.index_fill_(0, latents, 0.0)
