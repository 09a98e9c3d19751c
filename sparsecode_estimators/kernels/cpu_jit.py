"""How the loops for the CPU are compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit

# What lets sums and maxima be vectorised. Rows are finite, so that no NaN comes up;
# infinities keep their meaning.
_FASTMATH = {"reassoc", "contract", "arcp", "nsz", "nnan"}


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile at the first call, without the interpreter's lock, and keep it on disk.

    Kernels run over chunks of rows in a pool of threads. Numba's own parallel loops are
    not used: they abort the process when two threads enter one, or in a child that was
    forked after the first use.
    """
    options: dict[str, Any] = {"nogil": True, "fastmath": _FASTMATH, "error_model": "numpy"}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:  # nowhere to write a cache: compile in every process
        return njit(**options)(function)
