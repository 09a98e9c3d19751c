"""What the metrics read: arrays, CSR, data frames and tensors, a block of rows at a time.

Tensors are recognised by their methods, so nothing here imports torch.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.utils import check_array

# 32 MiB of float64: large enough for the matrix product to run at full speed,
# small enough to forget beside the codes themselves.
_BLOCK_ELEMENTS = 2**22


def as_codes(codes: Any, name: str, *, min_samples: int = 1) -> Any:
    """Codes as a finite two-dimensional ndarray or a canonical CSR array.

    Parameters
    ----------
    codes : array-like, sparse matrix or array, DataFrame or tensor
        Of shape (n_samples, n_components).
    name : str
        The caller's parameter, for the error message.
    min_samples : int, default=1
        Fewer rows than this are an error.

    Returns
    -------
    ndarray or csr_array
        The caller's memory where no conversion is needed: not to be written to.

    Raises
    ------
    ValueError
        If `codes` is not two-dimensional, too small or not finite.
    """
    codes = from_tensor(codes)
    _check_shape(codes, name, min_samples)
    codes = check_array(codes, accept_sparse="csr", dtype="numeric", input_name=name)
    return _canonical(codes) if sparse.issparse(codes) else codes


def as_rows(X: Any, name: str) -> Any:
    """`X` as something two-dimensional whose rows can be sliced, copied only if it must be.

    A memory map, an HDF5 or zarr array, a store of activations or a tensor is
    handed back as it is; `dense_block` reads it later, a few rows at a time.
    """
    if sparse.issparse(X):
        X = X.tocsr()
    elif _is_sparse_tensor(X):
        X = from_tensor(X)
    elif not (hasattr(X, "shape") and hasattr(X, "dtype")):
        X = check_array(X, dtype="numeric", ensure_2d=False, ensure_all_finite=False)
    _check_shape(X, name, min_samples=1)
    return X


def dense_block(X: Any, rows: slice, name: str) -> np.ndarray:
    """Some rows of `X` as a float64 ndarray, refused if they are not finite."""
    block = from_tensor(X[rows])
    block = block.toarray() if sparse.issparse(block) else block
    block = np.asarray(block, dtype=np.float64)
    if not np.isfinite(block).all():
        raise ValueError(
            f"{name} contains NaN or infinity in rows {rows.start} to {rows.stop - 1}; "
            f"drop or impute these rows first."
        )
    return block


def row_blocks(n_rows: int, n_columns: int) -> Iterator[slice]:
    """Slices that walk over the rows in blocks of bounded size."""
    yield from slices(n_rows, max(1, _BLOCK_ELEMENTS // max(1, n_columns)))


def slices(length: int, step: int) -> Iterator[slice]:
    """``step`` at a time up to ``length``."""
    for start in range(0, length, step):
        yield slice(start, min(start + step, length))


def check_same(a: Any, b: Any, names: tuple[str, str], *, axis: int, remedy: str) -> None:
    """Refuse two arrays that differ in length along `axis`."""
    if a.shape[axis] != b.shape[axis]:
        what = ("rows", "columns")[axis]
        raise ValueError(
            f"{names[0]} has {a.shape[axis]} {what} and {names[1]} has {b.shape[axis]}; {remedy}"
        )


def from_tensor(values: Any) -> Any:
    """A tensor as ndarray or CSR; anything else as it came."""
    if not hasattr(values, "detach"):
        return values
    values = values.detach().cpu()
    if not _is_sparse_tensor(values):
        return _to_numpy(values)
    values = values.to_sparse().coalesce()
    stored, coordinates = _to_numpy(values.values()), tuple(_to_numpy(values.indices()))
    if stored.dtype == np.float16:  # which SciPy's sparse arrays do not have
        stored = stored.astype(np.float32)
    return sparse.csr_array((stored, coordinates), shape=tuple(values.shape))


def _is_sparse_tensor(values: Any) -> bool:
    return hasattr(values, "detach") and "strided" not in str(values.layout)


def _to_numpy(tensor: Any) -> np.ndarray:
    try:
        return tensor.numpy()
    except TypeError:  # bfloat16 has no NumPy equivalent
        return tensor.float().numpy()


def _canonical(codes: Any) -> sparse.csr_array:
    """Without duplicate entries or stored zeros, leaving the caller's matrix alone."""
    codes = sparse.csr_array(codes)
    if not codes.has_canonical_format or (codes.data == 0).any():
        codes = codes.copy()
        codes.sum_duplicates()
        codes.eliminate_zeros()
    return codes


def _check_shape(X: Any, name: str, min_samples: int) -> None:
    shape = tuple(np.shape(X)) if not hasattr(X, "shape") else tuple(X.shape)
    if len(shape) != 2:
        raise ValueError(
            f"{name} must be two-dimensional, one row per sample, got shape {shape}; "
            f"reshape it to (n_samples, n_columns)."
        )
    if shape[0] < min_samples or shape[1] < 1:
        raise ValueError(
            f"{name} has shape {shape}, but at least {min_samples} row(s) and 1 column are needed."
        )
