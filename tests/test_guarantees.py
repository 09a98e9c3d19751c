"""Coherence, isometry and recovery guarantees against brute force, and against recovery."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.integrate import quad
from scipy.linalg import hadamard
from scipy.optimize import linprog, minimize_scalar
from scipy.stats import norm

from sparsecode_estimators import sparse_encode
from sparsecode_estimators.theory import (
    babel_function,
    exact_recovery_condition,
    isometry,
    mutual_coherence,
    phase_transition,
    recovery_guarantee,
    restricted_isometry,
    spark,
)


def random_atoms(seed, n_components, n_features, *, unit=True):
    D = np.random.default_rng([311, seed]).standard_normal((n_components, n_features))
    return D / np.linalg.norm(D, axis=1, keepdims=True) if unit else D


def subsets(n_components, k):
    return np.array(list(itertools.combinations(range(n_components), k)))


def basis_pursuit(x, D, *, positive):
    """The code of least ℓ₁ norm, by linear programming."""
    A = D if positive else np.vstack([D, -D])
    answer = linprog(np.ones(len(A)), A_eq=A.T, b_eq=x, bounds=(0, None))
    return answer.x if positive else answer.x[: len(D)] - answer.x[len(D) :]


dictionaries = st.builds(
    random_atoms, st.integers(0, 10**6), st.integers(2, 9), st.integers(1, 6), unit=st.booleans()
)


class TestAgainstBruteForce:
    @given(dictionaries)
    def test_coherence_and_babel(self, D):
        U = D / np.linalg.norm(D, axis=1, keepdims=True)
        cosines = [abs(U[i] @ U[j]) for i, j in itertools.combinations(range(len(D)), 2)]
        assert mutual_coherence(D) == pytest.approx(max(cosines), abs=1e-12)
        expected = [0.0]
        for m in range(1, len(D)):
            sums = [
                sum(abs(U[i] @ U[j]) for j in chosen)
                for chosen in itertools.combinations(range(len(D)), m)
                for i in set(range(len(D))) - set(chosen)
            ]
            expected.append(max(sums))
        assert_allclose(babel_function(D), expected, atol=1e-12)
        assert_allclose(babel_function(D, max_size=len(D))[-1], expected[-1], atol=1e-12)
        assert_allclose(babel_function(D, max_size=1), expected[:2], atol=1e-12)

    @given(dictionaries, st.booleans(), st.data())
    def test_exact_recovery_condition(self, D, positive, data):
        k = data.draw(st.integers(1, min(len(D) - 1, D.shape[1])))
        U = D / np.linalg.norm(D, axis=1, keepdims=True)
        supports = subsets(len(D), k)
        expected = []
        for chosen in supports:
            coefs = np.delete(U, chosen, axis=0) @ np.linalg.pinv(U[chosen])
            expected.append((coefs if positive else np.abs(coefs)).sum(axis=1).max())
        values = exact_recovery_condition(D, supports, positive=positive)
        assert_allclose(values, expected, rtol=1e-6, atol=1e-9)

    @given(dictionaries, st.data())
    def test_isometry(self, D, data):
        k = data.draw(st.integers(1, len(D)))
        U = D / np.linalg.norm(D, axis=1, keepdims=True)
        expected = max(
            np.abs(np.linalg.eigvalsh(U[chosen] @ U[chosen].T) - 1).max()
            for chosen in subsets(len(D), k)
        )
        found = restricted_isometry(D, k)
        assert found.lower == found.upper == pytest.approx(expected, abs=1e-12)
        gram = U[found.support] @ U[found.support].T
        assert np.linalg.norm(gram - np.eye(k), 2) == pytest.approx(expected, abs=1e-12)

    @pytest.mark.parametrize("k", [2, 4, 6])
    def test_search_brackets_the_isometry_constant(self, k, monkeypatch):
        exact = [restricted_isometry(random_atoms(s, 16, 8), k).lower for s in range(8)]
        monkeypatch.setattr(isometry, "few_enough", lambda n, size: False)
        found = [restricted_isometry(random_atoms(s, 16, 8), k, random_state=0) for s in range(8)]
        for truth, bounds in zip(exact, found, strict=True):
            assert bounds.lower <= truth + 1e-9
            assert bounds.upper >= truth - 1e-9
        # and the search is worth its name
        assert np.mean([b.lower for b in found]) > 0.98 * np.mean(exact)

    @given(st.integers(0, 10**6), st.integers(2, 8), st.integers(1, 6), st.booleans())
    def test_spark(self, seed, n_components, n_features, planted):
        D = random_atoms(seed, n_components, n_features)
        if planted and n_components > 2:
            D[-1] = D[0] - 2 * D[1]
        dependent = [
            k
            for k in range(1, n_components + 1)
            for chosen in subsets(n_components, k)
            if np.linalg.matrix_rank(D[chosen], tol=1e-9) < k
        ]
        assert spark(D) == min(dependent, default=np.inf)


class TestDoNotDependOnLengthsOrOrder:
    @given(st.integers(0, 10**6), st.booleans())
    def test_any_number(self, seed, positive):
        D = random_atoms(seed, 9, 6)
        rng = np.random.default_rng([312, seed])
        order = rng.permutation(9)
        signs = 1 if positive else rng.choice([-1, 1], (9, 1))
        other = (D * signs * 10.0 ** rng.uniform(-8, 8, (9, 1)))[order]
        supports = subsets(9, 3)
        assert mutual_coherence(other) == pytest.approx(mutual_coherence(D))
        assert_allclose(babel_function(other), babel_function(D))
        assert restricted_isometry(other, 3).lower == pytest.approx(restricted_isometry(D, 3).lower)
        assert spark(other) == spark(D) == 7
        one, two = (
            recovery_guarantee(D, positive=positive),
            recovery_guarantee(other, positive=positive),
        )
        assert one == two
        assert_allclose(
            exact_recovery_condition(other, np.argsort(order)[supports], positive=positive),
            exact_recovery_condition(D, supports, positive=positive),
            atol=1e-9,
        )

    def test_tensors_and_lists(self):
        D = random_atoms(1, 6, 4)
        assert mutual_coherence(torch.tensor(D)) == mutual_coherence(D.tolist())


class TestKnownDictionaries:
    def test_orthogonal_atoms_allow_everything(self):
        D = np.eye(5)
        assert mutual_coherence(D) == 0
        assert spark(D) == np.inf
        assert restricted_isometry(D, 5).upper == 0
        guarantee = recovery_guarantee(D)
        assert guarantee.n_nonzero_coefs == guarantee.unique == 5

    def test_spikes_and_hadamard(self):
        """μ = 1/√M; the spark of this union is 2√M (Donoho & Elad 2003)."""
        D = np.vstack([np.eye(16), hadamard(16)])
        assert mutual_coherence(D) == pytest.approx(1 / 4)
        assert_allclose(babel_function(D, max_size=4), np.arange(5) / 4, atol=1e-12)
        guarantee = recovery_guarantee(D)
        assert guarantee.by_theorem["coherence"] == guarantee.by_theorem["babel"] == 2
        small = np.vstack([np.eye(4), hadamard(4)])
        assert spark(small) == 4

    def test_a_bound_that_is_only_reached_does_not_count(self):
        """Vertices of a simplex, μ = 1/3: K = 2 would be (1 + 1/μ)/2, and μ₁(1) + μ₁(2) = 1."""
        for seed in range(10):
            turn = np.linalg.qr(np.random.default_rng([316, seed]).standard_normal((3, 3)))[0]
            D = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) @ turn
            guarantee = recovery_guarantee(D)
            assert guarantee.by_theorem["coherence"] == guarantee.by_theorem["babel"] == 1

    def test_more_atoms_than_can_be_tried(self):
        D = random_atoms(5, 700, 300)
        guarantee = recovery_guarantee(D)
        assert set(guarantee.by_theorem) == {"coherence", "babel"}
        k = guarantee.n_nonzero_coefs
        assert k < (1 + 1 / mutual_coherence(D)) / 2 <= k + 1
        assert guarantee.unique == k
        D = random_atoms(6, 24, 22)
        D[1] = D[2] + D[3]  # a spark of 3 that trying would find, but for the sets in between
        assert recovery_guarantee(D).unique <= 1

    def test_parallel_atoms_allow_nothing(self):
        D = np.vstack([np.eye(3), -2 * np.eye(3)[:1]])
        assert mutual_coherence(D) == 1
        assert spark(D) == 2
        guarantee = recovery_guarantee(D)
        assert guarantee.n_nonzero_coefs == guarantee.unique == 0
        # opposite atoms are told apart by codes that are not negative
        assert recovery_guarantee(D, positive=True).n_nonzero_coefs >= 1

    def test_the_paper_s_dictionary(self, paper_known):
        """Nothing classical holds for three active atoms; uniqueness does."""
        D = paper_known.dictionary
        assert mutual_coherence(D) == pytest.approx(0.77, abs=0.01)
        assert spark(D) == 9
        for positive in (True, False):
            guarantee = recovery_guarantee(D, positive=positive)
            assert guarantee.n_nonzero_coefs == 1
            assert guarantee.unique == 4
        supports = subsets(16, 3)
        assert (exact_recovery_condition(D, supports) < 1).mean() <= 0.002
        held = (exact_recovery_condition(D, supports, positive=True) < 1).mean()
        assert held == pytest.approx(0.45, abs=0.05)
        assert restricted_isometry(D, 6).lower > 2


def codes_on(support, n_components, seed, *, positive):
    rng = np.random.default_rng([313, seed])
    codes = np.zeros(n_components)
    codes[support] = rng.uniform(0.1, 2, len(support))
    return codes if positive else codes * rng.choice([-1, 1], n_components)


class TestRecoveryInsideTheGuarantee:
    @given(st.integers(0, 10**6), st.booleans(), st.data())
    def test_every_method_finds_the_codes(self, seed, positive, data):
        n_features = data.draw(st.integers(6, 24))
        D = random_atoms(seed, n_features + 3, n_features)
        guarantee = recovery_guarantee(D, positive=positive)
        k = guarantee.n_nonzero_coefs
        assert guarantee.by_theorem["coherence"] <= guarantee.by_theorem["babel"]
        assert guarantee.by_theorem["babel"] <= guarantee.by_theorem["exact recovery"] == k
        assume(k >= 1)
        support = np.random.default_rng(seed).permutation(len(D))[:k]
        s = codes_on(support, len(D), seed, positive=positive)
        x = (s @ D)[None]
        assert_allclose(basis_pursuit(x[0], D, positive=positive), s, atol=1e-6)
        lasso = sparse_encode(x, D, alpha=1e-7, positive_code=positive, solver="working_set")
        assert_allclose(lasso[0], s, atol=1e-4)
        matched = [guarantee.by_theorem["babel"]] if positive else [k]
        for n_nonzero_coefs in matched:
            s = codes_on(support[:n_nonzero_coefs], len(D), seed, positive=positive)
            found = sparse_encode(
                (s @ D)[None], D, n_nonzero_coefs=max(1, n_nonzero_coefs), solver="omp",
                positive_code=positive,
            )  # fmt: skip
            assert_allclose(found[0], s, atol=1e-6)

    def test_four_of_128_spikes_and_waves(self):
        D = np.vstack([np.eye(64), hadamard(64) / 8])
        guarantee = recovery_guarantee(D)
        assert guarantee.n_nonzero_coefs == 4
        rng = np.random.default_rng(314)
        codes = np.array(
            [codes_on(rng.permutation(128)[:4], 128, i, positive=False) for i in range(50)]
        )
        X = codes @ D
        omp = sparse_encode(X, D, n_nonzero_coefs=4, solver="omp", positive_code=False)
        assert_allclose(omp, codes, atol=1e-9)
        lasso = sparse_encode(X, D, alpha=1e-8, solver="working_set", positive_code=False)
        assert_allclose(lasso, codes, atol=1e-6)
        assert_allclose(basis_pursuit(X[0], D, positive=False), codes[0], atol=1e-6)

    @pytest.mark.parametrize("positive", [True, False])
    def test_sets_for_which_the_condition_holds(self, positive):
        """Not the worst set, but each: those with the condition are found, all of them."""
        D = random_atoms(7, 12, 8)
        supports = subsets(12, 3 if positive else 2)
        values = exact_recovery_condition(D, supports, positive=positive)
        held = supports[values < 1]
        assert 10 < len(held) < len(supports)
        for i, support in enumerate(held[:60]):
            s = codes_on(support, 12, i, positive=positive)
            assert_allclose(basis_pursuit(s @ D, D, positive=positive), s, atol=1e-6)

    def test_outside_some_code_is_missed(self):
        """Tropp's converse: where the condition fails, the first step of OMP can go wrong."""
        D = random_atoms(7, 12, 8)
        supports = subsets(12, 2)
        values = exact_recovery_condition(D, supports)
        support = supports[values.argmax()]
        outside = np.setdiff1d(np.arange(12), support)
        # the residual on which all atoms of the set are equally good
        inverse = np.linalg.pinv(D[support])  # (n_features, k)
        coefs = D[outside] @ inverse
        j = np.abs(coefs).sum(axis=1).argmax()
        x = inverse @ np.sign(coefs[j])
        s = np.zeros(12)
        s[support] = x @ inverse
        assert_allclose(s @ D, x, atol=1e-9)
        found = sparse_encode(x[None], D, n_nonzero_coefs=2, solver="omp", positive_code=False)[0]
        assert set(np.flatnonzero(found)) != set(support)


def statistical_dimension(rho, delta, kappa):
    """M/N at which K/N = rho·delta is the threshold (Amelunxen et al. 2014, prop. 4.5)."""
    share = rho * delta

    def expected(tau):
        tail = quad(lambda u: (u - tau) ** 2 * norm.pdf(u), tau, np.inf)[0]
        return share * (1 + tau**2) + kappa * (1 - share) * tail

    return minimize_scalar(expected, bounds=(0, 10), method="bounded").fun


class TestPhaseTransition:
    @pytest.mark.parametrize("positive", [True, False])
    @pytest.mark.parametrize("delta", [0.02, 0.3, 0.5, 0.95])
    def test_agrees_with_the_statistical_dimension(self, positive, delta):
        rho = phase_transition(delta, positive=positive)
        kappa = 1 if positive else 2
        assert statistical_dimension(rho, delta, kappa) == pytest.approx(delta, rel=1e-6)

    @pytest.mark.parametrize("kappa", [1, 2])
    def test_is_the_maximum_of_the_formula(self, kappa):
        def negative(z):
            bracket = (1 + z**2) * norm.cdf(-z) - z * norm.pdf(z)
            return -(1 - kappa / 0.4 * bracket) / (1 + z**2 - kappa * bracket)

        best = minimize_scalar(negative, bounds=(0, 5), method="bounded")
        assert phase_transition(0.4, positive=kappa == 1) == pytest.approx(-best.fun, abs=1e-9)

    def test_ends_shape_and_order(self):
        deltas = np.geomspace(1e-200, 1, 30).reshape(5, 6)
        signed, positive = phase_transition(deltas), phase_transition(deltas, positive=True)
        assert signed.shape == (5, 6)
        for rho in (signed, positive):
            assert (np.diff(rho.ravel()) > 0).all()
            assert rho.min() > 0
        assert (positive >= signed).all()
        assert phase_transition(1) == phase_transition(1.0, positive=True) == 1
        assert 0 <= phase_transition(1e-300) < phase_transition(1e-3)
        # ρ ~ 1/(2 log(1/δ)) for both as δ goes to 0 (Donoho & Tanner 2009)
        assert signed.ravel()[0] * 2 * 200 * np.log(10) == pytest.approx(1, abs=0.03)

    @pytest.mark.parametrize("positive", [True, False])
    def test_linear_programming_turns_there(self, positive):
        N, M = 100, 50
        rng = np.random.default_rng(315)
        shares = []
        for factor in (0.7, 1.35):
            k = round(factor * phase_transition(M / N, positive=positive) * M)
            found = 0
            for trial in range(12):
                D = rng.standard_normal((N, M))
                s = codes_on(rng.permutation(N)[:k], N, trial, positive=positive)
                found += np.allclose(basis_pursuit(s @ D, D, positive=positive), s, atol=1e-5)
            shares.append(found / 12)
        assert shares[0] >= 0.9
        assert shares[1] <= 0.1


D = random_atoms(3, 6, 4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mutual_coherence([[1.0, np.nan]]), "dictionary contains NaN"),
        (lambda: mutual_coherence(D[0]), "Expected 2D array"),
        (lambda: mutual_coherence(np.vstack([D, np.zeros(4)])), r"all zero \(rows \[6\]\)"),
        (lambda: babel_function(D, max_size=7), "max_size=7 must be an integer from 1 to .* 6"),
        (lambda: restricted_isometry(D, 0), "k=0 must be"),
        (lambda: restricted_isometry(D, 2.0), r"k=2\.0 must be"),
        (lambda: exact_recovery_condition(D, [0, 1]), r"supports has shape \(2,\)"),
        (lambda: exact_recovery_condition(D, [[0.5, 1]]), "dtype float64"),
        (lambda: exact_recovery_condition(D, [[0, 6]]), "numbered from 0 to 5"),
        (lambda: exact_recovery_condition(D, [[1, 1]]), "same atom twice"),
        (lambda: phase_transition(0.0), r"delta=0\.0 must be above 0"),
        (lambda: phase_transition([0.5, np.nan]), "must be above 0"),
        (lambda: spark(random_atoms(4, 60, 30)), "sets of 30 of its 60 atoms.*bound it from"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_dependent_and_complete_sets():
    twice = np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]])
    assert_array_equal(exact_recovery_condition(twice, [[0, 1], [0, 2]]), [np.inf, 1])
    assert_array_equal(exact_recovery_condition(twice, [[0, 1, 2]]), [np.inf])
    assert_array_equal(exact_recovery_condition(np.eye(2), [[0, 1]]), [-np.inf])
