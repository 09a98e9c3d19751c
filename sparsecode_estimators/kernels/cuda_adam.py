"""One step of Adam, a row of a matrix a program, with nothing that the host waits for."""

from __future__ import annotations

from functools import partial

import torch
import triton
import triton.language as tl
from torch import Tensor

CHUNK = 2**12  # numbers of a row looked at together


def works(device: torch.device) -> bool:
    """Whether the first step of two numbers comes out right: of the length of the rate."""
    p, m, v = (torch.zeros(1, 2, device=device) for _ in range(3))
    g, step, skip = torch.ones_like(p), p.new_zeros(()), p.new_zeros(())
    move = partial(
        adam, p, g, m, v, step, learning_rate=0.5, betas=(0.9, 0.999), eps=1e-8, skip=skip
    )
    move(unit=False)
    moved = p.clone()
    move(unit=True)
    wanted = torch.full_like(p, -0.5)
    return torch.allclose(moved, wanted) and torch.allclose(p, 2**0.5 * wanted)


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
    """See :func:`.cpu_adam.adam`."""
    step += 1 - skip
    t = step.double()
    numbers = [learning_rate / (1 - betas[0] ** t), (1 - betas[1] ** t) ** -0.5]
    n, n_columns = parameter.shape
    with torch.no_grad(), torch.cuda.device_of(parameter):
        _adam[(n,)](
            parameter, gradient, mean, square, torch.stack(numbers).to(parameter.dtype), skip,
            beta1=betas[0], beta2=betas[1], eps=eps, n_columns=n_columns,
            block=min(triton.next_power_of_2(n_columns), CHUNK), unit=unit,
        )  # fmt: skip


@triton.jit
def _adam(
    parameter, gradient, mean, square, numbers, skip,
    beta1: tl.constexpr, beta2: tl.constexpr, eps: tl.constexpr,
    n_columns: tl.constexpr, block: tl.constexpr, unit: tl.constexpr,
):  # fmt: skip
    """One row.

    Parameters
    ----------
    parameter, gradient, mean, square : pointers to (n, n_columns)
        All but the gradient are written to.
    numbers : pointer to two numbers
        γ/(1 − β₁ᵗ) and (1 − β₂ᵗ)^-½.
    skip : pointer to one number
        If it is not zero nothing is written.
    block : int
        Numbers looked at together, a power of two.
    """
    if tl.load(skip) != 0:
        return
    row = tl.program_id(0).to(tl.int64) * n_columns
    size, shrink = tl.load(numbers), tl.load(numbers + 1)
    energy = tl.zeros((block,), parameter.dtype.element_ty)
    for first in range(0, n_columns, block):
        columns = first + tl.arange(0, block)
        inside = columns < n_columns
        here = row + columns
        g = tl.load(gradient + here, mask=inside, other=0.0)
        m = beta1 * tl.load(mean + here, mask=inside, other=0.0) + (1 - beta1) * g
        v = beta2 * tl.load(square + here, mask=inside, other=0.0) + (1 - beta2) * g * g
        p = tl.load(parameter + here, mask=inside, other=0.0)
        p -= size * m / (tl.sqrt(v) * shrink + eps)
        tl.store(mean + here, m, mask=inside)
        tl.store(square + here, v, mask=inside)
        tl.store(parameter + here, p, mask=inside)
        energy += p * p
    if unit:
        length = tl.sqrt(tl.sum(energy, axis=0))
        scale = 1 / tl.where(length > 0, length, 1.0)
        tl.debug_barrier()  # what is stored above is read below
        for first in range(0, n_columns, block):
            columns = first + tl.arange(0, block)
            inside = columns < n_columns
            p = tl.load(parameter + row + columns, mask=inside, other=0.0)
            tl.store(parameter + row + columns, p * scale, mask=inside)
