"""Room for compiled loops to work in: they make no arrays themselves."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

LINE = 64  # bytes of a line of the cache: a vector that lies across two takes two accesses


def space(
    shape: int | tuple[int, ...],
    dtype: Any = np.float64,
    make: Callable[..., np.ndarray] = np.zeros,
) -> np.ndarray:
    """An array that begins where a line of the cache does."""
    dtype, shape = np.dtype(dtype), (shape,) if isinstance(shape, int) else shape
    size = math.prod(shape) * dtype.itemsize
    room = make(size + LINE, np.uint8)
    begin = -room.ctypes.data % LINE
    return room[begin : begin + size].view(dtype).reshape(shape)
