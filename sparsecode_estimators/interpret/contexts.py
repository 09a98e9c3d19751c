"""Where latents fire: statistics and stretches of text, collected in one pass over the codes."""

from typing import Any

from sklearn.utils import check_random_state

from ..datasets.checks import check_integer
from .collector import Collector
from .corpus import Corpus
from .latents import Context, LatentContexts
from .streams import read_blocks

__all__ = ["Context", "LatentContexts", "collect_contexts"]

_SAMPLED = 2  # firings kept for each context of a quantile, as some will have one text
_POOLED = 40  # rows kept for each silent context, as a latent may fire around some


def collect_contexts(
    codes: Any,
    tokens: Any,
    document_ids: Any,
    *,
    n_top: int = 20,
    n_quantiles: int = 10,
    n_per_quantile: int = 5,
    n_random: int = 50,
    n_before: int = 20,
    n_after: int = 10,
    decode: Any = None,
    random_state: Any = None,
) -> LatentContexts:
    """Collect, in one pass over codes, where each latent fires and how strongly.

    Parameters
    ----------
    codes : array-like, CSR, DataFrame or tensor of shape (n_tokens, n_latents), or an iterable
        An iterable gives the rows in order, some at a time, and may be a generator:
        `iter_codes` makes one from an estimator and activations that lie on disk. Codes that
        are not zero count as firing.
    tokens : sequence of n_tokens str, or integer array of shape (n_tokens,)
        What each row is.
    document_ids : integer array-like of shape (n_tokens,)
        Rows next to each other with one number are a document. No context crosses its ends.
    n_top : int, default=20
        The strongest contexts of each latent, no two of the same text.
    n_quantiles, n_per_quantile : int, default=10 and 5
        Contexts from equal parts of a latent's firings, by rank.
    n_random : int, default=50
        How many contexts without the latent there should be for most latents.
    n_before, n_after : int, default=20 and 10
        Tokens of a context before and after the one it is about.
    decode : callable or sequence of str, default=None
        The text of a token id, if tokens are ids: ``decode(id)`` or ``decode[id]``.
    random_state : int, RandomState instance or None, default=None
        Which firings and rows are drawn. An int makes the result reproducible; it does not
        depend on how an iterable cuts the rows.

    Returns
    -------
    LatentContexts

    Raises
    ------
    TypeError
        If a number is not an integer, or tokens are neither str nor ids with `decode`.
    ValueError
        If a number is out of its range, `tokens`, `document_ids` and the rows of `codes`
        differ in number, chunks differ in width, or values are not finite.

    See Also
    --------
    iter_codes : Codes of a store, a block at a time.

    Notes
    -----
    Memory does not depend on the number of tokens, but for the ids of tokens and documents
    (12 bytes a token, beside what the caller holds): each latent has
    ``n_top + 2 n_quantiles n_per_quantile`` places for a window of ``n_before + 1 + n_after``
    float32 and some 30 bytes, 512 float32 of a sketch, and 160 counts; a block of rows takes
    some 200 MB for a while.

    Latents that fire together are found by a count sketch of the columns of codes: their
    cosines are unbiased, with a standard deviation of about 0.04. Cosines below 0.15 say
    nothing.

    References
    ----------
    M. Charikar, K. Chen, M. Farach-Colton (2002), "Finding frequent items in data streams".

    Examples
    --------
    >>> import numpy as np
    >>> from sparsecode_estimators.interpret import collect_contexts
    >>> tokens = "the cat sat on the mat".split()
    >>> codes = np.array([[1.0, 0], [0, 0], [0, 2.0], [0, 0], [3.0, 0], [0, 0]])
    >>> contexts = collect_contexts(codes, tokens, [0] * 6, n_before=1, n_after=1, random_state=0)
    >>> best = contexts.top(0)[0]
    >>> best.tokens, best.activations.tolist(), best.center
    (('on', 'the', 'mat'), [0.0, 3.0, 0.0], 1)
    >>> contexts.firing_rate.round(2).tolist()
    [0.33, 0.17]
    """
    for name, value, low in (
        ("n_top", n_top, 0),
        ("n_quantiles", n_quantiles, 1),
        ("n_per_quantile", n_per_quantile, 0),
        ("n_random", n_random, 0),
        ("n_before", n_before, 0),
        ("n_after", n_after, 0),
    ):
        check_integer(name, value, low)
    corpus = Corpus(tokens, document_ids, decode)
    seeds = check_random_state(random_state).randint(2**31, size=3)
    collector = None
    for block in read_blocks(codes, len(corpus), n_before, n_after):
        if collector is None:
            collector = Collector(
                corpus,
                block.codes.shape[1],
                n_top=n_top,
                n_sample=_SAMPLED * n_quantiles * n_per_quantile,
                n_pool=_POOLED * n_random,
                n_before=n_before,
                n_after=n_after,
                seeds=seeds,
            )
        collector.add(block)
    if collector is None:
        raise ValueError("codes has no rows; give at least one.")
    return LatentContexts(collector, n_quantiles=n_quantiles, n_per_quantile=n_per_quantile)
