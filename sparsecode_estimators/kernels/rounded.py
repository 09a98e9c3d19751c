"""Products of matrices whose numbers are rounded to bfloat16."""

from __future__ import annotations

import torch
from torch import Tensor


def is_faster(device: torch.device) -> bool:
    """Whether the device multiplies numbers of bfloat16 in hardware."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    # the only way to ask; processors that have AMX have the other instructions too
    known = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return device.type == "cpu" and any(getattr(torch.cpu, name, bool)() for name in known)


def product(A: Tensor, B: Tensor, out: Tensor) -> Tensor:
    """``AB`` of the rounded numbers, in the memory and the type of ``out``."""
    return out.copy_(A.bfloat16() @ B.bfloat16())
