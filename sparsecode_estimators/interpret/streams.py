"""Codes as a stream of blocks of bounded size, each with the rows around it."""

import copy
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse
from sklearn.pipeline import Pipeline

from ..estimators.base import thawed
from ..metrics.inputs import as_codes

_BLOCK = 2**20  # non-zeros and rows of a block: some 100 MB of working memory
_ROWS = 1024  # encoded at a time: 64 MiB of 16,384 latents where codes come dense


class Block(NamedTuple):
    """Rows `start` to `stop` of the codes, and some before and after them."""

    codes: sparse.csr_array
    begin: int  # number of the first row in `codes`
    start: int
    stop: int


def iter_codes(estimator: Any, X: Any, *, n_rows: int | None = None) -> Iterator[sparse.csr_array]:
    """Encode rows a block at a time, as `collect_contexts` reads them.

    Parameters
    ----------
    estimator : fitted transformer
        An encoder of this package, a pipeline that ends in one, or anything with
        ``transform``. One with a parameter ``sparse_output`` is asked for sparse codes; the
        estimator itself is left as it is.
    X : array-like or ActivationStore of shape (n_samples, n_features)
        Anything whose rows can be sliced.
    n_rows : int, default=None
        Rows at a time. None: 1024.

    Yields
    ------
    codes : csr_array of shape (at most n_rows, n_components)

    Raises
    ------
    ValueError
        If `n_rows` is below 1.

    See Also
    --------
    collect_contexts : What they are needed for.

    Examples
    --------
    >>> import numpy as np
    >>> from sparsecode_estimators import SAEEncoder
    >>> from sparsecode_estimators.interpret import iter_codes
    >>> X = np.random.RandomState(0).randn(100, 4)
    >>> sae = SAEEncoder(8, max_iter=2, random_state=0).fit(X)
    >>> [codes.shape for codes in iter_codes(sae, X, n_rows=60)]
    [(60, 8), (40, 8)]
    """
    if n_rows is not None and n_rows < 1:
        raise ValueError(f"n_rows={n_rows} must be at least 1.")
    twin = copy.deepcopy(estimator)  # so that nothing is set on the caller's
    if hasattr(twin, "set_output"):
        twin.set_output(transform="default")
    # a frozen one lets no parameter of its own twin be set
    last = thawed(twin[-1] if isinstance(twin, Pipeline) else twin)
    if hasattr(last, "sparse_output"):
        last.set_params(sparse_output=True)
    step = n_rows or _ROWS
    n_samples = X.shape[0] if hasattr(X, "shape") else len(X)
    for start in range(0, n_samples, step):
        codes = as_codes(twin.transform(X[start : start + step]), "codes")
        yield sparse.csr_array(with_signs(codes))


def read_blocks(codes: Any, n_rows: int, n_before: int, n_after: int) -> Iterator[Block]:
    """All rows of codes once, in blocks.

    Parameters
    ----------
    codes : array, CSR, DataFrame or tensor of shape (n_rows, n_latents), or iterable of such
    n_rows : int
        How many there have to be.
    n_before, n_after : int
        Rows that a block has before and after its own, where there are any.

    Raises
    ------
    ValueError
        If there are more rows, or fewer, chunks differ in width, or values are not finite.
    """
    pending, begin, done = None, 0, 0
    for piece in _regrouped(_pieces(codes)):
        pending = piece if pending is None else _stacked([pending, piece])
        end = begin + pending.shape[0]
        if end > n_rows:
            raise ValueError(
                f"codes has at least {end} rows, but tokens only {n_rows}: give one token "
                "for each row."
            )
        stop = end - n_after
        if stop > done:
            yield Block(pending, begin, done, stop)
            keep = max(begin, stop - n_before)
            pending, begin, done = pending[keep - begin :], keep, stop
    seen = 0 if pending is None else begin + pending.shape[0]
    if seen != n_rows:
        raise ValueError(
            f"codes has {seen} rows, but tokens {n_rows}: give one token for each row. "
            "A generator can be read once only."
        )
    if pending is not None and done < seen:
        yield Block(pending, begin, done, seen)


def _pieces(codes: Any) -> Iterator[sparse.csr_array]:
    """Chunks as CSR, the large ones cut."""
    width = None
    for number, chunk in enumerate([codes] if _is_table(codes) else _iterated(codes)):
        name = "codes" if _is_table(codes) else f"codes (chunk {number})"
        table = as_codes(chunk, name)
        if width is not None and table.shape[1] != width:
            raise ValueError(
                f"{name} has {table.shape[1]} columns and those before it {width}: all chunks "
                "must have one column for each latent."
            )
        width = table.shape[1]
        is_sparse = sparse.issparse(table)
        per_row = 1 + table.nnz / table.shape[0] if is_sparse else table.shape[1] / 8
        step = max(1, int(_BLOCK / per_row))
        for start in range(0, table.shape[0], step):
            yield sparse.csr_array(with_signs(table[start : start + step]))


def with_signs(table: Any) -> Any:
    """As floating point numbers that SciPy has: other types overflow, or have no ``-codes``."""
    if table.dtype in (np.float32, np.float64):
        return table
    return table.astype(np.float32 if table.dtype.itemsize <= 2 else np.float64)


def _regrouped(pieces: Iterator[sparse.csr_array]) -> Iterator[sparse.csr_array]:
    """Small pieces put together."""
    gathered: list[sparse.csr_array] = []
    size = 0
    for piece in pieces:
        gathered.append(piece)
        size += piece.nnz + piece.shape[0]
        if 2 * size > _BLOCK:
            yield _stacked(gathered)
            gathered, size = [], 0
    if gathered:
        yield _stacked(gathered)


def _stacked(pieces: list[sparse.csr_array]) -> sparse.csr_array:
    return pieces[0] if len(pieces) == 1 else sparse.vstack(pieces, format="csr")


def _is_table(codes: Any) -> bool:
    """Whether these are all codes at once, and not chunks of them."""
    if isinstance(codes, (list, tuple)):
        return len(codes) > 0 and np.ndim(codes[0]) == 1 and not sparse.issparse(codes[0])
    return hasattr(codes, "shape")


def _iterated(codes: Any) -> Iterable[Any]:
    if not isinstance(codes, Iterable):
        raise TypeError(
            f"codes must be an array, a CSR matrix or an iterable of them, got "
            f"{type(codes).__name__}."
        )
    return codes
