"""Stages of several atoms in compiled loops against their definition and other solvers."""

import numpy as np
import pytest
import torch
from hypothesis import given
from scipy.optimize import nnls
from test_pursuit import awkward, rows

from sparsecode_estimators import sparse_encode
from sparsecode_estimators.kernels import reference_stages as reference
from sparsecode_estimators.kernels import rounded

pytest.importorskip("numba")
from sparsecode_estimators.kernels import cpu

SIGNS = [True, False]


def solve(make, X, D, k, *, positive, share=0.6, depth=0.2, max_steps=1000, tol=1e-14, wide=False):
    """With ``wide`` there is no Gram matrix."""
    options = {"positive": positive, "share": share, "depth": depth}
    limits = {"max_steps": max_steps, "tol": tol}
    return make.stages(X, D, None if wide else D @ D.T, k=k, **options, **limits)


SIZES = [(60, 8, 16, 3), (40, 12, 100, 9), (20, 10, 6, 5), (30, 40, 200, 15), (6, 20, 1500, 9)]


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("share", [1.0, 0.6, 0.2])
@pytest.mark.parametrize("positive", SIGNS)
@pytest.mark.parametrize(("n", "n_features", "n_components", "k"), SIZES)
def test_loops_agree_with_the_definition(n, n_features, n_components, k, positive, share, wide):
    X, D = rows(n, n_features, n_components, k, seed=211, positive=positive)
    options = {"positive": positive, "share": share, "wide": wide}
    ours, meant = (solve(m, X, D, k, **options) for m in (cpu, reference))
    np.testing.assert_allclose(ours.codes, meant.codes, atol=1e-7)
    np.testing.assert_allclose(ours.energy, meant.energy, atol=1e-10)
    assert torch.equal(ours.n_iter, meant.n_iter)
    assert ours.gap.isnan().all()
    assert ((ours.codes != 0).sum(1) <= k).all()


@pytest.mark.parametrize("positive", SIGNS)
def test_codes_are_least_squares_on_their_support(positive):
    X, D = rows(50, 30, 150, 6, seed=212, positive=positive)
    found = solve(cpu, X, D, 8, positive=positive)
    for x, s, energy in zip(X.numpy(), found.codes.numpy(), found.energy, strict=True):
        atoms = D.numpy()[s != 0].T
        best = nnls(atoms, x)[0] if positive else np.linalg.lstsq(atoms, x, rcond=None)[0]
        np.testing.assert_allclose(s[s != 0], best, atol=1e-10)
        left = x - atoms @ best
        np.testing.assert_allclose(energy, 0.5 * left @ left, rtol=1e-9)


@pytest.mark.parametrize("positive", SIGNS)
def test_a_share_of_one_takes_one_atom_after_the_other(positive):
    """Then exchanges follow those of "omp", from its codes."""
    X, D = rows(60, 30, 150, 6, seed=213, positive=positive)
    options = {"n_nonzero_coefs": 6, "positive_code": positive}
    omp = sparse_encode(X.numpy(), D.numpy(), solver="omp", **options)
    after = sparse_encode(X.numpy(), D.numpy(), solver="omp_replacement", init=omp, **options)
    found = solve(cpu, X, D, 6, positive=positive, share=1.0, depth=1.0)
    same = np.abs(found.codes.numpy() - after).max(axis=1) < 1e-8
    assert same.mean() > (0.9 if positive else 0.999)  # a refit may drop an atom earlier


@pytest.mark.parametrize("positive", SIGNS)
def test_finds_as_many_planted_supports_as_one_atom_at_a_time_in_fewer_looks(positive):
    X, D = rows(400, 60, 300, 8, seed=214, positive=positive, noise=0.01, dtype=torch.float32)
    _, true = planted_codes(400, 60, 300, 8, seed=214, positive=positive)
    options = {"n_nonzero_coefs": 8, "positive_code": positive, "return_info": True}
    found, info = sparse_encode(X.numpy(), D.numpy(), solver="stagewise", **options)
    one, _ = sparse_encode(X.numpy(), D.numpy(), solver="omp", **options)
    exact, theirs = (((codes != 0) == (true != 0)).all(1).mean() for codes in (found, one))
    assert theirs > 0.2
    assert exact >= theirs - 0.01
    assert info.n_iter.mean() < 6
    assert info.converged.all()


def planted_codes(n, n_features, n_components, k, seed, *, positive):
    from problems import planted

    X, codes, _ = planted(n, n_features, n_components, k, seed, positive=positive, noise=0.01)
    return X, codes


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("positive", SIGNS)
@given(problem=awkward())
def test_awkward_rows(problem, positive, dtype, wide):
    X, D, k = problem[0].to(dtype), problem[1].to(dtype), problem[2]
    ours, meant = (solve(m, X, D, k, positive=positive, wide=wide) for m in (cpu, reference))
    assert ours.codes.isfinite().all()
    assert ((ours.codes != 0).sum(1) <= k).all()
    assert not positive or (ours.codes >= 0).all()
    assert not ours.codes[0].any()
    scale = 0.5 * X.double().square().sum(1)
    residual = 0.5 * (X.double() - ours.codes.double() @ D.double()).square().sum(1)
    rounding = 1e-5 if dtype == torch.float32 else 1e-12
    assert ((residual - ours.energy).abs() <= rounding * scale).all()
    # where two atoms are equally good, or one is spanned by others, either may be taken
    assert (ours.energy <= meant.energy + rounding * scale).double().mean() >= 0.6


@pytest.mark.parametrize("positive", SIGNS)
def test_rounded_products_choose_the_same_atoms(positive, products):
    X, D = rows(400, 60, 1500, 8, seed=216, positive=positive, dtype=torch.float32)
    meant = solve(cpu, X, D, 8, positive=positive)
    found = solve(cpu, X, D, 8, positive=positive, wide=True)
    same = ((found.codes != 0) == (meant.codes != 0)).all(1)
    assert same.double().mean() >= 0.8  # a share may fall on either side of rounding
    worse, better = found.energy > 1.01 * meant.energy, meant.energy > 1.01 * found.energy
    assert worse.sum() - better.sum() <= 0.05 * len(X)
    assert found.energy.mean() < 1.02 * meant.energy.mean()
    np.testing.assert_allclose(found.codes[same], meant.codes[same], atol=1e-5)


@pytest.mark.parametrize("positive", SIGNS)
def test_a_rounded_gram_matrix_chooses_the_same_atoms(positive):
    X, D = rows(60, 60, 230, 8, seed=215, positive=positive, dtype=torch.float32)
    options = {
        "k": 8,
        "positive": positive,
        "share": 0.6,
        "depth": 0.2,
        "max_steps": 1000,
        "tol": 1e-14,
    }
    found = cpu.stages(X, D, rounded.gram(D), **options)
    meant = cpu.stages(X, D, D @ D.T, **options)
    same = ((found.codes != 0) == (meant.codes != 0)).all(1)
    assert same.double().mean() > 0.9  # which atoms enter together is said by rounded slopes
    np.testing.assert_allclose(found.codes[same], meant.codes[same], atol=1e-5)
