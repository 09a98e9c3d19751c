"""The random encoder: of the shape and sparsity of another, with nothing learned in it."""

import numpy as np
import pandas as pd
import pytest
import torch
from problems import planted
from scipy import sparse
from sklearn.decomposition import DictionaryLearning
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sparsecode_estimators import (
    ITORefiner,
    MLPEncoder,
    SAEEncoder,
    SparseCodingEncoder,
    UnrolledEncoder,
)
from sparsecode_estimators.datasets import ActivationStore
from sparsecode_estimators.interpret import iter_codes, random_encoder, untrained
from sparsecode_estimators.metrics import l0

X = 3 * planted(600, 10, 40, 2, seed=500)[0] + 5
SMALL = {"max_iter": 15, "random_state": 0}
K = {"n_nonzero_coefs": 4}
TOPK = SAEEncoder(40, activation="topk", **K, **SMALL)
ENCODERS = {
    "relu": (SAEEncoder(40, **SMALL), "batch_topk"),
    "topk": (TOPK, "topk"),
    "abs_topk": (SAEEncoder(40, activation="abs_topk", **K, **SMALL), "abs_topk"),
    "batch_topk": (SAEEncoder(40, activation="batch_topk", **K, **SMALL), "batch_topk"),
    "jumprelu": (SAEEncoder(40, activation="jumprelu", **SMALL), "batch_topk"),
    "gated": (SAEEncoder(40, activation="gated", **SMALL), "batch_topk"),
    "mlp": (MLPEncoder(40, hidden_layer_sizes=(12,), **SMALL), "batch_topk"),
    "unrolled": (UnrolledEncoder(40, **SMALL), "batch_topk"),
    "lasso": (SparseCodingEncoder(40, alpha=1.0, **SMALL), "batch_topk"),
    "signed lasso": (SparseCodingEncoder(40, alpha=1.0, positive_code=False, **SMALL), "abs_topk"),
    "omp": (SparseCodingEncoder(40, **K, **SMALL), "topk"),
    "refined topk": (ITORefiner(TOPK), "topk"),
    "refined relu": (ITORefiner(SAEEncoder(40, **SMALL)), "batch_topk"),
}


@pytest.mark.parametrize("name", ENCODERS)
def test_same_shape_offset_and_sparsity(name):
    encoder, activation = ENCODERS[name]
    encoder = encoder.fit(X)
    control = random_encoder(encoder, X, random_state=1)
    assert control.activation == activation
    assert control.components_.shape == encoder.components_.shape
    np.testing.assert_array_equal(control.intercept_, encoder.intercept_)
    codes, wanted = control.transform(X), l0(encoder.transform(X))
    if activation == "batch_topk":  # a product at the threshold may round to either side
        assert abs(l0(codes) - wanted) <= 2 / len(X)
    else:
        assert (np.count_nonzero(codes, axis=1) == round(wanted)).all()
    frozen = random_encoder(FrozenEstimator(encoder), X, random_state=1)
    np.testing.assert_array_equal(frozen.transform(X), codes)


@pytest.mark.parametrize("name", ["topk", "relu"])
def test_codes_are_products_with_atoms_on_the_sphere(name):
    encoder = ENCODERS[name][0].fit(X)
    control = random_encoder(encoder, X, random_state=1)
    D = control.components_
    np.testing.assert_allclose(np.linalg.norm(D, axis=1), 1)
    products = (X - encoder.intercept_) @ D.T
    kept = np.zeros_like(products)
    if name == "topk":
        places = np.argsort(-products, axis=1)[:, :4]
        np.put_along_axis(kept, places, np.take_along_axis(products, places, 1), 1)
    else:
        least = np.sort(products, axis=None)[-np.count_nonzero(encoder.transform(X))]
        kept = np.where(products >= least * (1 - 1e-12), products, 0)
    np.testing.assert_allclose(control.transform(X), np.maximum(kept, 0), atol=1e-10)
    assert control.score(X) < encoder.score(X)


def test_atoms_have_no_direction_in_common_and_follow_the_seed():
    wide = SAEEncoder(4000, activation="topk", **K, max_iter=1).fit(X)
    D = random_encoder(wide, X, random_state=2).components_
    # of uniform directions: E d = 0, E ddᵀ = I/10, within some standard errors
    assert np.abs(D.mean(0)).max() < 5 / np.sqrt(10 * 4000)
    assert np.abs(D.T @ D / 4000 - np.eye(10) / 10).max() < 0.01
    same, other = (random_encoder(wide, X, random_state=seed).components_ for seed in (2, 3))
    np.testing.assert_array_equal(same, D)
    assert np.abs(other - D).max() > 0.1


@pytest.mark.parametrize("block", [7, 1024])
def test_thresholds_do_not_depend_on_blocks(block, monkeypatch):
    encoder = ENCODERS["relu"][0].fit(X)
    whole = random_encoder(encoder, X, random_state=0).threshold_
    monkeypatch.setattr(untrained, "_ROWS", block)
    np.testing.assert_allclose(random_encoder(encoder, X, random_state=0).threshold_, whole)


def test_all_kinds_of_rows(tmp_path):
    rows = X.astype(np.float32)
    encoder = ENCODERS["relu"][0].fit(rows)
    wanted = random_encoder(encoder, rows, random_state=0)
    assert wanted.components_.dtype == wanted.threshold_.dtype == np.float32
    np.save(tmp_path / "X.npy", rows)
    store = ActivationStore.create(tmp_path / "store", rows.shape[1], dtype="float32")
    with store.writer() as writer:
        writer.append(rows)
    for given in (
        torch.tensor(rows), np.load(tmp_path / "X.npy", mmap_mode="r"), sparse.csr_array(rows),
        ActivationStore(tmp_path / "store"),
    ):  # fmt: skip
        control = random_encoder(encoder, given, random_state=0)
        np.testing.assert_allclose(control.threshold_, wanted.threshold_, rtol=1e-5)
    frame = pd.DataFrame(rows, columns=[f"f{i}" for i in range(rows.shape[1])])
    encoder = ENCODERS["relu"][0].fit(frame).set_output(transform="pandas")
    control = random_encoder(encoder, frame, random_state=0)
    np.testing.assert_allclose(control.threshold_, wanted.threshold_, rtol=1e-5)
    assert list(control.feature_names_in_) == list(frame.columns)


def test_of_many_rows_some_are_enough():
    encoder = ENCODERS["relu"][0].fit(X)
    many = np.random.default_rng(4).permutation(np.tile(X, (60, 1)))
    control = random_encoder(encoder, many, random_state=0)
    assert l0(control.transform(many)) == pytest.approx(l0(encoder.transform(many)), rel=0.02)


def test_sparse_codes_stay_sparse():
    encoder = ENCODERS["relu"][0].fit(X).set_params(sparse_output=True)
    control = random_encoder(encoder, X, random_state=0)
    assert sparse.issparse(control.transform(X))
    assert sum(block.nnz for block in iter_codes(control, X)) > 0
    assert not random_encoder(encoder.set_params(sparse_output=False), X).sparse_output


def test_of_a_transcoder_it_is_one_of_the_rows():
    encoder = SAEEncoder(40, objective="targets", **SMALL).fit(X, X[:, :4] ** 2)
    control = random_encoder(encoder, X, random_state=0)
    assert control.objective == "reconstruction"
    assert control.components_.shape == (40, 10)
    np.testing.assert_array_equal(control.intercept_, encoder.input_intercept_)
    assert abs(l0(control.transform(X)) - l0(encoder.transform(X))) <= 2 / len(X)


def test_estimators_of_others():
    encoder = DictionaryLearning(12, max_iter=2, transform_algorithm="omp",
                                 transform_n_nonzero_coefs=2, random_state=0).fit(X)  # fmt: skip
    control = random_encoder(encoder, X, random_state=0)
    assert control.activation == "abs_topk"
    assert l0(control.transform(X)) == 2
    assert not control.intercept_.any()


def test_mistakes_are_named():
    encoder = SAEEncoder(40, activation="topk", **K, **SMALL)
    with pytest.raises(NotFittedError):
        random_encoder(encoder, X)
    pipeline = make_pipeline(StandardScaler(), encoder).fit(X)
    with pytest.raises(TypeError, match=r"give its last step, pipeline\[-1\]"):
        random_encoder(pipeline, X)
    random_encoder(pipeline[-1], pipeline[:-1].transform(X))
    with pytest.raises(TypeError, match=r"estimator \(int\) has no transform"):
        random_encoder(3, X)
    with pytest.raises(TypeError, match="has no components_"):
        random_encoder(StandardScaler().fit(X), X)
    with pytest.raises(ValueError, match="features"):
        random_encoder(encoder, X[:, :5])
    silent = SAEEncoder(40, **SMALL).fit(X)
    silent.encoder_intercepts_ = [np.full(40, -1e6)]
    with pytest.raises(ValueError, match="no sparsity to match"):
        random_encoder(silent, X)
