"""A run of training on disk: one file, never half-written."""

from __future__ import annotations

import json
import os
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


class Checkpoint:
    """Where a run is kept, and when.

    The file is in the safetensors format, with what is no tensor as JSON in its header: data
    only, nothing in it is executed. It is written under another name, and renamed when all of it
    is on the disk; so a killed process, or a full disk, leaves the last one as it was.

    Parameters
    ----------
    path : Path
        Its folder is made if it does not exist.
    seconds : float
        At least so long between two of them.
    steps : int or None
        In place of it, so many steps.

    Raises
    ------
    ImportError
        Without safetensors.
    OSError
        If nothing can be written to the folder.
    """

    def __init__(self, path: Path, seconds: float, steps: int | None) -> None:
        try:
            import safetensors.torch as files
        except ImportError as error:
            raise ImportError(
                "checkpoint needs safetensors: pip install safetensors, or set checkpoint=None."
            ) from error
        self._files = files
        self.path, self.seconds, self.every = path, seconds, steps
        self._temporary = path.with_suffix(f".{os.getpid()}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._temporary.touch()
            self._temporary.unlink()
        except OSError as error:
            raise OSError(
                f"checkpoint={str(path.parent)!r} cannot be written to ({error.strerror}): "
                "choose another folder, or checkpoint=None."
            ) from error
        self._last, self._steps = time.monotonic(), 0

    def due(self) -> bool:
        """Whether it is time, asked once a step."""
        self._steps += 1
        if self.every is not None:
            return self._steps % self.every == 0
        return time.monotonic() - self._last >= self.seconds

    def load(self, device: torch.device) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """What was kept last; None if nothing was.

        Raises
        ------
        ValueError
            If the file is not one of these.
        """
        if not self.path.exists():
            return None
        try:
            with self._files.safe_open(self.path, framework="pt", device=str(device)) as file:
                numbers = json.loads(file.metadata()["run"])
                shapes = json.loads(file.metadata()["shapes"])
                names = file.keys()  # it is not a dict
                tensors = {name: file.get_tensor(name) for name in names}
            if _shapes(tensors) != shapes:
                raise ValueError("tensors are missing, or of other shapes")
            return tensors, numbers
        except Exception as error:  # whatever a damaged header leads to
            raise ValueError(
                f"{str(self.path)!r} is no checkpoint of a run, or it is damaged ({error}): "
                "remove it to start again."
            ) from error

    def save(self, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
        """Keep a run. If that fails a warning says why, and the last one stays."""
        try:
            self._write(tensors, numbers)
        except Exception as error:  # a full disk comes as an error of the library, too
            warnings.warn(
                f"The run could not be kept in {str(self.path)!r} ({error}). Training goes on; "
                "the last checkpoint, if there is one, is as it was.",
                RuntimeWarning,
                stacklevel=2,
            )
        finally:
            self._temporary.unlink(missing_ok=True)
            self._last = time.monotonic()

    def _write(self, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
        held = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
        about = {"run": json.dumps(numbers), "shapes": json.dumps(_shapes(held))}
        self._files.save_file(held, self._temporary, metadata=about)
        with self._temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(self._temporary, self.path)


def _shapes(tensors: dict[str, Tensor]) -> dict[str, list[int]]:
    return {name: list(tensor.shape) for name, tensor in tensors.items()}
