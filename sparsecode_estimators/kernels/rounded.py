"""Whether products of numbers rounded to bfloat16 are the faster ones, and one of them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

COLUMNS = 64  # of a Gram matrix are padded to a multiple of so many

WORTH = 2**20  # numbers of a matrix of weights from which on they pay


def is_faster(device: torch.device) -> bool:
    """Whether the device multiplies numbers of bfloat16 in hardware."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    # the only way to ask; processors that have AMX have the other instructions too
    known = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return device.type == "cpu" and any(getattr(torch.cpu, name, bool)() for name in known)


def gram(D: Tensor) -> Tensor:
    """``DDᵀ`` of rounded atoms on the CPU, rounded, with columns of zeros as padding.

    NumPy asks for large pages, torch does not; they halve the time here.
    """
    rounded = D.bfloat16()
    columns = pad(rounded, (0, 0, 0, -len(D) % COLUMNS))
    room = np.empty((len(D), len(columns)), np.uint16)
    return torch.mm(rounded, columns.T, out=torch.from_numpy(room).view(torch.bfloat16))
