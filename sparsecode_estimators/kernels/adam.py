r"""One step of Adam (Kingma & Ba 2015, algorithm 1), and rows of unit length.

With gradients g,

.. math:: m \leftarrow \beta_1 m + (1-\beta_1) g, \qquad
          v \leftarrow \beta_2 v + (1-\beta_2) g^2, \qquad
          p \leftarrow p - \gamma\,\frac{m/(1-\beta_1^t)}{\sqrt{v/(1-\beta_2^t)} + \epsilon}.

Large matrices on the CPU go to the compiled loop of :mod:`.cpu_adam` where numba can be used:
it reads and writes each number once, with the normalisation, which takes longer than the step
by itself. All others go to torch, which is the definition.
"""

from __future__ import annotations

from functools import cache
from types import ModuleType

import torch
from torch import Tensor
from torch.optim.adam import adam as _torch_adam

BETA1, BETA2, EPS = 0.9, 0.999, 1e-8
LARGE = 2**18  # numbers in a matrix from which the compiled loop pays


@cache
def _compiled() -> ModuleType | None:
    try:
        from . import cpu_adam
    except ImportError:  # not there, or not for this version of NumPy
        return None
    return cpu_adam


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
    lists = list(zip(parameters, gradients, means, squares, steps, strict=True))
    ours = [item for item in lists if _is_large(item[0])]
    rest = [item for item in lists if not _is_large(item[0])]
    for parameter, gradient, mean, square, step in ours:
        _large(parameter, gradient, mean, square, step, learning_rate, skip, unit is parameter)
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


def _is_large(parameter: Tensor) -> bool:
    on_cpu = parameter.device.type == "cpu" and parameter.ndim == 2 and parameter.is_contiguous()
    return on_cpu and parameter.numel() >= LARGE and _compiled() is not None


def _large(
    parameter: Tensor,
    gradient: Tensor,
    mean: Tensor,
    square: Tensor,
    step: Tensor,
    learning_rate: float,
    skip: Tensor,
    unit: bool,
) -> None:
    if skip.item():
        return
    step += 1
    t = step.item()
    numbers = (
        BETA1, 1 - BETA1, BETA2, 1 - BETA2,
        learning_rate / (1 - BETA1**t), (1 - BETA2**t) ** -0.5, EPS,
    )  # fmt: skip
    made = _compiled()
    assert made is not None, "asked before"
    made.adam(parameter, gradient, mean, square, numbers, unit=unit)
