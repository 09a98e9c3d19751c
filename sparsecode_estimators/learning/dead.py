"""Latents that no row makes fire: counting them and bringing them back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .atoms import disturbed, unit
from .batches import Rows, sample
from .encoders import SparseAutoencoder

if TYPE_CHECKING:
    from .loop import AdamState

_LOOK_EVERY = 100  # steps between two questions to the device whether any latent is dead
REVIVAL_ROWS = 8192


class DeadLatents:
    """Counts since how many rows each latent has been silent.

    Parameters
    ----------
    silent_for : Tensor of shape (n_components,), int64
    dead_after : int
        A latent is dead when silent for at least this many rows.
    k_aux : int
        Dead latents that a row may use in the auxiliary loss.
    """

    def __init__(self, silent_for: Tensor, dead_after: int, k_aux: int) -> None:
        self.silent_for = silent_for
        self.dead_after = dead_after
        self.k_aux = k_aux
        self._steps = 0
        self._any = False

    @property
    def mask(self) -> Tensor:
        """Which latents are dead."""
        return self.silent_for >= self.dead_after

    def count(self, active: Tensor, n_rows: int) -> None:
        """Take note of how often each latent fired among ``n_rows`` rows."""
        self.silent_for = torch.where(active > 0, 0, self.silent_for + n_rows)
        if self._steps % _LOOK_EVERY == 0:
            self._any = bool(self.mask.any())
        self._steps += 1

    def auxiliary_loss(
        self, model: SparseAutoencoder, x: Tensor, pre: Tensor, codes: Tensor
    ) -> Tensor | float:
        r"""``½‖e − ê‖²``, mean over rows: dead latents explain what is left over.

        Gao et al. (2024), A.2: e = x − x̂ is the residual and ê its reconstruction
        from the ``k_aux`` largest pre-activations of dead latents.
        """
        if not self._any:
            return 0.0
        residual = (x - model.decode(codes)).detach()
        values, indices = pre.masked_fill(~self.mask, -torch.inf).topk(self.k_aux, dim=1)
        # fewer than k_aux dead latents leave -inf behind, which relu turns to zero
        dead_codes = torch.zeros_like(pre).scatter(1, indices, values.relu())
        return 0.5 * (residual - dead_codes @ model.dictionary).square().sum(1).mean()

    @torch.no_grad()
    def revive(
        self,
        model: SparseAutoencoder,
        sources: tuple[Rows, ...],
        optimizer: AdamState,
        generator: torch.Generator,
        *,
        learn_dictionary: bool,
        alpha: float,
    ) -> None:
        """Start dead latents again where they are needed.

        Bricken et al. (2023), "Towards monosemanticity", resampling: rows are drawn with
        probability proportional to their squared residual, and their residuals become
        the atoms of the dead latents. (A dictionary that is kept fixed keeps its atoms.)
        The encoder is fitted to the codes that the residuals ask of these atoms, or to
        the known codes, so that the latents fire where they should; how is the module's
        ``restart_``. Moments of the optimiser start again at zero.
        """
        dead = torch.nonzero(self.mask).squeeze(1)
        if not len(dead):
            return
        if len(sources) > 1:
            fit_latents(model, sources, dead, alpha)
        else:
            x = sample(sources[0], REVIVAL_ROWS)
            residual = x - model(x)
            if learn_dictionary:
                _draw_atoms(model.dictionary, dead, residual, generator)
            wanted = (residual @ model.dictionary[dead].T).relu()
            model.restart_(dead, x, wanted, alpha)
        axes = [axis for _, axis in model.encoder_parameters()]
        optimizer.forget([*axes, 0] if learn_dictionary else axes, dead)
        self.silent_for[dead] = 0


def _draw_atoms(
    dictionary: Tensor, dead: Tensor, residual: Tensor, generator: torch.Generator
) -> None:
    weight = residual.square().sum(1).double().cpu()
    if weight.sum() == 0:
        return
    # once each while they last: equal atoms have no unique codes
    again = len(dead) > int((weight > 0).sum())
    drawn = torch.multinomial(weight, len(dead), replacement=again, generator=generator)
    dictionary[dead] = disturbed(unit(residual[drawn.to(residual.device)]), generator)


def fit_latents(
    model: SparseAutoencoder, sources: tuple[Rows, ...], latents: Tensor, alpha: float
) -> None:
    """Start some latents from known codes."""
    part = slice(0, min(len(sources[0]), REVIVAL_ROWS))
    x, codes = (source.read(part) for source in sources)
    model.restart_(latents, x, codes[:, latents], alpha)
