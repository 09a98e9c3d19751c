"""The amortisation gap and its two parts against independent computations."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from problems import kkt_violation, lasso_problems, objective, planted
from scipy import sparse
from scipy.optimize import nnls
from sklearn.decomposition import PCA, MiniBatchDictionaryLearning
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import Lasso
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from sparsecode_estimators import (
    ITORefiner,
    MLPEncoder,
    SAEEncoder,
    SparseCodingEncoder,
    sparse_encode,
)
from sparsecode_estimators.metrics import amortisation_gap
from sparsecode_estimators.metrics.restricted import minimise_on_supports


def gap_of(codes, X, D, alpha, positive=True):
    return amortisation_gap(None, X, codes=codes, dictionary=D, alpha=alpha, positive_code=positive)


def guesses(seed, problem, density):
    """Codes that know nothing, of about the right size."""
    rng = np.random.default_rng(seed)
    shape = len(problem.X), len(problem.D)
    codes = rng.standard_normal(shape) * np.abs(problem.X).max(axis=1, keepdims=True)
    codes = codes * (rng.random(shape) < density)
    return np.abs(codes) if problem.positive else codes


def exhaustive(x, D, alpha, positive):
    """Minimum over every face: signs, then the linear system of the face."""
    best = 0.5 * x @ x
    for signs in itertools.product([0, 1] if positive else [-1, 0, 1], repeat=len(D)):
        sign = np.array(signs)
        A, sign = D[sign != 0], sign[sign != 0]
        if len(A) and np.linalg.matrix_rank(A) == len(A):
            s = np.linalg.solve(A @ A.T, A @ x - alpha * sign)
            if (s * sign > 0).all():
                best = min(best, 0.5 * ((x - s @ A) ** 2).sum() + alpha * np.abs(s).sum())
    return best


def by_nnls(x, A, alpha, positive):
    """The lasso as non-negative least squares, by Lawson & Hanson's algorithm.

    A further feature of size ε in every atom and the target −α/ε adds α·sum(s) + ½ε²·sum(s)²
    and a constant, and the square vanishes with ε. Signed codes are two positive ones.
    """
    A = A if positive else np.vstack([A, -A])
    eps = 1e-5
    wide = np.hstack([A, np.full((len(A), 1), eps)])
    s, _ = nnls(wide.T, np.append(x, -alpha / eps), maxiter=1000)
    return 0.5 * ((x - s @ A) ** 2).sum() + alpha * s.sum()


problems_and_guesses = given(
    lasso_problems(), st.integers(0, 2**31), st.sampled_from([0.1, 0.3, 0.7, 1.0])
)


class TestParts:
    @problems_and_guesses
    def test_sum_to_the_excess_and_are_not_negative(self, problem, seed, density):
        X, D, alpha, _ = problem[:4]
        codes = guesses(seed, problem, density)
        gap = gap_of(codes, *problem[:4])
        P = objective(codes, X, D, alpha)
        assert_allclose(gap.objective, P)
        assert_allclose(gap.support + gap.magnitude, gap.excess, atol=1e-12 * P.max())
        for part in gap:
            assert (part >= 0).all()
        assert (gap.bound >= gap.excess).all()
        # both certificates hold what they promise at the solvers' tolerances
        scale = 0.5 * (X**2).sum(axis=1)
        assert (gap.split_gap <= 1.1e-11 * scale).all()
        assert (gap.bound - gap.excess <= 1.1e-6 * scale + 1e-12 * P).all()

    @problems_and_guesses
    def test_minimum_on_the_support_is_one(self, problem, seed, density):
        """No code outside, and optimality conditions with the allowed atoms alone."""
        X, D, alpha, positive = problem[:4]
        allowed = guesses(seed, problem, density) != 0
        codes, _ = minimise_on_supports(
            X, D, allowed, np.zeros(allowed.shape), alpha, positive=positive
        )
        assert not codes[~allowed].any()
        assert not (positive and (codes < 0).any())
        for x, s, mask in zip(X, codes, allowed, strict=True):
            if mask.any():
                assert kkt_violation(s[None, mask], x[None], D[mask], alpha, positive) < 1e-6

    @pytest.mark.parametrize("positive", [True, False])
    def test_agree_with_every_face_tried(self, positive):
        rng = np.random.default_rng(3)
        D = rng.standard_normal((7, 4))  # atoms need no unit norm
        X = rng.standard_normal((12, 4))
        codes = rng.standard_normal((12, 7)) * (rng.random((12, 7)) < 0.5)
        codes = np.abs(codes) if positive else codes
        gap = gap_of(codes, X, D, 0.3, positive)
        lowest = [exhaustive(x, D, 0.3, positive) for x in X]
        on_support = [
            exhaustive(x, D[s != 0], 0.3, positive) for x, s in zip(X, codes, strict=True)
        ]
        P = objective(codes, X, D, 0.3)
        assert_allclose(gap.magnitude, P - on_support, atol=1e-12)
        assert_allclose(gap.support, np.subtract(on_support, lowest), atol=1e-5)
        assert_allclose(gap.excess, P - lowest, atol=1e-5)

    @pytest.mark.parametrize("positive", [True, False])
    @pytest.mark.parametrize("density", [0.1, 1.0])
    def test_agree_with_nnls_and_scikit_learn(self, positive, density):
        """Supports smaller and much larger than the space; one atom twice."""
        X, _, D = planted(6, 12, 90, 4, seed=31, positive=positive)
        D[1] = D[0]
        rng = np.random.default_rng(0)
        codes = np.abs(rng.standard_normal((6, 90))) * (rng.random((6, 90)) < density)
        alpha = 0.05
        gap = gap_of(codes, X, D, alpha, positive)
        on_support = gap.objective - gap.magnitude
        lasso = Lasso(alpha / 12, fit_intercept=False, positive=positive, tol=1e-14, max_iter=10**5)
        for x, s, value in zip(X, codes, on_support, strict=True):
            A = D[s != 0]
            assert value == pytest.approx(by_nnls(x, A, alpha, positive), abs=1e-7)
            u = lasso.fit(A.T, x).coef_
            assert value == pytest.approx(objective(u[None], x[None], A, alpha)[0], abs=1e-9)

    def test_large_supports_of_correlated_atoms(self):
        """All of 300 atoms allowed in 40 dimensions: the plain optimum is the restricted one."""
        X, _, D = planted(20, 40, 300, 5, seed=32)
        D += 0.5 * D[0]
        D /= np.linalg.norm(D, axis=1, keepdims=True)
        codes, split_gap = minimise_on_supports(
            X, D, np.ones((20, 300), dtype=bool), np.zeros((20, 300)), 0.01, positive=True
        )
        assert kkt_violation(codes, X, D, 0.01, True).max() < 1e-7
        best = sparse_encode(X, D, alpha=0.01, tol=1e-10)
        assert_allclose(objective(codes, X, D, 0.01), objective(best, X, D, 0.01), rtol=1e-8)
        assert (split_gap <= 1.1e-11 * 0.5 * (X**2).sum(axis=1)).all()

    def test_no_penalty(self):
        """alpha=0: least squares on the support, though nothing certifies it."""
        X, _, D = planted(20, 8, 16, 3, seed=33)
        codes = np.random.default_rng(0).random((20, 16)) * (np.arange(16) < 5)
        gap = gap_of(codes, X, D, 0.0)
        expected = [0.5 * nnls(D[:5].T, x)[1] ** 2 for x in X]
        assert_allclose(gap.objective - gap.magnitude, expected, atol=1e-12)


class TestZeroWhereNothingIsWrong:
    @given(lasso_problems())
    def test_optimal_codes_have_no_gap(self, problem):
        X, D, alpha, positive = problem[:4]
        codes = sparse_encode(X, D, alpha=alpha, positive_code=positive, tol=1e-10)
        scale = 0.5 * (X**2).sum(axis=1).max()
        gap = gap_of(codes, *problem[:4])
        assert max(gap.excess.max(), gap.support.max(), gap.magnitude.max()) <= 1e-6 * scale
        # the optimum scaled has the right latents at the wrong values
        scaled = gap_of(1.5 * codes, *problem[:4])
        assert scaled.support.max() <= 1e-6 * scale
        moved = objective(1.5 * codes, X, D, alpha) - objective(codes, X, D, alpha)
        assert_allclose(scaled.magnitude, moved, atol=1e-6 * scale)

    @problems_and_guesses
    def test_codes_that_are_best_on_their_support_have_no_magnitude_error(
        self, problem, seed, density
    ):
        X, D, alpha, positive = problem[:4]
        allowed = guesses(seed, problem, density) != 0
        codes, _ = minimise_on_supports(
            X, D, allowed, np.zeros(allowed.shape), alpha, positive=positive
        )
        gap = gap_of(codes, *problem[:4])
        assert gap.magnitude.max() <= 1e-10 * (X**2).sum(axis=1).max()

    def test_of_a_refiner(self, paper_known):
        sae = SAEEncoder(dictionary=paper_known.dictionary, max_iter=40, random_state=0)
        ito = ITORefiner(sae, alpha=0.0025).fit(paper_known.X_train)
        X = paper_known.X_test
        refined, guessed = (amortisation_gap(e, X, alpha=0.0025) for e in (ito, ito.estimator_))
        assert refined.magnitude.max() < 1e-6
        assert refined.support.max() < 1e-6
        assert (guessed.magnitude > 1e-4).mean() > 0.9
        assert guessed.support.mean() > 100 * refined.excess.mean()

    def test_rows_without_codes_have_only_a_support_error(self):
        X, _, D = planted(5, 8, 16, 3, seed=34)
        gap = gap_of(np.zeros((5, 16)), X, D, 0.1)
        assert_array_equal(gap.magnitude, 0)
        assert_array_equal(gap.split_gap, 0)
        assert_array_equal(gap.support, gap.excess)
        assert (gap.excess > 0).all()


@pytest.fixture(scope="module")
def sae_and_rows():
    X, _, D = planted(300, 8, 16, 3, seed=35)
    return SAEEncoder(dictionary=D, max_iter=10, random_state=0).fit(X), X


ENCODERS = {
    "sae": lambda: SAEEncoder(16, max_iter=5, random_state=0),
    "mlp": lambda: MLPEncoder(16, max_iter=5, random_state=0),
    "topk": lambda: SAEEncoder(
        16, activation="topk", n_nonzero_coefs=3, max_iter=5, random_state=0
    ),
    "coder": lambda: SparseCodingEncoder(16, max_iter=2, random_state=0),
    "omp": lambda: SparseCodingEncoder(16, n_nonzero_coefs=3, max_iter=2, random_state=0),
    "signed": lambda: SparseCodingEncoder(16, positive_code=False, max_iter=2, random_state=0),
    "ito": lambda: ITORefiner(SAEEncoder(16, max_iter=5, random_state=0)),
}


class TestEstimators:
    @pytest.mark.parametrize("encoder", ENCODERS.values(), ids=ENCODERS)
    def test_every_encoder_alone_and_in_a_pipeline(self, encoder):
        X, _, _ = planted(120, 8, 16, 3, seed=36)
        alone = encoder().fit(X)
        positive = getattr(alone, "positive_code_", getattr(alone, "positive_code", True))
        alpha = 0.05
        gap = amortisation_gap(alone, X, alpha=alpha)
        by_hand = gap_of(
            alone.transform(X), X - alone.intercept_, alone.components_, alpha, positive
        )
        for part, expected in zip(gap, by_hand, strict=True):
            assert_allclose(part, expected, atol=1e-12)
        pipeline = make_pipeline(FunctionTransformer(), alone)
        for wrapped in (pipeline, FrozenEstimator(pipeline), Pipeline([("inner", pipeline)])):
            assert_array_equal(amortisation_gap(wrapped, X, alpha=alpha), gap)

    def test_a_pipeline_is_judged_in_the_space_of_its_encoder(self):
        X, _, _ = planted(120, 8, 16, 3, seed=37)
        scale = StandardScaler().fit(10 * X + 3)
        pipeline = make_pipeline(scale, SAEEncoder(16, max_iter=5, random_state=0))
        pipeline.fit(10 * X + 3)
        expected = amortisation_gap(pipeline[-1], scale.transform(10 * X + 3))
        assert_array_equal(amortisation_gap(pipeline, 10 * X + 3), expected)
        given = amortisation_gap(pipeline, 10 * X + 3, codes=pipeline.transform(10 * X + 3))
        assert_array_equal(given, expected)

    def test_a_stranger(self):
        X, _, _ = planted(60, 8, 16, 3, seed=38, positive=False)
        learner = MiniBatchDictionaryLearning(
            16, alpha=0.1, transform_algorithm="lasso_cd", transform_alpha=0.1, random_state=0
        ).fit(X)
        gap = amortisation_gap(learner, X, alpha=0.1)
        assert gap.excess.max() < 1e-3

    @pytest.mark.parametrize(
        "container",
        [sparse.csr_array, sparse.coo_matrix, torch.tensor, np.asfortranarray, np.ndarray.tolist],
    )
    def test_given_codes_in_every_container(self, sae_and_rows, container):
        sae, X = sae_and_rows
        codes = sae.transform(X)
        expected = amortisation_gap(sae, X)
        for gap in (
            amortisation_gap(sae, X, codes=container(codes)),
            gap_of(container(codes), X - sae.intercept_, sae.components_, sae.alpha_),
        ):
            for part, other in zip(gap, expected, strict=True):
                assert_allclose(part, other, atol=1e-12)

    def test_what_is_given_replaces_what_the_encoder_has(self, sae_and_rows):
        sae, X = sae_and_rows
        D = np.roll(sae.components_, 1, axis=0)
        codes = sae.transform(X)
        gap = amortisation_gap(sae, X, dictionary=D, alpha=0.3, positive_code=False)
        expected = gap_of(codes, X - sae.intercept_, D, 0.3, positive=False)
        assert_allclose(gap, expected, atol=1e-12)
        assert_allclose(
            amortisation_gap(sae, X, codes=np.roll(codes, 1, axis=1), dictionary=D).objective,
            amortisation_gap(sae, X).objective,
        )

    def test_blocks_and_neighbours_do_not_matter(self, sae_and_rows, monkeypatch):
        sae, X = sae_and_rows
        together = amortisation_gap(sae, X)
        monkeypatch.setattr("sparsecode_estimators.metrics.inputs._BLOCK_ELEMENTS", 16 * 37)
        monkeypatch.setattr("sparsecode_estimators.metrics.restricted._GATHERED", 2**9)
        monkeypatch.setattr("sparsecode_estimators.metrics.restricted._SPARE", 1)
        apart = amortisation_gap(sae, X)
        for part, other in zip(apart, together, strict=True):
            assert_allclose(part, other, atol=1e-10)

    def test_inputs_are_left_alone(self, sae_and_rows):
        sae, X = sae_and_rows
        X, codes, D = X.copy(), sae.transform(X), sae.components_.copy()
        before = X.copy(), codes.copy(), D.copy()
        for array in (X, codes, D):
            array.flags.writeable = False
        gap_of(codes, X, D, 0.1)
        for array, kept in zip((X, codes, D), before, strict=True):
            assert_array_equal(array, kept)

    def test_rows_from_a_device(self, sae_and_rows, device):
        sae, X = sae_and_rows
        gap = amortisation_gap(sae, torch.tensor(X, device=device))
        assert_allclose(gap.excess, amortisation_gap(sae, X).excess, atol=1e-5)


EYE = np.eye(3)
BAD_CALLS = {
    "nothing": (lambda: amortisation_gap(None, EYE), "estimator=None and dictionary=None"),
    "codes": (
        lambda: amortisation_gap(None, EYE, dictionary=EYE, alpha=1),
        "estimator=None and codes=None",
    ),
    "alpha": (
        lambda: amortisation_gap(None, EYE, codes=EYE, dictionary=EYE),
        "alpha=None, and estimator=None has no alpha_",
    ),
    "no_components": (
        lambda: amortisation_gap(StandardScaler().fit(EYE), EYE, alpha=1),
        "estimator=StandardScaler has no components_",
    ),
    "no_alpha": (
        lambda: amortisation_gap(PCA().fit(EYE), EYE),
        "alpha=None, and estimator=PCA has no alpha_",
    ),
    "negative_alpha": (lambda: gap_of(EYE, EYE, EYE, -1.0), r"alpha=-1.0 must be"),
    "alpha_text": (lambda: gap_of(EYE, EYE, EYE, "auto"), "alpha='auto' must be"),
    "alpha_nan": (lambda: gap_of(EYE, EYE, EYE, np.nan), "alpha=nan must be"),
    "rows": (lambda: gap_of(EYE[:2], EYE, EYE, 1), "codes has 2 rows and X has 3"),
    "features": (
        lambda: gap_of(EYE, EYE[:, :2], EYE, 1),
        "X has 2 columns and dictionary has 3",
    ),
    "components": (
        lambda: gap_of(EYE[:, :2], EYE, EYE, 1),
        "codes has 2 columns and dictionary has 3 rows",
    ),
    "negative_codes": (lambda: gap_of(-EYE, EYE, EYE, 1), "positive_code=False"),
    "nan": (lambda: gap_of(EYE * np.nan, EYE, EYE, 1), "codes contains NaN"),
    "nan_rows": (lambda: gap_of(EYE, EYE * np.nan, EYE, 1), "X contains NaN"),
    "nan_atoms": (lambda: gap_of(EYE, EYE, EYE * np.nan, 1), "dictionary contains NaN"),
    "1d": (lambda: gap_of(np.ones(3), EYE, EYE, 1), "codes must be two-dimensional"),
}


@pytest.mark.parametrize(("call", "message"), BAD_CALLS.values(), ids=BAD_CALLS)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_unfitted():
    with pytest.raises(NotFittedError):
        amortisation_gap(SAEEncoder(3), EYE)


def test_signed_codes_of_an_unknown_encoder_are_refused_with_the_remedy():
    X = np.random.default_rng(0).standard_normal((20, 3))
    pca = PCA().fit(X)
    with pytest.raises(ValueError, match="positive_code=False"):
        amortisation_gap(pca, X, alpha=0.1)
    gap = amortisation_gap(
        pca, X + 7.0, codes=pca.transform(X + 7.0), alpha=0.0, positive_code=False
    )
    # at alpha 0 a complete basis reconstructs, with the mean: no better codes exist
    assert gap.bound.max() < 1e-12


def test_an_atom_of_zeros_of_a_fitted_encoder():
    X = planted(60, 6, 12, 2, seed=1514)[0]
    sae = SAEEncoder(12, max_iter=3, random_state=0).fit(X)
    codes = sae.transform(X)
    whole = amortisation_gap(sae, X, alpha=0.1)
    sae.components_ = np.vstack([sae.components_, np.zeros((1, 6))])
    wider = np.hstack([codes, np.full((60, 1), 2.0)])
    found = amortisation_gap(sae, X, codes=wider, alpha=0.1)
    np.testing.assert_allclose(found.excess, whole.excess + 0.1 * 2.0, atol=1e-6)
