"""The compiled loops against their definition, in threads, after a fork, and interrupted."""

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from problems import lasso_problems, planted

from sparsecode_estimators import kernels, sparse_encode
from sparsecode_estimators.inference import Atoms, Lasso
from sparsecode_estimators.kernels import reference

pytest.importorskip("numba")
from sparsecode_estimators.kernels import cpu, cpu_chunks, cpu_products, cpu_side_by_side


def tensors(n, n_features, n_components, k, seed, *, positive, dtype=torch.float64):
    X, _, D = planted(n, n_features, n_components, k, seed, positive=positive)
    return torch.tensor(X, dtype=dtype), torch.tensor(D, dtype=dtype)


def solve(make, X, D, alpha, *, positive, start=None, max_steps=1000, wide=False):
    """With ``wide`` there is no Gram matrix."""
    penalty = torch.full((len(D),), alpha, dtype=X.dtype)
    options = {"ridge": 0.0, "positive": positive, "start": start, "max_steps": max_steps}
    return make.working_set(X, D, None if wide else D @ D.T, penalty, **options)


# few atoms, few with more active ones than a vector holds, and many
SIZES = [(200, 8, 16, 3, 0.1), (60, 24, 40, 6, 1e-4), (60, 30, 200, 5, 0.05), (6, 20, 90, 9, 1e-3)]


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("positive", [True, False])
@pytest.mark.parametrize(("n", "n_features", "n_components", "k", "alpha"), SIZES)
def test_loops_agree_with_the_definition(n, n_features, n_components, k, alpha, positive, wide):
    X, D = tensors(n, n_features, n_components, k, seed=81, positive=positive)
    ours, meant = (
        solve(make, X, D, alpha, positive=positive, wide=wide) for make in (cpu, reference)
    )
    np.testing.assert_allclose(ours.codes, meant.codes, atol=1e-9)
    np.testing.assert_allclose(ours.energy, meant.energy, atol=1e-12)
    assert ours.gap.max() < 1e-10
    assert meant.gap.max() < 1e-10


@pytest.mark.parametrize("positive", [True, False])
@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize(("n", "n_features", "n_components", "k", "alpha"), SIZES)
def test_weights_and_a_ridge(n, n_features, n_components, k, alpha, wide, positive):
    """The elastic net of (x, 0) with the atoms (d, √ρ e)."""
    X, D = tensors(n, n_features, n_components, k, seed=87, positive=positive)
    penalty = alpha * (0.5 + torch.rand(n_components, dtype=X.dtype))
    options = {"positive": positive, "start": None, "max_steps": 1000}
    gram = None if wide else D @ D.T + 0.1 * torch.eye(n_components, dtype=X.dtype)
    ours = cpu.working_set(X, D, gram, penalty, ridge=0.1, **options)
    meant = reference.working_set(X, D, None, penalty, ridge=0.1, **options)
    np.testing.assert_allclose(ours.codes, meant.codes, atol=1e-9)
    np.testing.assert_allclose(ours.energy, meant.energy, atol=1e-12)
    assert ours.gap.max() < 1e-10


@pytest.mark.parametrize("positive", [True, False])
def test_rounding_of_the_gram_matrix_leaves_no_gap(positive):
    """Where alpha is small beside the row, its sums are off by a good part of alpha."""
    X, D = tensors(2000, 60, 200, 8, seed=89, positive=positive, dtype=torch.float32)
    answer = solve(cpu, X, D, 0.003, positive=positive)
    exact = solve(cpu, X.double(), D.double(), 0.003, positive=positive)
    problem = Lasso(X.double(), D.double(), positive, alpha=0.003)
    excess = problem.objective(answer.codes.double()) - problem.objective(exact.codes)
    assert (answer.gap <= 1e-6 * problem.scale).all()
    assert (excess <= answer.gap + 1e-10 * problem.scale).all()


def test_rounded_products_change_nothing(products):
    """They only say where to look."""
    X, D = tensors(300, 30, 200, 5, seed=88, positive=False, dtype=torch.float32)
    plain = solve(cpu, X.double(), D.double(), 0.05, positive=False)
    rounded = solve(cpu, X, D, 0.05, positive=False, wide=True)
    np.testing.assert_allclose(rounded.codes, plain.codes, atol=1e-5)
    assert rounded.gap.max() < 1e-7


@pytest.mark.parametrize("positive", [True, False])
@pytest.mark.parametrize(("alpha", "dtype"), [(0.05, torch.float32), (1e-3, torch.float64)])
def test_bounds_prove_what_products_with_all_atoms_would(alpha, dtype, positive, products):
    """More atoms than are looked at, some of them twice; with a small penalty bounds never help."""
    X, D = tensors(40, 40, 3000, 8, seed=90, positive=positive, dtype=dtype)
    D[1500:1600] = D[:100]
    start = (X @ D.T).where(torch.arange(3000) % 50 == 0, 0.0).clamp(min=0) / 8
    exact = solve(cpu, X.double(), D.double(), alpha, positive=positive)
    scale = 0.5 * X.double().square().sum(1)

    def objective(found):
        s = found.codes.double()
        residual = X.double() - s @ D.double()
        return 0.5 * residual.square().sum(1) + alpha * s.abs().sum(1)

    rounding = 1e-6 if dtype == torch.float32 else 1e-12
    for init in (None, start):
        found = solve(cpu, X, D, alpha, positive=positive, start=init, wide=True)
        excess = objective(found) - objective(exact)
        assert (excess <= found.gap + 1e-12).all()
        # equal atoms may stop a row, which then goes on by another method
        assert (excess <= rounding * scale).double().mean() >= 0.9
        assert (found.gap <= rounding * scale).double().mean() >= 0.9


@pytest.mark.parametrize("positive", [True, False])
def test_a_start_whose_residual_hides_what_is_missing(positive):
    """It explains the row, by values of no minimum: by its slopes nothing is missing."""
    X, D = tensors(40, 40, 3000, 8, seed=92, positive=positive)
    cold = solve(cpu, X, D, 0.05, positive=positive)
    support = (cold.codes != 0) & (torch.rand(cold.codes.shape) < 0.8)
    start = torch.zeros_like(cold.codes)
    for x, s, chosen in zip(X, start, support, strict=True):
        s[chosen] = torch.linalg.lstsq(D[chosen].T, x[:, None]).solution[:, 0]
    start = start.clamp(min=0) if positive else start
    found = solve(cpu, X, D, 0.05, positive=positive, start=start, wide=True)
    np.testing.assert_allclose(found.codes, cold.codes, atol=1e-9)
    assert found.gap.max() < 1e-10


def test_bounds_save_products(monkeypatch):
    X, D = tensors(30, 100, 3000, 5, seed=91, positive=True, dtype=torch.float32)
    looks, product = [], cpu_products.Products.__call__
    monkeypatch.setattr(
        cpu_products.Products, "__call__", lambda self, r: looks.append(len(r)) or product(self, r)
    )
    found = solve(cpu, X, D, 0.1, positive=True, wide=True)
    assert sum(looks) < 4 * len(X)
    assert found.n_iter.double().mean() > 4
    assert found.flops == 2 * (sum(looks) * D.numel() + int(found.n_iter.sum()) * 8 * 100)


def test_a_limit_of_steps_is_kept():
    X, D = tensors(40, 30, 200, 5, seed=89, positive=True)
    for wide in (False, True):
        found = solve(cpu, X, D, 0.01, positive=True, max_steps=3, wide=wide)
        assert found.n_iter.max() <= 3
        assert ((found.codes != 0).sum(1) <= 3).all()
        assert found.gap.min() > 1e-6
    X, D = tensors(40, 8, 16, 3, seed=89, positive=True)
    found = solve(cpu, X, D, 0.01, positive=True, max_steps=2)
    assert found.n_iter.max() <= 2
    assert ((found.codes != 0).sum(1) <= 2).all()


@pytest.mark.parametrize("n_components", [16, 120])
def test_the_gap_of_float32_codes_is_true(n_components):
    X, D = tensors(300, 10, n_components, 3, seed=82, positive=True, dtype=torch.float32)
    found = solve(cpu, X, D, 0.02, positive=True)
    exact = solve(cpu, X.double(), D.double(), 0.02, positive=True)
    values = [
        0.5 * (X.double() - a.codes.double() @ D.double()).square().sum(1)
        + 0.02 * a.codes.double().abs().sum(1)
        for a in (found, exact)
    ]
    excess = values[0] - values[1]
    assert (excess <= found.gap + exact.gap + 1e-12).all()
    assert found.gap.median() < 1e-9


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("positive", [True, False])
@pytest.mark.parametrize("alpha", [1e-4, 0.003])
@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize(("n_features", "n_components"), [(8, 16), (8, 64), (20, 300)])
def test_the_gap_is_true_where_active_atoms_are_nearly_dependent(
    n_features, n_components, rank, alpha, positive, wide
):
    """Rows that atoms do not generate make as many active as there are features.

    Atoms that are nearly in a third of the dimensions let codes run away in float32.
    """
    rng = np.random.default_rng(92)
    X, D = rng.normal(size=(300, n_features)), rng.normal(size=(n_components, n_features))
    D[:, n_features // rank :] *= 1e-3
    D = D @ np.linalg.qr(rng.normal(size=(n_features, n_features)))[0]
    D /= np.linalg.norm(D, axis=1, keepdims=True)
    X, D = torch.tensor(X, dtype=torch.float32), torch.tensor(D, dtype=torch.float32)
    found = solve(cpu, X, D, alpha, positive=positive, max_steps=8 * n_features, wide=wide)
    exact = solve(cpu, X.double(), D.double(), alpha, positive=positive)
    problem = Lasso(X.double(), D.double(), positive, alpha=alpha)
    excess = problem.objective(found.codes.double()) - problem.objective(exact.codes)
    assert (excess <= (1 + 1e-5) * found.gap + exact.gap + 1e-9 * problem.scale).all()
    assert torch.isfinite(found.gap).all()
    assert (found.gap <= 1e-6 * problem.scale).any() or rank > 1


@pytest.mark.parametrize("n_components", [16, 120])
def test_threads_and_neighbours_do_not_matter(n_components, monkeypatch):
    X, D = tensors(500, 10, n_components, 3, seed=83, positive=False)
    alone = solve(cpu, X, D, 0.05, positive=False).codes
    monkeypatch.setattr(cpu, "CHUNK", 37 * n_components)
    monkeypatch.setattr(cpu_side_by_side, "ROWS", (37, 37))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert torch.equal(solve(cpu, X, D, 0.05, positive=False).codes, alone)
    order = torch.randperm(500, generator=torch.Generator().manual_seed(5))
    mixed = solve(cpu, X[order], D, 0.05, positive=False).codes
    np.testing.assert_allclose(mixed, alone[order], atol=1e-12)


class Shape(NamedTuple):
    """Of a lasso over few atoms, and what makes it awkward."""

    n: int
    n_features: int
    n_components: int
    scale: float = 1.0
    share: float = 0.05  # of the largest product, which alpha is
    equal: bool = False  # whether two atoms are
    weighted: bool = False


SHAPES = [
    Shape(100, 8, 16),
    Shape(1, 1, 1),
    Shape(33, 1, 7, equal=True),
    Shape(15, 5, 3, scale=1e-6),
    Shape(50, 7, 17, scale=1e6, weighted=True),
    Shape(70, 12, 30, share=1e-3),
    Shape(40, 9, 20, equal=True, weighted=True),
    Shape(90, 30, 64, share=0.3),
    Shape(60, 20, 50, share=0.02, scale=1e-3),
    Shape(20, 6, 12, share=1.1),
    Shape(20, 6, 12, share=0.0),
]


def few_rows(shape, *, positive):
    """Rows of float32, the second of zeros; atoms and penalties."""
    size = shape.n, shape.n_features, shape.n_components, min(3, shape.n_components)
    X, D = tensors(*size, seed=90, positive=positive, dtype=torch.float32)
    X[1:2] = 0
    if shape.equal:
        D[-1] = D[0]
    X *= shape.scale
    products = X @ D.T
    weights = torch.linspace(0.5, 2, len(D)) if shape.weighted else torch.ones(len(D))
    return X, D, shape.share * products.abs().max() * weights


def solve_few(X, D, penalty, positive, **options):
    options = {"ridge": 0.0, "positive": positive, "start": None, "max_steps": 1000} | options
    return cpu.working_set(X, D, D @ D.T, penalty, **options)


@pytest.fixture
def left_by_lanes(monkeypatch):
    """Rows side by side serve what they can: how many they were given, and how many they left."""
    seen = []
    lane_lasso = cpu_side_by_side.lane_lasso

    def watched(rows, *others):
        left = lane_lasso(rows, *others)
        seen.append((len(rows), left))
        return left

    monkeypatch.setattr(cpu_side_by_side, "lane_lasso", watched)
    monkeypatch.setattr(cpu_side_by_side, "WIDEST", (cpu.FEW, 1000))
    monkeypatch.setattr(cpu_side_by_side, "permutes", lambda: True)
    return seen


@pytest.mark.parametrize("positive", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_rows_side_by_side_agree_with_the_definition(shape, positive, left_by_lanes):
    """Their gaps are no smaller than the distance to the optimum in double precision."""
    X, D, penalty = few_rows(shape, positive=positive)
    found = solve_few(X, D, penalty, positive)
    assert bool(left_by_lanes) == (shape.share > 0)
    x, d, p = X.double(), D.double(), penalty.double()
    meant = solve_few(x, d, p, positive)
    values = [
        0.5 * (x - a.codes.double() @ d).square().sum(1) + a.codes.double().abs() @ p
        for a in (found, meant)
    ]
    size = 0.5 * x.square().sum(1)
    assert (values[0] - values[1] <= found.gap + meant.gap + 1e-12 * size).all()
    assert ((found.energy - meant.energy).abs() <= 1e-6 * size).all()
    assert (found.gap <= (1e-6 if shape.share > 0.01 else 1e-5) * size).all() or shape.share == 0
    assert (found.codes >= 0).all() or not positive
    assert not found.codes[1:2].any()
    assert not found.codes.any() or shape.share < 1
    if not shape.equal and shape.share > 0.01:
        np.testing.assert_allclose(found.codes, meant.codes, atol=1e-5 * shape.scale)
        assert torch.equal(found.codes != 0, meant.codes != 0)


@pytest.mark.parametrize("positive", [True, False])
def test_rows_side_by_side_agree_with_single_ones(positive, left_by_lanes, monkeypatch):
    X, D, penalty = few_rows(Shape(300, 8, 16), positive=positive)
    abreast = solve_few(X, D, penalty, positive)
    monkeypatch.setattr(cpu_side_by_side, "WIDEST", (0, 0))
    single = solve_few(X, D, penalty, positive)
    np.testing.assert_allclose(abreast.codes, single.codes, atol=1e-6)
    np.testing.assert_allclose(abreast.energy, single.energy, atol=1e-8)
    assert (abreast.n_iter == single.n_iter).double().mean() > 0.98


@pytest.mark.parametrize("positive", [True, False])
def test_most_rows_are_solved_side_by_side(positive, left_by_lanes):
    """All but few; those that wait for others of their like are no more than a third."""
    X, D = tensors(2000, 8, 16, 3, seed=91, positive=positive, dtype=torch.float32)
    found = solve_few(X, D, torch.full((16,), 0.1), positive)
    first, early, late = left_by_lanes
    assert first[0] + early[0] == 2000
    assert late[0] == early[1] <= 700
    assert first[1] + late[1] <= 60
    assert (found.gap <= 1e-9 * 0.5 * X.double().square().sum(1)).double().mean() > 0.99


@pytest.mark.parametrize("positive", [True, False])
@pytest.mark.parametrize("n_components", [10, 16, 29])
def test_rows_side_by_side_do_not_matter_to_each_other(
    n_components, positive, left_by_lanes, monkeypatch
):
    """To the last bit, in any order, in any number of threads, and alone.

    Products with the rows that are left to other loops are not as exact.
    """
    monkeypatch.setattr(cpu, "_many", lambda *args: None)
    shape = Shape(300, 8, n_components)
    X, D, penalty = few_rows(shape, positive=positive)
    whole = solve_few(X, D, penalty, positive)
    order = torch.randperm(300, generator=torch.Generator().manual_seed(6))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    monkeypatch.setattr(cpu, "CHUNK", 101 * n_components)
    monkeypatch.setattr(cpu_side_by_side, "ROWS", (101, 101))
    mixed = solve_few(X[order], D, penalty, positive)
    alone = [solve_few(X[i : i + 1], D, penalty, positive) for i in range(40)]
    for name in ("codes", "gap", "energy", "n_iter"):
        expected = getattr(whole, name)
        assert torch.equal(getattr(mixed, name), expected[order])
        assert torch.equal(torch.cat([getattr(a, name) for a in alone]), expected[:40])


def test_a_limit_of_steps_is_kept_side_by_side(left_by_lanes):
    X, D, penalty = few_rows(Shape(100, 8, 16, share=1e-2), positive=True)
    found = solve_few(X, D, penalty, True, max_steps=2)
    assert found.n_iter.max() == 2
    assert ((found.codes != 0).sum(1) <= 2).all()
    assert left_by_lanes


def test_two_solves_in_two_threads():
    X, D = tensors(400, 10, 120, 3, seed=84, positive=True)
    expected = solve(cpu, X, D, 0.05, positive=True).codes
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda _: solve(cpu, X, D, 0.05, positive=True).codes, range(4)))
    assert all(torch.equal(codes, expected) for codes in found)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
def test_a_forked_child_can_solve():
    code = """
import os, numpy as np
from sparsecode_estimators import sparse_encode
X, D = np.eye(4)[:3] * 2, np.eye(4)
first = sparse_encode(X, D, alpha=0.5)
child = os.fork()
if child == 0:
    os._exit(0 if np.array_equal(sparse_encode(X, D, alpha=0.5), first) else 1)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=120)


@pytest.mark.parametrize(("n", "size"), [(0, 7), (1, 7), (7, 7), (8, 7), (100, 16), (1000, 1)])
@pytest.mark.parametrize("threads", [1, 2, 3, 16])
def test_threads_have_as_many_rows(monkeypatch, threads, n, size):
    chunks = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    cpu_chunks.in_chunks(chunks.append, n, size)
    assert sorted(np.concatenate([[], *chunks])) == list(range(n))
    lengths = sorted(map(len, chunks))
    if n > size:  # all but the last chunk are of the same size
        turns = -(-n // (size * threads))
        assert size >= lengths[-1] == -(-n // (turns * threads))
        assert lengths[1] == lengths[-1]
    else:
        assert lengths == [n] * (n > 0)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_an_interrupt_gets_through(monkeypatch, threads):
    calls = []

    def interrupted(chunk):
        calls.append(len(chunk))
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    with pytest.raises(KeyboardInterrupt):
        cpu_chunks.in_chunks(interrupted, 1000, 10)
    assert len(calls) <= threads


def test_an_error_in_another_thread_ends_the_call(monkeypatch):
    calls, main = [], threading.get_ident()

    def failing(chunk):
        calls.append(len(chunk))
        if threading.get_ident() != main:
            raise ValueError("rows that fail")
        time.sleep(0.01)  # so that the other thread begins

    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    with pytest.raises(ValueError, match="rows that fail"):
        cpu_chunks.in_chunks(failing, 10_000, 10)
    assert len(calls) < 900


def test_without_numba_the_definition_serves(monkeypatch):
    X, _, D = planted(40, 8, 16, 3, seed=85)
    with_loops = sparse_encode(X, D, alpha=0.05, solver="working_set")
    monkeypatch.setattr(kernels, "_compiled", lambda: None)
    np.testing.assert_allclose(
        sparse_encode(X, D, alpha=0.05, solver="working_set"), with_loops, atol=1e-9
    )
    np.testing.assert_allclose(sparse_encode(X, D, alpha=0.05), with_loops, atol=1e-4)


@given(problem=lasso_problems())
def test_a_start_does_not_change_the_answer(problem):
    X, D = torch.tensor(problem.X), torch.tensor(problem.D)
    start = torch.tensor(np.random.default_rng(3).standard_normal((len(X), len(D))))
    start = start.clamp(min=0) if problem.positive else start
    a, b = (
        solve(cpu, X, D, float(problem.alpha), positive=problem.positive, start=s, wide=True)
        for s in (None, start)
    )
    np.testing.assert_allclose(a.codes @ D, b.codes @ D, atol=1e-7 * float(X.abs().max() + 1e-300))


def test_many_candidates_are_given_up_again():
    """More candidates than there is room for: the idle ones leave."""
    X, D = tensors(20, 6, 400, 3, seed=86, positive=False)
    start = torch.ones(20, 400, dtype=torch.float64)
    found = solve(cpu, X, D, 1e-3, positive=False, start=start)
    np.testing.assert_allclose(
        found.codes, solve(reference, X, D, 1e-3, positive=False).codes, atol=1e-8
    )


def test_few_rows_of_many_atoms_need_no_gram_matrix(monkeypatch):
    X, D = tensors(2, 10, 2000, 3, seed=87, positive=True)
    made = []
    monkeypatch.setattr(
        Atoms, "gram", property(lambda atoms: made.append(1) or atoms.D @ atoms.D.T)
    )
    few = sparse_encode(X, D, alpha=0.05)
    assert not made
    many = sparse_encode(X.repeat(50, 1), D, alpha=0.05)
    assert made
    np.testing.assert_allclose(few, many[:2], atol=1e-8)
