"""How the loops for the CPU are compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit, types

from .cpu_linked import Linked

# What lets sums and maxima be vectorised. Rows are finite, so that no NaN comes up;
# infinities keep their meaning.
_FASTMATH = {"reassoc", "contract", "arcp", "nsz", "nnan"}
_OPTIONS: dict[str, Any] = {
    "nogil": True,
    "error_model": "numpy",
    "fastmath": _FASTMATH,
    "_nrt": False,  # neither memory of its own nor references
}
_WITHIN = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True, "pipeline_class": Linked}


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile at the first call, without the interpreter's lock, and keep it on disk.

    Kernels run over chunks of rows in a pool of threads. Numba's own parallel loops are
    not used: they abort the process when two threads enter one, or in a child that was
    forked after the first use.

    Compiled code makes no arrays: room to work in is given to it (see :mod:`~.cpu_room`). So it
    need not count references, which would take time in loops, and a quarter of the compiler's.
    """
    try:
        return _jit(function, cache=True)
    except RuntimeError:  # nowhere to write a cache: compile in every process
        return _jit(function)


def part(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same for what only compiled code calls: it is kept with its callers."""
    return _jit(function, **_WITHIN)


def inlined(function: Callable[..., Any]) -> Callable[..., Any]:
    """A part that is put in the place of its calls, for what is short and called often.

    An array is nine numbers, and a call that stays one copies them all.
    """
    return _jit(function, forceinline=True, **_WITHIN)


def _jit(function: Callable[..., Any], **more: Any) -> Callable[..., Any]:
    return _once(njit(**_OPTIONS, **more)(function))


def _once(loops: Any) -> Any:
    """Constants do not make another version of a part: Numba would compile it for 0, too."""
    of_types = loops.get_call_template

    def get_call_template(args: tuple[Any, ...], kws: dict[str, Any]) -> Any:
        kws = {name: types.unliteral(kind) for name, kind in kws.items()}
        return of_types(tuple(types.unliteral(kind) for kind in args), kws)

    loops.get_call_template = get_call_template
    return loops
