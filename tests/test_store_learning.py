"""Learning from a store."""

import threading
from pathlib import Path

import numpy as np
import pytest
from stores import X, filled

from sparsecode_estimators import MLPEncoder, SAEEncoder, SparseCodingEncoder
from sparsecode_estimators.datasets import ActivationStore
from sparsecode_estimators.learning import batches
from sparsecode_estimators.metrics import explained_variance


@pytest.mark.parametrize("sizes", [[1200], [500, 1, 699]])
@pytest.mark.parametrize("make", [SAEEncoder, MLPEncoder])
def test_training_is_that_of_a_memory_map_of_the_same_rows(tmp_path, make, sizes):
    half = np.tile(X, (4, 1)).astype(np.float16)
    store = filled(tmp_path / "s", half, sizes)
    np.save(tmp_path / "X.npy", half.astype(np.float32))
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    options = {"max_iter": 8, "batch_size": 16, "random_state": 0}
    from_store, from_map = make(16, **options).fit(store), make(16, **options).fit(mapped)
    np.testing.assert_array_equal(from_store.components_, from_map.components_)
    assert from_store.loss_curve_ == from_map.loss_curve_
    codes = from_store.transform(store)
    np.testing.assert_array_equal(codes, from_map.transform(mapped))
    assert from_store.score(store) == from_map.score(mapped)
    rows = store[:].astype(np.float32)
    # it learns as from the same rows in memory
    memory = make(16, **options).fit(rows)
    assert from_store.score(rows) > memory.score(rows) - 0.05 > 0.3


def test_rows_that_did_not_fit_into_a_buffer_are_read_in_blocks(tmp_path, monkeypatch):
    store = filled(tmp_path / "s", np.tile(X, (4, 1)), [700, 500])
    taken = []
    between = type(store._rows).between
    monkeypatch.setattr(
        type(store._rows), "between", lambda self, i: taken.append(i) or between(self, i)
    )
    monkeypatch.setattr(type(store._rows), "at", None)  # single rows are never asked for
    SAEEncoder(16, max_iter=2, batch_size=16, random_state=0).fit(store)
    blocks = [i for i in taken if i.stop - i.start == 16 * batches.BLOCK_BATCHES]
    assert len(blocks) == 2 * (1200 // (16 * batches.BLOCK_BATCHES))


def test_chunks_and_dictionary_learning(tmp_path):
    store = filled(tmp_path / "s", X, [100, 200], dtype="float32")
    chunk = SAEEncoder(16, random_state=0).partial_fit(store[0:150]).partial_fit(store[150:300])
    expected = SAEEncoder(16, random_state=0).partial_fit(X[:150]).partial_fit(X[150:])
    np.testing.assert_array_equal(chunk.components_, expected.components_)
    for options in ({}, {"batch_size": 50}):
        coder = SparseCodingEncoder(16, max_iter=5, n_init=1, random_state=0, **options).fit(store)
        assert coder.score(store) > 0.5
        np.testing.assert_allclose(coder.transform(store), coder.transform(X), atol=1e-5)
    np.testing.assert_array_equal(
        SparseCodingEncoder(16, max_iter=5, n_init=1, random_state=0).fit(store).components_,
        SparseCodingEncoder(16, max_iter=5, n_init=1, random_state=0).fit(X).components_,
    )


def test_metrics_and_checkpoints_take_a_store(tmp_path):
    store = filled(tmp_path / "s", X, [100, 200], dtype="float32")
    options = {"max_iter": 5, "random_state": 0, "checkpoint": tmp_path / "runs"}
    pytest.importorskip("safetensors")
    sae = SAEEncoder(16, **options).fit(store)
    again = SAEEncoder(16, **options).fit(ActivationStore(store.path))
    np.testing.assert_array_equal(sae.components_, again.components_)
    reconstruction = sae.inverse_transform(sae.transform(store))
    assert explained_variance(store, reconstruction) == explained_variance(X, reconstruction)


class PeakMemory:
    """The most memory that is no file's while a block runs, above what there was."""

    @staticmethod
    def now():
        status = Path("/proc/self/status").read_text()
        return int(status.split("RssAnon:")[1].split()[0]) * 1024

    def __enter__(self):
        self.begin, self.done = self.now(), threading.Event()
        self.bytes = 0
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()
        return self

    def watch(self):
        while not self.done.wait(0.002):
            self.bytes = max(self.bytes, self.now() - self.begin)

    def __exit__(self, *error):
        self.done.set()
        self.thread.join()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_memory_does_not_grow_with_the_rows(tmp_path):
    rng = np.random.default_rng(73)
    chunk = rng.standard_normal((25_000, 64)).astype(np.float32)
    sae = SAEEncoder(16, max_iter=1, batch_size=1000, random_state=0).fit(chunk)  # imports
    store = ActivationStore.create(tmp_path / "s", 64, rows_per_shard=30_000)
    with PeakMemory() as writing, store.writer() as writer:
        for _ in range(32):
            writer.append(chunk)
    sae.fit(store)  # what threads keep of memory once they had it
    with PeakMemory() as training:
        sae.fit(store)
    size = store.shape[0] * store.shape[1] * 2
    assert size > 100e6
    assert writing.bytes < size / 4
    # in float32 they are twice their size; how much the reading thread is ahead varies
    assert training.bytes < 1.5 * size
