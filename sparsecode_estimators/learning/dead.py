"""Latents that no row makes fire: counting them and bringing them back."""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple

import torch
from torch import Tensor

from .atoms import disturbed, unit
from .batches import Rows, samples
from .encoders import SparseAutoencoder
from .optimizers import Optimizer

# steps between two questions to a device, which has to finish its work for an answer
LOOK_EVERY = defaultdict(lambda: 100, cpu=1)
# Rows by which dead latents find a place: for each weight of a latent, least, most. A regression on
# many gives them codes so small that they never are among the largest, one on fewer than
# there are weights has no limits. All rows if there are hardly more; most of them for
# what sees a hidden layer, whose regression fits better.
ROWS_FOR_WEIGHT, LEAST_ROWS, MOST_ROWS, FEW_ROWS = 4, 512, 8192, 1024
KNOWN_ROWS = 8192  # the same, by known codes
HALVINGS = 11  # at most, of codes that make rows worse


class Auxiliary(NamedTuple):
    """Gradients of the auxiliary loss.

    Attributes
    ----------
    latents : Tensor of shape (n_dead,), int64
    by_atoms : Tensor of shape (n_dead, n_features)
    by_pre : Tensor of shape (n, n_dead)
    """

    latents: Tensor
    by_atoms: Tensor
    by_pre: Tensor


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
        self.steps = 0
        self._latents: Tensor | None = None

    @property
    def mask(self) -> Tensor:
        """Which latents are dead."""
        return self.silent_for >= self.dead_after

    def count(self, active: Tensor, n_rows: int) -> None:
        """Take note of how often each latent fired among ``n_rows`` rows."""
        self.silent_for = torch.where(active > 0, 0, self.silent_for + n_rows)
        self.steps += 1

    def look(self) -> None:
        """Others are dead now."""
        self._latents = None

    def _now(self) -> Tensor:
        """Which latents are dead, shape (n_dead,); asked now and then, for a device waits."""
        if self._latents is None or self.steps % (LOOK_EVERY[self.silent_for.device.type]) == 0:
            self._latents = torch.nonzero(self.mask).squeeze(1)
        return self._latents

    def auxiliary(
        self, model: SparseAutoencoder, pre: Tensor, error: Tensor, weight: float
    ) -> Auxiliary | None:
        r"""``½‖e − ê‖²``, mean over rows: dead latents explain what is left over.

        Gao et al. (2024), A.2: e = x − x̂ is the residual, held fixed, and ê its
        reconstruction from the ``k_aux`` largest pre-activations of dead latents.

        Parameters
        ----------
        model : SparseAutoencoder
        pre : Tensor of shape (n, n_components)
            Without the bias.
        error : Tensor of shape (n, n_features)
            −e.
        weight : float
            Of this loss; None is returned for 0, and if no latent is dead.
        """
        latents = self._now() if weight else None
        if latents is None or not len(latents):
            return None
        codes = (pre[:, latents] + model.biases[-1][latents]).relu()
        if len(latents) > self.k_aux:
            values, places = codes.topk(self.k_aux, dim=1)
            codes = torch.zeros_like(codes).scatter_(1, places, values)
        atoms = model.dictionary[latents]
        left = weight / len(pre) * torch.addmm(error, codes, atoms)
        return Auxiliary(latents, codes.T @ left, (left @ atoms.T) * (codes > 0))

    @torch.no_grad()
    def revive(
        self,
        model: SparseAutoencoder,
        sources: tuple[Rows, ...],
        optimizer: Optimizer,
        generator: torch.Generator,
        *,
        learn_dictionary: bool,
        known_codes: bool,
        alpha: float,
    ) -> None:
        """Start dead latents again where they are needed.

        Bricken et al. (2023), "Towards monosemanticity", resampling: rows are drawn with
        probability proportional to their squared residual, others each time, and their
        residuals become the atoms of the dead latents. (A dictionary that is kept fixed keeps
        its atoms.)
        The encoder is fitted to the codes that the residuals ask of these atoms, or to
        the known codes, so that the latents fire where they should; how is the module's
        ``restart_``. With a penalty the codes are less by alpha, and scaled together, so that
        what all these latents reconstruct is no longer than the residual; k-sparse ones are
        halved where they would make these rows worse. Moments of the optimiser start again at zero.
        """
        dead = torch.nonzero(self.mask).squeeze(1)
        if not len(dead):
            return
        if known_codes:
            fit_latents(model, sources, dead, alpha)
        else:
            x, *targets = _rows_to_explain(sources, model, generator)
            target = targets[0] if targets else x
            residual = target - _reconstructed(model, x)
            if not residual.isfinite().all():
                return  # nothing can be learned from it, and the next loss is not finite either
            before = _energy(residual)
            if learn_dictionary:
                _draw_atoms(model.dictionary, dead, residual, generator)
            wanted = model.activation.worth(residual @ model.dictionary[dead].T, alpha)
            if model.activation.penalised:  # a k-sparse row takes few of them, others take all
                wanted *= _shared_length(wanted @ model.dictionary[dead], residual)
            model.restart_(dead, x, wanted, alpha)
            if model.is_factored and not model.activation.penalised:
                _shorten(model, dead, x, target, before)
        own: list[Tensor] = [p for p, has_rows in model.encoder_parameters() if has_rows]
        optimizer.forget([*own, model.dictionary], dead)
        self.silent_for[dead] = 0


def _draw_atoms(
    dictionary: Tensor, dead: Tensor, residual: Tensor, generator: torch.Generator
) -> None:
    weight = residual.double().square().sum(1).cpu()
    if weight.sum() == 0:
        return
    # once each while they last: equal atoms have no unique codes
    again = len(dead) > int((weight > 0).sum())
    drawn = torch.multinomial(weight, len(dead), replacement=again, generator=generator)
    dictionary[dead] = disturbed(unit(residual[drawn.to(residual.device)]), generator)


def _shorten(
    model: SparseAutoencoder, latents: Tensor, x: Tensor, target: Tensor, before: Tensor
) -> None:
    """Halve the codes of revived latents until the rows are reconstructed no worse than before.

    Many for a few rows are much alike. Where each row takes several, together they overshoot, by
    more after the next revival, and so on.
    """
    for _ in range(HALVINGS):
        if _energy(target - _reconstructed(model, x)) <= before:
            return
        for parameter in (model.weights[-1], model.biases[-1]):
            parameter[latents] *= 0.5


def _energy(residual: Tensor) -> Tensor:
    return residual.double().square().sum()


def _reconstructed(model: SparseAutoencoder, x: Tensor) -> Tensor:
    """Rows as a step of training would see them."""
    if not model.is_factored:
        return model(x)
    return model.decode(model.activation.of_batch(model.pre_activations(x)))


def _shared_length(parts: Tensor, residual: Tensor) -> Tensor:
    """At most 1: what latents that explain the same residual have to be scaled by.

    Each explains it on its own, and a thousand of them would make it a thousand times as long.
    """
    size = parts.square().sum().clamp(min=torch.finfo(parts.dtype).tiny)
    return ((parts * residual).sum() / size).clamp(max=1)


def _rows_to_explain(
    sources: tuple[Rows, ...], model: SparseAutoencoder, generator: torch.Generator
) -> tuple[Tensor, ...]:
    few = len(sources[0]) <= FEW_ROWS
    phase = 0.0 if few else torch.rand((), generator=generator).item()
    limit = MOST_ROWS
    if not (model.is_factored and len(model.weights) > 1):
        n_weights = model.weights[-1].shape[1]
        limit = min(max(ROWS_FOR_WEIGHT * n_weights, LEAST_ROWS), MOST_ROWS)
    return samples(sources, FEW_ROWS if few else limit, phase)


def fit_latents(
    model: SparseAutoencoder, sources: tuple[Rows, ...], latents: Tensor, alpha: float
) -> None:
    """Start some latents from known codes."""
    part = slice(0, min(len(sources[0]), KNOWN_ROWS))
    x, codes = (source.read(part) for source in sources)
    model.restart_(latents, x, codes[:, latents], alpha)
