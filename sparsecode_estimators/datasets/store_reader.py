"""Rows of a store by number, whatever file they lie in."""

from collections import OrderedDict
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .store_files import ROWS, Manifest, open_shard

_OPEN_SHARDS = 16  # each holds a file open


class StoredRows:
    """The rows that one manifest lists, in one order.

    Parameters
    ----------
    folder : Path
    manifest : Manifest
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder, self.manifest = folder, manifest
        self._ends = np.cumsum([shard.rows for shard in manifest.shards], dtype=np.int64)
        self._columns: dict[str, NDArray[np.int64]] = {}
        self._maps: OrderedDict[int, dict[str, NDArray[Any]]] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.float16 if self.manifest.dtype == "float16" else np.float32)

    def between(self, index: slice) -> NDArray[Any]:
        """Rows of a slice; a view where they lie in one file and need no conversion."""
        rows = range(*index.indices(len(self)))
        if not rows:
            return np.empty((0, self.manifest.n_features), self.dtype)
        if rows.step < 0:
            return self.between(slice(rows[-1], rows[0] + 1, -rows.step))[::-1]
        pieces = []
        while rows:
            number = int(np.searchsorted(self._ends, rows[0], side="right"))
            begin = self._begin(number)
            here = range(rows[0], min(rows.stop, int(self._ends[number])), rows.step)
            part = slice(here[0] - begin, here[-1] + 1 - begin, rows.step)
            pieces.append(self._tensors(number)[ROWS][part])
            rows = rows[len(here) :]
        return self._decoded(pieces[0] if len(pieces) == 1 else np.concatenate(pieces))

    def at(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Rows of some numbers, read in the order in which they lie; a copy.

        Raises
        ------
        IndexError
            If one is out of range.
        """
        rows = _wrapped(rows, len(self))
        result = np.empty((len(rows), self.manifest.n_features), self.dtype)
        order = np.argsort(rows, kind="stable")
        numbers = np.searchsorted(self._ends, rows[order], side="right")
        for first in np.flatnonzero(np.diff(numbers, prepend=-1)):  # where another shard begins
            number = int(numbers[first])
            where = order[first : np.searchsorted(numbers, number, side="right")]
            part = self._tensors(number)[ROWS][rows[where] - self._begin(number)]
            result[where] = self._decoded(part)
        return result

    def column(self, name: str) -> NDArray[np.int64] | None:
        """A column of all rows, read-only; None if there is no such column."""
        if name not in (self.manifest.columns or ()):
            return None
        if name not in self._columns:
            parts = [self._tensors(number)[name] for number in range(len(self._ends))]
            whole = parts[0] if len(parts) == 1 else np.concatenate(parts)
            whole.flags.writeable = False
            self._columns[name] = whole
        return self._columns[name]

    def _begin(self, number: int) -> int:
        return int(self._ends[number]) - self.manifest.shards[number].rows

    def _tensors(self, number: int) -> dict[str, NDArray[Any]]:
        """What is in a shard. Some are kept open, as opening takes longer than a row."""
        with self._lock:
            if number not in self._maps:
                shard = self.manifest.shards[number]
                self._maps[number] = open_shard(self.folder, shard, self.manifest)
            self._maps.move_to_end(number)
            while len(self._maps) > _OPEN_SHARDS:
                self._maps.popitem(last=False)
            return self._maps[number]

    def _decoded(self, rows: NDArray[Any]) -> NDArray[Any]:
        if self.manifest.dtype != "bfloat16":
            return rows
        wide = rows.astype(np.uint32, order="C")
        wide <<= 16  # bfloat16 is the upper half of float32
        return wide.view(np.float32)


def row_numbers(index: NDArray[Any], n_rows: int) -> NDArray[np.int64]:
    """Numbers of rows from an array of integers or a mask.

    Raises
    ------
    IndexError
        If it is neither, or a mask of another length.
    """
    if index.ndim != 1:
        raise IndexError(f"a store is indexed by rows only, got an index of shape {index.shape}.")
    if index.dtype == bool:
        if len(index) != n_rows:
            raise IndexError(f"the mask has {len(index)} entries, but the store {n_rows} rows.")
        return np.flatnonzero(index)
    if len(index) and not np.issubdtype(index.dtype, np.integer):
        raise IndexError(
            f"rows are chosen by integers, slices or masks, got an array of {index.dtype}."
        )
    return index.astype(np.int64)


def _wrapped(rows: NDArray[np.int64], n_rows: int) -> NDArray[np.int64]:
    """Rows counted from the end are counted from the start."""
    outside = (rows < -n_rows) | (rows >= n_rows)
    if outside.any():
        raise IndexError(f"row {rows[outside][0]} is out of range: the store has {n_rows} rows.")
    return np.where(rows < 0, rows + n_rows, rows)
