"""Files that may come from anywhere: read as data, within their own size, or refused."""

from __future__ import annotations

import json
import os
import pickletools
import shutil
import zipfile
from collections.abc import Callable, Mapping
from contextlib import contextmanager, suppress
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

_LONGEST_JSON = 2**24
_COMPRESSION = 16  # weights hardly compress: an archive that claims more is no archive of weights
_SLACK = 2**20
_NAMES = ("GLOBAL", "STACK_GLOBAL", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises
    ------
    ValueError
        If it is no JSON object, is longer than 16 MiB, or has NaN or infinity in it.
    OSError
        If it cannot be read.
    """
    size = _size(path)
    if size > _LONGEST_JSON:
        raise ValueError(
            f"{str(path)!r} has {size} bytes, and a description of an SAE has at "
            f"most {_LONGEST_JSON}: it is something else."
        )
    with _only_value_errors(path, "JSON"):
        content = json.loads(path.read_bytes(), parse_constant=_refuse)
        if not isinstance(content, dict):
            raise ValueError(f"it holds a {type(content).__name__}, not an object")
    return content


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """Tensors of a file in the safetensors format, as arrays.

    Raises
    ------
    ImportError
        Without safetensors.
    ValueError
        If it is no such file, or a damaged one.
    OSError
        If it cannot be read.
    """
    safe_open = _safetensors().safe_open
    _size(path)
    with _only_value_errors(path, "safetensors"), safe_open(path, framework="pt") as file:
        # the file is no dict: it has keys, but cannot be looped over
        return {name: as_array(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118


def read_torch(path: Path) -> dict[str, np.ndarray]:
    """Tensors of a state dict that ``torch.save`` wrote, as arrays; nothing in it is run.

    Raises
    ------
    ValueError
        If it is something else, compressed, damaged, or needs code to be run.
    OSError
        If it cannot be read.
    """
    left = _size(path)
    with _only_value_errors(path, "a state dict of torch"):
        with zipfile.ZipFile(path) as archive:
            _check_parts(archive)
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, dict):
            raise ValueError(f"it holds a {type(state).__name__}, not a dict of tensors")
        for name, tensor in state.items():
            if not isinstance(name, str) or not isinstance(tensor, Tensor):
                raise ValueError(f"{name!r} is a {type(tensor).__name__}, not a tensor")
            if tensor.layout != torch.strided or tensor.device.type != "cpu":
                raise ValueError(f"{name!r} is no plain tensor")
            # a tensor may claim to be larger than what it is a view of, and there may be many
            left -= tensor.numel() * tensor.element_size()
            if left < 0:
                raise ValueError(f"up to {name!r:.80} its tensors are larger than the file")
        return {name: as_array(tensor) for name, tensor in state.items()}


def _check_parts(archive: zipfile.ZipFile) -> None:
    """Refuse what ``torch.save`` never writes, and reading might never end for.

    A pickle can build an object that holds itself many times over, in a few bytes: to hash or to
    print it takes for ever. A state dict repeats nothing but names.
    """
    parts = archive.infolist()
    if any(part.compress_type != zipfile.ZIP_STORED for part in parts):
        raise ValueError("its parts are compressed, as torch.save never leaves them")
    if len({part.filename for part in parts}) < len(parts):
        raise ValueError("two of its parts have the same name")
    for part in parts:
        if part.filename.endswith(".pkl"):
            _check_repeats(archive.read(part))


def _check_repeats(pickled: bytes) -> None:
    kinds: dict[Any, str] = {}  # of what is remembered
    last = ""
    for code, argument, _ in pickletools.genops(pickled):
        if "PUT" in code.name or code.name == "MEMOIZE":
            kinds[len(kinds) if code.name == "MEMOIZE" else argument] = last
            continue
        if code.name == "DUP" or ("GET" in code.name and kinds.get(argument) not in _NAMES):
            raise ValueError("it repeats more than names, as no state dict does")
        last = code.name


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Arrays of an npz archive; pickled objects are refused.

    Raises
    ------
    ValueError
        If it is something else, damaged, claims to be larger than weights can be in a file of
        its size, or has objects in it.
    OSError
        If it cannot be read.
    """
    limit = _COMPRESSION * _size(path) + _SLACK
    with _only_value_errors(path, "npz"), zipfile.ZipFile(path) as archive:
        if sum(part.file_size for part in archive.infolist()) > limit:
            raise ValueError(f"unpacked it would have more than {limit} bytes")
        arrays = {}
        for part in archive.infolist():
            name = part.filename.removesuffix(".npy")
            if name in arrays:
                raise ValueError(f"{name!r} is there twice")
            with archive.open(part) as file:
                arrays[name] = _read_npy(file, name, part.file_size)
        return arrays


def _read_npy(file: Any, name: str, size: int) -> np.ndarray:
    """One array, if its header asks for no more than there is."""
    version = np.lib.format.read_magic(file)
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in readers:
        raise ValueError(f"{name!r} has version {version} of the npy format")
    shape, fortran, dtype = readers[version](file)
    if dtype.kind not in "fiub":
        raise ValueError(f"{name!r} has dtype {dtype}, not numbers")
    n_bytes = dtype.itemsize * prod(shape)  # integers of Python: nothing overflows
    if n_bytes > size or any(length < 0 for length in shape):
        raise ValueError(f"{name!r} has shape {shape}, for which it is too short")
    array = np.frombuffer(file.read(n_bytes), dtype).reshape(shape, order="F" if fortran else "C")
    return as_array(torch.from_numpy(np.array(array, dtype=dtype.newbyteorder("="))))


def as_array(tensor: Tensor) -> np.ndarray:
    """A tensor as an array of its own; floats narrower than 32 bits become float32."""
    tensor = tensor.detach().cpu()
    if tensor.is_floating_point() and tensor.dtype not in (torch.float32, torch.float64):
        tensor = tensor.float()
    return tensor.contiguous().numpy()


def write_folder(folder: Path, names: set[str], fill: Callable[[Path], None]) -> None:
    """Write some files into a folder of their own: all of them, or none.

    They are written into a folder beside it, which takes its name when they are on the disk. A
    folder that is there already is replaced, if it holds nothing but files of these names. Folders
    that were made for a write which failed are removed.

    Parameters
    ----------
    folder : Path
    names : set of str
        Of the files.
    fill : callable
        Writes them into the folder that it is called with.

    Raises
    ------
    FileExistsError
        If something else is there.
    OSError
        If the folder cannot be written.
    """
    _check_replaceable(folder, names)
    fresh, stale = (
        folder.with_name(f".{folder.name}.{os.getpid()}.{end}") for end in ("new", "old")
    )
    above = [parent for parent in folder.parents if not parent.exists()]  # the innermost first
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        fresh.mkdir(parents=True)
        fill(fresh)
        for name in names:
            with (fresh / name).open("rb") as file:
                os.fsync(file.fileno())
        if folder.exists():
            os.replace(folder, stale)
        os.replace(fresh, folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        if stale.exists() and not folder.exists():
            os.replace(stale, folder)
        shutil.rmtree(stale, ignore_errors=True)
        if not folder.exists():
            _remove_empty(above)


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        with suppress(OSError):  # it was never made, or somebody else has begun to use it
            folder.rmdir()


def _check_replaceable(folder: Path, names: set[str]) -> None:
    if not folder.name:
        raise FileExistsError(f"path={str(folder)!r} is no name for a new folder: choose another.")
    if not (folder.exists() or folder.is_symlink()):
        return
    if folder.is_symlink() or not folder.is_dir():
        raise FileExistsError(
            f"path={str(folder)!r} is there, and no folder: an estimator is written as a folder, "
            "choose another name."
        )
    others = sorted({file.name for file in folder.iterdir()} - names)
    if others:
        raise FileExistsError(
            f"path={str(folder)!r} holds other files ({', '.join(others[:3])}): a folder is "
            "replaced as a whole, choose a new one."
        )


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write an object as JSON.

    Raises
    ------
    ValueError
        If it is so long that :func:`read_json` would refuse it.
    OSError
        If the file cannot be written.
    """
    text = json.dumps(content, indent=1, allow_nan=False).encode()
    if len(text) > _LONGEST_JSON:
        raise ValueError(
            f"A description of {len(text)} bytes would not be read again, as it may have "
            f"{_LONGEST_JSON}: give long lists among the parameters as arrays."
        )
    path.write_bytes(text)


def write_safetensors(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays in the safetensors format.

    Raises
    ------
    ImportError
        Without safetensors.
    OSError
        If the file cannot be written.
    """
    refused = _safetensors().SafetensorError
    from safetensors.numpy import save_file

    try:
        save_file({name: np.require(a, requirements="C") for name, a in arrays.items()}, path)
    except refused as error:  # a full disk is an error of the library, too
        raise OSError(f"{str(path)!r} could not be written ({error}).") from error


def _safetensors() -> Any:
    try:
        import safetensors
    except ImportError as error:
        raise ImportError("This format needs safetensors: pip install safetensors.") from error
    return safetensors


def _size(path: Path) -> int:
    """Bytes of a file that is there, and no pipe or device, which might never end."""
    if not path.is_file():
        raise FileNotFoundError(
            f"{str(path)!r} is missing, or no file: the parts of an SAE belong into one folder."
        )
    return path.stat().st_size


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number of JSON")


@contextmanager
def _only_value_errors(path: Path, kind: str) -> Any:
    """Whatever a damaged file leads to in the libraries, as one error that names the file."""
    try:
        yield
    except (OSError, ImportError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ValueError(
            f"{str(path)!r} is not {kind} that can be read, or it is damaged ({reason})."
        ) from error
