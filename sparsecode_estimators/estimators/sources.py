"""What ``fit`` was given: X, and what of y it learns from."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from .arrays import Rows, read_rows, read_targets


class Sources(NamedTuple):
    """Rows that belong together.

    Attributes
    ----------
    rows : Rows
        X.
    codes : Rows or None
        Known codes, with ``objective="codes"``.
    targets : Rows or None
        Other activations that the codes have to reconstruct, with ``objective="targets"``.
    """

    rows: Rows
    codes: Rows | None
    targets: Rows | None

    @property
    def whole(self) -> Rows:
        """What the dictionary's atoms are parts of."""
        return self.rows if self.targets is None else self.targets

    @property
    def whole_name(self) -> str:
        """Which argument that is."""
        return "X" if self.targets is None else "y"

    @property
    def encoded(self) -> tuple[Rows, ...]:
        """X, and what is reconstructed if that is something else."""
        return (self.rows,) if self.targets is None else (self.rows, self.targets)

    @property
    def all(self) -> tuple[Rows, ...]:
        """What training reads."""
        return tuple(source for source in self if source is not None)

    def using(self, dtype: torch.dtype, of_inputs: float = 1.0, factor: float = 1.0) -> Sources:
        """The same in another type, X times ``of_inputs``, what is beside it times ``factor``."""
        codes, targets = (
            None if source is None else source.using(dtype, factor) for source in self[1:]
        )
        return Sources(self.rows.using(dtype, of_inputs), codes, targets)


def read_sources(estimator: Any, X: Any, y: Any, *, reset: bool) -> Sources:
    """Validate X, and y where the estimator's objective asks for it."""
    rows, kind = read_rows(estimator, X, reset=reset, device=estimator.device), estimator.objective
    codes, targets = (
        read_targets(y, rows, kind) if kind == name else None for name in ("codes", "targets")
    )
    return Sources(rows, codes, targets)
