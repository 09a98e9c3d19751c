"""Activations on their way to the disk: begun, killed and gone on with, to the same bytes."""

import zlib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from .extraction import Block
from .language_models import stable_name
from .store import ActivationStore
from .store_files import MANIFEST, check_free
from .store_rows import TORCH
from .store_writer import StoreWriter
from .windows import Windows

ENTRY = "extraction"  # of the metadata


@dataclass(frozen=True)
class Progress:
    """How far a store has come; kept in its metadata, one step with the rows.

    Attributes
    ----------
    blocks : int
        Blocks all of whose rows are there. Rows of the next one may be there, too.
    rows : int
        Theirs.
    outliers : int
        Rows of them that were left out.
    crc32 : int
        Of the token ids and document numbers of these blocks: tells whether texts are the same.
    complete : bool
        Whether nothing is to come.
    """

    blocks: int = 0
    rows: int = 0
    outliers: int = 0
    crc32: int = 0
    complete: bool = False


class Target:
    """One store that is filled.

    Parameters
    ----------
    place : Path or ActivationStore
    settings : dict
        What its rows depend on, beside the texts; what is there must have been begun with the same.
    dtype : str
    rows_per_shard : int or None

    Raises
    ------
    ValueError
        If what is there was begun in another way.
    FileExistsError
        If there is something else.
    """

    def __init__(
        self,
        place: Path | ActivationStore,
        settings: dict[str, Any],
        dtype: str,
        rows_per_shard: int | None,
    ) -> None:
        self.settings, self.dtype, self.rows_per_shard = settings, dtype, rows_per_shard
        self.progress, self.length = Progress(), 0
        self.store = place if isinstance(place, ActivationStore) else None
        self.writer: StoreWriter | None = None
        self.path = place.path if isinstance(place, ActivationStore) else place
        if (self.path / MANIFEST).exists():
            if self.store is None:
                self.store = ActivationStore(self.path)
            self._take_up(self.store)
        else:
            check_free(self.path)

    def _take_up(self, store: ActivationStore) -> None:
        """Go on with a store, if it is the one."""
        kept = store.metadata.get(ENTRY)
        if kept is None and len(store):
            raise ValueError(
                f"store={str(self.path)!r} has {len(store)} rows that load_activations did not "
                "write; choose another one."
            )
        if kept is not None:
            try:
                self.progress = Progress(**kept.pop("progress"))
            except (TypeError, KeyError, AttributeError) as error:
                raise ValueError(
                    f"the metadata of store={str(self.path)!r} do not say how far it is "
                    f"({error}); choose another store."
                ) from error
            self._check_settings(kept)
        if store.stored_dtype != self.dtype:
            raise ValueError(
                f"dtype={self.dtype!r}, but store={str(self.path)!r} holds "
                f"{store.stored_dtype}; give dtype={store.stored_dtype!r}, or another store."
            )
        if self.rows_per_shard not in (None, store.rows_per_shard):
            raise ValueError(
                f"rows_per_shard={self.rows_per_shard}, but store={str(self.path)!r} has "
                f"{store.rows_per_shard}; give the same, or leave it out."
            )
        self.length = len(store)

    def _check_settings(self, kept: dict[str, Any]) -> None:
        for name, value in self.settings.items():
            # earlier versions wrote where the model of this package lay
            if stable_name(kept.get(name)) != value:
                raise ValueError(
                    f"{name}={value!r}, but store={str(self.path)!r} was begun with "
                    f"{kept.get(name)!r}; give the same to go on, or another store."
                )

    def open(self) -> None:
        """Lock the store that is there, and see again how far it is."""
        if self.store is not None:
            self.writer = self.store.writer()
            self._take_up(self.store)

    def begin(self, width: int) -> None:
        """Make the store, if there is none."""
        if self.store is None:
            self.store = ActivationStore.create(
                self.path,
                width,
                dtype=self.dtype,
                rows_per_shard=self.rows_per_shard,
                metadata={ENTRY: self._entry(Progress())},
                exist_ok=True,
            )
            self.writer = self.store.writer()
            self._take_up(self.store)
            if self.length or self.progress.blocks:
                raise RuntimeError(
                    f"another process has begun store={str(self.path)!r} since this one looked: "
                    "call again to go on with what is there."
                )

    def append(self, rows: Tensor, block: Block, progress: Progress) -> None:
        """Append those rows of a block that are not there yet."""
        assert self.writer is not None
        if progress.rows < self.length:
            return
        known = max(0, len(rows) - (progress.rows - self.length))
        columns = {name: values[known:] for name, values in block.columns._asdict().items()}
        self.writer.append(rows[known:], **columns)
        self.report(progress)

    def report(self, progress: Progress) -> None:
        """Say how far the store is; on the disk with its next rows."""
        assert self.writer is not None
        self.writer.update_metadata(**{ENTRY: self._entry(progress)})

    def _entry(self, progress: Progress) -> dict[str, Any]:
        return {**self.settings, "progress": asdict(progress)}


class Stores:
    """Takes blocks into stores, exactly once; used with ``with``.

    Rows are written in a thread while the next block is made. After an error the stores are
    what a kill would have left: whole files only.

    Parameters
    ----------
    targets : list of Target
        One for each site.
    """

    def __init__(self, targets: list[Target]) -> None:
        self.targets = targets
        self._progress, self._crc32 = Progress(), 0
        self._thread = ThreadPoolExecutor(1, "store-writer")
        self._pending: Future[None] | None = None

    @property
    def are_complete(self) -> bool:
        return all(target.progress.complete for target in self.targets)

    @property
    def n_outliers(self) -> int:
        return max(target.progress.outliers for target in self.targets)

    @property
    def n_rows(self) -> int:
        """In each of the stores, once all blocks are written."""
        return self._progress.rows

    def remaining(self, blocks: Iterator[Windows]) -> Iterator[Windows]:
        """Blocks that are not in all stores; none if these are complete.

        Raises
        ------
        ValueError
            If those before them are not what the stores were begun with.
        """
        number, begun = 0, self._progress.blocks
        for number, windows in enumerate(blocks, 1):
            self._crc32 = _checksum(windows, self._crc32)
            self._check_texts(number)
            if number > begun:
                yield windows
        self._check_texts(number, is_end=True)

    def _check_texts(self, n_blocks: int, is_end: bool = False) -> None:
        """Refuse texts as soon as one of the stores was begun with others."""
        for target in self.targets:
            begun = target.progress
            is_same = n_blocks != begun.blocks or self._crc32 == begun.crc32
            is_too_long = begun.complete and n_blocks > begun.blocks
            is_too_short = is_end and n_blocks < begun.blocks
            if not is_same or is_too_long or is_too_short:
                raise ValueError(
                    f"texts are not those that store={str(target.path)!r} was begun with; give "
                    "the same in the same order, or another store; ActivationStore(path) opens "
                    "what is there."
                )

    def check_texts(self, blocks: Iterator[Windows]) -> None:
        """Compare texts with those of complete stores: read and cut, not run through the model.

        Raises
        ------
        ValueError
            If they are others. They are read no further than the stores went, and one block.
        """
        self._begin()
        for _ in self.remaining(blocks):
            raise AssertionError("a complete store lacks a block")

    def room(self, n_rows: int, widths: list[int]) -> list[Tensor]:
        """Where the next rows go, until they are written."""
        for target, width in zip(self.targets, widths, strict=True):
            target.begin(width)
        dtype = TORCH[self.targets[0].dtype]
        return [torch.empty(n_rows, width, dtype=dtype) for width in widths]

    def append(self, block: Block) -> None:
        """Write a block, which is the next one of `remaining`, when the last is written."""
        self._wait()
        before = self._progress
        self._progress = Progress(
            blocks=before.blocks + 1,
            rows=before.rows + len(block.columns.token_ids),
            outliers=before.outliers + block.n_outliers,
            crc32=self._crc32,
        )
        self._pending = self._thread.submit(self._write, block, self._progress)

    def _write(self, block: Block, progress: Progress) -> None:
        for target, rows in zip(self.targets, block.rows, strict=True):
            target.append(rows, block, progress)

    def _wait(self) -> None:
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def _begin(self) -> None:
        """Start at the store that is least far; the others wait for it."""
        self._progress = min((t.progress for t in self.targets), key=lambda p: p.blocks)

    def __enter__(self) -> "Stores":
        try:
            for target in self.targets:
                target.open()
            self._begin()
        except BaseException:
            self._discard()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self._finish()
        finally:
            self._discard()

    def _finish(self) -> None:
        self._wait()
        for target in self.targets:
            assert target.writer is not None
            target.report(replace(self._progress, complete=True))
            target.writer.close()
            target.progress = self._progress

    def _discard(self) -> None:
        self._thread.shutdown()
        for target in self.targets:
            if target.writer is not None:
                target.writer.discard()


def _checksum(windows: Windows, crc32: int) -> int:
    for ids in windows.token_ids:
        crc32 = zlib.crc32(ids.data, crc32)
    return zlib.crc32(windows.document_ids.data, crc32)
