"""Every solver of the table against optimality, scikit-learn, exhaustive search, and itself."""

from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from problems import alpha_max, kkt_violation, lasso_problems, objective, planted
from scipy.optimize import nnls
from sklearn.decomposition import sparse_encode as sklearn_sparse_encode
from sklearn.linear_model import ElasticNet
from sklearn.linear_model import Lasso as Lasso_

from sparsecode_estimators import ITORefiner, SparseCodingEncoder, sparse_encode
from sparsecode_estimators.inference import SOLVERS, Lasso, solve
from sparsecode_estimators.metrics import mean_corr_coef

LASSO = [name for name, s in SOLVERS.items() if s.solves == "lasso" and s.exact]
K_SPARSE = [name for name, s in SOLVERS.items() if s.solves == "k-sparse"]


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


@given(problem=lasso_problems())
def test_debias_never_raises_the_residual(problem):
    found = sparse_encode(*problem[:2], **problem.options, return_info=True)[1]
    codes, info = sparse_encode(*problem[:2], **problem.options, debias=True, return_info=True)
    assert (info.residual <= found.residual).all()
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


@pytest.mark.parametrize("solver", K_SPARSE)
def test_k_sparse_codes_are_least_squares_on_their_support(solver):
    X, _, D = planted(50, 8, 16, 3, seed=3)
    codes = sparse_encode(X, D, n_nonzero_coefs=3, solver=solver)
    assert ((codes > 0).sum(1) <= 3).all()
    for x, s in zip(X, codes, strict=True):
        best, _ = nnls(D[s > 0].T, x)
        np.testing.assert_allclose(s[s > 0], best, atol=1e-8)


def exhaustive(x, D, k):
    """Smallest residual of any support of size k, by trying them all."""
    return min(
        0.5 * nnls(D[list(support)].T, x)[1] ** 2 for support in combinations(range(len(D)), k)
    )


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


@pytest.mark.parametrize("solver", [*LASSO, *K_SPARSE, "adam"])
def test_rows_do_not_depend_on_their_batch_mates(solver):
    X, _, D = planted(64, 8, 16, 3, seed=8)
    options = {"n_nonzero_coefs": 3} if solver in K_SPARSE else {"alpha": 0.02}
    together = sparse_encode(X, D, solver=solver, max_iter=300, return_info=True, **options)[0]
    for row in (0, 17, 63):
        alone = sparse_encode(X[[row]], D, solver=solver, max_iter=300, return_info=True, **options)
        np.testing.assert_allclose(alone[0][0], together[row], atol=1e-9)


@pytest.mark.parametrize("solver", LASSO)
def test_fixed_number_of_steps(solver):
    X, _, D = planted(20, 8, 16, 3, seed=9)
    previous = np.inf
    for steps in (1, 7, 40, 200):
        codes, info = sparse_encode(
            X, D, alpha=0.02, solver=solver, max_iter=steps, tol=None, return_info=True
        )
        assert (info.n_iter == steps).all()
        assert not info.converged.any()
        assert objective(codes, X, D, 0.02).mean() <= previous + 1e-12
        previous = objective(codes, X, D, 0.02).mean()


def test_the_start_is_not_written_to():
    X, _, D = planted(20, 8, 16, 3, seed=10)
    X, D = torch.tensor(X), torch.tensor(D)
    for name, solver in SOLVERS.items():
        start = torch.full((20, 16), 0.1, dtype=torch.float64)
        options = {"alpha": 0.02} if solver.solves == "lasso" else {"n_nonzero_coefs": 3}
        solve(X, D, solver=name, codes=start, max_iter=50, **options)
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
