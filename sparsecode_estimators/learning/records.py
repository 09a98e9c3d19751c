"""What a run of training is told, and what is kept of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from .optimizers import Optimizer


@dataclass(frozen=True)
class Settings:
    """How to train; names and meanings are those of the estimators, but for a few.

    ``learning_rate`` is their ``learning_rate_init``, ``schedule`` their ``learning_rate``, and
    ``warmup`` their ``learning_rate_warmup``.
    """

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
    in_bfloat16: bool  # dense products are of numbers rounded to it
    open_ended: bool = False  # a chunk of many: others may follow, of which nothing is known

    @property
    def moves_dictionary(self) -> bool:
        return self.learn_dictionary and self.objective != "codes"

    @property
    def moves_unrolled(self) -> bool:
        """Whether the dictionary moves that an unrolled encoder's steps have weights for."""
        return self.moves_dictionary or self.objective == "targets"


@dataclass
class Epoch:
    """What one pass over the rows has seen, means over them.

    Attributes
    ----------
    loss, energy : float
        Energy is ``½‖x − x̂‖²``, NaN where known codes are learned, which nothing decodes.
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
