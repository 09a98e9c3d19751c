"""One run of training: where it stands, what a step does, what is kept of it."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from .activations import BatchTopK, TopK
from .batches import Rows, epoch
from .checkpoint import Checkpoint
from .codes import Workspace
from .dead import LOOK_EVERY, DeadLatents
from .encoders import SparseAutoencoder
from .gradients import Step, factored, whole
from .optimizers import Optimizer, clip_, rate

LAST_REVIVAL = 2 / 3  # share of the steps after which dead latents stay dead
WIDE_START = 8  # times as many active codes as asked for, when their number has to fall


@dataclass(frozen=True)
class Settings:
    """How to train; the names and meanings are those of the estimators."""

    objective: str
    alpha: float
    learn_dictionary: bool
    learn_offset: bool
    max_iter: int
    batch_size: int
    optimizer: str
    learning_rate: float
    schedule: str
    warmup: float
    sparsity_warmup: float
    max_grad_norm: float | None
    prefix_sizes: tuple[int, ...] | None
    tol: float
    n_iter_no_change: int
    shuffle: bool
    aux_alpha: float

    @property
    def moves_dictionary(self) -> bool:
        return self.learn_dictionary and self.objective != "codes"

    @property
    def moves_steps(self) -> bool:
        """Whether the dictionary moves that an unrolled encoder's steps have weights for."""
        return self.moves_dictionary or self.objective == "targets"


@dataclass
class Epoch:
    """What one pass over the rows has seen, means over them.

    Attributes
    ----------
    loss, energy : float
        Energy is ``½‖x − x̂‖²``, or that of the codes.
    l0 : float
        Active codes of a row.
    n_steps : int
    n_dead : int
        Latents that are dead at its end.
    seconds : float
    """

    loss: float
    energy: float
    l0: float
    n_steps: int
    n_dead: int
    seconds: float


@dataclass
class History:
    """What a run has seen.

    Attributes
    ----------
    optimizer : Optimizer
    frequency : Tensor of shape (n_components,)
        Share of the rows of the last epoch on which each latent fired.
    epochs : list of Epoch
    """

    optimizer: Optimizer
    frequency: Tensor
    epochs: list[Epoch] = field(default_factory=list)


class Diverged(FloatingPointError):
    """The loss is not finite; ``history`` says what came before, and the model is as it was then.

    Parameters
    ----------
    message : str
    history : History
    """

    def __init__(self, message: str, history: History) -> None:
        super().__init__(message)
        self.history = history


def trained(model: SparseAutoencoder, settings: Settings) -> list[Tensor]:
    """Parameters that the settings let move."""
    params: list[Tensor] = [parameter for parameter, _ in model.encoder_parameters()]
    if settings.objective != "codes":
        params += [model.dictionary] * settings.learn_dictionary
        params += [model.offset] * settings.learn_offset
    return params


class Run:
    """A run over some rows, that can be put down at any step and taken up again.

    Parameters
    ----------
    model : SparseAutoencoder
    sources : tuple of Rows
    settings : Settings
    generator : torch.Generator
    optimizer : Optimizer
    dead : DeadLatents

    Attributes
    ----------
    iteration : int
        Epochs that are complete.
    end : int
        Epochs that there will be.
    history : History
    """

    def __init__(
        self,
        model: SparseAutoencoder,
        sources: tuple[Rows, ...],
        settings: Settings,
        generator: torch.Generator,
        optimizer: Optimizer,
        dead: DeadLatents,
    ) -> None:
        self.model, self.sources, self.settings = model, sources, settings
        self.generator, self.optimizer, self.dead = generator, optimizer, dead
        self.n_rows = len(sources[0])
        self.work = Workspace(nested=settings.prefix_sizes is not None)
        self.iteration, self.end = 0, settings.max_iter
        self.best, self.waited = math.inf, 0
        self.seed, self.n_revivals, self.since_revival = generator.initial_seed(), 0, 0
        self.history = History(optimizer, torch.zeros_like(dead.silent_for, dtype=torch.float64))
        self._begin_epoch()

    def _begin_epoch(self) -> None:
        self.n_steps, self.seconds = 0, 0.0
        self.order = self.generator.get_state()  # the order of the rows follows from it
        self.totals = torch.zeros(2, dtype=torch.float64, device=self.dead.silent_for.device)
        self.fired = torch.zeros_like(self.history.frequency)

    def epoch(self, checkpoint: Checkpoint | None) -> None:
        """What is left of the present pass over the rows, and what follows it."""
        begin, before = time.perf_counter(), self.seconds
        settings, device = self.settings, self.totals.device
        per_epoch = -(-self.n_rows // settings.batch_size)
        self.generator.set_state(self.order)
        rows = epoch(
            self.sources, settings.batch_size, self.generator,
            shuffle=settings.shuffle, skip=self.n_steps,
        )  # fmt: skip
        for batch in rows:
            self.step(batch, (self.iteration + self.n_steps / per_epoch) / self.end)
            if self.n_steps % LOOK_EVERY[device.type] == 0 or self.n_steps == per_epoch:
                self._check()
            self.seconds = before + time.perf_counter() - begin
            if checkpoint is not None and checkpoint.due():
                checkpoint.save(*self.state())
        self._finish_epoch()

    def step(self, batch: tuple[Tensor, ...], progress: float) -> None:
        """One step, when a share ``progress`` of all steps is done."""
        step, n = self._gradients(batch, progress), len(batch[0])
        with torch.no_grad():
            self._move(step, progress)
            self.fired += step.counts
            self.dead.count(step.counts, n)
            self.totals += torch.stack([step.loss, step.energy]).double() * n
        self.n_steps += 1
        self.since_revival += n
        if self.since_revival >= self.dead.dead_after:
            self._revive(progress)

    def _revive(self, progress: float) -> None:
        """Start dead latents again, unless it is too late for them to find a place."""
        self.since_revival = 0
        if progress > LAST_REVIVAL:
            return
        self.n_revivals += 1
        # not the generator of the order of rows, of which a run that is taken up draws again
        chance = torch.Generator().manual_seed((self.seed + 7919 * self.n_revivals) % 2**63)
        self.dead.revive(
            self.model,
            self.sources,
            self.optimizer,
            chance,
            learn_dictionary=self.settings.moves_dictionary,
            known_codes=self.settings.objective == "codes",
            alpha=self.settings.alpha,
        )

    def _gradients(self, batch: tuple[Tensor, ...], progress: float) -> Step:
        model, settings = self.model, self.settings
        alpha = settings.alpha
        if settings.sparsity_warmup:
            share = min(1.0, progress / settings.sparsity_warmup)
            alpha *= share
            self._set_k(share)
        true, target = (
            batch[1] if settings.objective == name else None for name in ("codes", "targets")
        )
        if true is not None or not model.is_factored:
            return whole(model, batch[0], true, alpha, self.optimizer.params, target=target)
        sizes, ends = settings.prefix_sizes, None
        if sizes is not None:
            ends = torch.tensor(sizes, device=batch[0].device)
        return factored(
            model, batch[0], alpha, self.dead, settings.aux_alpha, self.work, ends,
            guarded=settings.optimizer == "sign", target=target,
        )  # fmt: skip

    def _set_k(self, share: float) -> None:
        """The number of active codes falls to what was asked for."""
        activation = self.model.activation
        if isinstance(activation, TopK | BatchTopK):
            most = min(WIDE_START * activation.k, len(self.model.dictionary))
            activation.k_now = round(most + share * (activation.k - most))

    def _move(self, step: Step, progress: float) -> None:
        """Nothing moves when the loss is not finite, so that what there is stays finite."""
        settings, gradients = self.settings, step.gradients
        if settings.max_grad_norm is not None:
            clip_([gradients[p] for p in self.optimizer.params], settings.max_grad_norm)
        factor = rate(settings.schedule, progress, settings.warmup)
        bad = (~step.loss.isfinite()).float()
        self.optimizer.step(gradients, settings.learning_rate * factor, skip=bad)
        if settings.moves_dictionary:
            self._to_unit_length()

    def _to_unit_length(self) -> None:
        norms = self.model.dictionary.norm(dim=1, keepdim=True)
        self.model.dictionary.div_(norms.clamp(min=torch.finfo(norms.dtype).tiny))

    @torch.no_grad()
    def finish(self) -> None:
        """Leave in the model what training has come to."""
        self.optimizer.finish_()
        if self.settings.moves_dictionary:
            self._to_unit_length()
        if self.settings.moves_steps:
            self.model.refresh_()

    def _check(self) -> None:
        loss = self.totals[0].item()
        if math.isfinite(loss):
            return
        self.totals.zero_()
        self.history.epochs.append(self._seen())
        raise Diverged(
            f"The loss became {loss} by step {self.n_steps} of epoch {self.iteration + 1} with "
            f"learning_rate_init={self.settings.learning_rate}: lower learning_rate_init, set "
            "max_grad_norm, or look for rows of X that are far longer than the others. The "
            "attributes hold the last finite state.",
            self.history,
        )

    def _seen(self) -> Epoch:
        loss, energy = (self.totals / self.n_rows).tolist()
        self.history.frequency = self.fired / self.n_rows
        l0, n_dead = self.history.frequency.sum().item(), int(self.dead.mask.sum())
        return Epoch(loss, energy, l0, self.n_steps, n_dead, self.seconds)

    def _finish_epoch(self) -> None:
        settings = self.settings
        if settings.moves_steps:
            self.model.refresh_()
        seen = self._seen()
        self.history.epochs.append(seen)
        self.iteration += 1
        rising = self.iteration <= settings.sparsity_warmup * settings.max_iter
        better = seen.loss <= self.best - settings.tol * abs(self.best)
        self.waited = 0 if better or rising else self.waited + 1
        self.best = seen.loss if rising else min(self.best, seen.loss)
        if self.waited >= settings.n_iter_no_change:
            # what is left is the noise of the steps: let the rate fall, then stop
            falls = settings.schedule == "decay"
            self.end = min(self.end, self.iteration * 3 // 2) if falls else self.iteration
        if self.iteration < self.end:
            self._revive(self.iteration / self.end)
        self._begin_epoch()

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that the rest of the run depends on: tensors, and what JSON can hold."""
        moments = {
            f"{kind}.{i}": tensor
            for kind, slot in self.optimizer.slots.items()
            for i, tensor in enumerate(slot)
        }
        tensors = {
            **{f"model.{name}": tensor for name, tensor in self.model.state_dict().items()},
            **moments,
            "silent_for": self.dead.silent_for,
            "order": self.order,
            "totals": self.totals,
            "fired": self.fired,
            "frequency": self.history.frequency,
        }
        numbers = {name: getattr(self, name) for name in _NUMBERS}
        numbers["epochs"] = [asdict(seen) for seen in self.history.epochs]
        numbers["steps_dense"] = self.work.steps_dense
        numbers["dead_steps"] = self.dead.steps
        return tensors, numbers

    @torch.no_grad()
    def restore(self, state: tuple[dict[str, Tensor], dict[str, Any]] | None) -> None:
        """Go on from what :meth:`state` gave, if there is anything."""
        if state is None:
            return
        tensors, numbers = state
        for name, tensor in self.state()[0].items():
            if name not in ("order", "model.activation.threshold", "model.activation.n_seen"):
                tensor.copy_(tensors[name])
        activation = self.model.activation
        if isinstance(activation, BatchTopK):
            activation.threshold = tensors["model.activation.threshold"]
            activation.n_seen = tensors["model.activation.n_seen"]
        self.order = tensors["order"].cpu()
        for name in _NUMBERS:
            setattr(self, name, numbers[name])
        self.history.epochs = [Epoch(**seen) for seen in numbers["epochs"]]
        self.work.steps_dense = numbers["steps_dense"]
        self.dead.steps = numbers["dead_steps"]
        self.generator.set_state(self.order)


_NUMBERS = (
    "iteration", "end", "best", "waited", "n_steps", "seconds",
    "seed", "n_revivals", "since_revival",
)  # fmt: skip
