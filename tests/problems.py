"""Problems that tests draw: planted ones, and awkward ones by hypothesis."""

from typing import NamedTuple

import numpy as np
from hypothesis import strategies as st


class LassoProblem(NamedTuple):
    X: np.ndarray
    D: np.ndarray
    alpha: float
    positive: bool
    weights: np.ndarray | None = None
    ridge: float = 0.0

    @property
    def options(self):
        """Arguments of ``sparse_encode``."""
        return {
            "alpha": self.alpha,
            "positive_code": self.positive,
            "weights": self.weights,
            "ridge": self.ridge,
        }


def planted(n, n_features, n_components, k, seed, *, positive=True, noise=0.01):
    """Rows made of ``k`` random unit atoms; the seed goes through a stream of its own."""
    rng = np.random.default_rng([20111, seed])
    D = rng.standard_normal((n_components, n_features))
    D /= np.linalg.norm(D, axis=1, keepdims=True)
    codes = np.zeros((n, n_components))
    support = rng.random((n, n_components)).argsort(axis=1)[:, :k]
    values = rng.standard_normal((n, k))
    np.put_along_axis(codes, support, np.abs(values) if positive else values, axis=1)
    return codes @ D + noise * rng.standard_normal((n, n_features)), codes, D


@st.composite
def lasso_problems(draw):
    """Any shape and scale; duplicate atoms, zero rows, alpha from nearly 0 to alpha_max.

    Half of them with a weight for each atom, half with a ridge.
    """
    n, n_features = draw(st.integers(1, 6)), draw(st.integers(1, 8))
    n_components = draw(st.integers(1, 16))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    D = rng.standard_normal((n_components, n_features))
    D /= np.linalg.norm(D, axis=1, keepdims=True)
    if n_components > 1 and draw(st.booleans()):
        D[-1] = D[0]
    X = rng.standard_normal((n, n_features)) * 10.0 ** draw(st.integers(-6, 6))
    if draw(st.booleans()):
        X[0] = 0
    positive = draw(st.booleans())
    fraction = draw(st.sampled_from([1e-3, 0.01, 0.1, 0.5, 0.9, 1.0]))
    weights = 10.0 ** rng.uniform(-0.5, 0.5, n_components) if draw(st.booleans()) else None
    ridge = draw(st.sampled_from([0.0, 0.0, 1e-3, 1.0]))
    alpha = fraction * alpha_max(X, D, positive, weights).max()
    return LassoProblem(X, D, alpha, positive, weights, ridge)


def alpha_max(X, D, positive, weights=None):
    correlations = X @ D.T if weights is None else X @ D.T / weights
    return np.maximum(correlations, 0).max(1) if positive else np.abs(correlations).max(1)


def objective(codes, X, D, alpha, weights=None, ridge=0.0):
    weights = np.ones(len(D)) if weights is None else weights
    smooth = 0.5 * ((X - codes @ D) ** 2).sum(1) + 0.5 * ridge * (codes**2).sum(1)
    return smooth + alpha * np.abs(codes) @ weights


def kkt_violation(codes, X, D, alpha, positive, weights=None, ridge=0.0):
    """How far the worst coordinate is from optimality, in units of the row's length."""
    correlations = (X - codes @ D) @ D.T - ridge * codes
    alpha = alpha * (np.ones(len(D)) if weights is None else weights)
    idle = correlations - alpha if positive else np.abs(correlations) - alpha
    active = np.abs(correlations - alpha * np.sign(codes))
    worst = np.where(codes != 0, active, np.maximum(idle, 0)).max(1)
    return worst / np.maximum(np.linalg.norm(X, axis=1), np.finfo(float).tiny)


class Callback:
    """A callback of scikit-learn that does nothing yet."""

    def setup(self, estimator, context):
        pass

    def teardown(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context):
        pass

    def on_fit_task_end(self, estimator, context):
        pass


class Interrupted(Exception):
    """A run that was stopped by :func:`interrupt_after`."""


def interrupt_after(monkeypatch, n_steps):
    """The next runs stop after so many steps, in the middle of an epoch."""
    from sparsecode_estimators.learning.run import Run

    gradients, steps = Run._gradients, iter(range(n_steps))

    def interrupted(self, *args):
        if next(steps, None) is None:
            raise Interrupted
        return gradients(self, *args)

    monkeypatch.setattr(Run, "_gradients", interrupted)
