"""At the paper's large scale: what do the variants of an SAE recover from a stream of rows?

    python experiments/large_scale.py [--quick] [--jobs 2]

1,000 atoms in 200 dimensions, 20 active, nothing known; 500,000 training rows in half precision,
which every encoder reads once, from a store on disk. SAEs of six activations and an MLP with a
hidden unit for each latent are tuned as in ``variants.py``: the same learning rates for each, and
for those whose sparsity follows from alpha, at every rate the alpha with which as many latents fire
on validation rows as the others may use, by bisection; what explains most on validation rows is
kept. All are judged on other rows that no fit has seen. Sparse coding learns its dictionary from
the first 10,000 of the rows, at an alpha that is given, and codes with as many atoms as the others
may use; truth does so with the true dictionary. The quick run has 128 atoms in 48 dimensions.

Chance is that of random projections behind a ReLU, for atoms that of random ones. Times are those
of the processor, one thread: of a fit, with the reading of its rows, the mean over all that were
made, and of the codes of a row.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.utils import Bunch
from study import Study, by_data_set, group, interval, mean, table
from variants import PENALISED, tuned

from sparsecode_estimators import SparseCodingEncoder
from sparsecode_estimators.datasets import ActivationStore, make_sparse_codes
from sparsecode_estimators.metrics import (
    chance_level,
    dead_latent_fraction,
    dictionary_corr_coef,
    l0,
    mean_corr_coef,
)
from sparsecode_estimators.plotting import RecoveryDisplay

SAES = (*PENALISED, "TopK", "BatchTopK", "Matryoshka")
METHODS = (*SAES, "MLP, TopK", "sparse coding", "truth")
CHUNK = 50_000  # rows that are made at a time
HELD_OUT = (2000, 10_000)  # rows to validate and to test on
CODING_ALPHA = 0.05  # rows have a length of about the root of k


def cells(quick: bool) -> list[dict]:
    if quick:
        sizes = {"n": 20_000, "n_coding": 4000, "N": 128, "M": 48, "k": 6, "hidden": 128}
        effort = {"max_iter": 3, "rates": [3e-3, 1e-2], "shares": [0.05, 1.0], "halvings": 2}
    else:
        sizes = {"n": 500_000, "n_coding": 10_000, "N": 1000, "M": 200, "k": 20, "hidden": 1000}
        effort = {"max_iter": 1, "rates": [3e-3, 1e-2, 3e-2], "shares": [0.02, 0.4], "halvings": 3}
    return [
        {"method": method, "data_set": data_set, **sizes, **effort}
        for data_set in range(2)
        for method in METHODS
    ]


def measure(cell: dict) -> dict[str, Any]:
    with planted_store(cell) as data:
        begin = time.process_time()
        encoder, tried = fitted(cell, data)
        fitting = (time.process_time() - begin) / tried
    encoder.transform(data.X_test[:100])  # loops are compiled
    begin = time.process_time()
    codes = encoder.transform(data.X_test)
    coding = 1e6 * (time.process_time() - begin) / len(codes)
    found = {
        "mcc": mean_corr_coef(data.codes_test, codes),
        "dictionary": dictionary_corr_coef(data.dictionary, encoder.components_),
        "l0": l0(codes),
        "explained_variance": encoder.score(data.X_test),
        "dead": dead_latent_fraction(codes),
        "learning_rate": getattr(encoder, "learning_rate_init", None),
        "alpha": encoder.alpha_ if cell["method"] in PENALISED else None,
        "tried": tried,
        "timings": {"fitting": fitting, "coding": coding},
    }
    if cell["method"] == "truth":
        options = {"n_repeats": 3, "random_state": 0}
        projected = chance_level(data.codes_test, kind="projection", X=data.X_test, **options)
        found["chance"] = projected
        found["chance_dictionary"] = chance_level(data.dictionary, kind="dictionary", **options)
    return found


@contextmanager
def planted_store(cell: dict) -> Iterator[Bunch]:
    """Training rows on disk, and others in memory; never all of them at a time."""
    validation, test = (planted_rows(cell, part, n) for part, n in enumerate(HELD_OUT))
    length = float(np.linalg.norm(validation.X, axis=1).mean())
    with tempfile.TemporaryDirectory() as folder:
        store = ActivationStore.create(Path(folder) / "rows", cell["M"], dtype="float16")
        with store.writer() as writer:
            for i, start in enumerate(range(0, cell["n"], CHUNK)):
                n = min(CHUNK, cell["n"] - start)
                writer.append(planted_rows(cell, len(HELD_OUT) + i, n).X)
        yield Bunch(
            X_train=store,
            X_validation=validation.X,
            X_test=test.X,
            codes_test=test.codes,
            dictionary=test.dictionary,
            # the ends of the bisection
            alphas=tuple(share * length for share in cell["shares"]),
        )


def planted_rows(cell: dict, part: int, n: int) -> Bunch:
    """Rows of one part of a data set; all parts have one dictionary."""
    options = {"dtype": np.float32, "sparse_output": True}
    sizes = cell["M"], cell["N"], cell["k"]
    seed = 79_000 + 1000 * cell["data_set"]
    D = make_sparse_codes(1, *sizes, random_state=seed, **options).dictionary
    return make_sparse_codes(n, *sizes, dictionary=D, random_state=seed + 1 + part, **options)


def fitted(cell: dict, data: Bunch) -> tuple[Any, int]:
    """The method, tuned and fitted, and how many fits that took."""
    if cell["method"] not in ("sparse coding", "truth"):
        return tuned(cell, data)
    k, true = cell["k"], data.dictionary if cell["method"] == "truth" else None
    coder = SparseCodingEncoder(
        cell["N"],
        alpha=CODING_ALPHA,
        n_nonzero_coefs=k,
        dictionary=true,
        n_init=1,
        max_iter=20,
        random_state=cell["data_set"],
    )
    return coder.fit(data.X_train[: cell["n_coding"]]), 1


def report(rows: list[dict]) -> str:
    N, M, k, n = (rows[0][key] for key in ("N", "M", "k", "n"))
    n_data_sets = len(group(rows, "data_set"))
    title = f"N={N} M={M} K={k}, {n:,} rows, mean ± 95 % over {n_data_sets} data sets"
    return f"{title}\n\n{_table(rows)}\n\n{_answer(rows)}"


def _table(rows: list[dict]) -> str:
    lines: list[tuple] = [
        (
            method,
            interval(same, "mcc"),
            interval(same, "dictionary"),
            f"{mean(same, lambda row: row['l0']):.2f}",
            mean(same, lambda row: row["explained_variance"]),
            mean(same, lambda row: row["dead"]),
            ", ".join(sorted({f"{row['learning_rate']:g}" for row in same}))
            if same[0]["learning_rate"]
            else None,
            f"{mean(same, lambda row: row['fitting']):.1f}",
            f"{mean(same, lambda row: row['coding']):.1f}",
            same[0]["tried"],
        )
        for method, same in group(rows, "method").items()
    ]
    true = [row for row in rows if row["method"] == "truth"]
    lines.append(
        ("chance", interval(true, "chance"), interval(true, "chance_dictionary"), *[None] * 7)
    )
    header = (
        "method",
        "recovery (MCC)",
        "atoms, |cos|",
        "L0",
        "expl. var.",
        "dead",
        "rate",
        "s a fit",
        "µs a row",
        "fits",
    )
    return table(header, lines)


def _answer(rows: list[dict]) -> str:
    found = {
        method: {key: mean(same, lambda row, key=key: row[key]) for key in ("mcc", "dictionary")}
        for method, same in group(rows, "method").items()
    }
    best = max(SAES, key=lambda method: found[method]["mcc"])
    shown = {method: found[method] for method in (best, "MLP, TopK", "sparse coding", "truth")}
    text = ", ".join(f"{m} {v['mcc']:.3f} (atoms {v['dictionary']:.3f})" for m, v in shown.items())
    return f"Answer. Of the SAEs {best} recovers most: {text}."


def draw(rows: list[dict]) -> Any:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(12.5, 4.2), layout="constrained")
    true = [row for row in rows if row["method"] == "truth"]
    shown = {"mcc": ("chance", "codes (MCC)"), "dictionary": ("chance_dictionary", "atoms (|cos|)")}
    for ax, (key, (chance, metric)) in zip(axes, shown.items(), strict=True):
        scores = {
            method: by_data_set(same, lambda row, key=key: row[key])
            for method, same in group(rows, "method").items()
            if method != "truth"
        }
        RecoveryDisplay.from_results(
            scores,
            chance=mean(true, lambda row, chance=chance: row[chance]),
            ceiling=mean(true, lambda row, key=key: row[key]),
            metric=metric,
            ax=ax,
        )
    return figure


STUDY = Study("large_scale", cells, measure, report, draw)

if __name__ == "__main__":
    STUDY.main(__doc__)
