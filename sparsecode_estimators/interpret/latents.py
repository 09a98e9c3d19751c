"""What one pass over codes has kept of each latent, by latent."""

from collections.abc import Sequence
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import check_random_state

from ..metrics.correlation import unit_rows
from ..metrics.inputs import as_codes
from .collector import Collector, KeptWindows
from .nearest import nearest_latents
from .statistics import HISTOGRAM_EDGES


class Context(NamedTuple):
    """A stretch of text around one token, and what a latent does on it.

    Attributes
    ----------
    tokens : tuple of n str
    activations : ndarray of shape (n,), float32
        Codes of the latent at these tokens.
    document : int
    row : int
        Row of the codes that the context is about.
    center : int
        The place of that row in `tokens`.

    See Also
    --------
    collect_contexts : Finds contexts of all latents.
    """

    tokens: tuple[str, ...]
    activations: np.ndarray
    document: int
    row: int
    center: int


class LatentContexts:
    """Statistics of every latent, and contexts on which it fires or does not.

    Made by `collect_contexts`. A latent *fires* where its code is not zero; strength is the
    absolute value of the code.

    Attributes
    ----------
    n_latents, n_tokens : int
    n_quantiles : int
    firing_rate : float64 ndarray of shape (n_latents,)
        Share of the tokens on which the latent fires.
    max_activation, mean_activation : float64 ndarray of shape (n_latents,)
        Largest strength, and the mean where the latent fires; 0 for one that never does.
    histogram : int64 ndarray of shape (n_latents, n_bins)
        How often the strength lies in each bin.
    histogram_edges : float64 ndarray of shape (n_bins + 1,)
        The bins of all latents: a quarter of an octave each, from 2^-24 to 2^16. What lies
        beyond is counted in the end bins.
    corpus : Corpus
        The tokens and documents.

    See Also
    --------
    collect_contexts : Makes them.

    Examples
    --------
    >>> import numpy as np
    >>> from sparsecode_estimators.interpret import collect_contexts
    >>> codes = np.array([[1.0, 0], [0, 0], [0, 2.0], [0, 0], [3.0, 0], [0, 4.0]])
    >>> contexts = collect_contexts(
    ...     codes, list("abcdef"), [0] * 6, n_quantiles=2, n_before=1, n_after=0, random_state=0
    ... )
    >>> [context.tokens for context in contexts.top(1)]
    [('e', 'f'), ('b', 'c')]
    >>> [context.tokens for context in contexts.quantile(1, 0)]
    [('b', 'c')]
    >>> sorted(context.tokens for context in contexts.silent(1, random_state=0))
    [('a',), ('a', 'b'), ('d', 'e')]
    """

    def __init__(self, collector: Collector, *, n_quantiles: int, n_per_quantile: int) -> None:
        statistics, self.corpus = collector.statistics, collector.corpus
        self.n_latents, self.n_tokens = len(statistics.count), len(self.corpus)
        self.n_quantiles, self.n_per_quantile = n_quantiles, n_per_quantile
        self.firing_rate = statistics.count / self.n_tokens
        self.max_activation = statistics.largest
        self.mean_activation = statistics.total / np.maximum(statistics.count, 1)
        self.histogram, self.histogram_edges = statistics.histogram, HISTOGRAM_EDGES
        self._profiles = _unit_rows(statistics.sketch, np.sqrt(statistics.squares))
        self._top, self._sample, self._pool = collector.top, collector.sample, collector.pool
        self._pool_columns = collector.pool.firing.tocsc()
        self._n_before, self._n_after = collector.n_before, collector.n_after

    def top(self, latent: int, n: int | None = None) -> list[Context]:
        """The strongest contexts, falling, each text once.

        Parameters
        ----------
        latent : int
        n : int, default=None
            How many; None: `n_top` of `collect_contexts`, of which there are no more.

        Returns
        -------
        list of Context
            Fewer than n if there are no more with different text.
        """
        latent = self._checked(latent)
        order = np.arange(self._top.slots.size)
        return self._contexts(self._top, latent, order, len(order) if n is None else n)

    def quantile(self, latent: int, q: int, n: int | None = None) -> list[Context]:
        """Contexts drawn from one quantile of the latent's firings, each text once.

        The firings come from a uniform sample without replacement of all firings of the
        latent, ``2 * n_quantiles * n_per_quantile`` of them, which is ranked by strength and
        cut into `n_quantiles` equal parts. So the parts are exact for a latent that fires no
        more often than that; else a context from part q of a sample of m is off by
        1/(2 √m) of all ranks or less (one standard deviation; 0.05 for the defaults).

        Parameters
        ----------
        latent : int
        q : int
            From 0, the weakest, to ``n_quantiles - 1``.
        n : int, default=None
            How many; None: `n_per_quantile` of `collect_contexts`.

        Returns
        -------
        list of Context
            In random order; fewer than n if there are no more with different text.
        """
        latent = self._checked(latent)
        if not 0 <= q < self.n_quantiles:
            raise ValueError(
                f"q={q} is out of range: it must be from 0 to n_quantiles - 1 = "
                f"{self.n_quantiles - 1}."
            )
        slots = self._sample.slots  # in the order of random keys
        drawn = np.flatnonzero(slots.rows[latent] >= 0)
        center = self._sample.codes[latent, slots.places[latent, drawn], self._n_before]
        rank = np.empty(len(drawn), np.int64)
        rank[np.lexsort((slots.rows[latent, drawn], np.abs(center)))] = np.arange(len(drawn))
        part = drawn[rank * self.n_quantiles // max(len(drawn), 1) == q]
        return self._contexts(self._sample, latent, part, self.n_per_quantile if n is None else n)

    def silent(
        self,
        latent: int,
        n: int = 5,
        random_state: Any = None,
        *,
        near: Sequence[int] | None = None,
    ) -> list[Context]:
        """Contexts on which the latent fires nowhere, each text once.

        They come from a pool of rows that are drawn from the whole text, ``40 * n_random``
        of `collect_contexts`.

        Parameters
        ----------
        latent : int
        n : int, default=5
        random_state : int, RandomState or None, default=None
            Which of the pool.
        near : sequence of int, default=None
            Only contexts on which one of these latents fires, for instance ``similar(latent)``:
            harder to tell from those on which this one does.

        Returns
        -------
        list of Context
            At most n; fewer for a latent that fires nearly everywhere.
        """
        latent = self._checked(latent)
        rows = self._pool.rows()
        usable = (rows >= 0) & ~self._in_pool([latent])
        if near is not None:
            usable &= self._in_pool([self._checked(other) for other in near])
        drawn = check_random_state(random_state).permutation(np.sort(rows[usable]))
        width = self._n_before + 1 + self._n_after
        found: dict[tuple[str, ...], Context] = {}
        for row in drawn.tolist():
            if len(found) >= n:
                break
            context = self._context(row, np.zeros(width, np.float32))
            found.setdefault(context.tokens, context)
        return list(found.values())

    def similar(self, latent: int, n: int = 10, *, components: Any = None) -> np.ndarray:
        """The nearest other latents.

        Parameters
        ----------
        latent : int
        n : int, default=10
        components : array-like of shape (n_latents, n_features), default=None
            Atoms: those of largest absolute cosine are near. None: those that fire together,
            by the cosine between the columns of codes, which is estimated from a sketch (see
            Notes of `collect_contexts`).

        Returns
        -------
        ndarray of at most n int
            The nearest first. Latents that never fire are not near to any.
        """
        others, cosine = self.nearest(n, latents=[self._checked(latent)], components=components)
        return others[0][cosine[0] != 0]

    def nearest(
        self, n: int = 10, *, latents: Any = None, components: Any = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """As `similar`, for many latents at once and with the cosines.

        Parameters
        ----------
        n : int, default=10
        latents : array-like of m int, default=None
            None: all.
        components : array-like of shape (n_latents, n_features), default=None

        Returns
        -------
        nearest : int64 ndarray of shape (m, min(n, n_latents - 1))
        cosine : float32 ndarray of the same shape
        """
        vectors = self._profiles if components is None else _atoms(components, self.n_latents)
        if latents is None:
            latents = np.arange(self.n_latents)
        else:
            latents = np.array(
                [self._checked(latent) for latent in np.ravel(latents).tolist()], int
            )
        return nearest_latents(vectors, latents, n)

    def __repr__(self) -> str:
        return f"LatentContexts(n_latents={self.n_latents}, n_tokens={self.n_tokens})"

    def _contexts(
        self, kept: KeptWindows, latent: int, columns: NDArray[np.integer], n: int
    ) -> list[Context]:
        found: dict[tuple[str, ...], Context] = {}
        for column in columns.tolist():
            row = int(kept.slots.rows[latent, column])
            if row >= 0 and len(found) < n:
                place = kept.slots.places[latent, column]
                context = self._context(row, kept.codes[latent, place])
                found.setdefault(context.tokens, context)
        return list(found.values())

    def _context(self, row: int, around: NDArray[np.float32]) -> Context:
        first, stop = (
            int(a) for a in self.corpus.window(np.int64(row), self._n_before, self._n_after)
        )
        begin = self._n_before - (row - first)
        return Context(
            tokens=self.corpus.text(first, stop),
            activations=around[begin : begin + stop - first].copy(),
            document=int(self.corpus.document_ids[row]),
            row=row,
            center=row - first,
        )

    def _in_pool(self, latents: list[int]) -> NDArray[np.bool_]:
        """Places of the pool around which one of the latents fires."""
        columns, fires = self._pool_columns, np.zeros(self._pool_columns.shape[0], bool)
        for latent in latents:
            fires[columns.indices[columns.indptr[latent] : columns.indptr[latent + 1]]] = True
        return fires

    def _checked(self, latent: Any) -> int:
        if not isinstance(latent, Integral) or not 0 <= int(latent) < self.n_latents:
            raise ValueError(
                f"latent={latent!r} is out of range: it must be an integer from 0 to "
                f"n_latents - 1 = {self.n_latents - 1}."
            )
        return int(latent)


def _unit_rows(vectors: NDArray[Any], lengths: NDArray[Any]) -> NDArray[np.float32]:
    """Rows of length 1, or 0 where there is nothing."""
    lengths = np.where(lengths > 0, lengths, 1)[:, None]
    return (vectors / lengths).astype(np.float32)


def _atoms(components: Any, n_latents: int) -> NDArray[np.float32]:
    if np.ndim(components) != 2 or np.shape(components)[0] != n_latents:
        raise ValueError(
            f"components has shape {np.shape(components)}, but there are {n_latents} latents: "
            "give one atom in each row."
        )
    return unit_rows(as_codes(components, "components")).astype(np.float32)
