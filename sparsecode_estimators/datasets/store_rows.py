"""Rows on their way into a store: which types are taken, and what is refused."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .store_files import COLUMNS, Manifest

TORCH = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
# float32 is rounded to what the store was made for, all else has to fit exactly.
_TAKEN = {
    "float16": ("float16", "float32"),
    "bfloat16": ("bfloat16", "float32"),
    "float32": ("float16", "bfloat16", "float32"),
}
_BLOCK = 2**20  # numbers that are checked at a time


class IncomingRows:
    """Some rows, checked: they fit into the store and stay finite there.

    Parameters
    ----------
    rows : ndarray or Tensor of shape (n, n_features)
    manifest : Manifest

    Raises
    ------
    TypeError
        If they are neither an array nor a tensor, or of a type that would lose digits.
    ValueError
        If they have another shape, or are not finite in the store's type.
    """

    def __init__(self, rows: Any, manifest: Manifest) -> None:
        if not isinstance(rows, np.ndarray | Tensor) or (
            isinstance(rows, Tensor) and rows.layout != torch.strided
        ):
            raise TypeError(
                f"rows must be a NumPy array or a dense torch tensor, got "
                f"{type(rows).__name__}: make a float32 array of it."
            )
        self._rows = rows.detach() if isinstance(rows, Tensor) else rows
        given = str(rows.dtype).removeprefix("torch.")
        if isinstance(rows, np.ndarray):
            given = rows.dtype.name  # without the order of bytes
        if given not in _TAKEN[manifest.dtype]:
            raise TypeError(
                f"rows have dtype {given}, but a store of {manifest.dtype} takes "
                f"{' and '.join(_TAKEN[manifest.dtype])}, so that no digits are lost unseen: "
                "convert them, or make a store of another dtype."
            )
        if rows.ndim != 2 or rows.shape[1] != manifest.n_features:
            raise ValueError(
                f"rows have shape {tuple(rows.shape)}, but the store has n_features="
                f"{manifest.n_features}: append arrays of shape (n, {manifest.n_features})."
            )
        self._dtype = manifest.dtype
        size = max(1, _BLOCK // manifest.n_features)
        for start in range(0, len(self), size):
            self._check_finite(start, self.block(start, min(start + size, len(self))))

    def __len__(self) -> int:
        return len(self._rows)

    def block(self, start: int, stop: int) -> Tensor:
        """Rows on the CPU in the type they came in; never to be written to."""
        part = self._rows[start:stop]
        if isinstance(part, Tensor):
            return part.cpu()
        # native order, and writeable, as torch cannot do without
        native = part.dtype.newbyteorder("=")
        return torch.from_numpy(np.require(part, dtype=native, requirements=["C", "W"]))

    def _check_finite(self, start: int, block: Tensor) -> None:
        bad = ~block.to(TORCH[self._dtype]).isfinite().all(1)
        if not bad.any():
            return
        where = int(bad.nonzero()[0])
        row = block[where]
        if not row.isfinite().all():
            raise ValueError(
                f"row {start + where} of rows contains NaN or infinity: drop or mend it. "
                "Nothing of these rows was appended."
            )
        raise ValueError(
            f"row {start + where} of rows reaches {row.abs().max().item():.6g}, which is infinity "
            f"in {self._dtype} (it ends at {torch.finfo(TORCH[self._dtype]).max:.6g}): leave such "
            "outliers out, or make a store of dtype='float32'. Nothing of these rows was appended."
        )


def incoming_columns(
    given: dict[str, Any], n_rows: int, taken: tuple[str, ...] | None
) -> dict[str, NDArray[np.int64]]:
    """Columns beside some rows, as int64.

    Parameters
    ----------
    given : dict
        Each of `COLUMNS`, None where there is none.
    n_rows : int
    taken : tuple of str or None
        What earlier rows have; None: there are none yet.

    Raises
    ------
    TypeError
        If a column does not hold integers.
    ValueError
        If it is not one integer a row, or not the same columns are given as before.
    """
    names = tuple(name for name in COLUMNS if given[name] is not None)
    if taken is not None and names != taken:
        raise ValueError(
            f"append was given {_listed(names)}, but the rows so far have {_listed(taken)}: "
            "give the same for all rows."
        )
    return {name: _integers(name, given[name], n_rows) for name in names}


def _integers(name: str, values: Any, n_rows: int) -> NDArray[np.int64]:
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    if array.shape != (n_rows,):
        raise ValueError(
            f"{name} has shape {array.shape}, but there are {n_rows} rows: give one for each."
        )
    if not array.size:  # of whatever type
        return np.zeros(0, np.int64)
    if array.dtype == bool or not np.can_cast(array.dtype, np.int64):
        raise TypeError(f"{name} must hold integers of at most 64 bits, got {array.dtype}.")
    return array.astype(np.int64, copy=False)


def _listed(names: tuple[str, ...]) -> str:
    return " and ".join(names) or "no ids"
