"""Dictionary learning against SPAMS and scikit-learn, at equal restarts and equal seconds.

    pip install spams-bin
    OMP_NUM_THREADS=1 python benchmarks/dictionary_learning.py [--quick | --sizes]

Planted data (`make_sparse_codes`, noise .01, non-negative codes). All dictionaries are judged
alike: MCC of the codes that our solver gives them, at its default alpha, on 2,000 held-out rows.
One process, one thread, processor time.

In the first table peers get the seconds that our default takes: SPAMS for as many restarts as
ours, for four, and for one, scikit-learn for one (more would not come to a second iteration).
Restarts are chosen by the training objective. Each line has the alpha of the grid that did best on
two data sets that are not in the table, with as many restarts in as many seconds; "given" is ours
with its own such alpha, and "x4" and "/4" with it four times too large and too small. In the
second table each learner has growing budgets and one start, in turns.
"""

from __future__ import annotations

import argparse
import time
import warnings
from functools import partial

import numpy as np
import torch
from learners import TRIED, learn, objective, random_rows, spams_online, unit
from workloads import spams, write

from sparsecode_estimators import SparseCodingEncoder
from sparsecode_estimators.datasets import make_sparse_codes
from sparsecode_estimators.metrics import mean_corr_coef

HELD_OUT = 2000
RESTARTS, ROUNDS = 16, 50  # the defaults of SparseCodingEncoder
GRID = (0.01, 0.02, 0.05, 0.1, 0.2)
SMALL = (16, 8, 3, 1024)
MEDIUM = (200, 64, 6, 8000)
LARGE = (1000, 200, 20, 10_000)
ENOUGH = 0.99  # mean MCC at which a learner has no larger budget


def planted(size, distribution, seed):
    """Training rows, held-out rows and their codes."""
    N, M, K, n = size
    data = make_sparse_codes(
        n + HELD_OUT, M, N, K, distribution=distribution, noise=0.01, random_state=530_000 + seed
    )
    X = data.X.astype(np.float32)
    return X[:n], X[n:], data.codes[n:]


def recovered(D, X, X_held, codes) -> float:
    """MCC of held-out codes; the same coder for all dictionaries."""
    coder = SparseCodingEncoder(dictionary=unit(D).astype(np.float32)).fit(X)
    return mean_corr_coef(codes, coder.transform(X_held))


def ours(X, n_components, **options):
    """Dictionary and seconds."""
    begin = time.process_time()
    coder = SparseCodingEncoder(n_components, **options).fit(X)
    return coder.components_, time.process_time() - begin


def best_alpha(run, distribution, grid) -> float:
    """Which alpha recovers most, on data sets of their own; ``run(X, alpha) -> dictionary``."""
    sets = [planted(SMALL, distribution, seed) for seed in (100, 101)]
    scores = {a: np.mean([recovered(run(s[0], a), *s) for s in sets]) for a in grid}
    return max(scores, key=scores.__getitem__)


def small(distribution: str, seeds: int) -> list[dict]:
    """The first table for one distribution."""
    N = SMALL[0]
    grid = tuple(a / 5 for a in GRID) if distribution == "zipf" else GRID  # its codes are smaller
    budget = ours(planted(SMALL, distribution, 100)[0], N, random_state=0)[1]

    def peer(X, alpha, name, restarts, seed=1):
        rng = np.random.default_rng([61, seed])
        return learn(name, X, N, alpha, restarts, budget, rng)

    given = best_alpha(lambda X, a: ours(X, N, alpha=a, random_state=0)[0], distribution, grid)
    alphas = {
        tried: best_alpha(lambda X, a, t=tried: peer(X, a, *t).dictionary, distribution, grid)
        for tried in TRIED
    }
    settings = {"default": "auto", "given": given}
    if distribution == "uniform":
        settings |= {"x4": 4 * given, "/4": given / 4}
    found: dict[tuple, list] = {}
    for seed in range(seeds):
        X, *held = planted(SMALL, distribution, seed)
        for label, alpha in settings.items():
            D, seconds = ours(X, N, alpha=alpha, random_state=seed)
            score = recovered(D, X, *held), seconds, ROUNDS
            found.setdefault((f"ours, {label}", alpha, RESTARTS), []).append(score)
            budget = seconds if label == "default" else budget
        for (name, restarts), alpha in alphas.items():
            D, n_iter, seconds = peer(X, alpha, name, restarts, seed)
            score = recovered(D, X, *held), seconds, n_iter
            found.setdefault((name, alpha, restarts), []).append(score)
    return [line(distribution, key, values) for key, values in found.items()]


def line(distribution: str, key: tuple, values: list) -> dict:
    name, alpha, restarts = key
    mcc, seconds, n_iter = (np.array(column, dtype=float) for column in zip(*values, strict=True))
    return {
        "size": "16, 8, 3",
        "codes": distribution,
        "learner": name,
        "alpha": alpha,
        "restarts": restarts,
        "iterations": int(np.median(n_iter)),
        "data sets": len(mcc),
        "MCC mean": round(float(mcc.mean()), 4),
        "MCC min": round(float(mcc.min()), 4),
        "seconds": float(seconds.mean()),
    }


def curve(label, size, budgets, runs, data_sets) -> list[dict]:
    """MCC against seconds; ``runs`` are ``run(X, n_iter) -> dictionary`` by name.

    Learners have their first budgets in turns, then their second ones, each until its mean MCC
    is .99.
    """
    sets = [planted(size, "uniform", seed) for seed in range(data_sets)]
    waiting = {name: list(budgets[name.split(",")[0]]) for name in runs}
    rows = []
    while waiting := {name: left for name, left in waiting.items() if left}:
        found: dict[str, list] = {name: [] for name in waiting}
        for X, *held in sets:
            for name in waiting:
                begin = time.process_time()
                D = runs[name](X, waiting[name][0])
                seconds = time.process_time() - begin
                score = recovered(D, X, *held), seconds, objective(X, unit(D), 0.05)
                found[name].append(score)
        for name, scores in found.items():
            rows.append(point(label, name, waiting[name].pop(0), scores))
            print(rows[-1], flush=True)
            if rows[-1]["MCC mean"] >= ENOUGH:
                waiting[name] = []
    return sorted(rows, key=lambda row: list(runs).index(row["learner"]))


def point(label: str, name: str, n_iter: int, scores: list) -> dict:
    mcc, seconds, losses = (np.array(column) for column in zip(*scores, strict=True))
    return {
        "size": label,
        "learner": name,
        "iterations": n_iter,
        "data sets": len(mcc),
        "MCC mean": round(float(mcc.mean()), 4),
        "MCC min": round(float(mcc.min()), 4),
        "seconds": float(np.median(seconds)),
        "objective at .05": float(losses.mean()),
    }


def runs(size, alphas, peer_alphas):
    """Ours by default and at some alphas, and SPAMS at a grid."""
    N = size[0]

    def mine(X, n_iter, alpha):
        return ours(X, N, max_iter=n_iter, alpha=alpha, random_state=0)[0]

    def peer(X, n_iter, alpha):
        initial = random_rows(X, N, np.random.default_rng(3))
        return spams_online(X, initial, alpha, n_iter)

    return {
        "ours, default": partial(mine, alpha="auto"),
        **{f"ours, alpha {a}": partial(mine, alpha=a) for a in alphas},
        **{f"SPAMS, alpha {a}": partial(peer, alpha=a) for a in peer_alphas},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two data sets, smaller ones only")
    parser.add_argument("--sizes", action="store_true", help="the second table only")
    options = parser.parse_args()
    quick = options.quick
    spams()  # or say that it is missing, before any work
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    ours(planted(SMALL, "uniform", 100)[0], 16, n_init=1, max_iter=3)  # compiles, or loads
    if not options.sizes:
        first_table(quick)
    if not quick:
        second_table()


def first_table(quick: bool) -> None:
    rows = []
    for distribution in ("uniform", "zipf", "exponential"):
        rows += small(distribution, 2 if quick else 10 if distribution == "uniform" else 5)
        # what there is, should the rest be cut off
        write("dictionary_learning_quick" if quick else "dictionary_learning", rows)


def second_table() -> None:
    medium = curve(
        "200, 64, 6", MEDIUM, {"ours": (10, 15, 20, 30, 50), "SPAMS": (100, 200, 300, 400, 800)},
        runs(MEDIUM, (0.05, 0.1, 0.2), (0.05, 0.1, 0.2, 0.4)), 5,
    )  # fmt: skip
    write("dictionary_learning_sizes", medium)
    large = curve(
        "1000, 200, 20", LARGE, {"ours": (20, 30, 50), "SPAMS": (50,)},
        runs(LARGE, (0.05,), (0.2,)), 1,
    )  # fmt: skip
    write("dictionary_learning_sizes", medium + large)


if __name__ == "__main__":
    main()
