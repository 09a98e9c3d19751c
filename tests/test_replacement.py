"""Exchanges of atoms in compiled loops against their definition and exhaustive search."""

import numpy as np
import pytest
import torch
from hypothesis import given
from scipy.optimize import nnls
from test_pursuit import awkward, rows

from sparsecode_estimators.kernels import reference_replacement as reference
from sparsecode_estimators.kernels import rounded

pytest.importorskip("numba")
from sparsecode_estimators.kernels import cpu

SIGNS = [True, False]


def guesses(X, D, seed):
    """A start that is somewhat better than chance."""
    generator = torch.Generator().manual_seed(seed)
    products = X @ D.T
    noise = torch.randn(products.shape, generator=generator, dtype=products.dtype)
    return products + products.std() * noise


def solve(make, X, D, k, *, positive, start, max_steps=1000, tol=1e-14, wide=False):
    """With ``wide`` there is no Gram matrix."""
    options = {"positive": positive, "start": start, "max_steps": max_steps, "tol": tol}
    return make.replacement(X, D, None if wide else D @ D.T, k=k, **options)


SIZES = [(60, 8, 16, 3), (40, 12, 100, 9), (20, 10, 6, 5), (30, 40, 200, 15), (6, 20, 1500, 9)]


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("positive", SIGNS)
@pytest.mark.parametrize(("n", "n_features", "n_components", "k"), SIZES)
def test_loops_agree_with_the_definition(n, n_features, n_components, k, positive, wide):
    X, D = rows(n, n_features, n_components, k, seed=191, positive=positive)
    options = {"positive": positive, "start": guesses(X, D, seed=1), "wide": wide}
    ours, meant = (solve(m, X, D, k, **options) for m in (cpu, reference))
    np.testing.assert_allclose(ours.codes, meant.codes, atol=1e-7)
    np.testing.assert_allclose(ours.energy, meant.energy, atol=1e-10)
    assert torch.equal(ours.n_iter, meant.n_iter)
    assert ours.gap.isnan().all()
    assert ((ours.codes != 0).sum(1) <= k).all()


@pytest.mark.parametrize("make", [cpu, reference])
@pytest.mark.parametrize("positive", SIGNS)
def test_never_worse_than_least_squares_on_the_start(make, positive):
    X, D = rows(50, 20, 80, 5, seed=192, positive=positive)
    start = guesses(X, D, seed=2)
    found = solve(make, X, D, 5, positive=positive, start=start)
    none = solve(make, X, D, 5, positive=positive, start=start, max_steps=0)
    assert not none.n_iter.any()
    assert (found.energy <= none.energy * (1 + 1e-12)).all()
    assert (found.energy[found.n_iter > 0] < none.energy[found.n_iter > 0]).all()
    chosen = (start.clamp(min=0) if positive else start).abs().topk(5).indices
    for x, atoms, energy in zip(X.numpy(), D[chosen].numpy(), none.energy, strict=True):
        if positive:  # what turns negative on the way is gone, and may be missed
            assert energy >= 0.5 * nnls(atoms.T, x)[1] ** 2 - 1e-12
        else:
            left = x - np.linalg.lstsq(atoms.T, x, rcond=None)[0] @ atoms
            np.testing.assert_allclose(energy, 0.5 * left @ left, rtol=1e-9)


@pytest.mark.parametrize("positive", SIGNS)
def test_no_exchange_helps_at_the_end(positive):
    """By trying one: the atom with the largest slope in, refit, the smallest code out, refit."""
    X, D = rows(20, 10, 30, 3, seed=193, positive=positive)
    found = solve(cpu, X, D, 3, positive=positive, start=guesses(X, D, seed=3))

    def refit(x, chosen):
        atoms = D.numpy()[chosen].T
        return nnls(atoms, x)[0] if positive else np.linalg.lstsq(atoms, x, rcond=None)[0]

    for x, s, energy in zip(X.numpy(), found.codes.numpy(), found.energy, strict=True):
        slope = D.numpy() @ (x - s @ D.numpy())
        slope[s != 0] = 0
        chosen = np.append(np.flatnonzero(s), np.argmax(slope if positive else np.abs(slope)))
        if len(chosen) > 3:
            chosen = np.delete(chosen, np.argmin(np.abs(refit(x, chosen))))
        left = x - refit(x, chosen) @ D.numpy()[chosen]
        assert 0.5 * left @ left >= energy * (1 - 1e-9)


def test_a_code_that_rounding_makes_zero_leaves():
    """Rows that are one atom: of what a start has beside it, nothing is left but rounding."""
    rng = np.random.default_rng(194)
    for seed in range(600):
        D = rng.standard_normal((int(rng.integers(20, 80)), 8))
        D = torch.tensor(D / np.linalg.norm(D, axis=1, keepdims=True))
        X = 10 * D[:1].repeat(40, 1)
        found = solve(cpu, X, D, 8, positive=True, start=guesses(X, D, seed))
        assert found.codes.isfinite().all()
        assert (found.energy <= 1e-20).all()


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("positive", SIGNS)
@given(problem=awkward())
def test_awkward_rows(problem, positive, dtype, wide):
    X, D, k = problem[0].to(dtype), problem[1].to(dtype), problem[2]
    options = {"positive": positive, "start": guesses(X, D, seed=4), "wide": wide}
    ours, meant = (solve(m, X, D, k, **options) for m in (cpu, reference))
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
def test_a_rounded_gram_matrix_chooses_the_same_atoms(positive):
    X, D = rows(60, 60, 230, 8, seed=194, positive=positive, dtype=torch.float32)
    options = {"k": 8, "positive": positive, "max_steps": 1000, "tol": 1e-14}
    start = guesses(X, D, seed=5)
    found = cpu.replacement(X, D, rounded.gram(D), start=start, **options)
    meant = cpu.replacement(X, D, D @ D.T, start=start, **options)
    same = ((found.codes != 0) == (meant.codes != 0)).all(1)
    assert same.double().mean() > 0.95
    np.testing.assert_allclose(found.codes[same], meant.codes[same], atol=1e-5)


@pytest.mark.parametrize("make", [cpu, reference])
def test_a_limit_of_steps_and_a_tolerance_are_kept(make):
    X, D = rows(60, 20, 80, 5, seed=195, positive=True)
    start = guesses(X, D, seed=6)
    free = solve(make, X, D, 5, positive=True, start=start)
    assert free.n_iter.max() > 2
    few = solve(make, X, D, 5, positive=True, start=start, max_steps=2)
    assert torch.equal(few.n_iter, free.n_iter.clamp(max=2))
    rough = solve(make, X, D, 5, positive=True, start=start, tol=0.1)
    assert (rough.n_iter < free.n_iter).any()
    assert (rough.n_iter <= free.n_iter).all()
