"""The theorem on one-pass encoders: it binds those it speaks of, and no others."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from problems import planted
from scipy.optimize import linprog
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sparsecode_estimators import (
    ITORefiner,
    MLPEncoder,
    SAEEncoder,
    SparseCodingEncoder,
    UnrolledEncoder,
    sparse_encode,
)
from sparsecode_estimators.theory import (
    amortisation_witness,
    perfect_linear_encoder_exists,
)

X, CODES, D = planted(600, 8, 16, 3, seed=70, noise=0.0)
LO, HI = 0.5, 2.0
K_SPARSE = ("topk", "abs_topk", "batch_topk")
ACTIVATIONS = ("relu", *K_SPARSE, "jumprelu", "gated")


def sae(activation, **options):
    k = {"n_nonzero_coefs": 3} if activation in K_SPARSE else {}
    return SAEEncoder(16, activation=activation, random_state=0, **k, **options)


TRAINED = {
    **{a: lambda a=a: sae(a, dictionary=D, max_iter=60).fit(X) for a in ACTIVATIONS},
    "learned": lambda: sae("relu", max_iter=60).fit(X + 3),
    "codes": lambda: sae("relu", objective="codes", max_iter=60).fit(X, CODES),
    "one step": lambda: UnrolledEncoder(n_steps=1, dictionary=D, max_iter=40).fit(X),
    "one step, topk": lambda: UnrolledEncoder(
        n_steps=1, dictionary=D, activation="topk", n_nonzero_coefs=3, max_iter=40
    ).fit(X),
    "ALISTA, one step": lambda: UnrolledEncoder(
        n_steps=1, weights="analytic", dictionary=D, max_iter=40
    ).fit(X),
}


@pytest.fixture(scope="module", params=TRAINED)
def trained(request):
    return TRAINED[request.param]()


def assert_is_witness(found, encode, dictionary, lo=LO, hi=HI):
    """A source of the family, whose error is what it says, and at least the bound."""
    N, M = dictionary.shape
    assert np.isin(found.codes[found.codes != 0], (lo, hi)).all()
    assert 1 <= (found.codes != 0).sum() <= 2
    codes = np.asarray(encode((found.codes @ dictionary)[None]))[0]
    assert found.error == pytest.approx(np.abs(codes - found.codes).max(), abs=1e-9)
    bound = min(lo, (hi - lo) * np.sqrt(max(0, N - M)) / (2 * N))
    assert found.bound == pytest.approx(bound)
    assert found.error >= found.bound


class TestOnePassEncodersErr:
    def test_trained(self, trained):
        found = amortisation_witness(trained, D, lo=LO, hi=HI)
        assert_is_witness(found, trained.transform, D)
        # the whole family has nothing milder
        worst = amortisation_witness(trained.transform, D, lo=LO, hi=HI)
        assert_is_witness(worst, trained.transform, D)
        assert worst.error >= found.error - 1e-9

    def test_any_amplitudes_and_its_own_dictionary(self, trained):
        for lo, hi in [(1e-3, 1.0), (0.9, 1.0), (5.0, 500.0)]:
            found = amortisation_witness(trained, trained.components_, lo=lo, hi=hi)
            assert_is_witness(found, trained.transform, trained.components_, lo, hi)

    @given(st.data())
    def test_random_weights(self, data):
        """Of every activation, written out here; nothing is fitted."""
        rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
        N, M = data.draw(st.integers(2, 14)), data.draw(st.integers(1, 10))
        kind, k = data.draw(st.sampled_from(ACTIVATIONS)), data.draw(st.integers(1, N))
        atoms = rng.standard_normal((N, M))
        close = data.draw(st.booleans())  # to the best that a linear map can do
        W = np.linalg.pinv(atoms) if close else rng.standard_normal((M, N))
        W, c = W + 0.1 * rng.standard_normal((M, N)), rng.standard_normal(N) * 0.3
        scale, shift = np.exp(rng.standard_normal(N)), rng.standard_normal(N) * 0.3
        theta = np.abs(rng.standard_normal(N))

        def encode(x):
            v = x @ W + c
            if kind in ("topk", "abs_topk"):
                v = v if kind == "abs_topk" else np.maximum(v, 0)
                out = np.argsort(-np.abs(v), axis=1)[:, k:]
                np.put_along_axis(v, out, 0, axis=1)
                return v
            if kind == "gated":
                return np.where(v > 0, np.maximum(scale * v + shift, 0), 0)
            threshold = {"relu": 0, "batch_topk": theta[0], "jumprelu": theta}[kind]
            return np.where(v > threshold, v, 0)

        lo, hi = sorted(rng.uniform(0.01, 3, 2))
        assert_is_witness(amortisation_witness(encode, atoms, lo=lo, hi=hi), encode, atoms, lo, hi)

    def test_the_entry_is_found_among_many_atoms(self, monkeypatch):
        """Blocks do not change the answer."""
        whole = amortisation_witness(SAEEncoder(dictionary=D).fit(X), D, lo=LO, hi=HI)
        monkeypatch.setattr("sparsecode_estimators.theory.witness.BLOCK", 40)
        encoder = SAEEncoder(dictionary=D).fit(X)
        parts = amortisation_witness(encoder, D, lo=LO, hi=HI)
        assert_array_equal(parts.codes, whole.codes)
        by_blocks = amortisation_witness(encoder.transform, D, lo=LO, hi=HI)
        assert by_blocks.error >= parts.error - 1e-9

    def test_a_pipeline_by_its_transform(self):
        pipeline = make_pipeline(StandardScaler(), sae("relu", max_iter=30)).fit(X)
        found = amortisation_witness(pipeline.transform, D, lo=LO, hi=HI)
        assert_is_witness(found, pipeline.transform, D)

    def test_tensors_float32_and_sparse_output(self):
        encoder = sae("topk", dictionary=D, max_iter=10).fit(torch.tensor(X, dtype=torch.float32))
        found = amortisation_witness(encoder, torch.tensor(D), lo=LO, hi=HI)
        assert_is_witness(found, encoder.transform, D)
        encoder.sparse_output = True
        assert amortisation_witness(encoder, D, lo=LO, hi=HI).error == pytest.approx(found.error)


class TestControls:
    def test_one_source_of_fixed_amplitude_has_no_gap(self):
        """K = 1 on a circle: a map of rank 2 with a bias is exact, so the theorem needs K ≥ 2
        or amplitudes that vary."""
        angles = 2 * np.pi * np.arange(16) / 16
        circle = np.column_stack([np.cos(angles), np.sin(angles)])
        cosine = np.cos(angles[1])
        encode = lambda x: np.maximum(x @ circle.T - cosine, 0) / (1 - cosine)  # noqa: E731
        assert_allclose(encode(circle), np.eye(16), atol=1e-12)
        found = amortisation_witness(encode, circle, lo=LO, hi=HI)
        assert_is_witness(found, encode, circle)

    def test_no_bound_without_more_atoms_than_features(self):
        square = np.linalg.qr(np.random.default_rng(71).standard_normal((6, 6)))[0]
        found = amortisation_witness(lambda x: x @ square.T, square, lo=LO, hi=HI)
        assert found.bound == 0
        assert found.error == pytest.approx(0, abs=1e-12)

    def test_the_witness_can_be_solved(self, trained):
        """It is no trick of the source: methods that search or iterate are exact on it."""
        found = amortisation_witness(trained, D, lo=LO, hi=HI)
        x = (found.codes @ D)[None]
        exhaustive = sparse_encode(x, D, n_nonzero_coefs=2, solver="l0")
        assert_allclose(exhaustive[0], found.codes, atol=1e-9)
        lasso = sparse_encode(x, D, alpha=1e-6, tol=1e-12)
        assert_allclose(lasso[0], found.codes, atol=1e-4)

    def test_solvers_are_below_the_bound(self):
        """On the witness of the encoder whose codes ITO starts from, and on all sources."""
        encoder = sae("relu", dictionary=D, max_iter=60).fit(X)
        found = amortisation_witness(encoder, D, lo=LO, hi=HI)
        ito = ITORefiner(encoder, alpha=1e-4).fit(X)
        codes = ito.transform((found.codes @ D)[None])
        assert np.abs(codes[0] - found.codes).max() < 0.01 * found.bound
        coder = SparseCodingEncoder(dictionary=D, n_nonzero_coefs=2, solver="l0").fit(X)
        everywhere = amortisation_witness(coder, D, lo=LO, hi=HI, check=False)
        assert everywhere.error < 1e-9

    def test_a_few_unrolled_steps_are_below_the_bound(self):
        """Five vertices of a simplex in four dimensions, on all sources of the family."""
        rng = np.random.default_rng(75)
        simplex = (np.eye(5) - 1 / 5) @ np.linalg.svd(np.eye(5) - 1 / 5)[2][:4].T
        simplex /= np.linalg.norm(simplex, axis=1, keepdims=True)
        codes = np.zeros((1000, 5))
        pairs = rng.random((1000, 5)).argsort(axis=1)[:, :2]
        np.put_along_axis(codes, pairs, rng.uniform(LO, HI, (1000, 2)), axis=1)
        options = {"dictionary": simplex, "objective": "codes", "max_iter": 60, "random_state": 0}
        unrolled = UnrolledEncoder(n_steps=6, **options).fit(codes @ simplex, codes)
        found = amortisation_witness(unrolled, simplex, lo=LO, hi=HI, check=False)
        assert found.error < 0.5 * found.bound
        one_pass = SAEEncoder(**options).fit(codes @ simplex, codes)
        assert_is_witness(
            amortisation_witness(one_pass, simplex, lo=LO, hi=HI), one_pass.transform, simplex
        )

    @pytest.mark.parametrize(
        "exempt",
        [
            MLPEncoder(16, hidden_layer_sizes=(8,), max_iter=2),
            UnrolledEncoder(16, n_steps=2, max_iter=2),
            UnrolledEncoder(16, n_steps=2, weights="analytic", max_iter=2),
            ITORefiner(dictionary=D),
            SparseCodingEncoder(dictionary=D),
            make_pipeline(StandardScaler(), SAEEncoder(16, max_iter=2)),
        ],
        ids=lambda e: type(e).__name__,
    )
    def test_exempt_kinds_are_refused(self, exempt):
        exempt.fit(X)
        with pytest.raises(ValueError, match=f"{type(exempt).__name__} is not known.*check=False"):
            amortisation_witness(exempt, D, lo=LO, hi=HI)
        assert amortisation_witness(exempt, D, lo=LO, hi=HI, check=False).error >= 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda e: amortisation_witness(e, D, lo=0, hi=1), "lo=0 and hi=1 must be numbers"),
        (lambda e: amortisation_witness(e, D, lo=2, hi=1), "0 < lo < hi"),
        (lambda e: amortisation_witness(e, D, lo=1, hi=np.inf), "0 < lo < hi"),
        (lambda e: amortisation_witness(e, D[:9], lo=1, hi=2), r"dictionary has shape \(9, 8\)"),
        (lambda e: amortisation_witness(e.transform, D[:9], lo=1, hi=2), "has 9 atoms"),
        (lambda e: amortisation_witness(3, D, lo=1, hi=2), "neither an estimator nor callable"),
        (lambda e: perfect_linear_encoder_exists(X, CODES[:5]), "codes has 5 rows"),
        (lambda e: perfect_linear_encoder_exists(X, -CODES), "codes has negative entries"),
        (lambda e: perfect_linear_encoder_exists(X * np.nan, CODES), "X contains NaN"),
        (lambda e: perfect_linear_encoder_exists(X, CODES, tol=0), "tol=0 must be above 0"),
    ],
)
def test_bad_input(call, message):
    encoder = sae("relu", max_iter=2).fit(X)
    with pytest.raises(ValueError, match=message):
        call(encoder)


def test_unfitted_encoders_say_so():
    with pytest.raises(NotFittedError):
        amortisation_witness(SAEEncoder(), D, lo=LO, hi=HI)


def assert_encodes(certificate, rows, codes, latents):
    found = np.maximum(rows @ certificate.weights + certificate.intercepts, 0)
    scale = codes.max()
    assert_allclose(found[:, latents], codes[:, latents], atol=2e-7 * scale)


def assert_proves(certificate, rows, codes, latents):
    """Farkas: no (w, b) within the radius has x·w + b = s where s > 0 and ≤ 0 elsewhere."""
    for j in latents:
        y, s = certificate.multipliers[:, [j]].toarray()[:, 0], codes[:, j]
        assert np.abs(y).sum() == pytest.approx(1)
        assert (y[s == 0] >= 0).all()
        assert -(y @ s) == pytest.approx(certificate.error[j])
        assert certificate.error[j] > 0
        left = y @ np.column_stack([rows, np.ones(len(rows))])
        assert np.abs(left).max() * certificate.radius[j] <= certificate.error[j]
        assert np.inf > certificate.radius[j] > 1e6


def exact_proof(y, rows, s):
    """The multipliers made to cancel exactly, in rational numbers; None if they cannot."""
    used = np.flatnonzero(y)
    columns = [[Fraction(v) for v in (*rows[n], 1.0)] for n in used]
    width, n = len(columns[0]), len(columns)
    # solve for all multipliers but those that are free, which stay as they are
    table = [[columns[j][i] for j in range(n)] for i in range(width)]
    pivots = []
    for i in range(width):
        j = next((j for j in range(n) if j not in pivots and table[i][j] != 0), None)
        if j is None:
            continue
        pivots.append(j)
        table[i] = [v / table[i][j] for v in table[i]]
        for other in range(width):
            if other != i and table[other][j] != 0:
                factor = table[other][j]
                table[other] = [a - factor * b for a, b in zip(table[other], table[i], strict=True)]
    exact = [Fraction(v) for v in y[used]]
    lines = [row for row in table if any(row)]
    for row, j in zip(lines, pivots, strict=True):
        exact[j] = -sum(row[m] * exact[m] for m in range(n) if m not in pivots)
    assert all(
        sum(e * c[i] for e, c in zip(exact, columns, strict=True)) == 0 for i in range(width)
    )
    right_sign = all(e >= 0 for e, m in zip(exact, used, strict=True) if s[m] == 0)
    total = sum(e * Fraction(s[m]) for e, m in zip(exact, used, strict=True))
    return total if right_sign else None


class TestPerfectLinearEncoder:
    @given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 60), st.booleans())
    def test_codes_of_an_encoder_have_one(self, seed, n_features, n, wide):
        rng = np.random.default_rng([72, seed])
        rows = rng.standard_normal((n, n_features)) * 10.0 ** rng.integers(-4, 5)
        W = rng.standard_normal((n_features, 5)) / np.abs(rows).max()
        codes = np.maximum(rows @ W + rng.standard_normal(5) * (2 if wide else 0.2), 0)
        codes[:, 4] = 0
        certificate = perfect_linear_encoder_exists(rows, codes)
        assert certificate.exists.all()
        assert_encodes(certificate, rows, codes, slice(None))
        assert certificate.multipliers.nnz == 0
        assert np.isinf(certificate.radius).all()

    def test_codes_of_a_trained_encoder_have_one(self):
        encoder = sae("relu", dictionary=D, max_iter=60).fit(X)
        codes = encoder.transform(X)
        certificate = perfect_linear_encoder_exists(X, codes)
        assert certificate.exists.all()
        assert_encodes(certificate, X, codes, slice(None))

    def test_planted_codes_have_none(self):
        certificate = perfect_linear_encoder_exists(X, CODES)
        assert not certificate.exists.any()
        assert_proves(certificate, X, CODES, range(16))
        # a proof is about few samples
        assert np.diff(certificate.multipliers.tocsc().indptr).max() <= 10
        for j in range(16):
            y = certificate.multipliers[:, [j]].toarray()[:, 0]
            assert exact_proof(y, X, CODES[:, j]) < 0

    @pytest.mark.parametrize("shift", [0, 1e6])
    def test_features_of_any_unit_and_origin(self, shift):
        rows = np.random.default_rng(5).standard_normal((100, 3))
        codes = np.maximum(rows @ [[0.5], [0.5], [-0.5]], 0)
        assert perfect_linear_encoder_exists(rows * [1, 1e8, 1] + shift, codes).exists.all()

    def test_as_many_features_as_atoms(self):
        square = np.random.default_rng(73).standard_normal((8, 8))
        _, codes, _ = planted(200, 8, 8, 3, seed=73)
        certificate = perfect_linear_encoder_exists(codes @ square, codes)
        assert certificate.exists.all()
        assert_allclose(certificate.weights, np.linalg.inv(square), atol=1e-5)

    def test_one_source_on_a_circle_has_one(self):
        angles = 2 * np.pi * np.arange(16) / 16
        circle = np.column_stack([np.cos(angles), np.sin(angles)])
        certificate = perfect_linear_encoder_exists(circle, np.eye(16))
        assert certificate.exists.all()
        both = np.vstack([circle, 2 * circle])  # amplitudes vary: none any more
        certificate = perfect_linear_encoder_exists(both, np.vstack([np.eye(16), 2 * np.eye(16)]))
        assert not certificate.exists.any()
        assert_proves(certificate, both, np.vstack([np.eye(16), 2 * np.eye(16)]), range(16))

    def test_agrees_with_the_theorem(self):
        """On the sources of the family some latent must have none: else the bound would be 0."""
        family = np.array(
            [
                a * np.eye(16)[i] + (i != j) * HI * np.eye(16)[j]
                for i in range(16)
                for j in range(16)
                for a in (LO, HI)
            ]
        )
        certificate = perfect_linear_encoder_exists(family @ D, family)
        assert not certificate.exists.all()

    @given(st.integers(0, 10**6), st.integers(2, 14), st.booleans())
    def test_verdict_agrees_with_the_whole_program(self, seed, n, planted_codes):
        """All rows at once, and equalities as equalities."""
        rng = np.random.default_rng([74, seed])
        rows = rng.standard_normal((n, 2))
        s = np.maximum(rows @ rng.standard_normal(2) + 0.3, 0)
        if planted_codes:
            s = np.abs(rng.standard_normal(n)) * (rng.random(n) < 0.4)
        A = np.column_stack([rows, np.ones(n)])
        on = s > 0
        answer = linprog(
            np.zeros(3), A_ub=A[~on], b_ub=np.zeros((~on).sum()), A_eq=A[on], b_eq=s[on],
            bounds=(None, None),
        )  # fmt: skip
        certificate = perfect_linear_encoder_exists(rows, s[:, None])
        assert certificate.exists[0] == (answer.status == 0)
        if not certificate.exists[0]:
            assert_proves(certificate, rows, s[:, None], [0])

    def test_scale_changes_nothing(self):
        one = perfect_linear_encoder_exists(X[:60], CODES[:60])
        two = perfect_linear_encoder_exists(1e5 * X[:60], 1e-3 * CODES[:60])
        assert_array_equal(one.exists, two.exists)
        assert_allclose(two.error, 1e-3 * one.error, rtol=1e-5)


def test_rows_of_one_s_own_need_no_names():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(X, columns=[f"f{i}" for i in range(8)])
    encoder = SAEEncoder(dictionary=D, max_iter=2, random_state=0).fit(frame)
    assert amortisation_witness(encoder, D, lo=LO, hi=HI).error > 0  # and nothing is warned of
