"""A few entries for each latent, the best of a stream of any length."""

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Slots:
    """For each latent the `size` entries with the largest keys so far.

    With a key that says how strongly the latent fires, these are its strongest firings; with
    a random key they are a uniform sample without replacement of all of them (Efraimidis &
    Spirakis 2006, with equal weights). Either does not depend on how the stream is cut: of
    equal keys the earlier row stays.

    Entries may carry a mark. Of entries of one latent with one mark, the best stays. The
    result is exact: a mark gives way only to `size` others, whose keys never fall.

    Parameters
    ----------
    n_latents, size : int

    Attributes
    ----------
    keys : float64 ndarray of shape (n_latents, size)
        Falling in each row; -inf where there is no entry.
    rows : int64 ndarray of shape (n_latents, size)
        -1 where there is no entry.
    places : int64 ndarray of shape (n_latents, size)
        Where the caller keeps what belongs to the entry: a number from 0 to size - 1 of its
        own for each entry of a latent, which stays the same while the entry stays.

    References
    ----------
    P. Efraimidis, P. Spirakis (2006), "Weighted random sampling with a reservoir".
    """

    def __init__(self, n_latents: int, size: int) -> None:
        self.size = size
        self.keys = np.full((n_latents, size), -np.inf)
        self.rows = np.full((n_latents, size), -1, np.int64)
        self.marks = np.zeros((n_latents, size), np.uint64)
        self.places = np.tile(np.arange(size), (n_latents, 1))

    def promising(
        self, latents: NDArray[np.int64], keys: NDArray[np.floating]
    ) -> NDArray[np.int64]:
        """Which of some entries are better than the worst that their latent has."""
        if self.size == 0:
            return np.empty(0, np.int64)
        return np.flatnonzero(keys > self.keys[:, -1][latents])

    def offer(
        self,
        latents: NDArray[np.int64],
        keys: NDArray[np.floating],
        rows: NDArray[np.int64],
        marks: NDArray[np.uint64] | None = None,
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Take the best of some entries, all of later rows than those before.

        Returns
        -------
        entry, latent, place : int64 ndarrays
            Which were taken, for which latent, and where its belongings go.
        """
        entries = self._best(latents, keys, rows, marks)
        if not len(entries):
            return entries, entries, entries
        touched, group, rank = _grouped(latents[entries])
        beside = partial(_beside, touched=touched, where=(group, self.size + rank))
        all_keys = beside(self.keys, keys[entries], -np.inf)
        all_rows = beside(self.rows, rows[entries], -1)
        all_marks = beside(self.marks, 0 if marks is None else marks[entries], 0)
        source = beside(np.full_like(self.rows, -1), entries, -1)
        if marks is not None:
            _drop_repeated(all_keys, all_marks)
        order = np.argsort(-all_keys, axis=1, kind="stable")[:, : self.size]
        best = partial(np.take_along_axis, indices=order, axis=1)
        is_empty = np.isneginf(best(all_keys))
        source = np.where(is_empty, -1, best(source))
        self.places[touched] = places = self._places(touched, order, source >= 0)
        self.keys[touched] = best(all_keys)
        self.rows[touched] = np.where(is_empty, -1, best(all_rows))
        self.marks[touched] = best(all_marks)
        row, column = np.nonzero(source >= 0)
        return source[row, column], touched[row], places[row, column]

    def _best(
        self,
        latents: NDArray[np.int64],
        keys: NDArray[np.floating],
        rows: NDArray[np.int64],
        marks: NDArray[np.uint64] | None,
    ) -> NDArray[np.int64]:
        """Entries by latent, key and row, at most `size` of each latent, each mark once."""
        entries = np.lexsort((rows, -keys, latents))
        if marks is not None:
            by_mark = entries[np.lexsort((marks[entries], latents[entries]))]  # keeps the order
            again = np.zeros(len(entries), bool)
            again[by_mark[1:]] = (latents[by_mark[1:]] == latents[by_mark[:-1]]) & (
                marks[by_mark[1:]] == marks[by_mark[:-1]]
            )
            entries = entries[~again[entries]]
        if not len(entries):
            return entries
        return entries[_grouped(latents[entries])[2] < self.size]

    def _places(
        self, touched: NDArray[Any], order: NDArray[np.int64], new: NDArray[np.bool_]
    ) -> NDArray[np.int64]:
        """Those that stay keep their place, the others get those that are free."""
        old = ~new & (order < self.size)
        places = np.where(
            old, np.take_along_axis(self.places[touched], np.minimum(order, self.size - 1), 1), 0
        )
        free = np.ones(order.shape, bool)
        row, column = np.nonzero(old)
        free[row, places[row, column]] = False
        free_first = np.argsort(~free, axis=1, kind="stable")
        rank = np.maximum(np.cumsum(~old, axis=1) - 1, 0)
        return np.where(old, places, np.take_along_axis(free_first, rank, 1))


def _beside(
    kept: NDArray[Any],
    new: Any,
    empty: Any,
    *,
    touched: NDArray[np.int64],
    where: tuple[NDArray[np.int64], NDArray[np.int64]],
) -> NDArray[Any]:
    """What is kept of some latents, and to the right of it what is new."""
    table = np.full((len(touched), int(where[1].max()) + 1), empty, kept.dtype)
    table[:, : kept.shape[1]] = kept[touched]
    table[where] = new
    return table


def _grouped(
    latents: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Of sorted numbers: the distinct ones, which of them each is, and its rank among equals."""
    is_first = np.diff(latents, prepend=-1) != 0
    first = np.flatnonzero(is_first)
    group = np.cumsum(is_first) - 1
    return latents[first], group, np.arange(len(latents)) - first[group]


def _drop_repeated(keys: NDArray[np.float64], marks: NDArray[np.uint64]) -> None:
    """Set the key of an entry to -inf, in place, if a better one in its row has its mark."""
    order = np.argsort(-keys, axis=1, kind="stable")
    ranked = np.take_along_axis(marks, order, 1)
    by_mark = np.argsort(ranked, axis=1, kind="stable")
    sorted_marks = np.take_along_axis(ranked, by_mark, 1)
    row, column = np.nonzero(sorted_marks[:, 1:] == sorted_marks[:, :-1])
    keys[row, order[row, by_mark[row, column + 1]]] = -np.inf
