"""Steps of the optimisers against the formulas of their papers."""

import numpy as np
import pytest
import torch
from problems import planted

from sparsecode_estimators import SAEEncoder
from sparsecode_estimators.learning.optimizers import MIX, OPTIMIZERS, clip_

X = planted(400, 8, 16, 3, seed=64)[0]
GO, STOP = torch.zeros(()), torch.ones(())


def random_steps(n_steps=20):
    rng = np.random.default_rng(65)
    params = [torch.tensor(rng.standard_normal((4, 3))), torch.tensor(rng.standard_normal(5))]
    return params, [[torch.tensor(rng.standard_normal(p.shape)) for p in params]
                    for _ in range(n_steps)]  # fmt: skip


def run(name, rates, *, skip_at=()):
    params, steps = random_steps(len(rates))
    optimizer = OPTIMIZERS[name].fresh(params)
    for i, (grads, rate) in enumerate(zip(steps, rates, strict=True)):
        skip = STOP if i in skip_at else GO
        if i in skip_at:
            grads = [g * torch.nan for g in grads]
        optimizer.step(dict(zip(params, grads, strict=True)), rate, skip=skip, unit=None)
    optimizer.finish_()
    return params


@pytest.mark.parametrize("large", [2**18, 1])
def test_adam_is_that_of_torch(large, monkeypatch):
    """By torch's own and by the compiled loop, which is for large matrices."""
    monkeypatch.setattr("sparsecode_estimators.kernels.adam.LARGE", large)
    ours = run("adam", [0.01] * 20)
    params, steps = random_steps()
    theirs = torch.optim.Adam(params, lr=0.01)
    for grads in steps:
        for p, g in zip(params, grads, strict=True):
            p.grad = g
        theirs.step()
    for a, b in zip(ours, params, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["adam", "sign"])
def test_rows_of_unit_length_at_any_size(name, dtype, monkeypatch):
    results = []
    for large in (10**9, 1):
        monkeypatch.setattr("sparsecode_estimators.kernels.adam.LARGE", large)
        rng = np.random.default_rng(66)
        p = torch.tensor(rng.standard_normal((50, 33)), dtype=dtype)
        p[7] = 0
        optimizer = OPTIMIZERS[name].fresh([p])
        for i in range(10):
            gradient = torch.tensor(rng.standard_normal(p.shape), dtype=dtype)
            gradient[7] = 0
            optimizer.step({p: gradient}, 0.01, skip=STOP if i == 4 else GO, unit=p)
        torch.testing.assert_close(p[:7].norm(dim=1), torch.ones(7, dtype=dtype))
        assert not p[7].any()
        results.append(p)
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("rates", [[0.01] * 20, list(np.linspace(0, 0.02, 20))])
def test_sign_descent_is_the_papers_recursion(rates):
    """Defazio et al. (2024), eq. 3-5, with weights that are squares of the rate."""
    params, steps = random_steps()
    expected = []
    for i, p in enumerate(params):
        z, x, total = p.clone(), p.clone(), 0.0
        for grads, rate in zip(steps, rates, strict=True):
            z = z - rate * grads[i].sign()
            total += rate**2
            c = rate**2 / total if total else 0.0
            x = (1 - c) * x + c * z
        expected.append(x)
    for a, b in zip(run("sign", rates), expected, strict=True):
        torch.testing.assert_close(a, b)


def test_gradients_of_sign_descent_are_taken_between_point_and_average():
    params, steps = random_steps()
    optimizer = OPTIMIZERS["sign"].fresh(params)
    for grads in steps:
        optimizer.step(dict(zip(params, grads, strict=True)), 0.01, skip=GO, unit=None)
    between = [p.clone() for p in params]
    optimizer.finish_()
    for y, x, z in zip(between, params, optimizer.slots["points"], strict=True):
        torch.testing.assert_close(y, (1 - MIX) * z + MIX * x)
    optimizer.resume_()
    for y, p in zip(between, params, strict=True):
        torch.testing.assert_close(p, y)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_that_is_skipped_leaves_everything_finite(name):
    for p in run(name, [0.01] * 20, skip_at=(3, 19)):
        assert torch.isfinite(p).all()


def test_adam_does_not_move_when_it_skips():
    with_skips = run("adam", [0.01] * 20, skip_at=(19,))
    for a, b in zip(with_skips, run("adam", [0.01] * 19), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_latents_begin_anew(name):
    params, steps = random_steps()
    optimizer = OPTIMIZERS[name].fresh(params)
    for grads in steps:
        optimizer.step(dict(zip(params, grads, strict=True)), 0.01, skip=GO, unit=None)
    optimizer.forget([params[0]], torch.tensor([1, 2]))
    fresh = OPTIMIZERS[name].fresh([p.clone() for p in params])
    for kind, slot, new in zip(
        optimizer.slots, optimizer.slots.values(), fresh.slots.values(), strict=True
    ):
        if slot[0].ndim and kind != "squares":
            torch.testing.assert_close(slot[0][1:3], new[0][1:3])
            assert not torch.equal(slot[0][0], new[0][0])
            assert not torch.equal(slot[1], new[1])


def test_steps_of_latents_that_begin_anew_are_no_longer_than_others():
    """With Adam's moments at zero they would be: their count of steps is that of all latents."""
    rng = np.random.default_rng(432)
    matrix, vector = torch.zeros(50, 8), torch.zeros(50)
    optimizer = OPTIMIZERS["adam"].fresh([matrix, vector])
    new, moved = torch.tensor([3, 7]), []
    for step in range(1200):
        if step == 1000:
            optimizer.forget([matrix, vector], new)
        before = matrix.clone(), vector.clone()
        grads = {p: torch.tensor(rng.standard_normal(p.shape), dtype=p.dtype) for p in before}
        grads = dict(zip((matrix, vector), grads.values(), strict=True))
        optimizer.step(grads, 0.01, skip=GO, unit=None)
        if step >= 1000:
            moved.append([(a - b).abs() for a, b in zip((matrix, vector), before, strict=True)])
    for changes in zip(*moved, strict=True):
        mean = torch.stack(changes).mean(0)
        assert mean[new].mean() < 1.2 * mean.mean()


def test_clipping():
    grads = [torch.full((3,), 2.0), torch.full((1,), 2.0)]
    clip_(grads, torch.cat(grads).norm(), 1.0)
    torch.testing.assert_close(grads, [torch.full((3,), 0.5), torch.full((1,), 0.5)])
    clip_(grads, torch.cat(grads).norm(), 5.0)
    torch.testing.assert_close(grads[1], torch.full((1,), 0.5))


def test_sign_descent_learns_and_is_not_led_astray_by_a_few_long_rows():
    options = {
        "activation": "topk", "n_nonzero_coefs": 3, "optimizer": "sign", "max_iter": 60,
        "learning_rate": "constant", "random_state": 0,
    }  # fmt: skip
    assert SAEEncoder(16, **options).fit(X).score(X) > 0.8
    rows = np.concatenate([X, 300 * X[:4]])
    assert SAEEncoder(16, fit_intercept=False, **options).fit(rows).score(X) > 0.5
    warm = SAEEncoder(16, warm_start=True, **options).fit(X)
    before = warm.loss_
    assert warm.set_params(max_iter=5).fit(X).loss_ < 1.1 * before
    assert warm.set_params(optimizer="adam").fit(X).loss_ < 1.1 * before
