"""Loops for the CPU, if Numba can be used."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from types import ModuleType

from .uncollected import uncollected


@cache
def compiled_loops(name: str) -> ModuleType | None:
    """The module of that name, if it can be imported.

    Numba is imported here, and not with the package.
    """
    try:
        with uncollected():
            return import_module(f".{name}", __package__)
    except ImportError:  # not there, or not for this version of NumPy
        return None
