"""How the time of a row grows with rows, atoms, features and active atoms, beside SPAMS.

    pip install spams-bin
    OMP_NUM_THREADS=1 python benchmarks/growth.py [--quick]

The lasso at alpha .1, non-negative, one thread, processor time, everything from rows to codes.
One of the numbers of W2 is changed at a time.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from workloads import WORKLOADS, Workload, interleaved, make_rows, spams, write

from sparsecode_estimators import sparse_encode

ALPHA = 0.1
CURVES = {
    "n": [10, 100, 1000, 10_000],
    "n_components": [64, 250, 1000, 4000, 8000],
    "n_features": [50, 100, 200, 400, 800],
    "k": [5, 10, 20, 40],
}


def measure(work: Workload, rounds: int) -> dict[str, float]:
    """Microseconds a row of ours and of SPAMS."""
    X, D, _ = make_rows(work, work.n, positive=True)
    columns, atoms = np.asfortranarray(X.T), np.asfortranarray(D.T)
    methods = {
        "ours": lambda: sparse_encode(X, D, alpha=ALPHA),
        "spams": lambda: spams().lasso(
            columns, D=atoms, lambda1=ALPHA, pos=True, mode=2, numThreads=1
        ),
    }
    methods["ours"]()
    seconds = interleaved(methods, rounds)
    return {name: 1e6 * taken / work.n for name, taken in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rows and turns")
    quick = parser.parse_args().quick
    spams()  # or say that it is missing, before any work
    torch.set_num_threads(1)
    base = WORKLOADS["W2"]._replace(n=500 if quick else 2000)
    lines = []
    for name, values in CURVES.items():
        for value in values:
            work = base._replace(**{name: value})
            taken = measure(work, 1 if quick else 3)
            lines.append(
                {"changed": name, **work._asdict()}
                | {f"{who}, µs a row": each for who, each in taken.items()}
                | {"over spams": taken["spams"] / taken["ours"]}
            )
    write("growth_quick" if quick else "growth", lines)


if __name__ == "__main__":
    main()
