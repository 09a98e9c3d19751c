"""Against SAELens itself, where it is installed (sae-lens 6): files written here and there."""

import warnings

import numpy as np
import pytest
import torch
from foreign import N_COMPONENTS, N_FEATURES, K
from problems import planted

from sparsecode_estimators import SAEEncoder
from sparsecode_estimators.formats import export, load_pretrained

pytestmark = pytest.mark.slow
ACTIVATIONS = ("relu", "topk", "abs_topk", "batch_topk", "jumprelu", "gated")
TRANSCODERS = (
    "transcoder", "jumprelu_transcoder", "skip_transcoder", "jumprelu_skip_transcoder",
)  # fmt: skip
ARCHITECTURES = ("standard", "topk", "abstopk", "jumprelu", "gated", "batchtopk")


@pytest.fixture(scope="module")
def sae_lens():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own dependencies
        return pytest.importorskip("sae_lens", minversion="6")


def answers(sae, X):
    with torch.no_grad():
        codes = sae.encode(torch.from_numpy(X))
        return codes.numpy(), sae.decode(codes).numpy()


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_it_loads_ours_and_ours_loads_its(sae_lens, activation, dtype, tmp_path):
    X = (planted(2000, 16, 48, 4, seed=80)[0] * 3 + 1).astype(dtype)
    k = 4 if "topk" in activation else None
    ours = SAEEncoder(
        48, activation=activation, n_nonzero_coefs=k, max_iter=10, random_state=0,
        precision=np.dtype(dtype).name,
    ).fit(X)  # fmt: skip
    export(ours, tmp_path / "ours", metadata={"model_name": "tiny", "hook_name": "h"})
    theirs = sae_lens.SAE.load_from_disk(tmp_path / "ours")
    codes, reconstruction = answers(theirs, X)
    expected = ours.transform(X)
    np.testing.assert_allclose(codes, expected, rtol=1e-5, atol=1e-5 * expected.max())
    np.testing.assert_allclose(reconstruction, ours.inverse_transform(expected), atol=1e-4)
    assert theirs.cfg.metadata.model_name == "tiny"

    theirs.save_model(tmp_path / "theirs")  # and back
    again = load_pretrained(tmp_path / "theirs")
    assert again.activation == activation
    scaled = codes * again.code_scale_
    np.testing.assert_allclose(again.transform(X), scaled, rtol=1e-5, atol=1e-5 * scaled.max())


@pytest.mark.parametrize("activation", ["relu", "jumprelu", "batch_topk"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_it_loads_our_transcoders_and_ours_loads_them_back(sae_lens, activation, dtype, tmp_path):
    X, Y, ours = transcoder(activation, dtype, 9)
    export(ours, tmp_path / "ours", metadata={"hook_name": "in", "hook_name_out": "out"})
    theirs = sae_lens.SAE.load_from_disk(tmp_path / "ours")
    assert type(theirs).__name__ == ("" if activation == "relu" else "JumpReLU") + "Transcoder"
    assert theirs.cfg.metadata.hook_name_out == "out"
    assert_same_answers(theirs, ours, X)

    theirs.save_model(tmp_path / "theirs")  # and back
    again = load_pretrained(tmp_path / "theirs")
    assert (again.activation, again.objective) == (activation, "targets")
    assert_same_answers(theirs, again, X)
    assert again.score(X, Y) == pytest.approx(ours.score(X, Y), abs=1e-5)


@pytest.mark.parametrize("activation", ["topk", "abs_topk", "gated"])
def test_between_spaces_of_one_width_it_takes_an_sae_for_a_transcoder(
    sae_lens, activation, tmp_path
):
    X, _, ours = transcoder(activation, np.float32, 16)
    export(ours, tmp_path / "ours", metadata={"hook_name": "in", "hook_name_out": "out"})
    theirs = sae_lens.SAE.load_from_disk(tmp_path / "ours")
    assert theirs.cfg.metadata.hook_name_out == "out"
    assert_same_answers(theirs, ours, X)
    theirs.save_model(tmp_path / "theirs")
    again = load_pretrained(tmp_path / "theirs")
    assert (again.activation, again.objective) == (activation, "targets")
    assert_same_answers(theirs, again, X)


def transcoder(activation, dtype, n_targets):
    X, codes, _ = planted(2000, 16, 48, 4, seed=82)
    Y = codes @ planted(1, n_targets, 48, 4, seed=83)[2]
    X, Y = (X * 3 + 1).astype(dtype), (Y + 2).astype(dtype)
    k = 4 if "topk" in activation else None
    sae = SAEEncoder(
        48, activation=activation, n_nonzero_coefs=k, max_iter=10, random_state=0,
        objective="targets", precision=np.dtype(dtype).name,
    )  # fmt: skip
    return X, Y, sae.fit(X, Y)


def assert_same_answers(theirs, ours, X):
    """Codes and predictions; theirs also where they are made in one go."""
    codes, predicted = answers(theirs, X)
    expected = ours.transform(X)
    scaled = codes * getattr(ours, "code_scale_", 1)
    np.testing.assert_allclose(scaled, expected, rtol=1e-5, atol=1e-5 * expected.max())
    size = np.abs(predicted).max()
    np.testing.assert_allclose(predicted, ours.inverse_transform(expected), atol=1e-5 * size)
    with torch.no_grad():
        at_once = theirs(torch.from_numpy(X)).numpy()
    np.testing.assert_allclose(at_once, predicted, atol=1e-5 * size)


@pytest.mark.parametrize("architecture", TRANSCODERS)
@pytest.mark.parametrize("seed", range(3))
def test_ours_loads_its_transcoders_and_it_loads_ours(sae_lens, architecture, seed, tmp_path):
    kind, config = sae_lens.registry.get_sae_class(architecture)
    size = {"d_in": N_FEATURES, "d_sae": N_COMPONENTS, "d_out": N_FEATURES + 5}
    theirs = kind(config(**size, apply_b_dec_to_input=False))
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in theirs.state_dict(keep_vars=True).items():
        if name != "W_skip":  # zero as SAELens makes it
            values = torch.randn(parameter.shape, generator=generator)
            parameter.data = values.abs() if name == "threshold" else values
    theirs.save_model(tmp_path / "theirs")
    X = np.random.RandomState(84).randn(200, N_FEATURES).astype(np.float32)
    ours = load_pretrained(tmp_path / "theirs")
    assert ours.objective == "targets"
    assert_same_answers(theirs, ours, X)
    export(ours, tmp_path / "ours")
    again = sae_lens.SAE.load_from_disk(tmp_path / "ours")
    scaled, predicted = answers(again, X)
    codes, expected = answers(theirs, X)
    codes = codes * ours.code_scale_
    np.testing.assert_allclose(scaled, codes, rtol=1e-5, atol=1e-5 * codes.max())
    np.testing.assert_allclose(predicted, expected, atol=1e-5 * np.abs(expected).max())

    if "skip" in architecture:
        theirs.W_skip.data[0, 0] = 1.0
        theirs.save_model(tmp_path / "skips")
        with pytest.raises(ValueError, match="W_skip is not zero"):
            load_pretrained(tmp_path / "skips")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("rescaled", [True, False])
def test_ours_loads_its_and_it_loads_ours(sae_lens, architecture, centred, rescaled, tmp_path):
    size = {"d_in": N_FEATURES, "d_sae": N_COMPONENTS, "apply_b_dec_to_input": centred}
    if "topk" in architecture:
        size |= {"k": K, "rescale_acts_by_decoder_norm": rescaled}
    elif rescaled:
        pytest.skip("only for k-sparse codes")
    make = "get_sae_training_class" if architecture == "batchtopk" else "get_sae_class"
    kind, config = getattr(sae_lens.registry, make)(architecture)
    theirs = kind(config(**size))
    generator = torch.Generator().manual_seed(1)
    for name, parameter in theirs.state_dict(keep_vars=True).items():
        values = torch.randn(parameter.shape, generator=generator)
        parameter.data = (values.abs() if "threshold" in name else values).to(parameter.dtype)
    if architecture == "batchtopk":
        theirs.save_inference_model(tmp_path / "theirs")
        theirs = sae_lens.SAE.load_from_disk(tmp_path / "theirs")
    else:
        theirs.save_model(tmp_path / "theirs")
    X = np.random.RandomState(81).randn(200, N_FEATURES).astype(np.float32)
    codes, reconstruction = answers(theirs, X)
    ours = load_pretrained(tmp_path / "theirs")
    scaled = codes * ours.code_scale_
    np.testing.assert_allclose(ours.transform(X), scaled, rtol=1e-5, atol=1e-5 * scaled.max())

    export(ours, tmp_path / "ours")  # and back
    again = sae_lens.SAE.load_from_disk(tmp_path / "ours")
    scaled_again, reconstruction_again = answers(again, X)
    np.testing.assert_allclose(scaled_again, scaled, rtol=1e-5, atol=1e-5 * scaled.max())
    size = np.abs(reconstruction).max()
    np.testing.assert_allclose(reconstruction_again, reconstruction, atol=1e-5 * size)
