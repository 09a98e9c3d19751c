"""The only training loop: mini-batches, an optimiser, unit atoms, dead latents."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Protocol

import torch

from .batches import Batch, Rows, batches
from .checkpoint import Checkpoint
from .dead import DeadLatents, fit_latents
from .distributed import Group
from .encoders import SparseAutoencoder
from .optimizers import OPTIMIZERS, Optimizer
from .records import Diverged, History, Settings
from .run import Run, trained


class Watch(Protocol):
    """Hears of the epochs of a run."""

    def begin(self) -> None:
        """An epoch begins."""

    def end(self, iteration: int, history: History) -> bool:
        """An epoch has ended. Whether it is to be the last."""
        ...

    def close(self) -> None:
        """The model is trained, and its estimator has the attributes."""


@dataclass
class Training:
    """A model in training.

    Attributes
    ----------
    run : Run
    checkpoint : Checkpoint or None
        Where the run is kept, and gone on with if it was interrupted.
    watch : Watch or None
        Hears of every epoch, and may end the run.
    diverged : Diverged or None
        Why it ended before its time.
    """

    run: Run
    checkpoint: Checkpoint | None = None
    watch: Watch | None = None
    diverged: Diverged | None = None

    @property
    def is_over(self) -> bool:
        """Whether there is nothing left to do."""
        return self.diverged is not None or self.run.iteration >= self.run.end


def start(
    model: SparseAutoencoder,
    sources: tuple[Rows, ...],
    settings: Settings,
    *,
    seed: int,
    optimizer: Optimizer | None,
    dead: DeadLatents,
    group: Group,
) -> Run:
    """A run that trains ``model`` in place.

    Parameters
    ----------
    model : SparseAutoencoder
    sources : tuple of Rows
        The rows, and with ``objective="codes"`` their codes, or with "targets" what they predict.
    settings : Settings
    seed : int
        Of the order of the rows and of revived latents.
    optimizer : Optimizer or None
        Goes on from what it remembers; None: begins.
    dead : DeadLatents
        Counts since when latents are silent; goes on from where it stands.
    group : Group
        The processes that share each batch.
    """
    if optimizer is None:
        optimizer = OPTIMIZERS[settings.optimizer].fresh(trained(model, settings))
        if settings.objective == "codes":
            every = torch.arange(len(model.dictionary), device=model.dictionary.device)
            fit_latents(model, sources, every, settings.alpha)
    return Run(model, sources, settings, seed, optimizer, dead, group)


def train(trainings: Sequence[Training], rows: tuple[Rows, ...], group: Group) -> None:
    """Train models in place, all on the same passes over the rows.

    Parameters
    ----------
    trainings : sequence of Training
        Of one batch size and one order of the rows; each ends in its own time. One whose loss
        stops being finite says so in ``diverged``.
    rows : tuple of Rows
        What their sources are scaled copies of.
    group : Group
    """
    for training in trainings:
        _begin(training, group)
    group.begin()
    try:
        while going := [t for t in trainings if not t.is_over]:
            behind = min(t.run.iteration for t in going)
            _pass([t for t in going if t.run.iteration == behind], rows, group)
        for training in trainings:
            if training.checkpoint is not None and training.diverged is None:
                training.checkpoint.save(*training.run.state())
    finally:
        for training in trainings:
            training.run.finish()
    for training in trainings:
        group.same_(training.run.model.state_dict().values())


def _begin(training: Training, group: Group) -> None:
    """Go on from what rank 0 has."""
    run, checkpoint = training.run, training.checkpoint
    kept = None if checkpoint is None else checkpoint.load(run.model.dictionary.device)
    if kept is not None or group.size > 1:
        run.restore(*group.state(*(kept or run.state())))
    run.meet()


def _pass(trainings: list[Training], rows: tuple[Rows, ...], group: Group) -> None:
    """One pass over the rows. Whoever has been further waits for the others."""
    run = trainings[0].run
    first = min(t.run.n_steps for t in trainings)
    generator = torch.Generator()
    generator.set_state(run.order)
    for training in trainings:
        training.run.begin()
        if training.watch is not None:
            training.watch.begin()
    read = batches(
        rows, run.settings.batch_size, generator, shuffle=run.settings.shuffle,
        skip=first, rank=group.rank, size=group.size,
    )  # fmt: skip
    with closing(read):  # a thread that reads ahead ends here
        for number, batch in enumerate(read, first):
            for training in trainings:
                if training.run.n_steps == number and training.diverged is None:
                    _take(training, batch)
            if all(t.diverged for t in trainings):
                return
    for training in trainings:
        if training.diverged is None:
            _end_epoch(training, generator, group)


def _take(training: Training, batch: Batch) -> None:
    try:
        training.run.take(batch, training.checkpoint)
    except Diverged as error:
        training.diverged = error


def _end_epoch(training: Training, generator: torch.Generator, group: Group) -> None:
    run, watch = training.run, training.watch
    run.end_epoch(generator.get_state())
    stop = watch is not None and watch.end(run.iteration - 1, run.history)
    if group.first(stop):
        run.end = run.iteration
