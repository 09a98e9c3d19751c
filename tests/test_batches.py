"""The order in which rows are read: each once, mixed, the same after an interruption."""

import collections
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from sparsecode_estimators import SAEEncoder
from sparsecode_estimators.estimators.arrays import Rows, read_rows
from sparsecode_estimators.learning import batches as module
from sparsecode_estimators.learning.batches import (
    BLOCK_BATCHES,
    MIXED_BLOCKS,
    epoch,
    read_ahead,
)

BATCH = 5
BUFFER = BATCH * BLOCK_BATCHES * MIXED_BLOCKS


class OnDisk:
    """Rows that are their own numbers, and what was read of them."""

    dtype = np.dtype(np.float32)

    def __init__(self, n, fail_at=None):
        self.shape, self.fail_at, self.reads = (n, 2), fail_at, []

    def __getitem__(self, index):
        if len(self.reads) == self.fail_at:
            raise OSError("the disk is gone")
        self.reads.append((index.start, index.stop))
        return np.repeat(np.arange(self.shape[0], dtype=np.float32)[index, None], 2, axis=1)


def rows_of(source):
    return Rows(source, torch.float32, torch.device("cpu"))


def batches(source, skip=0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    passes = module.batches((rows_of(source),), BATCH, generator, shuffle=True, skip=skip)
    return [b.rows[0][:, 0].long().tolist() for b in passes], generator.get_state().tolist()


@pytest.mark.parametrize("n", [1, 4, 19, BUFFER, 3 * BUFFER - 1, 4 * BUFFER + 23])
def test_every_row_comes_once(n):
    source = OnDisk(n)
    found, _ = batches(source)
    assert sorted(row for batch in found for row in batch) == list(range(n))
    assert len(found) == -(-n // BATCH)
    assert sorted(map(len, found))[1:] == [BATCH] * (len(found) - 1)
    assert max(stop - start for start, stop in source.reads) <= BATCH * BLOCK_BATCHES
    assert len(source.reads) == -(-n // (BATCH * BLOCK_BATCHES))


def test_rows_from_all_over_the_file_are_mixed():
    n = 50 * BUFFER
    found, _ = batches(OnDisk(n))
    # shuffled alone, the rows of one stretch as long as a buffer are 3 % of the file apart
    spread = np.array([np.ptp(batch) for batch in found]) / n
    assert np.median(spread) > 0.4
    assert batches(OnDisk(n), seed=1)[0] != found


@pytest.mark.parametrize("n", [7, 2 * BUFFER + 13])
def test_a_pass_goes_on_with_the_same_batches(n):
    whole, state = batches(OnDisk(n))
    for skip in range(len(whole) + 1):
        source = OnDisk(n)
        assert batches(source, skip) == (whole[skip:], state)
        wanted = -(-n // (BATCH * BLOCK_BATCHES)) - skip // (BUFFER // BATCH) * MIXED_BLOCKS
        assert len(source.reads) <= max(0, wanted)


def parts(source, batch_size, rank, size, *, shuffle, skip=0):
    """Rows of each batch that one of some processes has, their batch's length, and share."""
    passes = module.batches(
        (rows_of(source),), batch_size, torch.Generator().manual_seed(3),
        shuffle=shuffle, skip=skip, rank=rank, size=size,
    )  # fmt: skip
    return [(b.rows[0][:, 0].long().tolist(), b.n, b.copies, b.share) for b in passes]


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("kind", [OnDisk, lambda n: OnDisk(n)[0:n]], ids=["disk", "memory"])
@pytest.mark.parametrize(("n", "batch_size", "size"), [
    (1, 5, 2), (19, 5, 2), (803, 40, 2), (803, 40, 3), (801, 400, 3), (643, 2, 3), (90, 3, 3),
])  # fmt: skip
def test_processes_share_the_batches_of_one(kind, n, batch_size, size, shuffle):
    alone = parts(kind(n), batch_size, 0, 1, shuffle=shuffle)
    of_ranks = [parts(kind(n), batch_size, r, size, shuffle=shuffle) for r in range(size)]
    for (rows, length, _, one), *shared in zip(alone, *of_ranks, strict=True):
        assert (length, one) == (len(rows), 1)
        (copies,) = {copies for _, _, copies, _ in shared}
        assert sorted(row for own, *_ in shared for row in own) == sorted(rows * copies)
        assert all(own and n == length for own, n, *_ in shared)
        assert sum(share for *_, share in shared) == pytest.approx(1)
        assert copies == 1 or length < size
    assert parts(kind(n), batch_size, 1, size, shuffle=shuffle, skip=2) == of_ranks[1][2:]


def test_each_process_reads_its_part_of_the_file():
    n, size, sources = 12_345, 3, []
    for rank in range(size):
        sources.append(OnDisk(n))
        parts(sources[-1], 64, rank, size, shuffle=True)
    read = [row for s in sources for start, stop in s.reads for row in range(start, stop)]
    assert sorted(read) == list(range(n))
    lengths = [stop - start for s in sources for start, stop in s.reads]
    assert sorted(set(lengths))[-2:] == [85, 86]  # a third of four batches: long reads still


def test_sources_stay_beside_each_other():
    n = 2 * BUFFER + 3
    in_memory = rows_of(np.arange(n, dtype=np.float32)[:, None])
    sources = (rows_of(OnDisk(n)), in_memory)
    for x, y in epoch(sources, BATCH, torch.Generator().manual_seed(0), shuffle=True):
        assert torch.equal(x[:, :1], y)


def test_the_next_buffer_is_read_meanwhile_and_no_other():
    source = OnDisk(6 * BUFFER)
    passes = epoch((rows_of(source),), BATCH, torch.Generator(), shuffle=True)
    next(passes)
    until = time.monotonic() + 30
    while len(source.reads) < 2 * MIXED_BLOCKS and time.monotonic() < until:
        time.sleep(0.01)
    time.sleep(0.1)
    assert len(source.reads) == 2 * MIXED_BLOCKS
    passes.close()


def read_ahead_threads():
    return [t for t in threading.enumerate() if t.name == "read-ahead"]


def test_no_thread_is_left_when_a_pass_is_given_up():
    begun, release = threading.Event(), threading.Event()

    def slow():
        begun.set()
        release.wait(30)
        return 2

    results = read_ahead(iter([lambda: 1, slow, lambda: 3]))
    assert next(results) == 1
    assert begun.wait(30)
    assert len(read_ahead_threads()) == 1
    threading.Timer(0.2, release.set).start()
    results.close()
    assert not read_ahead_threads()


def test_results_keep_their_order():
    calls = (lambda i=i: time.sleep(0.01 * (i % 3)) or i for i in range(20))
    assert list(read_ahead(calls)) == list(range(20))
    assert not read_ahead_threads()
    assert list(read_ahead(iter([]))) == []


@pytest.mark.parametrize("fail_at", [0, MIXED_BLOCKS + 1, 3 * MIXED_BLOCKS])
def test_errors_of_a_read_come_where_its_rows_would(fail_at):
    passes = epoch((rows_of(OnDisk(4 * BUFFER, fail_at)),), BATCH, torch.Generator(), shuffle=True)
    seen = []
    with pytest.raises(OSError, match="the disk is gone"):
        collections.deque(map(seen.append, passes), maxlen=0)
    assert len(seen) == fail_at // MIXED_BLOCKS * BUFFER // BATCH
    assert not read_ahead_threads()


def anonymous_memory():
    """Bytes of this process that are no pages of files."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) * 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_memory_is_that_of_a_few_buffers(tmp_path):
    n, n_features, batch_size = 400_000, 64, 512
    path = tmp_path / "X.npy"
    X = np.lib.format.open_memmap(path, "w+", np.float32, (n, n_features))
    X.flush()
    X = np.load(path, mmap_mode="r")
    rows = rows_of(X)
    buffer = batch_size * BLOCK_BATCHES * MIXED_BLOCKS * n_features * 4
    assert X.nbytes > 40 * buffer
    most, before = 0, anonymous_memory()
    for i, _ in enumerate(epoch((rows,), batch_size, torch.Generator(), shuffle=True)):
        if i % 7 == 0:
            most = max(most, anonymous_memory() - before)
    # two at a time, what is read into them, and what the allocator keeps
    assert most < 12 * buffer


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_memory_map_is_read_in_blocks(tmp_path, dtype):
    np.save(tmp_path / "X.npy", np.ones((10, 3), dtype))
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    for X in (mapped, mapped[2:7]):
        rows = read_rows(SAEEncoder(2), X, reset=True, device="cpu")
        assert rows.contiguous
        assert rows.using(torch.float32).contiguous
    for X in (np.array(mapped), mapped[[1, 5, 2]], np.asfortranarray(mapped)):
        assert not read_rows(SAEEncoder(2), X, reset=True, device="cpu").contiguous
