"""Kernels in Triton, for devices on which they work."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from types import ModuleType

import torch


@cache
def fused(name: str, device: torch.device) -> ModuleType | None:
    """The module of that name, if it says that it ``works`` on the device; it is asked once.

    Triton is imported here, and not with the package.
    """
    try:
        made = import_module(f".{name}", __package__)
        return made if made.works(device) else None
    except Exception:  # no Triton, nothing that compiles its launcher, a device it does not know
        return None
