"""Transcoders of other programs: into encoders that predict other activations, and back."""

import json

import numpy as np
import pytest
from foreign import N_COMPONENTS, N_FEATURES, Foreign, K, largest, relu, write
from safetensors.numpy import load_file, save_file
from test_pretrained import DATA, assert_same, change, replace

from sparsecode_estimators import ITORefiner, SAEEncoder
from sparsecode_estimators.formats import export, load, load_pretrained, save
from sparsecode_estimators.metrics import explained_variance

N_TARGETS = 7
WEIGHTS = "sae_weights.safetensors"
PLACES = {"hook_name": "ln2", "hook_name_out": "mlp_out"}


def theirs(seed):
    """Random weights of a transcoder between spaces of two widths."""
    weights = Foreign(seed, centred=False)
    weights.D, weights.b = weights.D[:, :N_TARGETS], weights.b[:N_TARGETS]
    return weights


def codes_of(weights, kind):
    v = weights.X @ weights.W + weights.c  # b is in the other space
    return v * (v > weights.theta) if kind == "jumprelu_transcoder" else relu(v)


def saelens(folder, weights, kind, **changes):
    tensors = {"W_enc": weights.W, "b_enc": weights.c, "W_dec": weights.D, "b_dec": weights.b}
    if "jumprelu" in kind:
        tensors["threshold"] = weights.theta
    config = {
        "architecture": kind, "d_in": N_FEATURES, "d_sae": N_COMPONENTS, "d_out": N_TARGETS,
        "dtype": "float32", "apply_b_dec_to_input": False, "normalize_activations": "none",
        "metadata": {"sae_lens_version": "6.54.12", **PLACES}, **changes,
    }  # fmt: skip
    return write(folder, WEIGHTS, tensors, "cfg.json", config)


@pytest.mark.parametrize("kind", ["transcoder", "jumprelu_transcoder"])
@pytest.mark.parametrize("seed", range(3))
def test_formulas_in_the_files_of_saelens(kind, seed, tmp_path):
    weights = theirs(seed)
    sae = load_pretrained(saelens(tmp_path, weights, kind))
    assert sae.objective == "targets"
    assert sae.n_features_in_ == N_FEATURES
    codes = codes_of(weights, kind)
    assert_same(sae, weights.X, codes, codes @ weights.D + weights.b)
    np.testing.assert_allclose(np.linalg.norm(sae.components_, axis=1), 1, rtol=1e-5)
    assert sae.metadata_["hook_name_out"] == "mlp_out"
    y = codes @ weights.D + np.random.RandomState(seed).randn(len(codes), N_TARGETS)
    wanted = explained_variance(y, codes @ weights.D + weights.b)
    assert sae.score(weights.X, y) == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("kind", ["skip_transcoder", "jumprelu_skip_transcoder"])
def test_what_goes_around_the_latents_has_no_place(kind, tmp_path):
    weights = theirs(3)
    folder = saelens(tmp_path, weights, kind)
    with pytest.raises(ValueError, match="no tensor 'W_skip'"):
        load_pretrained(folder)
    replace(folder / WEIGHTS, W_skip=np.ones((N_TARGETS, 2), np.float32))
    with pytest.raises(ValueError, match="W_skip has shape"):
        load_pretrained(folder)
    skip = np.zeros((N_TARGETS, N_FEATURES), np.float32)
    skip[2, 3] = 0.5
    replace(folder / WEIGHTS, W_skip=skip)
    with pytest.raises(
        ValueError, match=r"W_skip is not zero.* no SAEEncoder has a place"
    ) as caught:
        load_pretrained(folder)
    assert str(folder) in str(caught.value)
    replace(folder / WEIGHTS, W_skip=0 * skip)  # as SAELens makes it: nothing goes around
    codes = codes_of(weights, kind.replace("skip_", ""))
    assert_same(load_pretrained(folder), weights.X, codes, codes @ weights.D + weights.b)


@pytest.mark.parametrize("skip", [False, True])
def test_formulas_in_the_files_of_sparsify(skip, tmp_path):
    weights = Foreign(4, centred=False)
    folder = weights.sparsify(tmp_path, transcode=True, skip_connection=skip)
    if skip:
        around = np.zeros((N_FEATURES, N_FEATURES), np.float32)
        replace(folder / "sae.safetensors", W_skip=around + 1)
        with pytest.raises(ValueError, match=r"W_skip is not zero.* y - X @ W_skip\.T"):
            load_pretrained(folder)
        replace(folder / "sae.safetensors", W_skip=around)
    sae = load_pretrained(folder)
    assert sae.objective == "targets"
    codes = relu(largest(weights.X @ weights.W + weights.c, K))
    assert_same(sae, weights.X, codes, codes @ weights.D + weights.b)


def test_a_skip_connection_of_an_sae_is_refused_as_well(tmp_path):
    folder = Foreign(4).sparsify(tmp_path, skip_connection=True)
    replace(folder / "sae.safetensors", W_skip=np.eye(N_FEATURES, dtype=np.float32))
    with pytest.raises(ValueError, match="W_skip is not zero"):
        load_pretrained(folder)
    change(folder / "cfg.json", skip_connection=False)
    with pytest.raises(ValueError, match=r"'W_skip'.* do not belong"):
        load_pretrained(folder)


def test_skip_transcoders_that_saelens_wrote():
    with pytest.raises(ValueError, match="W_skip is not zero"):
        load_pretrained(DATA / "saelens6" / "skip_transcoder")


def test_files_that_do_not_say_it(tmp_path):
    weights = Foreign(5, centred=False)
    folder = weights.gemma_scope(tmp_path)
    sae = load_pretrained(folder, objective="targets")
    assert sae.objective == "targets"
    assert load_pretrained(folder).objective == "reconstruction"
    assert_same(sae, weights.X, weights.codes("jumprelu"), weights.reconstruction("jumprelu"))
    with pytest.raises(ValueError, match="objective='codes' is unknown: choose 'auto'"):
        load_pretrained(folder, objective="codes")


@pytest.mark.parametrize("centred", [True, False])
def test_an_sae_that_writes_elsewhere_is_one(centred, tmp_path):
    """By ``hook_name_out`` SAELens itself knows where the output goes."""
    weights = Foreign(6, centred=centred)
    sae = load_pretrained(weights.saelens(tmp_path / "a", "topk", metadata=PLACES))
    assert sae.objective == "targets"
    assert_same(sae, weights.X, weights.codes("topk"), weights.reconstruction("topk"))
    same = {"hook_name": "ln2", "hook_name_out": "ln2"}
    for metadata in (same, {**same, "hook_name_out": None}):
        folder = weights.saelens(tmp_path / "b", "topk", metadata=metadata)
        assert load_pretrained(folder).objective == "reconstruction"


def test_only_rows_are_scaled(tmp_path):
    weights = theirs(7)
    folder = saelens(
        tmp_path, weights, "jumprelu_transcoder", normalize_activations="expected_average_only_in"
    )
    with pytest.raises(ValueError, match="give it as activation_scale"):
        load_pretrained(folder)
    sae = load_pretrained(folder, activation_scale=0.25)
    codes = codes_of(weights, "jumprelu_transcoder")
    assert_same(sae, 4 * weights.X, codes, codes @ weights.D + weights.b)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"d_in": None}, "d_in is None"),
        ({"d_in": 99}, r"W_enc has shape \(12, 30\), but must be \(99, 30\)"),
        ({"d_out": 99}, "d_out is 99, but .* say 7"),
        ({"d_sae": 99}, "d_sae is 99, but .* say 30"),
        ({"apply_b_dec_to_input": True}, "apply_b_dec_to_input is true.* must be false"),
        ({"activation_fn": "topk", "activation_fn_kwargs": {"k": 3}}, "activation_fn is 'topk'"),
    ],
)
def test_wrong_entries(changes, message, tmp_path):
    folder = saelens(tmp_path, theirs(0), "transcoder", **changes)
    with pytest.raises(ValueError, match=message) as caught:
        load_pretrained(folder)
    assert str(folder) in str(caught.value)


def fitted(activation, dtype=np.float32, width=N_TARGETS):
    """With rows far from zero, so that their offset matters."""
    rng = np.random.RandomState(8)
    X = (3 * rng.randn(400, N_FEATURES) + 20).astype(dtype)
    y = relu(X @ rng.randn(N_FEATURES, width) / 5).astype(dtype)
    k = 3 if "topk" in activation else None
    sae = SAEEncoder(
        16, activation=activation, n_nonzero_coefs=k, objective="targets", max_iter=10,
        random_state=0, precision=np.dtype(dtype).name,
    )  # fmt: skip
    return sae.fit(X, y), X, y


@pytest.mark.parametrize("activation", ["relu", "jumprelu", "batch_topk"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_there_and_back_through_saelens(activation, dtype, tmp_path):
    sae, X, y = fitted(activation, dtype)
    export(sae, tmp_path / "sae", metadata=PLACES)
    config = json.loads((tmp_path / "sae" / "cfg.json").read_text())
    assert config["architecture"] == f"{'' if activation == 'relu' else 'jumprelu_'}transcoder"
    assert (config["d_in"], config["d_out"]) == (N_FEATURES, N_TARGETS)
    again = load_pretrained(tmp_path / "sae")
    assert (again.activation, again.objective) == (activation, "targets")
    codes = sae.transform(X)
    size = codes.max() * (1e-5 if dtype == np.float32 else 1e-12)
    np.testing.assert_allclose(again.transform(X), codes * again.code_scale_, rtol=1e-5, atol=size)
    assert again.score(X, y) == pytest.approx(sae.score(X, y), abs=1e-5)


@pytest.mark.parametrize("activation", ["topk", "abs_topk", "gated"])
def test_kinds_that_saelens_has_as_sae_only(activation, tmp_path):
    sae, X, _ = fitted(activation)
    with pytest.raises(ValueError, match=f"activation='{activation}'.* 12 features, y 7"):
        export(sae, tmp_path / "sae", metadata=PLACES)
    sae, X, y = fitted(activation, width=N_FEATURES)
    with pytest.raises(ValueError, match="hook_name_out is None"):
        export(sae, tmp_path / "sae")
    assert not (tmp_path / "sae").exists()
    export(sae, tmp_path / "sae", metadata=PLACES)
    again = load_pretrained(tmp_path / "sae")
    assert (again.activation, again.objective) == (activation, "targets")
    codes = sae.transform(X)
    np.testing.assert_allclose(
        again.transform(X), codes * again.code_scale_, rtol=1e-5, atol=1e-5 * codes.max()
    )
    assert again.score(X, y) == pytest.approx(sae.score(X, y), abs=1e-5)


@pytest.mark.parametrize("activation", ["relu", "jumprelu", "batch_topk"])
@pytest.mark.parametrize("how", ["warm_start", "partial_fit"])
def test_training_goes_on(activation, how, tmp_path):
    """Scales of both spaces are measured on the first rows, which are large and small here."""
    sae, X, y = fitted(activation)
    export(sae, tmp_path / "sae")
    weights = load_file(tmp_path / "sae" / WEIGHTS)
    weights["W_enc"] /= 1000
    if activation != "relu":
        weights["threshold"] /= 100
    small = {name: weights[name] / 100 for name in ("b_enc", "b_dec")}
    weights["W_enc"] /= 100
    save_file({**weights, **small}, tmp_path / "sae" / WEIGHTS)
    X, y = 1000 * X, y / 100
    again = load_pretrained(tmp_path / "sae").set_params(random_state=0, batch_size=64)
    before = again.score(X, y)
    assert before == pytest.approx(sae.score(X / 1000, 100 * y), abs=1e-4)
    if how == "warm_start":
        again.set_params(warm_start=True, max_iter=30).fit(X, y)
    else:
        for _ in range(30):
            again.partial_fit(X, y)
    assert again.score(X, y) > before
    with pytest.raises(ValueError, match="set warm_start=False"):
        again.set_params(warm_start=True, objective="reconstruction").fit(X)


def test_what_comes_in_can_be_saved_and_is_not_refined(tmp_path):
    weights = theirs(9)
    sae = load_pretrained(saelens(tmp_path / "theirs", weights, "jumprelu_transcoder"))
    save(sae, tmp_path / "ours")
    again = load(tmp_path / "ours")
    np.testing.assert_array_equal(again.transform(weights.X), sae.transform(weights.X))
    with pytest.raises(ValueError, match="cannot be refined from X alone"):
        ITORefiner(sae).fit(weights.X)
