"""How the loops for the CPU are compiled."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba import njit, types

from .cpu_flat import flat
from .cpu_linked import Linked
from .uncollected import uncollected

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
    Arrays, and those in tuples, come to it as :class:`~.cpu_flat.Flat`.
    """
    entry = _entry(function)
    try:
        loops = _jit(entry, cache=True, no_cfunc_wrapper=True)
    except RuntimeError:  # nowhere to write a cache: compile in every process
        loops = _jit(entry, no_cfunc_wrapper=True)
    loops.compile = uncollected()(loops.compile)
    return loops


_ENTRY = """
def closed_over(version):
    def {name}({names}):
        _ = version  # Numba asks whether what a function closes over is the same
        return loops(*flat(({names},)))
    return {name}
"""


def _entry(function: Callable[..., Any]) -> Callable[..., Any]:
    """What hands flat arrays to a function. Numba keeps its code where the function's would be.

    It is written out with the function's arguments: with ``*args`` Numba 0.60 took loops that were
    compiled for other types.
    """
    here = function.__code__
    known: dict[str, Any] = {"loops": part(function), "flat": flat}
    names = ", ".join(here.co_varnames[: here.co_argcount])
    text = _ENTRY.format(name=function.__name__, names=names)
    exec(compile(text, here.co_filename, "exec"), known)
    entry = known["closed_over"](VERSION)
    entry.__code__ = entry.__code__.replace(co_firstlineno=here.co_firstlineno)
    entry.__module__, entry.__qualname__ = function.__module__, function.__qualname__
    entry.__doc__ = function.__doc__
    return entry


def _version() -> int:
    """Another number as soon as any of the compiled loops is another."""
    digest = hashlib.sha256()
    folder = Path(__file__).parent
    for file in (folder / "shared.py", *sorted(folder.glob("cpu_*.py"))):
        digest.update(file.read_bytes())
    return int.from_bytes(digest.digest()[:4], "big")


VERSION = _version()  # code that is kept is of this version: loops call those of other files


def part(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same for what only compiled code calls: it is kept with its callers."""
    return _jit(function, **_WITHIN)


def inlined(function: Callable[..., Any]) -> Callable[..., Any]:
    """A part that is put in the place of its calls, for what is short and called often.

    A call that stays one copies all that it is given, and the state of a row is dozens of numbers.
    """
    return _jit(function, forceinline=True, **_WITHIN)


def _jit(function: Callable[..., Any], **more: Any) -> Any:
    return _once(njit(**_OPTIONS, **more)(function))


def _once(loops: Any) -> Any:
    """Constants do not make another version of a part: Numba would compile it for 0, too."""
    of_types = loops.get_call_template

    def get_call_template(args: tuple[Any, ...], kws: dict[str, Any]) -> Any:
        kws = {name: types.unliteral(kind) for name, kind in kws.items()}
        return of_types(tuple(types.unliteral(kind) for kind in args), kws)

    loops.get_call_template = get_call_template
    return loops
