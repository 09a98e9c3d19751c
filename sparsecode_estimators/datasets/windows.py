"""Texts as a language model reads them: windows of token ids, and the rows they become."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_TEXTS_AT_ONCE = 256


@dataclass(frozen=True)
class Windows:
    """Consecutive windows of the documents, and which of their tokens become rows.

    Parameters
    ----------
    token_ids : list of int64 ndarray
        Of every window, in the order of the documents, special tokens included.
    document_ids : int64 ndarray of shape (n_windows,)
    first : int
        The first position of a window that becomes a row.
    padding : int
        Token id for the places behind the end of a short window.
    """

    token_ids: list[NDArray[np.int64]]
    document_ids: NDArray[np.int64]
    first: int
    padding: int

    def lengths(self) -> NDArray[np.int64]:
        """Number of tokens of every window."""
        return np.array([len(ids) for ids in self.token_ids], dtype=np.int64)

    def counts(self) -> NDArray[np.int64]:
        """Number of rows of every window."""
        return np.maximum(self.lengths() - self.first, 0)

    def batches(self, batch_size: int) -> Iterator[NDArray[np.int64]]:
        """Indices of windows, like lengths together; the longest first.

        So there is little padding, and a batch that is too large fails at once.
        """
        order = np.argsort(-self.lengths(), kind="stable")
        order = order[self.counts()[order] > 0]
        for start in range(0, len(order), batch_size):
            yield order[start : start + batch_size]

    def inputs(self, chosen: NDArray[np.int64], device: torch.device) -> dict[str, Tensor]:
        """What the model is called with, each entry of shape (n, length).

        The padding is on the right: causal models never look there, and the
        attention mask hides it from the others.
        """
        ids = [self.token_ids[window] for window in chosen]
        shape = len(ids), max(map(len, ids))
        input_ids, mask = np.full(shape, self.padding), np.zeros(shape, dtype=np.int64)
        for row, window in enumerate(ids):
            input_ids[row, : len(window)] = window
            mask[row, : len(window)] = 1
        return {
            "input_ids": torch.from_numpy(input_ids).to(device),
            "attention_mask": torch.from_numpy(mask).to(device),
        }

    def row_token_ids(self) -> NDArray[np.int64]:
        """Token id of every row."""
        return np.concatenate([ids[self.first :] for ids in self.token_ids])

    def row_positions(self) -> NDArray[np.int64]:
        """Position in its window of every row."""
        return np.concatenate([np.arange(len(ids))[self.first :] for ids in self.token_ids])

    def row_document_ids(self) -> NDArray[np.int64]:
        """Index of the document of every row."""
        return np.repeat(self.document_ids, self.counts())


def cut_windows(
    documents: list[str],
    tokenizer: Any,
    *,
    context_length: int,
    drop_first: bool,
    vocab_size: int,
) -> Windows:
    """Cut every document into windows, each with the special tokens of a text of its own.

    Raises
    ------
    ValueError
        If the special tokens fill the context, a token is not among the
        `vocab_size` ones of the model, or no token becomes a row.
    """
    before, after = _special_tokens(tokenizer)
    room = context_length - len(before) - len(after)
    if room < 1:
        raise ValueError(
            f"context_length={context_length} leaves no room for text beside the "
            f"{len(before) + len(after)} special tokens of the tokenizer; raise it."
        )
    token_ids, document_ids = [], []
    for document, ids in enumerate(_bare_token_ids(tokenizer, documents)):
        for start in range(0, len(ids), room):
            window = [*before, *ids[start : start + room], *after]
            token_ids.append(np.array(window, dtype=np.int64))
            document_ids.append(document)
    _check_vocabulary(token_ids, vocab_size)
    padding = getattr(tokenizer, "pad_token_id", None) or 0
    if padding >= vocab_size:  # added to the tokenizer only; the mask hides whatever is there
        padding = 0
    windows = Windows(token_ids, np.array(document_ids, dtype=int), int(drop_first), padding)
    if not windows.counts().any():
        raise ValueError(
            f"texts gives {sum(map(len, token_ids))} tokens, and none is left with "
            f"drop_first={drop_first} and context_length={context_length}; give longer texts, "
            "a longer context, or drop_first=False."
        )
    return windows


def _bare_token_ids(tokenizer: Any, documents: list[str]) -> Iterator[list[int]]:
    """Token ids without special tokens, a few hundred documents at a time."""
    for start in range(0, len(documents), _TEXTS_AT_ONCE):
        part = documents[start : start + _TEXTS_AT_ONCE]
        # verbose=False: a text longer than the context is nothing to warn of here.
        yield from tokenizer(part, add_special_tokens=False, verbose=False)["input_ids"]


def _special_tokens(tokenizer: Any) -> tuple[list[int], list[int]]:
    """What the tokenizer puts before and after a text."""
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    full = tokenizer("a")["input_ids"]
    for start in range(len(full) - len(bare) + 1):
        if full[start : start + len(bare)] == bare:
            return full[:start], full[start + len(bare) :]
    return [], []


def _check_vocabulary(token_ids: list[NDArray[np.int64]], vocab_size: int) -> None:
    largest = max((int(ids.max()) for ids in token_ids), default=0)
    if largest >= vocab_size:
        raise ValueError(
            f"tokenizer gives token {largest}, but the model knows {vocab_size} tokens only; "
            "pass the tokenizer that belongs to the model."
        )


def decode_each(tokenizer: Any, token_ids: NDArray[np.int64]) -> NDArray[np.object_]:
    """Every token as text of its own."""
    distinct, inverse = np.unique(token_ids, return_inverse=True)
    pieces = np.empty(len(distinct), dtype=object)
    for i, token_id in enumerate(distinct.tolist()):
        piece = tokenizer.decode([token_id], clean_up_tokenization_spaces=False)
        # SentencePiece loses the space before the first word when it decodes.
        starts_word = str(tokenizer.convert_ids_to_tokens(token_id)).startswith("\u2581")
        pieces[i] = f" {piece}" if starts_word and not piece.startswith(" ") else piece
    return pieces[inverse]
