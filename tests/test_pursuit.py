"""Greedy k-sparse codes in compiled loops against their definition and scikit-learn."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from problems import planted
from scipy.linalg import hadamard
from scipy.optimize import nnls
from sklearn.linear_model import orthogonal_mp_gram

from sparsecode_estimators import kernels, sparse_encode
from sparsecode_estimators.kernels import reference, rounded

pytest.importorskip("numba")
from sparsecode_estimators.kernels import cpu

RULES = ["omp", "ols"]
SIGNS = [True, False]


def rows(n, n_features, n_components, k, seed, *, positive, noise=0.1, dtype=torch.float64):
    X, _, D = planted(n, n_features, n_components, k, seed, positive=positive, noise=noise)
    return torch.tensor(X, dtype=dtype), torch.tensor(D, dtype=dtype)


def solve(make, X, D, k, *, positive, rule, start=None, max_steps=1000):
    options = {"positive": positive, "rule": rule, "start": start, "max_steps": max_steps}
    return make.pursuit(X, D, D @ D.T, k=k, **options)


# few atoms and many; some, all that there are, and nearly as many as span the space: as many
# would leave a choice of any atom, since then each explains all that is left
SIZES = [(60, 8, 16, 3), (40, 12, 100, 11), (20, 10, 6, 6), (30, 40, 200, 15), (6, 20, 1500, 9)]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("positive", SIGNS)
@pytest.mark.parametrize(("n", "n_features", "n_components", "k"), SIZES)
def test_loops_agree_with_the_definition(n, n_features, n_components, k, positive, rule):
    X, D = rows(n, n_features, n_components, k, seed=91, positive=positive)
    ours, meant = (solve(m, X, D, k, positive=positive, rule=rule) for m in (cpu, reference))
    np.testing.assert_allclose(ours.codes, meant.codes, atol=1e-7)
    np.testing.assert_allclose(ours.energy, meant.energy, atol=1e-10)
    assert torch.equal(ours.n_iter, meant.n_iter)
    assert ours.gap.isnan().all()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("positive", SIGNS)
def test_float32_codes_are_least_squares_on_their_support(positive, rule):
    X, D = rows(50, 30, 150, 6, seed=92, positive=positive, dtype=torch.float32)
    found = solve(cpu, X, D, 8, positive=positive, rule=rule)
    exact = solve(cpu, X.double(), D.double(), 8, positive=positive, rule=rule)
    same = ((found.codes != 0) == (exact.codes != 0)).all(1)
    assert same.double().mean() > 0.95
    np.testing.assert_allclose(found.codes[same], exact.codes[same], rtol=1e-6, atol=1e-6)
    for x, s in zip(X.double().numpy(), found.codes.numpy(), strict=True):
        atoms = D.double().numpy()[s != 0].T
        best = nnls(atoms, x)[0] if positive else np.linalg.lstsq(atoms, x, rcond=None)[0]
        np.testing.assert_allclose(s[s != 0], best, atol=1e-6)


@pytest.mark.parametrize("k", [1, 5, 20])
def test_agrees_with_scikit_learn(k):
    X, D = rows(40, 30, 120, 5, seed=93, positive=False)
    ours = solve(cpu, X, D, k, positive=False, rule="omp").codes
    theirs = orthogonal_mp_gram((D @ D.T).numpy(), (D @ X.T).numpy(), n_nonzero_coefs=k)
    np.testing.assert_allclose(ours, theirs.T, atol=1e-7)


@st.composite
def awkward(draw):
    """Equal and opposite atoms, zero rows, rows in the span of few atoms, any scale."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n_features, n_components = draw(st.integers(1, 8)), draw(st.integers(1, 80))
    D = rng.standard_normal((n_components, n_features))
    D /= np.linalg.norm(D, axis=1, keepdims=True)
    if n_components > 2 and draw(st.booleans()):
        D[-1], D[-2] = D[0], -D[1]
    X = rng.standard_normal((5, n_features))
    X[0] = 0
    X[1] = D[0]
    X[2] = D[0] + 0.5 * D[-1]
    scale = 10.0 ** draw(st.integers(-6, 6))
    return torch.tensor(X * scale), torch.tensor(D), draw(st.integers(1, min(D.shape)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("positive", SIGNS)
@given(problem=awkward())
def test_awkward_rows(problem, positive, rule, dtype):
    X, D, k = problem[0].to(dtype), problem[1].to(dtype), problem[2]
    ours, meant = (solve(m, X, D, k, positive=positive, rule=rule) for m in (cpu, reference))
    assert ours.codes.isfinite().all()
    assert ((ours.codes != 0).sum(1) <= k).all()
    assert not positive or (ours.codes >= 0).all()
    assert not ours.codes[0].any()
    scale = 0.5 * X.double().square().sum(1)
    residual = 0.5 * (X.double() - ours.codes.double() @ D.double()).square().sum(1)
    rounding = 1e-5 if dtype == torch.float32 else 1e-12
    assert ((residual - ours.energy).abs() <= rounding * scale).all()
    # where two atoms are equally good, either may be taken
    assert (ours.energy <= meant.energy + rounding * scale).double().mean() >= 0.8


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("positive", SIGNS)
def test_recovers_what_must_be_recovered(positive, rule):
    """Tropp (2004): fewer than (1 + 1/μ)/2 atoms and no noise; more atoms are not taken."""
    D = np.vstack([np.eye(64), hadamard(64) / 8])
    rng = np.random.default_rng(0)
    true = np.zeros((50, 128))
    for row in true:
        row[rng.choice(128, 4, replace=False)] = rng.uniform(1, 2, 4)
        row *= 1 if positive else rng.choice([-1, 1], 128)
    found = solve(cpu, *map(torch.tensor, (true @ D, D)), 9, positive=positive, rule=rule)
    np.testing.assert_allclose(found.codes, true, atol=1e-12)
    assert (found.n_iter == 4).all()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("positive", SIGNS)
def test_goes_on_from_a_start(positive, rule):
    X, D = rows(40, 20, 100, 5, seed=94, positive=positive)
    cold = solve(cpu, X, D, 5, positive=positive, rule=rule)
    warm = solve(cpu, X, D, 5, positive=positive, rule=rule, start=cold.codes)
    np.testing.assert_allclose(warm.codes, cold.codes, atol=1e-12)
    full = (cold.codes != 0).sum(1) == 5
    assert (warm.n_iter[full] == 0).all()
    start = torch.randn(40, 100, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ours, meant = (
        solve(m, X, D, 5, positive=positive, rule=rule, start=start) for m in (cpu, reference)
    )
    np.testing.assert_allclose(ours.codes, meant.codes, atol=1e-8)


LANES = [(16, 8, 3), (16, 5, 5), (1, 1, 1), (17, 9, 4), (40, 11, 8), (64, 30, 12), (33, 100, 16)]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("positive", SIGNS)
@pytest.mark.parametrize(("n_components", "n_features", "k"), LANES)
def test_rows_side_by_side_agree_with_the_definition(n_components, n_features, k, positive, rule):
    X, D = rows(
        83, n_features, n_components, min(3, k), seed=99, positive=positive, dtype=torch.float32
    )
    X[7] = 0
    found = solve(cpu, X, D, k, positive=positive, rule=rule)
    meant = solve(reference, X.double(), D.double(), k, positive=positive, rule=rule)
    scale = X.double().square().sum(1)
    assert (found.energy <= meant.energy + 1e-5 * scale).double().mean() > 0.95
    exact = 0.5 * (X.double() - found.codes.double() @ D.double()).square().sum(1)
    assert ((found.energy - exact).abs() <= 1e-6 * scale).all()
    same = ((found.codes != 0) == (meant.codes != 0)).all(1)
    assert same.double().mean() > (0.9 if k < n_features else 0.0)
    close = (found.codes - meant.codes).abs() <= 2e-5 * scale.sqrt()[:, None]
    assert close[same].double().mean() > 0.99
    assert torch.equal(found.n_iter[same], meant.n_iter[same])


def test_agrees_with_scikit_learn_in_float32():
    X, D = rows(100, 8, 16, 3, seed=90, positive=False, dtype=torch.float32)
    ours = solve(cpu, X, D, 3, positive=False, rule="omp").codes
    gram, products = (D @ D.T).double().numpy(), (D @ X.T).double().numpy()
    theirs = orthogonal_mp_gram(gram, products, n_nonzero_coefs=3).T
    same = ((ours.numpy() != 0) == (theirs != 0)).all(1)
    assert same.mean() > 0.97
    np.testing.assert_allclose(ours[same], theirs[same], atol=1e-5)


@pytest.mark.parametrize("rule", RULES)
def test_an_atom_too_short_for_its_square_hides_no_other(rule):
    X, D = rows(100, 8, 15, 3, seed=88, positive=False, dtype=torch.float32)
    short = torch.full((1, 8), 1e-25)
    for place in (0, 7):
        all_ = torch.cat([D[:place], short, D[place:]])
        found = solve(cpu, X, all_, 3, positive=False, rule=rule).codes
        without = solve(cpu, X, D, 3, positive=False, rule=rule).codes
        assert torch.equal(torch.cat([found[:, :place], found[:, place + 1 :]], dim=1), without)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("positive", SIGNS)
def test_best_support_inside_the_guarantee(positive, rule):
    """Fewer than (1 + 1/μ)/2 atoms and no noise: greedy codes are those of exhaustive search."""
    D = torch.tensor(np.vstack([np.eye(16), hadamard(16) / 4]), dtype=torch.float32)
    rng = np.random.default_rng(3)
    true = np.zeros((50, 32))
    for row in true:
        row[rng.choice(32, 2, replace=False)] = rng.uniform(1, 2, 2)
        row *= 1 if positive else rng.choice([-1, 1], 32)
    X = torch.tensor(true, dtype=torch.float32) @ D
    found = solve(cpu, X, D, 2, positive=positive, rule=rule).codes
    best = sparse_encode(X, D, n_nonzero_coefs=2, solver="l0", positive_code=positive)
    np.testing.assert_allclose(found, best, atol=1e-5)
    np.testing.assert_allclose(found, true, atol=1e-5)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("positive", SIGNS)
def test_a_row_does_not_depend_on_those_beside_it(positive, rule):
    X, D = rows(50, 8, 16, 3, seed=89, positive=positive, dtype=torch.float32)
    X[:5] *= torch.tensor([0.0, 1e-30, 1e-6, 1e6, 1e15])[:, None]
    together = solve(cpu, X, D, 5, positive=positive, rule=rule)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(5))
    mixed = solve(cpu, X[order], D, 5, positive=positive, rule=rule)
    assert torch.equal(mixed.codes, together.codes[order])
    assert torch.equal(mixed.energy, together.energy[order])
    alone = [solve(cpu, x[None], D, 5, positive=positive, rule=rule).codes for x in X]
    assert torch.equal(torch.cat(alone), together.codes)


@pytest.mark.parametrize("noise", [0.0, 0.1])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("positive", SIGNS)
def test_a_rounded_gram_matrix_chooses_the_same_atoms(positive, rule, noise):
    X, D = rows(60, 60, 230, 8, seed=88, positive=positive, noise=noise, dtype=torch.float32)
    X[3], X[4] = 0, 2 * D[7]
    options = {"k": 12, "positive": positive, "rule": rule, "start": None, "max_steps": 1000}
    found = cpu.pursuit(X, D, rounded.gram(D), **options)
    meant = solve(reference, X.double(), D.double(), 12, positive=positive, rule=rule)
    scale = X.double().square().sum(1)
    same = ((found.codes != 0) == (meant.codes != 0)).all(1)
    if noise:  # else the last atoms are there for rounding, and any may be
        assert same.double().mean() > 0.95
        np.testing.assert_allclose(found.codes[same], meant.codes[same], atol=1e-5)
    assert (found.energy <= meant.energy + 1e-6 * scale).double().mean() > 0.95
    exact = 0.5 * (X.double() - found.codes.double() @ D.double()).square().sum(1)
    np.testing.assert_allclose(found.energy, exact, atol=1e-6)


def test_a_rounded_gram_matrix_goes_on_from_a_start():
    X, D = rows(40, 40, 230, 5, seed=87, positive=True, dtype=torch.float32)
    options = {"k": 5, "positive": True, "rule": "ols", "max_steps": 1000}
    cold = cpu.pursuit(X, D, rounded.gram(D), start=None, **options)
    warm = cpu.pursuit(X, D, rounded.gram(D), start=cold.codes, **options)
    np.testing.assert_allclose(warm.codes, cold.codes, atol=1e-5)


@pytest.mark.parametrize("rule", ["omp", "ols"])
@pytest.mark.parametrize(
    ("n_features", "n_components", "k"), [(8, 8, 8), (30, 60, 12), (30, 60, 20)]
)
def test_codes_that_rounding_alone_made_positive(n_features, n_components, k, rule):
    """Signs are those of the refit in double precision, not of the pursuit in float32."""
    for seed in range(6):
        rng = np.random.default_rng([seed, 87])
        D = 0.3 * rng.standard_normal((n_components, n_features)) + rng.standard_normal(n_features)
        D /= np.linalg.norm(D, axis=1, keepdims=True)
        codes = rng.random((400, n_components)) * (
            rng.random((400, n_components)) < 3 / n_components
        )
        X = codes @ D + 1e-5 * rng.standard_normal((400, n_features))
        X, D = X.astype(np.float32), D.astype(np.float32)
        found = sparse_encode(X, D, n_nonzero_coefs=k, solver=rule)
        assert (found >= 0).all()
        slope = (X - found.astype(float) @ D) @ D.T.astype(float)
        assert np.abs(slope[found > 0]).max() < 1e-4  # least squares on what is left


def test_few_steps():
    X, D = rows(40, 20, 100, 5, seed=95, positive=False)
    codes, info = sparse_encode(
        X, D, n_nonzero_coefs=5, solver="ols", max_iter=3, positive_code=False, return_info=True
    )
    assert ((codes != 0).sum(1) == 3).all()
    assert (info.n_iter == 3).all()
    assert not info.converged.any()


def test_few_rows_of_many_atoms_need_no_gram_matrix():
    X, D = rows(2, 10, 2000, 3, seed=98, positive=True)
    assert not kernels.gram_pays(2, 2000, 10, k=3, rule="omp")
    few = sparse_encode(X, D, n_nonzero_coefs=3, solver="omp")
    many = sparse_encode(X.repeat(20, 1), D, n_nonzero_coefs=3, solver="omp")
    np.testing.assert_allclose(few, many[:2], atol=1e-8)
