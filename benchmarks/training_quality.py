"""Explained variance at equal tokens: ours against SAELens, dictionary_learning and sparsify.

    pip install sae-lens eai-sparsify schedulefree dictionary-learning
    python benchmarks/training_quality.py [--quick]
    python benchmarks/training_quality.py --store FOLDER [--quick]

TopK on planted rows and on activations of the tiny GPT-2; or on the rows of an ``ActivationStore``,
with eight latents for each feature and k = 32, such as the store that
``experiments/language_model.py`` leaves of a larger model. Every trainer sees the same rows in the
same order, once, in batches of 256 (of a store, 512). The learning rate is chosen from a small grid
(of a store, its first three) in runs with a seed of their own: of those that explain within .005 of
the most, the one that leaves fewest latents dead. Then come three other seeds. Rows are scaled to a
variance of one for all. Ours has its default schedule, under which the rate falls in the last
third; the peers' default is a constant rate. That of sparsify's sign descent follows its own rule,
whatever the grid says. "dead" is the share of latents that fire on no held-out row.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.linalg
import scipy.stats
import torch
import trainers
from workloads import write

from sparsecode_estimators import SAEEncoder
from sparsecode_estimators.datasets import (
    ActivationStore,
    load_gpt2_activations,
    make_sparse_codes,
)

RATES = (1e-3, 2e-3, 5e-3, 1e-2, 2e-2)
NEAR = 0.005
STEPS = 400
HELD_OUT = 8  # rows for each latent
Forward = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


class Work(NamedTuple):
    """Rows, the last of them held out, and the size of the encoder."""

    X: torch.Tensor
    n_components: int
    k: int
    batch: int


def rows_of(n_components: int, batch: int, steps: int) -> int:
    return steps * batch + HELD_OUT * n_components


def planted(steps: int) -> Work:
    n = rows_of(1024, 256, steps)
    data = make_sparse_codes(n, 64, 1024, 8, noise=0.01, random_state=640_001)
    return Work(torch.tensor(data.X, dtype=torch.float32), 1024, 8, 256)


def language(steps: int) -> Work:
    """Activations of the tiny GPT-2 on docstrings, which it was not trained on."""
    modules = (np, np.linalg, torch, torch.nn, torch.nn.functional, scipy.linalg, scipy.stats)
    texts = {
        getattr(module, name).__doc__
        for module in modules
        for name in dir(module)
        if not name.startswith("_")
    }
    long = sorted(text for text in texts if isinstance(text, str) and len(text) > 200)
    chosen = [text for text in long if "may vary" not in text]  # some are drawn anew at each import
    rows = load_gpt2_activations(chosen, model="tiny", layer=4).data
    order = np.random.default_rng(640_002).permutation(len(rows))[: rows_of(1024, 256, steps)]
    return Work(torch.tensor(np.asarray(rows)[order], dtype=torch.float32), 1024, 8, 256)


def stored(folder: Path, steps: int) -> Work:
    """Rows of a store in random order."""
    store = ActivationStore(folder)
    n_components = 8 * store.shape[1]
    n = rows_of(n_components, 512, steps)
    if len(store) < n:
        raise SystemExit(f"{folder} has {len(store)} rows, but {n} are needed.")
    order = np.random.default_rng(640_003).permutation(len(store))[:n]
    rows = np.asarray(store[:], dtype=np.float32)[order]
    return Work(torch.tensor(rows), n_components, 32, 512)


def ours(train: torch.Tensor, work: Work, rate: float, seed: int, optimizer: str) -> Forward:
    """One pass of the estimator."""
    sae = SAEEncoder(
        work.n_components, activation="topk", n_nonzero_coefs=work.k, max_iter=1, shuffle=False,
        batch_size=work.batch, learning_rate_init=rate, optimizer=optimizer, random_state=seed,
    ).fit(train)  # fmt: skip

    def forward(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        codes = sae.transform(rows)
        return sae.inverse_transform(codes), codes

    return forward


def theirs(train: torch.Tensor, work: Work, rate: float, seed: int, make: Callable) -> Forward:
    """The same rows, a step at a time."""
    d, N = train.shape[1], work.n_components
    step, network = make(d, N, work.k, 0.0, rate, len(train), seed=seed)
    for batch in train.split(work.batch):
        step(batch)
    return network()


TRAINERS = {
    "ours, Adam": partial(ours, optimizer="adam"),
    "ours, sign descent": partial(ours, optimizer="sign"),
    "SAELens": partial(theirs, make=trainers.saelens),
    "dictionary_learning": partial(theirs, make=trainers.dictionary_learning),
    "sparsify, Adam": partial(theirs, make=trainers.sparsify),
    "sparsify, sign descent": partial(theirs, make=partial(trainers.sparsify, signum=True)),
}


def explained(trainer: Callable, work: Work, rate: float, seed: int) -> tuple[float, float]:
    """Explained variance of held-out rows, and the share of latents that are dead there."""
    n_held_out = HELD_OUT * work.n_components
    train, test = work.X[:-n_held_out], work.X[-n_held_out:]
    forward = trainer(train, work, rate, seed)
    left, fired = 0.0, torch.zeros(work.n_components, dtype=torch.bool)
    with torch.no_grad():
        for rows in test.split(4096):
            reconstruction, codes = forward(rows)
            left += (rows - reconstruction).double().square().sum().item()
            fired |= (codes != 0).any(0)
    share = 1 - left / (test - test.mean(0)).double().square().sum().item()
    return share, (~fired).double().mean().item()


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
        work = load(STEPS // 4 if quick else STEPS)
        X = (work.X - work.X.mean(0)) / work.X.std()
        work = work._replace(X=X)
        for who, trainer in TRAINERS.items():
            try:
                own = who == "sparsify, sign descent"
                rates = RATES[:1] if own else RATES[:3] if store else RATES
                rate = chosen({rate: explained(trainer, work, rate, 100) for rate in rates})
                found = [explained(trainer, work, rate, seed) for seed in range(1 if quick else 3)]
            except ImportError as error:
                lines.append({"rows": name, "trainer": who, "does not run": str(error)})
                continue
            values, dead = (np.array(column) for column in zip(*found, strict=True))
            lines.append(
                {
                    "rows": name,
                    "n": len(X) - HELD_OUT * work.n_components,
                    "trainer": who,
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
