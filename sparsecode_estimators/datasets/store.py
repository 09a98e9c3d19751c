"""Activations on disk: more rows than memory, read like an array."""

import copy
from collections.abc import Iterator
from operator import index as as_integer
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .checks import check_integer
from .store_files import DTYPES, MANIFEST, Manifest, check_free, checked_metadata, checksum
from .store_reader import StoredRows, row_numbers
from .store_writer import StoreWriter

_SHARD_BYTES = 2**27
_ITERATED = 1024  # rows that are read at a time by a loop over all


class ActivationStore:
    """A folder of activations that is written row by row and read like an array.

    The rows lie in files of the safetensors format, beside a manifest in JSON. Every file is
    written under another name and renamed when all of it is on the disk, so a process that is
    killed at any time leaves a store that opens. Files are mapped into memory: only what is
    asked for is read, and nothing in them is executed.

    Estimators take a store for X. They read it in blocks, so the rows need not fit in memory.

    Parameters
    ----------
    path : str or Path
        The folder of a store, made by :meth:`create`.

    Attributes
    ----------
    path : Path
    shape : tuple of (n_rows, n_features)
    dtype : numpy.dtype
        Of what is read: float16 or float32. NumPy has no bfloat16, such rows are read as
        float32, which holds them exactly.
    stored_dtype : {"float16", "bfloat16", "float32"}
        Of what is on the disk.
    ndim : int
        Always 2.
    n_shards : int
    rows_per_shard : int
        At most so many rows are in a file.
    metadata : dict
        What was given to :meth:`create`, or to a writer since.
    token_ids, document_ids, positions : read-only int64 ndarray of shape (n_rows,), or None
        What each row is, if it was written. Read whole at the first use, and kept.

    Raises
    ------
    FileNotFoundError
        If there is no store at `path`.
    ValueError
        If the manifest is damaged, or when rows are read from a file that is missing, cut
        short, or of another shape. Changed bytes inside the rows are found by :meth:`verify`.

    Notes
    -----
    ``store[i]`` is a row, ``store[a:b]``, ``store[a:b:c]``, ``store[indices]`` and
    ``store[mask]`` are arrays of rows. A slice that lies in one file is a read-only view of
    that file (not in bfloat16); all else is a copy. Rows next to each other are read much
    faster than single ones.

    A store that is open does not see what another process appends: open it again. A pickled
    store is its path, and opened when it is unpickled.

    See Also
    --------
    load_activations : Makes the rows.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from sparsecode_estimators import SAEEncoder
    >>> from sparsecode_estimators.datasets import ActivationStore
    >>> rng = np.random.default_rng(0)
    >>> folder = tempfile.TemporaryDirectory()
    >>> store = ActivationStore.create(folder.name + "/layer4", n_features=8)
    >>> with store.writer() as writer:
    ...     for document in range(3):
    ...         rows = rng.standard_normal((100, 8)).astype(np.float32)
    ...         writer.append(rows, document_ids=np.full(100, document))
    >>> store.shape, store.dtype.name
    ((300, 8), 'float16')
    >>> store[store.document_ids == 2].shape
    (100, 8)
    >>> SAEEncoder(16, max_iter=2, random_state=0).fit(store).transform(store).shape
    (300, 16)
    >>> folder.cleanup()
    """

    ndim = 2

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).absolute()
        self._adopt(Manifest.read(self.path))

    @classmethod
    def create(
        cls,
        path: str | Path,
        n_features: int,
        *,
        dtype: str = "float16",
        rows_per_shard: int | None = None,
        metadata: dict[str, Any] | None = None,
        exist_ok: bool = False,
    ) -> "ActivationStore":
        """Make an empty store.

        Parameters
        ----------
        path : str or Path
            A folder that does not exist yet. Those above it are made.
        n_features : int
            At least 1.
        dtype : {"float16", "bfloat16", "float32"}, default="float16"
            Of the rows on disk. float16 has 11 significant bits and ends at 65504; bfloat16
            has 8 and the range of float32.
        rows_per_shard : int, default=None
            Rows in a file, and at most in the memory of a writer, which are lost if it is
            killed. None: as many as make 128 MiB.
        metadata : dict, default=None
            Anything that can be written as JSON: the model, the layer, the texts.
        exist_ok : bool, default=False
            Whether a store that is there already is opened, if it has the same `n_features`
            and `dtype`; its other parameters stay. An empty folder is made a store.

        Returns
        -------
        store : ActivationStore

        Raises
        ------
        TypeError
            If a number is not an integer, or `metadata` is no dict or cannot be JSON.
        ValueError
            If a parameter is out of its range, or the store that is there is another.
        FileExistsError
            If there is something at `path`.
        OSError
            If the folder cannot be made.
        """
        check_integer("n_features", n_features, 1)
        if dtype not in DTYPES:
            raise ValueError(f"dtype={dtype!r} is unknown; choose one of {list(DTYPES)}.")
        if rows_per_shard is None:
            rows_per_shard = max(1, _SHARD_BYTES // (n_features * (4 if dtype == "float32" else 2)))
        check_integer("rows_per_shard", rows_per_shard, 1)
        manifest = Manifest(
            dtype, int(n_features), int(rows_per_shard), None, checked_metadata(metadata)
        )
        folder = Path(path).absolute()
        if (folder / MANIFEST).exists() and exist_ok:
            return cls(folder)._checked_against(manifest)
        try:
            folder.mkdir(parents=True, exist_ok=exist_ok)
        except FileExistsError as error:
            raise FileExistsError(
                f"{str(folder)!r} exists: choose another path, ActivationStore(path) to open a "
                "store, or exist_ok=True to go on with it."
            ) from error
        check_free(folder)
        manifest.write(folder)
        return cls(folder)

    @property
    def shape(self) -> tuple[int, int]:
        return len(self), self._rows.manifest.n_features

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.float16 if self.stored_dtype == "float16" else np.float32)

    @property
    def stored_dtype(self) -> str:
        return self._rows.manifest.dtype

    @property
    def n_shards(self) -> int:
        return len(self._rows.manifest.shards)

    @property
    def rows_per_shard(self) -> int:
        return self._rows.manifest.rows_per_shard

    @property
    def metadata(self) -> dict[str, Any]:
        return copy.deepcopy(self._rows.manifest.metadata)

    @property
    def token_ids(self) -> NDArray[np.int64] | None:
        return self._rows.column("token_ids")

    @property
    def document_ids(self) -> NDArray[np.int64] | None:
        return self._rows.column("document_ids")

    @property
    def positions(self) -> NDArray[np.int64] | None:
        return self._rows.column("positions")

    def writer(self) -> StoreWriter:
        """A writer that appends to the store, for use with ``with``.

        There can be one at a time. What a killed one has left is removed.

        Returns
        -------
        writer : StoreWriter

        Raises
        ------
        RuntimeError
            If there is another writer, in this process or another.
        OSError
            If the folder cannot be written to.
        """
        return StoreWriter(self.path, self._adopt)

    def verify(self) -> None:
        """Read all files and compare their checksums.

        Raises
        ------
        ValueError
            Names the files that are missing or have changed since they were written.
        """
        damaged = []
        for shard in self._rows.manifest.shards:
            path = self.path / shard.name
            if not path.exists() or checksum(path) != shard.crc32:
                damaged.append(shard.name)
        if damaged:
            raise ValueError(
                f"{len(damaged)} of {self.n_shards} files in {str(self.path)!r} are missing or "
                f"have changed: {', '.join(damaged)}. Restore them from a copy."
            )

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> NDArray[Any]:
        """Rows of shape (n, n_features), or one of shape (n_features,)."""
        if isinstance(index, slice):
            return self._rows.between(index)
        if isinstance(index, tuple) or index is None or index is Ellipsis:
            raise IndexError(
                f"a store is indexed by rows only, got {index!r}: take rows, then columns, as in "
                "store[10:20][:, 3]."
            )
        array = np.asarray(index)
        if array.ndim == 0 and array.dtype != bool and hasattr(index, "__index__"):
            return self._rows.at(np.array([as_integer(index)]))[0]
        return self._rows.at(row_numbers(array, len(self)))

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        wanted = self.dtype if dtype is None else np.dtype(dtype)
        is_view = self.n_shards == 1 and self.stored_dtype != "bfloat16"
        if copy is False and not (is_view and wanted == self.dtype):
            raise ValueError("the rows of this store cannot become such an array without a copy.")
        return self[:].astype(wanted, copy=bool(copy) and is_view)

    def __iter__(self) -> Iterator[NDArray[Any]]:
        for start in range(0, len(self), _ITERATED):
            yield from self[start : start + _ITERATED]

    def __reduce__(self) -> tuple[type["ActivationStore"], tuple[str]]:
        return type(self), (str(self.path),)

    def __repr__(self) -> str:
        return (
            f"ActivationStore({str(self.path)!r}, shape={self.shape}, "
            f"stored_dtype={self.stored_dtype!r}, n_shards={self.n_shards})"
        )

    def _adopt(self, manifest: Manifest) -> None:
        self._rows = StoredRows(self.path, manifest)

    def _checked_against(self, wanted: Manifest) -> "ActivationStore":
        for name in ("n_features", "dtype"):
            there, asked = getattr(self._rows.manifest, name), getattr(wanted, name)
            if there != asked:
                raise ValueError(
                    f"{name}={asked!r}, but the store at {str(self.path)!r} has {there!r}: "
                    "choose another path."
                )
        return self
