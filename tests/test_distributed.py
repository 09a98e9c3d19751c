"""Several processes that train one model: as one process would, to the same bits in each."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import processes
import pytest
import torch
from processes import CANDIDATES, CODES, OPTIONS, X, candidate, mapped, rows_for

from sparsecode_estimators import SAEEncoder
from sparsecode_estimators.learning.distributed import Group

pytestmark = pytest.mark.skipif(
    os.name != "posix" or not torch.distributed.is_available(), reason="needs gloo and forkserver"
)
NAMES = [*CANDIDATES, "codes", "on disk", "chunks", "warm"]


@pytest.fixture(scope="module", params=[True, False], ids=["common memory", "messages"])
def memory(request):
    """Whether processes use memory that they have in common."""
    return request.param


@pytest.fixture(scope="module")
def fitted(tmp_path_factory, memory):
    """Attributes of all fits of two processes, by rank."""
    folder = tmp_path_factory.mktemp("two")
    mapped(folder)
    found = processes.start(processes.fit_all, folder, memory)
    if found[0] is None:  # Linux alone has it; elsewhere messages serve, which are tested too
        pytest.skip("processes have no memory in common here")
    return found


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """Attributes of fits of three processes, by rank."""
    return processes.start(processes.of_three, tmp_path_factory.mktemp("three"), size=3)


def alone(name, folder):
    """The same fit in this process."""
    if name == "codes":
        return SAEEncoder(objective="codes", **OPTIONS).fit(X, CODES)
    if name == "on disk":
        return candidate("batch_topk", max_iter=2).fit(mapped(folder))
    if name == "chunks":
        sae = candidate("jumprelu")
        for chunk in (X[:200], X[200:], X[:100]):
            sae.partial_fit(chunk)
        return sae
    if name == "warm":
        return candidate("topk", warm_start=True).fit(X).fit(X)
    return candidate(name).fit(rows_for(name))


def assert_same(first, second, check=np.testing.assert_array_equal, **tolerance):
    assert {*first} - {"sent"} == {*second} - {"sent"}
    for name, value in first.items():
        if name == "history_":
            for curve in set(value) - {"seconds"}:
                check(value[curve], second[name][curve], err_msg=curve, **tolerance)
        elif name in ("encoder_coefs_", "encoder_intercepts_"):
            for one, other in zip(value, second[name], strict=True):
                check(one, other, err_msg=name, **tolerance)
        elif name == "device_":
            assert value == second[name]
        elif name != "sent":
            check(value, second[name], err_msg=name, **tolerance)


@pytest.mark.parametrize("name", [*NAMES, "unseeded"])
def test_every_rank_returns_the_same_bits(fitted, name):
    first, second = (found[name] for found in fitted)
    assert_same(first, second)
    np.testing.assert_array_equal(first["history_"]["seconds"], second["history_"]["seconds"])


@pytest.mark.parametrize("name", NAMES)
def test_two_processes_come_to_what_one_does(fitted, name, tmp_path):
    one = processes.attributes(alone(name, tmp_path))
    assert_same(fitted[0][name], one, np.testing.assert_allclose, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", processes.MANY)
def test_several_models_on_one_pass_of_two_processes(fitted, name):
    for found in fitted:
        assert_same(found[f"many: {name}"], found[name])


def test_latents_die_and_are_started_again(fitted):
    for name in ("topk", "abs_topk", "batch_topk", "many atoms"):
        dead = fitted[0][name]["history_"]["dead"]
        assert dead.max() > 0, name
        assert (np.diff(dead) < 0).any(), name


def test_rows_of_few_atoms_are_sent_alone(fitted, memory):
    n_components, n_features = 400, X.shape[1]
    # 2 codes of each of 20 rows, in encoder and dictionary; what is small comes on top
    small = 2 + 4 * n_components
    most = small if memory else max(20 * 2 * 2 * n_features, small)
    assert fitted[0]["many atoms"]["sent"] <= most
    assert (fitted[0]["relu"]["sent"] >= 48 * n_features) == (not memory)


@pytest.mark.parametrize("name", processes.THREE)
def test_three_processes_come_to_what_one_does(three, name):
    one = processes.attributes(candidate(name, n_components=50).fit(X))
    for found in three:
        assert_same(found[name], three[0][name])
    assert_same(three[0][name], one, np.testing.assert_allclose, rtol=1e-6, atol=1e-9)


def test_memory_in_common_is_seen_by_all_or_had_by_none(tmp_path):
    found = processes.start(processes.in_common, tmp_path)
    if found[0] is None:  # Linux alone has it; elsewhere messages serve, which are tested too
        pytest.skip("processes have no memory in common here")
    seen = [0.0, 1.0, 0.0], [[5.0, 5.0], [6.0, 6.0]]
    assert found == [(seen, None, None, [])] * 2


def test_ranks_that_differ_are_told_so_before_training(tmp_path):
    first, second = processes.start(processes.differing, tmp_path)
    for (kind, message), other, name in zip(
        first, second, ["alpha", "X", "X", "estimator"], strict=False
    ):
        assert (kind, message) == other
        assert kind == "ValueError"
        assert re.match(rf"{name} is .* in rank 1, but .* in rank 0: ", message)
    assert second[4][0] == "ValueError"
    assert first[4] == ("RuntimeError", f"Rank 1 of 2 could not train. ValueError: {second[4][1]}")
    assert first[5][0] in ("FileExistsError", "OSError")
    assert second[5] == ("RuntimeError", f"Rank 0 of 2 could not train. OSError: {first[5][1]}")
    assert first[6] == second[6]
    assert first[6][0] == "Diverged"


@pytest.mark.parametrize(("name", "stop"), [("relu", 7), ("batch_topk", 33)])
def test_a_run_of_two_goes_on_to_the_same_bits(name, stop, tmp_path):
    pytest.importorskip("safetensors")
    (whole, again), (_, second) = processes.start(processes.interrupted, tmp_path, name, stop)
    assert_same(whole, again)
    assert_same(again, second)
    assert len(list((tmp_path / "runs of 0").iterdir())) == 1
    assert not (tmp_path / "runs of 1").exists()
    # what two processes have left one process takes up, too
    sae = candidate(name, checkpoint=tmp_path / "left").fit(X)
    assert_same(processes.attributes(sae), again, np.testing.assert_allclose, rtol=1e-6, atol=1e-9)


def test_callbacks_of_rank_0_decide_for_all(tmp_path):
    pytest.importorskip("sklearn.callback")
    assert processes.start(processes.stopped, tmp_path) == [(2, 2), (2, 0)]


def test_one_process_is_a_group_of_its_own():
    group = Group.present()
    assert (group.rank, group.size) == (0, 1)
    assert group.hear("a") == ["a"]


SCRIPT = """
import sys
import numpy as np
import torch
import torch.distributed as dist
from sparsecode_estimators import SAEEncoder
torch.set_num_threads(1)
rank, meet, rows, runs, out = int(sys.argv[1]), *sys.argv[2:]
dist.init_process_group("gloo", f"file://{meet}", rank=rank, world_size=2)
sae = SAEEncoder(16, activation="topk", n_nonzero_coefs=3, max_iter=40, batch_size=16,
                 random_state=0, checkpoint=runs, checkpoint_steps=1)
sae.fit(np.load(rows))
np.save(f"{out}.{rank}.npy", sae.components_)
dist.destroy_process_group()
"""


def two(folder, attempt):
    """Two processes that train one model, and keep it after every step."""
    files = [folder / name for name in (f"meet.{attempt}", "X.npy", "runs", "weights")]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-c", SCRIPT]
    return [subprocess.Popen([*command, str(rank), *files], env=env) for rank in range(2)]


def steps_follow(file, process):
    """Wait until a run has gone on from where it was, or has ended."""
    before = file.stat().st_mtime_ns if file.exists() else 0
    while process.poll() is None:
        if file.exists() and file.stat().st_mtime_ns != before:
            return
        time.sleep(0.02)


@pytest.mark.slow
def test_killed_processes_lose_nothing(tmp_path):
    pytest.importorskip("safetensors")
    np.save(tmp_path / "X.npy", X)
    (tmp_path / "whole").mkdir()
    np.save(tmp_path / "whole/X.npy", X)
    assert [process.wait() for process in two(tmp_path / "whole", 0)] == [0, 0]
    (file,) = (tmp_path / "whole/runs").iterdir()
    rng, kills, attempt = np.random.default_rng(83), 0, 0
    while not (tmp_path / "weights.0.npy").exists():
        attempt += 1
        group = two(tmp_path, attempt)
        if kills < 6:
            steps_follow(tmp_path / "runs" / file.name, group[0])
            time.sleep(rng.uniform(0, 0.5))
            for rank in rng.permutation(2):
                group[rank].send_signal(signal.SIGKILL)
            kills += [process.wait() for process in group] == [-signal.SIGKILL] * 2
        else:
            assert [process.wait() for process in group] == [0, 0]
    assert kills >= 2
    whole = np.load(tmp_path / "whole/weights.0.npy")
    for rank in range(2):
        np.testing.assert_array_equal(np.load(tmp_path / f"weights.{rank}.npy"), whole)
