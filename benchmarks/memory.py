"""Peak memory of this process, read by a thread; and runs in processes of their own."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

KINDS = ("RssAnon", "RssFile")  # own memory; pages of files, which the system can take back


def now() -> dict[str, float]:
    """MiB of each kind."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {kind: int(fields[kind].split()[0]) / 1024 for kind in KINDS}


class Peak:
    """The largest rise over what there was when the block began, in MiB."""

    def __enter__(self) -> Peak:
        self._before, self._over = now(), threading.Event()
        self.rise = dict.fromkeys(KINDS, 0.0)
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._over.wait(0.002):
            for kind, size in now().items():
                self.rise[kind] = max(self.rise[kind], size - self._before[kind])

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def alone(run: Callable[..., Any], *args: Any) -> Any:
    """What ``run`` gives in a new process, so that nothing of others is in its memory."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(run, args)
