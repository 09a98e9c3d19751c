"""Rows over few atoms: side by side, what these leave one at a time, and the rest as over many."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from .cpu_chunks import few_for_each, in_chunks
from .cpu_few_atoms import few_atoms
from .cpu_few_pursuit import few_pursuit
from .cpu_few_state import block, few
from .cpu_lane_active import active, penalised
from .cpu_lane_lasso import lane_lasso
from .cpu_lane_pursuit import lane_pursuit
from .cpu_lane_state import abreast, lanes
from .cpu_lane_vectors import permutes

WIDEST = 32, 256  # atoms and features up to which the lasso of rows side by side is faster
# Rows of a chunk side by side stop after as many steps as this share of so many first ones took,
# if they were no more than SOON.
SOME, MOST, SOON = 64, 0.8, 8
ROWS = 2**13, 2**15  # least and most rows of a chunk, which takes some calls of 50 µs each
DEEPEST = 16  # most atoms that are added to rows side by side, at most DEPTH

Solve = Callable[[np.ndarray, Any], np.ndarray]  # rows, and room, to the rows it leaves
Rest = Callable[[np.ndarray, tuple[Any, ...]], Any]  # rows and where their answers go


def lasso(given: tuple[Any, ...], max_steps: int, out: tuple[Any, ...], many: Rest) -> None:
    """Rows side by side, then those that this leaves with all atoms in vectors, then the rest."""
    rows, atoms, prices, *options = given
    problem = few(atoms, prices, options[0])
    beside, room = _lasso_side_by_side(given, max_steps, out)

    def solve(chunk: np.ndarray, rooms: tuple[Any, Any]) -> np.ndarray:
        chunk = beside(chunk, rooms[0])
        if len(chunk):  # otherwise there is nothing to be compiled for
            more = (rows, problem, rooms[1], *options, max_steps, *out)
            chunk = _left(few_atoms, chunk, *more)
        return chunk

    _and_the_rest(solve, lambda: (room(), block(problem)), many, rows, out)


def _lasso_side_by_side(
    given: tuple[Any, ...], max_steps: int, out: tuple[Any, ...]
) -> tuple[Solve, Callable[[], Any]]:
    """Rows of float32 side by side, which leaves some, and the room it takes.

    Sixteen rows take as many steps as the slowest of them. So after as many as most of the first
    rows took, those that are not done wait, and start again among their like: this does not
    change their answers.
    """
    rows, atoms, prices, ridge, positive, eps = given
    fits = atoms.shape[0] <= WIDEST[0] and atoms.shape[1] <= WIDEST[1]
    served = rows.dtype == np.float32 and not ridge and (prices > 0).all()
    if not (fits and served and permutes()):
        return lambda chunk, room: chunk, lambda: None
    tables, most, n_iter = penalised(atoms, prices), min(DEEPEST, max_steps), out[-1]

    def solve(chunk: np.ndarray, room: Any) -> np.ndarray:
        def step(chunk: np.ndarray, most: int) -> np.ndarray:
            return _left(lane_lasso, chunk, rows, tables, room, most, positive, eps, *out)

        some, others = chunk[:SOME], chunk[SOME:]
        left = step(some, most)
        usual = int(np.sort(n_iter[some])[int(MOST * (len(some) - 1))])
        if len(others) and usual <= SOON:
            others = step(others, min(usual, most))
        return np.concatenate([left, step(others, most)])

    return solve, lambda: active(tables)


def pursuit(
    rows: np.ndarray,
    atoms: np.ndarray,
    options: tuple[Any, ...],
    max_steps: int,
    out: tuple[Any, ...],
    many: Rest,
) -> None:
    """Rows of float32 side by side; those that this leaves, and others, one at a time."""
    k, *others = options
    tables = lanes(atoms)
    problem = cache(lambda: few(atoms, np.zeros(len(atoms)), 0.0))  # mostly no row asks for it

    def solve(chunk: np.ndarray, rooms: tuple[Any, Any]) -> np.ndarray:
        if rows.dtype == np.float32:
            given = (rows, tables, rooms[0], min(k, max_steps), *others, *out)
            chunk = _left(lane_pursuit, chunk, *given)
        if len(chunk):  # otherwise there is nothing to be compiled for
            given = (rows, problem(), rooms[1](), *options, max_steps, *out)
            chunk = _left(few_pursuit, chunk, *given)
        return chunk

    def room() -> tuple[Any, Callable[[], Any]]:
        return abreast(tables), cache(lambda: block(problem()))

    _and_the_rest(solve, room, many, rows, out)


def _left(loops: Callable[..., int], chunk: np.ndarray, *given: Any) -> np.ndarray:
    """Rows that loops leave."""
    left = np.empty_like(chunk)
    return left[: loops(chunk, left, *given)]


def _and_the_rest(
    solve: Solve, room: Callable[[], Any], many: Rest, rows: np.ndarray, out: tuple[Any, ...]
) -> None:
    """Solve rows by ``solve``, and those that it leaves by ``many``."""
    left = [np.empty(0, np.int64)]
    size = min(few_for_each(len(rows), ROWS[0]), ROWS[1])
    in_chunks(lambda chunk, mine: left.append(solve(chunk, mine)), len(rows), size, room=room)
    rest = np.sort(np.concatenate(left))
    if len(rest):  # otherwise there is nothing to be compiled for
        answers = tuple(a[rest] for a in out)
        many(rows[rest], answers)
        for whole, answer in zip(out, answers, strict=True):
            whole[rest] = answer
