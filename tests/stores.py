"""Stores of activations for tests."""

import numpy as np
from problems import planted

from sparsecode_estimators.datasets import ActivationStore

DTYPES = ("float16", "bfloat16", "float32")
X = planted(300, 8, 16, 3, seed=71)[0].astype(np.float32)


def filled(path, rows, sizes=None, **options):
    """A store of some rows, with a shard for each size."""
    store = ActivationStore.create(path, rows.shape[1], **options)
    with store.writer() as writer:
        for part in np.split(rows, np.cumsum(sizes or [len(rows)])[:-1]):
            writer.append(part)
            writer.flush()
    return store


def contents(folder):
    """Files and what is in them, but the lock."""
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name != "writer.lock"}
