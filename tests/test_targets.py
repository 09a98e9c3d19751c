"""Transcoders: codes of X that reconstruct other activations, ``fit(X, y)``."""

import itertools

import numpy as np
import pytest
import torch
from problems import planted
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from test_checkpoint import Interrupted, interrupt_after
from test_gradients import ALPHA, N, dense_codes, everything_alive, network
from test_training import VARIANTS, activated

from sparsecode_estimators import ITORefiner, MLPEncoder, SAEEncoder, UnrolledEncoder
from sparsecode_estimators.datasets import ActivationStore
from sparsecode_estimators.learning.activations import make_activation
from sparsecode_estimators.learning.codes import Workspace
from sparsecode_estimators.learning.dead import DeadLatents
from sparsecode_estimators.learning.encoders import SparseAutoencoder
from sparsecode_estimators.learning.gradients import factored, whole
from sparsecode_estimators.learning.unrolled import UnrolledAutoencoder
from sparsecode_estimators.metrics import (
    amortisation_gap,
    explained_variance,
    mcc_scorer,
    reconstruction_scorer,
)

# the same codes through two dictionaries, in spaces of different widths, offsets and scales
Y, CODES, D = planted(600, 7, 16, 2, seed=410)
INPUTS = planted(1, 10, 16, 2, seed=411)[2]
X = 30 * (CODES @ INPUTS) + 100
Y = Y + 3
TRAINED = [SAEEncoder, MLPEncoder, UnrolledEncoder]
ALL = [(cls, name) for cls in (SAEEncoder, MLPEncoder) for name in VARIANTS]
ALL += [(UnrolledEncoder, "relu"), (UnrolledEncoder, "topk")]
SMALL = {"objective": "targets", "max_iter": 5, "random_state": 0}
WIDTH, TARGETS = 7, 5  # of rows in `network`, and of what is reconstructed here


def transcoder(name, hidden=(), seed=0):
    """The network of `test_gradients`, with a decoder into another space."""
    model, x = network(name, hidden, seed)
    rng = np.random.default_rng([412, seed])
    y, decoder, offset = (
        torch.tensor(rng.standard_normal(shape))
        for shape in ((len(x), TARGETS), (N, TARGETS), (TARGETS,))
    )
    inputs = torch.tensor(rng.standard_normal(WIDTH))
    other = SparseAutoencoder(
        [*model.weights], [*model.biases], decoder, offset, model.activation, inputs
    )
    return other, x, y


def parameters(model):
    return [p for p, _ in model.encoder_parameters()] + [model.dictionary, model.offset]


def assert_gradients(step, loss, params):
    torch.testing.assert_close(step.loss, loss.detach())
    for parameter, wanted in zip(params, torch.autograd.grad(loss, params), strict=True):
        torch.testing.assert_close(step.gradients[parameter], wanted, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("few", [0.0, 1.0])
@pytest.mark.parametrize("hidden", [(), (9,)])
@pytest.mark.parametrize("name", ["relu", "topk", "abs_topk", "batch_topk", "jumprelu", "gated"])
def test_gradients_are_those_of_the_dense_loss(name, hidden, few, monkeypatch):
    for module in ("codes", "topk"):
        monkeypatch.setattr(f"sparsecode_estimators.learning.{module}.SPARSE_SHARE", few)
    model, x, y = transcoder(name, hidden)
    step = factored(model, x, ALPHA, everything_alive(), 0.5, Workspace(), target=y)
    below = x - model.input_offset
    for w, b in zip(model.weights[:-1], model.biases[:-1], strict=True):
        below = (below @ w.T + b).relu()
    v = below @ model.weights[-1].T + model.biases[-1]
    codes, penalty = dense_codes(name, model, v)
    loss = (penalty + 0.5 * (y - model.offset - codes @ model.dictionary).square().sum()) / len(x)
    if name == "gated":
        error = y - model.offset.detach() - v.relu() @ model.dictionary.detach()
        loss = loss + 0.5 * error.square().sum() / len(x)
    assert_gradients(step, loss, parameters(model))


@pytest.mark.parametrize("hidden", [(), (9,)])
def test_auxiliary_loss(hidden):
    model, x, y = transcoder("topk", hidden)
    silent = torch.zeros(N, dtype=torch.int64)
    silent[:6] = 99
    step = factored(model, x, ALPHA, DeadLatents(silent, 10, 3), 0.7, Workspace(), target=y)
    v = model.pre_activations(x)
    codes = dense_codes("topk", model, v)[0]
    error = y - model.offset - codes @ model.dictionary
    dead = v[:, :6].relu()
    guess = torch.where(dead >= dead.sort(dim=1).values[:, -3:][:, :1], dead, 0.0)
    left = error.detach() - guess @ model.dictionary[:6]
    loss = 0.5 * error.square().sum() / len(x)
    torch.testing.assert_close(step.loss, loss.detach())
    loss = loss + 0.7 * 0.5 * left.square().sum() / len(x)
    for p, wanted in zip(
        parameters(model), torch.autograd.grad(loss, parameters(model)), strict=True
    ):
        torch.testing.assert_close(step.gradients[p], wanted, rtol=1e-9, atol=1e-11)


def test_gradients_of_unrolled_steps():
    rng = np.random.default_rng(413)

    def random(*shape):
        return torch.tensor(rng.standard_normal(shape))

    x, y = random(30, WIDTH), random(30, TARGETS)
    model = UnrolledAutoencoder(
        [random(N, WIDTH) for _ in range(2)], [0.1 * random(N) for _ in range(2)], -random(2).abs(),
        random(N, TARGETS), random(TARGETS), make_activation("relu", None, x, ALPHA, bounded=False),
        analytic=False, input_offset=random(WIDTH), input_dictionary=random(N, WIDTH),
    )  # fmt: skip
    step = whole(model, x, None, ALPHA, parameters(model), target=y)
    codes = torch.zeros(30, N, dtype=torch.float64)
    for weight, bias, size in zip(model.weights, model.biases, model.log_step_sizes, strict=True):
        residual = x - model.input_offset - codes @ model.input_dictionary
        codes = (codes + size.exp() * (residual @ weight.T + bias)).relu()
    error = y - model.offset - codes @ model.dictionary
    loss = (0.5 * error.square().sum() + ALPHA * codes.sum()) / 30
    assert any(p is model.input_dictionary for p in parameters(model))
    assert_gradients(step, loss, parameters(model))


def reference_codes(encoder, X):
    """The forward pass from the attributes alone, in NumPy."""
    hidden = X - encoder.input_intercept_
    layers = list(zip(encoder.encoder_coefs_, encoder.encoder_intercepts_, strict=True))
    if isinstance(encoder, UnrolledEncoder):
        codes = np.zeros((len(X), encoder.n_components_))
        for (weight, bias), size in zip(layers, encoder.step_sizes_, strict=True):
            residual = hidden - codes @ encoder.input_components_
            codes = activated(encoder, codes + size * (residual @ weight + bias))
        return codes
    for weight, bias in layers[:-1]:
        hidden = np.maximum(hidden @ weight + bias, 0)
    return activated(encoder, hidden @ layers[-1][0] + layers[-1][1])


@pytest.mark.parametrize(("cls", "variant"), ALL)
def test_attributes_are_the_whole_transcoder(cls, variant):
    encoder = cls(16, **VARIANTS[variant], **SMALL).fit(X, Y)
    assert encoder.components_.shape == (16, 7)
    assert encoder.intercept_.shape == (7,)
    np.testing.assert_allclose(encoder.input_intercept_, X.mean(0), rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(encoder.components_, axis=1), 1, atol=1e-6)
    codes = encoder.transform(X)
    np.testing.assert_allclose(codes, reference_codes(encoder, X), rtol=1e-6, atol=1e-8)
    predicted = encoder.inverse_transform(codes)
    assert encoder.score(X, Y) == pytest.approx(explained_variance(Y, predicted))
    module = encoder.to_module(device="cpu")
    with torch.no_grad():
        np.testing.assert_allclose(module(torch.tensor(X)).numpy(), predicted, atol=1e-8)
    sparse = encoder.set_params(sparse_output=True).transform(X)
    np.testing.assert_allclose(sparse.toarray(), codes, atol=1e-10)


@pytest.mark.parametrize(("cls", "variant"), ALL)
def test_every_variant_learns(cls, variant):
    options = {**SMALL, "max_iter": 60}
    encoder = cls(16, **VARIANTS[variant], **options).fit(X, Y)
    assert encoder.score(X, Y) > 0.7
    assert encoder.history_["explained_variance"][-1] == pytest.approx(encoder.score(X, Y), abs=0.1)


def test_explains_more_than_the_best_linear_map_of_its_rank():
    """Reduced-rank regression is what a linear transcoder could come to at most."""
    centred, target = X - X.mean(0), Y - Y.mean(0)
    linear = centred @ np.linalg.lstsq(centred, target, rcond=None)[0]
    top = np.linalg.svd(linear, full_matrices=False)[2][:2]
    sae = SAEEncoder(16, activation="topk", n_nonzero_coefs=2, **{**SMALL, "max_iter": 150})
    assert sae.fit(X, Y).score(X, Y) > explained_variance(target, linear @ top.T @ top) + 0.1


@pytest.mark.parametrize("cls", TRAINED)
def test_scales_of_both_spaces_are_their_own(cls):
    base = cls(16, **SMALL).fit(X, Y)
    scaled = cls(16, **SMALL).fit(2.0**9 * X, 2.0**-4 * Y)
    np.testing.assert_allclose(
        scaled.transform(2.0**9 * X), 2.0**-4 * base.transform(X), rtol=1e-4, atol=1e-7
    )
    np.testing.assert_allclose(scaled.components_, base.components_, rtol=1e-4, atol=1e-6)
    assert scaled.alpha_ == pytest.approx(2.0**-4 * base.alpha_)
    assert scaled.loss_ == pytest.approx(2.0**-8 * base.loss_)


@pytest.mark.parametrize("cls", TRAINED)
def test_a_known_dictionary_is_one_of_y(cls):
    encoder = cls(dictionary=3 * D, **{**SMALL, "max_iter": 40}).fit(X, Y - 3)
    np.testing.assert_array_equal(encoder.components_, 3 * D)
    assert not encoder.intercept_.any()
    assert encoder.score(X, Y - 3) > 0.6
    with pytest.raises(ValueError, match=r"dictionary has shape \(16, 10\), but y has 7 features"):
        cls(dictionary=INPUTS, **SMALL).fit(X, Y)


@pytest.mark.parametrize("cls", TRAINED)
def test_warm_start_and_chunks(cls):
    options = {"shuffle": False, "learning_rate": "constant", "dead_after": 10**9}
    whole_fit = cls(16, **{**SMALL, "max_iter": 4}, **options).fit(X, Y)
    parts = cls(16, **SMALL, **options)
    for _ in range(4):
        parts.partial_fit(X, Y)
    np.testing.assert_allclose(parts.transform(X), whole_fit.transform(X), atol=1e-2)
    warm = cls(16, warm_start=True, **SMALL).fit(X, Y).fit(X, Y)
    assert warm.n_iter_ == 10
    assert warm.loss_curve_[5] < warm.loss_curve_[0]
    with pytest.raises(ValueError, match="y has 6 columns"):
        warm.fit(X, Y[:, :6])
    with pytest.raises(ValueError, match="set warm_start=False"):
        warm.set_params(objective="reconstruction").fit(X)
    warm.set_params(warm_start=False).fit(X)
    assert not hasattr(warm, "input_intercept_")
    assert warm.score(X) == pytest.approx(
        explained_variance(X, warm.inverse_transform(warm.transform(X)))
    )
    with pytest.raises(ValueError, match="set warm_start=False"):
        warm.set_params(warm_start=True, objective="targets").fit(X, Y)


@pytest.mark.parametrize("cls", TRAINED)
def test_dead_latents_come_back(cls):
    options = {**SMALL, "max_iter": 60, "aux_alpha": 0.0}
    encoder = cls(16, warm_start=True, **options).fit(X, Y)
    coefs, biases = encoder.encoder_coefs_[-1], encoder.encoder_intercepts_[-1]
    coefs[:, :5], biases[:5] = 0.0, -1000.0
    encoder._silent_for[:5] = 10**9
    assert (encoder.transform(X)[:, :5] == 0).all()
    assert len(encoder.fit(X, Y).dead_latents_) == 0
    assert encoder.score(X, Y) > 0.7


KINDS = ["array", "tensor", "memmap", "float16", "store"]


def of_kind(kind, rows, folder, name):
    rows = rows.astype(np.float32)
    if kind == "tensor":
        return torch.tensor(rows)
    if kind == "store":
        store = ActivationStore.create(folder / name, rows.shape[1], dtype="float32")
        with store.writer() as writer:
            writer.append(rows)
        return ActivationStore(folder / name)
    if kind == "array":
        return rows
    np.save(folder / f"{name}.npy", rows.astype(np.float16) if kind == "float16" else rows)
    return np.load(folder / f"{name}.npy", mmap_mode="r")


@pytest.mark.parametrize(("of_x", "of_y"), [*itertools.product(["array", "memmap"], KINDS),
                                            ("store", "store"), ("tensor", "tensor")])  # fmt: skip
def test_all_kinds_of_data_give_what_arrays_give(of_x, of_y, tmp_path):
    sae = SAEEncoder(16, shuffle=False, **SMALL)
    rows, targets = of_kind(of_x, X, tmp_path, "X"), of_kind(of_y, Y, tmp_path, "y")
    sae.fit(rows, targets)
    codes = np.asarray(sae.transform(rows))
    plain = SAEEncoder(16, shuffle=False, **SMALL).fit(X.astype(np.float32), Y.astype(np.float32))
    np.testing.assert_allclose(codes, plain.transform(X.astype(np.float32)), atol=0.02)
    assert sae.score(rows, targets) == pytest.approx(plain.score(X, Y), abs=1e-3)


def test_rows_and_targets_are_sampled_together(tmp_path):
    """A map in a file is sampled in blocks, an array is not; both together have to agree."""
    n = 40_000  # more than the sample of the start
    x = np.random.default_rng(414).standard_normal((n, 3)).astype(np.float32)
    np.save(tmp_path / "X.npy", x)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    options = {"objective": "targets", "max_iter": 1, "learning_rate_init": 1e-9, "random_state": 0}
    scores = [SAEEncoder(24, **options).fit(rows, x[:, ::-1]).score(x, x[:, ::-1])
              for rows in (x, mapped)]  # fmt: skip
    # untrained: rows beside the targets of others would explain nothing
    assert scores[1] == pytest.approx(scores[0], abs=0.1)


@pytest.mark.parametrize("cls", TRAINED)
def test_interrupted_runs_go_on(cls, tmp_path, monkeypatch):
    options = {**SMALL, "batch_size": 64, "checkpoint": tmp_path, "checkpoint_steps": 3}
    uninterrupted = cls(16, **{**SMALL, "batch_size": 64}).fit(X, Y)
    with monkeypatch.context() as patch:
        interrupt_after(patch, 20)
        with pytest.raises(Interrupted):
            cls(16, **options).fit(X, Y)
    resumed = cls(16, **options).fit(X, Y)
    np.testing.assert_array_equal(resumed.transform(X), uninterrupted.transform(X))
    other = cls(16, **options).fit(X, -Y)  # other targets are another run
    assert np.abs(other.transform(X) - resumed.transform(X)).max() > 0.01


def test_searches_and_scorers():
    sae = SAEEncoder(16, activation="topk", **{**SMALL, "max_iter": 20})
    grid = {"n_nonzero_coefs": [1, 3]}
    search = GridSearchCV(sae, grid, cv=2, error_score="raise").fit(X, Y)
    assert search.best_params_ == {"n_nonzero_coefs": 3}
    by_scorer = GridSearchCV(sae, grid, cv=2, scoring=reconstruction_scorer, error_score="raise")
    np.testing.assert_allclose(
        by_scorer.fit(X, Y).cv_results_["mean_test_score"], search.cv_results_["mean_test_score"]
    )
    pipeline = make_pipeline(StandardScaler(), sae).fit(X, Y)
    assert reconstruction_scorer(pipeline, X, Y) == pipeline.score(X, Y)
    with pytest.raises(ValueError, match="use reconstruction_scorer"):
        mcc_scorer(pipeline, X, Y)


@pytest.mark.parametrize("cls", TRAINED)
def test_mistakes_are_named(cls):
    with pytest.raises(ValueError, match=r"requires y.*fit\(X, y\)"):
        cls(**SMALL).fit(X)
    with pytest.raises(ValueError, match="X has 600 rows but y has 7"):
        cls(**SMALL).fit(X, Y[:7])
    encoder = cls(16, **SMALL).fit(X, Y)
    with pytest.raises(ValueError, match=r"requires y.*score\(X, y\)"):
        encoder.score(X)
    with pytest.raises(ValueError, match="y has 6 columns"):
        encoder.score(X, Y[:, :6])
    for value, name in ((np.nan, "NaN"), (np.inf, "infinity")):
        bad = Y.copy()
        bad[3, 2] = value
        with pytest.raises(ValueError, match=name):
            cls(**SMALL).fit(X, bad)
    with pytest.raises(ValueError, match="cannot be refined from X alone"):
        ITORefiner(cls(16, **SMALL)).fit(X, Y)
    with pytest.raises(ValueError, match="is one of y and not of X"):
        amortisation_gap(encoder, X)


def test_frozen_transcoders_are_not_refined():
    from sklearn.frozen import FrozenEstimator

    frozen = FrozenEstimator(SAEEncoder(16, **SMALL).fit(X, Y))
    with pytest.raises(ValueError, match="cannot be refined from X alone"):
        ITORefiner(frozen).fit(X)
