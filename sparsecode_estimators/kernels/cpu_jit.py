"""How the loops for the CPU are compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit, types

# What lets sums and maxima be vectorised. Rows are finite, so that no NaN comes up;
# infinities keep their meaning.
_FASTMATH = {"reassoc", "contract", "arcp", "nsz", "nnan"}


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile at the first call, without the interpreter's lock, and keep it on disk.

    Kernels run over chunks of rows in a pool of threads. Numba's own parallel loops are
    not used: they abort the process when two threads enter one, or in a child that was
    forked after the first use.

    Compiled code makes no arrays: room to work in is given to it (see :mod:`~.cpu_room`). So it
    need not count references, which would take time in loops, and a quarter of the compiler's.
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


def spliced(function: Callable[..., Any]) -> Callable[..., Any]:
    """A part that is called in one place: it is compiled there, and not by itself as well."""
    return njit(inline="always")(function)


def _jit(function: Callable[..., Any], **more: Any) -> Callable[..., Any]:
    options: dict[str, Any] = {
        "nogil": True,
        "error_model": "numpy",
        "fastmath": _FASTMATH,
        "_nrt": False,  # neither memory of its own nor references
        **more,
    }
    try:
        loops = njit(cache=True, **options)(function)
    except RuntimeError:  # nowhere to write a cache: compile in every process
        loops = njit(**options)(function)
    return _once(loops)


def _once(loops: Any) -> Any:
    """Constants do not make another version of a part: Numba would compile it for 0, too."""
    of_types = loops.get_call_template

    def get_call_template(args: tuple[Any, ...], kws: dict[str, Any]) -> Any:
        kws = {name: types.unliteral(kind) for name, kind in kws.items()}
        return of_types(tuple(types.unliteral(kind) for kind in args), kws)

    loops.get_call_template = get_call_template
    return loops
