"""In which order a pass over the data reads its rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from threading import Thread
from typing import Protocol, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")

# Where single rows are dear to read, a block of this many batches is read at once, ...
BLOCK_BATCHES = 4
# ... and the rows of this many blocks, from anywhere in the file, are mixed.
MIXED_BLOCKS = 4


class Rows(Protocol):
    """A matrix that can be read in parts, whatever holds it.

    ``contiguous`` says that only slices are cheap: the rows lie on a disk.
    """

    contiguous: bool

    def __len__(self) -> int: ...

    def read(self, index: slice | Tensor) -> Tensor:
        """Rows as a tensor on the computing device, never to be written to."""
        ...


def epoch(
    sources: tuple[Rows, ...],
    batch_size: int,
    generator: torch.Generator,
    *,
    shuffle: bool,
    skip: int = 0,
) -> Iterator[tuple[Tensor, ...]]:
    """Batches of one pass, the same rows from every source.

    In memory the rows are permuted. On disk contiguous blocks are permuted, and the
    rows of some consecutive ones together: every row is read exactly once, in long
    reads, and neighbours, which are alike, are spread over other rows. The blocks to
    come are read in a thread meanwhile.

    Parameters
    ----------
    sources : tuple of Rows
        All of the same length.
    batch_size : int
    generator : torch.Generator
    shuffle : bool
    skip : int
        Batches to leave out at the start; what only they need is not read. The others
        are as they would be without it.
    """
    n = len(sources[0])
    if not shuffle:
        for start in range(skip * batch_size, n, batch_size):
            yield tuple(s.read(slice(start, min(start + batch_size, n))) for s in sources)
    elif not any(s.contiguous for s in sources):
        for index in torch.randperm(n, generator=generator).split(batch_size)[skip:]:
            yield tuple(s.read(index) for s in sources)
    else:
        buffers = _buffers(n, batch_size, generator, skip)
        reads = (partial(_read, sources, blocks, pieces) for blocks, pieces in buffers)
        for rows, pieces in read_ahead(reads):
            for index in pieces:
                yield tuple(t[index.to(t.device)] for t in rows)
            del rows  # or it would outlive the wait for the next


def _buffers(
    n: int, batch_size: int, generator: torch.Generator, skip: int
) -> Iterator[tuple[list[slice], list[Tensor]]]:
    """Blocks that are mixed, and which of their rows make a batch."""
    size = batch_size * BLOCK_BATCHES
    for numbers in torch.randperm(-(-n // size), generator=generator).split(MIXED_BLOCKS):
        blocks = [slice(i * size, min((i + 1) * size, n)) for i in numbers.tolist()]
        n_rows = sum(block.stop - block.start for block in blocks)
        pieces = torch.randperm(n_rows, generator=generator).split(batch_size)
        left, skip = pieces[skip:], max(0, skip - len(pieces))
        if left:
            yield blocks, list(left)


def _read(
    sources: tuple[Rows, ...], blocks: list[slice], pieces: list[Tensor]
) -> tuple[tuple[Tensor, ...], list[Tensor]]:
    return tuple(_joined(source, blocks) for source in sources), pieces


def _joined(source: Rows, blocks: list[slice]) -> Tensor:
    """Some blocks, one after the other; only one is held twice."""
    first = source.read(blocks[0])
    if len(blocks) == 1:
        return first
    whole = first.new_empty(sum(b.stop - b.start for b in blocks), first.shape[1])
    whole[: len(first)] = first
    done = len(first)
    del first
    for block in blocks[1:]:
        end = done + block.stop - block.start
        whole[done:end] = source.read(block)
        done = end
    return whole


def read_ahead(reads: Iterator[Callable[[], T]]) -> Iterator[T]:
    """Results of some calls in order; the next one is made in a thread meanwhile.

    Never more than one result waits. ``reads`` is asked for the next call here, not in the
    thread. What a call raises is raised where its result would have come. A thread lives
    as long as its call, and is waited for when this iterator is closed.

    Parameters
    ----------
    reads : iterator of callables without arguments

    Yields
    ------
    result : object
    """
    call = next(reads, None)
    if call is None:
        return
    result: T = call()
    while (call := next(reads, None)) is not None:
        future: Future[T] = Future()
        thread = Thread(target=_run, args=(call, future), name="read-ahead")
        thread.start()
        try:
            yield result
            del result
        finally:
            thread.join()
        result = future.result()
    yield result


def _run(call: Callable[[], T], future: Future[T]) -> None:
    try:
        future.set_result(call())
    except BaseException as error:
        future.set_exception(error)


def sample(source: Rows, limit: int) -> Tensor:
    """At most ``limit`` rows, evenly spread over the source; all of them if they fit."""
    return samples((source,), limit)[0]


def samples(sources: tuple[Rows, ...], limit: int) -> tuple[Tensor, ...]:
    """The same rows of every source, chosen as in :func:`sample`."""
    n = len(sources[0])
    if n <= limit:
        return tuple(source.read(slice(0, n)) for source in sources)
    if not any(source.contiguous for source in sources):
        index = torch.linspace(0, n - 1, limit).round().long()
        return tuple(source.read(index) for source in sources)
    pieces = 64  # long reads, spread over the file
    length = limit // pieces
    starts = torch.linspace(0, n - length, pieces).long().tolist()
    slices = [slice(start, start + length) for start in starts]
    return tuple(torch.cat([source.read(part) for part in slices]) for source in sources)
