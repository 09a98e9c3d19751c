"""Stores are whole after a kill and on a full disk, and clear when damaged."""

import errno
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from stores import DTYPES, X, contents, filled

from sparsecode_estimators import SAEEncoder
from sparsecode_estimators.datasets import ActivationStore, store_files


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
    write, replace, sync = store_files.write_whole, os.replace, store_files._sync_folder

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
            patch.setattr(store_files, "write_whole", half_written)
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
