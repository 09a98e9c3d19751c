"""Pearson correlation between columns, dense or sparse, in bounded memory."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from scipy import sparse

from .inputs import row_blocks, slices

_WIDTH = 1024  # columns of a product at a time, so that it stays small beside the result
_CACHED = 2**18  # non-zeros that stay near the processor while they are multiplied


def correlation_matrix(a: Any, b: Any) -> np.ndarray:
    """Pearson's r of every column of `a` with every column of `b`.

    Parameters
    ----------
    a, b : ndarray or csr_array of shapes (n, n_a) and (n, n_b)

    Returns
    -------
    ndarray of shape (n_a, n_b), float64
        0 where one of the two columns is constant.
    """
    a, b = _same_kind(a, b)
    r = np.zeros((len(a.total), len(b.total)))
    for rows in a.row_blocks():
        z, w = a[rows], b[rows]
        for columns in slices(r.shape[0], _WIDTH):
            product = z[:, columns].T @ w
            r[columns] += product.toarray() if sparse.issparse(product) else product
    for columns in slices(r.shape[0], _WIDTH):
        r[columns] -= np.outer(a.total[columns], b.total / a.n_rows)
        r[columns] /= a.norm[columns, None]
        r[columns] /= b.norm
    return np.clip(r, -1, 1, out=r)


def paired_correlations(a: Any, b: Any) -> np.ndarray:
    """The diagonal of `correlation_matrix` for two inputs of the same shape."""
    a, b = _same_kind(a, b)
    products = np.zeros(len(a.total))
    for rows in a.row_blocks():
        z, w = a[rows], b[rows]
        products += z.multiply(w).sum(0) if sparse.issparse(z) else np.einsum("ij,ij->j", z, w)
    covariance = products - a.total * b.total / a.n_rows
    return np.clip(covariance / a.norm / b.norm, -1, 1)


class DenseColumns:
    """Columns shifted and scaled into [-1, 1], which changes no correlation.

    The first row is subtracted and the result divided by its largest entry.
    Every column then holds a 0 and a ±1, so its variance is at least 1/(2n)
    and one pass over raw moments is accurate to about n · 1e-16, whatever the
    mean and the scale of the codes.

    Attributes
    ----------
    n_rows : int
    total : ndarray of shape (n_columns,)
        Sums of the scaled columns.
    norm : ndarray of shape (n_columns,)
        Lengths of the centred columns; infinite where a column is constant, so
        that dividing by it gives 0.
    """

    def __init__(self, codes: np.ndarray):
        self._codes = codes
        self.n_rows = codes.shape[0]
        self._shift = np.array(codes[0], dtype=np.float64)
        self._scale = self._spread()
        total, squares = np.zeros_like(self._scale), np.zeros_like(self._scale)
        for rows in self.row_blocks():
            z = self[rows]
            total += z.sum(0)
            squares += np.einsum("ij,ij->j", z, z)
        self.total, self.norm = total, _centred_norm(total, squares, self.n_rows)

    def row_blocks(self) -> Iterable[slice]:
        return row_blocks(*self._codes.shape)

    def __getitem__(self, rows: slice) -> np.ndarray:
        return (self._float64(rows) - self._shift) / self._scale

    def _float64(self, rows: slice) -> np.ndarray:
        return np.asarray(self._codes[rows], dtype=np.float64)

    def _spread(self) -> np.ndarray:
        largest, spread = np.zeros_like(self._shift), np.zeros_like(self._shift)
        for rows in self.row_blocks():
            block = self._float64(rows)
            np.maximum(largest, abs(block).max(0), out=largest)
            np.maximum(spread, abs(block - self._shift).max(0), out=spread)
        return _infinite_if_constant(spread, largest, self._codes.dtype)


class SparseColumns:
    """`DenseColumns` for CSR: zeros stay zeros, so only full columns are shifted.

    A column with a zero already holds the 0 that `DenseColumns` arranges for.
    """

    def __init__(self, codes: sparse.csr_array):
        n_rows, n_columns = codes.shape
        z = codes.astype(np.float64)  # a copy: its values are overwritten below
        full = np.bincount(z.indices, minlength=n_columns) == n_rows
        shift = np.where(full, z[[0]].toarray()[0], 0.0)
        largest = _column_max(abs(z.data), z.indices, n_columns)
        z.data -= shift[z.indices]
        spread = _column_max(abs(z.data), z.indices, n_columns)
        z.data /= _infinite_if_constant(spread, largest, codes.dtype)[z.indices]
        self._scaled = z
        self.n_rows = n_rows
        self.total = np.bincount(z.indices, z.data, n_columns)
        squares = np.bincount(z.indices, z.data**2, n_columns)
        self.norm = _centred_norm(self.total, squares, n_rows)

    def row_blocks(self) -> Iterable[slice]:
        # Each block's product is added to a dense matrix: worth it from as many
        # multiplications as that has entries.
        n_columns = self._scaled.shape[1]
        active = max(1.0, self._scaled.nnz / self.n_rows)
        return slices(self.n_rows, int(max(_CACHED / active, (n_columns / active) ** 2)) + 1)

    def __getitem__(self, rows: slice) -> sparse.csr_array:
        return self._scaled[rows]


def _same_kind(a: Any, b: Any) -> tuple[Any, Any]:
    """Sparse if either is: the product then costs what the sparser one has to say."""
    if sparse.issparse(a) or sparse.issparse(b):
        return SparseColumns(_as_csr(a)), SparseColumns(_as_csr(b))
    return DenseColumns(a), DenseColumns(b)


def _as_csr(codes: Any) -> sparse.csr_array:
    """SciPy's sparse arrays have no float16."""
    codes = codes.astype(np.float32) if codes.dtype == np.float16 else codes
    return sparse.csr_array(codes)


def _infinite_if_constant(spread: np.ndarray, largest: np.ndarray, dtype: Any) -> np.ndarray:
    """The scale of each column: its spread, unless that is a few roundings of its values."""
    precision = np.finfo(dtype if np.issubdtype(dtype, np.floating) else np.float64).eps
    return np.where(spread <= 4 * precision * largest, np.inf, spread)


def _centred_norm(total: np.ndarray, squares: np.ndarray, n_rows: int) -> np.ndarray:
    norm = np.sqrt(np.maximum(squares - total**2 / n_rows, 0))
    return np.where(norm > 0, norm, np.inf)


def _column_max(values: np.ndarray, columns: np.ndarray, n_columns: int) -> np.ndarray:
    largest = np.zeros(n_columns)
    np.maximum.at(largest, columns, values)
    return largest
