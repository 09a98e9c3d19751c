"""Explained variance at equal tokens: ours against SAELens, dictionary_learning and sparsify.

    pip install sae-lens eai-sparsify schedulefree dictionary-learning
    python benchmarks/training_quality.py [--quick]
    python benchmarks/training_quality.py --store FOLDER [--quick]

TopK on planted rows and on activations of the tiny GPT-2; or on the rows of an ``ActivationStore``,
with eight latents for each feature and k = 32, such as the store that
``experiments/language_model.py`` leaves of a larger model. Every trainer sees the same rows in the
same order, once, in batches of 256. The learning rate is chosen from a small grid in runs with a
seed of their own: of those that explain within .005 of the most, the one that leaves fewest latents
dead. Then come three other seeds. Rows are scaled to a variance of one for all. Ours has its
default schedule, under which the rate falls in the last third; the peers' default is a constant
rate. That of sparsify's sign descent follows its own rule, whatever the grid says. "dead" is the
share of latents that fire on no held-out row.
"""

from __future__ import annotations

import argparse
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import scipy.linalg
import scipy.stats
import torch
import trainers
from workloads import write

from sparsecode_estimators.datasets import (
    ActivationStore,
    load_gpt2_activations,
    make_sparse_codes,
)

RATES = (1e-3, 2e-3, 5e-3, 1e-2, 2e-2)
NEAR = 0.005
BATCH, HELD_OUT = 256, 8192
MAKERS = {
    "ours, Adam": partial(trainers.ours, schedule="decay"),
    "ours, sign descent": partial(trainers.ours, optimizer="sign"),
    "SAELens": trainers.saelens,
    "dictionary_learning": trainers.dictionary_learning,
    "sparsify, Adam": trainers.sparsify,
    "sparsify, sign descent": partial(trainers.sparsify, signum=True),
}


def planted(n: int) -> tuple[torch.Tensor, int, int]:
    """Rows, latents and active latents."""
    data = make_sparse_codes(n, 64, 1024, 8, noise=0.01, random_state=640_001)
    return torch.tensor(data.X, dtype=torch.float32), 1024, 8


def language(n: int) -> tuple[torch.Tensor, int, int]:
    """Activations of the tiny GPT-2 on docstrings, which it was not trained on."""
    modules = (np, np.linalg, torch, torch.nn, torch.nn.functional, scipy.linalg, scipy.stats)
    texts = {
        getattr(module, name).__doc__
        for module in modules
        for name in dir(module)
        if not name.startswith("_")
    }
    chosen = sorted(text for text in texts if isinstance(text, str) and len(text) > 200)
    rows = load_gpt2_activations(chosen, model="tiny", layer=4).data
    order = np.random.default_rng(640_002).permutation(len(rows))[:n]
    return torch.tensor(np.asarray(rows)[order], dtype=torch.float32), 1024, 8


def stored(folder: Path, n: int) -> tuple[torch.Tensor, int, int]:
    """Rows of a store in random order; fewer than n if it has no more."""
    rows = np.asarray(ActivationStore(folder)[:], dtype=np.float32)
    order = np.random.default_rng(640_003).permutation(len(rows))[:n]
    return torch.tensor(rows[order]), 8 * rows.shape[1], 32


def explained(make, X, N, k, rate, seed) -> tuple[float, float]:
    """Explained variance of held-out rows, and the share of latents that are dead there."""
    train, test = X[:-HELD_OUT], X[-HELD_OUT:]
    step, network = make(X.shape[1], N, k, 0.0, rate, len(train), seed=seed)
    for batch in train[: len(train) // BATCH * BATCH].split(BATCH):
        step(batch)
    with torch.no_grad():
        reconstruction, codes = network()(test)
    left = (test - reconstruction).double().square().sum()
    share = 1 - left / (test - test.mean(0)).double().square().sum()
    return share.item(), (codes == 0).all(0).double().mean().item()


def chosen(tried: dict[float, tuple[float, float]]) -> float:
    """The rate with the fewest dead latents among those that explain nearly the most."""
    most = max(value for value, _ in tried.values())
    near = [rate for rate, (value, _) in tried.items() if value >= most - NEAR]
    return min(near, key=lambda rate: tried[rate][1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rows, one seed")
    parser.add_argument("--store", type=Path, help="rows; its name is that of the result")
    options = parser.parse_args()
    quick, store = options.quick, options.store
    warnings.simplefilter("ignore")
    sources = {"planted": planted, "tiny GPT-2": language}
    if store:
        sources = {store.name: partial(stored, store)}
    lines = []
    for name, load in sources.items():
        X, N, k = load((100 if quick else 800 if store else 400) * BATCH + HELD_OUT)
        X = (X - X.mean(0)) / X.std()
        for trainer, make in MAKERS.items():
            try:
                own = trainer == "sparsify, sign descent"
                rates = RATES[:1] if own else RATES
                rate = chosen({rate: explained(make, X, N, k, rate, 100) for rate in rates})
                found = [explained(make, X, N, k, rate, seed) for seed in range(1 if quick else 3)]
            except ImportError as error:
                lines.append({"rows": name, "trainer": trainer, "does not run": str(error)})
                continue
            values, dead = (np.array(column) for column in zip(*found, strict=True))
            lines.append(
                {
                    "rows": name,
                    "n": (len(X) - HELD_OUT) // BATCH * BATCH,
                    "trainer": trainer,
                    "learning rate": "its own" if own else rate,
                    "explained variance": float(values.mean()),
                    "least": float(values.min()),
                    "dead": float(dead.mean()),
                }
            )
            print(lines[-1], flush=True)
    parts = ["training_quality", *([store.name] if store else []), *(["quick"] if quick else [])]
    write("_".join(parts), lines)


if __name__ == "__main__":
    main()
