"""What has to be recovered: the paper's data, other seeds, other sizes; ITO on top."""

import numpy as np
import pytest
from methods import PAPER_ALPHA as ALPHA
from methods import PAPER_RECIPE
from problems import objective, planted
from sklearn.frozen import FrozenEstimator

from sparsecode_estimators import (
    ITORefiner,
    MLPEncoder,
    SAEEncoder,
    SparseCodingEncoder,
    sparse_encode,
)
from sparsecode_estimators.datasets import load_paper_data
from sparsecode_estimators.metrics import (
    aligned_corr_coef,
    amortisation_gap,
    dictionary_corr_coef,
    mean_corr_coef,
)


def latent_mcc(data, estimator):
    return mean_corr_coef(data.codes_test, estimator.transform(data.X_test))


def test_known_dictionary(paper_known):
    coder = SparseCodingEncoder(dictionary=paper_known.dictionary, alpha=ALPHA)
    assert latent_mcc(paper_known, coder.fit(paper_known.X_train)) >= 0.992  # paper: .967


@pytest.mark.parametrize("tol", [1e-6, None])
def test_two_hundred_steps_of_fista(paper_known, tol):
    codes = sparse_encode(
        paper_known.X_test,
        paper_known.dictionary,
        alpha=ALPHA,
        solver="fista",
        max_iter=200,
        tol=tol,
        return_info=True,
    )[0]
    assert mean_corr_coef(paper_known.codes_test, codes) >= 0.985


def test_ito_around_a_trained_sae(paper_known):
    sae = SAEEncoder(dictionary=paper_known.dictionary, random_state=0)
    ito = ITORefiner(sae, alpha=ALPHA).fit(paper_known.X_train)
    assert latent_mcc(paper_known, ito) >= 0.992
    assert latent_mcc(paper_known, ito) > latent_mcc(paper_known, ito.estimator_) > 0.71
    gap = amortisation_gap(ito, paper_known.X_test)
    assert gap.bound.mean() < 1e-5
    assert amortisation_gap(ito.estimator_, paper_known.X_test).excess.mean() > 1e-3


def test_unknown_both_with_the_defaults(paper_unknown):
    coder = SparseCodingEncoder(16, random_state=0).fit(paper_unknown.X_train)
    assert latent_mcc(paper_unknown, coder) >= 0.98  # paper: .691
    assert dictionary_corr_coef(paper_unknown.dictionary, coder.components_) >= 0.999


def test_defaults_beat_the_paper_with_a_known_dictionary(paper_known):
    given = {"dictionary": paper_known.dictionary, "random_state": 0}
    assert latent_mcc(paper_known, SAEEncoder(**given).fit(paper_known.X_train)) > 0.71  # peak
    assert latent_mcc(paper_known, MLPEncoder(**given).fit(paper_known.X_train)) > 0.818


@pytest.mark.parametrize(
    ("cls", "latent", "atoms"), [(SAEEncoder, 0.566, 0.745), (MLPEncoder, 0.643, 0.851)]
)
def test_defaults_beat_the_paper_with_nothing_known(paper_unknown, cls, latent, atoms):
    """Mean of three starts, measured as the paper does."""
    fitted = [cls(16, random_state=s).fit(paper_unknown.X_train) for s in range(3)]
    assert np.mean([latent_mcc(paper_unknown, e) for e in fitted]) > latent
    found = [
        dictionary_corr_coef(paper_unknown.dictionary, e.components_, centered=True) for e in fitted
    ]
    assert np.mean(found) > atoms


def test_known_codes():
    data = load_paper_data("known_codes")
    mlp = MLPEncoder(hidden_layer_sizes=(1024,), objective="codes", random_state=0)
    codes = mlp.fit(data.X_train, data.codes_train).transform(data.X_test)
    assert aligned_corr_coef(data.codes_test, codes) >= 0.95


@pytest.mark.slow
def test_ten_other_data_sets():
    found = []
    for seed in range(10):
        X, codes, _ = planted(2048, 8, 16, 3, seed=1000 + seed, noise=0.0)
        coder = SparseCodingEncoder(16, random_state=seed).fit(X[:1024])
        found.append(mean_corr_coef(codes[1024:], coder.transform(X[1024:])))
    assert np.mean(found) >= 0.98, found
    assert np.min(found) >= 0.96, found


@pytest.mark.slow
def test_noise_and_a_wrong_alpha():
    """Four times too large or too small an alpha costs at most .03."""
    found = {alpha: [] for alpha in ("auto", 0.01, 0.04, 0.0025)}
    for seed in range(5):
        X, codes, _ = planted(3024, 8, 16, 3, seed=1100 + seed)
        for alpha, scores in found.items():
            coder = SparseCodingEncoder(16, alpha=alpha, random_state=seed).fit(X[:1024])
            scores.append(mean_corr_coef(codes[1024:], coder.transform(X[1024:])))
    assert np.mean(found["auto"]) >= 0.98, found
    assert np.min(found["auto"]) >= 0.95, found
    right = np.mean(found[0.01])
    assert np.mean(found[0.04]) >= right - 0.03, found
    assert np.mean(found[0.0025]) >= right - 0.03, found


@pytest.mark.slow
def test_many_atoms_in_few_rounds():
    X, codes, _ = planted(10_000, 64, 200, 6, seed=1200)
    coder = SparseCodingEncoder(200, max_iter=30, random_state=0).fit(X[:8000])
    assert mean_corr_coef(codes[8000:], coder.transform(X[8000:])) >= 0.99


@pytest.mark.slow
@pytest.mark.parametrize(("n_components", "n_features"), [(32, 16), (64, 32)])
def test_other_sizes(n_components, n_features):
    X, codes, _ = planted(2048, n_features, n_components, 3, seed=2000, noise=0.0)
    coder = SparseCodingEncoder(n_components, random_state=0).fit(X[:1024])
    assert mean_corr_coef(codes[1024:], coder.transform(X[1024:])) >= 0.99


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cls", "options", "scenario", "steps", "figure", "starts"),
    [
        (SAEEncoder, {}, "known_dictionary", 20_000, 0.609, 5),
        (MLPEncoder, {"hidden_layer_sizes": (32,)}, "known_dictionary", 20_000, 0.780, 5),
        (MLPEncoder, {"hidden_layer_sizes": (256,)}, "known_dictionary", 20_000, 0.818, 5),
        (SAEEncoder, {}, "unknown", 40_000, 0.566, 3),
        (MLPEncoder, {"hidden_layer_sizes": (32,)}, "unknown", 40_000, 0.623, 5),
        (MLPEncoder, {"hidden_layer_sizes": (256,)}, "unknown", 40_000, 0.643, 3),
    ],
)
def test_the_paper_s_recipe_lands_on_its_figures(cls, options, scenario, steps, figure, starts):
    """Within .05, beyond what the starts explain: with this recipe latents of an MLP die in the
    first hundred steps and stay dead, and each costs its share of the MCC. The paper's figure is
    a mean over five starts too, so that the difference has the spread of two means."""
    data = load_paper_data(scenario)
    found = []
    for seed in range(starts):
        if scenario == "known_dictionary":
            options = {**options, "dictionary": data.dictionary}
        else:  # the paper's decoder starts at random directions, ours at rows
            start = np.random.default_rng([77, seed]).standard_normal((16, 8))
            options = {**options, "dict_init": start}
        encoder = cls(16, max_iter=steps, random_state=seed, **options, **PAPER_RECIPE)
        found.append(latent_mcc(data, encoder.fit(data.X_train)))
    spread = np.std(found, ddof=1) * np.sqrt(2 / starts)
    assert np.mean(found) == pytest.approx(figure, abs=0.05 + spread), found


def test_restarts_find_better_minima():
    X, _, _ = planted(512, 8, 16, 3, seed=50, noise=0.0)
    options = {"max_iter": 60, "alpha": 0.02, "random_state": 0}
    losses = [SparseCodingEncoder(16, n_init=n, **options).fit(X).loss_ for n in (1, 8)]
    assert losses[1] <= losses[0]


def test_dictionary_learning_is_honest_about_its_loss():
    X, _, _ = planted(300, 8, 16, 3, seed=51)
    coder = SparseCodingEncoder(16, n_init=1, max_iter=40, alpha=0.05, random_state=0).fit(X)
    codes = coder.transform(X)
    np.testing.assert_allclose(np.linalg.norm(coder.components_, axis=1), 1, atol=1e-5)
    assert objective(codes, X, coder.components_, 0.05).mean() == pytest.approx(
        coder.loss_, rel=1e-3
    )
    signed = SparseCodingEncoder(16, n_init=1, max_iter=40, positive_code=False, random_state=0)
    assert (signed.fit(X).transform(X) < 0).any()


def test_offset_is_learned_when_asked():
    X, _, _ = planted(400, 8, 16, 3, seed=52, noise=0.0)
    shift = np.full(8, 5.0)
    coder = SparseCodingEncoder(16, fit_intercept=True, n_init=2, max_iter=100, random_state=0)
    coder.fit(X + shift)
    assert np.abs(coder.intercept_ - shift).max() < 0.5
    assert coder.score(X + shift) > 0.99


def test_refinement_really_starts_from_the_encoder(paper_known):
    data = paper_known
    sae = SAEEncoder(dictionary=data.dictionary, alpha=0.02, random_state=0).fit(data.X_train)
    frozen = FrozenEstimator(sae)
    untouched = ITORefiner(frozen, max_iter=1, tol=None, alpha=0.0).fit(data.X_train)
    one_step = untouched.transform(data.X_test)
    guess = sae.transform(data.X_test)
    L = np.linalg.eigvalsh(data.dictionary @ data.dictionary.T)[-1]
    residual = data.X_test - guess @ data.dictionary
    expected = np.maximum(guess + residual @ data.dictionary.T / L, 0)
    np.testing.assert_allclose(one_step, expected, atol=1e-4)
    zeros = ITORefiner(frozen, max_iter=1, tol=None, alpha=0.0, init="zeros").fit(data.X_train)
    assert np.abs(zeros.transform(data.X_test) - one_step).max() > 0.1
    # the optimum is the same from both
    both = [ITORefiner(frozen, alpha=0.05, init=i).fit(data.X_train) for i in ("encoder", "zeros")]
    a, b = (r.transform(data.X_test.astype(float)) for r in both)
    np.testing.assert_allclose(
        objective(a, data.X_test, data.dictionary, 0.05),
        objective(b, data.X_test, data.dictionary, 0.05),
        rtol=1e-4,
    )


def test_refinement_at_matched_sparsity():
    X, _, _ = planted(400, 8, 16, 3, seed=53)
    sae = SAEEncoder(16, activation="topk", n_nonzero_coefs=3, max_iter=30, random_state=0)
    ito = ITORefiner(sae).fit(X)
    before, after = ito.estimator_.transform(X), ito.transform(X)
    assert ((after != 0).sum(1) <= 3).all()
    assert (after >= 0).all()

    def error(codes):
        return ((X - ito.inverse_transform(codes)) ** 2).sum(1)

    assert (error(after) <= error(before) + 1e-9).all()
    assert error(after).mean() < 0.7 * error(before).mean()


def test_foreign_encoders_can_be_refined():
    from sklearn.decomposition import MiniBatchDictionaryLearning

    X, _, _ = planted(200, 8, 16, 3, seed=54)
    inner = MiniBatchDictionaryLearning(
        16, alpha=0.1, transform_algorithm="threshold", random_state=0
    )
    ito = ITORefiner(inner, positive_code=False, alpha=0.1).fit(X)
    gap = amortisation_gap(ito.estimator_, X, alpha=0.1)
    assert (gap.excess > -1e-9).all()
    P = objective(ito.transform(X), X, ito.components_, 0.1)
    assert P.mean() < objective(ito.estimator_.transform(X), X, ito.components_, 0.1).mean()
