"""Training against SAELens, dictionary_learning and sparsify: same batches, same process, in turns.

    pip install sae-lens eai-sparsify schedulefree dictionary-learning
    python benchmarks/training.py [--quick] [--threads 2]

Wall clock of single steps, medians over interleaved rounds, float32 unless said: "ours, bfloat16"
is ``precision="bfloat16"``, "SAELens, bfloat16" its autocast. "product" is the one dense product
that a step needs, rows with the encoder's weights, in float32. "fit" is ``SAEEncoder.fit`` with
everything that it does besides steps.
"""

from __future__ import annotations

import argparse
import time
import warnings
from functools import partial
from statistics import median

import numpy as np
import torch
import trainers
from workloads import environment, write

from sparsecode_estimators import SAEEncoder

FEATURES, COMPONENTS, K, ALPHA, RATE = 768, 12_288, 32, 0.1, 1e-3


def makers(k: int | None) -> dict:
    """Trainers by name."""
    found = {
        "ours": trainers.ours,
        "ours, bfloat16": partial(trainers.ours, in_bfloat16=True),
        "SAELens": trainers.saelens,
        "SAELens, bfloat16": partial(trainers.saelens, autocast=True),
        "dictionary_learning": trainers.dictionary_learning,
    }
    if k:
        found["sparsify, Adam"] = trainers.sparsify
        found["sparsify, sign descent"] = partial(trainers.sparsify, signum=True)
    return found


def steps(k: int | None, batch: int, N: int, rounds: int) -> list[dict]:
    """Rows a second of every trainer."""
    rng = np.random.default_rng([77, batch])
    x = torch.tensor(rng.standard_normal((batch, FEATURES)), dtype=torch.float32)
    weight = torch.randn(N, FEATURES)
    room = torch.empty(batch, N)
    runs, missing = {"product": lambda _: torch.mm(x, weight.T, out=room)}, {}
    for name, make in makers(k).items():
        try:
            runs[name] = make(FEATURES, N, k, ALPHA, RATE, 10**9)[0]
            runs[name](x)
        except Exception as error:
            missing[name] = f"{type(error).__name__}: {error}"
            runs.pop(name, None)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            for _ in range(2):
                begin = time.perf_counter()
                run(x)
                seconds[name].append(time.perf_counter() - begin)
    taken = {name: median(values) for name, values in seconds.items()}
    lines = [
        {
            "activation": "topk" if k else "relu",
            "components": N,
            "batch": batch,
            "trainer": name,
            "rows/s": batch / taken[name],
            "ours over it": taken[name] / taken["ours"],
            "ours, bfloat16, over it": taken[name] / taken["ours, bfloat16"],
            "share of the product": taken["product"] / taken[name],
        }
        for name in taken
        if name != "product"
    ]
    return lines + [
        {"activation": "topk" if k else "relu", "components": N, "batch": batch, "trainer": name,
         "does not run": reason}
        for name, reason in missing.items()
    ]  # fmt: skip


def whole_fit(batch: int, n_steps: int) -> dict:
    """``fit`` beside as many single steps."""
    rng = np.random.default_rng(78)
    X = rng.standard_normal((batch * n_steps, FEATURES), dtype=np.float32)
    init = rng.standard_normal((COMPONENTS, FEATURES), dtype=np.float32)
    step = trainers.ours(FEATURES, COMPONENTS, K, ALPHA, RATE, 10**9)[0]
    fits, bare = [], []
    for _ in range(3):
        sae = SAEEncoder(
            COMPONENTS, activation="topk", n_nonzero_coefs=K, max_iter=1, batch_size=batch,
            learning_rate_init=RATE, dict_init=init, random_state=0,
        )  # fmt: skip
        begin = time.perf_counter()
        sae.fit(X)
        fits.append(time.perf_counter() - begin)
        begin = time.perf_counter()
        for rows in torch.from_numpy(X).split(batch):
            step(rows)
        bare.append(time.perf_counter() - begin)
    return {
        "batch": batch,
        "steps": n_steps,
        "fit, rows/s": len(X) / median(fits),
        "fit over bare steps": median(fits) / median(bare),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one batch size, fewer rounds")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    tail = "_quick" if options.quick else ""
    rounds = 2 if options.quick else 5
    lines = []
    for k in (K, None):
        for batch in (512,) if options.quick else (512, 2048):
            lines += steps(k, batch, COMPONENTS, rounds)
            write(f"training{tail}", lines)
    batch, n_steps = (512, 20) if options.quick else (2048, 50)
    write(f"training_fit{tail}", [whole_fit(batch, n_steps)])
    if not options.quick:
        growth = []
        for N in (512, 2048, 8192, 32_768):
            growth += steps(K, 1024, N, 2)
            write("training_growth", growth)
    print(environment())


if __name__ == "__main__":
    main()
