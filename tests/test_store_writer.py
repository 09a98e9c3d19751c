"""Writing to a store: what is taken, what is refused, and what is then on the disk."""

import numpy as np
import pytest
import torch
from stores import DTYPES, X, contents, filled

from sparsecode_estimators.datasets import ActivationStore


@pytest.mark.parametrize("rows_per_shard", [1, 7, 100, 299, 300, 301])
def test_shards_are_of_the_size_asked_for(tmp_path, rows_per_shard):
    store = ActivationStore.create(tmp_path / "s", 8, rows_per_shard=rows_per_shard)
    with store.writer() as writer:
        for start in range(0, 300, 37):
            writer.append(X[start : start + 37])
        assert len(store) == 300 // rows_per_shard * rows_per_shard  # what is on the disk
    assert store.n_shards == -(-300 // rows_per_shard)
    np.testing.assert_array_equal(store[:], X.astype(np.float16))
    store.verify()


def test_a_second_writer_goes_on(tmp_path):
    store = filled(tmp_path / "s", X, dtype="float32")
    stale = ActivationStore(tmp_path / "s")
    with store.writer() as writer:
        writer.append(X)
    with stale.writer() as writer:  # it was opened before there were so many rows
        writer.append(X[:5])
    np.testing.assert_array_equal(ActivationStore(tmp_path / "s"), np.concatenate([X, X, X[:5]]))


@pytest.mark.parametrize("dtype", DTYPES)
def test_types_that_are_taken(tmp_path, dtype):
    store = ActivationStore.create(tmp_path / "s", 8, dtype=dtype)
    exact = np.round(X * 4)
    big_endian, strided = exact.astype(">f4"), np.asfortranarray(np.repeat(exact, 2, axis=0))[::2]
    frozen = exact.copy()
    frozen.flags.writeable = False
    given = [exact, big_endian, strided, frozen, torch.tensor(exact, requires_grad=True)]
    if dtype != "bfloat16":
        given += [exact.astype(np.float16), torch.tensor(exact).half()]
    if dtype != "float16":
        given += [torch.tensor(exact).bfloat16()]
    with store.writer() as writer:
        for rows in given:
            writer.append(rows)
        writer.append(exact[:0])
    np.testing.assert_array_equal(store[:], np.tile(exact, (len(given), 1)))


@pytest.mark.parametrize(
    ("dtype", "rows", "error", "message"),
    [
        ("float16", X.astype(np.float64), TypeError, "dtype float64.*takes float16 and float32"),
        ("float32", X.astype(np.float64), TypeError, "dtype float64.*no digits are lost"),
        ("float32", X.astype(int), TypeError, "dtype int64"),
        ("float16", torch.tensor(X).bfloat16(), TypeError, "dtype bfloat16"),
        ("bfloat16", X.astype(np.float16), TypeError, "takes bfloat16 and float32"),
        ("float32", X.tolist(), TypeError, "rows must be a NumPy array or a dense torch tensor"),
        ("float32", torch.tensor(X).to_sparse(), TypeError, "dense torch tensor"),
        ("float32", X[:, :7], ValueError, r"shape \(300, 7\).*n_features=8"),
        ("float32", X[0], ValueError, r"shape \(8,\)"),
    ],
)
def test_rows_that_are_refused(tmp_path, dtype, rows, error, message):
    store = ActivationStore.create(tmp_path / "s", 8, dtype=dtype)
    with store.writer() as writer, pytest.raises(error, match=message):
        writer.append(rows)
    assert len(store) == 0


@pytest.mark.parametrize(
    ("dtype", "value", "message"),
    [
        ("float16", np.nan, "row 217 of rows contains NaN"),
        ("float32", -np.inf, "row 217 of rows contains NaN or infinity"),
        ("float16", -7e4, "row 217 of rows reaches 70000.*float16 .it ends at 65504.*'float32'"),
        ("bfloat16", 3.4e38, "row 217 of rows reaches 3.4e.38.*bfloat16"),
    ],
)
def test_rows_that_are_not_finite(tmp_path, dtype, value, message, monkeypatch):
    from sparsecode_estimators.datasets import store_rows

    monkeypatch.setattr(store_rows, "_BLOCK", 400)
    store = ActivationStore.create(tmp_path / "s", 8, dtype=dtype, rows_per_shard=50)
    bad = X.copy()
    bad[217, 3] = bad[250, 0] = value
    with store.writer() as writer:
        writer.append(X[:20])
        with pytest.raises(ValueError, match=message):
            writer.append(bad)
        writer.append(X[20:30])
    assert len(store) == 30


@pytest.mark.parametrize(
    ("ids", "error", "message"),
    [
        (np.arange(299), ValueError, r"token_ids has shape \(299,\), but there are 300 rows"),
        (np.arange(300.0), TypeError, "integers of at most 64 bits, got float64"),
        (np.ones(300, bool), TypeError, "got bool"),
        (np.arange(300, dtype=np.uint64), TypeError, "got uint64"),
        (7, ValueError, r"shape \(\)"),
    ],
)
def test_columns_that_are_refused(tmp_path, ids, error, message):
    store = ActivationStore.create(tmp_path / "s", 8)
    with store.writer() as writer:
        with pytest.raises(error, match=message):
            writer.append(X, token_ids=ids)
        writer.append(X)  # what was refused has not decided which columns there are
    assert store.token_ids is None


def test_memory_of_the_caller_is_copied(tmp_path):
    store, rows = ActivationStore.create(tmp_path / "s", 8, dtype="float32"), X.copy()
    with store.writer() as writer:
        writer.append(rows)
        rows[:] = 0
    np.testing.assert_array_equal(store[:], X)


def test_the_files_are_what_safetensors_reads(tmp_path):
    load_file = pytest.importorskip("safetensors.torch").load_file
    for dtype in DTYPES:
        store = ActivationStore.create(tmp_path / dtype, 7, dtype=dtype)
        with store.writer() as writer:
            writer.append(X[:31, :7], token_ids=np.arange(31))
        tensors = load_file(tmp_path / dtype / "activations-000000.safetensors")
        assert torch.equal(
            tensors["activations"], torch.tensor(X[:31, :7]).to(getattr(torch, dtype))
        )
        assert torch.equal(tensors["token_ids"], torch.arange(31))


def test_files_that_safetensors_wrote_are_read(tmp_path):
    save_file = pytest.importorskip("safetensors.torch").save_file
    filled(tmp_path / "s", X)
    save_file(
        {"activations": torch.tensor(X).half(), "another": torch.zeros(3)},
        tmp_path / "s" / "activations-000000.safetensors",
    )
    np.testing.assert_array_equal(ActivationStore(tmp_path / "s")[:], X.astype(np.float16))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"n_features": 0}, ValueError, "n_features=0 must be at least 1"),
        ({"n_features": 2.0}, TypeError, "n_features=2.0 must be an integer"),
        ({"dtype": "float64"}, ValueError, "dtype='float64' is unknown"),
        ({"rows_per_shard": 0}, ValueError, "rows_per_shard=0"),
        ({"metadata": [1]}, TypeError, "metadata must be a dict"),
        ({"metadata": {"a": X}}, TypeError, "cannot be written as JSON"),
        ({"metadata": {"a": float("nan")}}, TypeError, "cannot be written as JSON"),
    ],
)
def test_wrong_parameters(tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        ActivationStore.create(tmp_path / "s", **{"n_features": 8, **options})
    assert not (tmp_path / "s").exists()


def test_what_is_there_is_not_overwritten(tmp_path):
    store = filled(tmp_path / "s", X)
    before = contents(store.path)
    with pytest.raises(FileExistsError, match=r"exists: choose another path.*exist_ok"):
        ActivationStore.create(store.path, 8)
    with pytest.raises(ValueError, match=r"n_features=7, but the store at .* has 8"):
        ActivationStore.create(store.path, 7, exist_ok=True)
    with pytest.raises(ValueError, match="dtype='float32', but"):
        ActivationStore.create(store.path, 8, dtype="float32", exist_ok=True)
    assert len(ActivationStore.create(store.path, 8, exist_ok=True)) == 300
    assert contents(store.path) == before

    other = tmp_path / "other"
    other.mkdir()
    assert len(ActivationStore.create(other, 8, exist_ok=True)) == 0
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("all of it")
    with pytest.raises(FileExistsError, match="holds files, but no store"):
        ActivationStore.create(tmp_path / "full", 8, exist_ok=True)
    for exist_ok in (True, False):
        with pytest.raises(FileExistsError):
            ActivationStore.create(tmp_path / "full" / "thesis.txt", 8, exist_ok=exist_ok)


def test_there_is_no_store(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no store.*ActivationStore\.create"):
        ActivationStore(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(FileNotFoundError, match="holds no store"):
        ActivationStore(tmp_path / "file")


def test_metadata_come_with_the_next_rows(tmp_path):
    store = ActivationStore.create(tmp_path / "s", 8, rows_per_shard=100, metadata={"a": 1})
    with store.writer() as writer:
        writer.update_metadata(done=[1, None], b="x")
        writer.append(X[:99])
        assert ActivationStore(store.path).metadata == {"a": 1}
        writer.append(X[99:150])
        writer.update_metadata(done=2)
        opened = ActivationStore(store.path)
        assert (len(opened), opened.metadata) == (100, {"a": 1, "b": "x", "done": [1, None]})
    assert ActivationStore(store.path).metadata == {"a": 1, "b": "x", "done": 2}
    with store.writer() as writer:  # and without any
        writer.update_metadata(done=3)
        with pytest.raises(TypeError, match="metadata cannot be written as JSON"):
            writer.update_metadata(done=X)
    opened = ActivationStore(store.path)
    assert (len(opened), opened.n_shards, opened.metadata["done"]) == (150, 2, 3)


def test_nothing_is_written_where_nothing_is_new(tmp_path):
    store = filled(tmp_path / "s", X, metadata={"a": 1})
    before = (store.path / "manifest.json").stat().st_mtime_ns
    with store.writer() as writer:
        writer.update_metadata(a=1)
    assert (store.path / "manifest.json").stat().st_mtime_ns == before


def test_what_is_discarded_is_as_if_it_had_not_been(tmp_path):
    store = ActivationStore.create(tmp_path / "s", 8, rows_per_shard=100)
    writer = store.writer()
    writer.append(X[:100])
    before = contents(store.path)
    writer.update_metadata(a=1)
    writer.append(X[:50])
    writer.discard()
    writer.discard()
    assert contents(store.path) == before
    assert (len(store), store.metadata) == (100, {})
    with store.writer() as writer:  # others may write
        writer.append(X[100:])
    np.testing.assert_array_equal(store[:], X.astype(np.float16))
