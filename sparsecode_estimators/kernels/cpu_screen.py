r"""The largest products of rows with atoms, found by products of rounded numbers, compiled.

Processors that multiply numbers of bfloat16 in hardware do so several times as fast as those of
float32. Where :math:`x = \hat x + \delta` and :math:`w = \hat w + \eta` are rounded,

.. math:: |x^\top w - \hat x^\top \hat w| \le \|\delta\|\,\|w\| + \|\hat x\|\,\|\eta\|,

and what the sum and its result lose in rounding has bounds of its own. So rounded products prove
of nearly all atoms that they are not among the ``k`` largest. The few others are computed from
the numbers themselves, and the answer is that of float32.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .cpu_gather import products_with
from .cpu_jit import compiled, inlined, part
from .cpu_room import space
from .cpu_select import group_maxima, kth_largest, write_largest
from .cpu_sparse import largest, share_out
from .cpu_vectors import (
    WIDTH,
    absolute,
    at_least,
    bits,
    get,
    load,
    lowest,
    maximum,
    plus,
    splat,
    store,
)
from .reference_sparse import Places

UNIT = 2.0**-8  # relative error of a number rounded to bfloat16
SUM = 2.0**-23  # of a sum in float32, for each of its terms: twice what it can be
FLUSHED = 1e-30  # the hardware takes the smallest numbers for zero, which no bound knows
_BLOCK = 1024  # rows whose errors are in memory at once
OPEN = 16  # one atom of so many may be left open; of a row with more all are computed


class Screen:
    """The largest products of rows with always the same atoms.

    Parameters
    ----------
    weight : Tensor of shape (n_components, n_features), float32
    bias : Tensor of shape (n_components,)
        Is added to the products.
    k : int
        How many are looked for.
    signed : bool
        Whether they are the largest by absolute value.
    """

    def __init__(self, weight: Tensor, bias: Tensor, k: int, *, signed: bool) -> None:
        self.weight, self.bias, self.k, self.signed = weight, bias, k, signed
        self._rounded, self._length, error = _rounded(weight)
        self._loss = (error / self._length).nan_to_num(0.0).max()
        self._room = self._rounded.new_empty(0)
        self._pays = True

    def __call__(self, x: Tensor) -> tuple[Places, Tensor]:
        """Places of the ``k`` largest products of each row, and the products with their bias.

        Parameters
        ----------
        x : Tensor of shape (n, n_features), float32

        Returns
        -------
        places : Places
        values : Tensor of shape (n * k,)
        """
        n, size = len(x), len(x) * len(self.weight)
        if len(self._room) < size:
            self._room = self._rounded.new_empty(size + size % 2)
        atoms, values = np.empty((n, self.k), np.int64), x.new_empty(n, self.k)
        settled = self._settle(x, atoms, values) if self._pays else np.zeros(n, np.bool_)
        open_ = torch.from_numpy(np.flatnonzero(~settled))
        # rows that follow are like these
        self._pays = len(open_) <= n // 2
        found = torch.from_numpy(atoms)
        for rows in open_.split(max(1, n // 2)) if len(open_) else ():
            found[rows], values[rows] = self._whole(x[rows])
        starts = torch.arange(0, n * self.k + 1, self.k)
        return Places(starts, found.view(-1)), values.view(-1)

    def _settle(self, x: Tensor, atoms: np.ndarray, values: Tensor) -> np.ndarray:
        """Write what can be found out in this way; which rows these are, shape (n,)."""
        rounded, length, error = _rounded(x)
        reach = error + (self._loss + (x.shape[1] + WIDTH) * SUM) * length
        product = self._room[: len(x) * len(self.weight)].view(len(x), len(self.weight))
        torch.mm(rounded, self._rounded.T, out=product)
        settled = np.zeros(len(x), np.bool_)
        share_out(
            _settle_rows, len(x), product, reach, self._length, self.bias,
            self.signed, x, self.weight, atoms, values, settled,
            room=lambda: _room(len(self.bias), self.k),
        )  # fmt: skip
        return settled

    def _whole(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The same for a few rows, from all of their products; both of shape (n, k)."""
        size = len(x) * len(self.weight)
        room = self._room.view(self.weight.dtype) if len(self._room) >= 2 * size else None
        out = room[:size].view(len(x), len(self.weight)) if room is not None else None
        pre = torch.mm(x, self.weight.T, out=out)
        atoms = largest(pre, self.bias, self.k, signed=self.signed).atoms.view(len(x), self.k)
        return atoms, pre.gather(1, atoms) + self.bias[atoms]


def _rounded(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The numbers in bfloat16, the length of each row, and the length of its error."""
    rounded = matrix.bfloat16()
    pairs = zip(matrix.split(_BLOCK), rounded.split(_BLOCK), strict=True)
    error = torch.cat([(a - b).norm(dim=1) for a, b in pairs])
    return rounded, matrix.norm(dim=1), error


@inlined
def _bound(scores, start, bias, length, reach, unit, j, signed):
    """Upper bounds of the scores of a row from column j on; with signs of ``reach`` and
    ``unit`` turned round lower ones.
    """
    rounded = load(scores, start + j)
    v = plus(rounded, bias.dtype.type(1), load(bias, j))
    v = absolute(v) if signed else v
    return plus(plus(v, unit, absolute(rounded)), reach, load(length, j))


@inlined
def _bound_of(scores, start, bias, length, reach, unit, j, signed):
    """The bound in column j."""
    rounded = get(scores, start + j)
    v = rounded + bias[j]
    return (abs(v) if signed else v) + unit * abs(rounded) + reach * length[j]


@part
def _floor(scores, start, bias, length, reach, unit, signed, k, top):
    """A number that the k-th largest score of a row is not below, or -∞.

    The k-th largest of the groups' maxima, as where scores are known, but of lower bounds.
    """
    n_components = len(bias)
    n_groups = min(len(top), n_components // WIDTH * WIDTH)
    if n_groups < k:
        return -np.inf
    for g in range(0, n_groups, WIDTH):
        best = _bound(scores, start, bias, length, -reach, -unit, g, signed)
        for j in range(g + n_groups, n_components - WIDTH + 1, n_groups):
            other = _bound(scores, start, bias, length, -reach, -unit, j, signed)
            best = maximum(best, other)
        store(top, g, best)
    return kth_largest(top, n_groups, k)


@part
def _candidates(scores, start, bias, length, reach, unit, signed, least, found):
    """Columns that may reach ``least``: how many, or of how many on they are too many."""
    n, n_components = 0, len(bias)
    whole, most = n_components // WIDTH * WIDTH, len(found) - WIDTH
    for j in range(0, whole, WIDTH):
        some = bits(
            at_least(_bound(scores, start, bias, length, reach, unit, j, signed), splat(least))
        )
        while some:
            found[n] = j + lowest(some)
            some &= some - 1
            n += 1
        if n > most:
            return n
    for j in range(whole, n_components):  # fewer than WIDTH
        if _bound_of(scores, start, bias, length, reach, unit, j, signed) >= least:
            found[n] = j
            n += 1
    return n


def _room(n_components, k):
    most = n_components // OPEN + WIDTH
    found = space(most, np.int64)
    return group_maxima(k, np.float32), found, *(space(most, np.float32) for _ in range(3))


@compiled
def _settle_rows(
    rows, scores, reaches, length, bias, signed, x, weight, atoms, values, settled, room
):  # fmt: skip
    """Columns of the ``k`` largest scores and the scores, of all rows of which few are open."""
    top, found, true, size, kept = room
    n_components, k, unit = len(bias), atoms.shape[1], bias.dtype.type(UNIT)
    most = n_components // OPEN
    for row in rows:
        start, reach = row * n_components, reaches[row]
        least = bias.dtype.type(_floor(scores, start, bias, length, reach, unit, signed, k, top))
        n = _candidates(scores, start, bias, length, reach, unit, signed, least, found)
        if n < k or n > most:
            continue
        for i in range(n):
            kept[i] = _bound_of(scores, start, bias, length, -reach, -unit, found[i], signed)
        least = kth_largest(kept, n, k)
        if not abs(least) > FLUSHED:
            continue
        m = 0
        for i in range(n):
            j = found[i]
            if _bound_of(scores, start, bias, length, reach, unit, j, signed) >= least:
                found[m] = j
                m += 1
        products_with(x, row, weight, found, m, true)
        for i in range(m):
            true[i] += bias[found[i]]
            size[i] = abs(true[i]) if signed else true[i]
        write_largest(found, size, kept, m, k, row, atoms)
        i = 0
        for p in range(k):
            while found[i] != atoms[row, p]:
                i += 1
            values[row, p] = true[i]
        settled[row] = True
