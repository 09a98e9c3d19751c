r"""What an activation is: from pre-activations to sparse codes.

In training an activation first says at which places codes may be non-zero
(:meth:`Activation.places`), and everything after that is computed at these places alone:
codes, penalties, and by autograd their derivatives. ``forward`` is what inference does: it
is row-wise, so that no code depends on the other rows.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from ..kernels import sparse
from ..kernels.sparse import Places
from .codes import Codes, Sparse, Workspace

Screen = Callable[[Tensor], tuple[Places, Tensor]]


class Activation(nn.Module):
    """From pre-activations v to codes s.

    Attributes
    ----------
    penalised : bool
        Whether the loss has a penalty, which then depends on alpha.
    proportional : bool
        Whether codes are as many times as long as pre-activations are made.
    rectifies : bool
        Whether codes are max(v, 0) at their places, and nothing else is made of v, so that
        derivatives need no graph.
    """

    penalised = False
    proportional = True
    rectifies = False

    def places(self, pre: Tensor, bias: Tensor, work: Workspace) -> Codes:
        """Where codes of a batch may be non-zero, or their derivatives.

        ``pre`` does not hold the bias yet, which saves a pass over a large matrix.
        """
        return work.above(pre, -bias)

    def codes(self, v: Tensor, at: Codes) -> Tensor:
        """Codes, from pre-activations at some places."""
        return v.relu()

    def guess(self, v: Tensor) -> Tensor | None:
        """Codes that have to reconstruct the rows beside the true ones; None: there are none."""
        return None

    def worth(self, slope: Tensor, alpha: float) -> Tensor:
        """Codes that latents should have where a residual's products with their atoms are these.

        Where there is a penalty, less it: or latents would come back that it has just ended.
        """
        return (slope - alpha).relu() if self.penalised else slope.relu()

    def price(self, alpha: float) -> float:
        """What a unit of each code costs."""
        return 0.0

    def penalty(self, v: Tensor, codes: Tensor, at: Codes, alpha: float) -> Tensor | None:
        """What all codes of the batch cost beyond their price; None: nothing."""
        return None

    def forward(self, pre: Tensor) -> Tensor:
        """Codes of rows, shape (n, n_components)."""
        return pre.relu()

    def of_batch(self, pre: Tensor) -> Tensor:
        """Codes of rows that are a batch of training."""
        return self(pre)

    def active(self, pre: Tensor, bias: Tensor) -> Sparse:
        """Where codes of :meth:`forward` are not zero, but for a few places; as :meth:`places`."""
        return places_above(pre, -bias)

    def screen(self, weight: Tensor, bias: Tensor) -> Screen | None:
        """What finds the places of :meth:`active` faster than all pre-activations are there.

        A function of what the last layer sees, shape (n, n_in), to places and pre-activations
        there. None: there is no such thing.
        """
        return None

    def rescale_(self, factor: float) -> None:
        """Go over to rows, and codes, that are ``factor`` times as long."""

    @property
    def per_latent(self) -> list[nn.Parameter]:
        """What is learned, all of shape (n_components,)."""
        return list(self.parameters())

    def restart_(self, latents: Tensor, alpha: float) -> None:
        """Parameters of some latents as they were at the start."""


def places_above(pre: Tensor, floor: Tensor) -> Sparse:
    """Where pre-activations are above their floor."""
    return Sparse(sparse.above(pre, floor), pre.shape[1])


def bounded_penalty(codes: Tensor, alpha: float) -> Tensor:
    """``α²/2·Σ tanh(s/α)``: large codes cost no more than others."""
    return alpha**2 / 2 * (codes / alpha).tanh().sum() if alpha else 0 * codes.sum()
