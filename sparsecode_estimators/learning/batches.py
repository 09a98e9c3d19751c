"""In which order a pass over the data reads its rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

# A block of this many batches is read at once where single rows are dear to read.
BLOCK_BATCHES = 16


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

    In memory the rows are permuted. On disk contiguous blocks are permuted, and
    the rows inside each block: every row is read exactly once, in long reads.

    Parameters
    ----------
    sources : tuple of Rows
        All of the same length.
    batch_size : int
    generator : torch.Generator
    shuffle : bool
    skip : int
        Batches to leave out at the start, which are not read.
    """
    n = len(sources[0])
    if not shuffle:
        for start in range(skip * batch_size, n, batch_size):
            yield tuple(s.read(slice(start, min(start + batch_size, n))) for s in sources)
    elif not any(s.contiguous for s in sources):
        for index in torch.randperm(n, generator=generator).split(batch_size)[skip:]:
            yield tuple(s.read(index) for s in sources)
    else:
        size = batch_size * BLOCK_BATCHES
        for block in torch.randperm(-(-n // size), generator=generator).tolist():
            part = slice(block * size, min((block + 1) * size, n))
            order = torch.randperm(part.stop - part.start, generator=generator)
            pieces = order.split(batch_size)
            left, skip = pieces[skip:], max(0, skip - len(pieces))
            if left:
                whole = tuple(s.read(part) for s in sources)
                for index in left:
                    yield tuple(t[index.to(t.device)] for t in whole)


def sample(source: Rows, limit: int) -> Tensor:
    """At most ``limit`` rows, evenly spread over the source; all of them if they fit."""
    n = len(source)
    if n <= limit:
        return source.read(slice(0, n))
    if not source.contiguous:
        return source.read(torch.linspace(0, n - 1, limit).round().long())
    pieces = 64  # long reads, spread over the file
    length = limit // pieces
    starts = torch.linspace(0, n - length, pieces).long().tolist()
    return torch.cat([source.read(slice(start, start + length)) for start in starts])
