"""Appending to a store of activations, shard after shard."""

import contextlib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .store_files import ROWS, Manifest, checked_metadata, remove_leftovers, write_shard
from .store_rows import TORCH, IncomingRows, incoming_columns

_LOCK = "writer.lock"


class StoreWriter:
    """Appends rows to a store; made by ``ActivationStore.writer()``, used with ``with``.

    Rows are gathered in memory, and written when they fill a shard, by :meth:`flush`, and at
    the end of the ``with`` block, also if it ends with an error. If the process is killed, the
    rows since the last shard are lost and nothing else: ``len(store)`` says from which row to
    go on.

    Parameters
    ----------
    path : Path
    adopt : callable
        Called with the manifest whenever there is a new one.

    Raises
    ------
    RuntimeError
        If another writer is at work on the same store.
    OSError
        If the folder cannot be written to.
    """

    def __init__(self, path: Path, adopt: Callable[[Manifest], None]) -> None:
        self._path, self._adopt = path, adopt
        self._lock: _Lock | None = _Lock(path)
        try:
            self._manifest = Manifest.read(path)  # another writer may have been at work since
            remove_leftovers(path, self._manifest)
        except BaseException:
            self._release()
            raise
        adopt(self._manifest)
        self._columns = self._manifest.columns
        self._open: dict[str, NDArray[Any]] = {}  # the shard that is being filled
        self._n_open = 0
        self._has_news = False  # metadata that are not on the disk

    def append(
        self,
        rows: Any,
        token_ids: Any = None,
        document_ids: Any = None,
        positions: Any = None,
    ) -> None:
        """Append rows, and what is known of them.

        Either all rows of a store have a certain column, or none: the first call decides. If a
        check fails nothing of these rows is appended.

        Parameters
        ----------
        rows : ndarray or Tensor of shape (n, n_features)
            Of the store's dtype, or float32, which is rounded to it. A store of float32 takes
            float16 and bfloat16 as well. All else is refused, as float64, which would lose
            digits.
        token_ids, document_ids, positions : array-like of int of shape (n,), default=None

        Raises
        ------
        TypeError
            For rows of another type, and columns that are not integers.
        ValueError
            For another width, other columns than before, and rows that are not finite in the
            store's dtype: float16 ends at 65504.
        OSError
            If a shard cannot be written, as on a full disk. The store is as it was after the
            shard before, and this writer is closed.
        """
        self._check_open()
        incoming = IncomingRows(rows, self._manifest)
        given = {"token_ids": token_ids, "document_ids": document_ids, "positions": positions}
        columns = incoming_columns(given, len(incoming), self._columns)
        if not len(incoming):
            return
        self._columns = tuple(columns)
        start = 0
        while start < len(incoming):
            start += self._take(incoming, columns, start)
            if self._n_open == self._manifest.rows_per_shard:
                self.flush()

    def update_metadata(self, **entries: Any) -> None:
        """Set entries of the store's metadata.

        They come to the disk in one step with the next shard: what they say of the rows before
        them is true whenever the process is killed.

        Parameters
        ----------
        **entries : object
            Anything that can be written as JSON.

        Raises
        ------
        TypeError
            If it cannot.
        """
        self._check_open()
        metadata = {**self._manifest.metadata, **checked_metadata(entries)}
        self._has_news = self._has_news or metadata != self._manifest.metadata
        self._manifest = replace(self._manifest, metadata=metadata)

    def flush(self) -> None:
        """Write the rows that are in memory now, as a shard that may be a short one.

        Raises
        ------
        OSError
            As :meth:`append`.
        """
        self._check_open()
        if not self._n_open and not self._has_news:
            return
        filled = {name: array[: self._n_open] for name, array in self._open.items()}
        manifest = replace(self._manifest, columns=self._columns)
        try:
            if self._n_open:
                shard = write_shard(self._path, manifest.next_name(), manifest, filled)
                manifest = replace(manifest, shards=(*manifest.shards, shard))
            manifest.write(self._path)
        except BaseException as error:
            self._abandon()
            if isinstance(error, OSError):
                raise OSError(
                    error.errno,
                    f"A shard could not be written ({error.strerror}). The store keeps its first "
                    f"{self._manifest.n_rows} rows: go on from there with another writer when "
                    "there is room",
                    str(self._path),
                ) from error
            raise
        self._manifest, self._n_open, self._has_news = manifest, 0, False
        self._adopt(manifest)

    def close(self) -> None:
        """Write what is in memory and let others write. Again, it does nothing."""
        if self._lock is not None:
            try:
                self.flush()
            finally:
                self._release()

    def discard(self) -> None:
        """Drop what has not been written, and let others write. Again, it does nothing.

        The store is then what a kill would leave.
        """
        if self._lock is not None:
            self._abandon()

    def __enter__(self) -> "StoreWriter":
        self._check_open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _take(
        self, incoming: IncomingRows, columns: dict[str, NDArray[np.int64]], start: int
    ) -> int:
        """Copy rows into the open shard, as many as fit."""
        size = self._manifest.rows_per_shard
        if not self._open:
            # the system gives pages of it as they are filled
            shape = (size, self._manifest.n_features)
            self._open = {
                ROWS: _bits(torch.empty(shape, dtype=TORCH[self._manifest.dtype])),
                **{name: np.empty(size, np.int64) for name in columns},
            }
        n = min(len(incoming) - start, size - self._n_open)
        place = slice(self._n_open, self._n_open + n)
        step = max(1, 2**20 // self._manifest.n_features)
        for done in range(0, n, step):
            block = incoming.block(start + done, start + min(done + step, n))
            at = place.start + done
            self._open[ROWS][at : at + len(block)] = _bits(block.to(TORCH[self._manifest.dtype]))
        for name, values in columns.items():
            self._open[name][place] = values[start : start + n]
        self._n_open += n
        return n

    def _check_open(self) -> None:
        if self._lock is None:
            raise ValueError("this writer is closed: open another with store.writer().")

    def _abandon(self) -> None:
        """Leave the store as the last manifest says, and end."""
        self._n_open, self._has_news = 0, False
        with contextlib.suppress(OSError, ValueError):
            self._manifest = Manifest.read(self._path)
            self._adopt(self._manifest)
            remove_leftovers(self._path, self._manifest)
        self._release()

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None


class _Lock:
    """One writer at a time: a lock of the system, which ends with the process that holds it.

    The file says which process that is. It stays when the lock is gone, as removing it would
    let two processes lock two files of the same name.
    """

    def __init__(self, folder: Path) -> None:
        try:
            import fcntl
        except ImportError as error:
            raise OSError("writing to a store needs the file locks of a POSIX system.") from error
        try:
            self._file = (folder / _LOCK).open("a+b", buffering=0)
        except OSError as error:
            raise OSError(
                error.errno, f"The store cannot be written to ({error.strerror})", str(folder)
            ) from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.seek(0)
            holder = self._file.read(20).decode("ascii", "replace").strip() or "unknown"
            self._file.close()
            if not isinstance(error, BlockingIOError):
                raise
            raise RuntimeError(
                f"Another writer is at work on {str(folder)!r} (process {holder}): wait until it "
                "is closed, or write to a store of its own."
            ) from error
        with contextlib.suppress(OSError):  # on a full disk the lock holds all the same
            self._file.truncate(0)
            self._file.write(f"{os.getpid()}\n".encode())

    def release(self) -> None:
        import fcntl

        with contextlib.suppress(OSError):
            self._file.truncate(0)
        # closing alone would leave the lock to children that were forked
        fcntl.flock(self._file, fcntl.LOCK_UN)
        self._file.close()


def _bits(tensor: torch.Tensor) -> NDArray[Any]:
    """The memory of a tensor as an array; bfloat16 as uint16."""
    if tensor.dtype == torch.bfloat16:
        return tensor.contiguous().view(torch.int16).numpy().view(np.uint16)
    return tensor.numpy()
