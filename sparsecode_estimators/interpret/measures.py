"""How well verdicts fit the truth, how sure that is, and what a guess would score."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Interval = tuple[float, float]


class Measures(NamedTuple):
    """F1 and balanced accuracy, each with a bootstrap interval."""

    f1: float
    f1_interval: Interval
    balanced_accuracy: float
    balanced_accuracy_interval: Interval


def f1_score(hits: NDArray, false: NDArray, n_positive: NDArray) -> NDArray:
    """2 · hits / (hits + false alarms + positives), in [0, 1]; 0 if nothing was said or true."""
    total = hits + false + n_positive
    return np.where(total > 0, 2 * hits / np.maximum(total, 1e-300), 0.0)


def balanced_accuracy(
    hits: NDArray, false: NDArray, n_positive: NDArray, n_negative: NDArray
) -> NDArray:
    """The mean of the shares of positives and of negatives that were told, in [0, 1]."""
    return (hits / n_positive + 1 - false / n_negative) / 2


def measures(
    truth: NDArray[np.bool_],
    verdicts: NDArray[np.bool_],
    *,
    n_bootstrap: int,
    confidence: float,
    rng: np.random.Generator,
) -> Measures:
    """Scores of verdicts, and percentile intervals over contexts.

    How many contexts of each kind are judged is set by design, so each kind is resampled by
    itself. The number of hits in a sample with replacement is binomial, so samples are drawn
    as such: this is the bootstrap itself, not an approximation to it.

    Parameters
    ----------
    truth, verdicts : bool ndarrays of shape (n,)
        With at least one true and one false in `truth`.
    n_bootstrap : int
    confidence : float
    rng : Generator
    """
    n_positive, n_negative = int(truth.sum()), int((~truth).sum())
    hits, false = int((verdicts & truth).sum()), int((verdicts & ~truth).sum())
    drawn_hits = rng.binomial(n_positive, hits / n_positive, n_bootstrap)
    drawn_false = rng.binomial(n_negative, false / n_negative, n_bootstrap)
    positives, negatives = np.asarray(n_positive), np.asarray(n_negative)

    def both(h: NDArray, f: NDArray) -> tuple[NDArray, NDArray]:
        return f1_score(h, f, positives), balanced_accuracy(h, f, positives, negatives)

    point = both(np.asarray(hits), np.asarray(false))
    drawn = both(drawn_hits, drawn_false)
    return Measures(
        float(point[0]),
        percentile_interval(drawn[0], confidence),
        float(point[1]),
        percentile_interval(drawn[1], confidence),
    )


def mean_interval(
    values: NDArray[np.float64], *, n_bootstrap: int, confidence: float, rng: np.random.Generator
) -> Interval:
    """Percentile interval of the mean, from samples with replacement of the values."""
    drawn = rng.integers(len(values), size=(n_bootstrap, len(values)))
    return percentile_interval(values[drawn].mean(axis=1), confidence)


def percentile_interval(drawn: NDArray[np.float64], confidence: float) -> Interval:
    """The middle part of values, `confidence` of them."""
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def chance_f1(share_positive: Any) -> Any:
    """F1 of whoever says yes to everything: 2p / (1 + p), which no blind guess exceeds."""
    return 2 * share_positive / (1 + share_positive)
