"""Work whose objects stay, without the collector of garbage."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """The collector waits until what is made here is there.

    Numba and what it compiles are hundreds of thousands of objects, which it would look through
    again and again: for a fifth of a first call, and for half of one that finds its loops on disk.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()
