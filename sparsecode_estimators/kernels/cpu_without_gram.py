"""No Gram matrix: products of many rows with all atoms, between loops over few candidates."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from .cpu_arrays import arrays, room_for_answers, squares, without_gap
from .cpu_certificate import scale_of
from .cpu_chunks import in_chunks
from .cpu_kept import kept_of
from .cpu_products import all_products
from .cpu_stages import room_for as room_for_stages
from .cpu_wide import DONE, OPEN, wide_round
from .cpu_wide import room_for as room_for_wide
from .cpu_wide_stages import begin_wide, no_gram, paused, wide_stages
from .reference import Answer

TOGETHER = 1024, 2**24  # most rows whose products with all atoms are made at once, and products
PART = 32  # rows of these that a thread takes at a time


def lasso(given: tuple[Any, ...], warm: bool, max_steps: int, out: tuple[Any, ...]) -> int:
    """Problems on few atoms, between products; returns the number of operations.

    Products are of rounded numbers where the processor is faster with them; few rows need
    others to prove that they are solved.
    """
    rows, atoms, *options = given
    lengths = torch.linalg.vector_norm(torch.from_numpy(atoms), dim=1).numpy()
    scale = scale_of(lengths, options[0])
    size, looks = _together(atoms), 0
    most = min(size, len(rows))
    known, kept = all_products(atoms, most), kept_of(most, atoms.dtype)
    free: list[Any] = []
    for begin in range(0, len(rows), size):
        batch = slice(begin, begin + size)
        X, answers = rows[batch], [a[batch] for a in out]
        residual = X - answers[0] @ atoms if warm else X.copy()
        outcome, moves = np.full(len(X), OPEN, np.int8), warm
        kept.size[:] = -1 if warm else 0
        for products in known:
            outcome[outcome != DONE] = OPEN
            while len(open_rows := np.flatnonzero(outcome == OPEN)):
                slopes, unit = products(residual[open_rows])
                kinds = (lengths, unit, products.rounded, kept, moves)
                state = (open_rows, slopes, residual, outcome, max_steps)
                more = (X, atoms, *options, *kinds, *state, *answers)
                in_chunks(
                    wide_round, len(open_rows), PART, *more,
                    room=lambda: room_for_wide(atoms, scale, options[0], options[1]), free=free,
                )  # fmt: skip
                moves, looks = False, looks + len(open_rows)
    added = int(out[-1].sum())
    return 2 * (looks * atoms.size + added * 8 * atoms.shape[1])


def exchanges(
    X: Tensor,
    D: Tensor,
    start: Tensor | None,
    options: tuple[int, bool, float, float],
    max_steps: int,
    tol: float,
) -> Answer:
    """Stages and exchanges, between products of residuals with all atoms."""
    n = len(X)
    codes, energy, n_iter = room_for_answers(X, len(D), start)
    rows, atoms = arrays(X, D)
    k, positive, share, depth = options
    eps, lengths, gram = float(np.finfo(rows.dtype).eps), squares(atoms), no_gram(atoms)
    size = max(PART, min(_together(atoms), TOGETHER[1] // (k + 1) ** 2))
    products, looks = all_products(atoms, min(size, n))[0], 0
    free: list[Any] = []

    def room() -> tuple[Any, ...]:
        return room_for_stages(rows, gram, lengths, k, positive, eps)

    for begin in range(0, n, size):
        batch = slice(begin, begin + size)
        x, out = rows[batch], [a[batch] for a in (codes.numpy(), energy, n_iter)]
        state, open_ = paused(x, k), np.ones(len(x), np.bool_)
        if start is not None:
            first = (x, atoms, gram, lengths, k, positive, eps, out[0], state)
            in_chunks(begin_wide, len(x), PART, *first, room=room, free=free)
        given = (x, atoms, gram, lengths, k, positive, share, depth, eps, max_steps, tol)
        while len(waiting := np.flatnonzero(open_)):
            slopes, _ = products(state.residual[waiting])
            looks += len(waiting)
            more = (*given, waiting, slopes, state, open_, *out)
            in_chunks(wide_stages, len(waiting), PART, *more, room=room, free=free)
    flops = 2 * (looks * atoms.size + n * (k**3 + 3 * k * atoms.shape[1]))
    return without_gap(codes, energy, n_iter)._replace(flops=flops)


def _together(atoms: np.ndarray) -> int:
    """Rows whose products with all atoms are made at once."""
    return max(PART, min(TOGETHER[0], TOGETHER[1] // len(atoms)))
