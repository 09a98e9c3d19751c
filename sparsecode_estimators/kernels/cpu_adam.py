"""One step of Adam, a row of a matrix at a time, so that each is read and written once."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .cpu_chunks import in_chunks
from .cpu_jit import compiled


def adam(
    parameter: Tensor,
    gradient: Tensor,
    mean: Tensor,
    square: Tensor,
    step: Tensor,
    *,
    learning_rate: float,
    betas: tuple[float, float],
    eps: float,
    skip: Tensor,
    unit: bool,
) -> None:
    """One step, in place.

    Parameters
    ----------
    parameter, gradient, mean, square : Tensor of shape (n_rows, n_columns)
    step : Tensor of shape ()
        How many steps there have been.
    learning_rate, betas, eps : float, (float, float), float
        γ, β₁ and β₂, and ε of the formula.
    skip : Tensor of shape ()
        One: nothing moves, and no step is counted.
    unit : bool
        Whether rows are brought to unit length.
    """
    if skip.item():
        return
    step += 1
    t, (beta1, beta2) = step.item(), betas
    numbers = (
        beta1, 1 - beta1, beta2, 1 - beta2,
        learning_rate / (1 - beta1**t), (1 - beta2**t) ** -0.5, eps,
    )  # fmt: skip
    parts = [t.detach().numpy() for t in (parameter, gradient, mean, square)]
    given = tuple(np.array(numbers, parts[0].dtype))
    size = -(-len(parameter) // (4 * torch.get_num_threads()))
    in_chunks(_adam, len(parameter), size, *parts, given, unit)


@compiled
def _adam(rows, parameters, gradients, means, squares, numbers, unit):
    keep, add, keep_square, add_square, size, shrink, eps = numbers
    for row in rows:
        parameter, gradient = parameters[row], gradients[row]
        mean, square = means[row], squares[row]
        length = eps * 0
        for j in range(len(parameter)):
            g = gradient[j]
            m = keep * mean[j] + add * g
            v = keep_square * square[j] + add_square * g * g
            p = parameter[j] - size * m / (np.sqrt(v) * shrink + eps)
            mean[j], square[j], parameter[j] = m, v, p
            length += p * p
        if unit and length > 0:
            scale = 1 / np.sqrt(length)
            for j in range(len(parameter)):
                parameter[j] *= scale
