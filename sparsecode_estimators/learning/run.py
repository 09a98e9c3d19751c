"""One run of training: where it stands, what a step does, what is kept of it."""

from __future__ import annotations

import math
import time
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from ..kernels.adam import to_unit_length_
from .batches import Batch, Rows, sample
from .checkpoint import Checkpoint
from .codes import Workspace
from .dead import LOOK_EVERY, DeadLatents
from .distributed import Group
from .encoders import SparseAutoencoder
from .gradients import Step, factored, whole
from .optimizers import Optimizer, clip_, rate
from .records import Diverged, Epoch, History, Settings
from .reduction import Reduction, over_group
from .topk import BatchTopK, TopK

LAST_REVIVAL = 2 / 3  # share of the steps after which dead latents stay dead
SETTLING = 2**24  # codes on which the threshold of BatchTopK is set at the end
REMEMBERED = 1024  # rows that it remembers from chunk to chunk, where there is no end
WIDE_START = 8  # times as many active codes as asked for, when their number has to fall


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
    seed : int
        Of the order of the rows, and of revived latents. No other part of the run changes the
        order, so that runs of one seed can share their reading.
    optimizer : Optimizer
    dead : DeadLatents
    group : Group
        The processes that share each batch.

    Attributes
    ----------
    iteration : int
        Epochs that are complete.
    n_steps : int
        Steps of the present epoch.
    end : int
        Epochs that there will be.
    order : Tensor
        State of a generator, from which the order of the rows of the present epoch follows.
    history : History
    """

    def __init__(
        self,
        model: SparseAutoencoder,
        sources: tuple[Rows, ...],
        settings: Settings,
        seed: int,
        optimizer: Optimizer,
        dead: DeadLatents,
        group: Group,
    ) -> None:
        self.model, self.sources, self.settings = model, sources, settings
        self.optimizer, self.dead, self.group = optimizer, dead, group
        self.n_rows = len(sources[0])
        self.per_epoch = -(-self.n_rows // settings.batch_size)
        self.work = Workspace(
            nested=settings.prefix_sizes is not None, in_bfloat16=settings.in_bfloat16, group=group
        )
        self.reduction = Reduction(optimizer, len(model.dictionary), group)
        self.iteration, self.end = 0, settings.max_iter
        self.best, self.waited = math.inf, 0
        self.seed, self.n_revivals, self.since_revival = seed, 0, 0
        activation = model.activation
        self.settled: Tensor | None = None  # the threshold of the chunks before
        if settings.open_ended and isinstance(activation, BatchTopK) and activation.n_seen > 0:
            self.settled = activation.threshold
        self.history = History(optimizer, torch.zeros_like(dead.silent_for, dtype=torch.float64))
        # not the stream of the draws of the start
        self._begin_epoch(torch.Generator().manual_seed((seed - 1) % 2**63).get_state())

    def _begin_epoch(self, order: Tensor) -> None:
        self.n_steps, self.seconds, self.order = 0, 0.0, order
        self.totals = torch.zeros(2, dtype=torch.float64, device=self.dead.silent_for.device)
        self.fired = torch.zeros_like(self.history.frequency)

    def meet(self) -> None:
        """All processes of the group have the same, and train from now on."""
        self.reduction = over_group(self.optimizer, len(self.model.dictionary), self.group)
        self.work.gradients = self.reduction.found

    def begin(self) -> None:
        """What is left of the present pass over the rows begins."""
        self._begun = time.perf_counter() - self.seconds

    def take(self, batch: Batch, checkpoint: Checkpoint | None) -> None:
        """The next step of the pass, on rows that are not scaled, and what has to follow it."""
        rows = tuple(s.scaled(part) for s, part in zip(self.sources, batch.rows, strict=True))
        progress = (self.iteration + self.n_steps / self.per_epoch) / self.end
        self.step(batch._replace(rows=rows), progress)
        every = LOOK_EVERY[self.totals.device.type]
        if self.n_steps % every == 0 or self.n_steps == self.per_epoch:
            self._check()
        self.seconds = time.perf_counter() - self._begun
        if checkpoint is not None and checkpoint.due():
            checkpoint.save(*self.state())

    def step(self, batch: Batch, progress: float) -> None:
        """One step, when a share ``progress`` of all steps is done."""
        own, n = self._gradients(batch.rows, progress), batch.n
        step = self.reduction.mean(own, batch)
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
        # of its own, and not of the order of rows, which is the same for all runs of a seed; a
        # prime number apart, so that those of seeds that follow each other are others
        chance = torch.Generator().manual_seed((self.seed + 7919 * self.n_revivals) % 2**63)
        if not self.dead.mask.any():
            return
        if self.group.rank == 0:  # the others may see the same parameters
            self.dead.revive(
                self.model,
                self.sources,
                self.optimizer,
                chance,
                learn_dictionary=self.settings.moves_dictionary,
                known_codes=self.settings.objective == "codes",
                alpha=self.settings.alpha,
            )
        self.group.same_(self.state()[0].values())
        self.dead.look()

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
        settings, gradients, reduction = self.settings, step.gradients, self.reduction
        if settings.max_grad_norm is not None:
            moving = [gradients[p] for p in reduction.optimizer.params]
            clip_(moving, reduction.norm(gradients), settings.max_grad_norm)
        factor = rate(settings.schedule, progress, settings.warmup)
        bad = (~step.loss.isfinite()).float()
        unit = reduction.own(self.model.dictionary) if settings.moves_dictionary else None
        reduction.optimizer.step(gradients, settings.learning_rate * factor, skip=bad, unit=unit)
        reduction.moved()

    @torch.no_grad()
    def finish(self) -> None:
        """Leave in the model what training has come to."""
        self.reduction.end()
        self.optimizer.finish_()
        if self.settings.moves_dictionary:
            to_unit_length_(self.model.dictionary)
        if self.settings.moves_unrolled:
            self.model.refresh_()
        if isinstance(self.model.activation, BatchTopK):
            x = sample(self.sources[0], max(1, SETTLING // len(self.model.dictionary)))
            self.model.activation.settle_(self.model.pre_activations(x))
            if self.settled is not None:
                share = len(x) / (len(x) + REMEMBERED)
                self.model.activation.threshold.lerp_(self.settled, 1 - share)

    def _check(self) -> None:
        loss = self.totals[0].item()
        if math.isfinite(loss):
            return
        self.totals.fill_(math.nan)
        self.history.epochs.append(self._seen())
        raise Diverged(
            f"The loss became {loss} by step {self.n_steps} of epoch {self.iteration + 1} with "
            f"learning_rate_init={self.settings.learning_rate}: lower learning_rate_init, set "
            "max_grad_norm, or look for rows of X that are far longer than the others. The "
            "attributes hold what the last step with a finite loss led to.",
            self.history,
        )

    def _seen(self) -> Epoch:
        loss, energy = (self.totals / self.n_rows).tolist()
        if self.settings.objective == "codes":
            energy = math.nan
        self.history.frequency = self.fired / self.n_rows
        l0, n_dead = self.history.frequency.sum().item(), int(self.dead.mask.sum())
        return Epoch(loss, energy, l0, self.n_steps, n_dead, self.group.first(self.seconds))

    def end_epoch(self, order: Tensor) -> None:
        """Judge a pass over all rows; ``order`` is that of the next one."""
        settings = self.settings
        if settings.moves_unrolled:
            self.model.refresh_()
        seen = self._seen()
        self.history.epochs.append(seen)
        self.iteration += 1
        rising = self.iteration <= settings.sparsity_warmup * settings.max_iter
        first = self.best == math.inf
        better = first or seen.loss <= self.best - settings.tol * abs(self.best)
        self.waited = 0 if better or rising else self.waited + 1
        self.best = seen.loss if rising else min(self.best, seen.loss)
        if self.waited >= settings.n_iter_no_change:
            # what is left is the noise of the steps: let the rate fall, then stop
            falls = settings.schedule == "decay"
            self.end = min(self.end, self.iteration * 3 // 2) if falls else self.iteration
        if self.iteration < self.end:
            self._revive(self.iteration / self.end)
        self._begin_epoch(order)

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
    def restore(self, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
        """Go on from what :meth:`state` gave."""
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


_NUMBERS = (
    "iteration", "end", "best", "waited", "n_steps", "seconds",
    "seed", "n_revivals", "since_revival",
)  # fmt: skip
