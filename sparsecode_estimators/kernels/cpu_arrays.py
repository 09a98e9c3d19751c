"""Tensors as compiled loops take them, and room for what they answer."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from .cpu_room import space
from .reference import Answer

CHUNK = 2**18  # numbers of a chunk's codes: some milliseconds, so that interrupts get through


def room_for_answers(
    X: Tensor, n_components: int, start: Tensor | None
) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """Codes, energies and counts of steps to be written to.

    NumPy asks for large pages, torch does not.
    """
    n = len(X)
    if start is None:
        dtype = torch.empty(0, dtype=X.dtype).numpy().dtype
        codes = torch.from_numpy(np.zeros((n, n_components), dtype))
    else:
        codes = start.clone()
    return codes, np.empty(n), np.zeros(n, np.int64)


def product_room(n: int, D: Tensor) -> Tensor:
    """For products of ``n`` rows with all atoms; NumPy asks for large pages, torch does not."""
    dtype = np.float64 if D.dtype == torch.float64 else np.float32
    return torch.from_numpy(space((n, len(D)), dtype, np.empty))


def product(A: np.ndarray, B: np.ndarray) -> np.ndarray:
    """``ABᵀ`` in as many threads as torch uses; NumPy has a number of its own."""
    out = product_room(len(A), torch.from_numpy(B))
    return torch.mm(torch.from_numpy(A), torch.from_numpy(B).T, out=out).numpy()


def arrays(*tensors: Tensor) -> Iterator[np.ndarray]:
    """As NumPy has them; it has no bfloat16."""
    for t in tensors:
        bits = t.view(torch.uint16) if t.dtype == torch.bfloat16 else t
        yield bits.detach().contiguous().numpy()


def squares(atoms: np.ndarray) -> np.ndarray:
    """Squared lengths, in double precision."""
    return np.einsum("jm,jm->j", atoms, atoms, dtype=np.float64)


def without_gap(codes: Tensor, energy: np.ndarray, n_iter: np.ndarray) -> Answer:
    """k-sparse codes have none."""
    gap = torch.full((len(codes),), torch.nan, dtype=torch.float64)
    return Answer(codes, gap, torch.from_numpy(energy), torch.from_numpy(n_iter))
