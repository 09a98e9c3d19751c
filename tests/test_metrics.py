"""Metrics against naive definitions, invariances and known chance levels."""

import itertools
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from sklearn.metrics import precision_recall_fscore_support, r2_score

from sparsecode_estimators.datasets import make_sparse_codes
from sparsecode_estimators.metrics import (
    aligned_corr_coef,
    chance_level,
    dead_latent_fraction,
    dictionary_corr_coef,
    explained_variance,
    l0,
    mean_corr_coef,
    support_scores,
)

CONTAINERS = {
    "ndarray": np.asarray,
    "list": lambda codes: codes.tolist(),
    "fortran": np.asfortranarray,
    "csr_matrix": sparse.csr_matrix,
    "csr_array": sparse.csr_array,
    "csc_array": sparse.csc_array,
    "coo_array": sparse.coo_array,
    "pandas": lambda codes: pytest.importorskip("pandas").DataFrame(codes),
    "polars": lambda codes: pytest.importorskip("polars").DataFrame(codes),
    "tensor": torch.tensor,
    "tensor_grad": lambda codes: torch.tensor(codes, requires_grad=True),
    "tensor_coo": lambda codes: torch.tensor(codes).to_sparse(),
    "tensor_csr": lambda codes: torch.tensor(codes).to_sparse_csr(),
}
containers = pytest.mark.parametrize("container", CONTAINERS.values(), ids=CONTAINERS)
ignore_torch_beta = pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")


def naive_mcc(a, b):
    """The definition, by trying every assignment."""
    r = np.zeros((a.shape[1], b.shape[1]))
    for i, j in np.ndindex(r.shape):
        x, y = a[:, i] - a[:, i].mean(), b[:, j] - b[:, j].mean()
        if np.ptp(a[:, i]) and np.ptp(b[:, j]):
            r[i, j] = abs(x @ y) / np.sqrt((x @ x) * (y @ y))
    if r.shape[0] <= r.shape[1]:
        choices = itertools.permutations(range(r.shape[1]), r.shape[0])
        return max(r[np.arange(r.shape[0]), c].sum() for c in choices) / r.shape[0]
    choices = itertools.permutations(range(r.shape[0]), r.shape[1])
    return max(r[c, np.arange(r.shape[1])].sum() for c in choices) / r.shape[0]


def sparse_matrix(seed, shape, density=0.4):
    rng = np.random.RandomState(seed)
    return rng.randn(*shape) * (rng.rand(*shape) < density)


@st.composite
def code_pairs(draw, same_width=False):
    """Two related code matrices with dead and constant columns, zeros and offsets."""
    seed = draw(st.integers(0, 2**31))
    n_samples = draw(st.integers(2, 40))
    n_true = draw(st.integers(1, 5))
    n_pred = n_true if same_width else draw(st.integers(1, 5))
    rng = np.random.RandomState(seed)
    a = sparse_matrix(seed, (n_samples, n_true), draw(st.sampled_from([0.1, 0.5, 1.0])))
    b = rng.randn(n_samples, n_pred) * (rng.rand(n_samples, n_pred) < 0.5)
    b += a @ rng.randn(n_true, n_pred)
    b[:, rng.rand(n_pred) < 0.2] = 0
    b[:, rng.rand(n_pred) < 0.2] = 0.1
    return a, b + draw(st.sampled_from([0.0, 0.0, 100.0]))


@pytest.fixture(scope="module")
def paper_like():
    return make_sparse_codes(1024, 8, 16, 3, random_state=5)


class TestMeanCorrCoef:
    @given(code_pairs())
    def test_is_its_definition(self, pair):
        assert_allclose(mean_corr_coef(*pair), naive_mcc(*pair), atol=1e-9)

    @given(code_pairs(), st.integers(0, 2**31))
    def test_forgets_order_sign_scale_and_offset(self, pair, seed):
        a, b = pair
        rng = np.random.RandomState(seed)
        scale = rng.choice([-1, 1], b.shape[1]) * 10.0 ** rng.randint(-100, 100, b.shape[1])
        moved = (b * scale)[:, rng.permutation(b.shape[1])]
        assert_allclose(mean_corr_coef(a, moved), mean_corr_coef(a, b), atol=1e-9)
        assert_allclose(mean_corr_coef(a + 7, b), mean_corr_coef(a, b), atol=1e-9)

    @given(code_pairs())
    def test_sparse_is_dense(self, pair):
        a, b = pair
        expected = mean_corr_coef(a, b)
        for x, y in [(sparse.csr_array(a), sparse.csr_array(b)), (a, sparse.csr_array(b))]:
            assert_allclose(mean_corr_coef(x, y), expected, atol=1e-10)

    @given(code_pairs())
    def test_is_bounded_and_1_for_itself(self, pair):
        a, b = pair
        assert 0 <= mean_corr_coef(a, b) <= 1
        assert_allclose(mean_corr_coef(a, a), np.mean(np.ptp(a, axis=0) > 0), atol=1e-12)

    def test_unequal_widths(self):
        a = sparse_matrix(0, (50, 6))
        assert_allclose(mean_corr_coef(a, a[:, :3]), 0.5)
        assert_allclose(mean_corr_coef(a[:, :3], a), 1.0)

    def test_matching(self):
        a = sparse_matrix(0, (50, 6))
        order = np.array([3, 1, 5, 0, 2, 4])
        mcc, row_ind, col_ind = mean_corr_coef(a[:, order], -a, return_matching=True)
        assert_allclose(mcc, 1.0)
        assert_array_equal(row_ind, np.arange(6))
        assert_array_equal(col_ind, order)

    @pytest.mark.parametrize("scale", [1e-30, 1e-3, 1.0, 1e30])
    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_constant_up_to_rounding_counts_0_at_every_scale(self, scale, dtype):
        rng = np.random.RandomState(0)
        varying = (rng.rand(200, 1) * scale).astype(dtype)
        constant = (scale * (1 + np.finfo(dtype).eps * rng.randint(-1, 2, (200, 1)))).astype(dtype)
        assert mean_corr_coef(np.c_[varying, constant], np.c_[varying, constant]) == pytest.approx(
            0.5
        )

    def test_small_variation_on_a_large_offset_is_seen(self):
        a = 1e6 + sparse_matrix(1, (300, 4), density=1.0)
        for codes in (a, sparse.csr_array(a)):
            assert_allclose(mean_corr_coef(codes, a - 1e6), 1.0, atol=1e-9)

    @pytest.mark.parametrize("make", [np.asarray, sparse.csr_array])
    def test_many_blocks_agree_with_one(self, make, monkeypatch):
        a, b = sparse_matrix(0, (500, 9)), sparse_matrix(1, (500, 9))
        b += 0.5 * a
        expected = mean_corr_coef(a, b), aligned_corr_coef(a, b)
        monkeypatch.setattr("sparsecode_estimators.metrics.inputs._BLOCK_ELEMENTS", 9 * 13)
        monkeypatch.setattr("sparsecode_estimators.metrics.columns._CACHED", 50)
        monkeypatch.setattr("sparsecode_estimators.metrics.columns._WIDTH", 2)
        assert_allclose(mean_corr_coef(make(a), make(b)), expected[0])
        assert_allclose(aligned_corr_coef(make(a), make(b)), expected[1])

    def test_half_precision_is_summed_in_double(self):
        a = sparse_matrix(2, (20_000, 3)).astype(np.float16)
        assert_allclose(mean_corr_coef(a, a.astype(float)), 1.0)

    def test_sparse_codes_are_not_made_dense(self):
        codes = make_sparse_codes(50_000, 1, 1000, 2, sparse_output=True, random_state=0).codes
        tracemalloc.start()
        mean_corr_coef(codes, codes)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 100e6  # dense, one of the two would be 400 MB

    def test_leaves_the_input_alone(self):
        a = sparse.csr_array(sparse_matrix(0, (50, 4)))
        a.data[0] = 0.0  # a stored zero
        dense = a.toarray()
        before = a.data.copy(), dense.copy()
        for codes in (a, dense):
            mean_corr_coef(codes, codes)
            aligned_corr_coef(codes, codes)
            dictionary_corr_coef(codes, codes)
            support_scores(codes, codes, matching=True)
        assert_array_equal(a.data, before[0])
        assert_array_equal(dense, before[1])


class TestAlignedCorrCoef:
    @given(code_pairs(same_width=True))
    def test_is_its_definition(self, pair):
        a, b = pair
        r = [
            np.corrcoef(x, y)[0, 1] if np.ptp(x) and np.ptp(y) else 0.0
            for x, y in zip(a.T, b.T, strict=True)
        ]
        assert_allclose(aligned_corr_coef(a, b), np.mean(r), atol=1e-9)
        assert_allclose(aligned_corr_coef(sparse.csr_array(a), b), np.mean(r), atol=1e-9)

    def test_is_signed_and_ordered(self):
        a = sparse_matrix(0, (100, 4))
        assert_allclose(aligned_corr_coef(a, -a), -1)
        assert abs(aligned_corr_coef(a, np.roll(a, 1, axis=1))) < 0.3


class TestDictionaryCorrCoef:
    @given(st.integers(0, 2**31), st.integers(1, 6), st.integers(1, 6), st.integers(2, 5))
    def test_forgets_order_sign_and_scale(self, seed, n_true, n_pred, n_features):
        rng = np.random.RandomState(seed)
        D, E = rng.randn(n_true, n_features), rng.randn(n_pred, n_features)
        moved = (E * 10.0 ** rng.randint(-200, 150, (n_pred, 1)))[rng.permutation(n_pred)]
        for centered in (False, True):
            score = dictionary_corr_coef(D, E, centered=centered)
            assert 0 <= score <= 1
            assert_allclose(dictionary_corr_coef(D, -moved, centered=centered), score, atol=1e-9)

    def test_is_the_cosine(self):
        assert_allclose(
            dictionary_corr_coef([[1, 0], [0, 2]], [[1, 1], [0, -3]]), (0.5**0.5 + 1) / 2
        )

    def test_centred_is_the_mcc_of_the_transpose(self):
        rng = np.random.RandomState(0)
        D, E = rng.randn(5, 7), rng.randn(6, 7)
        assert_allclose(dictionary_corr_coef(D, E, centered=True), mean_corr_coef(D.T, E.T))

    def test_zero_and_missing_atoms_count_0(self):
        D = np.eye(4)
        assert dictionary_corr_coef(D, np.diag([1.0, 1, 1, 0])) == 0.75
        assert dictionary_corr_coef(D, D[:2]) == 0.5

    def test_csr_is_dense(self):
        D, E = sparse_matrix(0, (5, 4), 1.0), sparse_matrix(1, (6, 4), 0.7)
        for centered in (False, True):
            result = dictionary_corr_coef(sparse.csr_array(D), E, centered=centered)
            assert_allclose(result, dictionary_corr_coef(D, E, centered=centered))


class TestChanceLevel:
    """The figures at N=16, M=8, K=3."""

    def test_dictionary(self):
        levels = {True: [], False: []}
        for seed in range(10):
            D = np.random.RandomState(seed).randn(16, 8)
            for centered, level in levels.items():
                level.append(
                    chance_level(D, kind="dictionary", centered=centered, random_state=seed)
                )
        assert_allclose(np.mean(levels[True]), 0.656, atol=0.03)
        assert_allclose(np.mean(levels[False]), 0.622, atol=0.03)

    def test_shuffled(self, paper_like):
        assert_allclose(chance_level(paper_like.codes, random_state=0), 0.06, atol=0.03)

    def test_projection(self, paper_like):
        level = chance_level(paper_like.codes, kind="projection", X=paper_like.X, random_state=0)
        assert_allclose(level, 0.48, atol=0.03)

    def test_the_seed_of_the_truth_does_not_guess_it(self):
        for truth in (
            np.random.RandomState(0).randn(8, 20),
            np.random.default_rng(0).normal(size=(8, 20)),
        ):
            assert chance_level(truth, kind="dictionary", n_repeats=1, random_state=0) < 0.6

    def test_more_guesses_score_higher(self, paper_like):
        true, wide = paper_like.codes, np.zeros((1024, 200))
        narrow = chance_level(true, kind="projection", X=paper_like.X, random_state=0)
        assert chance_level(true, wide, kind="projection", X=paper_like.X, random_state=0) > narrow

    def test_containers_and_determinism(self, paper_like):
        codes = paper_like.codes[:200]
        level = chance_level(codes, random_state=3)
        assert level == chance_level(codes, random_state=3)
        assert_allclose(level, chance_level(sparse.csr_array(codes), random_state=3))
        assert_allclose(level, chance_level(torch.tensor(codes), random_state=3))

    def test_global_random_state_is_not_touched(self, paper_like):
        before = np.random.get_state()[1].copy()
        chance_level(paper_like.codes, random_state=0)
        assert_array_equal(np.random.get_state()[1], before)


class TestExplainedVariance:
    @given(st.integers(0, 2**31), st.integers(2, 30), st.integers(1, 4), st.floats(-1e3, 1e3))
    def test_is_r2(self, seed, n_samples, n_features, offset):
        rng = np.random.RandomState(seed)
        X = rng.randn(n_samples, n_features) + offset
        X_hat = X + 0.3 * rng.randn(n_samples, n_features)
        expected = r2_score(X, X_hat, multioutput="variance_weighted")
        assert_allclose(explained_variance(X, X_hat), expected, rtol=1e-8)

    def test_many_blocks(self, monkeypatch):
        X = np.random.RandomState(0).randn(1000, 7) + 1e5
        X_hat = X + 0.5
        expected = 1 - 7 * 1000 * 0.25 / ((X - X.mean(0)) ** 2).sum()
        monkeypatch.setattr("sparsecode_estimators.metrics.inputs._BLOCK_ELEMENTS", 7 * 13)
        assert_allclose(explained_variance(X, X_hat), expected, rtol=1e-9)

    def test_leaves_the_input_alone(self):
        X = np.random.RandomState(0).randn(50, 3)
        before = X.copy()
        explained_variance(X, X + 1)
        explained_variance(torch.from_numpy(X), X + 1)
        assert_array_equal(X, before)

    def test_of_a_constant(self):
        X = np.full((1000, 3), 0.1)
        assert explained_variance(X, X) == 1.0
        assert explained_variance(X, X + 1) == 0.0
        assert explained_variance(X[:1], X[:1]) == 1.0

    @containers
    @ignore_torch_beta
    def test_containers(self, container):
        X = sparse_matrix(0, (30, 4))
        assert_allclose(explained_variance(container(X), X + 0.1), explained_variance(X, X + 0.1))
        assert_allclose(explained_variance(X, container(X)), 1.0)

    def test_half_precision_memmap_is_never_copied_whole(self, tmp_path):
        path = tmp_path / "X.dat"
        X = np.memmap(path, dtype=np.float16, mode="w+", shape=(400_000, 64))
        for start in range(0, len(X), 50_000):
            X[start : start + 50_000] = np.random.RandomState(start).randn(50_000, 64)
        X.flush()
        X = np.memmap(path, dtype=np.float16, mode="r", shape=X.shape)
        tracemalloc.start()
        score = explained_variance(X, X)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert score == 1.0
        assert peak < 170e6  # in float64 it would be 205 MB, the squares as much again

    def test_reads_anything_that_slices_rows(self):
        class Store:
            shape, dtype = (100, 3), np.dtype(np.float16)
            rows = np.random.RandomState(0).randn(100, 3).astype(np.float16)

            def __getitem__(self, rows):
                return self.rows[rows]

        assert explained_variance(Store(), Store.rows) == 1.0


class TestSparsity:
    @containers
    @ignore_torch_beta
    def test_counts_in_every_container(self, container):
        codes = sparse_matrix(0, (40, 5))
        codes[:, 2] = 0
        assert l0(container(codes)) == (codes != 0).sum() / 40
        assert dead_latent_fraction(container(codes)) == 0.2
        assert support_scores(container(codes), codes) == (1, 1, 1)
        assert_allclose(mean_corr_coef(container(codes), codes), 0.8)
        assert_allclose(aligned_corr_coef(codes, container(codes)), 0.8)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64, torch.bool])
    def test_tensor_types(self, dtype):
        codes = torch.tensor([[0, 1, 0], [1, 1, 0]]).to(dtype)
        assert l0(codes) == 1.5
        assert l0(codes.to_sparse()) == 1.5

    def test_tensors_of_every_device(self, device):
        codes = torch.tensor(sparse_matrix(0, (40, 5)), device=device)
        for tensor in (codes, codes.to_sparse()):
            assert mean_corr_coef(tensor, codes) == pytest.approx(1.0)
            assert explained_variance(tensor, codes) == 1.0
            assert l0(tensor) == l0(codes.cpu())

    def test_stored_zeros_and_duplicates_do_not_count(self):
        stored_zero = sparse.csr_array(([0.0, 1.0], [0, 1], [0, 2]), shape=(1, 3))
        cancelling = sparse.coo_array(([1.0, -1.0, 2.0], ([0, 0, 0], [0, 0, 1])), shape=(1, 3))
        for codes in (stored_zero, cancelling):
            assert l0(codes) == 1
            assert dead_latent_fraction(codes) == pytest.approx(2 / 3)
            assert support_scores(codes, [[0, 5, 0]]) == (1, 1, 1)

    @given(code_pairs(same_width=True))
    def test_support_scores_agree_with_scikit_learn(self, pair):
        a, b = pair
        expected = precision_recall_fscore_support(
            (a != 0).ravel(), (b != 0).ravel(), average="binary", zero_division=0
        )[:3]
        assert_allclose(support_scores(a, b), expected)
        assert_allclose(support_scores(sparse.csr_array(a), b), expected)

    def test_matching_finds_the_order(self):
        a = sparse_matrix(0, (100, 6))
        assert support_scores(a, a[:, ::-1]).f1 < 0.7
        assert support_scores(a, -a[:, ::-1], matching=True) == (1, 1, 1)

    def test_unmatched_columns_are_misses_or_false_alarms(self):
        a = sparse_matrix(0, (100, 6))
        missing = support_scores(a, a[:, :3], matching=True)
        assert missing.precision == 1
        assert_allclose(missing.recall, np.count_nonzero(a[:, :3]) / np.count_nonzero(a))
        extra = support_scores(a[:, :3], a, matching=True)
        assert (extra.precision, extra.recall) == (missing.recall, 1)


BAD_CALLS = {
    "rows": (lambda: mean_corr_coef(np.ones((3, 2)), np.ones((4, 2))), "codes_true has 3 rows"),
    "one_row": (lambda: mean_corr_coef([[1, 2]], [[1, 2]]), "codes_true has shape .*at least 2"),
    "1d": (lambda: mean_corr_coef(np.ones((3, 2)), np.ones(3)), "codes_pred must be two-dim"),
    "3d": (lambda: l0(torch.ones(2, 3, 4)), "codes must be two-dimensional"),
    "empty": (lambda: l0(np.ones((0, 4))), r"codes has shape \(0, 4\)"),
    "no_columns": (lambda: dead_latent_fraction(np.ones((4, 0))), r"codes has shape \(4, 0\)"),
    "nan": (lambda: mean_corr_coef(np.eye(2), np.full((2, 2), np.nan)), "codes_pred contains NaN"),
    "text": (lambda: l0([["a", "b"]]), "dtype='numeric'|could not convert"),
    "aligned": (lambda: aligned_corr_coef(np.eye(3), np.eye(3)[:, :2]), "use mean_corr_coef"),
    "atoms": (lambda: dictionary_corr_coef(np.eye(3), np.eye(4)), "D_true has 3 columns"),
    "atom_1d": (
        lambda: dictionary_corr_coef(np.ones((2, 1)), np.ones((2, 1)), centered=True),
        "centered=True",
    ),
    "support": (lambda: support_scores(np.eye(3), np.eye(3)[:, :2]), "matching=True"),
    "kind": (lambda: chance_level(np.eye(3), kind="coin"), "kind='coin' is unknown"),
    "projection": (lambda: chance_level(np.eye(3), kind="projection"), "X=None"),
    "repeats": (lambda: chance_level(np.eye(3), n_repeats=0), "n_repeats=0"),
    "chance_rows": (lambda: chance_level(np.eye(3), np.eye(4)), "true has 3 rows and pred"),
    "width": (lambda: explained_variance(np.eye(3), np.ones((3, 2))), "X has 3 columns and X_hat"),
    "length": (lambda: explained_variance(np.eye(3), np.ones((2, 3))), "X has 3 rows and X_hat"),
    "infinite": (
        lambda: explained_variance(np.eye(3), np.full((3, 3), np.inf)),
        "X_hat contains NaN",
    ),
    "vector": (lambda: explained_variance(np.ones(3), np.ones(3)), "X must be two-dimensional"),
}


@pytest.mark.parametrize(("call", "message"), BAD_CALLS.values(), ids=BAD_CALLS)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("scale", [1e-170, 1e-100, 1e100, 1e170])
def test_explained_variance_of_rows_of_any_size(scale):
    rng = np.random.default_rng(1512)
    X, X_hat = rng.standard_normal((2, 30, 4))
    expected = explained_variance(X, X_hat)
    assert explained_variance(X * scale, X_hat * scale) == pytest.approx(expected, rel=1e-9)
    assert explained_variance(X, X_hat * 1e200) == -np.inf


def test_float16_beside_csr():
    rng = np.random.default_rng(1513)
    a, b = rng.standard_normal((2, 40, 5))
    dense = mean_corr_coef(a.astype(np.float16), b)
    assert mean_corr_coef(a.astype(np.float16), sparse.csr_array(b)) == pytest.approx(dense)
