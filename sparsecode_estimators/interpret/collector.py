"""The one pass over the codes from which contexts come."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from .corpus import Corpus
from .slots import Slots
from .statistics import RunningStatistics, uniform
from .streams import Block
from .windows import Columns, firing_in, text_marks


class KeptWindows:
    """The best entries of every latent by some key, and its codes around each.

    Parameters
    ----------
    n_latents, size : int
    n_before, n_after : int

    Attributes
    ----------
    slots : Slots
    codes : float32 ndarray of shape (n_latents, size, n_before + 1 + n_after)
        By place. Pages of it that no entry has touched take no memory.
    """

    def __init__(self, n_latents: int, size: int, n_before: int, n_after: int) -> None:
        self.slots = Slots(n_latents, size)
        self.n_before, self.n_after = n_before, n_after
        self.codes = np.zeros((n_latents, size, n_before + 1 + n_after), np.float32)

    def add(
        self,
        block: Block,
        columns: Columns,
        keys: NDArray[np.float64],
        corpus: Corpus,
        *,
        distinct: bool,
    ) -> None:
        """Take what is best of a block, `keys` being those of its counted entries."""
        chosen = self.slots.promising(columns.latents[columns.counted], keys)
        entries = columns.counted[chosen]
        latents, rows, marks = columns.latents[entries], columns.rows[entries], None
        first, stop = corpus.window(rows, self.n_before, self.n_after)
        if distinct:
            marks = text_marks(corpus, block, first, stop)
        taken, latent, place = self.slots.offer(latents, keys[chosen], rows, marks)
        self.codes[latent, place] = columns.around(
            entries[taken], first[taken], stop[taken], self.n_before, self.codes.shape[2]
        )


class Pool:
    """Rows drawn from all, and which latents fire around each.

    Parameters
    ----------
    size : int
    n_latents : int

    Attributes
    ----------
    slots : Slots of one "latent", the whole of the text
    firing : boolean csr_array of shape (size, n_latents)
        By place.
    """

    def __init__(self, size: int, n_latents: int) -> None:
        self.slots = Slots(1, size)
        self.firing = sparse.csr_array((size, n_latents), dtype=bool)

    def add(self, block: Block, corpus: Corpus, seed: int, n_before: int, n_after: int) -> None:
        rows = np.arange(block.start, block.stop)
        keys = uniform(rows, seed)
        everything = np.zeros(len(rows), np.int64)
        chosen = self.slots.promising(everything, keys)
        taken, _, place = self.slots.offer(everything[chosen], keys[chosen], rows[chosen])
        if not len(taken):
            return
        first, stop = corpus.window(rows[chosen][taken], n_before, n_after)
        both = sparse.vstack([self.firing, firing_in(block, first, stop)], format="csr")
        source = np.arange(self.slots.size)
        source[place] = self.slots.size + np.arange(len(taken))
        self.firing = both[source]

    def rows(self) -> NDArray[np.int64]:
        """The rows by place; -1 where there is none."""
        rows = np.empty(self.slots.size, np.int64)
        rows[self.slots.places[0]] = self.slots.rows[0]
        return rows


class Collector:
    """Statistics, strongest windows, a sample of windows and a pool, filled block by block.

    Parameters
    ----------
    corpus : Corpus
    n_latents : int
    n_top, n_sample, n_pool : int
        Sizes of the three.
    n_before, n_after : int
    seeds : sequence of 3 int
    """

    def __init__(
        self,
        corpus: Corpus,
        n_latents: int,
        *,
        n_top: int,
        n_sample: int,
        n_pool: int,
        n_before: int,
        n_after: int,
        seeds: Any,
    ) -> None:
        self.corpus = corpus
        self.n_before, self.n_after = n_before, n_after
        self._sketch_seed, self._sample_seed, self._pool_seed = (int(seed) for seed in seeds)
        self.statistics = RunningStatistics(n_latents, self._sketch_seed)
        self.top = KeptWindows(n_latents, n_top, n_before, n_after)
        self.sample = KeptWindows(n_latents, n_sample, n_before, n_after)
        self.pool = Pool(n_pool, n_latents)

    def add(self, block: Block) -> None:
        columns = Columns(block)
        counted = columns.counted
        latents, rows, codes = (
            of_all[counted] for of_all in (columns.latents, columns.rows, columns.codes)
        )
        self.statistics.add(latents, rows, codes)
        strength = np.abs(codes).astype(np.float64)
        self.top.add(block, columns, strength, self.corpus, distinct=True)
        n_latents = block.codes.shape[1]
        keys = uniform(rows * n_latents + latents, self._sample_seed)
        self.sample.add(block, columns, keys, self.corpus, distinct=False)
        self.pool.add(block, self.corpus, self._pool_seed, self.n_before, self.n_after)
