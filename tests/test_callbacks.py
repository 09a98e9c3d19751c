"""scikit-learn's callbacks hear of every epoch, and can end a fit."""

import numpy as np
import pytest
from problems import planted
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sparsecode_estimators import MLPEncoder, SAEEncoder, UnrolledEncoder

callback = pytest.importorskip("sklearn.callback")

X = planted(300, 8, 16, 3, seed=63)[0]
TRAINED = [SAEEncoder, MLPEncoder, UnrolledEncoder]


class Log:
    """Every hook that is called; asks for the end after some epochs."""

    def __init__(self, stop_after=10**9):
        self.stop_after = stop_after
        self.calls, self.scores = [], []

    def setup(self, estimator, context):
        self.calls.append("setup")

    def teardown(self, estimator, context):
        self.calls.append("teardown")

    def on_fit_task_begin(self, estimator, context):
        self.calls.append(f"begin {context.task_name}")

    def on_fit_task_end(self, estimator, context, *, X=None, fitted_estimator=None):
        self.calls.append(f"end {context.task_name}")
        if context.task_name == "epoch":
            self.scores.append(fitted_estimator.score(X))
        return self.calls.count("end epoch") >= self.stop_after


@pytest.mark.parametrize("cls", TRAINED)
def test_every_epoch_is_told(cls):
    log = Log()
    encoder = cls(16, max_iter=4, random_state=0).set_callbacks(log).fit(X)
    epochs = ["begin epoch", "end epoch"] * 4
    assert log.calls == ["setup", "begin fit", *epochs, "end fit", "teardown"]
    # the estimator of the last epoch is what comes out of the fit
    assert log.scores[-1] == pytest.approx(encoder.score(X))
    assert log.scores[0] < log.scores[-1]
    plain = cls(16, max_iter=4, random_state=0).fit(X)
    np.testing.assert_array_equal(plain.transform(X), encoder.transform(X))


def test_a_callback_can_end_a_fit():
    log = Log(stop_after=3)
    sae = SAEEncoder(16, max_iter=50, random_state=0).set_callbacks(log).fit(X)
    assert sae.n_iter_ == 3


def test_partial_fit_is_no_fit():
    log = Log()
    SAEEncoder(16, random_state=0).set_callbacks(log).partial_fit(X)
    assert "begin fit" not in log.calls


def test_errors_tear_down():
    log = Log()
    sae = SAEEncoder(16, learning_rate_init=1e30, random_state=0).set_callbacks(log)
    with pytest.raises(FloatingPointError):
        sae.fit(X)
    assert log.calls[-1] == "teardown"


def test_progress_bars(capsys):
    pytest.importorskip("rich")
    sae = SAEEncoder(16, max_iter=3, random_state=0)
    bar = callback.ProgressBar()
    clone(sae).set_callbacks(bar).fit(X)
    assert "SAEEncoder" in capsys.readouterr().out
    make_pipeline(StandardScaler(), sae).set_callbacks(bar).fit(X)
    assert "SAEEncoder" in capsys.readouterr().out
    search = GridSearchCV(sae, {"alpha": [0.1, 0.2]}, cv=2).set_callbacks(bar)
    assert np.isfinite(search.fit(X).best_score_)
    assert "SAEEncoder" in capsys.readouterr().out
