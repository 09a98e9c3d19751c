"""What a token's identity alone says about a latent: scores without a language model."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from ..datasets.checks import check_integer
from .corpus import Corpus
from .measures import balanced_accuracy, chance_f1, f1_score
from .scores import stream
from .streams import read_blocks


class TokenScores(NamedTuple):
    """How well the token itself predicts whether each latent fires on it.

    Attributes
    ----------
    f1, balanced_accuracy : ndarray of shape (n_latents,)
        In [0, 1], on the documents that were not fitted. NaN where the latent does not fire in
        them, or always does.
    chance_f1 : ndarray of shape (n_latents,)
        F1 of saying that it always fires. Chance of the balanced accuracy is 0.5.
    n_firing : int64 ndarray of shape (n_latents,)
        Tokens on which the latent fires, in the documents that were not fitted.
    n_tokens : int
        Tokens of these documents.
    tokens : list of tuple of str
        The tokens that predict each latent, those on which it fires most often first.

    See Also
    --------
    score_tokens : Makes them.
    """

    f1: NDArray[np.float64]
    balanced_accuracy: NDArray[np.float64]
    chance_f1: NDArray[np.float64]
    n_firing: NDArray[np.int64]
    n_tokens: int
    tokens: list[tuple[str, ...]]


def score_tokens(
    codes: Any,
    tokens: Any,
    document_ids: Any,
    *,
    decode: Any = None,
    max_tokens: int = 20,
    random_state: Any = 0,
) -> TokenScores:
    """Score latents by how well the token alone predicts them, without a language model.

    On one half of the documents, for each latent, the tokens are ranked by how often it fires
    on them, and the first few are taken that give the best F1. On the other half it is
    predicted to fire on these. A latent with a score near 1 stands for these tokens, whatever
    a longer explanation says; one near chance needs context.

    Tokens are scored as often as they come, and most latents are rare. So compare F1 with its
    chance, and not with F1 of :func:`score_explanations`, where half of the contexts are right.

    Parameters
    ----------
    codes : array-like or CSR of shape (n_tokens, n_latents), or an iterable of such
        As in :func:`collect_contexts`. Codes that are not zero count as firing.
    tokens : sequence of n_tokens str, or integer array of shape (n_tokens,)
    document_ids : integer array-like of shape (n_tokens,)
        At least two documents.
    decode : callable or sequence of str, default=None
        The text of a token id, if tokens are ids.
    max_tokens : int, default=20
        How many tokens of a latent are named; all are used.
    random_state : int, RandomState or None, default=0
        Which documents are fitted.

    Returns
    -------
    scores : TokenScores

    Raises
    ------
    TypeError, ValueError
        As :func:`collect_contexts`; and if there is but one document.

    See Also
    --------
    score_explanations : The same for what a language model says of a latent.

    Notes
    -----
    The set of tokens of best F1 is found exactly: F1 is 2h/(n + p), with h hits, n tokens said
    and p firings, so a token that fires more often is always taken first (Lipton, Elkan &
    Naryanaswamy 2014). Memory grows with the distinct pairs of a token and a latent.

    References
    ----------
    Z. Lipton, C. Elkan, B. Naryanaswamy (2014), "Optimal thresholding of classifiers to
    maximize F1 measure".

    Examples
    --------
    >>> import numpy as np
    >>> from sparsecode_estimators.interpret import score_tokens
    >>> tokens = ["the", "cat", "the", "dog"] * 4
    >>> codes = np.array([[float(token == "cat")] for token in tokens])
    >>> scores = score_tokens(codes, tokens, np.repeat(np.arange(4), 4))
    >>> scores.tokens[0], scores.f1.tolist(), scores.chance_f1.tolist()
    (('cat',), [1.0], [0.4])
    """
    check_integer("max_tokens", max_tokens, 0)
    corpus = Corpus(tokens, document_ids, decode)
    fitted = _half(corpus.document_ids, random_state)
    n_texts = len(corpus.texts)
    seen = [np.bincount(corpus.ids[rows], minlength=n_texts) for rows in (fitted, ~fitted)]
    fires: list[Any] = [0, 0]
    for block in read_blocks(codes, len(corpus), 0, 0):
        own = block.codes[block.start - block.begin : block.stop - block.begin]
        rows = slice(block.start, block.stop)
        for which, chosen in enumerate((fitted[rows], ~fitted[rows])):
            fires[which] = fires[which] + _counts(own[chosen], corpus.ids[rows][chosen], n_texts)
    fit, held = (sparse.csc_array(table) for table in fires)
    return _scored(fit, held, seen[0], seen[1], corpus.texts, max_tokens)


def _half(document_ids: NDArray[np.int64], random_state: Any) -> NDArray[np.bool_]:
    """Rows of one half of the documents."""
    documents, inverse = np.unique(document_ids, return_inverse=True)
    if len(documents) < 2:
        raise ValueError(
            f"document_ids holds {len(documents)} document(s), but at least 2 are needed: one to "
            "fit and one to score."
        )
    drawn = stream(random_state).permutation(len(documents)) < len(documents) // 2
    return drawn[inverse]


def _counts(codes: Any, ids: NDArray[np.int32], n_texts: int) -> sparse.csr_array:
    """How often each latent fires on each token, of shape (n_texts, n_latents)."""
    shape = n_texts, len(ids)
    ones = np.ones(len(ids), np.int64)
    by_text = sparse.csr_array((ones, (ids, np.arange(len(ids)))), shape=shape)
    return by_text @ (codes != 0).astype(np.int64)


def _scored(
    fit: sparse.csc_array,
    held: sparse.csc_array,
    seen_fit: NDArray[np.int64],
    seen_held: NDArray[np.int64],
    texts: list[str],
    max_tokens: int,
) -> TokenScores:
    n_latents, n_tokens = fit.shape[1], int(seen_held.sum())
    hits, said = np.zeros((2, n_latents))
    names: list[tuple[str, ...]] = []
    for latent in range(n_latents):
        column = slice(fit.indptr[latent], fit.indptr[latent + 1])
        chosen = _best_tokens(fit.indices[column], fit.data[column], seen_fit)
        names.append(tuple(texts[i] for i in chosen[:max_tokens]))
        column = slice(held.indptr[latent], held.indptr[latent + 1])
        hits[latent] = held.data[column][np.isin(held.indices[column], chosen)].sum()
        said[latent] = seen_held[chosen].sum()
    n_firing = np.asarray(held.sum(axis=0), dtype=np.int64)
    n_silent = n_tokens - n_firing
    defined = (n_firing > 0) & (n_silent > 0)
    false = said - hits
    accuracy = balanced_accuracy(hits, false, np.maximum(n_firing, 1), np.maximum(n_silent, 1))
    return TokenScores(
        np.where(defined, f1_score(hits, false, n_firing), np.nan),
        np.where(defined, accuracy, np.nan),
        np.where(defined, chance_f1(n_firing / max(n_tokens, 1)), np.nan),
        n_firing,
        n_tokens,
        names,
    )


def _best_tokens(
    ids: NDArray[np.integer], fired: NDArray[np.int64], seen: NDArray[np.int64]
) -> NDArray[np.integer]:
    """The tokens whose set has the best F1, those of the highest rate first."""
    if not len(ids):
        return ids
    order = np.lexsort((-fired, -fired / seen[ids]))
    ids, fired = ids[order], fired[order]
    hits = np.cumsum(fired)
    f1 = 2 * hits / (np.cumsum(seen[ids]) + fired.sum())
    return ids[: int(np.argmax(f1)) + 1]
