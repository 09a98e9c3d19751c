"""Chunks of rows in as many threads as torch uses."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

TASKS = 4  # chunks for a thread, for some take longer than others


def few_for_each(n: int, least: int) -> int:
    """Rows of a chunk if there are few chunks, for each costs some calls; at least so many."""
    return max(least, -(-n // (TASKS * torch.get_num_threads())))


def in_chunks(
    work: Callable[..., Any],
    n: int,
    size: int,
    *more: Any,
    room: Callable[[], Any] | None = None,
    free: list[Any] | None = None,
) -> None:
    """Call ``work`` on all rows, in chunks of at most ``size``, with whatever ``more`` it takes.

    And last with ``room()``, where it needs arrays to work in. Chunks that are done at the same
    time have their own, those after each other the same: it takes as long as some rows do. A list
    ``free`` keeps them for the next call.

    The calling thread works, too: the system may begin two new ones on the same processor, where
    they stay for milliseconds. The others live for one call: nothing is left behind for a forked
    child to wait for.
    """
    free = [] if free is None else free

    def call(chunk: np.ndarray) -> None:
        if room is None:
            work(chunk, *more)
            return
        try:
            mine = free.pop()
        except IndexError:
            mine = room()
        work(chunk, *more, mine)
        free.append(mine)

    threads = torch.get_num_threads()
    if n > size:  # as many rows for each thread
        turns = -(-n // (size * threads))
        size = -(-n // (turns * threads))
    chunks = [np.arange(i, min(i + size, n)) for i in range(0, n, size)]
    rest = iter(chunks)

    def work_off() -> None:
        try:
            for chunk in rest:
                call(chunk)
        finally:  # after an error or an interrupt no thread begins another
            for _ in rest:
                pass

    others = min(threads, len(chunks)) - 1
    if others < 1:
        work_off()
        return
    with ThreadPoolExecutor(others) as pool:
        futures = [pool.submit(work_off) for _ in range(others)]
        work_off()  # one thread fewer to begin, which takes as long as some chunks
    for future in futures:
        future.result()
