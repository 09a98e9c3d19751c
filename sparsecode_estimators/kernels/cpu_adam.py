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
    numbers: tuple[float, ...],
    *,
    unit: bool,
) -> None:
    """One step; ``numbers`` are those of the formula.

    Parameters
    ----------
    parameter, gradient, mean, square : Tensor of shape (n_rows, n_columns)
    numbers : tuple of float
        β₁, 1 − β₁, β₂, 1 − β₂, γ/(1 − β₁ᵗ), (1 − β₂ᵗ)^-½ and ε.
    unit : bool
        Whether rows are brought to unit length.
    """
    parts = [t.detach().numpy() for t in (parameter, gradient, mean, square)]
    given = np.array(numbers, parts[0].dtype)
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
