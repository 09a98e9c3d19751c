"""In which order a pass over the data reads its rows."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future
from functools import partial
from threading import Thread
from typing import NamedTuple, Protocol, TypeVar

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

    def scaled(self, part: Tensor) -> Tensor:
        """Rows as :meth:`read` gives them, from the same rows as they are."""
        ...


class Batch(NamedTuple):
    """Rows that one process computes of a batch that several may share.

    Attributes
    ----------
    rows : tuple of Tensor of shape (n_own, n_features)
        The same rows of every source.
    n : int
        Rows of the whole batch.
    copies : int
        How many processes compute each row.
    """

    rows: tuple[Tensor, ...]
    n: int
    copies: int

    @property
    def share(self) -> float:
        """Weight of the mean over these rows in the mean over the batch."""
        return len(self.rows[0]) / (self.n * self.copies)


def epoch(
    sources: tuple[Rows, ...],
    batch_size: int,
    generator: torch.Generator,
    *,
    shuffle: bool,
) -> Iterator[tuple[Tensor, ...]]:
    """The rows of :func:`batches`, for one process."""
    return (b.rows for b in batches(sources, batch_size, generator, shuffle=shuffle))


def batches(
    sources: tuple[Rows, ...],
    batch_size: int,
    generator: torch.Generator,
    *,
    shuffle: bool,
    skip: int = 0,
    rank: int = 0,
    size: int = 1,
) -> Generator[Batch]:
    """Batches of one pass, the same rows from every source.

    In memory the rows are permuted. On disk contiguous blocks are permuted, and the
    rows of some consecutive ones together: every row is read exactly once, in long
    reads, and neighbours, which are alike, are spread over other rows. The blocks to
    come are read in a thread meanwhile.

    Of several processes each reads its part: of a batch in memory one piece, on disk one piece
    of every block, so that its number of rows of a batch varies a little. The batches are those
    of one process. Where rows are too few for all processes, each computes all of them.

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
    rank, size : int
        Number of this process, and how many there are.
    """
    n = len(sources[0])
    if not shuffle:
        for start in range(skip * batch_size, n, batch_size):
            length = min(batch_size, n - start)
            part, copies = _part(length, rank, size)
            own = slice(start + part.start, start + part.stop)
            yield Batch(tuple(s.read(own) for s in sources), length, copies)
    elif not any(s.contiguous for s in sources):
        for index in torch.randperm(n, generator=generator).split(batch_size)[skip:]:
            part, copies = _part(len(index), rank, size)
            yield Batch(tuple(s.read(index[part]) for s in sources), len(index), copies)
    else:
        buffers = _buffers(n, batch_size, generator, skip)
        reads = (partial(_read, sources, *_own(*buffer, rank, size)) for buffer in buffers)
        for rows, pieces in read_ahead(reads):
            for index, length, copies in pieces:
                yield Batch(tuple(t[index.to(t.device)] for t in rows), length, copies)
            del rows  # or it would outlive the wait for the next


def _part(n: int, rank: int, size: int) -> tuple[slice, int]:
    """Which of n rows a process computes, never none, and how many processes do so."""
    if n < size:
        return slice(0, n), size
    return part_of(n, rank, size), 1


def part_of(n: int, rank: int, size: int) -> slice:
    """One of ``size`` parts of n things, as equal as they can be."""
    return slice(n * rank // size, n * (rank + 1) // size)


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


_Piece = tuple[Tensor, int, int]  # rows of a batch, its length, how many processes have them


def _own(
    blocks: list[slice], pieces: list[Tensor], rank: int, size: int
) -> tuple[list[slice], list[_Piece]]:
    """What a process reads of some blocks, and which of these rows it has of each batch.

    Its part of every block, unless some process would be without a row of some batch.
    """
    lengths = [block.stop - block.start for block in blocks]
    owner = torch.cat([torch.arange(n) * size // n for n in lengths])
    if size == 1 or any(len(owner[piece].unique()) < size for piece in pieces):
        parts = [(piece, *_part(len(piece), rank, size)) for piece in pieces]
        return blocks, [(piece[part], len(piece), copies) for piece, part, copies in parts]
    mine = owner == rank
    place = mine.cumsum(0) - 1  # in what is read
    own = []
    for block, is_mine in zip(blocks, mine.split(lengths), strict=True):
        found = torch.nonzero(is_mine).squeeze(1).tolist()
        if found:
            own.append(slice(block.start + found[0], block.start + found[-1] + 1))
    return own, [(place[piece[mine[piece]]], len(piece), 1) for piece in pieces]


def _read(
    sources: tuple[Rows, ...], blocks: list[slice], pieces: list[_Piece]
) -> tuple[tuple[Tensor, ...], list[_Piece]]:
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


def samples(sources: tuple[Rows, ...], limit: int, phase: float = 0.0) -> tuple[Tensor, ...]:
    """The same rows of every source, chosen as in :func:`sample`.

    ``phase``, in [0, 1), says which: others for another number.
    """
    n = len(sources[0])
    if n <= limit:
        return tuple(source.read(slice(0, n)) for source in sources)
    if not any(source.contiguous for source in sources):
        step = (n - 1) / (limit - 1) if limit > 1 else 0.0
        index = (torch.linspace(0, n - 1, limit) + phase * step).round().long() % n
        return tuple(source.read(index) for source in sources)
    pieces = 64  # long reads, spread over the file
    length = limit // pieces
    last = n - length
    starts = torch.linspace(0, last, pieces).long() + int(phase * last / (pieces - 1))
    slices = [slice(start, start + length) for start in starts.clamp(max=last).tolist()]
    return tuple(torch.cat([source.read(part) for part in slices]) for source in sources)
