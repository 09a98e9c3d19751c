"""Several encoders on one pass over the data: each as if it were alone."""

import numpy as np
import pytest
from problems import Interrupted, interrupt_after, planted
from sklearn import clone

from sparsecode_estimators import (
    MLPEncoder,
    SAEEncoder,
    SparseCodingEncoder,
    UnrolledEncoder,
    fit_many,
)

X, CODES, D = planted(300, 8, 16, 3, seed=91)
SHARED = {"random_state": 0, "batch_size": 32, "dead_after": 200}
CANDIDATES = [
    SAEEncoder(16, max_iter=6, **SHARED),
    SAEEncoder(40, alpha=0.3, max_iter=4, optimizer="sign", **SHARED),
    SAEEncoder(64, activation="batch_topk", n_nonzero_coefs=2, max_iter=9, **SHARED),
    SAEEncoder(dictionary=D, activation="topk", n_nonzero_coefs=3, max_iter=5, **SHARED),
    MLPEncoder(24, hidden_layer_sizes=(9,), activation="jumprelu", max_iter=7, **SHARED),
    UnrolledEncoder(16, fit_intercept=False, max_iter=3, **SHARED),
    # ends on its own, between the others
    SAEEncoder(16, activation="gated", max_iter=9, n_iter_no_change=1, tol=0.2,
               learning_rate="constant", **SHARED),
]  # fmt: skip


def assert_equal(first, second):
    for name, value in vars(first).items():
        if name == "history_":
            assert {*value} == {*second.history_}
            for curve in {*value} - {"seconds"}:
                np.testing.assert_array_equal(value[curve], second.history_[curve])
        elif name in ("encoder_coefs_", "encoder_intercepts_"):
            for one, other in zip(value, getattr(second, name), strict=True):
                np.testing.assert_array_equal(one, other)
        elif name.endswith("_"):
            np.testing.assert_array_equal(value, getattr(second, name), err_msg=name)
    np.testing.assert_array_equal(first.transform(X), second.transform(X))


class Counted:
    """Rows that count how many of them were read."""

    def __init__(self, rows):
        self.rows, self.shape, self.dtype, self.n_read = rows, rows.shape, rows.dtype, 0

    def __getitem__(self, index):
        part = self.rows[index]
        self.n_read += len(part)
        return part


@pytest.mark.parametrize("kind", ["array", "float16 file", "file in order", "stream"])
def test_each_ends_as_its_own_fit_would(kind, tmp_path):
    rows, candidates = X, [clone(e) for e in CANDIDATES]
    if kind == "stream":
        rows = Counted(X.astype(np.float32))
    elif kind != "array":
        np.save(tmp_path / "X.npy", X.astype(np.float16 if kind == "float16 file" else float))
        rows = np.load(tmp_path / "X.npy", mmap_mode="r")
    for candidate in candidates:
        candidate.set_params(shuffle=kind != "file in order")
    alone = [clone(e).fit(rows) for e in candidates]
    assert fit_many(candidates, rows) == candidates
    for one, other in zip(candidates, alone, strict=True):
        assert_equal(one, other)
    assert candidates[-1].n_iter_ < 9
    assert len({e.n_iter_ for e in candidates}) > 4


@pytest.mark.parametrize("n_candidates", [1, 4])
def test_rows_are_read_once_an_epoch(n_candidates):
    candidates = [
        SAEEncoder(n, max_iter=5, **{**SHARED, "dead_after": 10**9})
        for n in range(8, 8 + n_candidates)
    ]
    rows = Counted(X)
    fit_many(candidates, rows)
    assert rows.n_read == len(X) * (1 + n_candidates + 5)  # checked, start of each, epochs


def test_known_codes_and_warm_starts():
    candidates = [
        cls(objective="codes", max_iter=n, warm_start=True, **SHARED)
        for cls, n in ((SAEEncoder, 3), (MLPEncoder, 5))
    ]
    alone = [clone(e).fit(X, CODES).fit(X, CODES) for e in candidates]
    fit_many(candidates, X, CODES)
    fit_many(candidates, X, CODES)
    for one, other in zip(candidates, alone, strict=True):
        assert_equal(one, other)


def test_one_that_diverges_does_not_stop_the_others():
    candidates = [clone(CANDIDATES[i]) for i in (0, 3, 4)]
    candidates[1].set_params(learning_rate_init=1e25)
    with pytest.raises(FloatingPointError, match=r"^estimators\[1\]: The loss became"):
        fit_many(candidates, X)
    assert np.isfinite(candidates[1].encoder_coefs_[0]).all()
    for i, j in ((0, 0), (2, 4)):
        assert_equal(candidates[i], clone(CANDIDATES[j]).fit(X))


@pytest.mark.parametrize("stop", [5, 40, 83])
def test_runs_that_stand_at_different_steps_are_taken_up(stop, tmp_path, monkeypatch):
    pytest.importorskip("safetensors")
    alone = [clone(CANDIDATES[i]).fit(X) for i in (0, 2, 6)]
    candidates = [
        clone(CANDIDATES[i]).set_params(checkpoint=tmp_path, checkpoint_steps=every)
        for i, every in ((0, 3), (2, 7), (6, 1000))
    ]
    with monkeypatch.context() as patch:
        interrupt_after(patch, stop)
        with pytest.raises(Interrupted):
            fit_many([clone(e) for e in candidates], X)
    for one, other in zip(fit_many(candidates, X), alone, strict=True):
        assert_equal(one, other)


def test_callbacks_hear_of_their_own_estimator():
    callback = pytest.importorskip("sklearn.callback")
    heard = []

    class Listener:
        def setup(self, estimator, context):
            heard.append(("setup", estimator.max_iter))

        def teardown(self, estimator, context):
            heard.append(("teardown", estimator.max_iter))

        def on_fit_task_begin(self, estimator, context, **kwargs):
            pass

        def on_fit_task_end(self, estimator, context, **kwargs):
            heard.append((context.task_name, estimator.max_iter))

    assert isinstance(Listener(), callback.FitCallback)
    candidates = [clone(CANDIDATES[i]).set_callbacks(Listener()) for i in (0, 5)]
    fit_many(candidates, X)
    assert sorted(heard) == sorted(
        (what, n) for n in (6, 3) for what in ("setup", "fit", *["epoch"] * n, "teardown")
    )


def test_what_cannot_be_trained_together():
    first, *others = (clone(e) for e in CANDIDATES)
    for name, value in {
        "batch_size": 33, "shuffle": False, "random_state": 1, "precision": "float64",
        "objective": "codes",
    }.items():  # fmt: skip
        others[0] = clone(CANDIDATES[1]).set_params(**{name: value})
        with pytest.raises(ValueError, match=rf"estimators\[1\] has {name}={value!r}.*same value"):
            fit_many([first, *others], X)
    with pytest.raises(ValueError, match=r"estimators\[1\] has random_state=None: all need"):
        fit_many([first, clone(first).set_params(random_state=None)], X)
    with pytest.raises(ValueError, match=r"estimators\[1\] is in the list twice"):
        fit_many([first, first], X)
    with pytest.raises(TypeError, match=r"estimators\[1\] is SparseCodingEncoder"):
        fit_many([first, SparseCodingEncoder(4)], X)
    with pytest.raises(ValueError, match="max_iter"):  # as fit says it, of any of them
        fit_many([first, clone(first).set_params(max_iter=0)], X)
    assert not any(hasattr(e, "components_") for e in (first, *others))
    assert fit_many([], X) == []
    small = [SAEEncoder(4, random_state=0, batch_size=b, max_iter=2) for b in ("auto", 256)]
    assert_equal(*fit_many(small, X))
