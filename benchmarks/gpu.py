"""The lasso and a step of training on a GPU: rows a second, and how much of the machine that is.

    python benchmarks/gpu.py             # on a machine with a CUDA device
    python benchmarks/gpu.py --dry-run   # a few rows on the CPU: does this script work?

Times are medians of several turns by CUDA events, after a turn that compiles, from rows on the
device to codes on the device: Gram matrix, products and certificates included. The roofline is
that of the one matrix product XDᵀ: the longer of the time its operations take at ``--tflops`` and
that of its rows in and codes out at ``--bandwidth``, over the time that was measured. The defaults
of both are the nominal figures of an H200 (float32 outside tensor cores; memory).

Training is that of a "topk" SAE. Beside ours stands the step that needs no kernels of its own: all
codes, by autograd, compiled by torch, in bfloat16 by autocast. "product" is what no step does
without: the rows with the encoder's weights, in the numbers of that trainer.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from statistics import median

import torch
import trainers
from torch import Tensor
from torch.nn.functional import mse_loss
from workloads import WORKLOADS, make_rows, write

from sparsecode_estimators import kernels
from sparsecode_estimators.inference import Atoms, Solution, choose, solve
from sparsecode_estimators.kernels import sparse

ALPHA = 0.1
ROWS = {"W1": 10_000_000, "W2": 200_000, "W3": 10_000}
DISTINCT = 10_000  # rows that are made; the others are copies of them
FEATURES, COMPONENTS, K, BATCH, RATE = 768, 24_576, 32, 16_384, 1e-3


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
        "solver": choose("auto", D, k_sparse=False, warm=False, tol=1e-6),
        "own kernel": kernels.accelerated(D),
        "rows/s": n / taken,
        "roofline": max(product, traffic) / taken,
        "converged": float(solution.converged.double().mean()),
        "gap p99": float(few.quantile(0.99)),
        "active": float((solution.codes != 0).sum(1).double().mean()),
    }


def dense(x: Tensor, n_components: int) -> Callable[[], object]:
    """A step of all codes."""
    n_features = x.shape[1]
    W = torch.randn(n_components, n_features, device=x.device)
    W /= W.norm(dim=1, keepdim=True)
    params = [W, W.clone(), W.new_zeros(n_components), W.new_zeros(n_features)]
    for p in params:
        p.requires_grad_()
    optimizer = torch.optim.Adam(params, lr=RATE, fused=True)

    @torch.compile
    def loss() -> Tensor:
        W, D, bias, offset = params
        with torch.autocast(x.device.type, torch.bfloat16):
            pre = (x - offset) @ W.T + bias
            values, atoms = pre.relu().topk(K, dim=1)
            codes = torch.zeros_like(pre).scatter(1, atoms, values)
            return mse_loss(codes @ D + offset, x)

    def step() -> None:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
        with torch.no_grad():
            params[1] /= params[1].norm(dim=1, keepdim=True)

    return step


def measure_training(options: argparse.Namespace) -> list[dict]:
    """Lines of the table of training."""
    device, n, N = ("cpu", 64, 1280) if options.dry_run else ("cuda", BATCH, COMPONENTS)
    x = torch.randn(n, FEATURES, device=device)
    weight = torch.randn(N, FEATURES, device=device)
    rounds = 1 if options.dry_run else 20
    short, short_weight = x.bfloat16(), weight.bfloat16()
    products = {
        "float32": seconds(lambda: x @ weight.T, device, rounds),
        "bfloat16": seconds(lambda: short @ short_weight.T, device, rounds),
    }
    lines = []
    for trainer, numbers in (("ours", "float32"), ("ours", "bfloat16"), ("dense", "bfloat16")):
        if trainer == "ours":
            step = trainers.ours(
                FEATURES, N, K, ALPHA, RATE, 10**9, in_bfloat16=numbers == "bfloat16", device=device
            )[0]
            run = partial(step, x)
        else:
            run = dense(x, N)
        taken = seconds(run, device, rounds)
        lines.append({
            "device": "cpu" if options.dry_run else torch.cuda.get_device_name(),
            "trainer": trainer,
            "products in": numbers,
            "own kernel": trainer == "ours" and sparse._make(x).__name__.endswith("cuda_sparse"),
            "components": N,
            "batch": n,
            "rows/s": n / taken,
            "share of the product": products[numbers] / taken,
        })  # fmt: skip
    return lines


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
    steps = measure_training(options)
    if options.dry_run:
        print(*lines, *steps, sep="\n")
        return
    write("gpu", lines)
    write("gpu_training", steps)


if __name__ == "__main__":
    main()
