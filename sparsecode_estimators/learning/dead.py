"""Latents that no row makes fire: counting them and bringing them back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .batches import Rows, sample
from .encoders import SparseAutoencoder

if TYPE_CHECKING:
    from .loop import AdamState

_LOOK_EVERY = 100  # steps between two questions to the device whether any latent is dead
_REVIVAL_ROWS = 8192


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
        rows: Rows,
        optimizer: AdamState,
        generator: torch.Generator,
        params: list[Tensor],
    ) -> None:
        """Start dead latents again where the reconstruction is worst.

        Bricken et al. (2023), "Towards monosemanticity", resampling: rows are drawn
        with probability proportional to their squared residual, and their residuals become
        the atoms of the dead latents. (A dictionary that is kept fixed keeps its atoms.)
        The last layer is fitted to the codes that the residuals ask of these atoms, so that
        the latents fire where they are needed, whatever the layers before. Moments of the
        optimiser start again at zero.
        """
        dead = torch.nonzero(self.mask).squeeze(1)
        if not len(dead):
            return
        x = sample(rows, _REVIVAL_ROWS)
        residual = x - model(x)
        weight = residual.square().sum(1).double().cpu()
        if any(p is model.dictionary for p in params) and weight.sum() > 0:
            drawn = torch.multinomial(weight, len(dead), replacement=True, generator=generator)
            atoms = residual[drawn.to(x.device)]
            norms = atoms.norm(dim=1, keepdim=True)
            model.dictionary[dead] = torch.where(norms > 0, atoms / norms, model.dictionary[dead])
        wanted = (residual @ model.dictionary[dead].T).relu()
        weights, biases = model.weights[-1], model.biases[-1]
        weights[:, dead], biases[dead] = _ridge(model.hidden(x), wanted)
        for param, *moments in zip(params, optimizer.means, optimizer.squares, strict=True):
            for moment in moments:
                if param is weights:
                    moment[:, dead] = 0
                elif param is biases or param is model.dictionary:
                    moment[dead] = 0
        self.silent_for[dead] = 0


def _ridge(hidden: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Weights and biases of the affine map that comes closest to ``wanted``."""
    ones = hidden.new_ones(len(hidden), 1)
    inputs = torch.cat([hidden, ones], dim=1)
    gram = inputs.T @ inputs
    gram.diagonal().add_(1e-3 * gram.diagonal().mean() + torch.finfo(gram.dtype).tiny)
    solution = torch.linalg.solve(gram, inputs.T @ wanted)
    return solution[:-1], solution[-1]
