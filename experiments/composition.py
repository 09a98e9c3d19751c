"""Do codes still work for pairs of sources that were never seen together, and if not, why?

    python experiments/composition.py [--quick] [--jobs 2]

Half of all pairs of latents never fire together in training. Test rows are of two kinds: with
pairs as in training, and with such pairs only (32 atoms in 16 dimensions, 3 active). Where an
encoder falls short of the truth is found by swaps, each of which repairs one thing more:

1. its own codes;
2. the best codes on its own support: the magnitudes are repaired;
3. exact codes for its own, frozen dictionary: the support is repaired;
4. exact codes for the true dictionary, which is the ceiling.

From 2 on all minimise the objective with one alpha, that of a solver for the true dictionary.

What a swap gains in recovery (MCC) is what was lost to that. Warm starts say what a guess is still
worth: a few iterations of FISTA from the encoder's codes, and as many from zero. Chance is that of
random projections behind a ReLU. The idea of the split is that of arXiv 2603.28744.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from methods import one_pass
from sklearn.utils import Bunch
from study import Study, by_data_set, mean, table, with_interval

from sparsecode_estimators import SparseCodingEncoder, sparse_encode
from sparsecode_estimators.datasets import make_sparse_codes
from sparsecode_estimators.metrics import chance_level, mean_corr_coef
from sparsecode_estimators.metrics.restricted import minimise_on_supports
from sparsecode_estimators.plotting import RecoveryDisplay

N, M, K = 32, 16, 3
ITERATIONS = 10
SWAPS = {
    "itself": "as it is",
    "magnitudes": "best codes on its support",
    "support": "exact codes, its dictionary",
    "warm": f"{ITERATIONS} iterations from its codes",
    "cold": f"{ITERATIONS} iterations from zero",
}
SPLITS = {"seen": "pairs as in training", "unseen": "pairs never seen together"}


def cells(quick: bool) -> list[dict]:
    effort = {"n": 1024, "max_iter": 60, "n_init": 4} if quick else {"n": 4096, "max_iter": 200}
    return [{"data_set": data_set, "n_init": 16, **effort} for data_set in range(3 if quick else 5)]


def measure(cell: dict) -> dict[str, Any]:
    data = split_by_pairs(cell["n"], 1000, seed=7_500 + cell["data_set"])
    methods = one_pass(cell["data_set"], n_components=N, max_iter=cell["max_iter"])
    methods["sparse coding"] = SparseCodingEncoder(
        N, n_init=cell["n_init"], random_state=cell["data_set"]
    )
    alpha = SparseCodingEncoder(dictionary=data.dictionary).fit(data.train[0]).alpha_
    found: dict[str, Any] = {}
    for name, encoder in methods.items():
        encoder.fit(data.train[0])
        found[name] = {split: _swaps(encoder, *data[split], alpha=alpha) for split in SPLITS}
    levels = {split: _levels(data, split, alpha) for split in SPLITS}
    return {"methods": found, "levels": levels}


def split_by_pairs(n_train: int, n_test: int, *, seed: int) -> Bunch:
    """Rows and codes "train", "seen" and "unseen", by which pairs of latents fire together."""
    allowed = np.triu(np.random.default_rng([75, seed]).random((N, N)) < 0.5, 1)
    allowed = allowed | allowed.T
    # an eighth of all rows has three allowed pairs, and as many have none
    data = make_sparse_codes(12 * (n_train + n_test), M, N, K, random_state=seed)
    active = data.codes != 0
    # twice the pairs of a row that are allowed
    pairs = np.einsum("ri,ij,rj->r", active, allowed.astype(int), active, optimize=True)
    together, apart = np.flatnonzero(pairs == K * (K - 1)), np.flatnonzero(pairs == 0)
    if len(together) < n_train + n_test or len(apart) < n_test:
        raise ValueError(f"seed={seed!r} leaves too few rows of a kind; take another.")
    parts = {
        "train": together[:n_train],
        "seen": together[n_train : n_train + n_test],
        "unseen": apart[:n_test],
    }
    rows = {name: (data.X[chosen], data.codes[chosen]) for name, chosen in parts.items()}
    return Bunch(dictionary=data.dictionary, **rows)


def _swaps(encoder: Any, X: np.ndarray, truth: np.ndarray, *, alpha: float) -> dict[str, float]:
    """Recovery after each swap."""
    guess = np.asarray(encoder.transform(X), dtype=float)
    centred = X - encoder.intercept_.astype(float)
    D = encoder.components_.astype(float)
    few = {"solver": "fista", "max_iter": ITERATIONS, "tol": None, "alpha": alpha}
    exact = sparse_encode(centred, D, alpha=alpha)
    chosen = guess != 0
    start = np.where(chosen, exact, 0)
    codes = {
        "itself": guess,
        "magnitudes": minimise_on_supports(centred, D, chosen, start, alpha, positive=True)[0],
        "support": exact,
        "warm": sparse_encode(centred, D, init=guess, return_info=True, **few)[0],
        "cold": sparse_encode(centred, D, return_info=True, **few)[0],
    }
    return {name: mean_corr_coef(truth, found) for name, found in codes.items()}


def _levels(data: Bunch, split: str, alpha: float) -> dict[str, float]:
    X, truth = data[split]
    return {
        "chance": chance_level(truth, kind="projection", X=X, random_state=0),
        "ceiling": mean_corr_coef(truth, sparse_encode(X, data.dictionary, alpha=alpha)),
    }


def scores(rows: list[dict], name: str, split: str, swap: str) -> list[list[float]]:
    return by_data_set(rows, lambda row: row["methods"][name][split][swap])


def losses(rows: list[dict], name: str, split: str) -> dict[str, float]:
    """What is lost to magnitudes, support and dictionary."""
    reached = [float(np.mean(scores(rows, name, split, swap))) for swap in list(SWAPS)[:3]]
    reached.append(mean(rows, lambda row: row["levels"][split]["ceiling"]))
    return dict(zip(("magnitudes", "support", "dictionary"), np.diff(reached), strict=True))


def report(rows: list[dict]) -> str:
    names = list(rows[0]["methods"])
    text = []
    for split, title in SPLITS.items():
        lines = [
            (name, *(with_interval(scores(rows, name, split, swap)) for swap in SWAPS))
            for name in names
        ]
        for key in ("chance", "ceiling"):
            values = by_data_set(rows, lambda row, s=split, k=key: row["levels"][s][k])
            lines.append((key, with_interval(values), *[None] * 4))
        header = ("encoder", *SWAPS.values())
        text.append(
            f"{title}: recovery (MCC), mean ± 95 % over data sets\n\n{table(header, lines)}\n"
        )
    lines = [
        (name, SPLITS[split], *losses(rows, name, split).values())
        for name in names
        for split in SPLITS
    ]
    header = ("encoder", "rows", "magnitudes", "support", "dictionary")
    text.append(f"Recovery lost to\n\n{table(header, lines)}\n")
    return "\n".join([*text, _answer(rows)])


def _answer(rows: list[dict]) -> str:
    parts = []
    for name in ("SAE", "sparse coding"):
        own = {s: float(np.mean(scores(rows, name, s, "itself"))) for s in SPLITS}
        lost = losses(rows, name, "unseen")
        most = max(lost, key=lambda key: lost[key])
        parts.append(
            f"On pairs never seen together {name} recovers {own['unseen']:.3f} ({own['seen']:.3f} "
            f"on others); of what it lacks up to the ceiling most, {lost[most]:.3f}, is due to its "
            f"{most}."
        )
    return "Answer. " + " ".join(parts)


def draw(rows: list[dict]) -> Any:
    import matplotlib.pyplot as plt

    names = list(rows[0]["methods"])
    figure, axes = plt.subplots(
        2, len(names), figsize=(3.9 * len(names), 5.4), layout="constrained", sharex=True
    )
    for line, split in zip(axes, SPLITS, strict=True):
        for ax, name in zip(line, names, strict=True):
            RecoveryDisplay.from_results(
                {title: scores(rows, name, split, swap) for swap, title in SWAPS.items()},
                chance=mean(rows, lambda row, s=split: row["levels"][s]["chance"]),
                ceiling=mean(rows, lambda row, s=split: row["levels"][s]["ceiling"]),
                metric=f"{name}, {SPLITS[split]} (MCC)",
                ax=ax,
            )
            ax.label_outer()
            ax.set_xlabel(f"{name}, {SPLITS[split]} (MCC)", fontsize="small")
    return figure


STUDY = Study("composition", cells, measure, report, draw)

if __name__ == "__main__":
    STUDY.main(__doc__)
