"""Rows on disk against rows in memory, and sparse codes of many rows.

    python benchmarks/streaming.py [--quick] [--gigabytes 4] [--folder FOLDER]

"fit" is one shuffled pass of a TopK encoder over the same rows, from a store and from memory;
memory is the rise of the process's own pages, each run in a process of its own. "transform" is
codes of 100,000 rows as a CSR matrix beside the product of these rows with the encoder's weights in
float32: with products of rounded numbers before it, where they are faster, and without.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
import warnings
from statistics import median

import numpy as np
import torch
from memory import Peak, alone
from workloads import write

from sparsecode_estimators import SAEEncoder
from sparsecode_estimators.datasets import ActivationStore
from sparsecode_estimators.kernels import rounded

FEATURES, BLOCK = 768, 65_536


def build(folder: str, n: int) -> None:
    """A store of float16 rows."""
    rng = np.random.default_rng(80)
    block = rng.standard_normal((BLOCK, FEATURES), dtype=np.float32)
    store = ActivationStore.create(folder, n_features=FEATURES, dtype="float16")
    with store.writer() as writer:
        for begin in range(0, n, BLOCK):
            scale = np.float32(1 + 0.1 * rng.random())
            writer.append((scale * block[: n - begin]).astype(np.float16))


def pass_over(folder: str, n_components: int, where: str) -> dict:
    """One epoch, from the store or from memory."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(2)
    rows = ActivationStore(folder)
    sae = SAEEncoder(
        n_components, activation="topk", n_nonzero_coefs=32, max_iter=1, batch_size=2048,
        precision="auto", random_state=0,
    )  # fmt: skip
    sae.fit(np.asarray(rows[:8192]))  # what is compiled
    X = np.concatenate([rows[i : i + BLOCK] for i in range(0, len(rows), BLOCK)])
    X = X if where == "memory" else rows
    with Peak() as peak:
        begin = time.perf_counter()
        sae.fit(X)
        seconds = time.perf_counter() - begin
    return {
        "what": f"fit, rows from {where}", "rows": len(rows), "components": n_components,
        "rows/s": len(rows) / seconds, "rise, MiB": peak.rise["RssAnon"],
    }  # fmt: skip


def codes(n: int, n_components: int, rounds: bool) -> dict:
    """``transform`` to CSR beside the product in float32."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(2)
    if not rounds:
        rounded.is_faster = lambda device: False
    rng = np.random.default_rng(81)
    X = rng.standard_normal((n, FEATURES), dtype=np.float32)
    sae = SAEEncoder(
        n_components, activation="topk", n_nonzero_coefs=32, max_iter=1, sparse_output=True,
        random_state=0,
    ).fit(X[:4096])  # fmt: skip
    weight = torch.from_numpy(sae.encoder_coefs_[0])
    room = torch.empty(2048, n_components)
    sae.transform(X[:4096])
    taken, products = [], []
    for _ in range(3):
        with Peak() as peak:
            begin = time.perf_counter()
            found = sae.transform(X)
            taken.append(time.perf_counter() - begin)
        begin = time.perf_counter()
        for rows in torch.from_numpy(X).split(2048):
            torch.mm(rows, weight, out=room[: len(rows)])
        products.append(time.perf_counter() - begin)
    size = (found.data.nbytes + found.indices.nbytes + found.indptr.nbytes) / 2**20
    return {
        "what": "transform to CSR", "rounds": rounds and rounded.is_faster(weight.device),
        "rows": n, "components": n_components, "rows/s": n / median(taken),
        "rise, MiB": peak.rise["RssAnon"], "result, MiB": size,
        "share of the product": median(products) / median(taken),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rows")
    parser.add_argument("--gigabytes", type=float, default=4.0)
    parser.add_argument("--folder", help="for the store; a temporary one if not given")
    options = parser.parse_args()
    n = int((0.2 if options.quick else options.gigabytes) * 1e9) // (2 * FEATURES)
    folder = tempfile.mkdtemp(dir=options.folder)
    try:
        build(f"{folder}/rows", n)
        lines = [alone(pass_over, f"{folder}/rows", 2048, where) for where in ("memory", "store")]
    finally:
        shutil.rmtree(folder)
    lines[1]["over memory"] = lines[1]["rows/s"] / lines[0]["rows/s"]
    for n in (10_000,) if options.quick else (100_000, 50_000):
        lines += [alone(codes, n, 12_288, rounds) for rounds in (True, False)]
    write("streaming_quick" if options.quick else "streaming", lines)


if __name__ == "__main__":
    main()
