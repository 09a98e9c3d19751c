"""The lasso on a GPU: rows a second, and how much of the machine that is.

    python benchmarks/gpu.py             # on a machine with a CUDA device
    python benchmarks/gpu.py --dry-run   # a few rows on the CPU: does this script work?

Times are medians of several turns by CUDA events, after a turn that compiles, from rows on the
device to codes on the device: Gram matrix, products and certificates included. The roofline is
that of the one matrix product XDᵀ: the longer of the time its operations take at ``--tflops`` and
that of its rows in and codes out at ``--bandwidth``, over the time that was measured. The defaults
of both are the nominal figures of an H200 (float32 outside tensor cores; memory).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch
from workloads import WORKLOADS, make_rows, write

from sparsecode_estimators import kernels
from sparsecode_estimators.inference import Atoms, Solution, choose, solve

ALPHA = 0.1
ROWS = {"W1": 10_000_000, "W2": 200_000, "W3": 10_000}
DISTINCT = 10_000  # rows that are made; the others are copies of them


def seconds(run: Callable[[], object], device: str, rounds: int) -> float:
    """Median time of a call, after one that is not counted."""
    run()
    return median(_once(run, device) for _ in range(rounds))


def _once(run: Callable[[], object], device: str) -> float:
    if device == "cpu":
        begin = time.perf_counter()
        run()
        return time.perf_counter() - begin
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    run()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / 1000


def measure(name: str, positive: bool, options: argparse.Namespace) -> dict:
    """One line of the table."""
    work, device = WORKLOADS[name], "cpu" if options.dry_run else "cuda"
    n = 64 if options.dry_run else ROWS[name]
    rows, D, _ = make_rows(work, min(n, DISTINCT), positive=positive)
    D = torch.from_numpy(D).to(device)
    X = torch.from_numpy(rows).to(device).repeat(-(-n // len(rows)), 1)[:n].contiguous()
    found: list[Solution] = []

    def run() -> None:
        found[:] = [solve(X, D, alpha=ALPHA, positive=positive, known=Atoms(D))]

    taken = seconds(run, device, 1 if options.dry_run else 5)
    solution = found[0]
    product = 2 * n * D.numel() / (options.tflops * 1e12)
    traffic = 4 * n * (work.n_features + work.n_components) / (options.bandwidth * 1e12)
    relative = solution.gap.double() / (0.5 * X.double().square().sum(1))
    few = relative[torch.randperm(n)[:100_000].to(device)]  # a quantile of more is refused
    return {
        "device": "cpu" if options.dry_run else torch.cuda.get_device_name(),
        "workload": name,
        "codes": "non-negative" if positive else "signed",
        "rows": n,
        "solver": choose("auto", X, D, k_sparse=False, warm=False, tol=1e-6),
        "own kernel": kernels.accelerated(X, D),
        "rows/s": n / taken,
        "roofline": max(product, traffic) / taken,
        "converged": float(solution.converged.double().mean()),
        "gap p99": float(few.quantile(0.99)),
        "active": float((solution.codes != 0).sum(1).double().mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dry-run", action="store_true", help="few rows, on the CPU")
    parser.add_argument("--tflops", type=float, default=67.0)
    parser.add_argument("--bandwidth", type=float, default=4.8, help="TB/s")
    options = parser.parse_args()
    if not options.dry_run and not torch.cuda.is_available():
        raise SystemExit("No CUDA device here: nothing was measured. Try --dry-run.")
    names = ["W1", "W2"] if options.dry_run else list(WORKLOADS)
    lines = [measure(name, positive, options) for name in names for positive in (True, False)]
    if options.dry_run:
        print(*lines, sep="\n")
        return
    write("gpu", lines)


if __name__ == "__main__":
    main()
