r"""One step of Adam (Kingma & Ba 2015, algorithm 1), and rows of unit length.

With gradients g,

.. math:: m \leftarrow \beta_1 m + (1-\beta_1) g, \qquad
          v \leftarrow \beta_2 v + (1-\beta_2) g^2, \qquad
          p \leftarrow p - \gamma\,\frac{m/(1-\beta_1^t)}{\sqrt{v/(1-\beta_2^t)} + \epsilon}.

Large matrices go to the compiled loop of :mod:`.cpu_adam` where numba can be used, and on CUDA
devices to the kernel of :mod:`.cuda_adam` where Triton works: they read and write each number
once, with the normalisation, which takes longer than the step by itself. All others go to torch,
which is the definition.
"""

from __future__ import annotations

from functools import partial
from types import ModuleType

import torch
from torch import Tensor
from torch.optim.adam import adam as _torch_adam

from .cpu_probe import compiled_loops
from .cuda_probe import fused

BETA1, BETA2, EPS = 0.9, 0.999, 1e-8
LARGE = 2**18  # numbers in a matrix from which a loop of our own pays

_compiled = partial(compiled_loops, "cpu_adam")


def _make(parameter: Tensor) -> ModuleType | None:
    """What moves such a parameter faster than torch does."""
    if parameter.ndim != 2 or parameter.numel() < LARGE or not parameter.is_contiguous():
        return None
    if parameter.device.type == "cpu":
        return _compiled()
    return fused("cuda_adam", parameter.device) if parameter.device.type == "cuda" else None


def adam(
    parameters: list[Tensor],
    gradients: list[Tensor],
    means: list[Tensor],
    squares: list[Tensor],
    steps: list[Tensor],
    *,
    learning_rate: float,
    skip: Tensor,
    unit: Tensor | None = None,
) -> None:
    """One step, in place.

    Parameters
    ----------
    parameters, gradients, means, squares : lists of Tensor
        Of the same shapes, in memory order.
    steps : list of Tensor of shape ()
        How many steps each parameter has made.
    learning_rate : float
    skip : Tensor of shape ()
        One: nothing moves, and no step is counted.
    unit : Tensor or None
        One of the parameters, whose rows are brought to unit length.
    """
    rest = []
    for item in zip(parameters, gradients, means, squares, steps, strict=True):
        made = _make(item[0])
        if made is None:
            rest.append(item)
        else:
            made.adam(
                *item, learning_rate=learning_rate, betas=(BETA1, BETA2), eps=EPS, skip=skip,
                unit=unit is item[0],
            )  # fmt: skip
    if rest:
        p, g, m, v, t = (list(column) for column in zip(*rest, strict=True))
        _torch_adam(
            p, g, m, v, [], t, fused=True, found_inf=skip, amsgrad=False, beta1=BETA1,
            beta2=BETA2, lr=learning_rate, weight_decay=0.0, eps=EPS, maximize=False,
        )  # fmt: skip
        if any(unit is parameter for parameter in p):
            to_unit_length_(unit)


def to_unit_length_(matrix: Tensor | None) -> None:
    """Scale every row to unit length, in place."""
    if matrix is not None:
        norms = matrix.norm(dim=1, keepdim=True)
        matrix.div_(norms.clamp(min=torch.finfo(norms.dtype).tiny))
