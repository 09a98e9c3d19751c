"""Whose latents ``judge.py`` asks about: an SAE's, its refined codes', random and known ones."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse
from sklearn.frozen import FrozenEstimator

from sparsecode_estimators import ITORefiner, SAEEncoder
from sparsecode_estimators.datasets import ActivationStore, decode_tokens
from sparsecode_estimators.interpret import (
    Explanation,
    Explanations,
    LatentContexts,
    collect_contexts,
    iter_codes,
    random_encoder,
)

SAE, REFINED, RANDOM, KNOWN = "SAE", "SAE + ITO", "random encoder", "known words"
FEWEST, MOST = 50, 0.05  # tokens on which a latent has to fire, and share on which it may
WINDOW = {"n_before": 10, "n_after": 5}
LETTERS, FEWEST_WORDS = 3, 15  # of a known word; fewer, as none are shown for an explanation


class Latents(NamedTuple):
    """What is judged of one encoder.

    Attributes
    ----------
    contexts : LatentContexts
    chosen : list of int
    explanations : Explanations or None
        Those that are known; None if a model is asked for them.
    """

    contexts: LatentContexts
    chosen: list[int]
    explanations: Explanations | None = None


def latents_of(
    sae: SAEEncoder, store: ActivationStore, *, n: int, n_rows: int, seed: int
) -> dict[str, Latents]:
    """Contexts on the first rows of the store, and n latents of each encoder at random.

    Those of the SAE and of its refined codes are the same. The known ones are indicators of
    words, each explained by its word: who judges these no better than chance is no judge.
    """
    n_rows = min(n_rows, len(store))
    documents = store.document_ids[:n_rows]
    ids, places = np.unique(store.token_ids[:n_rows], return_inverse=True)
    texts = decode_tokens(ids, store.metadata["extraction"]["tokenizer"])
    words, indicators = known_words(texts, places, documents)
    refined = ITORefiner(FrozenEstimator(sae), sparse_output=True).fit(store[:100])
    rows = Rows(store, n_rows)
    codes: dict[str, Any] = {
        SAE: iter_codes(sae, rows),
        REFINED: iter_codes(refined, rows),
        RANDOM: iter_codes(random_encoder(sae, store, random_state=seed), rows),
        KNOWN: indicators,
    }
    contexts = dict(_collected(codes, texts[places], documents, seed))
    drawn = chosen(contexts, n, seed)
    found = {name: Latents(contexts[name], drawn[name]) for name in contexts}
    rows_of_words = [
        Explanation(latent, f'the word "{words[latent]}"', "ok", None, shown=())
        for latent in drawn[KNOWN]
    ]
    found[KNOWN] = found[KNOWN]._replace(explanations=Explanations(rows_of_words))
    return found


def _collected(
    codes: dict[str, Any], tokens: np.ndarray, documents: np.ndarray, seed: int
) -> Iterator[tuple[str, LatentContexts]]:
    for name, stream in codes.items():
        begin = time.perf_counter()
        yield name, collect_contexts(stream, tokens, documents, **WINDOW, random_state=seed)
        print(f"{name}: contexts after {time.perf_counter() - begin:.0f} s", flush=True)


class Rows:
    """The first rows of a store, without a copy of them."""

    def __init__(self, store: ActivationStore, n: int) -> None:
        self.store, self.shape = store, (n, store.shape[1])

    def __getitem__(self, rows: slice) -> np.ndarray:
        return self.store[slice(*rows.indices(self.shape[0]))]


def usual(contexts: LatentContexts, fewest: int) -> np.ndarray:
    """Which latents fire often enough to be judged, and seldom enough to mean something."""
    n_firing = contexts.firing_rate * contexts.n_tokens
    return (n_firing >= fewest - 0.5) & (contexts.firing_rate <= MOST)


def chosen(contexts: dict[str, LatentContexts], n: int, seed: int) -> dict[str, list[int]]:
    """Latents at random: the same of both codes of the SAE, others of the other encoders."""
    fewest = dict.fromkeys(contexts, FEWEST) | {KNOWN: FEWEST_WORDS}
    allowed = {name: usual(found, fewest[name]) for name, found in contexts.items()}
    allowed[SAE] = allowed[REFINED] = allowed[SAE] & allowed[REFINED]
    drawn = {}
    for name, which in allowed.items():
        latents = np.flatnonzero(which)
        if len(latents) < n:
            raise SystemExit(f"{name}: {len(latents)} latents fire as often as they should.")
        drawn[name] = np.random.RandomState(seed).choice(latents, n, replace=False).tolist()
    return drawn


def known_words(
    texts: np.ndarray, places: np.ndarray, documents: np.ndarray
) -> tuple[list[str], sparse.csr_array]:
    """Tokens that are whole words, and codes whose latents are their indicators.

    Parameters
    ----------
    texts : object ndarray of shape (n_texts,)
    places : int ndarray of shape (n_tokens,)
        Into the texts.
    documents : int ndarray of shape (n_tokens,)
    """
    number: dict[str, int] = {}  # of a word, with or without a space before it or capitals
    column = np.full(len(texts), -1)
    for i, text in enumerate(texts):
        word = text.strip().lower()
        if word.isalpha() and len(word) >= LETTERS:
            column[i] = number.setdefault(word, len(number))
    # a token is a part of a word if no space or mark stands between it and its neighbour
    begins, ends = (np.array([_in_word(text[i:][:1]) for text in texts]) for i in (0, -1))
    joined = ends[places[:-1]] & begins[places[1:]] & (documents[:-1] == documents[1:])
    is_part = np.append(joined, False) | np.append(False, joined)
    rows = np.flatnonzero((column[places] >= 0) & ~is_part)
    entries = np.ones(len(rows), np.float32), (rows, column[places[rows]])
    return list(number), sparse.csr_array(entries, shape=(len(places), len(number)))


def _in_word(character: str) -> bool:
    return character.isalnum() or character == "_"
