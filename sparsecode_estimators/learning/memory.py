"""Memory that the processes of one host see together."""

from __future__ import annotations

import mmap
import os
import secrets

import torch
from torch import Tensor

from .distributed import Group

PAGE = 4096  # bytes; a tensor begins on a page of its own


class CommonMemory:
    """Zeros that are the same memory in every process, cut into tensors one after the other.

    The system frees it with the last process that sees it, however that ends.

    Parameters
    ----------
    held : mmap.mmap
    """

    def __init__(self, held: mmap.mmap) -> None:
        self._held, self._used = held, 0

    @staticmethod
    def size(tensor: Tensor) -> int:
        """Bytes that one as large takes."""
        return -(-tensor.nbytes // PAGE) * PAGE

    def like(self, tensor: Tensor) -> Tensor:
        """The next one, as large as another."""
        n, dtype = tensor.numel(), tensor.dtype
        # each with a storage of its own: files of tensors refuse those that share one
        found = torch.frombuffer(self._held, dtype=dtype, count=n, offset=self._used)
        self._used += self.size(tensor)
        return found.view(tensor.shape)


def common_memory(size: int, group: Group) -> CommonMemory | None:
    """So many bytes; None where some process cannot see them.

    Rank 0 makes a file that lies in memory and has no name. The others find it among the open
    files of that process, and know it by a mark, for on another host the same path, if it is
    there, leads elsewhere. Linux only.

    Parameters
    ----------
    size : int
        0: this process cannot use any.
    group : Group
        All of its processes call this together.
    """
    mark, file = f"sparsecode-{secrets.token_hex(16)}", None
    if group.rank == 0:
        file = _made(mark, size)
    try:
        path = f"/proc/{os.getpid()}/fd/{file}" if file is not None else None
        path, mark = group.first((path, mark))
        held = _seen(path, mark, size) if path is not None else None
        everywhere = all(group.hear(held is not None))
    finally:
        if file is not None:
            os.close(file)
    return CommonMemory(held) if held is not None and everywhere else None


def _made(mark: str, size: int) -> int | None:
    if not size or not hasattr(os, "memfd_create"):
        return None
    try:
        file = os.memfd_create(mark)
    except OSError:
        return None
    try:
        os.ftruncate(file, size)
    except OSError:
        os.close(file)
        return None
    return file


def _seen(path: str, mark: str, size: int) -> mmap.mmap | None:
    try:
        if not size or mark not in os.readlink(path):
            return None
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            return mmap.mmap(file, size)
        finally:
            os.close(file)
    except OSError:
        return None
