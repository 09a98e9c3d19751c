"""Compiled loops over chunks of rows, in as many threads as torch uses."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from .cpu_lanes import DEPTH, TRIES, lanes
from .cpu_pursuit import pursuit as _pursuit
from .cpu_working_set import SPARE as FEW
from .cpu_working_set import working_set as _working_set
from .reference import Answer

CHUNK = 2**18  # numbers of a chunk's codes: some milliseconds, so that interrupts get through


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
    """See :func:`sparsecode_estimators.kernels.working_set`; ``gram`` includes the ridge."""
    n, n_components = len(X), len(D)
    warm = start is not None
    codes = X.new_zeros(n, n_components) if start is None else start.clone()
    gap, energy = np.empty(n), np.empty(n)
    n_iter = np.empty(n, dtype=np.int64)
    rows, atoms, products, prices, correlations, out = (
        t.detach().contiguous().numpy() for t in (X, D, gram, penalty, X @ D.T, codes)
    )
    eps = torch.finfo(X.dtype).eps

    most = n_components if ridge > 0 else min(D.shape)
    depth = min(most, DEPTH)
    # a row's second tries count as steps too
    side_by_side = n_components <= FEW and not warm and max_steps >= DEPTH + TRIES

    def solve(chunk: np.ndarray) -> None:
        given = (rows, atoms, products, correlations, prices, float(ridge), positive, eps)
        if side_by_side:
            chunk = lanes(chunk, *given, depth, out, gap, energy, n_iter)
        _working_set(chunk, *given, max_steps, warm, out, gap, energy, n_iter)

    _in_chunks(solve, n, max(1, CHUNK // n_components))
    return Answer(codes, *(torch.from_numpy(a) for a in (gap, energy, n_iter)))


def pursuit(
    X: Tensor,
    D: Tensor,
    gram: Tensor,
    *,
    k: int,
    positive: bool,
    rule: str,
    start: Tensor | None,
    max_steps: int,
) -> Answer:
    """See :func:`sparsecode_estimators.kernels.pursuit`."""
    n, n_components = len(X), len(D)
    warm = start is not None
    codes = X.new_zeros(n, n_components) if start is None else start.clone()
    energy, n_iter = np.empty(n), np.empty(n, dtype=np.int64)
    rows, atoms, products, correlations, out = (
        t.detach().contiguous().numpy() for t in (X, D, gram, X @ D.T, codes)
    )
    eps = torch.finfo(X.dtype).eps
    given = (rows, atoms, products, correlations, k, positive, rule == "ols", eps)

    def solve(chunk: np.ndarray) -> None:
        _pursuit(chunk, *given, max_steps, warm, out, energy, n_iter)

    _in_chunks(solve, n, max(1, CHUNK // n_components))
    gap = torch.full((n,), torch.nan, dtype=torch.float64)
    return Answer(codes, gap, torch.from_numpy(energy), torch.from_numpy(n_iter))


def _in_chunks(work: Callable[[np.ndarray], None], n: int, size: int) -> None:
    """Call ``work`` on all rows, chunk by chunk.

    The pool lives for one call: nothing is left behind for a forked child to wait for.
    """
    chunks = [np.arange(i, min(i + size, n)) for i in range(0, n, size)]
    threads = min(torch.get_num_threads(), len(chunks))
    if threads <= 1:
        for chunk in chunks:
            work(chunk)
        return
    pool = ThreadPoolExecutor(threads)
    try:
        for _ in pool.map(work, chunks):
            pass
    finally:
        pool.shutdown(cancel_futures=True)
