"""Peak memory of steps of training, over imports and data: ours and the peers, each alone.

    python benchmarks/training_memory.py [--batch 2048]

TopK, 768 features, 12,288 latents, k = 32, float32 unless said. The network, gradients and what
the optimiser remembers are in it.
"""

from __future__ import annotations

import argparse
import warnings

import torch
from memory import Peak, alone
from training import ALPHA, COMPONENTS, FEATURES, RATE, K, makers
from workloads import write


def rise(name: str, batch: int) -> dict:
    """MiB that a few steps of one trainer take."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(2)
    x = torch.randn(batch, FEATURES, generator=torch.Generator().manual_seed(79))
    make = makers(K)[name]
    try:
        make(8, 64, 4, ALPHA, RATE, 10**9)[0](x[:, :8].clone())  # imports, and what is compiled
        with Peak() as peak:
            step = make(FEATURES, COMPONENTS, K, ALPHA, RATE, 10**9)[0]
            for _ in range(3):
                step(x)
    except Exception as error:
        return {"trainer": name, "does not run": f"{type(error).__name__}: {error}"}
    return {"trainer": name, "batch": batch, "MiB": peak.rise["RssAnon"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=2048)
    batch = parser.parse_args().batch
    lines = [alone(rise, name, batch) for name in makers(K)]
    peers = [line["MiB"] for line in lines if line["trainer"] == "SAELens" and "MiB" in line]
    for line in lines:
        if peers and "MiB" in line:
            line["share of SAELens"] = line["MiB"] / peers[0]
    write("training_memory", lines)


if __name__ == "__main__":
    main()
