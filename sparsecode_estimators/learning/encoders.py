"""The modules that are trained: encoder, activation, dictionary and offset."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from ..kernels import sparse
from ..kernels.sparse import Places
from .activation import Activation, Screen
from .codes import Sparse, Workspace

LENGTH_ROWS, LENGTH_BATCH = 1024, 128  # by which the first reconstructions get their length
LENGTH_ROUNDS, LENGTH_WITHIN = 6, 0.1  # of the search for it, and what it may be wrong by


class Inputs(NamedTuple):
    """What an encoder starts from whose rows are not what is reconstructed.

    Attributes
    ----------
    offset : Tensor of shape (n_inputs,)
    x : Tensor of shape (n, n_inputs)
        Some rows.
    wanted : Tensor of shape (n, n_components)
        What the atoms ask of the latents, for these rows.
    """

    offset: Tensor
    x: Tensor
    wanted: Tensor


class SparseAutoencoder(nn.Module):
    r"""Codes :math:`s = \sigma(\mathrm{MLP}(x - b))`, reconstruction :math:`\hat x = sD + b`.

    Without hidden layers this is the usual sparse autoencoder. Hidden layers are
    followed by a ReLU, so the whole map is homogeneous: multiplying x, b and all
    biases by a number multiplies the codes by it (see :meth:`rescale_`).

    Parameters
    ----------
    weights : sequence of Tensor of shape (n_out, n_in)
        From n_features through the hidden layers to n_components. What belongs to one latent
        is one row, next to each other in memory.
    biases : sequence of Tensor of shape (n_out,)
    dictionary : Tensor of shape (n_components, n_features)
    offset : Tensor of shape (n_features,)
    activation : Activation
    input_offset : Tensor of shape (n_inputs,) or None
        What the encoder takes off its rows where these are not what is reconstructed, but come
        from another space; then it stays as it is, for biases can learn the same. None: the
        offset.

    Attributes
    ----------
    is_factored : bool
        Whether pre-activations are a linear map of :meth:`hidden`.
    """

    is_factored = True

    def __init__(
        self,
        weights: Sequence[Tensor],
        biases: Sequence[Tensor],
        dictionary: Tensor,
        offset: Tensor,
        activation: Activation,
        input_offset: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.weights = nn.ParameterList(nn.Parameter(w) for w in weights)
        self.biases = nn.ParameterList(nn.Parameter(b) for b in biases)
        self.dictionary = nn.Parameter(dictionary)
        self.offset = nn.Parameter(offset)
        self.activation = activation
        self.input_offset: Tensor | None
        self.register_buffer("input_offset", input_offset)

    def centred(self, x: Tensor) -> Tensor:
        """Rows as the first layer of the encoder gets them."""
        return x - (self.offset if self.input_offset is None else self.input_offset)

    def hidden(self, x: Tensor) -> Tensor:
        """What the last layer of the encoder sees, shape (n, n_in)."""
        hidden = self.centred(x)
        # lists, for a slice of a ParameterList is a new module
        for weight, bias in zip([*self.weights][:-1], [*self.biases][:-1], strict=True):
            hidden = linear(hidden, weight, bias).relu()
        return hidden

    def pre_activations(self, x: Tensor) -> Tensor:
        """Values before the activation, shape (n, n_components)."""
        return linear(self.hidden(x), self.weights[-1], self.biases[-1])

    def encode(self, x: Tensor) -> Tensor:
        """Codes, shape (n, n_components)."""
        return self.activation(self.pre_activations(x))

    @torch.no_grad()
    def screen(self) -> Screen | None:
        """What spares :meth:`encode_sparse` most of its product, as long as weights stay."""
        if not self.is_factored:
            return None
        return self.activation.screen(self.weights[-1].detach(), self.biases[-1].detach())

    @torch.no_grad()
    def encode_sparse(
        self, x: Tensor, work: Workspace, screen: Screen | None = None
    ) -> tuple[Places, Tensor]:
        """Where codes may be non-zero and what they are there; never (n, n_components) codes.

        Parameters
        ----------
        x : Tensor of shape (n, n_features)
        work : Workspace
            Has room for pre-activations, for one batch after the other.
        screen : callable or None
            Of :meth:`screen`.
        """
        if not self.is_factored:
            codes = self.encode(x)
            places = sparse.above(codes.abs(), codes.new_zeros(codes.shape[1]))
            return places, codes[places.rows, places.atoms]
        if screen is not None:
            places, v = screen(self.hidden(x))
            return places, self.activation.codes(v, Sparse(places, len(self.dictionary)))
        bias = self.biases[-1]
        pre = work.product(self.hidden(x), self.weights[-1])
        at = self.activation.active(pre, bias)
        return at.places, self.activation.codes(at.gather(pre) + at.spread(bias), at)

    def decode(self, codes: Tensor) -> Tensor:
        """Reconstruction, shape (n, n_features)."""
        return torch.addmm(self.offset, codes, self.dictionary)

    def forward(self, x: Tensor) -> Tensor:
        """Reconstruction of x, or of what belongs to it, shape (n, n_features)."""
        return self.decode(self.encode(x))

    @torch.no_grad()
    def rescale_(self, factor: float, of_inputs: float | None = None) -> None:
        """Go over to reconstructions, and codes, that are ``factor`` times as long.

        Inputs from another space become ``of_inputs`` times as long; without these they are
        what is reconstructed.
        """
        of_inputs = factor if of_inputs is None else of_inputs
        self.offset.mul_(factor)
        if self.input_offset is not None:
            self.input_offset.mul_(of_inputs)
        self._rescale_encoder_(factor, of_inputs)
        self.activation.rescale_(factor)

    def _rescale_encoder_(self, factor: float, of_inputs: float) -> None:
        *below, last = self.biases
        for bias in below:
            bias.mul_(of_inputs)
        last.mul_(factor)
        if factor != of_inputs:
            self.weights[-1].mul_(factor / of_inputs)

    def encoder_parameters(self) -> list[tuple[nn.Parameter, bool]]:
        """What training moves besides dictionary and offset.

        And whether each latent has a row of its own in it.
        """
        last = len(self.weights) - 1
        layers = [(p, i == last) for ps in (self.weights, self.biases) for i, p in enumerate(ps)]
        return [*layers, *((p, True) for p in self.activation.per_latent)]

    def refresh_(self) -> None:
        """Bring weights that are computed from the dictionary up to date; here none are."""

    @torch.no_grad()
    def restart_(self, latents: Tensor, x: Tensor, wanted: Tensor, alpha: float) -> None:
        """Start some latents again: the last layer becomes a ridge regression.

        Parameters
        ----------
        latents : Tensor of shape (n_latents,), int64
        x : Tensor of shape (n, n_features)
        wanted : Tensor of shape (n, n_latents)
            Codes that these latents should have for x.
        alpha : float
        """
        hidden = self.hidden(x)
        inputs = torch.cat([hidden, hidden.new_ones(len(hidden), 1)], dim=1)
        gram = inputs.T @ inputs
        gram.diagonal().add_(1e-3 * gram.diagonal().mean() + torch.finfo(gram.dtype).tiny)
        solution = torch.linalg.solve(gram, inputs.T @ wanted)
        self.weights[-1][latents], self.biases[-1][latents] = solution[:-1].T, solution[-1]
        self.activation.restart_(latents, alpha)


def initial_layers(
    directions: Tensor, hidden_layer_sizes: Sequence[int], generator: torch.Generator
) -> tuple[list[Tensor], list[Tensor]]:
    """Weights and biases before training.

    Without hidden layers the encoder starts tied to one direction for each latent, mostly those
    of the dictionary, ``W = Dᵀ``, with biases of zero. With them all weights and biases start
    uniform on ``±1/√n_in`` (LeCun et al. 1998), as the paper's do; larger weights overfit
    small data.

    Parameters
    ----------
    directions : Tensor of shape (n_components, n_inputs)
    hidden_layer_sizes : sequence of int
    generator : torch.Generator
        On the CPU, so that the start does not depend on the device.
    """
    n_components, n_inputs = directions.shape
    sizes = [n_inputs, *hidden_layer_sizes, n_components]
    if not hidden_layer_sizes:
        return [directions.clone()], [directions.new_zeros(n_components)]
    weights, biases = [], []
    for n_in, n_out in itertools.pairwise(sizes):
        bound = 1 / math.sqrt(n_in)
        weights.append(_uniform((n_out, n_in), bound, generator).to(directions))
        biases.append(_uniform((n_out,), bound, generator).to(directions))
    return weights, biases


@torch.no_grad()
def fit_length_(model: SparseAutoencoder, x: Tensor) -> None:
    r"""Scale an encoder that starts tied, so that reconstructions have the right length.

    Of many atoms that point alike each code explains what the others do, too, and
    :math:`\hat x = sD + b` is many times too long: training begins by taking that back. The factor
    c of the weights is right if no other length of reconstructions is nearer to the rows,
    :math:`\sum (x-b)\cdot sD = \sum\|sD\|^2`. Most codes are proportional to the weights, and
    the quotient of these sums is c; with thresholds of their own fewer latents fire as c falls, so
    that c lies between it and one, and is found by bisection of its logarithm. Encoders with
    hidden layers, and unrolled ones, stay as they are.

    Parameters
    ----------
    model : SparseAutoencoder
        With biases of zero.
    x : Tensor of shape (n, n_features)
        Some rows.
    """
    if not model.is_factored or len(model.weights) > 1:
        return
    quotient = _length_quotient(model, x)
    if not 0 < quotient < math.inf:
        return
    weight, change = model.weights[0], math.log(quotient)
    weight.mul_(quotient)
    if model.activation.proportional:
        return
    low, high = sorted((change, 0.0))
    for _ in range(LENGTH_ROUNDS):
        quotient = _length_quotient(model, x)
        if abs(quotient - 1) < LENGTH_WITHIN:
            break
        low, high = (change, high) if quotient > 1 else (low, change)
        change, before = (low + high) / 2, change
        weight.mul_(math.exp(change - before))


def _length_quotient(model: SparseAutoencoder, x: Tensor) -> float:
    """By what reconstructions would have to be multiplied; infinite if no latent fires."""
    agreement = size = 0.0
    for rows in x.split(LENGTH_BATCH):
        parts = model.activation.of_batch(model.pre_activations(rows)) @ model.dictionary
        agreement += (parts * (rows - model.offset)).sum(dtype=torch.float64).item()
        size += parts.square().sum(dtype=torch.float64).item()
    return agreement / size if size else math.inf


def _uniform(shape: tuple[int, ...], bound: float, generator: torch.Generator) -> Tensor:
    return (2 * torch.rand(shape, generator=generator) - 1) * bound
