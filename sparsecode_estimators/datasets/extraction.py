"""The forward pass over blocks of windows, and the rows that it leaves."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain, repeat, takewhile
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..learning.batches import read_ahead
from .hooks import Site, evaluating, find_sites, run_until
from .language_models import input_device, resolve_model
from .windows import Columns, Windows, to_device

T = TypeVar("T")

_SECONDS = 10.0  # between lines of progress where the end is not known


class Block(NamedTuple):
    """Rows of some windows, in the order of the documents.

    Attributes
    ----------
    rows : list of Tensor of shape (n, n_features)
        One for each site.
    columns : Columns
        Of the same rows.
    n_outliers : int
        Rows that were left out.
    """

    rows: list[Tensor]
    columns: Columns
    n_outliers: int


class Sink(Protocol):
    """Where blocks go."""

    def room(self, n_rows: int, widths: list[int]) -> list[Tensor]:
        """Tensors for the rows of a block, one for the width at every site."""
        ...

    def append(self, block: Block) -> None:
        """Keep a block, whose rows are in the last room."""
        ...


@dataclass(frozen=True)
class Extractor:
    """Makes a block of rows of every block of windows.

    Parameters
    ----------
    model : str, path or transformers model
    where : list of (layer, hook)
    device : torch.device
    precision : str
        As `resolve_model` takes it.
    dtype : torch.dtype
        Of the rows.
    batch_size : int
        Windows in a forward pass.
    max_norm : float or None
        Rows that are longer than this many medians of their block, at any site, are left out.
    verbose : int
    """

    model: Any
    where: list[tuple[int, str]]
    device: torch.device
    precision: str
    dtype: torch.dtype
    batch_size: int
    max_norm: float | None
    verbose: int

    def run(self, blocks: Iterator[Windows], sink: Sink, n_rows: int | None = None) -> None:
        """Run all blocks through the model, which is loaded only if there is one.

        Parameters
        ----------
        blocks : iterator of Windows
        sink : Sink
        n_rows : int or None
            How many are to come, if that is known.

        Raises
        ------
        ValueError
            If an activation that is kept is not finite in `dtype`.
        """
        first = next(blocks, None)
        if first is None:
            return
        network = resolve_model(self.model, self.device, self.precision)
        sites = find_sites(network, self.where)
        progress = ProgressLines(n_rows, self.verbose)
        with evaluating(network):
            for windows in chain([first], blocks):
                batches = self._batches(network, sites, windows)
                sink.append(self._block(windows, batches, sink, progress))

    def _block(
        self, windows: Windows, batches: Iterator["_Batch"], sink: Sink, progress: "ProgressLines"
    ) -> Block:
        """Put the rows of all batches where they belong."""
        columns = windows.columns()
        n_rows = len(columns.token_ids)
        lengths = torch.empty(len(self.where), n_rows) if self.max_norm else None
        rows: list[Tensor] = []
        for target, arriving in _one_behind(batches):
            found = [part.wait() for part in arriving]
            if not rows:
                rows = sink.room(n_rows, [part.shape[1] for part in found])
            for number, part in enumerate(found):
                rows[number][target] = part
                if lengths is not None:
                    lengths[number, target] = arriving[number].lengths()
            progress.add(len(target))
        if lengths is not None:
            rows, columns = self._without_outliers(rows, columns, lengths)
        for part in rows:
            _check_finite(part)
        return Block(rows, columns, n_rows - len(columns.token_ids))

    def _batches(self, model: nn.Module, sites: list[Site], windows: Windows) -> Iterator["_Batch"]:
        """Where the rows of every batch go, and these at every site, on their way to the host."""
        options, device = forward_options(model), input_device(model)
        for chosen in windows.batches(self.batch_size):
            inputs = {**windows.inputs(chosen, device), **options}
            places = windows.places(chosen)
            take = partial(
                _Arriving,
                source=to_device(places.source, device),
                dtype=self.dtype,
                with_lengths=bool(self.max_norm),
            )
            yield places.target, run_until(model, sites, inputs, take)

    def _without_outliers(
        self, rows: list[Tensor], columns: Columns, lengths: Tensor
    ) -> tuple[list[Tensor], Columns]:
        """The other rows, moved together where they are."""
        if lengths.isnan().any():
            raise_not_finite(self.dtype)
        assert self.max_norm is not None
        kept = (lengths <= self.max_norm * lengths.median(dim=1, keepdim=True).values).all(0)
        if kept.all():
            return rows, columns
        n_kept = int(kept.sum())
        for part in rows:
            part[:n_kept] = part[kept]
        mask = kept.numpy()
        return [part[:n_kept] for part in rows], Columns(*(column[mask] for column in columns))


class _Arriving:
    """The rows of a batch at one site, on their way to the host if they were made on a GPU."""

    def __init__(
        self, hidden: Tensor, *, source: Tensor, dtype: torch.dtype, with_lengths: bool
    ) -> None:
        chosen = hidden[source.to(hidden.device)]
        self._rows = chosen.to(dtype).to("cpu", non_blocking=True)
        self._lengths: Tensor | None = None
        if with_lengths:
            norms = torch.linalg.vector_norm(chosen, dim=1, dtype=torch.float32)
            self._lengths = norms.to("cpu", non_blocking=True)
        self._event = None
        if hidden.is_cuda:
            self._event = torch.cuda.Event()
            self._event.record(torch.cuda.current_stream(hidden.device))

    def wait(self) -> Tensor:
        """The rows, once they are here."""
        if self._event is not None:
            self._event.synchronize()
        return self._rows

    def lengths(self) -> Tensor:
        """Their norms, before they were rounded."""
        assert self._lengths is not None
        return self._lengths


_Batch = tuple[Tensor, list[_Arriving]]


def _one_behind(items: Iterator[T]) -> Iterator[T]:
    """The same items, each when the next has been begun: a GPU computes while the host copies."""
    before = None
    for item in items:
        if before is not None:
            yield before
        before = item
    if before is not None:
        yield before


def ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items, the next made in a thread meanwhile, as a tokenizer needs no model."""
    made = read_ahead(repeat(partial(next, items, None)))
    return takewhile(lambda item: item is not None, made)


def forward_options(model: nn.Module) -> dict[str, bool]:
    """Turn off what the configuration turns on and a pass that is cut short cannot use."""
    names = ("use_cache", "output_hidden_states", "output_attentions")
    return {name: False for name in names if getattr(model.config, name, False)}


class Memory:
    """Takes blocks into arrays that are allocated once.

    Parameters
    ----------
    n_rows : int
        At most.
    dtype : torch.dtype
    """

    def __init__(self, n_rows: int, dtype: torch.dtype) -> None:
        self.n_rows, self.dtype = n_rows, dtype
        self.done = self.n_outliers = 0
        self._rows: list[Tensor] = []
        self._columns: list[Columns] = []

    def room(self, n_rows: int, widths: list[int]) -> list[Tensor]:
        """Where the next rows go."""
        if not self._rows:
            self._rows = [torch.empty(self.n_rows, width, dtype=self.dtype) for width in widths]
        return [rows[self.done : self.done + n_rows] for rows in self._rows]

    def append(self, block: Block) -> None:
        """Keep what has been put into the room."""
        self.done += len(block.columns.token_ids)
        self.n_outliers += block.n_outliers
        self._columns.append(block.columns)

    def arrays(self) -> list[NDArray[Any]]:
        """All rows, at every site."""
        return [rows[: self.done].numpy() for rows in self._rows]

    def columns(self) -> Columns:
        """Of all rows."""
        return Columns(*map(np.concatenate, zip(*self._columns, strict=True)))


class ProgressLines:
    """Prints lines, if asked to: each tenth, or now and then where the end is not known."""

    def __init__(self, total: int | None, verbose: int) -> None:
        self.total, self.verbose = total, verbose
        self.done = 0
        self.begin = self.last = time.monotonic()

    def add(self, n_tokens: int) -> None:
        before, self.done = self.done, self.done + n_tokens
        if not self.verbose:
            return
        now = time.monotonic()
        if self.total is None:
            is_time = now - self.last >= _SECONDS
        else:
            is_time = 10 * before // self.total < 10 * self.done // self.total
        if is_time:
            self.last = now
            share = "" if self.total is None else f" of {self.total}"
            percent = "" if self.total is None else f" ({self.done / self.total:.0%})"
            seconds = now - self.begin
            print(  # noqa: T201
                f"[load_activations] {self.done}{share} tokens{percent}, {seconds:.0f} s, "
                f"{self.done / max(seconds, 1e-9):.0f} tokens/s",
                flush=True,
            )


def _check_finite(rows: Tensor) -> None:
    # both ends are NaN if anything is; no second array is made
    if rows.numel() and not all(end.isfinite() for end in rows.aminmax()):
        raise_not_finite(rows.dtype)


def raise_not_finite(dtype: torch.dtype) -> None:
    """Say what to do about activations that are not finite."""
    remedy = (
        'float16 ends at 65504, ask for dtype="float32", or leave outliers out with max_norm'
        if dtype == torch.float16
        else "check the weights of the model"
    )
    raise ValueError(f"the model gave activations that are not finite; {remedy}.")
