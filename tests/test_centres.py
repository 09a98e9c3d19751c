"""Where offsets start: the geometric median against a general minimiser."""

import numpy as np
import pytest
import scipy.optimize
import torch
from problems import planted

from sparsecode_estimators import MLPEncoder, SAEEncoder, UnrolledEncoder
from sparsecode_estimators.learning.centres import geometric_median

X = planted(300, 8, 16, 3, seed=430)[0]
TRAINED = [SAEEncoder, MLPEncoder, UnrolledEncoder]


def distances(point, rows):
    return np.linalg.norm(rows - point, axis=1).sum()


@pytest.mark.parametrize("seed", range(5))
def test_has_the_least_sum_of_distances(seed):
    rng = np.random.default_rng([431, seed])
    rows = rng.standard_normal((30, 3)) * 10.0 ** rng.uniform(-1, 1, (30, 1))
    found = geometric_median(torch.tensor(rows)).numpy()
    best = scipy.optimize.minimize(distances, rows.mean(0), rows, tol=1e-12)
    assert distances(found, rows) <= best.fun * (1 + 1e-6)


def test_in_one_dimension_it_is_the_median():
    rows = torch.tensor([[0.0], [1.0], [2.0], [50.0], [1000.0]], dtype=torch.float64)
    assert geometric_median(rows).item() == pytest.approx(2.0, abs=1e-2)


@pytest.mark.parametrize("rows", [[[1.0, 2.0]], [[1.0, 2.0]] * 4, [[0.0, 0.0], [2.0, 4.0]],
                                  [[1.0, 2.0]] * 5 + [[9.0, 9.0], [-7.0, -5.0]]])  # fmt: skip
def test_points_that_are_rows_themselves(rows):
    """The mean, where it starts, is a row, or all rows are one point."""
    found = geometric_median(torch.tensor(rows))
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found, [1.0, 2.0], atol=1e-6)


@pytest.mark.parametrize("cls", TRAINED)
def test_a_few_far_rows_do_not_move_the_start(cls):
    rows = X.copy()
    rows[:6] += 1000
    options = {"max_iter": 1, "learning_rate_init": 1e-9, "random_state": 0}
    starts = {name: cls(16, offset_init=name, **options).fit(rows).intercept_
              for name in ("mean", "median")}  # fmt: skip
    np.testing.assert_allclose(starts["mean"], rows.mean(0), rtol=1e-4)
    assert np.abs(starts["median"] - X.mean(0)).max() < 0.2
    inputs = cls(16, offset_init="median", objective="targets", **options).fit(rows, X)
    assert np.abs(inputs.input_intercept_ - X.mean(0)).max() < 0.2
    with pytest.raises(ValueError, match="offset_init"):
        cls(offset_init="middle").fit(X)
