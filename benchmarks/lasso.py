"""The lasso against SPAMS and scikit-learn: same rows, same process, one thread, in turns.

    pip install spams-bin
    OMP_NUM_THREADS=1 python benchmarks/lasso.py [--quick | --long]

Times are processor time, medians of several turns, and include everything from rows to codes:
Gram matrix, products, certificates (ours only; the peers have none). The excess is that over the
lower objective of ours and SPAMS, in double precision; roofline is the time of the one
matrix product XDᵀ over the whole time. scikit-learn makes its Gram matrix once and codes some of
the rows, in float64, in which it converges faster. Two threads over one is wall clock time, of
ours alone.
"""

from __future__ import annotations

import argparse
import time
import warnings
from statistics import median

import numpy as np
import torch
from sklearn.decomposition import sparse_encode as sklearn_encode
from workloads import WORKLOADS, interleaved, make_rows, spams, write

from sparsecode_estimators import SparseCodingEncoder, sparse_encode
from sparsecode_estimators.inference import Atoms, solve

ALPHA = 0.1
SKLEARN_ROWS = {"W1": 2000, "W2": 40, "W3": 4}


def objective(X, D, codes):
    """Of every row, in double precision."""
    codes = codes.toarray() if hasattr(codes, "toarray") else np.asarray(codes)
    codes = codes.astype(float)
    return 0.5 * ((X.astype(float) - codes @ D) ** 2).sum(1) + ALPHA * np.abs(codes).sum(1)


def threads_over_one(run, rounds: int) -> float:
    """How many times as fast two threads are as one, by the clock on the wall."""
    seconds = {1: [], 2: []}
    for _ in range(rounds):
        for threads, taken in seconds.items():
            torch.set_num_threads(threads)
            begin = time.perf_counter()
            run()
            taken.append(time.perf_counter() - begin)
    torch.set_num_threads(1)
    return median(seconds[1]) / median(seconds[2])


def measure(name: str, positive: bool, n: int, rounds: int) -> dict:
    """One line of the table."""
    X, D, _ = make_rows(WORKLOADS[name], n, positive=positive)
    few = min(n, SKLEARN_ROWS[name])
    tensors = torch.from_numpy(X), torch.from_numpy(D)
    coder = SparseCodingEncoder(dictionary=D, alpha=ALPHA, positive_code=positive).fit(X[:10])
    columns, atoms = np.asfortranarray(X.T), np.asfortranarray(D.T)
    found = {}

    def ours():
        found["ours"] = sparse_encode(X, D, alpha=ALPHA, positive_code=positive)

    def bare():
        solve(*tensors, alpha=ALPHA, positive=positive, known=Atoms(tensors[1]))

    def theirs():
        found["spams"] = (
            spams().lasso(columns, D=atoms, lambda1=ALPHA, pos=positive, mode=2, numThreads=1).T
        )

    wide = X[:few].astype(float), D.astype(float)

    def sklearn():
        found["sklearn"] = sklearn_encode(
            *wide, gram=found["gram"], algorithm="lasso_cd", alpha=ALPHA, positive=positive
        )

    methods = {
        "ours": ours,
        "bare": bare,
        "transform": lambda: coder.transform(X),
        "spams": theirs,
        "product": lambda: X @ D.T,
    }
    ours()
    seconds = interleaved(methods, rounds)
    alone = interleaved(
        {"gram": lambda: found.update(gram=wide[1] @ wide[1].T), "some": sklearn}, 1
    )
    del found["gram"]
    seconds["sklearn"] = alone["gram"] + alone["some"] * n / few
    values = {
        method: objective(X[: len(c.toarray())] if hasattr(c, "toarray") else X[: len(c)], D, c)
        for method, c in found.items()
    }
    best = np.minimum(values["ours"], values["spams"])
    assert (found["spams"].toarray() != 0).any(), "the peer returned zeros"
    return {
        "workload": name,
        "codes": "non-negative" if positive else "signed",
        "rows": n,
        "spams rows/s": n / seconds["spams"],
        "scikit-learn rows/s": n / seconds["sklearn"],
        "ours rows/s": n / seconds["ours"],
        "over spams": seconds["spams"] / seconds["ours"],
        "over scikit-learn": seconds["sklearn"] / seconds["ours"],
        "roofline": seconds["product"] / seconds["ours"],
        "two threads over one": threads_over_one(ours, rounds),
        "transform over kernel": seconds["transform"] / seconds["bare"],
        "excess p99, ours": float(np.quantile(values["ours"] / best - 1, 0.99)),
        "excess p99, spams": float(np.quantile(values["spams"] / best - 1, 0.99)),
        "active": float((found["ours"] != 0).sum(1).mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rows and turns")
    parser.add_argument("--long", action="store_true", help="4,096 rows of W3, too")
    options = parser.parse_args()
    quick = options.quick
    spams()  # or say that it is missing, before any work
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    share, rounds = (10, 3) if quick else (1, 5)
    sizes = [("W1", WORKLOADS["W1"].n // share), ("W2", WORKLOADS["W2"].n // share)]
    sizes += [("W3", 512), ("W3", 4096)] if options.long else [("W3", 512)]
    lines = [
        measure(name, positive, n, 1 if name == "W3" else rounds)
        for name, n in sizes
        for positive in (True, False)
    ]
    write("lasso_quick" if quick else "lasso", lines)


if __name__ == "__main__":
    main()
