"""Stores of activations: like an array when read, whole after a kill, clear when damaged."""

import copy
import errno
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given
from problems import planted

from sparsecode_estimators import MLPEncoder, SAEEncoder, SparseCodingEncoder
from sparsecode_estimators.datasets import ActivationStore, store_files
from sparsecode_estimators.learning import batches
from sparsecode_estimators.metrics import explained_variance

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


# Reading


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


# Writing


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


# Whatever goes wrong


def test_an_error_in_the_block_keeps_what_was_appended(tmp_path):
    store = ActivationStore.create(tmp_path / "s", 8)
    writer = store.writer()

    def interrupted():
        with writer:
            writer.append(X[:30])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert len(store) == 30
    with pytest.raises(ValueError, match="this writer is closed"):
        writer.append(X)
    writer.close()


@pytest.mark.parametrize("step", ["shard", "rename", "manifest", "after the manifest"])
def test_a_full_disk_leaves_the_store_as_it_was(tmp_path, monkeypatch, step):
    store = filled(tmp_path / "s", X[:100], rows_per_shard=40)
    before = contents(store.path)
    write, replace, sync = store_files._write_whole, os.replace, store_files._sync_folder

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    def half_written(path, content):
        if path.name == "manifest.json" and step == "shard":
            return write(path, content)
        return write(path, (piece if i == 0 else full() for i, piece in enumerate(content)))

    def full_after(path):
        sync(path)
        if json.loads((path / "manifest.json").read_bytes())["shards"][3:]:
            full()

    writer = store.writer()
    with monkeypatch.context() as patch:
        if step == "shard":
            patch.setattr(store_files, "_write_whole", half_written)
        elif step == "rename":
            patch.setattr(os, "replace", full)
        elif step == "manifest":
            patch.setattr(
                os, "replace", lambda a, b: full() if b.name == "manifest.json" else replace(a, b)
            )
        else:
            patch.setattr(store_files, "_sync_folder", full_after)
        with pytest.raises(OSError, match=r"No space left.*keeps its first 1.0 rows") as caught:
            writer.append(X[100:])
    assert caught.value.errno == errno.ENOSPC
    with pytest.raises(ValueError, match="this writer is closed"):
        writer.append(X)
    kept = 140 if step == "after the manifest" else 100  # the rows are safe, and stay
    if kept == 100:
        assert contents(store.path) == before
    assert len(store) == len(ActivationStore(store.path)) == kept
    with store.writer() as writer:
        writer.append(X[kept:])
    np.testing.assert_array_equal(store[:], X.astype(np.float16))
    store.verify()


def test_a_file_that_cannot_grow(tmp_path):
    """The error of the system itself, in the middle of a file."""
    resource = pytest.importorskip("resource")
    store = filled(tmp_path / "s", X[:100])
    before, limits = contents(store.path), resource.getrlimit(resource.RLIMIT_FSIZE)
    writer = store.writer()
    writer.append(X)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"A shard could not be written.*first 100 rows"):
            writer.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert contents(store.path) == before
    assert len(store) == 100


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_to(tmp_path):
    store = filled(tmp_path / "s", X)
    (store.path / "writer.lock").unlink()
    store.path.chmod(0o500)
    try:
        with pytest.raises(PermissionError, match="cannot be written to"):
            store.writer()
        np.testing.assert_array_equal(store[:], X.astype(np.float16))
        with pytest.raises(PermissionError):
            ActivationStore.create(store.path / "t", 8)
    finally:
        store.path.chmod(0o700)


def test_a_lock_that_cannot_be_made(tmp_path):
    store = filled(tmp_path / "s", X)
    (store.path / "writer.lock").unlink()
    (store.path / "writer.lock").mkdir()
    with pytest.raises(OSError, match="The store cannot be written to"):
        store.writer()


LOCK = """
import sys
from sparsecode_estimators.datasets import ActivationStore
writer = ActivationStore(sys.argv[1]).writer()
print("locked", flush=True)
sys.stdin.read()
"""


def test_one_writer_at_a_time(tmp_path):
    store = filled(tmp_path / "s", X)
    with store.writer() as writer:
        writer.append(X)
        with pytest.raises(RuntimeError, match=f"Another writer.*process {os.getpid()}"):
            ActivationStore(store.path).writer()
    with subprocess.Popen(
        [sys.executable, "-c", LOCK, store.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"locked\n"
        with pytest.raises(RuntimeError, match=f"process {process.pid}.*wait until it is closed"):
            store.writer()
        assert len(ActivationStore(store.path)) == 600  # others may read
        process.kill()
    assert str(process.pid) in (store.path / "writer.lock").read_text()
    with store.writer() as writer:  # a stale lock is taken over
        writer.append(X)
    assert len(store) == 900


def test_leftovers_are_ignored_and_removed(tmp_path):
    store = filled(tmp_path / "s", X)
    before = contents(store.path)
    first = store.path / "activations-000000.safetensors"
    for name in (
        "activations-000001.safetensors",
        "activations-000002.safetensors.partial",
        "manifest.json.partial",
    ):
        (store.path / name).write_bytes(first.read_bytes()[:100])
    (store.path / "notes.txt").write_text("not ours")
    (store.path / "model.safetensors").write_text("not ours")
    np.testing.assert_array_equal(ActivationStore(store.path)[:], X.astype(np.float16))
    with store.writer():
        pass
    left = contents(store.path)
    assert left.pop("notes.txt") == left.pop("model.safetensors") == b"not ours"
    assert left == before


KILLED = """
import sys
import numpy as np
from sparsecode_estimators.datasets import ActivationStore
store = ActivationStore.create(sys.argv[1], 16, dtype="float32", rows_per_shard=50, exist_ok=True)
with store.writer() as writer:
    print(len(store), flush=True)
    for i in range(len(store), 10**9):
        writer.append(np.full((1, 16), i % 65536, np.float32), token_ids=[i])
"""


@pytest.mark.parametrize("n_kills", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_writers_lose_at_most_the_open_shard(tmp_path, n_kills):
    path, rng, n_rows = tmp_path / "s", np.random.default_rng(72), 0
    for _ in range(n_kills):
        with subprocess.Popen([sys.executable, "-c", KILLED, path], stdout=subprocess.PIPE) as p:
            assert int(p.stdout.readline()) == n_rows  # it goes on from what is there
            time.sleep(rng.uniform(0.2, 0.6))
            p.send_signal(signal.SIGKILL)
            assert p.wait() == -signal.SIGKILL
        store = ActivationStore(path)
        assert len(store) > n_rows
        n_rows = len(store)
        assert n_rows % 50 == 0
        store.verify()
        np.testing.assert_array_equal(store.token_ids, np.arange(n_rows))
        np.testing.assert_array_equal(store[:][:, 3], store.token_ids % 65536)
    with store.writer():
        assert len(list(path.glob("activations-*"))) == store.n_shards


def test_a_process_may_be_killed_between_any_two_steps(tmp_path, monkeypatch):
    """What a kill leaves, made by hand: every state of the folder while a shard is written."""
    store, states = filled(tmp_path / "s", X[:100], dtype="float32"), []

    class Recorder:
        def __getattr__(self, name):
            def call(*args):
                states.append(contents(store.path))
                result = getattr(os, name)(*args)
                states.append(contents(store.path))
                return result

            return call if name in ("fsync", "replace") else getattr(os, name)

    with store.writer() as writer, monkeypatch.context() as patch:
        patch.setattr(store_files, "os", Recorder())
        writer.append(X[100:150])
        writer.flush()
    assert len(states) >= 8
    found = set()
    for number, state in enumerate(states):
        folder = tmp_path / str(number)
        folder.mkdir()
        for name, content in state.items():
            (folder / name).write_bytes(content)
        opened = ActivationStore(folder)
        opened.verify()
        found.add(len(opened))
        np.testing.assert_array_equal(opened[:], X[: len(opened)])
        with opened.writer() as writer:
            writer.append(X[len(opened) :])
        np.testing.assert_array_equal(opened[:], X)
        assert len(list(folder.glob("*.safetensors*"))) == opened.n_shards
    assert found == {100, 150}


@pytest.mark.parametrize("dtype", DTYPES)
def test_changed_bytes_are_found(tmp_path, dtype):
    store = filled(tmp_path / "s", X, [100, 100, 100], dtype=dtype)
    store.verify()
    path = store.path / "activations-000001.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(
        ValueError, match=r"1 of 3 files.*: activations-000001\.safetensors. Restore"
    ):
        store.verify()
    path.unlink()
    with pytest.raises(ValueError, match=r"activations-000001\.safetensors"):
        store.verify()


def damages():
    def shorter(content):
        return content[:-1]

    def header(change):
        def damage(content):
            length = int.from_bytes(content[:8], "little")
            return content[:8] + change(content[8 : 8 + length]) + content[8 + length :]

        return damage

    return {
        "cut short": shorter,
        "empty": lambda content: b"",
        "five bytes": lambda content: content[:5],
        "another length of the header": lambda content: b"\xff" * 8 + content[8:],
        "no JSON": header(lambda text: text.replace(b"{", b"(")),
        "no text": header(lambda text: b"\xff" * len(text)),
        "a list": header(lambda text: b"[1]".ljust(len(text))),
        "another dtype": header(lambda text: text.replace(b"F16", b"F64")),
        "another shape": header(lambda text: text.replace(b"[300, 8]", b"[8, 300]")),
        "another name": header(lambda text: text.replace(b"activations", b"activationz")),
        "offsets out of the file": header(lambda text: text.replace(b"[0, 4800]", b"[9, 4809]")),
        "negative offsets": header(lambda text: text.replace(b"[0, 4800]", b"[-8,4792]")),
    }


@pytest.mark.parametrize("damage", damages())
def test_damaged_shards_are_named(tmp_path, damage):
    store = filled(tmp_path / "s", X)
    path = store.path / "activations-000000.safetensors"
    content = path.read_bytes()
    damaged = damages()[damage](content)
    assert damaged != content
    path.write_bytes(damaged)
    opened = ActivationStore(store.path)
    for read in (lambda: opened[3:5], lambda: opened[7], lambda: SAEEncoder(4).fit(opened)):
        with pytest.raises(ValueError, match=r"activations-000000.safetensors.*is damaged"):
            read()
    path.unlink()
    with pytest.raises(ValueError, match=r"activations-000000.safetensors.*is missing"):
        opened[3]


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"version": "1"},
        {"format": "parquet"},
        {"dtype": "float8"},
        {"dtype": ["float16"]},
        {"n_features": -8},
        {"n_features": "8"},
        {"rows_per_shard": 0},
        {"columns": ["../secrets"]},
        {"columns": None},
        {"columns": 3},
        {"metadata": [1]},
        {"shards": None},
        {"shards": [{"name": "../activations-000000.safetensors", "rows": 300, "crc32": 0}]},
        {"shards": [{"name": "/etc/passwd", "rows": 300, "crc32": 0}]},
        {"shards": [{"name": "activations-000000.safetensors", "rows": 3.5, "crc32": 0}]},
        {"shards": [{"name": "activations-000000.safetensors", "rows": True, "crc32": 0}]},
        {"shards": [{"name": "activations-000000.safetensors", "rows": 300, "crc32": "0"}]},
        {"shards": [{"name": "activations-000000.safetensors", "rows": 300}]},
        {"shards": [{"name": "activations-000000.safetensors", "rows": 3, "crc32": 0}] * 2},
        {"surprise": 1},
    ],
    ids=str,
)
def test_damaged_manifests_are_named(tmp_path, change):
    store = filled(tmp_path / "s", X)
    path = store.path / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ValueError, match=r"manifest\.json.*is no manifest of a store"):
        ActivationStore(store.path)
    with pytest.raises(ValueError, match=r"manifest\.json"):
        store.writer()
    path.write_text(path.read_text()[:-20])
    with pytest.raises(ValueError, match=r"manifest\.json"):
        ActivationStore(store.path)


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"\xff\xfe", b"[" * 100_000])
def test_manifests_that_are_none(tmp_path, content):
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"manifest\.json.*damaged"):
        ActivationStore(tmp_path)


# Learning from a store


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
    with PeakMemory() as training:
        sae.fit(store)
    size = store.shape[0] * store.shape[1] * 2
    assert size > 100e6
    assert writing.bytes < size / 4
    assert training.bytes < size / 2  # in float32 they are twice their size
