"""The only training loop: mini-batches, fused Adam, unit atoms, dead latents."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.optim.adam import adam

from .batches import Rows, epoch
from .dead import DeadLatents, fit_latents
from .encoders import SparseAutoencoder

BETA1, BETA2, EPS = 0.9, 0.999, 1e-8


@dataclass(frozen=True)
class Settings:
    """How to train; the names and meanings are those of the estimators."""

    objective: str
    alpha: float
    learn_dictionary: bool
    learn_offset: bool
    max_iter: int
    batch_size: int
    learning_rate: float
    decay: bool
    tol: float
    n_iter_no_change: int
    shuffle: bool
    dead_after: int
    aux_alpha: float


@dataclass
class AdamState:
    """Moments of every parameter that is trained, in the order of ``trained``."""

    means: list[Tensor]
    squares: list[Tensor]
    steps: list[Tensor]

    def forget(self, axes: list[int | None], latents: Tensor) -> None:
        """Drop the moments of what belongs to some latents alone.

        ``axes`` says for each parameter along which axis its latents lie, None where it
        belongs to all of them; parameters beyond its end are of that kind too.
        """
        for moments in (self.means, self.squares):
            for moment, axis in zip(moments, axes, strict=False):
                if axis is not None:
                    moment.index_fill_(axis, latents, 0.0)

    @classmethod
    def fresh(cls, params: list[Tensor]) -> AdamState:
        return cls(
            [torch.zeros_like(p) for p in params],
            [torch.zeros_like(p) for p in params],
            [torch.zeros((), device=p.device) for p in params],
        )

    def step(self, params: list[Tensor], grads: list[Tensor], learning_rate: float) -> None:
        """One step, in place. The functional form: the class would import a compiler."""
        adam(
            params,
            [grad.contiguous() for grad in grads],  # read in memory order, as the parameters
            self.means,
            self.squares,
            [],
            self.steps,
            fused=True,
            amsgrad=False,
            beta1=BETA1,
            beta2=BETA2,
            lr=learning_rate,
            weight_decay=0.0,
            eps=EPS,
            maximize=False,
        )


@dataclass
class History:
    """What a run has seen: mean loss of every epoch, optimiser steps, firing rates."""

    optimizer: AdamState
    losses: list[float] = field(default_factory=list)
    n_steps: int = 0
    frequency: Tensor | None = None


def trained(model: SparseAutoencoder, settings: Settings) -> list[Tensor]:
    """Parameters that the settings let move."""
    params: list[Tensor] = [parameter for parameter, _ in model.encoder_parameters()]
    if settings.objective == "reconstruction":
        params += [model.dictionary] * settings.learn_dictionary
        params += [model.offset] * settings.learn_offset
    return params


def reconstruction_loss(model: SparseAutoencoder, x: Tensor, codes: Tensor, alpha: float) -> Tensor:
    """``½‖x − b − sD‖² + alpha·‖s‖₁``, mean over rows."""
    loss = 0.5 * (x - model.decode(codes)).square().sum(1).mean()
    return loss + alpha * codes.sum(1).mean() if model.activation.penalised else loss


def code_loss(true: Tensor, codes: Tensor) -> Tensor:
    """``½‖s_true − s‖²``, mean over rows."""
    return 0.5 * (true - codes).square().sum(1).mean()


def train(
    model: SparseAutoencoder,
    sources: tuple[Rows, ...],
    settings: Settings,
    *,
    generator: torch.Generator,
    optimizer: AdamState | None,
    dead: DeadLatents,
    report: Callable[[int, float], None] = lambda epoch, loss: None,
) -> History:
    """Train ``model`` in place.

    Parameters
    ----------
    model : SparseAutoencoder
    sources : tuple of Rows
        The rows, and with ``objective="codes"`` their codes.
    settings : Settings
    generator : torch.Generator
        Order of the rows and revived latents.
    optimizer : AdamState or None
        Goes on from these moments; None: from zero.
    dead : DeadLatents
        Counts since when latents are silent; goes on from where it stands.
    report : callable
        Called with the number and the mean loss of every epoch.

    Raises
    ------
    FloatingPointError
        When the loss stops being finite.
    """
    if optimizer is None:
        optimizer = AdamState.fresh(trained(model, settings))
        if settings.objective == "codes":
            every = torch.arange(len(model.dictionary), device=model.dictionary.device)
            fit_latents(model, sources, every, settings.alpha)
    history, best, waited = History(optimizer), float("inf"), 0
    learned = settings.learn_dictionary and settings.objective == "reconstruction"
    end = settings.max_iter
    for iteration in range(settings.max_iter):
        rate = settings.learning_rate * (_decay(iteration, end) if settings.decay else 1.0)
        loss, fired, n_steps = _epoch(model, sources, settings, rate, generator, optimizer, dead)
        if learned:
            model.refresh_()
        history.losses.append(loss)
        history.n_steps += n_steps
        history.frequency = fired / len(sources[0])
        report(iteration, loss)
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"The loss became {loss} in epoch {iteration + 1} with "
                f"learning_rate_init={settings.learning_rate}: lower learning_rate_init, or look "
                "for rows of X that are far longer than the others."
            )
        waited = waited + 1 if loss > best - settings.tol * abs(best) else 0
        best = min(best, loss)
        if waited >= settings.n_iter_no_change:
            # what is left is the noise of the steps: let the rate fall, then stop
            end = min(end, (iteration + 1) * 3 // 2) if settings.decay else iteration + 1
        if iteration + 1 >= end:
            break
        # when the rate falls it is too late to find a place
        if not settings.decay or 3 * (iteration + 1) <= 2 * end:
            dead.revive(
                model,
                sources,
                optimizer,
                generator,
                learn_dictionary=learned,
                alpha=settings.alpha,
            )
    return history


def _decay(iteration: int, end: int) -> float:
    """Constant for two thirds of the epochs, then linearly towards zero."""
    return min(1.0, 3 * (1 - iteration / end))


def _epoch(
    model: SparseAutoencoder,
    sources: tuple[Rows, ...],
    settings: Settings,
    rate: float,
    generator: torch.Generator,
    optimizer: AdamState,
    dead: DeadLatents,
) -> tuple[float, Tensor, int]:
    """One pass: mean loss, how often each latent fired, number of steps."""
    params = trained(model, settings)
    total = torch.zeros((), dtype=torch.float64, device=params[0].device)
    fired = torch.zeros(len(model.dictionary), dtype=torch.int64, device=params[0].device)
    n_steps = 0
    for batch in epoch(sources, settings.batch_size, generator, shuffle=settings.shuffle):
        pre = model.pre_activations(batch[0])
        codes = model.activation(pre)
        if settings.objective == "codes":
            loss = full = code_loss(batch[1], codes)
        else:
            loss = reconstruction_loss(model, batch[0], codes, settings.alpha)
            full = loss + settings.aux_alpha * dead.auxiliary_loss(model, batch[0], pre, codes)
        grads = torch.autograd.grad(full, params)
        with torch.no_grad():
            optimizer.step(params, list(grads), rate)
            if settings.learn_dictionary and settings.objective == "reconstruction":
                norms = model.dictionary.norm(dim=1, keepdim=True)
                model.dictionary.div_(norms.clamp(min=torch.finfo(norms.dtype).tiny))
            active = (codes != 0).sum(0)
            fired += active
            dead.count(active, len(batch[0]))
            total += loss.detach().double() * len(batch[0])
        n_steps += 1
    return total.item() / len(sources[0]), fired, n_steps
