"""Runs that are interrupted, by errors and by SIGKILL, and the files that they leave."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from problems import Interrupted, interrupt_after, planted

from sparsecode_estimators import MLPEncoder, SAEEncoder, UnrolledEncoder

pytest.importorskip("safetensors")

X = planted(400, 8, 16, 3, seed=61)[0]
VARIANTS = {
    "relu": lambda **kw: SAEEncoder(16, **kw),
    "topk": lambda **kw: SAEEncoder(16, activation="topk", n_nonzero_coefs=3, **kw),
    "batch_topk": lambda **kw: SAEEncoder(16, activation="batch_topk", n_nonzero_coefs=3, **kw),
    "jumprelu": lambda **kw: SAEEncoder(16, activation="jumprelu", **kw),
    "gated": lambda **kw: MLPEncoder(16, activation="gated", **kw),
    "sign": lambda **kw: SAEEncoder(16, optimizer="sign", **kw),
    "unrolled": lambda **kw: UnrolledEncoder(16, **kw),
}
OPTIONS = {"max_iter": 6, "batch_size": 64, "random_state": 0, "dead_after": 300}


def assert_equal(first, second):
    np.testing.assert_array_equal(first.components_, second.components_)
    np.testing.assert_array_equal(first.transform(X), second.transform(X))
    assert first.loss_curve_ == second.loss_curve_
    np.testing.assert_array_equal(first.activation_frequency_, second.activation_frequency_)
    np.testing.assert_array_equal(first.history_["l0"], second.history_["l0"])
    assert first.n_steps_ == second.n_steps_


@pytest.mark.parametrize("stop", [3, 7, 20, 33])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_run_goes_on_to_exactly_the_same_weights(variant, stop, tmp_path, monkeypatch):
    make, options = VARIANTS[variant], {**OPTIONS, "checkpoint_steps": 3}
    whole = make(**OPTIONS).fit(X)
    with monkeypatch.context() as patch:
        interrupt_after(patch, stop)
        with pytest.raises(Interrupted):
            make(checkpoint=tmp_path, **options).fit(X)
    assert len(list(tmp_path.iterdir())) == 1
    assert_equal(make(checkpoint=tmp_path, **options).fit(X), whole)


def test_rows_on_disk_are_read_in_the_same_order(tmp_path, monkeypatch):
    np.save(tmp_path / "X.npy", np.tile(X, (4, 1)).astype(np.float32))
    rows = np.load(tmp_path / "X.npy", mmap_mode="r")
    options = {**OPTIONS, "batch_size": 8, "max_iter": 2, "checkpoint_steps": 5}
    whole = SAEEncoder(16, **options).fit(rows)
    with monkeypatch.context() as patch:
        interrupt_after(patch, 333)
        with pytest.raises(Interrupted):
            SAEEncoder(16, checkpoint=tmp_path / "runs", **options).fit(rows)
    assert_equal(SAEEncoder(16, checkpoint=tmp_path / "runs", **options).fit(rows), whole)


def test_a_complete_run_is_not_run_again(tmp_path, monkeypatch):
    first = SAEEncoder(16, checkpoint=str(tmp_path), **OPTIONS).fit(X)
    interrupt_after(monkeypatch, 0)
    assert_equal(SAEEncoder(16, checkpoint=tmp_path, **OPTIONS).fit(X), first)
    with pytest.raises(Interrupted):  # other parameters, or rows, are another run
        SAEEncoder(16, checkpoint=tmp_path, **{**OPTIONS, "random_state": 1}).fit(X)
    with pytest.raises(Interrupted):
        SAEEncoder(16, checkpoint=tmp_path, **OPTIONS).fit(2 * X)
    with pytest.raises(Interrupted):
        SAEEncoder(16, checkpoint=tmp_path, dict_init=X[:16], **OPTIONS).fit(X)


def test_a_fit_to_other_rows_is_another_run(tmp_path, monkeypatch):
    """Also if only one of many rows is another."""
    rows = np.tile(X, (8, 1))
    options = {**OPTIONS, "max_iter": 1, "checkpoint": tmp_path}
    SAEEncoder(16, **options).fit(rows)
    interrupt_after(monkeypatch, 0)
    SAEEncoder(16, **options).fit(np.asfortranarray(rows))
    rows[1] *= 2
    with pytest.raises(Interrupted):
        SAEEncoder(16, **options).fit(rows)


def test_other_random_states_are_other_runs(tmp_path, monkeypatch):
    options = {**OPTIONS, "checkpoint": tmp_path}
    for seed in (0, 1):
        SAEEncoder(16, **{**options, "random_state": np.random.RandomState(seed)}).fit(X)
    interrupt_after(monkeypatch, 0)
    SAEEncoder(16, **{**options, "random_state": np.random.RandomState(1)}).fit(X)
    used = np.random.RandomState(1)
    used.randint(10)
    with pytest.raises(Interrupted):
        SAEEncoder(16, **{**options, "random_state": used}).fit(X)


def test_types_of_numbers_do_not_make_another_run(tmp_path, monkeypatch):
    options = {
        **OPTIONS, "checkpoint": tmp_path, "alpha": 0.1, "dict_init": np.eye(8), "aux_alpha": 1,
    }  # fmt: skip
    SAEEncoder(8, **options).fit(X)
    interrupt_after(monkeypatch, 0)
    same = {
        "alpha": np.float64(0.1), "random_state": np.int64(0), "aux_alpha": 1.0,
        "dict_init": np.eye(8, dtype=int).tolist(), "shuffle": np.bool_(True),
        "activation": np.str_("relu"),
    }  # fmt: skip
    SAEEncoder(np.int32(8), **{**options, **same}).fit(X)
    with pytest.raises(Interrupted):
        SAEEncoder(8, **{**options, "alpha": np.float32(0.1)}).fit(X)


def test_other_codes_and_warm_starts_are_other_runs(tmp_path):
    codes = planted(400, 8, 16, 3, seed=61)[1]
    options = {"objective": "codes", "checkpoint": tmp_path, **OPTIONS}
    first = SAEEncoder(**options).fit(X, codes)
    second = SAEEncoder(**options).fit(X, codes[:, ::-1])
    assert np.abs(first.transform(X) - second.transform(X)).max() > 0.1
    warm = SAEEncoder(16, warm_start=True, checkpoint=tmp_path, **OPTIONS).fit(X)
    before = warm.components_.copy()
    assert warm.fit(X).n_iter_ == 2 * OPTIONS["max_iter"]
    assert np.abs(warm.components_ - before).max() > 1e-4
    other = [SAEEncoder(dictionary=f, checkpoint=tmp_path, **OPTIONS).fit(X).components_
             for f in (lambda n, m: np.eye(m), lambda n, m: np.eye(m)[::-1])]  # fmt: skip
    assert not np.array_equal(*other)


def test_warm_starts_of_what_only_steps_learn(tmp_path):
    """Dictionary and weights stay as they are; biases and step sizes are what is learned."""
    D = planted(1, 8, 16, 3, seed=90)[2]
    fits = [
        UnrolledEncoder(dictionary=D, weights="analytic", warm_start=True, checkpoint=folder,
                        learning_rate="constant", max_iter=2, random_state=0)
        for folder in (None, tmp_path)
    ]  # fmt: skip
    losses = [[encoder.fit(X).loss_ for _ in range(4)] for encoder in fits]
    assert losses[0] == losses[1]
    assert len(set(losses[0])) == 4


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_to(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OSError, match="cannot be written to"):
        SAEEncoder(16, checkpoint=tmp_path / "runs", **OPTIONS).fit(X)


def test_a_folder_that_is_a_file(tmp_path):
    (tmp_path / "runs").write_text("not a folder")
    with pytest.raises(OSError, match=r"runs.*cannot be written to"):
        SAEEncoder(16, checkpoint=tmp_path / "runs", **OPTIONS).fit(X)
    assert (tmp_path / "runs").read_text() == "not a folder"


def test_a_full_disk_costs_no_checkpoint(tmp_path, monkeypatch):
    import safetensors.torch

    options = {**OPTIONS, "checkpoint_steps": 2}
    save, calls = safetensors.torch.save_file, []

    def full(tensors, path, metadata):
        calls.append(path)
        if len(calls) > 3:
            Path(path).write_bytes(b"half")
            raise OSError(28, "No space left on device")
        save(tensors, path, metadata)

    with monkeypatch.context() as patch:
        patch.setattr(safetensors.torch, "save_file", full)
        with pytest.warns(RuntimeWarning, match="No space left on device"):
            trained = SAEEncoder(16, checkpoint=tmp_path, **options).fit(X)
    assert len(calls) > 4
    assert [p.suffix for p in tmp_path.iterdir()] == [".safetensors"]
    interrupt_after(monkeypatch, 42 - 6)  # steps in all, and in the last good checkpoint
    assert_equal(SAEEncoder(16, checkpoint=tmp_path, **options).fit(X), trained)


def test_a_damaged_file_is_named(tmp_path):
    SAEEncoder(16, checkpoint=tmp_path, **OPTIONS).fit(X)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(ValueError, match=f"{file.name}.*remove it"):
        SAEEncoder(16, checkpoint=tmp_path, **OPTIONS).fit(X)


@pytest.mark.parametrize("change", [lambda t: t[:0], lambda t: None], ids=["shorter", "missing"])
def test_tensors_that_do_not_fit_are_damage(change, tmp_path):
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    SAEEncoder(16, checkpoint=tmp_path, **OPTIONS).fit(X)
    (path,) = tmp_path.iterdir()
    with safe_open(path, framework="pt") as file:
        about = file.metadata()
    tensors = load_file(path)
    left = {**tensors, "silent_for": change(tensors["silent_for"])}
    save_file({name: t for name, t in left.items() if t is not None}, path, metadata=about)
    with pytest.raises(ValueError, match=f"{path.name}.*tensors are missing.*remove it"):
        SAEEncoder(16, checkpoint=tmp_path, **OPTIONS).fit(X)


SCRIPT = """
import sys
import numpy as np
import torch
from sparsecode_estimators import SAEEncoder
torch.set_num_threads(1)
X = np.load(sys.argv[1])
sae = SAEEncoder(16, activation="topk", n_nonzero_coefs=3, max_iter=40, batch_size=16,
                 random_state=0, checkpoint=sys.argv[2], checkpoint_steps=1)
np.save(sys.argv[3], sae.fit(X).components_)
"""


def killed_and_run_again(tmp_path, n_kills, seed):
    """How often the process was killed before it came to its end, and the weights."""
    np.save(tmp_path / "X.npy", X)
    out = tmp_path / "weights.npy"
    command = [sys.executable, "-c", SCRIPT, tmp_path / "X.npy", tmp_path / "runs", out]
    rng, kills = np.random.default_rng(seed), 0
    while not out.exists():
        process = subprocess.Popen(command)
        if kills < n_kills:
            until = time.monotonic() + 60
            while not list((tmp_path / "runs").glob("*.safetensors")) and kills == 0:
                assert time.monotonic() < until
                time.sleep(0.02)
            # the package takes seconds to import; then come some seconds of steps
            time.sleep(rng.uniform(0, 0.5) if kills == 0 else rng.uniform(2.0, 4.0))
            process.send_signal(signal.SIGKILL)
            kills += process.wait() == -signal.SIGKILL
        else:
            assert process.wait() == 0
    return kills, np.load(out)


@pytest.mark.parametrize("n_kills", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_processes_lose_nothing(n_kills, tmp_path):
    kills, weights = killed_and_run_again(tmp_path, n_kills, seed=62)
    assert kills >= min(n_kills, 2)
    sae = SAEEncoder(
        16, activation="topk", n_nonzero_coefs=3, max_iter=40, batch_size=16, random_state=0
    )
    np.testing.assert_array_equal(weights, sae.fit(X).components_)


def test_a_loss_that_is_not_finite_leaves_the_last_finite_state():
    sae = SAEEncoder(16, random_state=0, batch_size=50, learning_rate_init=1e25)
    with pytest.raises(FloatingPointError, match=r"step \d+ of epoch \d+.*learning_rate_init"):
        sae.fit(X.astype(np.float32))
    assert np.isfinite(sae.components_).all()
    assert np.isfinite(sae.encoder_coefs_[0]).all()
    assert len(sae.loss_curve_) == sae.n_iter_


def test_rows_far_longer_than_others_do_not_overflow():
    rows = X.astype(np.float32)
    rows[7] *= 1e30
    sae = SAEEncoder(16, random_state=0, max_iter=3, fit_intercept=False).fit(rows)
    assert np.isfinite(sae.transform(rows)).all()
