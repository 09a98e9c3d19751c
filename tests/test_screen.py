"""The largest products by way of rounded ones, against products in double precision."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsecode_estimators import SAEEncoder
from sparsecode_estimators.kernels import rounded, sparse

cpu_screen = pytest.importorskip("sparsecode_estimators.kernels.cpu_screen")

FEATURES = 48


def problem(seed, n=5, n_components=700, features=FEATURES):
    rng = np.random.default_rng(seed)

    def normal(*sizes):
        return torch.tensor(rng.standard_normal(sizes), dtype=torch.float32)

    return normal(n, features), normal(n_components, features), normal(n_components)


def outliers(x, weight, bias):
    """A feature and some atoms that are far longer than the others, and atoms of nothing."""
    x[:, 3] *= 1e3
    weight[::50] *= 1e3
    weight[7::90] = 0
    return x, weight, bias


def alike(x, weight, bias):
    """What distinguishes the atoms is lost in rounding, and rounding goes one way."""
    return x.abs().round() + 1 + 2**-9, 1 + 2**-8 * weight.abs() / 8, 0 * bias


def scaled(factor):
    return lambda x, weight, bias: (factor * x, weight, factor * bias)


KINDS = {
    "normal": lambda *p: p,
    "outliers": outliers,
    "alike": alike,
    "zero rows": lambda x, w, b: (0 * x, w, b),
    "no bias": lambda x, w, b: (x, w, 0 * b),
    "all ties": lambda x, w, b: (0 * x, w, 0 * b),
    "long": scaled(1e30),
    "short": scaled(1e-30),
    "shorter than numbers have room for": scaled(1e-41),
}


def check(x, weight, bias, k, *, signed):
    places, values = cpu_screen.Screen(weight, bias, k, signed=signed)(x)
    n = len(x)
    np.testing.assert_array_equal(places.starts, np.arange(n + 1) * k)
    atoms = places.atoms.view(n, k).numpy()
    assert (np.diff(atoms, axis=1) > 0).all()
    exact = x.double().numpy() @ weight.double().numpy().T
    exact += bias.double().numpy()
    lengths = np.linalg.norm(x.double().numpy(), axis=1)[:, None]
    norms = np.linalg.norm(weight.double().numpy(), axis=1)
    # rounding of single precision, of every number by itself
    close = 1e-5 * (lengths * norms + bias.abs().numpy()) + 1e-37
    chosen, allowed = np.take_along_axis(exact, atoms, 1), np.take_along_axis(close, atoms, 1)
    assert (np.abs(values.view(n, k).numpy() - chosen) <= allowed).all()
    size = np.abs(exact) if signed else exact
    least = np.take_along_axis(size, atoms, 1) + allowed
    others = np.where(
        np.isin(
            np.arange(size.size).reshape(size.shape), atoms + np.arange(n)[:, None] * size.shape[1]
        ),
        -np.inf,
        size - close,
    )
    assert (others.max(1) <= least.min(1)).all()


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=20)
@given(seed=st.integers(0, 10**6), k=st.integers(1, 12), n_components=st.integers(200, 900))
def test_they_are_the_largest(kind, signed, seed, k, n_components):
    x, weight, bias = KINDS[kind](*problem(seed, n_components=n_components))
    check(x, weight, bias, k, signed=signed)


@pytest.mark.parametrize("kind", ["normal", "outliers", "alike", "no bias"])
def test_rounded_products_are_off_by_less_than_their_bound(kind):
    """What a row's answer rests on, for all products: measured, and with room to spare."""
    x, weight, bias = KINDS[kind](*problem(0, 40, 700, 768))
    r, length, error = cpu_screen._rounded(x)
    screen = cpu_screen.Screen(weight, bias, 3, signed=False)
    product = (r @ screen._rounded.T).double()
    reach = error + (screen._loss + (768 + 16) * cpu_screen.SUM) * length
    bound = torch.outer(reach, screen._length).double() + cpu_screen.UNIT * product.abs()
    off = (product - x.double() @ weight.double().T).abs()
    assert (off <= bound).all()
    assert (off > 0.05 * bound).any()


def test_few_rows_are_computed_whole(monkeypatch):
    x, weight, bias = problem(1, 64, 4096)
    screen = cpu_screen.Screen(weight, bias, 8, signed=False)
    monkeypatch.setattr(screen, "_whole", None)
    screen(x)


def test_rows_that_stay_open_end_the_attempt(monkeypatch):
    x, weight, bias = problem(2, 16, 4096)
    weight[:] = weight[0]
    screen = cpu_screen.Screen(weight, bias * 1e-6, 8, signed=False)
    first = screen(x)
    monkeypatch.setattr(screen, "_settle", None)
    again = screen(x)
    assert torch.equal(first[0].atoms, again[0].atoms)


@pytest.mark.parametrize("threads", [1, 2])
def test_no_row_depends_on_others(threads):
    x, weight, bias = problem(3, 70, 2048)
    screen = cpu_screen.Screen(weight, bias, 8, signed=False)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        places, values = screen(x)
    finally:
        torch.set_num_threads(before)
    for size in (1, 9, 64):
        parts = [screen(some) for some in x.split(size)]
        assert torch.equal(torch.cat([p.atoms for p, _ in parts]), places.atoms)
        assert torch.equal(torch.cat([v for _, v in parts]), values)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("activation", ["topk", "abs_topk"])
def test_sparse_codes_are_the_dense_ones(activation, dtype, monkeypatch):
    monkeypatch.setattr(rounded, "is_faster", lambda device: True)
    monkeypatch.setattr(rounded, "WORTH", 1)
    calls = []
    screen = sparse.screen
    monkeypatch.setattr(
        sparse, "screen", lambda *a, **kw: calls.append(screen(*a, **kw)) or calls[-1]
    )
    X = np.random.default_rng(4).standard_normal((1100, 16)).astype(dtype)
    sae = SAEEncoder(512, activation=activation, n_nonzero_coefs=4, max_iter=2, random_state=0)
    dense = sae.fit(X).transform(X)
    codes = sae.set_params(sparse_output=True).transform(X)
    assert [made is None for made in calls] == [dtype == np.float64]
    assert codes.dtype == dense.dtype
    assert codes.indices.dtype == np.int32
    np.testing.assert_array_equal(codes.toarray() != 0, dense != 0)
    np.testing.assert_allclose(codes.toarray(), dense, atol=1e-5)


@pytest.mark.parametrize("why", ["k", "type", "hardware", "size"])
def test_whole_products_where_they_are_as_fast(why, monkeypatch):
    monkeypatch.setattr(rounded, "is_faster", lambda device: why != "hardware")
    n_components = 100 if why == "size" else 2**13
    weight = torch.ones(n_components, 2**7, dtype=torch.float64 if why == "type" else torch.float32)
    k = 200 if why == "k" else 1
    assert sparse.screen(weight, weight[:, 0], k, signed=False) is None
