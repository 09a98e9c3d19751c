"""What a store of activations is on disk: a manifest, and shards in the safetensors format."""

import json
import os
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

MANIFEST = "manifest.json"
PARTIAL = ".partial"  # what is being written has this at the end of its name
ROWS = "activations"
COLUMNS = ("token_ids", "document_ids", "positions")

# NumPy has no bfloat16: its bits are read as uint16.
_STORED: dict[str, tuple[str, Any]] = {
    "float16": ("F16", np.float16),
    "bfloat16": ("BF16", np.uint16),
    "float32": ("F32", np.float32),
}
DTYPES = tuple(_STORED)
_VERSION = 1
_SHARD_NAME = re.compile(r"activations-\d{6,}\.safetensors")
_CHUNK = 2**22
_LONGEST_HEADER = 2**20


@dataclass(frozen=True)
class Shard:
    """One file of the store, its rows and the CRC-32 of all its bytes."""

    name: str
    rows: int
    crc32: int


@dataclass(frozen=True)
class Manifest:
    """What the store holds; a file that is not listed here is no part of it.

    Attributes
    ----------
    dtype : {"float16", "bfloat16", "float32"}
    n_features : int
    rows_per_shard : int
    columns : tuple of str or None
        Which of `COLUMNS` every row has; None as long as there are no rows.
    metadata : dict
    shards : tuple of Shard
    """

    dtype: str
    n_features: int
    rows_per_shard: int
    columns: tuple[str, ...] | None
    metadata: dict[str, Any]
    shards: tuple[Shard, ...] = ()

    @property
    def n_rows(self) -> int:
        return sum(shard.rows for shard in self.shards)

    def next_name(self) -> str:
        """The name of the shard to come."""
        return f"activations-{len(self.shards):06d}.safetensors"

    def write(self, folder: Path) -> None:
        """Replace the manifest in a folder: all of it, or nothing.

        Raises
        ------
        OSError
        """
        content = {"format": "ActivationStore", "version": _VERSION, **asdict(self)}
        text = json.dumps(content, indent=1, allow_nan=False).encode()
        write_whole(folder / MANIFEST, iter([text]))

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """The manifest in a folder.

        Raises
        ------
        FileNotFoundError
            If there is none.
        ValueError
            If it is damaged, or of a later version.
        """
        path = folder / MANIFEST
        try:
            text = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError) as error:
            raise FileNotFoundError(
                f"{str(folder)!r} holds no store, as there is no {MANIFEST} in it: check the "
                "path, or make a store there with ActivationStore.create."
            ) from error
        try:
            content = json.loads(text)
            version = content.pop("version")
            if content.pop("format") != "ActivationStore":
                raise ValueError("it is something else's")
            if version != _VERSION:
                raise ValueError(f"version {version!r} is not {_VERSION}: update the package")
            return _checked(content)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ValueError(
                f"{str(path)!r} is no manifest of a store, or it is damaged ({error})."
            ) from error


def _checked(content: dict[str, Any]) -> Manifest:
    """A manifest from what JSON made of it; names of files lead to nowhere else."""
    if set(content) != {field.name for field in fields(Manifest)}:
        raise ValueError(f"its entries are {sorted(content)}")
    shards = tuple(Shard(**shard) for shard in content.pop("shards"))
    columns = content.pop("columns")
    columns = None if columns is None else tuple(columns)
    manifest = Manifest(**content, columns=columns, shards=shards)
    counts = [manifest.n_features, manifest.rows_per_shard, *(s.rows for s in shards)]
    if any(type(count) is not int or count < 1 for count in counts):
        raise ValueError("a number of rows or features is not a positive integer")
    if not all(type(shard.crc32) is int for shard in shards):
        raise ValueError("a checksum is not an integer")
    if not all(_SHARD_NAME.fullmatch(shard.name) for shard in shards):
        raise ValueError("a shard has an unusual name")
    if len({shard.name for shard in shards}) < len(shards):
        raise ValueError("two shards have the same name")
    if manifest.dtype not in DTYPES or not set(manifest.columns or ()) <= set(COLUMNS):
        raise ValueError("its dtype or columns are unknown")
    if not isinstance(manifest.metadata, dict) or (shards and columns is None):
        raise ValueError("metadata or columns are missing")
    return manifest


def checked_metadata(metadata: dict[str, Any] | None) -> dict[str, Any]:
    """Metadata as they will be read again.

    Raises
    ------
    TypeError
        If they are no dict, or cannot be written as JSON.
    """
    if metadata is not None and not isinstance(metadata, dict):
        raise TypeError(f"metadata must be a dict, got {type(metadata).__name__}.")
    try:
        return json.loads(json.dumps(metadata or {}, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise TypeError(f"metadata cannot be written as JSON ({error}).") from error


def check_free(folder: Path) -> None:
    """Refuse a folder for a new store that holds anything.

    Raises
    ------
    FileExistsError
    """
    # a killed process may have left the first lines of a manifest
    if folder.exists() and (
        not folder.is_dir() or any(file.name != MANIFEST + PARTIAL for file in folder.iterdir())
    ):
        raise FileExistsError(f"{str(folder)!r} holds files, but no store: choose another path.")


def write_shard(
    folder: Path, name: str, manifest: Manifest, tensors: Mapping[str, NDArray[Any]]
) -> Shard:
    """Write rows and their columns as a file in the safetensors format.

    Parameters
    ----------
    folder : Path
    name : str
    manifest : Manifest
        Says of what type the rows are.
    tensors : mapping of str to ndarray
        C-contiguous: `ROWS`, bfloat16 as uint16, and int64 columns.

    Raises
    ------
    OSError
        If the disk is full, for example; there is no such file then.
    """
    # wide types first, so that every tensor begins at a multiple of its item size
    ordered = sorted(tensors.items(), key=lambda item: -item[1].itemsize)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for key, array in ordered:
        code = _STORED[manifest.dtype][0] if key == ROWS else "I64"
        offsets = [end, end + array.nbytes]
        header[key] = {"dtype": code, "shape": list(array.shape), "data_offsets": offsets}
        end += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)

    def content() -> Iterator[bytes | memoryview]:
        yield len(text).to_bytes(8, "little")
        yield text
        for _, array in ordered:
            flat = array.reshape(-1).view(np.uint8).data
            for start in range(0, len(flat), _CHUNK):
                yield flat[start : start + _CHUNK]

    crc32 = write_whole(folder / name, content())
    return Shard(name, len(tensors[ROWS]), crc32)


def open_shard(folder: Path, shard: Shard, manifest: Manifest) -> dict[str, NDArray[Any]]:
    """Map a shard into memory; nothing but its header is read.

    Returns
    -------
    tensors : dict of str to read-only ndarray
        `ROWS`, bfloat16 as uint16, and the columns.

    Raises
    ------
    ValueError
        If the file is missing, cut short, or not what the manifest says.
    """
    path = folder / shard.name
    stored, dtype = _STORED[manifest.dtype]
    expected: dict[str, tuple[str, list[int], Any]] = {
        ROWS: (stored, [shard.rows, manifest.n_features], dtype),
        **{name: ("I64", [shard.rows], np.int64) for name in manifest.columns or ()},
    }
    try:
        with path.open("rb") as file:
            header, begin = _read_header(file)
            size = os.fstat(file.fileno()).st_size
            data = np.asarray(np.memmap(file, dtype=np.uint8, mode="r"))
        tensors = {}
        for name, (code, shape, kind) in expected.items():
            start, stop = header[name]["data_offsets"]
            length = prod(shape) * np.dtype(kind).itemsize
            if (header[name]["dtype"], header[name]["shape"]) != (code, shape):
                raise ValueError(f"{name} is not {code} of shape {shape}")
            if not 0 <= start <= stop <= size - begin or stop - start != length:
                raise ValueError(f"{name} is not all there")
            tensors[name] = data[begin + start : begin + stop].view(kind).reshape(shape)
        return tensors
    except FileNotFoundError as error:
        raise ValueError(f"{str(path)!r} is missing: restore it from a copy.") from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{str(path)!r} is damaged ({type(error).__name__}: {error}): restore it from a copy."
        ) from error


def _read_header(file: BinaryIO) -> tuple[dict[str, Any], int]:
    """The header, and where the data begin."""
    length = int.from_bytes(file.read(8), "little")
    if length > _LONGEST_HEADER:
        raise ValueError(f"a header of {length} bytes")
    return json.loads(file.read(length)), 8 + length


def checksum(path: Path) -> int:
    """CRC-32 of a file, read in pieces."""
    crc32 = 0
    with path.open("rb") as file:
        while piece := file.read(_CHUNK):
            crc32 = zlib.crc32(piece, crc32)
    return crc32


def remove_leftovers(folder: Path, manifest: Manifest) -> None:
    """Remove what a killed writer left: parts of files, and shards that are not listed."""
    listed = {shard.name for shard in manifest.shards}
    for path in list(folder.iterdir()):
        name = path.name.removesuffix(PARTIAL)
        ours = name == MANIFEST or _SHARD_NAME.fullmatch(name)
        kept = path.name == MANIFEST or path.name in listed
        if ours and not kept:
            path.unlink(missing_ok=True)


def write_whole(path: Path, content: Iterator[bytes | memoryview]) -> int:
    """Write a file under another name, rename it when it is on the disk; its CRC-32."""
    partial = path.with_name(path.name + PARTIAL)
    crc32 = 0
    try:
        with partial.open("wb") as file:
            for piece in content:
                file.write(piece)
                crc32 = zlib.crc32(piece, crc32)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)
    return crc32


def _sync_folder(folder: Path) -> None:
    """Make a rename outlive a loss of power, where folders can be opened."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
