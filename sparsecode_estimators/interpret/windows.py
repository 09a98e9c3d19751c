"""Stretches of a block of codes: what a latent does around a token, and which latents fire."""

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from .corpus import Corpus
from .statistics import hashed
from .streams import Block

_BASE = np.uint64(0xD1342543DE82EF95)  # odd, so that it has an inverse modulo 2^64
_INVERSE = np.uint64(pow(int(_BASE), -1, 2**64))


class Columns:
    """A block of codes by latent: its non-zero entries, those of a latent in order of rows.

    Attributes
    ----------
    latents, rows : int64 ndarray of shape (n_entries,)
    codes : ndarray of shape (n_entries,)
    counted : int64 ndarray
        Entries that lie in the block's own rows.
    """

    def __init__(self, block: Block) -> None:
        columns = block.codes.tocsc()
        self.latents = np.repeat(np.arange(columns.shape[1]), np.diff(columns.indptr))
        self.rows = columns.indices.astype(np.int64) + block.begin
        self.codes = columns.data
        self.counted = np.flatnonzero((self.rows >= block.start) & (self.rows < block.stop))

    def around(
        self,
        entries: NDArray[np.int64],
        first: NDArray[np.int64],
        stop: NDArray[np.int64],
        center: int,
        width: int,
    ) -> NDArray[np.float32]:
        """Codes of the entries' latents in the rows `first` to `stop`.

        Parameters
        ----------
        entries, first, stop : int64 ndarrays of shape (n,)
        center : int
            Column of the result at which the entry itself stands.
        width : int

        Returns
        -------
        float32 ndarray of shape (n, width)
            0 outside of those rows.
        """
        result = np.zeros((len(entries), width), np.float32)
        result[np.arange(len(entries)), center] = self.codes[entries]
        for step in (-1, 1):
            still, near = np.arange(len(entries)), entries + step
            while True:
                inside = (near >= 0) & (near < len(self.rows))
                still, near = still[inside], near[inside]
                row = self.rows[near]
                inside = self.latents[near] == self.latents[entries[still]]
                inside &= (row >= first[still]) & (row < stop[still])
                still, near, row = still[inside], near[inside], row[inside]
                if not len(still):
                    break
                column = row - self.rows[entries[still]] + center
                result[still, column] = self.codes[near]
                near = near + step
        return result


def text_marks(
    corpus: Corpus, block: Block, first: NDArray[np.int64], stop: NDArray[np.int64]
) -> NDArray[np.uint64]:
    """A number for the text of each window; equal texts have equal numbers.

    Hashes of all windows from one running sum, Rabin & Karp's: the sum of (hash of token i)
    times base^i over the window, divided by base^first, modulo 2^64.
    """
    ids = corpus.ids[block.begin : block.begin + block.codes.shape[0]].astype(np.int64)
    with np.errstate(over="ignore"):
        powers = np.cumprod(np.full(len(ids), _BASE))
        sums = np.append(np.uint64(0), np.cumsum(hashed(ids, 0) * powers))
        inverse = np.append(np.uint64(1), np.cumprod(np.full(len(ids), _INVERSE)))
        a, b = first - block.begin, stop - block.begin
        return (sums[b] - sums[a]) * inverse[a] + hashed(b - a, 1)


def firing_in(block: Block, first: NDArray[np.int64], stop: NDArray[np.int64]) -> sparse.csr_array:
    """Which latents fire somewhere in each window, a boolean matrix (n, n_latents)."""
    lengths = stop - first
    indptr = np.append(0, np.cumsum(lengths))
    offsets = np.arange(indptr[-1]) - np.repeat(indptr[:-1], lengths)
    indices = np.repeat(first - block.begin, lengths) + offsets
    shape = len(first), block.codes.shape[0]
    rows = sparse.csr_array((np.ones(len(indices), bool), indices, indptr), shape=shape)
    return rows @ block.codes.astype(bool)
