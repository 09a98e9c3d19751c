"""Synthetic data: exact sparsity, the promised statistics, streams of their own."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from sparsecode_estimators.datasets import load_paper_data, make_sparse_codes
from sparsecode_estimators.datasets.synthetic import DISTRIBUTIONS
from sparsecode_estimators.metrics import mean_corr_coef

distributions = pytest.mark.parametrize("distribution", DISTRIBUTIONS)


def firing_rates(data):
    return (data.codes != 0).mean(0)


@distributions
class TestEveryDistribution:
    @given(
        n_samples=st.integers(1, 30),
        n_features=st.integers(1, 10),
        n_components=st.integers(1, 40),
        data=st.data(),
        seed=st.integers(0, 2**32 - 1),
    )
    def test_sizes_and_exact_sparsity(
        self, distribution, n_samples, n_features, n_components, data, seed
    ):
        k = data.draw(st.integers(1, n_components))
        X, codes, D, *_ = make_sparse_codes(
            n_samples, n_features, n_components, k, distribution=distribution, random_state=seed
        ).values()
        assert X.shape == (n_samples, n_features)
        assert D.shape == (n_components, n_features)
        assert codes.shape == (n_samples, n_components)
        assert (np.count_nonzero(codes, axis=1) == k).all()
        assert (codes >= 0).all()
        assert_allclose(np.linalg.norm(D, axis=1), 1)
        assert_allclose(X, codes @ D, atol=1e-10 * abs(codes).max())

    def test_same_seed_same_data(self, distribution):
        first, second, other = (
            make_sparse_codes(50, 4, 9, 2, distribution=distribution, noise=0.1, random_state=seed)
            for seed in (0, 0, 1)
        )
        for key in ("X", "codes", "dictionary"):
            assert_array_equal(first[key], second[key])
            assert not np.array_equal(first[key], other[key])

    def test_more_samples_continue_the_same_data(self, distribution, monkeypatch):
        options = {"distribution": distribution, "noise": 0.1, "random_state": 0}
        few = make_sparse_codes(50, 4, 9, 2, **options)
        monkeypatch.setattr("sparsecode_estimators.datasets.synthetic._BLOCK_ELEMENTS", 9 * 7)
        many = make_sparse_codes(80, 4, 9, 2, **options)
        for key in ("X", "codes"):
            assert_array_equal(few[key], many[key][:50])
        assert_array_equal(few.dictionary, many.dictionary)

    def test_noise_changes_only_X(self, distribution):
        options = {"distribution": distribution, "random_state": 3}
        clean = make_sparse_codes(4000, 4, 9, 2, **options)
        noisy = make_sparse_codes(4000, 4, 9, 2, noise=0.5, **options)
        assert_array_equal(clean.codes, noisy.codes)
        assert_array_equal(clean.dictionary, noisy.dictionary)
        assert_allclose((noisy.X - clean.X).std(), 0.5, rtol=0.03)

    def test_sparse_output_is_the_same_data(self, distribution):
        options = {"distribution": distribution, "random_state": 3}
        dense = make_sparse_codes(100, 4, 9, 2, **options)
        csr = make_sparse_codes(100, 4, 9, 2, sparse_output=True, **options)
        assert csr.codes.format == "csr"
        assert csr.codes.has_canonical_format
        assert_array_equal(csr.codes.toarray(), dense.codes)
        assert_array_equal(csr.X, dense.X)

    def test_float32(self, distribution):
        options = {"distribution": distribution, "noise": 0.1, "random_state": 3}
        single = make_sparse_codes(100, 4, 9, 2, dtype=np.float32, **options)
        double = make_sparse_codes(100, 4, 9, 2, **options)
        for key in ("X", "codes", "dictionary"):
            assert single[key].dtype == np.float32
            assert double[key].dtype == np.float64
            assert_allclose(single[key], double[key], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("distribution", ["uniform", "power_law", "exponential", "correlated"])
def test_latents_fire_equally_often(distribution):
    rates = firing_rates(
        make_sparse_codes(20_000, 2, 16, 3, distribution=distribution, random_state=0)
    )
    assert_allclose(rates, 3 / 16, atol=0.015)


def test_uniform_pairs_are_independent_but_for_the_fixed_k():
    active = make_sparse_codes(40_000, 2, 16, 3, random_state=0).codes != 0
    together = (active.T.astype(float) @ active / len(active))[~np.eye(16, dtype=bool)]
    assert_allclose(together, 3 * 2 / (16 * 15), atol=0.005)


def test_half_normal_values():
    codes = make_sparse_codes(20_000, 2, 16, 3, random_state=0).codes
    values = codes[codes > 0]
    assert_allclose(values.mean(), np.sqrt(2 / np.pi), rtol=0.02)
    assert_allclose((values**2).mean(), 1, rtol=0.02)


def test_exponential_values():
    codes = make_sparse_codes(20_000, 2, 16, 3, distribution="exponential", random_state=0).codes
    values = codes[codes > 0]
    assert_allclose([values.mean(), values.std()], 1, rtol=0.02)


@pytest.mark.parametrize("exponent", [None, 1.5])
def test_power_law_tail(exponent):
    codes = make_sparse_codes(
        20_000, 2, 16, 3, distribution="power_law", exponent=exponent, random_state=0
    ).codes
    values = codes[codes > 0]
    for t in (0.5, 1.0, 4.0):
        assert_allclose((values > t).mean(), (1 + t) ** -(exponent or 3), rtol=0.1)


@pytest.mark.parametrize("exponent", [None, 0.0, 2.0])
def test_zipf_is_drawing_without_replacement(exponent):
    n_components, k = 10, 3
    p = np.arange(1, n_components + 1) ** -(1.0 if exponent is None else exponent)
    p /= p.sum()
    ours = make_sparse_codes(
        10_000, 2, n_components, k, distribution="zipf", exponent=exponent, random_state=0
    )
    rng = np.random.RandomState(0)
    numpys = np.zeros((10_000, n_components))
    for row in numpys:
        row[rng.choice(n_components, k, replace=False, p=p)] = 1
    assert_allclose(firing_rates(ours), numpys.mean(0), atol=0.02)
    mean = ours.codes.sum(0) / (ours.codes > 0).sum(0)
    assert_allclose(mean, np.sqrt(2 / np.pi) * (p + 0.1), rtol=0.1)


def test_correlated_pairs_fire_together():
    data = make_sparse_codes(20_000, 2, 16, 3, distribution="correlated", random_state=0)
    active = (data.codes != 0).astype(float)
    together = active.T @ active / len(active)
    same_group = data.groups[:, None] == data.groups
    within = together[same_group & ~np.eye(16, dtype=bool)]
    assert within.min() > 2 * 3 * 2 / (16 * 15)
    assert together[~same_group].max() < 3 * 2 / (16 * 15)


def test_no_correlation_is_uniform():
    data = make_sparse_codes(
        20_000, 2, 16, 3, distribution="correlated", correlation=0.0, random_state=0
    )
    active = (data.codes != 0).astype(float)
    together = (active.T @ active / len(active))[~np.eye(16, dtype=bool)]
    assert_allclose(together, 3 * 2 / (16 * 15), atol=0.008)


@pytest.mark.parametrize(("n_components", "k"), [(16, 3), (100, 7), (1, 1), (2, 2), (5, 5)])
def test_hierarchical_children_need_their_parents(n_components, k):
    data = make_sparse_codes(500, 2, n_components, k, distribution="hierarchical", random_state=0)
    active = data.codes != 0
    children = np.flatnonzero(data.parents >= 0)
    assert (data.parents[children] < children).all()
    assert (active[:, data.parents[children]] | ~active[:, children]).all()


def test_hierarchical_grows_uniformly_over_the_waiting_latents():
    # 16 latents: roots 0-3, children of 0 are 4-6, of 1 7-9, ... With K = 2 the
    # second is one of 3 other roots and 3 children, each as likely.
    data = make_sparse_codes(30_000, 2, 16, 2, distribution="hierarchical", random_state=0)
    assert_array_equal(data.parents, np.r_[[-1] * 4, np.repeat([0, 1, 2, 3], 3)])
    rates = firing_rates(data)
    assert_allclose(rates[4:], 1 / 4 / 6, atol=0.005)
    assert_allclose(rates[:4], (2 - 1 / 2) / 4, atol=0.01)


def test_given_dictionary_is_used_as_it_is():
    D = np.arange(12.0).reshape(6, 2)
    data = make_sparse_codes(20, 2, 6, 2, dictionary=D, random_state=0)
    assert_array_equal(data.dictionary, D)
    assert_allclose(data.X, data.codes @ D)
    assert data.dictionary is not D
    drawn = make_sparse_codes(20, 2, 6, 2, random_state=0)
    assert_array_equal(data.codes, drawn.codes)


class TestRandomState:
    def test_instance_advances_and_repeats(self):
        rng = np.random.RandomState(0)
        first, second = (make_sparse_codes(10, 2, 6, 2, random_state=rng) for _ in range(2))
        again = make_sparse_codes(10, 2, 6, 2, random_state=np.random.RandomState(0))
        assert not np.array_equal(first.X, second.X)
        assert_array_equal(first.X, again.X)

    def test_none_differs_between_calls(self):
        first, second = (make_sparse_codes(10, 2, 6, 2).X for _ in range(2))
        assert not np.array_equal(first, second)

    def test_int_leaves_the_global_state_alone(self):
        before, torchs = np.random.get_state()[1].copy(), torch.get_rng_state()
        make_sparse_codes(10, 2, 6, 2, random_state=0)
        load_paper_data(n_samples=10)
        assert_array_equal(np.random.get_state()[1], before)
        assert torch.equal(torch.get_rng_state(), torchs)

    @pytest.mark.parametrize("seed", [0, 1, 42])
    def test_an_estimator_with_the_same_seed_draws_something_else(self, seed):
        data = make_sparse_codes(200, 8, 16, 3, noise=1.0, random_state=seed)
        noise = data.X - data.codes @ data.dictionary
        torch_seed = np.random.RandomState(seed).randint(2**31 - 1)
        starts = [
            np.random.RandomState(seed).randn(16, 8),
            np.random.default_rng(seed).standard_normal((16, 8)),
            torch.randn(16, 8, generator=torch.Generator().manual_seed(seed)).numpy(),
            torch.randn(16, 8, generator=torch.Generator().manual_seed(torch_seed)).numpy(),
        ]
        for start in starts:
            r = np.corrcoef(data.dictionary.ravel(), start.ravel())[0, 1]
            assert abs(r) < 0.4
            assert abs(np.corrcoef(noise[:16].ravel(), start.ravel())[0, 1]) < 0.4
            for value in abs(start.ravel()):
                assert not np.isclose(data.codes, value, rtol=1e-7).any()


BAD_PARAMETERS = {
    "n_samples": 0,
    "n_features": -1,
    "n_components": 2.5,
    "n_nonzero_coefs": 7,
    "distribution": "gauss",
    "noise": -0.1,
    "correlation": 1.5,
    "exponent": -1.0,
    "dictionary": np.ones((3, 3)),
    "dtype": np.int64,
}


@pytest.mark.parametrize(("name", "value"), BAD_PARAMETERS.items())
def test_bad_parameter_is_named(name, value):
    sizes = {"n_samples": 10, "n_features": 2, "n_components": 6, "n_nonzero_coefs": 2}
    with pytest.raises(ValueError, match=f"^{name}"):
        make_sparse_codes(**{**sizes, name: value})


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"noise": float("nan")}, "noise"),
        ({"noise": "loud"}, "noise"),
        ({"exponent": 0.0, "distribution": "power_law"}, "exponent"),
        ({"dictionary": np.full((6, 2), np.nan)}, "dictionary"),
        ({"n_nonzero_coefs": True}, "n_nonzero_coefs"),
        ({"random_state": -1}, ""),
        ({"random_state": "zero"}, ""),
    ],
)
def test_other_bad_values(options, name):
    sizes = {"n_samples": 10, "n_features": 2, "n_components": 6, "n_nonzero_coefs": 2}
    with pytest.raises(ValueError, match=f"^{name}"):
        make_sparse_codes(**{**sizes, **options})


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"distribution": "power_law", "exponent": 1e-300}, r"exponent=1e-300 gives codes that"),
        ({"distribution": "power_law", "exponent": 1e-3}, r"exponent=0\.001 gives codes that"),
        ({"distribution": "power_law", "exponent": 0.02, "dtype": np.float32}, "dtype=float32"),
        ({"distribution": "power_law", "exponent": 1e60, "dtype": np.float32}, r"exponent=1e\+60"),
        ({"distribution": "zipf", "exponent": 400.0}, r"exponent=400 makes the last of n_comp"),
        ({"dictionary": np.full((9, 4), 1e300), "dtype": np.float32}, "dtype=float32 cannot hold"),
        ({"dictionary": np.full((9, 4), 1.7e308), "noise": 1.0}, "X is not finite in dtype=float"),
        ({"noise": 1e39, "dtype": np.float32}, r"X is not finite .*: lower noise=1e\+39"),
    ],
)
def test_what_the_dtype_cannot_hold_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make_sparse_codes(200, 4, 9, 5, random_state=0, **options)


class TestPaperData:
    @pytest.mark.parametrize("scenario", ["known_codes", "known_dictionary", "unknown"])
    def test_is_what_the_paper_describes(self, scenario):
        data = load_paper_data(scenario)
        assert {value.dtype for value in data.values()} == {np.dtype(np.float32)}
        for half in ("train", "test"):
            codes, X = data[f"codes_{half}"], data[f"X_{half}"]
            assert codes.shape == (1024, 16)
            assert (np.count_nonzero(codes, axis=1) == 3).all()
            assert_allclose(X, codes @ data.dictionary, atol=1e-5)
        assert_allclose(np.linalg.norm(data.dictionary, axis=1), 1, rtol=1e-6)

    def test_seeds(self):
        known, codes, unknown = map(load_paper_data, ("known_dictionary", "known_codes", "unknown"))
        assert_array_equal(known.X_train, codes.X_train)
        assert not np.array_equal(known.X_train, unknown.X_train)
        assert_array_equal(load_paper_data(seed=20240926).X_test, unknown.X_test)

    def test_paper_inference_gives_the_published_curve(self):
        """The paper's optimiser meets the paper's MCC, to 4 digits, at steps 100 and 200."""
        data = load_paper_data("known_dictionary")
        X, D = torch.from_numpy(data.X_test), torch.from_numpy(data.dictionary)
        log_codes = torch.full((1024, 16), -10.0, requires_grad=True)
        optimizer = torch.optim.Adam([log_codes], lr=1e-3)
        curve = {}
        for step in range(1, 201):
            optimizer.zero_grad()
            codes = log_codes.exp()
            (((codes @ D - X) ** 2).mean() + 0.01 * codes.abs().mean()).backward()
            optimizer.step()
            if step % 100 == 0:
                curve[step] = round(mean_corr_coef(data.codes_test, log_codes.exp()), 4)
        assert curve == {100: 0.5019, 200: 0.5137}

    @pytest.mark.parametrize(
        ("name", "value"),
        [("scenario", "known"), ("n_samples", 1), ("n_features", 0), ("n_nonzero_coefs", 17)],
    )
    def test_bad_parameter_is_named(self, name, value):
        with pytest.raises(ValueError, match=f"^{name}"):
            load_paper_data(**{name: value})


def test_latents_of_a_group_that_come_together_all_come():
    options = {"distribution": "correlated", "random_state": 0}
    codes = make_sparse_codes(2000, 4, 12, 1, correlation=1.0, **options).codes
    others = make_sparse_codes(2000, 4, 12, 1, correlation=0.999, **options).codes
    rates = (codes != 0).mean(0)
    assert rates.min() > 0.04
    assert_allclose(rates, (others != 0).mean(0), atol=0.02)
