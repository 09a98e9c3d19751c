"""The unrolled encoder against the solvers that it unrolls, and ALISTA's weights."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from problems import objective, planted

from sparsecode_estimators import SAEEncoder, SparseCodingEncoder, UnrolledEncoder
from sparsecode_estimators.learning.activations import ReLU
from sparsecode_estimators.learning.atoms import unit
from sparsecode_estimators.learning.topk import TopK
from sparsecode_estimators.learning.unrolled import (
    UnrolledAutoencoder,
    analytic_weights,
    initial_steps,
)
from sparsecode_estimators.metrics import aligned_corr_coef, amortisation_gap

X, CODES, D = planted(1536, 8, 16, 3, seed=90)
TRAIN, TEST = slice(0, 1024), slice(1024, None)
WEIGHTS = ["learned", "analytic"]
SMALL = {"max_iter": 5, "random_state": 0}


def ista(X, D, alpha, n_steps):
    """The reference: Daubechies, Defrise & De Mol (2004), for codes that are not negative."""
    L = np.linalg.eigvalsh(D @ D.T)[-1]
    codes = np.zeros((len(X), len(D)))
    for _ in range(n_steps):
        codes = np.maximum(codes + ((X - codes @ D) @ D.T - alpha) / L, 0)
    return codes


def hard_thresholding(X, D, k, n_steps):
    """The reference: Blumensath & Davies (2008), for codes that are not negative."""
    L = np.linalg.eigvalsh(D @ D.T)[-1]
    codes = np.zeros((len(X), len(D)))
    for _ in range(n_steps):
        codes = np.maximum(codes + (X - codes @ D) @ D.T / L, 0)
        codes[codes < np.sort(codes, axis=1)[:, [-k]]] = 0
    return codes


def untrained(D, n_steps, alpha, activation=None, *, analytic=False):
    dictionary = torch.tensor(D)
    start = initial_steps(dictionary, n_steps, alpha, analytic=analytic)
    offset = torch.zeros(D.shape[1], dtype=dictionary.dtype)
    return UnrolledAutoencoder(*start, dictionary, offset, activation or ReLU(), analytic=analytic)


def codes_of(module, X):
    return module.encode(torch.tensor(X)).detach().numpy()


@pytest.mark.parametrize("n_steps", [1, 2, 3, 10])
@pytest.mark.parametrize("length", [1.0, 3.0, 1e-3])
def test_untrained_it_is_ista(n_steps, length):
    module = untrained(length * D, n_steps, 0.05 * length)
    expected = ista(X, length * D, 0.05 * length, n_steps)
    np.testing.assert_allclose(codes_of(module, X), expected, rtol=1e-4, atol=1e-5 / length)
    # for the same learning rate to be right for all of them
    assert torch.stack([w.norm(dim=1).mean() for w in module.weights]).sub(1).abs().max() < 1e-6


@pytest.mark.parametrize("n_steps", [1, 4])
def test_untrained_with_topk_it_is_hard_thresholding(n_steps):
    module = untrained(D, n_steps, 0.0, TopK(3))
    np.testing.assert_allclose(
        codes_of(module, X), hard_thresholding(X, D, 3, n_steps), rtol=1e-4, atol=1e-5
    )


def test_fit_starts_at_ista():
    """One step of a vanishing learning rate later it is still ISTA, for the fitted alpha_."""
    encoder = UnrolledEncoder(dictionary=D, max_iter=1, learning_rate_init=1e-12)
    encoder.fit(X)
    expected = ista(X, D, encoder.alpha_, 3)
    np.testing.assert_allclose(encoder.transform(X), expected, rtol=1e-3, atol=1e-5)


def test_untrained_analytic_steps_lead_to_a_lower_objective():
    values = [
        objective(codes_of(untrained(D, n, 0.05, analytic=True), X), X, D, 0.05).mean()
        for n in (1, 3, 10, 30)
    ]
    assert values == sorted(values, reverse=True)


@pytest.mark.parametrize("options", [{}, {"activation": "topk", "n_nonzero_coefs": 3}])
def test_one_step_is_an_sae(options):
    """Trained, its codes are those of an SAE with weights γW and biases γc."""
    one = UnrolledEncoder(16, n_steps=1, **options, **SMALL).fit(X)
    sae = SAEEncoder(16, **options, **SMALL).fit(X)
    sae.encoder_coefs_ = [one.step_sizes_[0] * one.encoder_coefs_[0]]
    sae.encoder_intercepts_ = [one.step_sizes_[0] * one.encoder_intercepts_[0]]
    sae.components_, sae.intercept_ = one.components_, one.intercept_
    np.testing.assert_allclose(sae.transform(X), one.transform(X), atol=1e-6)


def test_one_step_trains_as_well_as_an_sae():
    given = {"dictionary": D, "alpha": 0.05, "max_iter": 200, "random_state": 0}
    one = UnrolledEncoder(n_steps=1, **given).fit(X[TRAIN])
    assert one.loss_ == pytest.approx(SAEEncoder(**given).fit(X[TRAIN]).loss_, rel=0.05)


@pytest.mark.parametrize("weights", WEIGHTS)
def test_more_steps_come_closer_to_the_optimum(weights):
    """The compute curve on held-out rows: SAE, 3 steps, 10 steps, the solver."""
    given = {"dictionary": D, "alpha": 0.05, "max_iter": 100, "random_state": 0}
    encoders = [
        SAEEncoder(**given),
        *(UnrolledEncoder(n_steps=n, weights=weights, **given) for n in (3, 10)),
    ]
    gaps = [amortisation_gap(e.fit(X[TRAIN]), X[TEST]) for e in encoders]
    sae, three, ten = (gap.excess.mean() for gap in gaps)
    assert sae > 2 * three > 4 * ten > 0
    solved = SparseCodingEncoder(dictionary=D, alpha=0.05).fit(X[TRAIN]).transform(X[TEST])
    assert objective(solved, X[TEST], D, 0.05).mean() < gaps[-1].objective.mean()


@pytest.mark.parametrize("weights", WEIGHTS)
def test_training_beats_the_untrained_solver(weights):
    encoder = UnrolledEncoder(
        dictionary=D, alpha=0.05, weights=weights, max_iter=100, random_state=0
    ).fit(X[TRAIN])
    learned = objective(encoder.transform(X[TEST]), X[TEST], D, 0.05).mean()
    assert learned < objective(ista(X[TEST], D, 0.05, 3), X[TEST], D, 0.05).mean()
    assert learned < objective(ista(X[TEST], D, 0.05, 6), X[TEST], D, 0.05).mean()


@pytest.mark.parametrize("weights", WEIGHTS)
def test_learned_dictionary_and_topk(weights):
    options = {"activation": "topk", "n_nonzero_coefs": 3, "max_iter": 40, "random_state": 0}
    encoder = UnrolledEncoder(16, weights=weights, **options).fit(X[TRAIN])
    codes = encoder.transform(X[TEST])
    assert ((codes > 0).sum(1) <= 3).all()
    assert (codes >= 0).all()
    assert encoder.score(X[TEST]) > 0.8
    np.testing.assert_allclose(np.linalg.norm(encoder.components_, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("weights", WEIGHTS)
def test_known_codes(weights):
    encoder = UnrolledEncoder(objective="codes", weights=weights, max_iter=60, random_state=0)
    encoder.fit(X[TRAIN], CODES[TRAIN])
    assert aligned_corr_coef(CODES[TEST], encoder.transform(X[TEST])) > 0.9
    # the codes are computed with the dictionary that is handed out, the least-squares one
    least = np.linalg.lstsq(CODES[TRAIN], X[TRAIN], rcond=None)[0]
    np.testing.assert_allclose(encoder.components_, least, atol=1e-5)
    encoder.partial_fit(X[:20], CODES[:20])
    np.testing.assert_allclose(encoder.components_, least, atol=1e-5)


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_known_codes_of_any_scale(scale):
    def fitted(factor):
        encoder = UnrolledEncoder(objective="codes", max_iter=20, random_state=0)
        encoder.fit(X[TRAIN], factor * CODES[TRAIN])
        return aligned_corr_coef(CODES[TEST], encoder.transform(X[TEST]))

    assert fitted(scale) == pytest.approx(fitted(1.0), abs=0.03)


@pytest.mark.filterwarnings("ignore:alpha=.auto. is 0")
def test_codes_of_zeros():
    encoder = UnrolledEncoder(objective="codes", **SMALL).fit(X, np.zeros_like(CODES))
    assert np.isfinite(encoder.transform(X)).all()


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("factor", [2.0**-10, 2.0**7])
def test_rescaling_rows(weights, factor):
    base = UnrolledEncoder(16, weights=weights, **SMALL).fit(X)
    scaled = UnrolledEncoder(16, weights=weights, **SMALL).fit(factor * X)
    np.testing.assert_allclose(scaled.transform(factor * X), factor * base.transform(X), rtol=1e-5)
    np.testing.assert_allclose(scaled.step_sizes_, base.step_sizes_, rtol=1e-6)


@pytest.mark.parametrize("n_steps", [1, 3])
@pytest.mark.parametrize("weights", WEIGHTS)
def test_gradients(weights, n_steps):
    """Autograd against differences, for everything that training moves."""
    module = untrained(D[:6], n_steps, 0.05, analytic=weights == "analytic")
    x = torch.tensor(X[:5])
    params = [p for p, _ in module.encoder_parameters()] + [module.dictionary, module.offset]
    codes = module.encode(x)
    loss = 0.5 * (x - module.decode(codes)).square().sum() + 0.05 * codes.sum()
    grads = torch.autograd.grad(loss, params)
    generator = torch.Generator().manual_seed(0)
    for param, grad in zip(params, grads, strict=True):
        direction = torch.randn(param.shape, generator=generator, dtype=param.dtype)
        values = []
        for step in (1e-6, -1e-6):
            with torch.no_grad():
                param.add_(step * direction)
                codes = module.encode(x)
                values.append(0.5 * (x - module.decode(codes)).square().sum() + 0.05 * codes.sum())
                param.sub_(step * direction)
        slope = (values[0] - values[1]) / 2e-6
        assert slope.item() == pytest.approx((grad * direction).sum().item(), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("weights", WEIGHTS)
def test_parameters_are_contiguous_and_marked_by_latents(weights):
    module = untrained(D, 2, 0.05, analytic=weights == "analytic")
    for param, has_rows in module.encoder_parameters():
        assert param.is_contiguous()
        assert has_rows == (len(param) == 16)
        assert param.requires_grad


@given(
    seed=st.integers(0, 10**6),
    n_features=st.integers(1, 12),
    n_components=st.integers(1, 30),
    length=st.sampled_from([1e-3, 1.0, 50.0]),
)
def test_analytic_weights(seed, n_features, n_components, length):
    """w_j · d_j = 1, and none is more coherent with the atoms than its own atom."""
    rng = np.random.default_rng([20112, seed])
    atoms = torch.tensor(rng.standard_normal((n_components, n_features))) * length
    W = analytic_weights(atoms)
    np.testing.assert_allclose((W * atoms).sum(1), 1, rtol=1e-9)
    U = unit(atoms)
    off = 1 - torch.eye(n_components, dtype=U.dtype)
    generalised = ((U @ (W.T * atoms.norm(dim=1))).abs() * off).amax(0)
    assert (generalised <= ((U @ U.T).abs() * off).amax(0) + 1e-9).all()


def test_analytic_weights_in_closed_cases():
    orthogonal = torch.linalg.qr(torch.tensor(X[:8])).Q
    torch.testing.assert_close(analytic_weights(orthogonal), orthogonal)
    # fewer atoms than features: the pseudo-inverse has no coherence at all
    few = torch.tensor(D[:5])
    torch.testing.assert_close(analytic_weights(few).T, torch.linalg.pinv(few))
    zero = torch.cat([few, torch.zeros(1, 8, dtype=few.dtype)])
    assert torch.isfinite(analytic_weights(zero)).all()


def test_analytic_weights_minimise_the_sum_of_squares():
    """A column that is not the atom itself cannot be improved along the constraint."""
    atoms = unit(torch.tensor(D))
    W = analytic_weights(atoms).T
    solved = ~torch.isclose(W, atoms.T, atol=1e-6).all(0)
    assert solved.sum() > 8
    gradient = atoms.T @ (atoms @ W)
    along = gradient - (gradient * atoms.T).sum(0) * atoms.T  # off the normal of w·d = 1
    assert along[:, solved].abs().max() < 1e-9


@pytest.mark.parametrize("known", [True, False])
def test_analytic_weights_belong_to_the_dictionary(known):
    encoder = UnrolledEncoder(
        16, weights="analytic", precision="float64", dictionary=D if known else None, **SMALL
    ).fit(X)
    assert [w.shape for w in encoder.encoder_coefs_] == [(8, 16)]
    assert [b.shape for b in encoder.encoder_intercepts_] == [(1,)] * 3
    assert encoder.step_sizes_.shape == (3,)
    expected = analytic_weights(torch.tensor(encoder.components_)).T
    np.testing.assert_allclose(encoder.encoder_coefs_[0], expected, atol=1e-8)


@pytest.mark.parametrize("weights", WEIGHTS)
def test_module_gives_the_same_codes(weights):
    encoder = UnrolledEncoder(16, weights=weights, **SMALL).fit(X)
    module = encoder.to_module(device="cpu")
    assert isinstance(module, torch.nn.Module)
    np.testing.assert_allclose(codes_of(module, X), encoder.transform(X), atol=1e-12)
    assert module(torch.tensor(X)).shape == X.shape
    # what is computed from the dictionary is not trained
    assert all(w.requires_grad == (weights == "learned") for w in module.weights)


@pytest.mark.parametrize("weights", WEIGHTS)
def test_partial_fit_equals_fit_at_a_constant_rate(weights):
    options = {"shuffle": False, "learning_rate": "constant", "dead_after": 10**9}
    whole = UnrolledEncoder(16, weights=weights, max_iter=3, random_state=0, **options).fit(X)
    parts = UnrolledEncoder(16, weights=weights, random_state=0, **options)
    for _ in range(3):
        parts.partial_fit(X)
    np.testing.assert_allclose(parts.transform(X), whole.transform(X), atol=1e-4)


def test_revived_latents_fire_as_the_others_do():
    encoder = UnrolledEncoder(dictionary=D, max_iter=40, warm_start=True, random_state=0).fit(X)
    for weight, bias in zip(encoder.encoder_coefs_, encoder.encoder_intercepts_, strict=True):
        weight[:, :4], bias[:4] = 0.0, -100.0
    encoder._silent_for[:4] = 10**9
    frequency = encoder.fit(X).activation_frequency_
    assert frequency[:4].min() > 0.7 * frequency[4:].mean()


def test_fitted_weights_are_what_they_are():
    """Whatever the parameter says by now."""
    for weights, other in (("learned", "analytic"), ("analytic", "learned")):
        encoder = UnrolledEncoder(16, weights=weights, max_iter=2, random_state=0).fit(X)
        codes = encoder.transform(X)
        np.testing.assert_array_equal(encoder.set_params(weights=other).transform(X), codes)
    one = UnrolledEncoder(1, weights="analytic", max_iter=1, random_state=0).fit(X)
    codes = one.transform(X)
    np.testing.assert_array_equal(one.set_params(weights="learned").transform(X), codes)
