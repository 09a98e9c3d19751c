"""What compiled loops of every solver promise; a new one is tested the day it is in the table."""

import numpy as np
import pytest
import torch
from problems import planted

from sparsecode_estimators import kernels, sparse_encode
from sparsecode_estimators.inference import SOLVERS

cpu = pytest.importorskip("sparsecode_estimators.kernels.cpu")
LOOPS = [name for name, row in SOLVERS.items() if row.loops]


def options(solver):
    k_sparse = SOLVERS[solver].solves == "k-sparse"
    return {"solver": solver, **({"n_nonzero_coefs": 5} if k_sparse else {"alpha": 0.05})}


@pytest.mark.parametrize("solver", LOOPS)
@pytest.mark.parametrize("n_components", [16, 100])
def test_without_numba_the_definition_serves(solver, n_components, monkeypatch):
    X, _, D = planted(40, 20, n_components, 5, seed=217)
    with_loops, info = sparse_encode(X, D, return_info=True, **options(solver))
    monkeypatch.setattr(kernels, "_compiled", lambda: None)
    without, other = sparse_encode(X, D, return_info=True, **options(solver))
    np.testing.assert_allclose(without, with_loops, atol=1e-8)
    assert info.converged.all()
    assert other.converged.all()


@pytest.mark.parametrize("solver", LOOPS)
@pytest.mark.parametrize("positive", [True, False])
@pytest.mark.parametrize("warm", [True, False])
@pytest.mark.parametrize(("dtype", "atol"), [(np.float32, 1e-5), (np.float64, 1e-9)])
def test_a_row_does_not_depend_on_others_or_threads(
    solver, positive, warm, dtype, atol, monkeypatch
):
    X, _, D = planted(300, 20, 100, 5, seed=196, positive=positive)
    X, D = X.astype(dtype), D.astype(dtype)
    guess = X @ D.T
    guess[np.abs(guess) < 0.3] = 0

    def codes(rows):
        start = guess[rows] if warm else None
        return sparse_encode(X[rows], D, init=start, positive_code=positive, **options(solver))

    alone = codes(np.arange(300))
    monkeypatch.setattr(cpu, "CHUNK", 37 * 100)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    np.testing.assert_array_equal(codes(np.arange(300)), alone)
    order = np.random.default_rng(5).permutation(300)
    np.testing.assert_allclose(codes(order), alone[order], atol=atol)
