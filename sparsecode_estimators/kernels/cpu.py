"""Compiled loops over chunks of rows, in as many threads as torch uses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import cpu_side_by_side as side_by_side
from . import cpu_without_gram as without_gram
from .cpu_arrays import CHUNK, arrays, product, room_for_answers, squares, without_gap
from .cpu_certificate import scale_of
from .cpu_chunks import in_chunks
from .cpu_few_state import DEPTH
from .cpu_pursuit import pursuit as _pursuit
from .cpu_pursuit import room_for as room_for_pursuit
from .cpu_replacement import replacement as _replacement
from .cpu_replacement import room_for as room_for_exchanges
from .cpu_stages import room_for as room_for_stages
from .cpu_stages import stages as _stages
from .cpu_working_set import limits
from .cpu_working_set import room_for as room_for_lasso
from .cpu_working_set import working_set as _working_set
from .reference import Answer
from .shared import CLASSES, FEW

ALIASED = 4096  # bytes; rows so far apart share the same places in the first cache


def working_set(
    X: Tensor,
    D: Tensor,
    gram: Tensor | None,
    penalty: Tensor,
    *,
    ridge: float,
    positive: bool,
    start: Tensor | None,
    max_steps: int,
) -> Answer:
    """See :func:`sparsecode_estimators.kernels.working_set`; ``gram`` includes the ridge."""
    n_components = len(D)
    if n_components <= FEW:
        start = None  # all atoms are looked at anyway
    if start is not None:
        start = _largest(start, limits(D, 0.0)[1])
    codes, energy, n_iter = room_for_answers(X, n_components, start)
    gap = np.empty(len(X))
    rows, atoms, prices = (t.detach().contiguous().numpy() for t in (X, D, penalty))
    given = (rows, atoms, prices, float(ridge), positive, float(np.finfo(rows.dtype).eps))
    out = (codes.numpy(), gap, energy, n_iter)
    flops, warm = None, start is not None
    if n_components <= FEW:
        side_by_side.lasso(
            given, max_steps, out, lambda x, to: _many((x, *given[1:]), gram, False, max_steps, to)
        )
    elif gram is None:
        flops = without_gram.lasso(given, warm, max_steps, out)
    else:
        _many(given, gram, warm, max_steps, out)
    answers = (torch.from_numpy(gap), torch.from_numpy(energy), torch.from_numpy(n_iter))
    return Answer(codes, *answers, flops=flops)


def _largest(codes: Tensor, most: int) -> Tensor:
    """Rows with more codes than there is room for keep the largest of them."""
    crowded = (codes != 0).sum(1) > most
    if not crowded.any():
        return codes
    rows = codes[crowded]
    kept = rows.abs().topk(most, dim=1).indices
    codes = codes.clone()
    codes[crowded] = torch.zeros_like(rows).scatter_(1, kept, rows.gather(1, kept))
    return codes


def _many(
    given: tuple[Any, ...], gram: Tensor | None, warm: bool, max_steps: int, out: tuple[Any, ...]
) -> None:
    """Slopes by the Gram matrix."""
    rows, atoms, _, ridge = given[:4]
    if gram is None:
        products = product(atoms, atoms) + ridge * np.eye(len(atoms), dtype=atoms.dtype)
    else:
        products = gram.detach().contiguous().numpy()
    more = (products, product(rows, atoms), max_steps, warm)
    scale = scale_of(np.sqrt(squares(atoms)), given[2])
    in_chunks(
        _working_set, len(rows), max(1, CHUNK // len(atoms)), *given, *more, *out,
        room=lambda: room_for_lasso(atoms, scale, products, ridge),
    )  # fmt: skip


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
    n_components, warm = len(D), start is not None
    codes, energy, n_iter = room_for_answers(X, n_components, start)
    rows, atoms, products = arrays(X, D, _padded(gram))
    options = (k, positive, rule == "ols", float(np.finfo(rows.dtype).eps))
    out = (codes.numpy(), energy, n_iter)

    def many(rows: np.ndarray, out: tuple[Any, ...]) -> None:
        lengths, size = squares(atoms), max(1, CHUNK // n_components)
        given = (rows, atoms, products, lengths, product(rows, atoms), *options)
        in_chunks(
            _pursuit, len(rows), size, *given, max_steps, warm, *out,
            room=lambda: room_for_pursuit(rows, products, lengths, *options),
        )  # fmt: skip

    if n_components <= FEW and k <= DEPTH and not warm:
        side_by_side.pursuit(rows, atoms, options, max_steps, out, many)
    else:
        many(rows, out)
    return without_gap(codes, energy, n_iter)


def replacement(
    X: Tensor,
    D: Tensor,
    gram: Tensor | None,
    *,
    k: int,
    positive: bool,
    start: Tensor,
    max_steps: int,
    tol: float,
) -> Answer:
    """See :func:`sparsecode_estimators.kernels.replacement`."""
    if gram is None:
        return without_gram.exchanges(X, D, start, (k, positive, 1.0, 1.0), max_steps, tol)
    return _with_exchanges(
        _replacement, room_for_exchanges, X, D, gram, start, (k, positive), max_steps, tol
    )


def stages(
    X: Tensor,
    D: Tensor,
    gram: Tensor | None,
    *,
    k: int,
    positive: bool,
    share: float,
    depth: float,
    max_steps: int,
    tol: float,
) -> Answer:
    """See :func:`sparsecode_estimators.kernels.stages`."""
    if gram is None:
        return without_gram.exchanges(X, D, None, (k, positive, share, depth), max_steps, tol)
    return _with_exchanges(
        _stages, room_for_stages, X, D, gram, None, (k, positive, share, depth), max_steps, tol
    )


def _with_exchanges(
    loops: Callable[..., None],
    room_for: Callable[..., tuple[Any, ...]],
    X: Tensor,
    D: Tensor,
    gram: Tensor,
    start: Tensor | None,
    options: tuple[Any, ...],
    max_steps: int,
    tol: float,
) -> Answer:
    """Slopes by the Gram matrix."""
    codes, energy, n_iter = room_for_answers(X, len(D), start)
    rows, atoms, products = arrays(X, D, _padded(gram))
    lengths, eps, (k, positive, *_) = squares(atoms), float(np.finfo(rows.dtype).eps), options
    given = (rows, atoms, products, lengths, product(rows, atoms), *options, eps, max_steps, tol)
    out = (codes.numpy(), energy, n_iter)
    in_chunks(
        loops, len(rows), max(1, CHUNK // len(D)), *given, *out,
        room=lambda: room_for(rows, products, lengths, k, positive, eps),
    )  # fmt: skip
    return without_gap(codes, energy, n_iter)


def _padded(gram: Tensor) -> Tensor:
    """With columns of zeros up to a multiple of ``CLASSES``, as that in bfloat16 has."""
    missing = -gram.shape[1] % CLASSES
    if not missing:
        return gram
    if (gram.shape[1] + missing) * gram.itemsize % ALIASED == 0:
        missing += CLASSES
    return torch.nn.functional.pad(gram, (0, missing))
