"""Reading a store: like an array."""

import copy
import os
import pickle
import threading
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given
from stores import DTYPES, X, filled

from sparsecode_estimators import SAEEncoder
from sparsecode_estimators.datasets import ActivationStore


@st.composite
def stores(draw):
    """Sizes of shards, and rows that any of the types holds exactly."""
    sizes = draw(st.lists(st.integers(1, 7), min_size=1, max_size=5))
    n, n_features = sum(sizes), draw(st.integers(1, 4))
    rows = np.arange(n * n_features, dtype=np.float32).reshape(n, n_features) - 20
    return sizes, rows, draw(st.sampled_from(DTYPES))


@pytest.fixture(scope="module")
def new_path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stores")
    return lambda: folder / str(len(list(folder.iterdir())))


@given(data=st.data(), made=stores())
def test_indexing_is_that_of_an_array(new_path, data, made):
    sizes, rows, dtype = made
    store, n = filled(new_path(), rows, sizes, dtype=dtype), len(rows)
    expected = rows.astype(store.dtype)
    assert store.n_shards == len(sizes)
    number, bound = st.integers(-n, n - 1), st.none() | st.integers(-n - 3, n + 3)
    for _ in range(8):
        slices = st.builds(slice, bound, bound, st.none() | st.integers(-5, 5).filter(bool))
        index = data.draw(
            slices
            | number
            | number.map(np.int32)
            | st.lists(number, max_size=12)
            | st.lists(number, max_size=12).map(lambda i: np.array(i, dtype=np.int16))
            | st.lists(st.booleans(), min_size=n, max_size=n).map(np.array)
        )
        found = store[index]
        assert type(found) is np.ndarray
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(
            found, expected[np.array(index, int) if isinstance(index, list) else index]
        )


def test_it_says_what_it_is(tmp_path):
    store = filled(tmp_path / "s", X, [100, 1, 199], metadata={"layer": 4})
    assert (store.shape, store.ndim, len(store)) == ((300, 8), 2, 300)
    assert store.dtype == np.float16
    assert store.metadata == {"layer": 4}
    store.metadata["layer"] = 5
    assert ActivationStore(str(tmp_path / "s")).metadata == {"layer": 4}
    assert repr(store) == (
        f"ActivationStore({str(tmp_path / 's')!r}, shape=(300, 8), stored_dtype='float16', "
        "n_shards=3)"
    )
    np.testing.assert_array_equal(list(store), X.astype(np.float16))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", [[300], [123, 177]])
def test_it_becomes_an_array(tmp_path, dtype, sizes):
    store = filled(tmp_path / "s", X, sizes, dtype=dtype)
    expected = torch.from_numpy(X).to(getattr(torch, dtype)).float().numpy()
    for array in (np.asarray(store), np.array(store), store[:]):
        assert array.dtype == store.dtype
        np.testing.assert_array_equal(array, expected)
    assert np.array(store).flags.writeable
    assert np.asarray(store, dtype=np.float64).dtype == np.float64
    assert np.asarray(store, dtype=np.float32).dtype == np.float32
    if np.lib.NumpyVersion(np.__version__) >= "2.0.0":
        if len(sizes) == 1 and dtype != "bfloat16":
            assert np.shares_memory(np.asarray(store, copy=False), store[:])
        else:
            with pytest.raises(ValueError, match="without a copy"):
                np.asarray(store, copy=False)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (300, "row 300 is out of range: the store has 300 rows"),
        (-301, "row -301 is out of range"),
        ([0, 300], "row 300 is out of range"),
        (np.ones(299, bool), "the mask has 299 entries, but the store 300 rows"),
        (np.ones((2, 2), int), r"shape \(2, 2\)"),
        (np.array([1.0]), "array of float64"),
        (True, r"shape \(\)"),
        ((slice(3), 1), "by rows only.*take rows, then columns"),
        (None, "by rows only"),
        ("token_ids", r"shape \(\)"),
    ],
)
def test_wrong_indices(tmp_path, index, message):
    store = filled(tmp_path / "s", X)
    with pytest.raises(IndexError, match=message):
        store[index]


def test_slices_are_views_of_the_file(tmp_path):
    store = filled(tmp_path / "s", X, [100, 200])
    assert np.shares_memory(store[120:150], store[130:140:3])
    assert np.shares_memory(store[250:150:-1], store[200:])
    assert not np.shares_memory(store[50:150], store[50:150])  # from two files
    view = store[10:20]
    with pytest.raises(ValueError, match="read-only"):
        view[0] = 0


def test_an_empty_store(tmp_path):
    store = ActivationStore.create(tmp_path / "s", 5)
    assert store.shape == (0, 5)
    assert store[:].shape == store[[]].shape == store[np.zeros(0, bool)].shape == (0, 5)
    assert store[::-1].dtype == np.float16
    assert store.token_ids is None
    assert list(store) == []
    store.verify()
    with pytest.raises(IndexError, match="0 rows"):
        store[0]
    with pytest.raises(ValueError, match="0 sample"):
        SAEEncoder(4).fit(store)


def test_more_shards_than_are_kept_open(tmp_path):
    store = filled(tmp_path / "s", X, [3] * 100, dtype="float32")
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
    np.testing.assert_array_equal(store[:], X)
    np.testing.assert_array_equal(store[np.arange(300)[::-1]], X[::-1])
    if before:
        assert len(os.listdir("/proc/self/fd")) - before < 40


def test_threads_may_read_at_once(tmp_path):
    store, wrong = filled(tmp_path / "s", X, [3] * 100, dtype="float32"), []

    def read(seed):
        rng = np.random.default_rng(seed)
        for _ in range(100):
            rows = rng.integers(0, 300, 20)
            if not np.array_equal(store[rows], X[rows]):
                wrong.append(rows)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_pickles_and_copies_are_opened_by_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = filled("s", X, [100, 200])
    monkeypatch.chdir("/")
    for other in (pickle.loads(pickle.dumps(store)), copy.deepcopy(store), copy.copy(store)):
        np.testing.assert_array_equal(other[90:110], store[90:110])
    assert len(pickle.dumps(store)) < 500


def test_columns(tmp_path):
    store = ActivationStore.create(tmp_path / "s", 8, rows_per_shard=70)
    ids = np.arange(300) * 2**40
    with store.writer() as writer:
        writer.append(X[:100], ids[:100], torch.arange(100), positions=list(range(100)))
        writer.append(X[100:], ids[100:], np.arange(200, dtype=np.uint8), np.arange(200))
        with pytest.raises(ValueError, match="given token_ids, but the rows so far have token_ids"):
            writer.append(X, np.arange(300))
    for opened in (store, ActivationStore(tmp_path / "s")):
        np.testing.assert_array_equal(opened.token_ids, ids)
        np.testing.assert_array_equal(opened.document_ids, [*range(100), *range(200)])
        np.testing.assert_array_equal(opened.positions, [*range(100), *range(200)])
        assert opened.positions.dtype == np.int64
        np.testing.assert_array_equal(opened[opened.positions == 7], store[[7, 107]])
        with pytest.raises(ValueError, match="read-only"):
            opened.token_ids[0] = 1
    only = ActivationStore.create(tmp_path / "t", 8)
    with only.writer() as writer:
        writer.append(X, document_ids=np.zeros(300, int))
    assert only.token_ids is None
    assert only.positions is None
    assert only.document_ids.sum() == 0
    with only.writer() as writer, pytest.raises(ValueError, match="given no ids"):
        writer.append(X)
