"""Dictionary learners of peers, with restarts chosen by the training objective and a budget.

A learner is ``run(X, initial, alpha, n_iter) -> dictionary``; all begin at directions of random
rows. The budget is processor time: how many iterations it allows is found from a short run.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from sklearn.decomposition import DictionaryLearning, MiniBatchDictionaryLearning
from workloads import spams

from sparsecode_estimators import sparse_encode

Run = Callable[[np.ndarray, np.ndarray, float, int], np.ndarray]


class Learned(NamedTuple):
    """A dictionary, the iterations of each restart, and the seconds of all of them."""

    dictionary: np.ndarray
    n_iter: int
    seconds: float


def unit(atoms: np.ndarray) -> np.ndarray:
    return atoms / np.maximum(np.linalg.norm(atoms, axis=1, keepdims=True), 1e-12)


def random_rows(X: np.ndarray, n_components: int, rng: np.random.Generator) -> np.ndarray:
    return unit(X[rng.choice(len(X), n_components, replace=False)]).astype(np.float32)


def spams_online(X: np.ndarray, initial: np.ndarray, alpha: float, n_iter: int) -> np.ndarray:
    """Mairal et al. (2010), batches of 512."""
    return spams().trainDL(
        np.asfortranarray(X.T), D=np.asfortranarray(initial.T), lambda1=alpha, iter=n_iter,
        posAlpha=True, batchsize=512, numThreads=1, verbose=False,
    ).T  # fmt: skip


def sklearn_batch(X: np.ndarray, initial: np.ndarray, alpha: float, n_iter: int) -> np.ndarray:
    """All rows at once, codes by coordinate descent."""
    learner = DictionaryLearning(
        len(initial), alpha=alpha, max_iter=n_iter, tol=0.0, fit_algorithm="cd",
        positive_code=True, dict_init=initial, code_init=np.maximum(X @ initial.T, 0),
    )  # fmt: skip
    return unit(learner.fit(X).components_)


def sklearn_online(X: np.ndarray, initial: np.ndarray, alpha: float, n_iter: int) -> np.ndarray:
    """Batches of 256; ``n_iter`` passes, without stopping early."""
    learner = MiniBatchDictionaryLearning(
        len(initial), alpha=alpha, max_iter=n_iter, batch_size=256, tol=0.0,
        max_no_improvement=None, fit_algorithm="cd", positive_code=True, dict_init=initial,
        random_state=0,
    )  # fmt: skip
    return unit(learner.fit(X).components_)


PEERS: dict[str, Run] = {
    "SPAMS": spams_online,
    "scikit-learn": sklearn_batch,
    "scikit-learn mini-batch": sklearn_online,
}
PROBE = {"SPAMS": 40, "scikit-learn": 1, "scikit-learn mini-batch": 1}
# as many restarts as ours, fewer, one; of scikit-learn more would not come to a second iteration
TRIED = [
    ("SPAMS", 16), ("SPAMS", 4), ("SPAMS", 1),
    ("scikit-learn", 1), ("scikit-learn mini-batch", 1),
]  # fmt: skip


def objective(X: np.ndarray, D: np.ndarray, alpha: float) -> float:
    codes = sparse_encode(X, D.astype(X.dtype), alpha=alpha)
    if not codes.any():
        return float("inf")
    return float((0.5 * ((X - codes @ D) ** 2).sum(1) + alpha * codes.sum(1)).mean())


def iterations(name: str, X: np.ndarray, initial: np.ndarray, alpha: float, budget: float) -> int:
    """How many iterations fit into ``budget`` seconds, by a run that takes a good part of it."""
    n_iter = PROBE[name]
    while True:
        begin = time.process_time()
        PEERS[name](X, initial, alpha, n_iter)
        taken = time.process_time() - begin
        if taken >= 0.6 * budget:
            return max(1, round(n_iter * budget / taken))
        n_iter *= max(2, min(8, int(0.7 * budget / max(taken, 1e-3))))


def learn(
    name: str, X: np.ndarray, n_components: int, alpha: float, restarts: int, budget: float,
    rng: np.random.Generator,
) -> Learned:  # fmt: skip
    """The restart of lowest training objective; finding the iterations is not counted."""
    starts = [random_rows(X, n_components, rng) for _ in range(restarts)]
    n_iter = iterations(name, X, starts[0], alpha, budget / restarts)
    begin = time.process_time()
    found = [PEERS[name](X, start, alpha, n_iter) for start in starts]
    seconds = time.process_time() - begin
    best = min(found, key=lambda D: objective(X, D, alpha))
    return Learned(best, n_iter, seconds)
