"""SAEs of other programs: files that they wrote, formulas in NumPy, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from foreign import N_COMPONENTS, N_FEATURES, Foreign, K, write
from problems import planted
from safetensors.numpy import load_file, save_file
from sklearn.frozen import FrozenEstimator

from sparsecode_estimators import ITORefiner, MLPEncoder, SAEEncoder
from sparsecode_estimators.formats import export, load, load_pretrained, save
from sparsecode_estimators.metrics import l0

DATA = Path(__file__).parent / "data"
# written by the programs themselves, with the codes that they gave: data/make_pretrained.py
WRITTEN = sorted(p.parent for p in DATA.glob("*/*/expected.safetensors"))
READ = [folder for folder in WRITTEN if folder.name != "skip_transcoder"]
ACTIVATIONS = ("relu", "topk", "abs_topk", "batch_topk", "jumprelu", "gated")
each_seed = pytest.mark.parametrize("seed", range(3))
each_centring = pytest.mark.parametrize("centred", [True, False])


def assert_same(sae, X, codes, reconstruction, *, rtol=1e-5):
    """Their codes, scaled, and their reconstructions."""
    ours = sae.transform(X)
    scaled = codes * sae.code_scale_
    np.testing.assert_allclose(ours, scaled, rtol=rtol, atol=rtol * np.abs(scaled).max())
    size = np.abs(reconstruction).max()
    np.testing.assert_allclose(sae.inverse_transform(ours), reconstruction, atol=rtol * size)


def fitted(activation, dtype=np.float32, **parameters):
    X = planted(400, 8, 16, 3, seed=70)[0].astype(dtype)
    k = 3 if "topk" in activation else None
    sae = SAEEncoder(
        16, activation=activation, n_nonzero_coefs=k, max_iter=10, random_state=0, **parameters
    )
    return sae.fit(X), X


@pytest.mark.parametrize("folder", READ, ids=lambda p: f"{p.parent.name}-{p.name}")
def test_files_of_the_programs(folder):
    expected = load_file(folder / "expected.safetensors")
    sae = load_pretrained(folder)
    # SAELens computes in 16 bits with such weights, we in 32
    rtol = 2e-2 if folder.name.endswith("bfloat16") else 1e-5
    assert_same(sae, expected["X"], expected["codes"], expected["reconstruction"], rtol=rtol)


def test_what_was_written_is_there():
    names = {p.parent.name for p in READ}
    assert names == {"saelens3", "saelens5", "saelens6", "sparsify", "dictionary_learning"}
    assert len(READ) == 38


@pytest.mark.parametrize("kind", ["relu", "topk", "topk_rescaled", "abs_topk", "jumprelu", "gated"])
@each_centring
@each_seed
def test_formulas_in_the_files_of_saelens(kind, centred, seed, tmp_path):
    theirs = Foreign(seed, centred=centred)
    sae = load_pretrained(theirs.saelens(tmp_path, kind))
    assert_same(sae, theirs.X, theirs.codes(kind), theirs.reconstruction(kind))
    lengths = np.linalg.norm(sae.components_, axis=1)
    if kind in ("topk", "abs_topk"):  # one length for all, or the choice would be another
        assert np.mean(lengths**2) == pytest.approx(1, rel=1e-5)
        assert np.ptp(sae.code_scale_) == 0
    else:
        np.testing.assert_allclose(lengths, 1, rtol=1e-5)
    if kind != "topk_rescaled":
        np.testing.assert_allclose(sae.components_ * sae.code_scale_[:, None], theirs.D, rtol=1e-5)
    assert sae.metadata_["model_name"] == "gpt2"


@pytest.mark.parametrize("kind", ["topk", "abs_topk"])
def test_formulas_in_the_files_of_sparsify(kind, tmp_path):
    theirs = Foreign(3)
    sae = load_pretrained(theirs.sparsify(tmp_path, kind))
    assert_same(sae, theirs.X, theirs.codes(kind), theirs.reconstruction(kind))


@pytest.mark.parametrize("compressed", [False, True])
def test_formulas_in_the_files_of_gemma_scope(compressed, tmp_path):
    theirs = Foreign(4, centred=False)
    sae = load_pretrained(theirs.gemma_scope(tmp_path, compressed=compressed))
    assert_same(sae, theirs.X, theirs.codes("jumprelu"), theirs.reconstruction("jumprelu"))
    np.testing.assert_allclose(np.linalg.norm(sae.components_, axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize(
    ("kind", "name", "centred", "keys"),
    [
        ("relu", "AutoEncoder", True, {"offset": "bias"}),
        ("relu", "AutoEncoderNew", False, {"offset": "decoder.bias"}),
        ("topk", "AutoEncoderTopK", True, {}),
        ("batch_topk", "BatchTopKSAE", True, {}),
        ("gated", "GatedAutoEncoder", True, {"bias": "gate_bias", "offset": "decoder_bias"}),
    ],
)
@pytest.mark.parametrize("ending", ["pt", "safetensors"])
def test_formulas_in_the_files_of_dictionary_learning(kind, name, centred, keys, ending, tmp_path):
    theirs = Foreign(5, centred=centred)
    tensors = theirs.linear(**keys)
    if "topk" in kind:
        tensors |= {"k": np.array(K), "threshold": theirs.theta[0]}
    if kind == "gated":
        tensors |= {"r_mag": theirs.r, "mag_bias": theirs.c2}
    config = {"trainer": {"dict_class": name}}
    write(tmp_path, "ae.safetensors", tensors, "config.json", config)
    if ending == "pt":
        (tmp_path / "ae.safetensors").unlink()
        state = {key: torch.tensor(np.ascontiguousarray(v)) for key, v in tensors.items()}
        torch.save(state, tmp_path / "ae.pt")
    sae = load_pretrained(tmp_path)
    assert_same(sae, theirs.X, theirs.codes(kind), theirs.reconstruction(kind))
    if "topk" not in kind:  # names of tensors that only one class has
        (tmp_path / "config.json").unlink()
        again = load_pretrained(tmp_path / f"ae.{ending}")
        np.testing.assert_array_equal(again.transform(theirs.X), sae.transform(theirs.X))


def test_turned_matrices_are_turned_back(tmp_path):
    theirs = Foreign(6)
    sae = load_pretrained(theirs.saelens(tmp_path, "relu", transposed=True))
    assert_same(sae, theirs.X, theirs.codes("relu"), theirs.reconstruction("relu"))


def test_half_precision_becomes_float32_and_double_stays(tmp_path):
    theirs = Foreign(7)
    for dtype, expected in ((np.float16, np.float32), (np.float64, np.float64)):
        folder = theirs.saelens(tmp_path / np.dtype(dtype).name, "relu")
        weights = folder / "sae_weights.safetensors"
        save_file({k: v.astype(dtype) for k, v in load_file(weights).items()}, weights)
        sae = load_pretrained(folder)
        assert sae.components_.dtype == sae.encoder_coefs_[0].dtype == expected
        assert sae.transform(theirs.X.astype(expected)).dtype == expected


def test_only_codes_with_a_number_are_rescaled(tmp_path):
    theirs = Foreign(7)
    sae = load_pretrained(theirs.saelens(tmp_path, "relu", rescale_acts_by_decoder_norm=True))
    assert_same(sae, theirs.X, theirs.codes("relu"), theirs.reconstruction("relu"))


def test_silent_atoms_stay_as_they_are(tmp_path):
    theirs = Foreign(8)
    theirs.D[3] = 0
    sae = load_pretrained(theirs.saelens(tmp_path, "relu"))
    assert_same(sae, theirs.X, theirs.codes("relu"), theirs.reconstruction("relu"))
    assert sae.code_scale_[3] == 1


@pytest.mark.parametrize("kind", ["relu", "topk", "topk_rescaled", "jumprelu", "gated"])
@each_centring
def test_scaled_rows_are_folded_in(kind, centred, tmp_path):
    theirs = Foreign(9, centred=centred)
    folder = theirs.saelens(tmp_path, kind, normalize_activations="expected_average_only_in")
    sae = load_pretrained(folder, activation_scale=0.25)
    # the SAE was made for theirs.X, which is a quarter of what the model computes
    assert_same(sae, theirs.X * 4, theirs.codes(kind), theirs.reconstruction(kind) * 4)
    as_it_is = load_pretrained(folder, activation_scale=1.0)
    assert_same(as_it_is, theirs.X, theirs.codes(kind), theirs.reconstruction(kind))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("expected_average_only_in", "give it as activation_scale"),
        (True, "give it as activation_scale"),
        ("layer_norm", "normalise them yourself"),
        ("constant_norm_rescale", "normalise them yourself"),
    ],
)
def test_normalised_rows_are_asked_for(value, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        load_pretrained(Foreign(0).saelens(tmp_path, "relu", normalize_activations=value))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_there_and_back_through_saelens(activation, dtype, tmp_path):
    sae, X = fitted(activation, dtype)
    export(FrozenEstimator(sae), tmp_path / "sae", metadata={"model_name": "tiny"})
    again = load_pretrained(tmp_path / "sae")
    assert again.activation == activation
    assert again.metadata_["model_name"] == "tiny"
    codes = sae.transform(X)
    np.testing.assert_allclose(again.transform(X), codes * again.code_scale_, rtol=1e-5, atol=1e-6)
    assert again.n_nonzero_coefs == sae.n_nonzero_coefs
    export(again, tmp_path / "sae")  # what is known of the model stays
    assert load_pretrained(tmp_path / "sae").metadata_["model_name"] == "tiny"


def test_nested_dictionaries_come_back(tmp_path):
    sae, X = fitted("batch_topk", prefix_sizes=(4, 8))
    export(sae, tmp_path / "sae")
    again = load_pretrained(tmp_path / "sae")
    assert again.prefix_sizes == [4, 8, 16]
    np.testing.assert_allclose(again.transform(X), sae.transform(X), rtol=1e-5, atol=1e-6)


def test_what_comes_in_can_be_saved(tmp_path):
    theirs = Foreign(10)
    sae = load_pretrained(theirs.saelens(tmp_path / "theirs", "gated"))
    save(sae, tmp_path / "ours")
    again = load(tmp_path / "ours")
    np.testing.assert_array_equal(again.transform(theirs.X), sae.transform(theirs.X))
    np.testing.assert_array_equal(again.code_scale_, sae.code_scale_)
    assert again.metadata_ == sae.metadata_


@pytest.mark.parametrize("kind", ["topk", "relu"])
def test_refined_at_matched_sparsity(kind, tmp_path):
    theirs = Foreign(11)
    sae = load_pretrained(theirs.saelens(tmp_path, kind))
    ito = ITORefiner(FrozenEstimator(sae)).fit(theirs.X)
    refined = ito.transform(theirs.X)
    assert ito.score(theirs.X) > sae.score(theirs.X)
    if kind == "topk":  # k came with the file
        assert l0(refined) <= K


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("how", ["warm_start", "partial_fit"])
def test_training_goes_on(activation, how, tmp_path):
    X = planted(2000, 8, 16, 3, seed=71)[0] * 5 + 2
    k = 3 if "topk" in activation else None
    first = SAEEncoder(
        16, activation=activation, n_nonzero_coefs=k, max_iter=4, random_state=0, batch_size=64
    ).fit(X)
    export(first, tmp_path / "sae")
    sae = load_pretrained(tmp_path / "sae").set_params(random_state=1, batch_size=64)
    before = sae.score(X)
    if how == "warm_start":
        sae.set_params(warm_start=True, max_iter=10).fit(X)
    else:
        for _ in range(10):
            sae.partial_fit(X)
    fresh = SAEEncoder(16, activation=activation, n_nonzero_coefs=k, max_iter=1, batch_size=64)
    assert sae.score(X) > before > fresh.set_params(random_state=1).fit(X).score(X)
    assert sae.n_iter_ == 10
    assert sae.alpha_ > 0
    np.testing.assert_allclose(np.linalg.norm(sae.components_, axis=1), 1, rtol=1e-5)


def test_no_alpha_is_made_up(tmp_path):
    sae = load_pretrained(Foreign(0).saelens(tmp_path, "relu"))
    assert not hasattr(sae, "alpha_")


def change(path, **entries):
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, **entries}))


def replace(path, **tensors):
    kept = {**load_file(path), **tensors}
    save_file({name: v for name, v in kept.items() if v is not None}, path)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"architecture": "temporal"}, "architecture is 'temporal'"),
        ({"architecture": ["a"]}, "architecture is"),
        ({"d_in": 5}, "d_in is 5, but"),
        ({"d_sae": "many"}, "d_sae is 'many'"),
        ({"architecture": "topk"}, "k is None"),
        ({"architecture": "topk", "k": True}, "k is True"),
        ({"architecture": "batchtopk", "k": -1}, "k is -1"),
        ({"activation_fn_str": "tanh-relu"}, "activation_fn_str is 'tanh-relu'"),
        ({"activation_fn": {}}, "activation_fn is"),
        ({"activation_fn": "topk", "activation_fn_kwargs": 3}, "activation_fn_kwargs is 3"),
        ({"apply_b_dec_to_input": "yes"}, "apply_b_dec_to_input is 'yes'"),
        ({"normalize_activations": 7}, "normalize_activations is 7"),
        ({"metadata": []}, "metadata is"),
        ({"architecture": "gated"}, "no tensor 'b_gate'"),
        ({"architecture": "jumprelu"}, "no tensor 'threshold'"),
    ],
)
def test_wrong_entries_of_saelens(entries, message, tmp_path):
    folder = Foreign(0).saelens(tmp_path, "relu")
    change(folder / "cfg.json", **entries)
    with pytest.raises(ValueError, match=message) as caught:
        load_pretrained(folder)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"W_enc": np.zeros((3, 4))}, r"W_enc has shape \(3, 4\), but must be \(12, 30\)"),
        ({"W_dec": None}, "no tensor 'W_dec', only"),
        ({"b_enc": np.zeros((2, 2))}, "b_enc has shape"),
        ({"b_dec": np.full(N_FEATURES, np.nan)}, "b_dec contains NaN"),
        ({"W_skip": np.zeros((2, 2))}, "'W_skip'.* do not belong"),
        ({"scaling_factor": np.full(N_COMPONENTS, 2.0)}, "scaling_factor is not 1"),
    ],
)
def test_wrong_tensors_of_saelens(tensors, message, tmp_path):
    folder = Foreign(0).saelens(tmp_path, "relu")
    replace(folder / "sae_weights.safetensors", **tensors)
    with pytest.raises(ValueError, match=message) as caught:
        load_pretrained(folder)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"activation": "groupmax"}, "activation is 'groupmax'"),
        ({"transcode": "yes"}, "transcode is 'yes'"),
        ({"skip_connection": True}, "no tensor 'W_skip'"),
        ({"k": 0}, "k is 0"),
        ({"d_in": 99}, "d_in is 99, but"),
    ],
)
def test_wrong_entries_of_sparsify(entries, message, tmp_path):
    folder = Foreign(0).sparsify(tmp_path)
    change(folder / "cfg.json", **entries)
    with pytest.raises(ValueError, match=message):
        load_pretrained(folder)


def test_two_classes_of_dictionary_learning_with_the_same_names(tmp_path):
    tensors = Foreign(0).linear() | {"k": np.array(K), "threshold": np.array(0.5)}
    write(tmp_path, "ae.safetensors", tensors, "config.json", {})
    with pytest.raises(ValueError, match=r"AutoEncoderTopK or a BatchTopKSAE.* config\.json"):
        load_pretrained(tmp_path)
    change(tmp_path / "config.json", trainer={"dict_class": "Unknown"})
    with pytest.raises(ValueError, match="dict_class is 'Unknown'"):
        load_pretrained(tmp_path)
    change(tmp_path / "config.json", trainer={"dict_class": "BatchTopKSAE", "k": K + 1})
    with pytest.raises(ValueError, match="k is 5, but the tensor k"):
        load_pretrained(tmp_path)


def test_paths_that_lead_to_nothing(tmp_path):
    with pytest.raises(FileNotFoundError, match="snapshot_download"):
        load_pretrained("google/gemma-scope-2b-pt-res")
    with pytest.raises(FileNotFoundError, match="give the folder of one SAE"):
        load_pretrained(tmp_path)
    folder = Foreign(0).saelens(tmp_path / "layer_3", "relu")
    with pytest.raises(FileNotFoundError, match="give the folder of one, as layer_3"):
        load_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"none of params\.npz"):
        load_pretrained(folder, format="gemma_scope")
    (folder / "cfg.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"cfg\.json"):
        load_pretrained(folder)
    (tmp_path / "weights.bin").write_bytes(b"")
    with pytest.raises(ValueError, match="set format"):
        load_pretrained(tmp_path / "weights.bin")
    save(fitted("relu")[0], tmp_path / "ours")
    with pytest.raises(FileNotFoundError, match="use load"):
        load_pretrained(tmp_path / "ours")


def test_files_of_other_names(tmp_path):
    theirs = Foreign(12, centred=False)
    folder = theirs.gemma_scope(tmp_path)
    (folder / "params.npz").rename(folder / "layer_5.npz")
    sae = load_pretrained(folder / "layer_5.npz")
    assert_same(sae, theirs.X, theirs.codes("jumprelu"), theirs.reconstruction("jumprelu"))
    folder = Foreign(12).saelens(tmp_path / "sae", "relu")
    (folder / "sae_weights.safetensors").rename(folder / "other.safetensors")
    load_pretrained(folder / "other.safetensors", format="saelens")


def test_wrong_parameters(tmp_path):
    folder = Foreign(0).saelens(tmp_path / "sae", "relu")
    with pytest.raises(ValueError, match="format='gguf' is unknown: choose 'auto', 'saelens'"):
        load_pretrained(folder, format="gguf")
    for scale in (0, -1.0, float("nan"), float("inf"), "1"):
        with pytest.raises(ValueError, match="activation_scale="):
            load_pretrained(folder, activation_scale=scale)
    sae, X = fitted("relu")
    with pytest.raises(ValueError, match="format='sparsify' cannot be written"):
        export(sae, tmp_path / "new", format="sparsify")
    for value, error in ((object(), TypeError), (float("nan"), ValueError)):
        with pytest.raises(error, match="JSON"):
            export(sae, tmp_path / "new" / "sub", metadata={"model_name": value})
    for other in (MLPEncoder(16, max_iter=1).fit(X), ITORefiner(sae).fit(X)):
        with pytest.raises(TypeError, match="only an SAEEncoder"):
            export(other, tmp_path / "new")
    assert not (tmp_path / "new").exists()
