"""What does each encoder take in time and memory, over batch and number of atoms?

    python experiments/wall_clock.py [--quick] [--jobs 1]

The paper counts operations only. Here is the time of ``transform`` from rows to codes, and how far
it raises the peak of the process's memory beyond what lies there before, on one thread of the CPU,
and on a GPU where there is one. Features are a quarter of the atoms, and an eighth as many latents
as features are active. Encoders are hardly trained, as their time depends on sizes and not on
weights; that of solvers depends on the rows, which are planted with the dictionary that is solved
for. Numbers belong to the machine, and to what else it does: with ``--jobs`` above 1 the processes
disturb each other. Recovery is not measured here, so there is neither chance nor ceiling.
"""

from __future__ import annotations

import contextlib
import ctypes
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.frozen import FrozenEstimator
from study import Study, group, table

from sparsecode_estimators import (
    ITORefiner,
    MLPEncoder,
    SAEEncoder,
    SparseCodingEncoder,
    UnrolledEncoder,
)
from sparsecode_estimators.datasets import make_sparse_codes
from sparsecode_estimators.plotting.axes import bare, logarithmic, look

ENCODERS = (
    "SAE",
    "SAE, TopK",
    "MLP (256)",
    "unrolled, 3 steps",
    "unrolled, 10 steps",
    "ITO, 10 iterations",
    "ITO, 100 iterations",
    "exact lasso",
    "OMP",
)
SECONDS = 0.1  # of measuring, at least


def cells(quick: bool) -> list[dict]:
    sizes = (64, 256, 1024) if quick else (64, 256, 1024, 4096)
    batches = (1, 64, 1024) if quick else (1, 16, 256, 4096)
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    return [
        {"device": device, "encoder": name, "N": N, "batch": batch, "data_set": 0}
        for device in devices
        for N in sizes
        for batch in batches
        for name in ENCODERS
    ]


def measure(cell: dict) -> dict[str, Any]:
    N, batch = cell["N"], cell["batch"]
    M = N // 4
    data = make_sparse_codes(max(batch, 256), M, N, M // 8, dtype=np.float32, random_state=7_700)
    encoder = _encoder(cell["encoder"], data.dictionary, M // 8, data.X[:256], cell["device"])
    X = data.X[:batch]
    encoder.transform(X)  # compiles, and warms caches
    _release()
    before = _memory("VmRSS")
    codes = encoder.transform(X)
    peak = _memory("VmHWM")
    return {
        "active": float(np.count_nonzero(codes) / batch),
        "timings": {
            "seconds_of_a_row": _seconds(encoder, X, cell["device"]) / batch,
            "memory": None if before is None or peak is None else max(peak - before, 0),
        },
    }


def _encoder(name: str, D: np.ndarray, k: int, X: np.ndarray, device: str) -> Any:
    options: dict[str, Any] = {"dictionary": D, "device": device}
    trained = {**options, "max_iter": 1, "random_state": 0}
    if name.startswith("unrolled"):
        return UnrolledEncoder(n_steps=int(name.split()[1]), **trained).fit(X)
    if name.startswith("MLP"):
        return MLPEncoder(**trained).fit(X)
    if name == "exact lasso":
        return SparseCodingEncoder(**options).fit(X)
    if name == "OMP":
        return SparseCodingEncoder(n_nonzero_coefs=k, **options).fit(X)
    topk = {"activation": "topk", "n_nonzero_coefs": k} if name.endswith("TopK") else {}
    sae = SAEEncoder(**trained, **topk).fit(X)
    if not name.startswith("ITO"):
        return sae
    steps = {"max_iter": int(name.split()[1]), "tol": None, "solver": "fista"}
    return ITORefiner(FrozenEstimator(sae), alpha="auto", device=device, **steps).fit(X)


def _seconds(encoder: Any, X: np.ndarray, device: str) -> float:
    """The least of several, for as long as there is patience.

    On the CPU what this process used of it, so that others do not count.
    """
    clock = time.process_time if device == "cpu" else time.perf_counter
    taken: list[float] = []
    while len(taken) < 3 or sum(taken) < SECONDS:
        begin = clock()
        encoder.transform(X)
        taken.append(clock() - begin)
    return min(taken)


def _memory(name: str) -> int | None:
    """Bytes of this process now ("VmRSS") or at most so far ("VmHWM"), where Linux says so."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    line = next(line for line in status.read_text().splitlines() if line.startswith(name))
    return 1024 * int(line.split()[1])


def _release() -> None:
    """Give back what is free, and let the peak begin at what is used now."""
    with contextlib.suppress(OSError, AttributeError):  # of glibc
        ctypes.CDLL(None).malloc_trim(0)
    file = Path("/proc/self/clear_refs")
    if file.exists():
        file.write_text("5")


def report(rows: list[dict]) -> str:
    text = []
    for (device, N), same in group(rows, "device", "N").items():
        batches = list(group(same, "batch"))
        lines = [
            (
                name,
                *(f"{1e6 * row['seconds_of_a_row']:.3g}" for row in each),
                _megabytes(each[-1]["memory"]),
                f"{each[-1]['active']:.1f}",
            )
            for name, each in group(same, "encoder").items()
        ]
        header = ("encoder", *(f"batch {batch}" for batch in batches), "MB", "L0")
        text.append(f"{device}, N={N} M={N // 4}: µs a row, memory of the largest batch\n")
        text.append(table(header, lines) + "\n")
    return "\n".join([*text, _answer(rows)])


def _megabytes(memory: int | None) -> str | None:
    return None if memory is None else f"{memory / 1e6:.1f}"


def _answer(rows: list[dict]) -> str:
    largest = [
        row
        for row in rows
        if row["device"] == "cpu"
        and row["N"] == max(r["N"] for r in rows)
        and row["batch"] == max(r["batch"] for r in rows)
    ]
    seconds = {row["encoder"]: row["seconds_of_a_row"] for row in largest}
    ratios = {name: seconds[name] / seconds["SAE"] for name in seconds}
    shown = ", ".join(f"{name} {ratio:.1f}" for name, ratio in ratios.items() if name != "SAE")
    return (
        f"Answer. At N={largest[0]['N']} and {largest[0]['batch']} rows a row of the SAE takes "
        f"{1e6 * seconds['SAE']:.1f} µs on this machine; times as long take: {shown}."
    )


def draw(rows: list[dict]) -> Any:
    import matplotlib.pyplot as plt

    groups = group(rows, "device", "N")
    figure, axes = plt.subplots(
        1,
        len(groups),
        figsize=(3.8 * len(groups) + 1.8, 4),
        layout="constrained",
        sharey=True,
        squeeze=False,
    )
    for ax, ((device, N), same) in zip(axes.flat, groups.items(), strict=True):
        for i, (name, each) in enumerate(group(same, "encoder").items()):
            batches = np.array([row["batch"] for row in each])
            seconds = [1e6 * row["seconds_of_a_row"] for row in each]
            ax.plot(batches, seconds, ms=4, label=name, **look(i))
        ax.set(title=f"{device}, N={N}", yscale="log", xlabel="rows in a batch")
        logarithmic(ax, batches)
        bare(ax)
    axes[0, 0].set_ylabel("µs a row")
    axes[0, -1].legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    return figure


STUDY = Study("wall_clock", cells, measure, report, draw)

if __name__ == "__main__":
    STUDY.main(__doc__)
