"""Encoders that learn known codes: what explains the rows is least squares by these."""

import numpy as np
import pytest
from problems import Callback, planted

from sparsecode_estimators import MLPEncoder, SAEEncoder, UnrolledEncoder

_, CODES, D = planted(400, 8, 16, 3, seed=1500)
OFFSET = np.array([3.0, -2.0, 1.0, 0.0, 5.0, 1.0, -1.0, 2.0])
X = CODES @ D + OFFSET  # nothing else
MAKES = [SAEEncoder, MLPEncoder, UnrolledEncoder]
OPTIONS = {"objective": "codes", "max_iter": 5, "random_state": 0, "precision": "float64"}


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("make", MAKES)
def test_dictionary_and_offset_are_found_together(make, known):
    encoder = make(dictionary=D if known else None, fit_intercept=True, **OPTIONS).fit(X, CODES)
    np.testing.assert_allclose(encoder.components_, D, atol=1e-9)
    np.testing.assert_allclose(encoder.intercept_, OFFSET, atol=1e-9)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("make", [SAEEncoder, MLPEncoder])
def test_they_change_no_code(make, known, monkeypatch):
    encoder = make(dictionary=D if known else None, fit_intercept=True, **OPTIONS)
    codes = encoder.fit(X, CODES).transform(X)
    monkeypatch.setattr(encoder, "_explain_by_codes", lambda *_: None)
    np.testing.assert_allclose(encoder.fit(X, CODES).transform(X), codes, atol=1e-9)
    assert abs(encoder.intercept_ - OFFSET).max() > 0.1


class Scores(Callback):
    """A callback that asks for the score after every epoch."""

    def __init__(self):
        self.found = []

    def on_fit_task_end(self, estimator, context, *, fitted_estimator):
        self.found.append(fitted_estimator.score(X))


def test_callbacks_see_the_dictionary_of_the_codes():
    pytest.importorskip("sklearn.callback")
    scores = Scores()
    encoder = SAEEncoder(fit_intercept=True, **OPTIONS)
    encoder.set_callbacks(scores).fit(X, CODES)
    assert scores.found[-2:] == [pytest.approx(encoder.score(X))] * 2
    assert min(scores.found) > 0


def test_as_many_codes_as_asked_for_are_active_in_training():
    encoder = SAEEncoder(activation="batch_topk", n_nonzero_coefs=3, **OPTIONS).fit(X, CODES)
    assert encoder.history_["l0"].max() <= 3 + 1e-9
