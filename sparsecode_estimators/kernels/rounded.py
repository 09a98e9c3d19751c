"""Where products of numbers rounded to bfloat16 are the faster ones."""

from __future__ import annotations

import torch

WORTH = 2**20  # numbers of a matrix of weights from which on they pay


def is_faster(device: torch.device) -> bool:
    """Whether the device multiplies numbers of bfloat16 in hardware."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    # the only way to ask; processors that have AMX have the other instructions too
    known = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return device.type == "cpu" and any(getattr(torch.cpu, name, bool)() for name in known)
