"""The text that codes belong to: one token a row, in documents."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_LARGEST_VOCABULARY = 2**26


class Corpus:
    """Tokens by number and the documents they stand in, with 12 bytes a token.

    Parameters
    ----------
    tokens : sequence of str, or integer array of shape (n_tokens,)
        Each token as text, or its id in a tokenizer.
    document_ids : integer array-like of shape (n_tokens,)
        Rows next to each other with one number are a document.
    decode : callable or sequence of str, default=None
        For ids: the text of one, ``decode(id)`` or ``decode[id]``.

    Attributes
    ----------
    texts : list of str
        The distinct texts of tokens.
    ids : int32 ndarray of shape (n_tokens,)
        Into `texts`.
    document_ids : int64 ndarray of shape (n_tokens,)
    """

    def __init__(self, tokens: Any, document_ids: Any, decode: Any = None) -> None:
        self.ids, self.texts = _numbered(tokens, decode)
        self.document_ids = _checked_documents(document_ids, len(self.ids))
        changes = self.document_ids[1:] != self.document_ids[:-1]
        self._starts = np.append(0, np.flatnonzero(changes) + 1)
        self._ends = np.append(self._starts[1:], len(self.ids))

    def __len__(self) -> int:
        return len(self.ids)

    def window(
        self, rows: NDArray[np.int64] | np.int64, n_before: int, n_after: int
    ) -> tuple[Any, Any]:
        """First row, and the one after the last, of the text around `rows` in their documents."""
        run = np.searchsorted(self._starts, rows, side="right") - 1
        first = np.maximum(rows - n_before, self._starts[run])
        return first, np.minimum(rows + n_after + 1, self._ends[run])

    def text(self, first: int, stop: int) -> tuple[str, ...]:
        """The tokens of some rows."""
        return tuple(map(self.texts.__getitem__, self.ids[first:stop].tolist()))


def _numbered(tokens: Any, decode: Any) -> tuple[NDArray[np.int32], list[str]]:
    if isinstance(tokens, (str, bytes)):
        raise TypeError("tokens is one text; give a list with one str for each row of codes.")
    if decode is None:
        return _by_text(tokens, len(tokens))
    ids = np.asarray(tokens)
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise TypeError(
            f"tokens has shape {ids.shape} and dtype {ids.dtype}, but with decode it must be a "
            "one-dimensional array of integers; leave decode=None for tokens that are str."
        )
    lowest, highest = int(ids.min(initial=0)), int(ids.max(initial=0))
    if lowest < 0 or highest >= _LARGEST_VOCABULARY:
        raise ValueError(
            f"tokens has ids from {lowest} to {highest}, but they must be from 0 to "
            f"{_LARGEST_VOCABULARY - 1}, as those of a tokenizer are."
        )
    text_of: Callable[[int], str] = decode if callable(decode) else decode.__getitem__
    occurs = np.zeros(highest + 1, bool)
    occurs[ids] = True
    distinct = np.flatnonzero(occurs)
    numbers = np.zeros(highest + 1, np.int32)
    numbers[distinct], texts = _by_text([text_of(i) for i in distinct.tolist()], len(distinct))
    return numbers[ids], texts


def _by_text(tokens: Sequence[str], n: int) -> tuple[NDArray[np.int32], list[str]]:
    """Equal texts get equal numbers, in the order in which they come."""
    table: dict[str, int] = {}
    numbers = (table.setdefault(token, len(table)) for token in tokens)
    ids = np.fromiter(numbers, np.int32, n)
    for text in table:
        if not isinstance(text, str):
            raise TypeError(
                f"tokens holds {text!r} of type {type(text).__name__}, but must hold str; for "
                "ids of tokens give decode, too."
            )
    return ids, [str(text) for text in table]  # NumPy's own str, too


def _checked_documents(document_ids: Any, n: int) -> NDArray[np.int64]:
    documents = np.asarray(document_ids)
    if documents.shape != (n,) or (n and documents.dtype.kind not in "iu"):
        raise ValueError(
            f"document_ids has shape {documents.shape} and dtype {documents.dtype}, but must hold "
            f"one integer for each of the {n} tokens."
        )
    return documents.astype(np.int64, copy=False)
