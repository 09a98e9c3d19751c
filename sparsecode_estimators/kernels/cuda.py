"""Kernels for CUDA devices, in Triton."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from .cuda_lasso import lasso
from .cuda_pursuit import pursuit as pursue
from .cuda_step import step_along
from .reference import Answer
from .shared import FLOOR, INDEPENDENT, RESOLUTION

WARP = 2**12  # bytes of tableaus that the registers of one warp have room for
PROGRAM = 2**11  # bytes of tableaus of one program, unless those of one row are more
CHUNK = 2**11  # codes of a row looked at together


def works(device: torch.device) -> bool:
    """Whether a row of length one is solved right."""
    one = torch.ones(1, 1, device=device)
    answer = working_set(
        2 * one, one, one, one[0], ridge=0.0, positive=True, start=None, max_steps=1
    )
    return answer.codes.item() == 1


def working_set(
    X: Tensor,
    D: Tensor,
    gram: Tensor,
    penalty: Tensor,
    *,
    ridge: float,
    positive: bool,
    start: Tensor | None,
    max_steps: int,
) -> Answer:
    """See :func:`sparsecode_estimators.kernels.working_set`, for few atoms.

    ``start`` is not needed: the answer is the same from everywhere.
    """
    n, n_components = len(X), len(D)
    X, D = X.contiguous(), D.contiguous()
    codes = X.new_empty(n, n_components)
    gap, energy = (X.new_empty(n, dtype=torch.float64) for _ in range(2))
    n_iter = X.new_empty(n, dtype=torch.int64)
    exact = D.double()
    products = exact @ exact.T
    rho = products.new_full((1,), ridge)
    products.diagonal().add_(rho)
    eps = torch.finfo(X.dtype).eps
    finer = max(2**-13 * eps, torch.finfo(torch.float64).eps)
    rank = n_components if ridge > 0 else min(D.shape)
    height, layout = _layout(D)
    with torch.cuda.device_of(X):
        lasso[(triton.cdiv(n, height),)](
            X, D, products, penalty.double().contiguous(), rho, codes, gap, energy, n_iter,
            n, n_components, rank, min(max_steps, 2**31 - 1), eps, finer, eps**INDEPENDENT,
            **layout, positive=positive,
        )  # fmt: skip
    return Answer(codes, gap, energy, n_iter)


def pursuit(
    X: Tensor,
    D: Tensor,
    gram: Tensor | None,
    *,
    k: int,
    positive: bool,
    rule: str,
    start: None,
    max_steps: int,
) -> Answer:
    """Greedy k-sparse codes from zero, for few atoms; the solvers ``rule`` in ``inference``.

    ``gram`` is not needed. Neither "omp" nor "ols" takes an atom that the chosen ones explain
    to the precision of a refit.
    """
    n, n_components = len(X), len(D)
    X, D = X.contiguous(), D.contiguous()
    codes = X.new_empty(n, n_components)
    energy = X.new_empty(n, dtype=torch.float64)
    n_iter = X.new_empty(n, dtype=torch.int64)
    exact = D.double()
    eps = torch.finfo(X.dtype).eps
    height, layout = _layout(D)
    with torch.cuda.device_of(X):
        pursue[(triton.cdiv(n, height),)](
            X, D, exact @ exact.T, codes, energy, n_iter,
            n, n_components, k, min(max_steps, 2**31 - 1), FLOOR * eps, eps**RESOLUTION,
            **layout, positive=positive, orthogonal=rule == "ols",
        )  # fmt: skip
    return Answer(codes, torch.full_like(energy, torch.nan), energy, n_iter)


def _layout(D: Tensor) -> tuple[int, dict[str, int]]:
    """Rows of a program, and what a kernel has to know when it is compiled."""
    n_components, n_features = D.shape
    width = max(4, triton.next_power_of_2(n_components))
    tableau = width**2 * D.element_size()
    height = max(1, PROGRAM // tableau)
    num_warps = max(1, tableau // WARP)
    return height, {
        "n_features": n_features, "height": height, "width": width, "num_warps": num_warps,
    }  # fmt: skip


def proximal_step(
    z: Tensor,
    gradient: Tensor,
    codes: Tensor,
    t: Tensor,
    threshold: Tensor,
    *,
    step: Tensor,
    positive: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """See :func:`sparsecode_estimators.kernels.proximal_step`."""
    n, n_components = codes.shape
    arrays = (a.contiguous() for a in (z, gradient, codes, t, threshold, step))
    after, ahead, t_after = torch.empty_like(codes), torch.empty_like(codes), torch.empty_like(t)
    block = min(CHUNK, triton.next_power_of_2(n_components))
    with torch.cuda.device_of(codes):
        step_along[(n,)](
            *arrays, after, ahead, t_after,
            n_components=n_components, block=block, positive=positive,
        )  # fmt: skip
    return after, ahead, t_after
