"""Products of many rows with all atoms: of rounded numbers where those are faster, and exact."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .cpu_arrays import product_room
from .cpu_byte_vectors import ABREAST, ZERO
from .cpu_bytes import are_faster as bytes_are_faster
from .cpu_bytes import products as products_of_bytes
from .cpu_bytes import rounded
from .cpu_bytes import suit as suit_bytes
from .cpu_chunks import in_chunks
from .cpu_screen import UNIT
from .cpu_vectors import WIDTH
from .rounded import is_faster as rounded_are_faster

ATOMS = 256  # to be multiplied at once: MKL slows down where there are very many
ROWS = 128  # of bytes that a thread takes at a time: they stay in its cache
LOSS = 0.05  # of a row's or atom's length; where bytes lose more, it is multiplied as it is
WHOLE = 32  # one atom of so many may be


class Products:
    """Products with all atoms, by torch.

    Parameters
    ----------
    D : array of shape (n_components, n_features)
    room : Tensor of shape (most, n_components)
        Is written to; as many rows come at once, at most.
    """

    rounded = False  # whether slopes are off by more than what sums lose

    def __init__(self, D: np.ndarray, room: Tensor) -> None:
        self.atoms, self.room = torch.from_numpy(D), room
        self.unit = (D.shape[1] + WIDTH) * float(np.finfo(D.dtype).eps)

    def __call__(self, r: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Products, until they are asked for again, and what they may be off by.

        Parameters
        ----------
        r : array of shape (n, n_features)

        Returns
        -------
        slopes : array of shape (n, n_components)
        unit : array of shape (n,)
            Times the lengths of row and atom: the bound of the error.
        """
        out = self.room[: len(r)]
        return out.numpy(), self._write(torch.from_numpy(r), out)

    def _write(self, r: Tensor, out: Tensor) -> np.ndarray:
        for begin in range(0, len(self.atoms), ATOMS):
            some = slice(begin, begin + ATOMS)
            torch.mm(r, self.atoms[some].T, out=out[:, some])
        return np.full(len(r), self.unit)


class _Halves(Products):
    """Of bfloat16, by torch."""

    rounded = True

    def __init__(self, D: np.ndarray, room: Tensor) -> None:
        super().__init__(D, room)
        self.halves = self.atoms.bfloat16()
        self.unit += (1 + UNIT) ** 3 - 1  # both factors are rounded, and what comes out

    def _write(self, r: Tensor, out: Tensor) -> np.ndarray:
        out.copy_(r.bfloat16() @ self.halves.T)
        return np.full(len(r), self.unit)


class _Bytes(Products):
    """Of bytes, see :mod:`~.cpu_bytes`."""

    rounded = True

    def __init__(self, D: np.ndarray, room: Tensor) -> None:
        super().__init__(D, room)
        self.bytes = rounded(D, ABREAST, 0)
        lost = self.bytes.lost
        self.whole = torch.from_numpy(np.flatnonzero(lost > LOSS))
        self.lost = lost[lost <= LOSS].max(initial=0.0)

    @property
    def pays(self) -> bool:
        """Whether bytes say enough about most atoms."""
        return len(self.whole) <= len(self.atoms) // WHOLE

    def _write(self, r: Tensor, out: Tensor) -> np.ndarray:
        rows = rounded(r.numpy(), 1, ZERO)
        atoms, lost = self.bytes[:3], rows.lost
        in_chunks(products_of_bytes, len(r), ROWS, *rows[:2], *atoms, out.numpy())
        if len(self.whole):
            out[:, self.whole] = r @ self.atoms[self.whole].T
        bad = np.flatnonzero(lost > LOSS)
        if len(bad):
            out[bad] = r[bad] @ self.atoms.T
            lost[bad] = 0
        return self.unit + lost + (1 + lost) * self.lost


def all_products(D: np.ndarray, most: int) -> Sequence[Products]:
    """The fastest products with these atoms, and then exact ones if those are not."""
    room = product_room(most, torch.from_numpy(D))
    exact = Products(D, room)
    if suit_bytes(D) and bytes_are_faster():
        bytes_ = _Bytes(D, room)
        if bytes_.pays:
            return [bytes_, exact]
    if D.dtype == np.float32 and rounded_are_faster(torch.device("cpu")):
        return [_Halves(D, room), exact]
    return [exact]
