"""The package as users get it: files, pickles, imports, grid searches."""

import json
import pickle
import re
import subprocess
import sys
import warnings
from pathlib import Path

import joblib
import numpy as np
import pytest
import skops.io
import torch
from problems import planted
from sklearn import clone
from sklearn.decomposition import PCA, DictionaryLearning
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import get_tags

import sparsecode_estimators
from sparsecode_estimators import (
    ITORefiner,
    MLPEncoder,
    SAEEncoder,
    SparseCodingEncoder,
    UnrolledEncoder,
)
from sparsecode_estimators.metrics import SCORERS

ROOT = Path(__file__).parents[1]
X, CODES, D = planted(200, 8, 16, 3, seed=60)
ESTIMATORS = [
    SAEEncoder(16, max_iter=3, random_state=0),
    MLPEncoder(16, hidden_layer_sizes=(12, 10), max_iter=3, random_state=0),
    UnrolledEncoder(16, max_iter=3, random_state=0),
    SparseCodingEncoder(16, max_iter=6, n_init=1, random_state=0),
    ITORefiner(SAEEncoder(16, max_iter=3, random_state=0)),
]
each_estimator = pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda e: type(e).__name__)


@each_estimator
def test_round_trips(estimator, tmp_path):
    fitted = clone(estimator).fit(X)
    expected = fitted.transform(X)
    joblib.dump(fitted, tmp_path / "estimator.joblib")
    skops.io.dump(fitted, tmp_path / "estimator.skops")
    unknown = skops.io.get_untrusted_types(file=tmp_path / "estimator.skops")
    assert all(name.startswith("sparsecode_estimators.") for name in unknown)
    for again in (
        pickle.loads(pickle.dumps(fitted)),
        joblib.load(tmp_path / "estimator.joblib"),
        skops.io.load(tmp_path / "estimator.skops", trusted=unknown),
    ):
        np.testing.assert_array_equal(again.transform(X), expected)


@each_estimator
def test_fitted_on_cuda_loads_without(estimator, monkeypatch):
    """No tensor and no device object in the state, so there is nothing to map anywhere."""
    fitted = clone(estimator).fit(X)
    fitted.device_ = "cuda:0"
    payload = pickle.dumps(fitted)
    assert b"torch" not in payload
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    np.testing.assert_array_equal(pickle.loads(payload).transform(X), fitted.transform(X))


@pytest.mark.cuda
@each_estimator
def test_cpu_and_cuda_agree_from_one_seed(estimator):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device on this machine")
    on_cpu, on_cuda = (clone(estimator).set_params(device=d).fit(X) for d in ("cpu", "cuda"))
    np.testing.assert_allclose(on_cuda.components_, on_cpu.components_, atol=1e-3)
    assert on_cuda.device_ == "cuda:0" or on_cuda.device_ == "cuda"
    assert pickle.loads(pickle.dumps(on_cuda)).set_params(device="cpu").transform(X).shape == (
        200,
        16,
    )


def run_python(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_is_light():
    heavy = ["transformers", "openai", "matplotlib", "numba", "torch._dynamo", "triton"]
    code = (
        "import time, sys, torch, sklearn.base, sklearn.utils.validation, sklearn.pipeline\n"
        "import scipy.sparse, sklearn.frozen\n"
        "begin = time.process_time()\n"
        "import sparsecode_estimators\n"
        "spent = time.process_time() - begin\n"
        "import json\n"
        f"print(json.dumps([spent, [m for m in {heavy} if m in sys.modules]]))"
    )
    spent, loaded = json.loads(run_python(code))
    assert loaded == []
    assert spent < 0.3


def test_training_needs_no_compiler():
    code = (
        "import sys, numpy as np\n"
        "from sparsecode_estimators import SAEEncoder\n"
        "SAEEncoder(4, max_iter=2).fit(np.eye(4)).transform(np.eye(4))\n"
        "assert 'torch._dynamo' not in sys.modules"
    )
    run_python(code)


def test_version_and_names():
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", sparsecode_estimators.__version__)
    for name in sparsecode_estimators.__all__:
        assert hasattr(sparsecode_estimators, name)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_grid_search_with_several_metrics(backend):
    pipeline = Pipeline(
        [("scale", StandardScaler()), ("codes", SAEEncoder(16, max_iter=3, random_state=0))]
    )
    grid = {
        "codes": [
            SAEEncoder(16, max_iter=3, random_state=0),
            SparseCodingEncoder(16, max_iter=6, n_init=1, random_state=0),
            ITORefiner(SAEEncoder(16, max_iter=3, random_state=0)),
        ]
    }
    with joblib.parallel_config(backend=backend, n_jobs=2):
        search = GridSearchCV(pipeline, grid, scoring=SCORERS, refit="reconstruction", cv=2)
        search.fit(X, CODES)
    for name in SCORERS:
        assert np.isfinite(search.cv_results_[f"mean_test_{name}"]).all()
    assert (search.cv_results_["mean_test_mcc"] > 0.2).all()
    assert search.best_score_ == search.cv_results_["mean_test_reconstruction"].max()
    # the same numbers as without workers
    alone = GridSearchCV(pipeline, grid, scoring=SCORERS, refit=False, cv=2).fit(X, CODES)
    np.testing.assert_allclose(
        search.cv_results_["mean_test_reconstruction"],
        alone.cv_results_["mean_test_reconstruction"],
        atol=1e-4,
    )


@pytest.mark.parametrize("library", ["pandas", "polars"])
@pytest.mark.parametrize("frozen", [False, True])
def test_a_foreign_encoder_of_a_frame_is_given_names(library, frozen):
    frames = pytest.importorskip(library)
    frame = frames.DataFrame({f"unit {j}": X[:, j] for j in range(X.shape[1])})
    encoder = DictionaryLearning(8, max_iter=2, transform_algorithm="lasso_lars", random_state=0)
    encoder = FrozenEstimator(encoder.fit(frame)) if frozen else encoder
    refiner = ITORefiner(encoder).fit(frame)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        codes = refiner.transform(frame)
    np.testing.assert_allclose(codes, ITORefiner(encoder).fit(X).transform(X), atol=1e-6)


def test_the_mean_of_a_foreign_encoder_is_its_offset():
    X = planted(100, 4, 8, 2, seed=3)[0] + 5.0
    pca = PCA(2).fit(X)
    refiner = ITORefiner(FrozenEstimator(pca), alpha=0.0, positive_code=False).fit(X)
    np.testing.assert_allclose(refiner.transform(X), pca.transform(X), atol=1e-10)
    np.testing.assert_allclose(
        refiner.inverse_transform(refiner.transform(X)),
        pca.inverse_transform(pca.transform(X)),
        rtol=1e-10,
    )


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("positive", [None, True, False])
def test_a_refiner_of_a_refiner_has_its_signs(frozen, positive):
    X = planted(100, 6, 12, 2, seed=4)[0]
    sae = SAEEncoder(12, max_iter=3, random_state=0)
    inner = ITORefiner(sae, alpha=0.05, positive_code=positive).fit(X)
    outer = ITORefiner(FrozenEstimator(inner) if frozen else inner, alpha=0.05).fit(X)
    assert outer.positive_code_ is (positive is not False)
    np.testing.assert_allclose(outer.transform(X), inner.transform(X), atol=1e-4)


def test_half_precision_of_frames():
    pandas = pytest.importorskip("pandas")
    sae = SAEEncoder(8, max_iter=2, random_state=0).fit(X)
    half = X.astype(np.float16)
    codes = sae.transform(pandas.DataFrame(half))
    assert codes.dtype == np.float32
    np.testing.assert_array_equal(codes, sae.transform(half))


def test_tags_and_routing_of_a_refiner():
    assert get_tags(ITORefiner(SAEEncoder(objective="codes"))).target_tags.required
    assert not get_tags(ITORefiner(SAEEncoder())).target_tags.required
    assert not get_tags(ITORefiner(dictionary=np.eye(2))).target_tags.required
    assert "codes" not in str(ITORefiner(SAEEncoder()).get_metadata_routing())


def test_two_threads_equal_one():
    estimators = [clone(e) for e in ESTIMATORS]
    alone = [clone(e).fit(X).transform(X) for e in estimators]
    together = joblib.Parallel(n_jobs=4, backend="threading")(
        joblib.delayed(lambda e: e.fit(X).transform(X))(e) for e in estimators
    )
    for a, b in zip(alone, together, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
