"""An encoder made of a few steps of a solver: how it starts, its forward pass."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..inference import Lasso
from .activation import Activation
from .atoms import directions, unit
from .encoders import SparseAutoencoder

_BLOCK = 1024  # atoms that are compared with all others at once


class UnrolledAutoencoder(SparseAutoencoder):
    r"""A few steps of a proximal method whose matrices are learned.

    From :math:`s_0 = 0` on, for each step t,

    .. math:: s_{t+1} = \sigma\bigl(s_t + \gamma_t\,((x - b - s_t D)\,W_t + c_t)\bigr),

    the coupled form of Chen et al. (2018), "Theoretical linear convergence of unfolded
    ISTA", of LISTA (Gregor & LeCun 2010). With one matrix W for all steps, computed from
    D, it is ALISTA (Liu et al. 2019), see :func:`analytic_weights`; with top-k in place of
    ReLU it is unfolded iterative hard thresholding (Xin et al. 2016). Step sizes are
    learned by their logarithm: they stay positive, and the learning rate is relative.
    Weights and biases stand inside the step, where they are of the size of an SAE's.

    Parameters
    ----------
    weights : sequence of Tensor of shape (n_components, n_features)
        Transposed :math:`W_t`. One for each step, or a single one, computed from the dictionary
        and not trained.
    biases : sequence of Tensor of shape (n_components,) or (1,)
        Thresholds with a minus, one tensor for each step.
    log_step_sizes : Tensor of shape (n_steps,)
    dictionary : Tensor of shape (n_components, n_features)
    offset : Tensor of shape (n_features,)
    activation : Activation
    analytic : bool
        Whether there is one matrix for all steps.
    input_offset : Tensor of shape (n_inputs,) or None
    input_dictionary : Tensor of shape (n_components, n_inputs) or None
        Where the rows are not what is reconstructed: what the steps take off their rows in
        place of b, and an encoder's own dictionary in place of D, which is trained too.
    """

    is_factored = False

    def __init__(
        self,
        weights: Sequence[Tensor],
        biases: Sequence[Tensor],
        log_step_sizes: Tensor,
        dictionary: Tensor,
        offset: Tensor,
        activation: Activation,
        *,
        analytic: bool,
        input_offset: Tensor | None = None,
        input_dictionary: Tensor | None = None,
    ) -> None:
        super().__init__(weights, biases, dictionary, offset, activation, input_offset)
        self.log_step_sizes = nn.Parameter(log_step_sizes)
        own = None if input_dictionary is None else nn.Parameter(input_dictionary)
        self.input_dictionary: nn.Parameter | None
        self.register_parameter("input_dictionary", own)
        self.analytic = analytic
        self.weights.requires_grad_(not analytic)

    @property
    def row_dictionary(self) -> Tensor:
        """The dictionary whose atoms the steps take off the rows."""
        return self.dictionary if self.input_dictionary is None else self.input_dictionary

    def hidden(self, x: Tensor) -> Tensor:
        """What the last step sees, ``x − b − sD``, shape (n, n_features)."""
        return self._until_last(x)[1]

    def pre_activations(self, x: Tensor) -> Tensor:
        """Values before the last activation, shape (n, n_components)."""
        codes, residual = self._until_last(x)
        step = self._step(len(self.biases) - 1, residual)
        return step if codes is None else codes + step

    def _until_last(self, x: Tensor) -> tuple[Tensor | None, Tensor]:
        """Codes before the last step, None for zeros, and what they leave of the rows."""
        codes, residual = None, self.centred(x)
        x = residual
        for t in range(len(self.biases) - 1):
            step = self._step(t, residual)
            codes = self.activation(step if codes is None else codes + step)
            residual = torch.addmm(x, codes, self.row_dictionary, alpha=-1)
        return codes, residual

    def _step(self, t: int, residual: Tensor) -> Tensor:
        """``γ_t (r W_t + c_t)``, shape (n, n_components)."""
        size = self.log_step_sizes[t].exp()
        weight = self.weights[0 if self.analytic else t]
        # scaled before the product, where the rows are short
        return torch.addmm(size * self.biases[t], size * residual, weight.T)

    def encoder_parameters(self) -> list[tuple[nn.Parameter, bool]]:
        """What training moves besides dictionary and offset.

        And whether each latent has a row of its own in it.
        """
        sizes: list[tuple[nn.Parameter, bool]] = [(self.log_step_sizes, False)]
        if self.input_dictionary is not None:
            sizes.append((self.input_dictionary, True))
        if self.analytic:
            return [*((b, False) for b in self.biases), *sizes]
        return [*((p, True) for ps in (self.weights, self.biases) for p in ps), *sizes]

    def _rescale_encoder_(self, factor: float, of_inputs: float) -> None:
        for bias in self.biases:
            bias.mul_(factor)
        if self.input_dictionary is not None:
            self.input_dictionary.mul_(of_inputs / factor)
            for weight in self.weights:
                weight.mul_(factor / of_inputs)

    @torch.no_grad()
    def refresh_(self) -> None:
        """Compute analytic weights from the dictionary as it is now."""
        if self.analytic:
            self.weights[0].copy_(analytic_weights(self.row_dictionary))

    @torch.no_grad()
    def restart_(self, latents: Tensor, x: Tensor, wanted: Tensor, alpha: float) -> None:
        """Tie some latents to their atoms again, in all steps, as at the start.

        Parameters
        ----------
        latents : Tensor of shape (n_latents,), int64
        x, wanted : Tensor
            Of an input dictionary, atoms become the directions of rows that want them. Else not
            used: a step in the direction of an atom makes it fire where it is needed.
        alpha : float
        """
        if self.input_dictionary is not None:
            self.input_dictionary[latents] = directions(self.centred(x), wanted)
        self.refresh_()
        if not self.analytic:
            weight, bias = _tied(self.row_dictionary, alpha if self.activation.penalised else 0.0)
            for w, b in zip(self.weights, self.biases, strict=True):
                w[latents], b[latents] = weight[latents], bias[latents]


def initial_steps(
    dictionary: Tensor, n_steps: int, alpha: float, *, analytic: bool
) -> tuple[list[Tensor], list[Tensor], Tensor]:
    r"""Weights, biases and logarithms of step sizes of an unrolled encoder before training.

    With learned weights this is ISTA on the dictionary: :math:`\gamma W = D^\top/L` and
    :math:`\gamma c = -\alpha/L`, L being the largest eigenvalue of DDᵀ. W has columns of
    about unit length whatever the length of the atoms, so that a learning rate means the
    same for it as for an SAE. Analytic weights start with the same thresholds and a step
    of one over the spectral radius of DW.

    Parameters
    ----------
    dictionary : Tensor of shape (n_components, n_features)
    n_steps : int
    alpha : float
        0 for activations that do not come from a penalty.
    analytic : bool

    Returns
    -------
    weights : list of Tensor of shape (n_components, n_features)
        Transposed.
    biases : list of Tensor of shape (n_components,), or (1,) with analytic weights
    log_step_sizes : Tensor of shape (n_steps,)
    """
    if analytic:
        weight, length = analytic_weights(dictionary), _length(dictionary)
        biases = [dictionary.new_full((1,), -alpha / length**2) for _ in range(n_steps)]
        return [weight], biases, _log_step_sizes(_radius(dictionary, weight), n_steps, dictionary)
    weight, bias = _tied(dictionary, alpha)
    lipschitz = Lasso(dictionary[:0], dictionary, positive=True).lipschitz
    sizes = _log_step_sizes(lipschitz / _length(dictionary), n_steps, dictionary)
    return [weight.clone() for _ in range(n_steps)], [bias.clone() for _ in range(n_steps)], sizes


def _log_step_sizes(curvature: float, n_steps: int, like: Tensor) -> Tensor:
    # a dictionary of zeros has no curvature, and any step will do
    return like.new_full((n_steps,), -math.log(curvature) if curvature > 0 else 0.0)


def _length(dictionary: Tensor) -> float:
    """Root mean square of the atoms' lengths; 1 for unit atoms and for no atoms at all."""
    return dictionary.double().square().sum(1).mean().sqrt().item() or 1.0


def _tied(dictionary: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """Weights of one step tied to the dictionary, and the biases of threshold alpha."""
    length = _length(dictionary)
    return dictionary / length, dictionary.new_full((len(dictionary),), -alpha / length)


def _radius(dictionary: Tensor, weight: Tensor) -> float:
    D, W = dictionary.double(), weight.double()
    product = W.T @ D if D.shape[0] > D.shape[1] else D @ W.T
    return torch.linalg.eigvals(product).abs().max().item()


def analytic_weights(dictionary: Tensor) -> Tensor:
    r"""Weights of ALISTA: as little coherent with the dictionary as they can be.

    Liu et al. (2019), "ALISTA: analytic weights are as good as learned weights in LISTA",
    eq. 16: each column minimises

    .. math:: \sum_i (w_j\cdot d_i)^2 \quad\text{subject to}\quad w_j\cdot d_j = 1,

    which has the solution :math:`w_j = G^+ d_j / (d_j\cdot G^+ d_j)` with
    :math:`G = D^\top D`. The sum is the paper's stand-in for the generalised coherence
    :math:`\max_{i\ne j} |w_j\cdot d_i|`; a column for which that is larger than with the
    atom itself is the atom, so W is never more coherent with D than D with itself.

    Parameters
    ----------
    dictionary : Tensor of shape (n_components, n_features)
        Of any length; coherence is that of the directions.

    Returns
    -------
    Tensor of shape (n_components, n_features)
        Transposed W. Zero where an atom is.
    """
    atoms = unit(dictionary.double())
    solved = atoms @ torch.linalg.pinv(atoms.T @ atoms, hermitian=True)
    solved = _through(solved, atoms)
    keep = _coherence(solved, atoms) <= _coherence(atoms, atoms)
    best = torch.where(keep[:, None], solved, atoms)
    return _through(best, dictionary.double()).to(dictionary.dtype)


def _through(weights: Tensor, atoms: Tensor) -> Tensor:
    """Rows of ``weights`` scaled to a product of one with their atoms."""
    product = (weights * atoms).sum(1, keepdim=True)
    return weights / torch.where(product > 0, product, 1.0)


def _coherence(weights: Tensor, atoms: Tensor) -> Tensor:
    """Largest product of each row of ``weights`` with the atoms of other rows."""
    largest = []
    for rows in torch.arange(len(atoms), device=atoms.device).split(_BLOCK):
        products = (weights[rows] @ atoms.T).abs().scatter_(1, rows[:, None], 0.0)
        largest.append(products.amax(1))
    return torch.cat(largest)
