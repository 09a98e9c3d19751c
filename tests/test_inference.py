"""Every solver of the table against optimality, scikit-learn, exhaustive search, and itself."""

from importlib import import_module
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from problems import alpha_max, kkt_violation, lasso_problems, objective, planted
from scipy.linalg import hadamard
from scipy.optimize import nnls
from scipy.sparse import csr_array
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.decomposition import sparse_encode as sklearn_sparse_encode
from sklearn.linear_model import ElasticNet, LassoLars, lars_path
from sklearn.linear_model import Lasso as Lasso_

from sparsecode_estimators import ITORefiner, SparseCodingEncoder, kernels, sparse_encode
from sparsecode_estimators.estimators import arrays
from sparsecode_estimators.inference import SOLVERS, Lasso, lasso_path, solve
from sparsecode_estimators.metrics import mean_corr_coef

LASSO = [name for name, s in SOLVERS.items() if s.solves == "lasso" and s.exact]
K_SPARSE = [name for name, s in SOLVERS.items() if s.solves == "k-sparse"]
REFITS = [name for name in K_SPARSE if SOLVERS[name].refits]


def options_for(solver, *, alpha=0.02, k=3):
    """Arguments of ``sparse_encode`` that state the problem of a solver."""
    return {
        "solver": solver,
        **({"n_nonzero_coefs": k} if solver in K_SPARSE else {"alpha": alpha}),
    }


@pytest.mark.parametrize("solver", LASSO)
@given(problem=lasso_problems())
def test_reaches_the_optimum(solver, problem):
    codes, info = sparse_encode(
        problem.X,
        problem.D,
        **problem.options,
        solver=solver,
        max_iter=20_000,
        tol=1e-10,
        return_info=True,
    )
    assert info.converged.all()
    # strong convexity in s D turns a relative gap of 1e-10 into 1e-5 of the residual
    assert kkt_violation(codes, *problem).max() <= 1e-4
    if problem.positive:
        assert (codes >= 0).all()


@pytest.mark.parametrize("positive", [True, False])
@pytest.mark.parametrize("alpha", [0.003, 0.1])
@pytest.mark.parametrize("solver", LASSO)
def test_lasso_agrees_with_scikit_learn(solver, alpha, positive):
    X, _, D = planted(40, 30, 60, 4, seed=1, positive=positive)
    ours = sparse_encode(X, D, alpha=alpha, positive_code=positive, solver=solver, tol=1e-14)
    # scikit-learn's Lasso averages over samples, which are the features here; its own
    # sparse_encode calls it with a tolerance that leaves errors above 1e-6
    theirs = Lasso_(alpha / 30, fit_intercept=False, positive=positive, tol=1e-15, max_iter=10**6)
    np.testing.assert_allclose(ours, theirs.fit(D.T, X.T).coef_, atol=1e-6)


@pytest.mark.parametrize("positive", [True, False])
@pytest.mark.parametrize("ridge", [0.01, 1.0])
@pytest.mark.parametrize("solver", LASSO)
def test_elastic_net_agrees_with_scikit_learn(solver, ridge, positive):
    X, _, D = planted(40, 30, 60, 4, seed=12, positive=positive)
    ours = sparse_encode(
        X, D, alpha=0.05, ridge=ridge, positive_code=positive, solver=solver, tol=1e-14
    )
    # its penalty is a·l·|s| + ½a(1 − l)s² beside a mean over samples, which are features here
    theirs = ElasticNet(
        (0.05 + ridge) / 30,
        l1_ratio=0.05 / (0.05 + ridge),
        fit_intercept=False,
        positive=positive,
        tol=1e-15,
        max_iter=10**6,
    )
    np.testing.assert_allclose(ours, theirs.fit(D.T, X.T).coef_, atol=1e-6)


@pytest.mark.parametrize("positive", [True, False])
@pytest.mark.parametrize("solver", LASSO)
def test_weights_are_atoms_of_other_lengths(solver, positive):
    X, _, D = planted(40, 30, 60, 4, seed=13, positive=positive)
    weights = np.random.default_rng(0).uniform(0.5, 2.0, 60)
    ours = sparse_encode(
        X, D, alpha=0.05, weights=weights, positive_code=positive, solver=solver, tol=1e-14
    )
    theirs = Lasso_(0.05 / 30, fit_intercept=False, positive=positive, tol=1e-15, max_iter=10**6)
    rescaled = theirs.fit((D / weights[:, None]).T, X.T).coef_ / weights
    np.testing.assert_allclose(ours, rescaled, atol=1e-6)


@pytest.mark.parametrize("positive", [True, False])
def test_ridge_alone_is_ridge_regression(positive):
    X, _, D = planted(40, 10, 20, 4, seed=14, positive=positive)
    ours, info = sparse_encode(
        X, D, alpha=0.0, ridge=0.5, positive_code=positive, tol=1e-14, return_info=True
    )
    assert info.converged.all()
    padded_X, padded_D = np.hstack([X, np.zeros((40, 20))]), np.hstack([D, 0.5**0.5 * np.eye(20)])
    least_squares = nnls if positive else lambda A, x: np.linalg.lstsq(A, x, rcond=None)
    for x, s in zip(padded_X, ours, strict=True):
        np.testing.assert_allclose(s, least_squares(padded_D.T, x)[0], atol=1e-7)


@pytest.mark.parametrize("positive", [True, False])
@pytest.mark.parametrize("solver", LASSO)
def test_debias_is_least_squares_on_the_support(solver, positive):
    X, _, D = planted(60, 10, 30, 4, seed=15, positive=positive, noise=0.1)
    options = {"alpha": 0.02, "positive_code": positive, "solver": solver, "tol": 1e-8}
    found = sparse_encode(X, D, **options)
    codes, info = sparse_encode(X, D, debias=True, return_info=True, **options)
    assert not (codes != 0)[found == 0].any()
    assert (info.residual <= 0.5 * ((X - found @ D) ** 2).sum(1)).all()
    np.testing.assert_allclose(info.residual, 0.5 * ((X - codes @ D) ** 2).sum(1), atol=1e-12)
    least_squares = nnls if positive else lambda A, x: np.linalg.lstsq(A, x, rcond=None)
    for x, support, s in zip(X, found != 0, codes, strict=True):
        np.testing.assert_allclose(s[support], least_squares(D[support].T, x)[0], atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_lca_does_not_climb(dtype):
    for seed in range(6):
        rng = np.random.default_rng([seed, 153])
        D = 0.3 * rng.standard_normal((60, 4)) + rng.standard_normal(4)
        D = (D / np.linalg.norm(D, axis=1, keepdims=True)).astype(dtype)
        X = rng.standard_normal((50, 4)).astype(dtype)
        options = {"alpha": 3e-4, "solver": "lca", "positive_code": False, "max_iter": 500}
        codes = sparse_encode(X, D, **options).astype(float)
        value = 0.5 * ((X - codes @ D) ** 2).sum(1) + 3e-4 * np.abs(codes).sum(1)
        assert (value < 0.1 * 0.5 * (X**2).sum(1)).all()


def test_exhaustive_search_with_parallel_atoms():
    for seed in range(300):  # of some an inverse said that parallel atoms explain more
        rng = np.random.default_rng(seed)
        D = rng.standard_normal((6, 8))
        D /= np.linalg.norm(D, axis=1, keepdims=True)
        D[2] = -D[3]
        X = rng.standard_normal((6, 8))
        codes = sparse_encode(X, D, n_nonzero_coefs=6, solver="l0", positive_code=False)
        least = X - np.linalg.lstsq(D.T, X.T, rcond=None)[0].T @ D
        np.testing.assert_allclose(((X - codes @ D) ** 2).sum(1), (least**2).sum(1), atol=1e-10)


@pytest.mark.parametrize("positive", [True, False])
def test_matching_pursuit_from_a_bad_start(positive):
    X, codes, D = planted(30, 10, 40, 2, seed=155, positive=positive)
    start = 5 * np.random.default_rng(156).standard_normal(codes.shape)
    options = {"n_nonzero_coefs": 3, "solver": "matching_pursuit", "positive_code": positive}
    found = sparse_encode(X, D, init=start, **options)
    np.testing.assert_allclose(found, sparse_encode(X, D, **options), atol=1e-12)


def test_debias_of_atoms_that_are_alike_in_float32():
    rng = np.random.default_rng(151)
    base = rng.standard_normal((15, 40))
    D = np.vstack([base, base + 0.01 * rng.standard_normal((15, 40))])
    D = (D / np.linalg.norm(D, axis=1, keepdims=True)).astype(np.float32)
    X = (planted(50, 40, 30, 6, seed=152)[1] @ D).astype(np.float32)
    codes = sparse_encode(X, D, alpha=1e-3, debias=True)
    pairs = ((codes[:, :15] != 0) & (codes[:, 15:] != 0)).any(1)
    assert pairs.sum() > 5  # without them this would be easy
    for x, s in zip(X.astype(float), codes.astype(float), strict=True):
        A = D[s != 0].T.astype(float)
        least = x - A @ np.linalg.lstsq(A, x, rcond=None)[0]
        assert np.linalg.norm(x - s @ D) <= np.linalg.norm(least) + 1e-6 * np.linalg.norm(x)


@given(problem=lasso_problems())
def test_debias_never_raises_the_residual(problem):
    found = sparse_encode(*problem[:2], **problem.options, return_info=True)[1]
    codes, info = sparse_encode(*problem[:2], **problem.options, debias=True, return_info=True)
    assert (info.residual <= found.residual * (1 + 1e-12)).all()  # rounding
    if problem.positive:
        assert (codes >= 0).all()


@pytest.mark.parametrize("make", [SparseCodingEncoder, lambda **kw: ITORefiner(**kw)])
def test_estimators_honour_weights_ridge_and_debias(make):
    X, _, D = planted(30, 8, 16, 3, seed=16)
    options = {"weights": np.linspace(0.5, 2, 16), "ridge": 0.1, "debias": True, "alpha": 0.02}
    codes = make(dictionary=D, **options).fit(X).transform(X)
    np.testing.assert_array_equal(codes, sparse_encode(X, D, **options))
    assert np.abs(codes - sparse_encode(X, D, alpha=0.02)).max() > 1e-3


@pytest.mark.parametrize("k", [1, 4, 9])
def test_omp_agrees_with_scikit_learn(k):
    X, _, D = planted(100, 30, 60, 4, seed=2, positive=False, noise=0.1)
    ours = sparse_encode(X, D, n_nonzero_coefs=k, solver="omp", positive_code=False)
    theirs = sklearn_sparse_encode(X, D, algorithm="omp", n_nonzero_coefs=k)
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize("positive", [True, False])
@pytest.mark.parametrize("solver", REFITS)
def test_k_sparse_codes_are_least_squares_on_their_support(solver, positive):
    X, _, D = planted(50, 8, 16, 3, seed=3, positive=positive)
    codes = sparse_encode(X, D, n_nonzero_coefs=3, solver=solver, positive_code=positive)
    assert ((codes != 0).sum(1) <= 3).all()
    least_squares = nnls if positive else lambda A, x: np.linalg.lstsq(A, x, rcond=None)
    for x, s in zip(X, codes, strict=True):
        np.testing.assert_allclose(s[s != 0], least_squares(D[s != 0].T, x)[0], atol=1e-8)


@pytest.mark.parametrize("solver", K_SPARSE)
@given(problem=lasso_problems(), k=st.integers(1, 4), dtype=st.sampled_from(["f4", "f8"]))
def test_k_sparse_codes_of_awkward_problems(solver, problem, k, dtype):
    X, D = problem.X.astype(dtype), problem.D.astype(dtype)
    options = {"n_nonzero_coefs": k, "positive_code": problem.positive, "return_info": True}
    codes, info = sparse_encode(X, D, solver=solver, **options)
    assert ((codes != 0).sum(1) <= k).all()
    assert not problem.positive or (codes >= 0).all()
    energy = 0.5 * (X**2).sum(1)
    residual = 0.5 * ((X - codes @ D) ** 2).sum(1)
    rounding = 1e-5 if dtype == "f4" else 1e-10
    assert (np.abs(info.residual - residual) <= rounding * energy).all()
    best = sparse_encode(X, D, solver="l0", **options)[1].residual
    assert (info.residual >= best - rounding * energy).all()
    assert (info.residual <= energy * (1 + rounding)).all()
    assert np.isnan(info.dual_gap).all()


@pytest.mark.parametrize("solver", [*LASSO, *K_SPARSE])
@pytest.mark.parametrize("positive", [True, False])
def test_permuted_atoms_and_scaled_rows(solver, positive):
    X, _, D = planted(30, 8, 16, 3, seed=17, positive=positive, noise=0.05)
    options = {"positive_code": positive, "tol": 1e-12}
    codes = sparse_encode(X, D, **options_for(solver), **options)
    order = np.random.default_rng(0).permutation(16)
    permuted = sparse_encode(X, D[order], **options_for(solver), **options)
    np.testing.assert_allclose(permuted, codes[:, order], atol=1e-7)
    for factor in (1e-6, 1e6):
        scaled = sparse_encode(factor * X, D, **options_for(solver, alpha=0.02 * factor), **options)
        np.testing.assert_allclose(scaled / factor, codes, atol=1e-7)


@pytest.mark.parametrize("positive", [True, False])
def test_exhaustive_search_is_exhaustive(positive):
    X, _, D = planted(20, 6, 9, 3, seed=18, positive=positive, noise=0.3)
    D[2] = D[4]
    found = sparse_encode(
        X, D, n_nonzero_coefs=3, solver="l0", positive_code=positive, return_info=True
    )[1]
    best = [exhaustive(x, D, 3, positive=positive) for x in X]
    np.testing.assert_allclose(found.residual, best, atol=1e-12)


def naive_ols(x, D, k, positive):
    """The rule in full: refit with every further atom, keep the best; non-negative if asked."""
    support = []
    values = np.zeros(0)
    while len(support) < k:
        products = D @ (x - D[support].T @ values)
        allowed = [
            j for j in range(len(D)) if j not in support and (products[j] > 0 or not positive)
        ]
        if not allowed:
            break
        tried = {j: squared_distance(x, D[[*support, j]]) for j in allowed}
        support.append(min(tried, key=tried.get))
        if positive:
            values = nnls(D[support].T, x)[0]
            support = [j for j, value in zip(support, values, strict=True) if value > 0]
            values = values[values > 0]
        else:
            values = np.linalg.lstsq(D[support].T, x, rcond=None)[0]
    codes = np.zeros(len(D))
    codes[support] = values
    return codes


def squared_distance(x, atoms):
    return ((x - atoms.T @ np.linalg.lstsq(atoms.T, x, rcond=None)[0]) ** 2).sum()


@pytest.mark.parametrize("positive", [True, False])
@pytest.mark.parametrize("k", [1, 2, 5])
def test_ols_takes_the_atom_that_lowers_the_residual_most(k, positive):
    X, _, D = planted(40, 8, 16, 3, seed=19, positive=positive, noise=0.1)
    ours = sparse_encode(X, D, n_nonzero_coefs=k, solver="ols", positive_code=positive)
    theirs = np.array([naive_ols(x, D, k, positive) for x in X])
    np.testing.assert_allclose(ours, theirs, atol=1e-8)


@pytest.mark.parametrize("positive", [True, False])
def test_matching_pursuit_step_by_step(positive):
    X, _, D = planted(40, 8, 16, 3, seed=20, positive=positive, noise=0.1)
    D *= np.linspace(0.5, 2, 16)[:, None]  # atoms of any length
    length = np.linalg.norm(D, axis=1)
    theirs = np.zeros((40, 16))
    for x, s in zip(X, theirs, strict=True):
        for _ in range(1000):
            products = D @ (x - s @ D) / length
            j = np.argmax(products if positive else np.abs(products))
            if (s[j] == 0 and (s != 0).sum() == 3) or abs(products[j]) < 1e-13:
                break
            s[j] += products[j] / length[j]
    ours = sparse_encode(
        X, D, n_nonzero_coefs=3, solver="matching_pursuit", positive_code=positive, tol=None
    )
    np.testing.assert_allclose(ours, theirs, atol=1e-9)


@pytest.mark.parametrize("positive", [True, False])
@pytest.mark.parametrize("solver", ["iht", "htp"])
def test_thresholding_recovers_what_is_easy(solver, positive):
    X, true, D = planted(100, 60, 80, 3, seed=21, positive=positive, noise=0.0)
    codes = sparse_encode(X, D, n_nonzero_coefs=3, solver=solver, positive_code=positive)
    assert np.mean(np.abs(codes - true).max(1) < 1e-7) > 0.95


@pytest.mark.parametrize("positive", [True, False])
@pytest.mark.parametrize("solver", ["omp", "omp_replacement", "ols", "homotopy"])
def test_recovery_below_half_one_plus_the_inverse_coherence(solver, positive):
    """Tropp (2004): with K < (1 + 1/μ)/2 atoms and no noise nothing can go wrong."""
    D = np.vstack([np.eye(64), hadamard(64) / 8])
    coherence = np.abs(D @ D.T - np.eye(128)).max()
    k = int(np.ceil((1 + 1 / coherence) / 2)) - 1
    assert k == 4
    rng = np.random.default_rng(0)
    true = np.zeros((50, 128))
    for row in true:
        chosen = rng.choice(128, k, replace=False)
        row[chosen] = rng.uniform(1, 2, k) * (1 if positive else rng.choice([-1, 1], k))
    options = {"positive_code": positive, "tol": 1e-12}
    codes = sparse_encode(true @ D, D, **options_for(solver, alpha=1e-6, k=k), **options)
    np.testing.assert_array_equal(codes != 0, true != 0)
    np.testing.assert_allclose(codes, true, atol=1e-5)


@given(
    seed=st.integers(0, 2**32 - 1),
    n_features=st.integers(4, 12),
    extra=st.integers(0, 12),
    k=st.integers(1, 3),
    scale=st.sampled_from([1e-3, 1.0, 1e3]),
)
def test_recovery_under_the_exact_recovery_condition(seed, n_features, extra, k, scale):
    """Greedy codes are the sources, and the lasso uses no other atoms.

    Tropp (2004, 2006) for omp and the lasso; Soussen, Gribonval, Idier & Herzet (2013) for ols.

    The condition is that the pseudo-inverse of the atoms of the support maps no other atom
    to coefficients whose sizes sum to 1.
    """
    rng = np.random.default_rng(seed)
    D = rng.standard_normal((n_features + extra, n_features))
    D /= np.linalg.norm(D, axis=1, keepdims=True)
    support = rng.choice(len(D), k, replace=False)
    others = np.setdiff1d(np.arange(len(D)), support)
    assume(np.abs(D[others] @ np.linalg.pinv(D[support])).sum(1).max(initial=0) < 0.95)
    codes = np.zeros((5, len(D)))
    codes[:, support] = scale * rng.choice([-1, 1], (5, k)) * rng.uniform(0.5, 2, (5, k))
    X = codes @ D
    for solver in ("omp", "ols"):
        found = sparse_encode(X, D, n_nonzero_coefs=k, solver=solver, positive_code=False)
        np.testing.assert_allclose(found, codes, atol=1e-8 * scale)
    for solver in LASSO:
        options = {"solver": solver, "positive_code": False, "tol": 1e-10}
        found = sparse_encode(X, D, alpha=0.1 * scale, **options)
        assert np.abs(found[:, others]).max(initial=0) <= 1e-7 * scale


@pytest.mark.parametrize("positive", [True, False])
def test_path_agrees_with_scikit_learn(positive):
    X, _, D = planted(30, 20, 50, 5, seed=22, positive=positive, noise=0.5)
    path = lasso_path(Lasso(torch.tensor(X), torch.tensor(D), positive, alpha=0.01))
    for x, alphas, codes in zip(X, path.alphas.T, path.codes.transpose(0, 1), strict=True):
        theirs, _, coefs = lars_path(
            D.T, x, method="lasso", positive=positive, alpha_min=0.01 / len(x)
        )
        distinct = np.r_[True, np.diff(alphas) < 0]
        np.testing.assert_allclose(alphas[distinct], theirs * len(x), atol=1e-9)
        np.testing.assert_allclose(codes[distinct], coefs.T, atol=1e-8)


def test_path_to_at_most_k_atoms():
    X, _, D = planted(30, 20, 50, 5, seed=23, noise=0.1)
    path = lasso_path(Lasso(torch.tensor(X), torch.tensor(D), True, alpha=0.01))
    for k in (0, 1, 4):
        codes = path.k_sparse(k).numpy()
        assert ((codes != 0).sum(1) == k).all()
    # on the path, and the next breakpoint has more: an alpha a hair lower needs another atom
    correlations = (X - codes @ D) @ D.T
    level = correlations.max(1)
    for x, s, alpha in zip(X, codes, level, strict=True):
        assert kkt_violation(s[None], x[None], D, alpha, True).max() < 1e-9
        lower = sparse_encode(x[None], D, alpha=alpha * 0.999, tol=1e-12)
        assert (lower != 0).sum() == 5


@pytest.mark.parametrize("positive", [True, False])
def test_homotopy_agrees_with_lasso_lars(positive):
    X, _, D = planted(20, 20, 50, 5, seed=24, positive=positive, noise=0.2)
    ours, info = sparse_encode(
        X, D, alpha=0.03, solver="homotopy", positive_code=positive, return_info=True
    )
    for x, s in zip(X, ours, strict=True):
        theirs = LassoLars(0.03 / 20, fit_intercept=False, positive=positive).fit(D.T, x)
        np.testing.assert_allclose(s, theirs.coef_, atol=1e-9)
    # one step for each atom that joins, one for the start's first, some for atoms that leave
    assert info.n_iter.max() <= 3 * (ours != 0).sum(1).max()


def test_homotopy_through_ties():
    """Equal and opposite atoms, and rows on a grid: many atoms meet their bound at once."""
    D = np.vstack([np.eye(6), np.eye(6)[:3], -np.eye(6)[:2], np.ones((2, 6)) / 6**0.5])
    X = np.random.default_rng(0).integers(-2, 3, (200, 6)).astype(float)
    for positive in (True, False):
        options = {"alpha": 0.1, "positive_code": positive, "return_info": True}
        codes, info = sparse_encode(X, D, solver="homotopy", **options)
        assert info.converged.all()
        assert info.n_iter.max() < 200
        best = objective(sparse_encode(X, D, tol=1e-12, **options)[0], X, D, 0.1)
        np.testing.assert_allclose(objective(codes, X, D, 0.1), best, atol=1e-5)


def exhaustive(x, D, k, *, positive=True):
    """Smallest residual of any support of size k, by trying them all."""
    supports = (list(support) for support in combinations(range(len(D)), k))
    if positive:
        return min(0.5 * nnls(D[support].T, x)[1] ** 2 for support in supports)
    return min(0.5 * squared_distance(x, D[support]) for support in supports)


def test_greedy_codes_against_exhaustive_search():
    X, _, D = planted(60, 8, 12, 3, seed=4, noise=0.0)
    best = np.array([exhaustive(x, D, 3) for x in X])
    residual = {
        solver: sparse_encode(X, D, n_nonzero_coefs=3, solver=solver, return_info=True)[1].residual
        for solver in K_SPARSE
    }
    for found in residual.values():
        assert (found >= best - 1e-9).all()
    assert (residual["omp_replacement"] <= residual["omp"] + 1e-9).all()
    assert np.mean(residual["omp_replacement"] <= best + 1e-9) > 0.7


def test_replacement_goes_on_from_the_start():
    X, true, D = planted(80, 8, 16, 3, seed=5, noise=0.0)
    rng = np.random.default_rng(0)
    guess = true * rng.uniform(0.5, 1.5, true.shape)
    codes, info = sparse_encode(X, D, n_nonzero_coefs=3, init=guess, return_info=True)
    np.testing.assert_allclose(codes, true, atol=1e-7)
    assert info.n_iter.max() <= 1


@pytest.mark.parametrize("solver", LASSO)
def test_warm_start_at_the_optimum_needs_no_iteration(solver):
    X, _, D = planted(30, 8, 16, 3, seed=6)
    cold, first = sparse_encode(X, D, alpha=0.05, solver=solver, return_info=True)
    warm, second = sparse_encode(X, D, alpha=0.05, solver=solver, init=cold, return_info=True)
    assert first.n_iter.min() > 0
    assert second.n_iter.max() == 0
    np.testing.assert_array_equal(cold, warm)


@given(problem=lasso_problems(), seed=st.integers(0, 2**31))
def test_duality_gap_bounds_the_excess(problem, seed):
    rng = np.random.default_rng(seed)
    best = sparse_encode(*problem[:2], **problem.options, tol=1e-12)
    any_codes = np.abs(rng.standard_normal(best.shape)) * np.abs(problem.X).max()
    lasso = Lasso(
        torch.tensor(problem.X),
        torch.tensor(problem.D),
        problem.positive,
        alpha=problem.alpha,
        weights=None if problem.weights is None else torch.tensor(problem.weights),
        ridge=problem.ridge,
    )
    terms = (*problem[:3], problem.weights, problem.ridge)
    scale = np.maximum(objective(any_codes, *terms), np.finfo(float).tiny)
    excess = objective(any_codes, *terms) - objective(best, *terms)
    np.testing.assert_allclose(
        lasso.objective(torch.tensor(any_codes)), objective(any_codes, *terms), rtol=1e-9
    )
    gap = lasso.duality_gap(torch.tensor(any_codes)).numpy()
    assert (excess / scale <= gap / scale + 1e-9).all()


@pytest.mark.parametrize("positive", [True, False])
@given(problem=lasso_problems())
def test_alpha_max_is_exact(positive, problem):
    X, D = problem.X[:1], problem.D
    top = alpha_max(X, D, positive, problem.weights)[0]
    if top <= 0:
        return
    options = {**problem.options, "positive_code": positive}
    above = sparse_encode(X, D, **{**options, "alpha": top * (1 + 1e-9)})
    below = sparse_encode(X, D, **{**options, "alpha": top * 0.99})
    assert not above.any()
    assert below.any()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("solver", LASSO)
def test_converged_means_certified(solver, dtype):
    X, _, D = planted(300, 20, 60, 4, seed=7)
    X, D = X.astype(dtype), D.astype(dtype)
    codes, info = sparse_encode(X, D, alpha=0.01, solver=solver, return_info=True)
    assert codes.dtype == dtype
    assert info.converged.all()
    assert (info.dual_gap <= 1e-6 * 0.5 * (X**2).sum(1)).all()
    exact = sparse_encode(X.astype(float), D.astype(float), alpha=0.01, tol=1e-13)
    excess = objective(codes.astype(float), X, D, 0.01) - objective(exact, X, D, 0.01)
    assert (excess <= info.dual_gap + 1e-7).all()


@pytest.mark.parametrize("alpha", [1e-4, 0.003, 0.03])
@pytest.mark.parametrize(("n_features", "n_components"), [(8, 64), (60, 200), (30, 2000)])
def test_single_precision_is_certified_where_as_many_atoms_as_features_are_active(
    n_features, n_components, alpha
):
    """They are nearly dependent then, and rounding led rows round in circles."""
    rng = np.random.default_rng(70)
    X, D = rng.normal(size=(40, n_features)), rng.normal(size=(n_components, n_features))
    X, D = X.astype("f"), (D / np.linalg.norm(D, axis=1, keepdims=True)).astype("f")
    options = {"alpha": alpha, "positive_code": False, "solver": "working_set"}
    codes, info = sparse_encode(X, D, return_info=True, **options)
    assert info.converged.all()
    exact = sparse_encode(X.astype(float), D.astype(float), tol=1e-12, **options)
    excess = objective(codes.astype(float), X, D, alpha) - objective(exact, X, D, alpha)
    assert (excess <= info.dual_gap + 1e-9 * (X**2).sum(1)).all()


@pytest.mark.parametrize("positive", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("n_features", "noise", "share"), [(45, 0.01, 1e-5), (60, 0, 1e-3)])
def test_dictionaries_of_low_rank(n_features, noise, share, dtype, positive):
    """Active atoms are nearly dependent, or are. What is proven is computed by NumPy."""
    rng = np.random.default_rng(71)
    rank = n_features // 3
    D = rng.normal(size=(5 * n_features, rank)) @ rng.normal(size=(rank, n_features))
    D += noise * rng.normal(size=D.shape)
    D = (D / np.linalg.norm(D, axis=1, keepdims=True)).astype(dtype).astype(float)
    X = rng.normal(size=(12, n_features)).astype(dtype).astype(float)
    alpha = share * np.abs(X @ D.T).max()
    options = {"alpha": alpha, "positive_code": positive, "solver": "working_set"}
    r = X - sparse_encode(X, D, tol=1e-8, **options) @ D
    slopes = r @ D.T if positive else np.abs(r @ D.T)
    dual_point = r * np.minimum(1, alpha / slopes.max(1, keepdims=True))
    dual = 0.5 * (X**2).sum(1) - 0.5 * ((X - dual_point) ** 2).sum(1)
    codes = sparse_encode(X.astype(dtype), D.astype(dtype), **options).astype(float)
    assert (objective(codes, X, D, alpha) - dual <= 2e-6 * 0.5 * (X**2).sum(1)).all()


def test_copies_of_atoms_take_few_turns():
    """With as many active atoms as features, rounding decides which of two copies is wanted."""
    rng = np.random.default_rng(3)
    D = rng.normal(size=(280, 136))
    D = np.concatenate([D, D]) / np.linalg.norm(D, axis=1).mean()
    X = rng.normal(size=(60, 136))
    assert kernels.gram_pays(60, 560, 136, rule="lasso")
    options = {"alpha": 0.005, "solver": "working_set", "tol": 1e-9, "return_info": True}
    for positive in (True, False):
        info = sparse_encode(X, D, positive_code=positive, **options)[1]
        assert info.converged.all()
        assert np.median(info.n_iter) < 4 * 136


def test_codes_are_not_worse_than_zeros(monkeypatch):
    """Where rounding has won and nothing is left that might help."""
    X, _, D = planted(20, 8, 16, 3, seed=12)
    answer = kernels.working_set

    def astray(*args, **options):
        found = answer(*args, **options)
        found.codes[3:5] = 1e4
        found.gap[3:5] = torch.tensor([1e9, torch.nan])
        found.n_iter[3:5] = 10**6  # a row may not go on
        return found

    monkeypatch.setattr(kernels, "working_set", astray)
    codes, info = sparse_encode(X, D, alpha=0.02, solver="working_set", return_info=True)
    assert not codes[3:5].any()
    assert not info.converged[3:5].any()
    np.testing.assert_allclose(info.dual_gap[3:5], 0.5 * (X[3:5] ** 2).sum(1))
    np.testing.assert_allclose(info.residual[3:5], 0.5 * (X[3:5] ** 2).sum(1))
    assert np.delete(info.converged, [3, 4]).all()


@pytest.mark.parametrize("positive", [True, False])
@pytest.mark.parametrize("solver", SOLVERS)
def test_rows_do_not_depend_on_their_batch_mates(solver, positive):
    if not positive and not SOLVERS[solver].signed:
        return
    X, _, D = planted(64, 8, 16, 3, seed=8, positive=positive)
    options = {"max_iter": 300, "return_info": True, "positive_code": positive}
    together = sparse_encode(X, D, **options_for(solver), **options)[0]
    for row in (0, 17, 63):
        alone = sparse_encode(X[[row]], D, **options_for(solver), **options)
        np.testing.assert_allclose(alone[0][0], together[row], atol=1e-9)


def test_paths_in_parts(monkeypatch):
    X, _, D = planted(30, 8, 16, 3, seed=13)
    options = {"alpha": 0.02, "solver": "homotopy", "return_info": True}
    codes, info = sparse_encode(X, D, **options)
    monkeypatch.setattr(import_module(lasso_path.__module__), "PART", 7 * 64)
    again, others = sparse_encode(X, D, **options)
    np.testing.assert_allclose(again, codes, atol=1e-12)
    assert (others.n_iter == info.n_iter).all()
    assert info.n_iter.min() < info.n_iter.max()


@pytest.mark.parametrize("solver", LASSO)
def test_fixed_number_of_steps(solver):
    X, _, D = planted(20, 8, 16, 3, seed=9)
    previous = np.inf
    for steps in (1, 7, 40, 200):
        codes, info = sparse_encode(
            X, D, alpha=0.02, solver=solver, max_iter=steps, tol=None, return_info=True
        )
        assert (info.n_iter <= steps).all()
        assert (info.n_iter == steps).all() or SOLVERS[solver].finite
        assert not info.converged.any()
        assert objective(codes, X, D, 0.02).mean() <= previous + 1e-12
        previous = objective(codes, X, D, 0.02).mean()


def test_the_start_is_not_written_to():
    X, _, D = planted(20, 8, 16, 3, seed=10)
    X, D = torch.tensor(X), torch.tensor(D)
    for solver in SOLVERS:
        start = torch.full((20, 16), 0.1, dtype=torch.float64)
        solve(X, D, codes=start, max_iter=50, **options_for(solver))
        assert (start == 0.1).all()


@pytest.mark.parametrize(("steps", "golden"), [(100, 0.5019), (200, 0.5137)])
def test_adam_is_the_paper_s(paper_known, steps, golden):
    """Latent MCC of the authors' own runs, science of arXiv 2411.13117, test half."""
    codes = sparse_encode(
        paper_known.X_test,
        paper_known.dictionary,
        alpha=0.0025,
        solver="adam",
        max_iter=steps,
        tol=None,
    )
    assert mean_corr_coef(paper_known.codes_test, codes) == pytest.approx(golden, abs=5e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("steps", "golden"), [(19_800, 0.9666), (19_900, 0.9667)])
def test_adam_is_the_paper_s_to_the_end(paper_known, steps, golden):
    test_adam_is_the_paper_s(paper_known, steps, golden)


def test_flops_count_what_rows_need():
    X, _, D = planted(50, 8, 16, 3, seed=11)
    _, few = sparse_encode(X, D, alpha=0.02, max_iter=10, tol=None, return_info=True)
    _, many = sparse_encode(X, D, alpha=0.02, max_iter=100, tol=None, return_info=True)
    product = 4 * D.size * len(X)  # two products with D for every row
    assert 10 * product <= few.flops <= 20 * product
    assert 100 * product <= many.flops <= 300 * product


@pytest.mark.parametrize("options", [{"n_nonzero_coefs": 1}, {"alpha": 0.1}])
def test_starts_of_rows_with_more_features_than_atoms(options, monkeypatch):
    """Starts are cut where rows are."""
    monkeypatch.setattr(arrays, "_LOOP_NUMBERS", 200)
    X, _, D = planted(50, 40, 3, 1, seed=92)
    start = sparse_encode(X, D, **options)
    codes, info = sparse_encode(X, D, init=start, return_info=True, **options)
    np.testing.assert_allclose(codes, start, atol=1e-9)
    assert len(info.residual) == len(X)


@pytest.mark.parametrize("solver", [name for name, row in SOLVERS.items() if row.signed])
def test_a_start_with_wrong_signs(solver):
    X, _, D = planted(30, 6, 9, 2, seed=93, positive=False)
    options = {"n_nonzero_coefs": 2} if SOLVERS[solver].solves == "k-sparse" else {"alpha": 0.1}
    start = sparse_encode(X, D, positive_code=False, **options)
    assert (start < 0).any()
    codes = sparse_encode(X, D, solver=solver, init=start, **options)
    assert (codes >= 0).all()


def test_a_start_with_a_wrong_sign_is_not_certified():
    codes = sparse_encode(np.array([[-1.0002, 0.0]]), np.eye(2), alpha=1.0, init=[[-0.0002, 0.0]])
    assert (codes == 0).all()


@pytest.mark.parametrize("solver", ["fista", "lca"])
def test_squares_beyond_the_type_are_no_certificate(solver):
    X, _, D = planted(5, 6, 9, 2, seed=94)
    huge = (1e20 * X).astype(np.float32)
    _, info = sparse_encode(huge, D, alpha=1e18, solver=solver, max_iter=50, return_info=True)
    assert not np.isfinite(info.dual_gap).any()
    assert not info.converged.any()


@pytest.mark.parametrize("length", [1e-3, 1e3])
def test_atoms_of_any_length(length):
    """Neurons whose atoms are long, or short, settle as fast."""
    X, _, D = planted(40, 6, 9, 2, seed=95)
    unit, one = sparse_encode(X, D, alpha=0.1, solver="lca", return_info=True)
    codes, info = sparse_encode(X, length * D, alpha=0.1 * length, solver="lca", return_info=True)
    assert info.converged.all()
    assert info.n_iter.max() <= 2 * one.n_iter.max()
    np.testing.assert_allclose(codes * length, unit, atol=1e-4)


def test_parameters_set_after_the_fit_are_checked():
    X, _, D = planted(20, 6, 9, 2, seed=96)
    coder = SparseCodingEncoder(dictionary=D, alpha=0.1).fit(X)
    with pytest.raises(ValueError, match="solver='fista' solves the lasso"):
        coder.set_params(n_nonzero_coefs=1, solver="fista").transform(X)
    with pytest.raises(ValueError, match="solver='nonsense' is unknown"):
        coder.set_params(solver="nonsense").transform(X)


class Foreign(TransformerMixin, BaseEstimator):
    """An encoder of somebody else, whose codes are sparse."""

    def __init__(self, components):
        self.components = components

    def fit(self, X, y=None):
        self.components_ = self.components
        return self

    def transform(self, X):
        return csr_array(np.maximum(X @ self.components.T, 0))


def test_refined_codes_may_be_sparse():
    X, _, D = planted(20, 6, 9, 2, seed=97)
    codes = ITORefiner(Foreign(D), alpha=0.1).fit(X).transform(X)
    np.testing.assert_allclose(codes, sparse_encode(X, D, alpha=0.1), atol=1e-6)


@pytest.mark.parametrize("solver", ["fista", "lca", "homotopy"])
@pytest.mark.parametrize("scale", [1e-24, 1e19])
def test_rows_whose_squares_do_not_fit_are_not_certified(solver, scale):
    X, _, D = planted(8, 6, 12, 2, seed=98, positive=False)
    rows = (X * scale * 10).astype(np.float32)
    options = {"alpha": 0.2 * scale, "solver": solver, "max_iter": 30, "positive_code": False}
    _, info = sparse_encode(rows, D, return_info=True, **options)
    with np.errstate(all="ignore"):
        squares = np.square(rows).sum(1)
    assert not info.converged[(squares == 0) | np.isinf(squares)].any()


def test_a_row_of_zeros_is_certified():
    X, D = np.array([[0.0], [1.0]]), np.array([[-1.0], [1.0]])
    for solver in ("homotopy", "fista", "lca", "working_set"):
        _, info = sparse_encode(X, D, alpha=0.1, solver=solver, return_info=True)
        assert info.converged.all()


def test_rows_of_zeros_do_not_decide_the_penalty():
    X = np.random.default_rng(99).standard_normal((200, 6))
    some = SparseCodingEncoder(8, random_state=0, n_init=1, max_iter=2).fit(X[101:]).alpha_
    X[:101] = 0
    mixed = SparseCodingEncoder(8, random_state=0, n_init=1, max_iter=2).fit(X).alpha_
    assert 0.5 * some < mixed < 2 * some


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("ridge", [0.0, 0.5])
@pytest.mark.parametrize("n", [5, 400])
def test_a_start_of_more_codes_than_there_is_room_for(n, ridge, dtype):
    """Few rows without a Gram matrix, many with one."""
    rng = np.random.default_rng([20112, n])
    D = rng.standard_normal((1000, 20))
    D /= np.linalg.norm(D, axis=1, keepdims=True)
    X, D = rng.standard_normal((n, 20)).astype(dtype), D.astype(dtype)
    init = np.abs(rng.standard_normal((n, 1000)) * (rng.random((n, 1000)) < 0.3)).astype(dtype)
    options = {"alpha": 1.0, "ridge": ridge, "return_info": True}
    warm, info = sparse_encode(X, D, init=init, **options)
    cold, _ = sparse_encode(X, D, **options)
    assert info.converged.all()
    np.testing.assert_allclose(warm, cold, atol=1e-3 if dtype == np.float32 else 1e-7)
    residual = 0.5 * ((X - warm @ D) ** 2).sum(1)
    np.testing.assert_allclose(info.residual, residual, rtol=1e-4)


@pytest.mark.parametrize("solver", ["omp", "ols", "omp_replacement", "stagewise"])
@pytest.mark.parametrize("compiled", [True, False])
def test_a_batch_of_rows_that_no_atom_explains(solver, compiled, monkeypatch):
    if not compiled:
        monkeypatch.setattr(kernels, "_compiled", lambda: None)
    D = np.abs(np.random.default_rng(20113).standard_normal((1100, 20)))
    D /= np.linalg.norm(D, axis=1, keepdims=True)
    for X in (np.zeros((1, 20)), -np.ones((2, 20))):
        codes = sparse_encode(X, D, n_nonzero_coefs=2, solver=solver)
        np.testing.assert_array_equal(codes, 0)


@pytest.mark.parametrize("positive", [True, False])
def test_debias_with_atoms_of_very_different_lengths(positive):
    rng = np.random.default_rng(20114)
    D = rng.standard_normal((4, 20))
    D[0] *= 1e6
    codes = np.array([[1e-6, 1.0, 2.0, 0.5]])
    found = sparse_encode(codes @ D, D, alpha=1e-3, debias=True, positive_code=positive)
    np.testing.assert_allclose(found, codes, rtol=1e-8)
