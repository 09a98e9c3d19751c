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
    return _jit(function)


def part(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same for what only compiled code calls, without a way in from Python."""
    return _jit(function, no_cpython_wrapper=True, no_cfunc_wrapper=True)


def inlined(function: Callable[..., Any]) -> Callable[..., Any]:
    """A part that is put in the place of its calls, for what is short and called often.

    An array is nine numbers, and a call that stays one copies them all.
    """
    return _jit(function, forceinline=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)


def _jit(function: Callable[..., Any], **more: Any) -> Callable[..., Any]:
    options: dict[str, Any] = {"nogil": True, "fastmath": _FASTMATH, "error_model": "numpy", **more}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:  # nowhere to write a cache: compile in every process
        return njit(**options)(function)
