"""The kernels for CUDA against their definition: on a GPU where there is one.

Elsewhere Triton's interpreter runs them on CPU tensors (see ``conftest.py``), which shows that
they mean the right thing but not that they run on a device.
"""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from problems import lasso_problems, objective, planted

from sparsecode_estimators import kernels, sparse_encode
from sparsecode_estimators.inference import SOLVERS, KSparse
from sparsecode_estimators.kernels import reference
from sparsecode_estimators.kernels.cuda_probe import fused

# older interpreters know no arrays of truth values
pytest.importorskip("triton", minversion=None if torch.cuda.is_available() else "3.6")
from sparsecode_estimators.kernels import cuda

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
WIDE = 2**16  # bytes of tableaus: few programs, for the interpreter's sake

needs_gpu = [
    pytest.mark.cuda,
    pytest.mark.skipif(DEVICE == "cpu", reason="no CUDA device on this machine"),
]


@pytest.fixture(autouse=True, scope="module")
def few_programs():
    with pytest.MonkeyPatch.context() as patch:
        if DEVICE == "cpu":
            patch.setattr(cuda, "PROGRAM", WIDE)
        yield


def tensors(n, n_features, n_components, k, seed, *, positive, dtype=torch.float64):
    X, _, D = planted(n, n_features, n_components, k, seed, positive=positive)
    return (torch.tensor(a, dtype=dtype, device=DEVICE) for a in (X, D))


def solve(make, X, D, penalty, *, positive, ridge=0.0, start=None, max_steps=1000):
    if isinstance(penalty, float):
        penalty = X.new_full((len(D),), penalty)
    gram = D @ D.T + ridge * torch.eye(len(D), dtype=D.dtype, device=D.device)
    options = {"ridge": ridge, "positive": positive, "start": start, "max_steps": max_steps}
    return make.working_set(X, D, gram, penalty, **options)


# widths that are powers of two and others, rows that do not fill the last program
SIZES = [(11, 8, 16, 3, 0.1), (7, 5, 13, 3, 1e-3), (2, 20, 40, 2, 0.2), (5, 3, 1, 1, 0.01)]


@pytest.mark.parametrize(("positive", "ridge"), [(True, 0.0), (False, 0.0), (False, 0.1)])
@pytest.mark.parametrize(("n", "n_features", "n_components", "k", "alpha"), SIZES)
def test_agrees_with_the_definition(n, n_features, n_components, k, alpha, positive, ridge):
    X, D = tensors(n, n_features, n_components, k, seed=91, positive=positive)
    penalty = alpha * torch.linspace(0.5, 2, n_components, dtype=X.dtype, device=DEVICE)
    ours, meant = (
        solve(m, X, D, penalty, positive=positive, ridge=ridge) for m in (cuda, reference)
    )
    torch.testing.assert_close(ours.codes, meant.codes, rtol=0, atol=1e-6)
    torch.testing.assert_close(ours.energy, meant.energy, rtol=0, atol=1e-9)
    assert ours.gap.max() < 1e-12
    assert torch.equal(ours.n_iter, meant.n_iter)

    rounded = solve(cuda, X.float(), D.float(), penalty.float(), positive=positive, ridge=ridge)
    assert rounded.codes.dtype == torch.float32
    assert (rounded.gap <= 1e-7 * X.square().sum(1)).all()
    torch.testing.assert_close(rounded.codes.double(), meant.codes, rtol=0, atol=2e-3)


@pytest.mark.parametrize("n_components", [16, 20])
def test_the_gap_of_float32_codes_is_true(n_components):
    X, D = tensors(30, 10, n_components, 3, seed=92, positive=True, dtype=torch.float32)
    found = solve(cuda, X, D, 0.02, positive=True)
    exact = solve(reference, X.double(), D.double(), 0.02, positive=True)
    values = [
        0.5 * (X.double() - a.codes.double() @ D.double()).square().sum(1)
        + 0.02 * a.codes.double().abs().sum(1)
        for a in (found, exact)
    ]
    assert (values[0] - values[1] <= found.gap + exact.gap + 1e-12).all()
    assert found.gap.median() < 1e-12


@settings(max_examples=12)
@given(problem=lasso_problems())
def test_any_problem_is_solved_and_certified(problem):
    """Duplicates, zero rows, weights, ridge, alpha from nearly 0 to its maximum."""
    X, D = torch.tensor(problem.X, device=DEVICE), torch.tensor(problem.D, device=DEVICE)
    weights = np.ones(len(D)) if problem.weights is None else problem.weights
    penalty = torch.tensor(problem.alpha * weights, device=DEVICE)
    options = {"positive": problem.positive, "ridge": problem.ridge}
    exact = solve(reference, X, D, penalty, **options)
    scale = 0.5 * X.square().sum(1)
    best = objective(
        exact.codes.cpu().numpy(), problem.X, problem.D, problem.alpha, weights, problem.ridge
    )
    for dtype, tol in ((torch.float64, 1e-11), (torch.float32, 1e-6)):
        found = solve(cuda, X.to(dtype), D.to(dtype), penalty.to(dtype), **options)
        codes = found.codes.cpu().numpy()
        assert (found.gap <= tol * scale).all()
        excess = (
            objective(codes, problem.X, problem.D, problem.alpha, weights, problem.ridge) - best
        )
        # a problem in float32 is another one: its numbers are rounded
        rounding = 100 * torch.finfo(dtype).eps * scale.cpu().numpy()
        assert (excess <= found.gap.cpu().numpy() + rounding).all()
        assert not (problem.positive and (codes < 0).any())


def test_without_penalty_the_certificate_proves_nothing():
    X, D = tensors(7, 6, 9, 3, seed=93, positive=False)
    found = solve(cuda, X, D, 0.0, positive=False)
    assert (found.energy < 1e-14).all()
    exact = reference._gap(X, D, found.codes, X.new_zeros(9), 0.0, False)[0]
    torch.testing.assert_close(found.gap, exact, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_neighbours_do_not_matter(dtype, monkeypatch):
    X, D = tensors(11, 4, 7, 3, seed=94, positive=False, dtype=dtype)
    X[3] = 0
    D[-1] = D[0]
    together = solve(cuda, X, D, 0.02, positive=False)
    assert (together.codes[3] == 0).all()
    order = torch.randperm(11, generator=torch.Generator().manual_seed(5)).to(DEVICE)
    monkeypatch.setattr(cuda, "PROGRAM", 2**10)  # four rows in float32, two in float64
    mixed = solve(cuda, X[order], D, 0.02, positive=False)
    parts = [solve(cuda, part, D, 0.02, positive=False) for part in X.split(7)]
    for name in ("codes", "gap", "energy", "n_iter"):
        assert torch.equal(getattr(mixed, name), getattr(together, name)[order])
        assert torch.equal(torch.cat([getattr(p, name) for p in parts]), getattr(together, name))


def test_a_start_changes_nothing_and_steps_are_limited():
    X, D = tensors(15, 8, 16, 3, seed=95, positive=True)
    codes = solve(cuda, X, D, 0.02, positive=True).codes
    warm = solve(cuda, X, D, 0.02, positive=True, start=torch.rand_like(codes)).codes
    assert torch.equal(warm, codes)
    few, meant = (solve(m, X, D, 0.02, positive=True, max_steps=2) for m in (cuda, reference))
    assert few.n_iter.max() == 2
    torch.testing.assert_close(few.codes, meant.codes, rtol=0, atol=1e-8)
    torch.testing.assert_close(few.gap, meant.gap, rtol=0, atol=1e-8)


def test_no_rows_and_rows_that_are_no_block_of_memory():
    X, D = tensors(6, 8, 16, 3, seed=96, positive=True)
    assert solve(cuda, X[:0], D, 0.02, positive=True).codes.shape == (0, 16)
    strided = torch.stack([X, X], 2)[:, :, 0]
    assert torch.equal(
        solve(cuda, strided, D, 0.02, positive=True).codes,
        solve(cuda, X, D, 0.02, positive=True).codes,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("positive", [True, False])
def test_a_step_agrees_with_the_definition(positive, dtype, monkeypatch):
    monkeypatch.setattr(cuda, "CHUNK", 16)
    generator = torch.Generator().manual_seed(97)
    z, gradient, codes = torch.randn(3, 20, 45, generator=generator, dtype=dtype).to(DEVICE)
    t = 1 + 5 * torch.rand(20, 1, generator=generator, dtype=dtype).to(DEVICE)
    threshold = torch.linspace(0, 0.3, 45, dtype=dtype, device=DEVICE)
    options = {"step": codes.new_tensor(0.3), "positive": positive}
    found, meant = (
        m.proximal_step(z, gradient, codes, t, threshold, **options) for m in (cuda, reference)
    )
    assert (meant[2] == 1).any()  # some rows lose their momentum,
    assert (meant[2] > 1).any()  # others keep it
    for ours, other in zip(found, meant, strict=True):
        torch.testing.assert_close(ours, other)


@pytest.mark.parametrize("rule", ["omp", "ols"])
@pytest.mark.parametrize("positive", [True, False])
@pytest.mark.parametrize("k", [1, 5])
def test_pursuit_agrees_with_the_solvers(k, positive, rule):
    X, D = tensors(30, 6, 13, 3, seed=100, positive=positive)
    X[3] = 0
    options = {"positive": positive, "rule": rule, "start": None, "max_steps": 100}
    found = cuda.pursuit(X, D, None, k=k, **options)
    problem = KSparse(X, D, positive, k=k)
    meant = SOLVERS[rule].run(problem, X.new_zeros(30, 13), max_iter=100, tol=None)
    torch.testing.assert_close(found.codes, meant.codes, rtol=0, atol=1e-7)
    torch.testing.assert_close(found.energy, meant.residual, rtol=0, atol=1e-12)
    assert found.gap.isnan().all()

    rounded = cuda.pursuit(X.float(), D.float(), None, k=k, **options)
    same = ((rounded.codes != 0) == (meant.codes != 0)).all(1)
    assert same.double().mean() > 0.95
    torch.testing.assert_close(rounded.codes[same].double(), meant.codes[same], rtol=0, atol=1e-3)
    assert ((rounded.codes != 0).sum(1) <= k).all()


@pytest.mark.parametrize("rule", ["omp", "ols"])
def test_pursuit_of_duplicates_and_in_few_steps(rule, monkeypatch):
    X, D = tensors(9, 6, 13, 3, seed=101, positive=True)
    D[-1] = D[0]
    options = {"positive": True, "rule": rule, "start": None}
    found = cuda.pursuit(X, D, None, k=6, max_steps=100, **options)
    assert not ((found.codes[:, 0] != 0) & (found.codes[:, -1] != 0)).any()
    assert (found.codes >= 0).all()
    few = cuda.pursuit(X, D, None, k=6, max_steps=2, **options)
    assert few.n_iter.max() == 2
    monkeypatch.setattr(cuda, "PROGRAM", 2**12)  # two rows
    alone = cuda.pursuit(X, D, None, k=6, max_steps=2, **options)
    assert torch.equal(alone.codes, few.codes)


def test_solvers_reach_the_same_codes_through_the_kernels(monkeypatch):
    X, _, D = planted(4, 6, 13, 3, seed=98)
    expected = sparse_encode(X, D, alpha=0.05)
    monkeypatch.setattr(kernels, "_make", lambda D: cuda)
    monkeypatch.setattr(kernels, "proximal_step", cuda.proximal_step)
    for solver in ("working_set", "fista"):
        codes, info = sparse_encode(
            torch.tensor(X, device=DEVICE), torch.tensor(D, device=DEVICE),
            alpha=0.05, solver=solver, tol=1e-8, max_iter=60, return_info=True,
        )  # fmt: skip
        assert info.converged.all()
        np.testing.assert_allclose(codes.cpu(), expected, atol=1e-7)


class OnCuda:
    """Atoms on a device that need not be there."""

    device = torch.device("cuda", 0)

    def __init__(self, n_components):
        self.n_components = n_components

    def __len__(self):
        return self.n_components


def test_the_kernels_serve_small_dictionaries_on_cuda_only(monkeypatch):
    assert fused.__wrapped__("cuda", torch.device(DEVICE)) is cuda
    monkeypatch.setattr(kernels, "fused", lambda name, device: cuda)
    assert kernels._make(OnCuda(64)) is cuda
    assert kernels._make(OnCuda(65)) is reference
    assert kernels._make(torch.zeros(64, 3)) is not cuda


@pytest.mark.parametrize("failure", ["no Triton", "does not compile", "wrong answer"])
def test_the_definition_serves_where_triton_fails(failure, monkeypatch):
    def broken(*args, **options):
        raise RuntimeError("Failed to find C compiler")

    def wrong(*args, **options):
        return reference.working_set(*args, **options)._replace(codes=torch.zeros(1, 1))

    if failure == "no Triton":
        monkeypatch.delattr(kernels, "cuda")
        monkeypatch.setitem(sys.modules, "sparsecode_estimators.kernels.cuda", None)
    else:
        monkeypatch.setattr(cuda, "working_set", broken if failure == "does not compile" else wrong)
    found = fused.__wrapped__("cuda", torch.device(DEVICE))
    assert found is None
    monkeypatch.setattr(kernels, "fused", lambda name, device: found)
    assert kernels._make(OnCuda(16)) is reference
    assert not kernels.accelerated(OnCuda(16))


AHEAD = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from sparsecode_estimators.kernels.cuda_lasso import lasso
from sparsecode_estimators.kernels.cuda_pursuit import pursuit
from sparsecode_estimators.kernels.cuda_step import step_along

def build(kernel, constants, num_warps, number, doubles=(), integers=(), floats=()):
    kinds = dict.fromkeys(doubles, "*fp64") | dict.fromkeys(integers, "i32")
    kinds |= dict.fromkeys(floats, "fp32") | dict.fromkeys(constants, "constexpr")
    kinds["n_iter"] = "*i64"
    signature = {name: kinds.get(name, "*" + number) for name in kernel.arg_names}
    source = ASTSource(kernel, signature, constants)
    built = triton.compile(
        source, target=GPUTarget("cuda", 90, 32), options={"num_warps": num_warps}
    )
    assert len(built.asm["cubin"]) > 1000

for number, width, height, num_warps in [("fp32", 16, 2, 1), ("fp64", 64, 1, 8)]:
    build(
        lasso, {"n_features": 8, "height": height, "width": width, "positive": width == 16},
        num_warps, number, doubles=["gram", "penalty", "ridge", "gap", "energy"],
        integers=["n", "n_components", "rank", "max_joins"], floats=["eps", "finer", "independent"],
    )
build(
    pursuit,
    {"n_features": 8, "height": 2, "width": 16, "positive": True, "orthogonal": True}, 1, "fp32",
    doubles=["gram", "energy"], integers=["n", "n_components", "k", "max_joins"],
    floats=["rounding", "independent"],
)
build(step_along, {"n_components": 1000, "block": 1024, "positive": True}, 4, "fp32")
"""


def test_compiles_for_a_device_that_is_not_here(tmp_path, monkeypatch):
    """Machine code of Hopper GPUs; Triton brings the assembler."""
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    subprocess.run([sys.executable, "-W", "ignore", "-c", AHEAD], check=True, timeout=300)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("positive", [True, False])
@pytest.mark.parametrize(("n_features", "n_components"), [(8, 16), (5, 13), (30, 64)])
class TestOnTheDevice:
    pytestmark = needs_gpu

    def test_many_rows(self, n_features, n_components, positive, dtype):
        X, D = tensors(20_011, n_features, n_components, 3, seed=99, positive=positive, dtype=dtype)
        found = solve(cuda, X, D, 0.05, positive=positive)
        meant = solve(reference, X.double(), D.double(), 0.05, positive=positive)
        scale = 0.5 * X.double().square().sum(1)
        assert (found.gap <= 1e-6 * scale).all()
        torch.testing.assert_close(found.energy, meant.energy, rtol=0, atol=1e-5)

    def test_auto_takes_the_kernel(self, n_features, n_components, positive, dtype):
        X, D = tensors(500, n_features, n_components, 3, seed=99, positive=positive, dtype=dtype)
        assert kernels.accelerated(D)
        codes, info = sparse_encode(X, D, alpha=0.05, positive_code=positive, return_info=True)
        assert codes.device == X.device
        assert info.converged.all()
