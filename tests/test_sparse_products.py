"""Products with sparse codes: both makes against dense products in NumPy."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsecode_estimators.kernels import reference_sparse

MAKES = [reference_sparse]
try:
    from sparsecode_estimators.kernels import cpu_sparse

    MAKES.append(cpu_sparse)
except ImportError:
    pass

sizes = st.tuples(st.integers(1, 9), st.integers(1, 300), st.integers(1, 7), st.integers(0, 10**6))


def scores(n, n_components, seed, *, ties):
    rng = np.random.default_rng(seed)
    if ties:
        return torch.tensor(rng.integers(-2, 3, (n, n_components)).astype(np.float64))
    return torch.tensor(rng.standard_normal((n, n_components)))


def of_type(dtype, pre, per_column):
    """Scores rounded to bfloat16 go with float32 for each column."""
    return pre.to(dtype), per_column.to(torch.promote_types(dtype, torch.float32))


TYPES = [torch.float64, torch.float32, torch.bfloat16]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("make", MAKES)
@given(size=sizes, share=st.floats(0, 1), signed=st.booleans(), ties=st.booleans())
def test_the_largest_are_found(make, dtype, size, share, signed, ties):
    n, n_components, _, seed = size
    k = max(1, round(share * n_components))
    pre = scores(n, n_components, seed, ties=ties)
    pre, bias = of_type(dtype, pre, scores(1, n_components, seed + 2, ties=ties)[0])
    places = make.largest(pre, bias, k, signed=signed)
    atoms = places.atoms.reshape(n, k).numpy()
    assert (np.diff(atoms, axis=1) > 0).all()
    pre = pre + bias
    size_of = np.abs(pre.numpy()) if signed else pre.numpy()
    found = np.sort(np.take_along_axis(size_of, atoms, 1), axis=1)
    np.testing.assert_array_equal(found, np.sort(size_of, axis=1)[:, n_components - k :])
    np.testing.assert_array_equal(places.starts, np.arange(n + 1) * k)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("make", MAKES)
@given(size=sizes, ties=st.booleans())
def test_all_above_the_floor_are_found(make, dtype, size, ties):
    n, n_components, _, seed = size
    pre = scores(n, n_components, seed, ties=ties)
    pre, floor = of_type(dtype, pre, scores(1, n_components, seed + 1, ties=ties)[0])
    places = make.above(pre, floor)
    rows, atoms = np.nonzero(pre.double().numpy() > floor.double().numpy())
    np.testing.assert_array_equal(places.rows, rows)
    np.testing.assert_array_equal(places.atoms, atoms)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("make", MAKES)
@given(size=sizes, width=st.integers(1, 40))
def test_products_are_those_of_dense_codes(make, dtype, size, width):
    n, n_components, _, seed = size
    rng = np.random.default_rng(seed)
    D, R = rng.standard_normal((n_components, width)), rng.standard_normal((n, width))
    codes = rng.standard_normal((n, n_components)) * (rng.random((n, n_components)) < 0.2)
    places = make.above(torch.tensor(np.abs(codes)), torch.zeros(n_components).double())
    values = torch.tensor(codes[codes != 0], dtype=dtype)
    D_, R_ = torch.tensor(D, dtype=dtype), torch.tensor(R, dtype=dtype)
    turned = make.by_atom(places, n_components)
    tol = {"atol": 1e-4 if dtype is torch.float32 else 1e-12}
    np.testing.assert_allclose(make.decode(places, values, D_), codes @ D, **tol)
    np.testing.assert_allclose(make.rows_by_atom(turned, values, R_), codes.T @ R, **tol)
    np.testing.assert_allclose(make.products(places, R_, D_), (R @ D.T)[codes != 0], **tol)
    np.testing.assert_array_equal(turned.starts.diff(), (codes != 0).sum(0))


def test_infinite_scores_are_not_a_trap():
    pre = torch.full((2, 50), -torch.inf)
    pre[:, 7] = 1.0
    for make in MAKES:
        assert 7 in make.largest(pre, torch.zeros(50), 3, signed=False).atoms[:3]
