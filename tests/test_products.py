"""Products with all atoms, of rounded numbers and exact, against products in double precision."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

pytest.importorskip("numba")
from numba.core.registry import cpu_target

from sparsecode_estimators.kernels import cpu_byte_vectors, cpu_bytes, cpu_products

SHAPES = [(40, 768, 700), (33, 64, 8), (130, 70, 203), (5, 1, 9), (1, 1000, 3000)]


def matrices(n, n_features, n_components, seed=0):
    rng = np.random.default_rng([81_203, seed])
    shapes = (n, n_features), (n_components, n_features)
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


def gaussian(X, D):
    return X, D


def outliers(X, D):
    """A large number in some rows, and in so few atoms that the others are worth it."""
    X[::3, -1] *= 100
    D[:: len(D), 0] *= 100
    return X, D


def scales(X, D):
    X *= np.float32(10.0) ** np.linspace(-28, 15, len(X), dtype=np.float32)[:, None]
    return X, D * np.float32(10.0) ** np.linspace(-5, 5, len(D), dtype=np.float32)[:, None]


def nothing(X, D):
    X[0], X[-1] = 0, 1e-35
    D[-1] = 1e-33
    return X, D


def off_centre(X, D):
    return X + 4, D - 1


KINDS = {f.__name__: f for f in (gaussian, outliers, scales, nothing, off_centre)}
MAKES = {"exact": cpu_products.Products, "halves": cpu_products._Halves}
if cpu_bytes.suit(np.ones((8, 1), np.float32)):
    MAKES["bytes"] = cpu_products._Bytes


def made(make, D, most):
    return MAKES[make](D, torch.empty(most, len(D)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("make", MAKES)
@pytest.mark.parametrize("shape", SHAPES)
def test_products_are_off_by_less_than_their_bound(shape, make, kind):
    X, D = KINDS[kind](*matrices(*shape))
    found, unit = made(make, D, len(X))(X)
    x, d = X.astype(np.float64), D.astype(np.float64)
    bound = unit[:, None] * np.outer(np.linalg.norm(x, axis=1), np.linalg.norm(d, axis=1))
    assert (abs(found - x @ d.T) <= bound + 1e-37).all()  # what is smaller has fewer digits
    assert (unit < 0.2).all()


@pytest.mark.skipif("bytes" not in MAKES, reason="their instructions are those of AVX2")
class TestBytes:
    def test_their_bound_is_no_wider_than_it_need_be(self):
        X, D = matrices(64, 768, 1000)
        found, unit = made("bytes", D, len(X))(X)
        off = abs(found - X.astype(np.float64) @ D.T.astype(np.float64))
        lengths = np.outer(np.linalg.norm(X, axis=1), np.linalg.norm(D, axis=1))
        assert (off > 0.05 * unit[:, None] * lengths).any()
        assert (unit < 0.06).all()

    def test_the_largest_bytes_do_not_overflow(self):
        """Of one sign, and all as large as can be: sums of 16 bits are full."""
        X, D = np.ones((3, 4096), np.float32), np.ones((16, 4096), np.float32)
        D[::2] *= -1
        found, _ = made("bytes", D, 3)(X)
        np.testing.assert_allclose(found, X @ D.T, rtol=1e-6)

    def test_few_atoms_with_outliers_are_multiplied_as_they_are(self):
        X, D = matrices(20, 768, 640)
        D[7, 0], D[200, 3] = 140, -180
        bytes_ = made("bytes", D, 20)
        assert bytes_.whole.tolist() == [7, 200]
        assert bytes_.pays
        found, unit = bytes_(X)
        assert (unit < 0.06).all()
        np.testing.assert_allclose(found[:, [7, 200]], X @ D[[7, 200]].T, rtol=1e-5)

    def test_many_are_not_worth_it(self, monkeypatch):
        D = np.eye(640, dtype=np.float32) + np.float32(0.0035)
        assert not made("bytes", D, 1).pays
        for name, answer in (("bytes", True), ("rounded", False)):
            monkeypatch.setattr(cpu_products, f"{name}_are_faster", lambda *_, a=answer: a)
        assert [p.rounded for p in cpu_products.all_products(D, 1)] == [False]
        _, D = matrices(1, 768, 640)
        assert [p.rounded for p in cpu_products.all_products(D, 1)] == [True, False]

    def test_a_row_does_not_depend_on_others_or_threads(self):
        X, D = outliers(*matrices(300, 100, 500))
        found, unit = made("bytes", D, 300)(X)
        found = found.copy()
        for some in (slice(0, 1), slice(5, 205), slice(299, 300)):
            alone, own = made("bytes", D, 300)(np.ascontiguousarray(X[some]))
            exact = unit[some] < cpu_products.LOSS  # rows that are not rounded are torch's
            np.testing.assert_array_equal(own, unit[some])
            np.testing.assert_allclose(alone, found[some], rtol=1e-5)
            assert (alone[exact] == found[some][exact]).all()
        torch.set_num_threads(3)
        try:
            again, _ = made("bytes", D, 300)(X)
        finally:
            torch.set_num_threads(1)
        np.testing.assert_allclose(again, found, rtol=1e-6)

    # without VNNI the tests above are those of AVX2's instructions already
    @pytest.mark.skipif(not cpu_byte_vectors.FUSED, reason="this processor has no VNNI anyway")
    def test_processors_without_vnni_are_served(self):
        """All tests of bytes once more, compiled for such a processor."""
        features = cpu_target.target_context.codegen().magic_tuple()[-1]
        for name in ("avx512vnni", "avxvnni"):
            features = features.replace(f"+{name}", f"-{name}")
        env = os.environ | {"NUMBA_CPU_FEATURES": features}
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
        done = subprocess.run(
            [*command, "-k", "bytes or Bytes", __file__],
            env=env, check=False, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout
        assert "1 skipped" in done.stdout, "without VNNI this test would not run"
