"""Documents as a language model reads them: windows of token ids, and the rows they become."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .documents import Document

_TEXTS_AT_ONCE = 256


class Columns(NamedTuple):
    """What is known of some rows, each an int64 ndarray of shape (n_rows,)."""

    token_ids: NDArray[np.int64]
    document_ids: NDArray[np.int64]
    positions: NDArray[np.int64]


class Places(NamedTuple):
    """Where the rows of a batch come from and go to, each an int64 tensor of shape (n,).

    ``source`` counts the tokens of the batch, padding included; ``target`` the rows of all
    windows, in the order of the documents.
    """

    source: Tensor
    target: Tensor


@dataclass(frozen=True)
class Windows:
    """Some windows, and which of their tokens become rows.

    Parameters
    ----------
    token_ids : list of int64 ndarray
        Of every window, in the order of the documents, special tokens included.
    document_ids : int64 ndarray of shape (n_windows,)
    firsts : int64 ndarray of shape (n_windows,)
        The first position of every window that becomes a row; all after it do.
    padding : int
        Token id for the places behind the end of a short window.
    """

    token_ids: list[NDArray[np.int64]]
    document_ids: NDArray[np.int64]
    firsts: NDArray[np.int64]
    padding: int

    def lengths(self) -> NDArray[np.int64]:
        """Number of tokens of every window."""
        return np.array([len(ids) for ids in self.token_ids], dtype=np.int64)

    def counts(self) -> NDArray[np.int64]:
        """Number of rows of every window."""
        return self.lengths() - self.firsts

    def batches(self, batch_size: int) -> Iterator[NDArray[np.int64]]:
        """Indices of windows, like lengths together; the longest first.

        So there is little padding, and a batch that is too large fails at once.
        """
        order = np.argsort(-self.lengths(), kind="stable")
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
            "input_ids": to_device(torch.from_numpy(input_ids), device),
            "attention_mask": to_device(torch.from_numpy(mask), device),
        }

    def places(self, chosen: NDArray[np.int64]) -> Places:
        """Where the rows of a batch lie in it, and among all rows."""
        counts = self.counts()
        begins = np.cumsum(counts) - counts
        of_batch = counts[chosen]
        within = np.arange(of_batch.sum()) - np.repeat(np.cumsum(of_batch) - of_batch, of_batch)
        length = max(len(self.token_ids[window]) for window in chosen)
        starts = np.arange(len(chosen)) * length + self.firsts[chosen]
        return Places(
            torch.from_numpy(np.repeat(starts, of_batch) + within),
            torch.from_numpy(np.repeat(begins[chosen], of_batch) + within),
        )

    def columns(self) -> Columns:
        """Of all rows, in the order of the documents."""
        pairs = list(zip(self.token_ids, self.firsts, strict=True))
        return Columns(
            np.concatenate([ids[first:] for ids, first in pairs]),
            np.repeat(self.document_ids, self.counts()),
            np.concatenate([np.arange(first, len(ids)) for ids, first in pairs]),
        )


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """A copy there; to a GPU it travels while the one before is computed with."""
    if device.type != "cuda":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)


class Cutter:
    """Cuts documents into windows, each with the special tokens of a text of its own.

    A conversation is written out by the tokenizer's chat template, which has its own special
    tokens: no others are put around its windows.

    Parameters
    ----------
    tokenizer : transformers tokenizer
    context_length : int
    long_texts : {"split", "cut"}
        Whether a document that is longer becomes several windows, or ends there.
    overlap : int
        Tokens at the end of a window that stand at the beginning of the next one, too. They
        are context there, and become no rows again.
    drop_first : bool
        Whether position 0 of every window becomes no row.
    vocab_size : int

    Raises
    ------
    ValueError
        If special tokens and overlap fill the context.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        context_length: int,
        long_texts: str = "split",
        overlap: int = 0,
        drop_first: bool = True,
        vocab_size: int,
    ) -> None:
        self.tokenizer, self.context_length = tokenizer, context_length
        self.is_cut, self.overlap = long_texts == "cut", overlap
        self.drop_first, self.vocab_size = drop_first, vocab_size
        self.around = _special_tokens(tokenizer)
        n_special = sum(map(len, self.around))
        if context_length - n_special < 1:
            raise ValueError(
                f"context_length={context_length} leaves no room for text beside the "
                f"{n_special} special tokens of the tokenizer; raise it."
            )
        if context_length - n_special <= overlap:
            raise ValueError(
                f"overlap={overlap} leaves no room for new tokens in context_length="
                f"{context_length}, {n_special} of which are special tokens; lower it."
            )
        padding = getattr(tokenizer, "pad_token_id", None) or 0
        # one added to the tokenizer only; the mask hides whatever is there
        self.padding = padding if padding < vocab_size else 0

    def blocks(self, documents: Iterable[Document], size: int) -> Iterator[Windows]:
        """All windows that have rows, some at a time.

        Parameters
        ----------
        documents : iterable
            As `read_documents` gives them; read no further than needed.
        size : int
            Windows in a block.

        Raises
        ------
        ValueError
            If a token is not among those of the model, a conversation cannot be written out,
            or, at the end, no token has become a row.
        """
        n_documents = n_tokens = n_blocks = 0
        open_windows: list[tuple[NDArray[np.int64], int, int]] = []
        for document, (is_chat, ids) in enumerate(self._token_ids(documents)):
            n_documents, n_tokens = document + 1, n_tokens + len(ids)
            for window, first in self._windows(ids, is_chat):
                open_windows.append((window, document, first))
                if len(open_windows) == size:
                    yield self._block(open_windows)
                    open_windows, n_blocks = [], n_blocks + 1
        if open_windows:
            yield self._block(open_windows)
        elif not n_blocks:
            raise ValueError(
                f"texts gives {n_tokens} tokens, and none is left with "
                f"drop_first={self.drop_first} and context_length={self.context_length}; give "
                "longer texts, a longer context, or drop_first=False."
                if n_tokens
                else f"texts has {n_documents} texts and all are empty; give some text."
            )

    def _block(self, windows: list[tuple[NDArray[np.int64], int, int]]) -> Windows:
        token_ids, documents, firsts = zip(*windows, strict=True)
        return Windows(
            list(token_ids),
            np.array(documents, dtype=np.int64),
            np.array(firsts, dtype=np.int64),
            self.padding,
        )

    def _windows(
        self, ids: NDArray[np.int64], is_chat: bool
    ) -> Iterator[tuple[NDArray[np.int64], int]]:
        """Windows of a document, and the first position of each that becomes a row."""
        before, after = ([], []) if is_chat else self.around
        room = self.context_length - len(before) - len(after)
        begin = 0
        while begin < len(ids):
            known = self.overlap if begin else 0
            part = ids[begin - known : begin - known + room]
            first = max(int(self.drop_first), len(before) + known if known else 0)
            window = np.concatenate([before, part, after]).astype(np.int64)
            if len(window) > first:
                yield window, first
            begin += len(part) - known
            if self.is_cut:
                return

    def _token_ids(self, documents: Iterable[Document]) -> Iterator[tuple[bool, NDArray[np.int64]]]:
        """Token ids without special tokens, a few hundred documents at a time."""
        numbered = enumerate(documents)
        while part := list(islice(numbered, _TEXTS_AT_ONCE)):
            texts = [self._written_out(number, document) for number, document in part]
            # verbose=False: a text longer than the context is nothing to warn of here.
            tokens = self.tokenizer(texts, add_special_tokens=False, verbose=False)
            for (_, document), ids in zip(part, tokens["input_ids"], strict=True):
                array = np.array(ids, dtype=np.int64)
                self._check_vocabulary(array)
                yield not isinstance(document, str), array

    def _written_out(self, number: int, document: Document) -> str:
        if isinstance(document, str):
            return document
        if not getattr(self.tokenizer, "chat_template", None):
            raise ValueError(
                f"texts[{number}] is a conversation, but the tokenizer has no chat_template; give "
                "texts, or the tokenizer of a chat model."
            )
        try:
            return self.tokenizer.apply_chat_template(document, tokenize=False)
        except ImportError:
            raise  # says that jinja2 is missing
        except Exception as error:  # whatever the template, a program, may raise
            raise ValueError(
                f"texts[{number}] cannot be written out by the tokenizer's chat_template ({error})."
            ) from error

    def _check_vocabulary(self, ids: NDArray[np.int64]) -> None:
        largest = int(ids.max(initial=0))
        if largest >= self.vocab_size:
            raise ValueError(
                f"tokenizer gives token {largest}, but the model knows {self.vocab_size} tokens "
                "only; pass the tokenizer that belongs to the model."
            )


def _special_tokens(tokenizer: Any) -> tuple[list[int], list[int]]:
    """What the tokenizer puts before and after a text."""
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    full = tokenizer("a")["input_ids"]
    for start in range(len(full) - len(bare) + 1):
        if full[start : start + len(bare)] == bare:
            return full[:start], full[start + len(bare) :]
    return [], []


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
