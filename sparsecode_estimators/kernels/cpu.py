"""Compiled loops over chunks of rows, in as many threads as torch uses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .cpu_all_atoms import LANES
from .cpu_chunks import in_chunks
from .cpu_few_atoms import few_atoms
from .cpu_few_pursuit import few_pursuit
from .cpu_few_state import DEPTH, FEW, block, few
from .cpu_lane_active import active, penalised
from .cpu_lane_lasso import lane_lasso
from .cpu_lane_pursuit import lane_pursuit
from .cpu_lane_state import abreast, lanes
from .cpu_lane_vectors import permutes
from .cpu_pursuit import pursuit as _pursuit
from .cpu_pursuit import room_for as room_for_pursuit
from .cpu_replacement import replacement as _replacement
from .cpu_replacement import room_for as room_for_exchanges
from .cpu_room import space
from .cpu_screen import UNIT
from .cpu_stages import room_for as room_for_stages
from .cpu_stages import stages as _stages
from .cpu_vectors import WIDTH
from .cpu_wide import DONE, OPEN, wide_round
from .cpu_wide import room_for as room_for_wide
from .cpu_wide_stages import begin_wide, no_gram, paused, wide_stages
from .cpu_working_set import room_for as room_for_lasso
from .cpu_working_set import working_set as _working_set
from .reference import Answer
from .rounded import is_faster as rounded_is_faster

CHUNK = 2**18  # numbers of a chunk's codes: some milliseconds, so that interrupts get through
TOGETHER = 1024, 2**24  # most rows whose products with all atoms are made at once, and products
PART = 32  # rows of these that a thread takes at a time
ALIASED = 4096  # bytes; rows so far apart share the same places in the first cache
ABREAST = 32, 256  # atoms and features up to which the lasso of rows side by side is faster
SOME, MOST = 64, 0.8  # rows of a chunk side by side stop after as many steps as this share of the
SOON = 8  # first ones took, if they were no more than so many
DEEPEST = 16  # most atoms that are added to rows side by side, at most DEPTH


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
    n, n_components = len(X), len(D)
    make = _few if n_components <= FEW else _wide if gram is None else _many
    if make is _few:
        start = None  # all atoms are looked at anyway
    codes = _start(X, n_components, start)
    gap, energy = np.empty(n), np.empty(n)
    n_iter = np.zeros(n, dtype=np.int64)
    rows, atoms, prices = (t.detach().contiguous().numpy() for t in (X, D, penalty))
    given = (rows, atoms, prices, float(ridge), positive, float(np.finfo(rows.dtype).eps))
    out = (codes.numpy(), gap, energy, n_iter)
    flops = make(given, gram, start is not None, max_steps, out)
    answers = (torch.from_numpy(gap), torch.from_numpy(energy), torch.from_numpy(n_iter))
    return Answer(codes, *answers, flops=flops)


def _start(X: Tensor, n_components: int, start: Tensor | None) -> Tensor:
    """Codes to be written to; NumPy asks for large pages, torch does not."""
    if start is not None:
        return start.clone()
    dtype = torch.empty(0, dtype=X.dtype).numpy().dtype
    return torch.from_numpy(np.zeros((len(X), n_components), dtype))


def _many(
    given: tuple[Any, ...], gram: Tensor | None, warm: bool, max_steps: int, out: tuple[Any, ...]
) -> None:
    """Slopes by the Gram matrix."""
    rows, atoms, _, ridge = given[:4]
    if gram is None:
        products = _product(atoms, atoms) + ridge * np.eye(len(atoms), dtype=atoms.dtype)
    else:
        products = gram.detach().contiguous().numpy()
    more = (products, _product(rows, atoms), max_steps, warm)
    in_chunks(
        _working_set, len(rows), max(1, CHUNK // len(atoms)), *given, *more, *out,
        room=lambda: room_for_lasso(atoms, products, ridge),
    )  # fmt: skip


def _product(A: np.ndarray, B: np.ndarray) -> np.ndarray:
    """``ABᵀ`` in as many threads as torch uses; NumPy has a number of its own."""
    out = _room(len(A), torch.from_numpy(B))
    return torch.mm(torch.from_numpy(A), torch.from_numpy(B).T, out=out).numpy()


def _few(
    given: tuple[Any, ...], gram: Tensor | None, warm: bool, max_steps: int, out: tuple[Any, ...]
) -> None:
    """Rows side by side, then those that this leaves with all atoms in vectors, then the rest."""
    rows, atoms, prices, *options = given
    problem = few(atoms, prices, options[0])
    side_by_side = _few_lasso(given, max_steps, out)

    def solve(chunk: np.ndarray) -> np.ndarray:
        chunk = side_by_side(chunk)
        if len(chunk):  # otherwise there is nothing to be compiled for
            given = (rows, problem, block(problem), *options, max_steps, *out)
            chunk = _left(few_atoms, chunk, *given)
        return chunk

    def many(rows: np.ndarray, out: tuple[Any, ...]) -> None:
        _many((rows, *given[1:]), gram, False, max_steps, out)

    _and_the_rest(solve, many, rows, out)


def _few_lasso(
    given: tuple[Any, ...], max_steps: int, out: tuple[Any, ...]
) -> Callable[[np.ndarray], np.ndarray]:
    """Rows of float32 side by side, which leaves some.

    Sixteen rows take as many steps as the slowest of them. So after as many as most of the first
    rows took, those that are not done wait, and start again among their like: this does not
    change their answers.
    """
    rows, atoms, prices, ridge, positive, eps = given
    fits = atoms.shape[0] <= ABREAST[0] and atoms.shape[1] <= ABREAST[1]
    served = rows.dtype == np.float32 and not ridge and (prices > 0).all()
    if not (fits and served and permutes()):
        return lambda chunk: chunk
    tables, most, n_iter = penalised(atoms, prices), min(DEEPEST, max_steps), out[-1]

    def solve(chunk: np.ndarray) -> np.ndarray:
        room = active(tables)

        def lasso(chunk: np.ndarray, most: int) -> np.ndarray:
            return _left(lane_lasso, chunk, rows, tables, room, most, positive, eps, *out)

        some, others = chunk[:SOME], chunk[SOME:]
        left = lasso(some, most)
        usual = int(np.sort(n_iter[some])[int(MOST * (len(some) - 1))])
        if len(others) and usual <= SOON:
            others = lasso(others, min(usual, most))
        return np.concatenate([left, lasso(others, most)])

    return solve


def _wide(
    given: tuple[Any, ...], gram: Tensor | None, warm: bool, max_steps: int, out: tuple[Any, ...]
) -> int:
    """No Gram matrix: products of many rows with all atoms, between problems on few atoms.

    Products are of rounded numbers where the processor is faster with them; few rows need
    others to prove that they are solved. Returns the number of operations.
    """
    rows, atoms, *options = given
    D = torch.from_numpy(atoms)
    lengths = torch.linalg.vector_norm(D, dim=1).numpy()
    known = [(D.bfloat16(), True), (D, False)] if _rounds(D) else [(D, False)]
    size, looks = _together(D), 0
    room = _room(min(size, len(rows)), D)
    for begin in range(0, len(rows), size):
        batch = slice(begin, begin + size)
        X, answers = rows[batch], [a[batch] for a in out]
        residual = X - answers[0] @ atoms if warm else X.copy()
        outcome, begun, moves = np.full(len(X), OPEN, np.int8), warm, warm
        for multiplier, rounded in known:
            unit = (D.shape[1] + WIDTH) * options[-1] + (2 * UNIT if rounded else 0)
            outcome[outcome != DONE] = OPEN
            while len(open_rows := np.flatnonzero(outcome == OPEN)):
                r = torch.from_numpy(residual[open_rows])
                slopes = _slopes(r, multiplier, room[: len(r)]).numpy()
                kinds = (lengths, unit, rounded, begun, moves)
                state = (open_rows, slopes, residual, outcome, max_steps)
                more = (X, atoms, *options, *kinds, *state, *answers)
                in_chunks(
                    wide_round, len(open_rows), PART, *more,
                    room=lambda: room_for_wide(atoms, options[0], options[1]),
                )  # fmt: skip
                begun, moves, looks = True, False, looks + len(open_rows)
    added = int(out[-1].sum())
    return 2 * (looks * D.numel() + added * 8 * D.shape[1])


def _rounds(D: Tensor) -> bool:
    """Whether products of rounded numbers are faster."""
    return D.dtype == torch.float32 and rounded_is_faster(D.device)


def _together(D: Tensor) -> int:
    """Rows whose products with all atoms are made at once."""
    return max(PART, min(TOGETHER[0], TOGETHER[1] // len(D)))


def _room(n: int, D: Tensor) -> Tensor:
    """For such products; NumPy asks for large pages, torch does not."""
    dtype = np.float64 if D.dtype == torch.float64 else np.float32
    return torch.from_numpy(space((n, len(D)), dtype, np.empty))


def _slopes(r: Tensor, D: Tensor, room: Tensor) -> Tensor:
    """Products in the precision of ``D``, written to pages that are in use already."""
    if r.dtype == D.dtype:
        return torch.mm(r, D.T, out=room)
    return room.copy_(r.to(D.dtype) @ D.T)


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
    codes = _start(X, n_components, start)
    energy, n_iter = np.empty(n), np.empty(n, dtype=np.int64)
    rows, atoms, products = _arrays(X, D, _padded(gram))
    options = (k, positive, rule == "ols", float(np.finfo(rows.dtype).eps))
    out = (codes.numpy(), energy, n_iter)

    def many(rows: np.ndarray, out: tuple[Any, ...]) -> None:
        lengths, size = _squares(atoms), max(1, CHUNK // n_components)
        given = (rows, atoms, products, lengths, _product(rows, atoms), *options)
        in_chunks(
            _pursuit, len(rows), size, *given, max_steps, warm, *out,
            room=lambda: room_for_pursuit(rows, products, lengths, *options),
        )  # fmt: skip

    if n_components <= FEW and k <= DEPTH and not warm:
        few_rows = _few_pursuit(rows, atoms, options, max_steps, out)
        _and_the_rest(few_rows, many, rows, out)
    else:
        many(rows, out)
    return _without_gap(codes, energy, n_iter)


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
        return _wide_exchanges(X, D, start, (k, positive, 1.0, 1.0), max_steps, tol)
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
        return _wide_exchanges(X, D, None, (k, positive, share, depth), max_steps, tol)
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
    n, n_components = len(X), len(D)
    codes = _start(X, n_components, start)
    energy, n_iter = np.empty(n), np.empty(n, dtype=np.int64)
    rows, atoms, products = _arrays(X, D, _padded(gram))
    lengths, eps, (k, positive, *_) = _squares(atoms), float(np.finfo(rows.dtype).eps), options
    given = (rows, atoms, products, lengths, _product(rows, atoms), *options, eps, max_steps, tol)
    out = (codes.numpy(), energy, n_iter)
    in_chunks(
        loops, n, max(1, CHUNK // n_components), *given, *out,
        room=lambda: room_for(rows, products, lengths, k, positive, eps),
    )  # fmt: skip
    return _without_gap(codes, energy, n_iter)


def _wide_exchanges(
    X: Tensor,
    D: Tensor,
    start: Tensor | None,
    options: tuple[int, bool, float, float],
    max_steps: int,
    tol: float,
) -> Answer:
    """No Gram matrix: products of many residuals with all atoms, between stages and exchanges."""
    n, n_components = len(X), len(D)
    codes = _start(X, n_components, start)
    energy, n_iter = np.empty(n), np.empty(n, dtype=np.int64)
    rows, atoms = _arrays(X, D)
    D = torch.from_numpy(atoms)
    k, positive, share, depth = options
    eps, lengths, gram = float(np.finfo(rows.dtype).eps), _squares(atoms), no_gram(atoms)
    multiplier = D.bfloat16() if _rounds(D) else D
    size = max(PART, min(_together(D), TOGETHER[1] // (k + 1) ** 2))
    products, looks = _room(min(size, n), D), 0

    def room() -> tuple[Any, ...]:
        return room_for_stages(rows, gram, lengths, k, positive, eps)

    for begin in range(0, n, size):
        batch = slice(begin, begin + size)
        x, out = rows[batch], [a[batch] for a in (codes.numpy(), energy, n_iter)]
        state, open_ = paused(x, k), np.ones(len(x), np.bool_)
        if start is not None:
            first = (x, atoms, gram, lengths, k, positive, eps, out[0], state)
            in_chunks(begin_wide, len(x), PART, *first, room=room)
        given = (x, atoms, gram, lengths, k, positive, share, depth, eps, max_steps, tol)
        while len(waiting := np.flatnonzero(open_)):
            r = torch.from_numpy(state.residual[waiting])
            slopes = _slopes(r, multiplier, products[: len(r)]).numpy()
            looks += len(waiting)
            more = (*given, waiting, slopes, state, open_, *out)
            in_chunks(wide_stages, len(waiting), PART, *more, room=room)
    flops = 2 * (looks * D.numel() + n * (k**3 + 3 * k * D.shape[1]))
    return _without_gap(codes, energy, n_iter)._replace(flops=flops)


def _arrays(*tensors: Tensor) -> Iterator[np.ndarray]:
    """As NumPy has them; it has no bfloat16."""
    for t in tensors:
        bits = t.view(torch.uint16) if t.dtype == torch.bfloat16 else t
        yield bits.detach().contiguous().numpy()


def _padded(gram: Tensor) -> Tensor:
    """With columns of zeros up to a multiple of ``LANES``, as that in bfloat16 has."""
    missing = -gram.shape[1] % LANES
    if not missing:
        return gram
    if (gram.shape[1] + missing) * gram.itemsize % ALIASED == 0:
        missing += LANES
    return torch.nn.functional.pad(gram, (0, missing))


def _squares(atoms: np.ndarray) -> np.ndarray:
    """Squared lengths, in double precision."""
    return np.einsum("jm,jm->j", atoms, atoms, dtype=np.float64)


def _without_gap(codes: Tensor, energy: np.ndarray, n_iter: np.ndarray) -> Answer:
    """k-sparse codes have none."""
    gap = torch.full((len(codes),), torch.nan, dtype=torch.float64)
    return Answer(codes, gap, torch.from_numpy(energy), torch.from_numpy(n_iter))


def _few_pursuit(
    rows: np.ndarray,
    atoms: np.ndarray,
    options: tuple[Any, ...],
    max_steps: int,
    out: tuple[Any, ...],
) -> Callable[[np.ndarray], np.ndarray]:
    """Rows of float32 side by side; those that this leaves, and others, one at a time."""
    k, *others = options
    problem, tables = few(atoms, np.zeros(len(atoms)), 0.0), lanes(atoms)

    def solve(chunk: np.ndarray) -> np.ndarray:
        if rows.dtype == np.float32:
            given = (rows, tables, abreast(tables), min(k, max_steps), *others, *out)
            chunk = _left(lane_pursuit, chunk, *given)
        if len(chunk):  # otherwise there is nothing to be compiled for
            given = (rows, problem, block(problem), *options, max_steps, *out)
            chunk = _left(few_pursuit, chunk, *given)
        return chunk

    return solve


def _left(loops: Callable[..., int], chunk: np.ndarray, *given: Any) -> np.ndarray:
    """Rows that loops leave."""
    left = np.empty_like(chunk)
    return left[: loops(chunk, left, *given)]


def _and_the_rest(
    few: Callable[[np.ndarray], np.ndarray],
    many: Callable[[np.ndarray, tuple[Any, ...]], None],
    rows: np.ndarray,
    out: tuple[Any, ...],
) -> None:
    """Solve rows by ``few``, and those that it leaves by ``many``."""
    left = [np.empty(0, np.int64)]
    size = CHUNK // out[0].shape[1]
    in_chunks(lambda chunk: left.append(few(chunk)), len(rows), size)
    rest = np.sort(np.concatenate(left))
    if len(rest):  # otherwise there is nothing to be compiled for
        answers = tuple(a[rest] for a in out)
        many(rows[rest], answers)
        for whole, answer in zip(out, answers, strict=True):
            whole[rest] = answer
