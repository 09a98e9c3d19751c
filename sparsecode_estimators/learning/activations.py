"""What turns pre-activations into sparse codes. An activation is one class here."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class ReLU:
    """``max(v, 0)``; sparse because the loss carries ``alpha·‖s‖₁``."""

    penalised = True

    def __call__(self, pre: Tensor) -> Tensor:
        return pre.relu()


@dataclass(frozen=True)
class TopK:
    """The ``k`` largest positive pre-activations of each row, all others zero.

    Gao et al. (2024), "Scaling and evaluating sparse autoencoders", eq. 3. Sparse by
    construction, so the loss has no penalty. Ties are broken so that never more than
    ``k`` codes are active.
    """

    k: int
    penalised = False

    def __call__(self, pre: Tensor) -> Tensor:
        values, indices = pre.topk(min(self.k, pre.shape[1]), dim=1)
        return pre.new_zeros(pre.shape).scatter(1, indices, values.relu())


Activation = ReLU | TopK


def make_activation(name: str, n_nonzero_coefs: int | None) -> Activation:
    """Activation of the given name.

    Parameters
    ----------
    name : {"relu", "topk"}
    n_nonzero_coefs : int or None
        ``k`` of topk; not used by relu.
    """
    if name == "topk":
        assert n_nonzero_coefs is not None, "checked by the estimator"
        return TopK(n_nonzero_coefs)
    return ReLU()
