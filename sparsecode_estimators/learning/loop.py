"""The only training loop: mini-batches, an optimiser, unit atoms, dead latents."""

from __future__ import annotations

from typing import Protocol

import torch

from .batches import Rows
from .checkpoint import Checkpoint
from .dead import DeadLatents, fit_latents
from .encoders import SparseAutoencoder
from .optimizers import OPTIMIZERS, Optimizer
from .run import History, Run, Settings, trained


class Watch(Protocol):
    """Hears of the epochs of a run."""

    def begin(self) -> None:
        """An epoch begins."""

    def end(self, iteration: int, history: History) -> bool:
        """An epoch has ended. Whether it is to be the last."""
        ...


def train(
    model: SparseAutoencoder,
    sources: tuple[Rows, ...],
    settings: Settings,
    *,
    generator: torch.Generator,
    optimizer: Optimizer | None,
    dead: DeadLatents,
    checkpoint: Checkpoint | None = None,
    watch: Watch | None = None,
) -> History:
    """Train ``model`` in place.

    Parameters
    ----------
    model : SparseAutoencoder
    sources : tuple of Rows
        The rows, and with ``objective="codes"`` their codes, or with "targets" what they predict.
    settings : Settings
    generator : torch.Generator
        Order of the rows and revived latents.
    optimizer : Optimizer or None
        Goes on from what it remembers; None: begins.
    dead : DeadLatents
        Counts since when latents are silent; goes on from where it stands.
    checkpoint : Checkpoint or None
        Where the run is kept, and gone on with if it was interrupted.
    watch : Watch or None
        Hears of every epoch, and may end the run.

    Raises
    ------
    Diverged
        When the loss stops being finite.
    """
    if optimizer is None:
        optimizer = OPTIMIZERS[settings.optimizer].fresh(trained(model, settings))
        if settings.objective == "codes":
            every = torch.arange(len(model.dictionary), device=model.dictionary.device)
            fit_latents(model, sources, every, settings.alpha)
    run = Run(model, sources, settings, generator, optimizer, dead)
    if checkpoint is not None:
        run.restore(checkpoint.load(model.dictionary.device))
    try:
        while run.iteration < run.end:
            if watch is not None:
                watch.begin()
            run.epoch(checkpoint)
            if watch is not None and watch.end(run.iteration - 1, run.history):
                run.end = run.iteration
        if checkpoint is not None:
            checkpoint.save(*run.state())
    finally:
        run.finish()
    return run.history
