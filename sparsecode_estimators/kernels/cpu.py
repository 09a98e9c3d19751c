"""Compiled loops over chunks of rows, in as many threads as torch uses."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from .cpu_few_atoms import block, few, few_atoms
from .cpu_working_set import working_set as _working_set
from .reference import Answer

FEW = 64  # atoms up to which all of them are looked at in every step
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
    few_serve = n_components <= FEW
    warm = start is not None and not few_serve
    codes = start.clone() if start is not None and warm else X.new_zeros(n, n_components)
    gap, energy = np.empty(n), np.empty(n)
    n_iter = np.empty(n, dtype=np.int64)
    answers = codes.numpy(), gap, energy, n_iter
    rows, atoms, products, prices = (t.detach().contiguous().numpy() for t in (X, D, gram, penalty))
    # rows of few atoms nearly always make their own products
    correlations = np.empty((n, n_components), rows.dtype) if few_serve else rows @ atoms.T
    options = float(ridge), positive, float(np.finfo(rows.dtype).eps)
    problem = few(atoms, prices, ridge) if few_serve else None

    def solve(chunk: np.ndarray) -> None:
        if problem is not None:
            chunk = few_atoms(chunk, rows, problem, block(problem), *options, max_steps, *answers)
            correlations[chunk] = rows[chunk] @ atoms.T
        if len(chunk):  # otherwise there is nothing to be compiled for
            _working_set(
                chunk, rows, atoms, products, correlations, prices, *options, max_steps, warm,
                *answers,
            )  # fmt: skip

    _in_chunks(solve, n, max(1, CHUNK // n_components))
    return Answer(codes, *(torch.from_numpy(a) for a in (gap, energy, n_iter)))


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
