"""The boundary between NumPy and torch: everything crosses here, once each way."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from sklearn import get_config
from sklearn.utils.validation import check_array, validate_data
from torch import Tensor

from ..kernels.cpu_room import space
from ..kernels.sparse import Places
from ..learning.batches import sample
from .csr import csr_of

# Numbers in one batch of codes or rows: large enough for the matrix products,
# small enough that a solver's handful of such arrays stays near the processor.
_BATCH_NUMBERS = 2**21
# Compiled loops hold little beside it, and threads wait for each other at its end.
_LOOP_NUMBERS = 2**24
_FINITE_BLOCK = 2**22

ALIGNMENT = 64  # bytes, of the tensors that torch makes
_DTYPES = {
    np.dtype(np.float32): torch.float32,
    np.dtype(np.float64): torch.float64,
    np.dtype(np.float16): torch.float32,
}


def resolve_device(device: str | torch.device, X: Any = None) -> torch.device:
    """Where to compute: as asked, or for ``"auto"`` where X lies, or CUDA if there is one.

    Raises
    ------
    ValueError
        When the device is unknown or this machine has none.
    """
    if isinstance(device, str) and device == "auto":
        if isinstance(X, Tensor):
            return X.device
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except Exception as error:  # torch raises a different type for each kind of absence
        raise ValueError(
            f"device={device!r} cannot be used on this machine ({type(error).__name__}: "
            f"{str(error).splitlines()[0]}). Use device='cpu', or device='auto' to take CUDA "
            "only where there is one."
        ) from error
    return found


class Rows:
    """A validated matrix, read in parts as tensors on one device.

    Parameters
    ----------
    source : ndarray, CSR matrix, Tensor, or anything with ``shape``, ``dtype`` and slicing
    dtype : torch.dtype
        What the parts are computed in.
    device : torch.device
    factor : float
        What every part is multiplied with.
    """

    def __init__(
        self, source: Any, dtype: torch.dtype, device: torch.device, factor: float = 1.0
    ) -> None:
        self.source = source
        self.dtype = dtype
        self.device = device
        self.factor = factor
        self.n_features: int = source.shape[1]
        self.contiguous = _is_mapped(source) or not isinstance(
            source, (np.ndarray, Tensor, sp.csr_matrix, sp.csr_array)
        )

    def __len__(self) -> int:
        return int(self.source.shape[0])

    def read(self, index: slice | Tensor) -> Tensor:
        """Some rows, shape (n, n_features). May share memory with X: never write to it."""
        return self.scaled(self._tensor(index))

    def scaled(self, part: Tensor) -> Tensor:
        """Rows times the factor."""
        return part if self.factor == 1 else part * self.factor

    def _tensor(self, index: slice | Tensor) -> Tensor:
        if isinstance(self.source, Tensor):
            part = self.source[index if isinstance(index, slice) else index.to(self.source.device)]
            return part.to(self.device, self.dtype)
        block = self.source[index if isinstance(index, slice) else index.cpu().numpy()]
        if sp.issparse(block):
            block = block.toarray()
        # a copy where X is read-only, strided or of another type: torch needs plain memory
        block = np.require(block, dtype=_numpy_dtype(self.dtype), requirements=["C", "W"])
        return torch.from_numpy(block).to(self.device)

    def batches(self, width: int, *, loops: bool = False) -> Iterator[Tensor]:
        """All rows in order, cut so that a batch times ``width`` columns stays small."""
        numbers = _LOOP_NUMBERS if loops else _BATCH_NUMBERS
        size = max(1, numbers // max(1, width, self.n_features))
        for start in range(0, len(self), size):
            yield self.read(slice(start, min(start + size, len(self))))

    def paired(
        self, others: Rows, width: int = 1, *, loops: bool = False
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """All rows in order beside those of another matrix, in batches of the same rows."""
        if others is self:
            return ((x, x) for x in self.batches(width, loops=loops))
        width = max(width, self.n_features, others.n_features)
        both = (rows.batches(width, loops=loops) for rows in (self, others))
        return zip(*both, strict=True)

    def sample(self, limit: int) -> Tensor:
        """At most ``limit`` rows, evenly spread."""
        return sample(self, limit)

    def using(self, dtype: torch.dtype, factor: float = 1.0) -> Rows:
        """The same rows in another type, times a factor."""
        return Rows(self.source, dtype, self.device, factor)


def read_rows(estimator: Any, X: Any, *, reset: bool, device: str) -> Rows:
    """Validate X as scikit-learn does and hand it out as rows of tensors.

    Accepts arrays, lists, data frames, CSR matrices, memory maps, tensors of any float
    type and device, and objects with ``shape``, ``dtype`` and slicing. float16 and
    bfloat16 are computed in float32; only a batch at a time is converted. float64 stays
    float64, integers become float64.

    Parameters
    ----------
    estimator : estimator
        Its ``n_features_in_`` and feature names are set or checked.
    X : array-like of shape (n_samples, n_features)
    reset : bool
        True in fit.
    device : str

    Raises
    ------
    ValueError
        For NaN, infinity, wrong shapes, wrong width, no samples, an absent device.
    """
    target = resolve_device(device, X)
    if isinstance(X, Tensor):
        X = _checked_tensor(X)
        validate_data(estimator, X, reset=reset, skip_check_array=True)
        dtype = torch.float64 if X.dtype == torch.float64 else torch.float32
    elif _is_streamed(X):
        _check_shape(tuple(X.shape))
        validate_data(estimator, X, reset=reset, skip_check_array=True)
        dtype = _DTYPES[_streamed_dtype(X)]
        _check_finite_blocks(X)
    else:
        half = _is_half(X)
        X = validate_data(
            estimator,
            X,
            reset=reset,
            accept_sparse="csr",
            dtype=None if half else [np.float64, np.float32],
            # NumPy would make a mask of the whole array
            ensure_all_finite=not half,
        )
        if half:
            _check_finite_blocks(X)
        dtype = _DTYPES[X.dtype]
    return Rows(X, dtype, target)


def _is_half(X: Any) -> bool:
    """Whether an array, or each column of a data frame, has the type float16."""
    dtypes: Any = getattr(X, "dtypes", None)
    if not hasattr(dtypes, "__iter__"):  # an array, or a series, which has one
        return bool(getattr(X, "dtype", None) == np.float16)
    return len(dtypes) > 0 and all(dtype == np.float16 for dtype in dtypes)


_NEEDS_Y = {
    "codes": "objective='codes' learns from known codes, fit(X, codes).",
    "targets": "objective='targets' is about other activations that belong to the rows of X, "
    "fit(X, y) and score(X, y).",
}


def read_targets(y: Any, rows: Rows, objective: str) -> Rows:
    """Known codes, or other activations, as rows beside X, of all kinds that X may have.

    Parameters
    ----------
    y : array-like of shape (n_samples,) or (n_samples, n_targets)
    rows : Rows
        X.
    objective : {"codes", "targets"}

    Raises
    ------
    ValueError
        When y is missing or not finite, or has another number of rows than X.
    """
    if y is None:
        raise ValueError(
            "This estimator requires y to be passed, but the target y is None: "
            + _NEEDS_Y[objective]
        )
    if isinstance(y, Tensor):
        y = _checked_tensor(y[:, None] if y.ndim == 1 else y, name="y")
    elif _is_streamed(y):
        _check_shape(tuple(y.shape), "y")
        _streamed_dtype(y, "y")
        _check_finite_blocks(y, "y")
    else:
        half = getattr(y, "dtype", None) == np.float16
        y = check_array(
            y, accept_sparse="csr", dtype=None if half else [np.float64, np.float32],
            ensure_all_finite=not half, ensure_2d=False, input_name="y",
        )  # fmt: skip
        y = y[:, None] if y.ndim == 1 else y
        if half:
            _check_finite_blocks(y, "y")
    if y.shape[0] != len(rows):
        raise ValueError(
            f"X has {len(rows)} rows but y has {y.shape[0]}: give a row of y for each of X."
        )
    return Rows(y, rows.dtype, rows.device)


def read_codes(codes: Any, n_components: int, name: str = "codes") -> tuple[Any, torch.dtype]:
    """Codes that the user gave: an array, frame, CSR matrix or tensor. ``name`` is for messages.

    Raises
    ------
    ValueError
        When there are none, or they do not have ``n_components`` columns, or are not finite.
    """
    if isinstance(codes, Tensor):
        codes = codes if codes.layout == torch.strided else codes.to_dense()
        codes = _checked_tensor(codes, name)
        dtype = torch.float64 if codes.dtype == torch.float64 else torch.float32
    else:
        types = [np.float64, np.float32]
        codes = check_array(codes, accept_sparse="csr", dtype=types, input_name=name)
        dtype = _DTYPES[codes.dtype]
    if codes.ndim != 2 or codes.shape[1] != n_components:
        raise ValueError(
            f"{name} has shape {tuple(codes.shape)}, but there are {n_components} atoms: pass what "
            f"transform returned, of shape (n_samples, {n_components})."
        )
    return codes, dtype


def copied(array: np.ndarray, dtype: Any) -> np.ndarray:
    """A copy that begins where tensors do, so that they can share it.

    NumPy asks for large pages, torch does not: large matrices are copied several times as fast.
    """
    copy = space(array.shape, dtype, np.empty)
    copy[...] = array
    return copy


def to_tensor(array: np.ndarray, rows: Rows) -> Tensor:
    """A fitted attribute as a tensor of its own, of the rows' type and device."""
    return torch.from_numpy(copied(array, _numpy_dtype(rows.dtype))).to(rows.device)


def to_shared(array: np.ndarray, rows: Rows) -> Tensor:
    """As :func:`to_tensor`, but to be read only: it is the array's own memory where that fits.

    What is made of it must not depend on where it came from, and last digits of products depend on
    where in memory matrices begin.
    """
    fits = _DTYPES.get(array.dtype) == rows.dtype and rows.device.type == "cpu"
    aligned = array.ctypes.data % ALIGNMENT == 0 and array.flags.c_contiguous
    if fits and aligned and array.flags.writeable:
        return torch.from_numpy(array)
    return to_tensor(array, rows)


def optional_tensor(array: np.ndarray | None, rows: Rows) -> Tensor | None:
    """As :func:`to_tensor`, but nothing for nothing."""
    return None if array is None else to_tensor(array, rows)


def to_array(tensor: Tensor, rows: Rows) -> np.ndarray:
    """A result as a NumPy array of the rows' type."""
    return np.asarray(tensor.detach().to("cpu", rows.dtype).numpy(), order="C")


def collect(parts: Iterator[Any], X: Any, rows: Rows, width: int, *, sparse: bool = False) -> Any:
    """Put batches together as the caller's kind: tensor, array, or sparse.

    Parameters
    ----------
    parts : iterator of Tensor of shape (n_i, width)
        With ``sparse`` also of places and the values there.
    X : object
        What the caller gave.
    rows : Rows
        The same, read.
    width : int
    sparse : bool
        CSR for arrays, COO for tensors; the dense whole is never built.
    """
    if isinstance(X, Tensor):
        tensors = [(_coo(part, width) if sparse else part).to(X.device) for part in parts]
        return tensors[0] if len(tensors) == 1 else torch.cat(tensors)  # which copies
    if sparse:
        return csr_of(parts, len(rows), width, _numpy_dtype(rows.dtype))
    result, done = None, 0
    for part in parts:
        if len(part) == len(rows):  # all at once: not copied
            return to_array(part, rows)
        if result is None:
            result = np.empty((len(rows), width), dtype=_numpy_dtype(rows.dtype))
        result[done : done + len(part)] = part.cpu().numpy()
        done += len(part)
    return result


def _coo(part: Tensor | tuple[Places, Tensor], width: int) -> Tensor:
    """Codes, or places and values, as a sparse tensor."""
    if isinstance(part, Tensor):
        return part.to_sparse()
    places, values = part
    keep = values != 0
    indices = torch.stack([places.rows, places.atoms])[:, keep]
    shape = len(places.starts) - 1, width
    return torch.sparse_coo_tensor(
        indices, values[keep], shape, is_coalesced=True, check_invariants=True
    )


def _numpy_dtype(dtype: torch.dtype) -> type[np.floating]:
    return np.float64 if dtype == torch.float64 else np.float32


def _checked_tensor(X: Tensor, name: str = "X") -> Tensor:
    X = X.detach()
    _check_shape(tuple(X.shape), name)
    if X.is_sparse or X.layout != torch.strided:
        raise TypeError(
            f"{name} is a sparse tensor: pass {name}.to_dense(), or a SciPy CSR matrix."
        )
    if X.is_complex():
        raise ValueError(f"Complex data not supported: {name} has dtype {X.dtype}.")
    if not get_config()["assume_finite"] and not torch.isfinite(X).all():
        raise ValueError(_not_finite(name, bool(torch.isnan(X).any())))
    return X if X.is_floating_point() else X.to(torch.float64)


def _is_mapped(source: Any) -> bool:
    """Whether an array lies in a file, also when scikit-learn has made a plain view of it."""
    base = source
    while isinstance(base, np.ndarray):
        base = base.base
    return isinstance(base, mmap.mmap)


def _is_streamed(X: Any) -> bool:
    """Whether X is an array-like on disk (h5py, zarr, a store), to be sliced and not loaded."""
    return (
        not isinstance(X, (np.ndarray, list, tuple))
        and not sp.issparse(X)
        and hasattr(X, "shape")
        and hasattr(X, "dtype")
        and hasattr(X, "__getitem__")
        and not hasattr(X, "__array_namespace__")
        and len(X.shape) == 2
    )


def _streamed_dtype(X: Any, name: str = "X") -> np.dtype:
    dtype = np.dtype(X.dtype)
    if dtype not in _DTYPES:
        raise ValueError(
            f"{name} has dtype {dtype}, but streamed data must be float16, float32 or float64: "
            "convert it, or load it into an array."
        )
    return dtype


def _check_shape(shape: tuple[int, ...], name: str = "X") -> None:
    if len(shape) != 2:
        raise ValueError(
            f"Expected 2D array, got {len(shape)}D array instead: {name} has shape {shape}. "
            f"Reshape your data with {name}.reshape(-1, 1) for one feature or "
            f"{name}.reshape(1, -1) for one sample."
        )
    for number, what in zip(shape, ("sample", "feature"), strict=True):
        if number < 1:
            raise ValueError(
                f"Found array with 0 {what}(s) (shape={shape}) while a minimum of 1 is required."
            )


def _check_finite_blocks(X: Any, name: str = "X") -> None:
    if get_config()["assume_finite"]:
        return
    size = max(1, _FINITE_BLOCK // X.shape[1])
    for start in range(0, X.shape[0], size):
        block = np.asarray(X[start : start + size])
        if not np.isfinite(block).all():
            raise ValueError(_not_finite(name, bool(np.isnan(block).any())))


def _not_finite(name: str, nan: bool) -> str:
    what = "NaN" if nan else "infinity"
    return f"Input {name} contains {what}: drop or mend those rows."
