"""The workloads of all benchmarks, how time is taken, and what ran."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.sparse import csr_array

RESULTS = Path(__file__).parent / "results"


class Workload(NamedTuple):
    """Gaussian unit atoms, exactly ``k`` values |N(0, 1)| (or N(0, 1)), noise .01."""

    n_components: int
    n_features: int
    k: int
    n: int


WORKLOADS = {
    "W1": Workload(16, 8, 3, 100_000),
    "W2": Workload(1000, 200, 20, 10_000),
    "W3": Workload(12_288, 768, 32, 4096),
}


def make_rows(work: Workload, n: int, *, positive: bool, seed: int = 7) -> tuple:
    """Rows, dictionary and codes of a workload in float32."""
    rng = np.random.default_rng([40_961, seed])
    D = rng.standard_normal((work.n_components, work.n_features))
    D /= np.linalg.norm(D, axis=1, keepdims=True)
    codes = np.zeros((n, work.n_components))
    for code in codes:
        places = rng.choice(work.n_components, work.k, replace=False)
        code[places] = rng.standard_normal(work.k)
    codes = np.abs(codes) if positive else codes
    # as sparse codes, for the dense product would take long for W3
    X = csr_array(codes) @ D + 0.01 * rng.standard_normal((n, work.n_features))
    return X.astype(np.float32), D.astype(np.float32), codes


def spams() -> Any:
    """The peer; imported here, so that ``--help`` needs none."""
    try:
        import spams
    except ImportError as error:
        raise SystemExit(f"SPAMS is missing ({error}): pip install spams-bin") from None
    return spams


def interleaved(methods: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each method, taking turns; processor time of this process."""
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(rounds):
        for name, run in methods.items():
            begin = time.process_time()
            run()
            seconds[name].append(time.process_time() - begin)
    return {name: median(taken) for name, taken in seconds.items()}


def environment() -> dict[str, object]:
    """Processor, threads and versions."""
    found = {"python": platform.python_version(), "threads": torch.get_num_threads()}
    lines = Path("/proc/cpuinfo")
    if lines.exists():
        names = [
            s.split(":")[1].strip() for s in lines.read_text().splitlines() if "model name" in s
        ]
        found["processor"] = names[0] if names else platform.processor()
    for package in (
        "numpy",
        "torch",
        "numba",
        "triton",
        "scikit-learn",
        "spams-bin",
        "sae-lens",
        "eai-sparsify",
        "dictionary-learning",
    ):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def write(name: str, rows: list[dict]) -> None:
    """Keep the results as JSON, and print them as a table."""
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps({"environment": environment(), "rows": rows}, indent=1)
    (RESULTS / f"{name}.json").write_text(text + "\n")
    header = list(dict.fromkeys(key for row in rows for key in row))
    print(" | ".join(header))
    for row in rows:
        cells = [row.get(key, "") for key in header]
        print(" | ".join(f"{v:.3g}" if isinstance(v, float) else str(v) for v in cells))
