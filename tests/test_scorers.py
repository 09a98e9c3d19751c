"""Scorers in scikit-learn's model selection, whatever container the codes come in."""

import numpy as np
import pytest
import sklearn
import torch
from joblib import parallel_backend
from numpy.testing import assert_allclose
from scipy import sparse
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.decomposition import NMF, PCA, DictionaryLearning, MiniBatchDictionaryLearning
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from sparsecode_estimators import SAEEncoder
from sparsecode_estimators.datasets import make_sparse_codes
from sparsecode_estimators.metrics import (
    SCORERS,
    explained_variance,
    l0,
    mcc_scorer,
    mean_corr_coef,
    reconstruction_scorer,
    sparsity_scorer,
)


@pytest.fixture(scope="module")
def data():
    return make_sparse_codes(90, 4, 6, 2, random_state=0)


def learner(alpha=0.1):
    return MiniBatchDictionaryLearning(
        6, alpha=alpha, max_iter=3, transform_algorithm="lasso_lars", random_state=0
    )


ESTIMATORS = {
    "minibatch": learner(),
    "dictionary": DictionaryLearning(6, max_iter=3, random_state=0),
    "pca": PCA(3),
    "nmf": NMF(3, max_iter=50, init="random", random_state=0),
    "pipeline": make_pipeline(StandardScaler(), learner()),
}
estimators = pytest.mark.parametrize("estimator", ESTIMATORS.values(), ids=ESTIMATORS)


class Codes(TransformerMixin, BaseEstimator):
    """The identity, its codes in the container of your choice."""

    def __init__(self, container=np.asarray):
        self.container = container

    def fit(self, X, y=None):
        self.n_features_in_ = X.shape[1]
        return self

    def transform(self, X):
        return self.container(X)

    def inverse_transform(self, codes):
        return codes


@estimators
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_scorers_are_their_metrics(estimator, data):
    X = abs(data.X)  # for NMF
    estimator = sklearn.clone(estimator).fit(X)
    codes = estimator.transform(X)
    assert mcc_scorer(estimator, X, data.codes) == mean_corr_coef(data.codes, codes)
    assert sparsity_scorer(estimator, X) == -l0(codes)
    expected = explained_variance(X, estimator.inverse_transform(codes))
    assert reconstruction_scorer(estimator, X) == expected
    assert reconstruction_scorer(estimator, X, data.codes) == expected


def test_pipeline_is_scored_in_the_space_of_X(data):
    X = data.X * [1, 10, 100, 1000] + 5
    pipeline = make_pipeline(StandardScaler(), PCA(2)).fit(X)
    scaled = pipeline[0].transform(X)
    X_hat = pipeline[0].inverse_transform(pipeline[1].inverse_transform(pipeline.transform(X)))
    score = reconstruction_scorer(pipeline, X)
    assert score == explained_variance(X, X_hat)
    assert abs(score - reconstruction_scorer(pipeline[1], scaled)) > 0.01


@pytest.mark.parametrize("output", ["pandas", "polars"])
@estimators
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_data_frames(estimator, output, data):
    frames = pytest.importorskip(output)
    X = frames.DataFrame(abs(data.X), **({"schema": list("abcd")} if output == "polars" else {}))
    y = frames.DataFrame(data.codes)
    plain = sklearn.clone(estimator).fit(abs(data.X))
    framed = sklearn.clone(estimator).set_output(transform=output).fit(X)
    for scorer in SCORERS.values():
        assert_allclose(scorer(framed, X, y), scorer(plain, abs(data.X), data.codes))


@pytest.mark.parametrize(
    "container",
    [sparse.csr_array, sparse.csr_matrix, torch.tensor, lambda X: torch.tensor(X).to_sparse()],
    ids=["csr_array", "csr_matrix", "tensor", "sparse_tensor"],
)
def test_codes_in_every_container(container, data):
    plain, other = Codes().fit(data.codes), Codes(container).fit(data.codes)
    for scorer in SCORERS.values():
        result = scorer(other, data.codes, data.codes)
        assert isinstance(result, float)
        assert_allclose(result, scorer(plain, data.codes, data.codes))


@pytest.mark.parametrize("backend", ["loky", "threading"])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_grid_search(backend, data):
    pipeline = Pipeline([("scale", StandardScaler()), ("code", learner())])
    grid = {"code__alpha": [0.05, 2.0]}
    search = GridSearchCV(pipeline, grid, scoring=SCORERS, refit="reconstruction", cv=2, n_jobs=2)
    with parallel_backend(backend):
        search.fit(data.X, data.codes)
    assert search.best_params_ == {"code__alpha": 0.05}
    for name in SCORERS:
        assert np.isfinite(search.cv_results_[f"mean_test_{name}"]).all()
    less, more = search.cv_results_["mean_test_sparsity"]
    assert less < more
    assert search.score(data.X, data.codes) == SCORERS["reconstruction"](
        search.best_estimator_, data.X
    )


def test_true_codes_may_be_sparse(data):
    estimator = PCA(3).fit(data.X)
    expected = mcc_scorer(estimator, data.X, data.codes)
    assert_allclose(mcc_scorer(estimator, data.X, sparse.csr_array(data.codes)), expected)


def test_mcc_needs_the_truth(data):
    estimator = PCA(2).fit(data.X)
    with pytest.raises(ValueError, match=r"y=None.*reconstruction_scorer"):
        mcc_scorer(estimator, data.X)
    with pytest.raises(ValueError, match="y must be two-dimensional"):
        mcc_scorer(estimator, data.X, data.codes[:, 0])


def test_reconstruction_needs_no_truth(data):
    scoring = {"reconstruction": reconstruction_scorer, "sparsity": sparsity_scorer}
    scores = cross_validate(learner(), data.X, scoring=scoring, cv=3, error_score="raise")
    assert np.isfinite(scores["test_reconstruction"]).all()


@pytest.mark.filterwarnings("ignore:alpha=.auto. is 0")
@pytest.mark.parametrize("value", [1.0, 0.1])
def test_rows_that_are_all_the_same_are_explained_to_float32(value):
    X = np.full((50, 4), value)
    sae = SAEEncoder(8, max_iter=3, random_state=0).fit(X)
    assert sae.score(X) == 1
    assert sae.score(X * 1.001) == 0
