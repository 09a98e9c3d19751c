"""Two encoders latent for latent: does one have better explanations at the same L0?"""

from typing import Any, NamedTuple

import numpy as np

from .measures import Interval, mean_interval
from .scores import Scores, stream


class Comparison(NamedTuple):
    """The difference of two encoders over the latents that both have.

    Attributes
    ----------
    n_latents : int
        Pairs.
    mean_a, mean_b : float
    difference : float
        Of the means, b minus a.
    interval : tuple of float
        Bootstrap percentile interval of the difference, over pairs.
    p_value : float
        Wilcoxon's signed-rank test, two-sided; pairs without a difference are split evenly.
    l0_a, l0_b : float or None

    See Also
    --------
    compare_encoders : Makes it.
    """

    n_latents: int
    mean_a: float
    mean_b: float
    difference: float
    interval: Interval
    p_value: float
    l0_a: float | None
    l0_b: float | None


def compare_encoders(
    a: Scores,
    b: Scores,
    *,
    measure: str = "f1",
    pairs: Any = None,
    max_l0_ratio: float = 1.05,
    confidence: float = 0.95,
    n_bootstrap: int = 2000,
    random_state: Any = 0,
) -> Comparison:
    """Compare scores of two encoders in pairs of latents.

    An SAE and the same SAE with its codes refined share atoms, so latent j of one is latent j
    of the other. An encoder with atoms of its own is paired as `pairs` says. Codes with more
    active latents have other contexts, so the two must have about the same L0.

    Parameters
    ----------
    a, b : Scores
        From the same method, with the same settings.
    measure : str, default="f1"
        As in ``Scores.values``.
    pairs : sequence of (int, int), default=None
        Latents of `a` and `b`. None: those with the same number.
    max_l0_ratio : float, default=1.05
        How many times the larger L0 may be the smaller one, at least 1. ``inf`` compares
        whatever there is.
    confidence : float, default=0.95
        Of the interval.
    n_bootstrap : int, default=2000
    random_state : int, RandomState or None, default=0

    Returns
    -------
    comparison : Comparison

    Raises
    ------
    ValueError
        If L0 differs too much, the scores come from different methods, or there are fewer than
        two pairs with scores.

    See Also
    --------
    random_encoder : What to compare with.
    score_explanations : Makes the scores.

    Notes
    -----
    Pairs of which one has no score are left out; look at ``Scores.summary`` to see how many
    that are. With few pairs no difference can be significant: of five pairs the smallest
    p-value is 1/16.

    References
    ----------
    F. Wilcoxon (1945), "Individual comparisons by ranking methods".

    Examples
    --------
    >>> from sparsecode_estimators.interpret import LatentScore, Scores, compare_encoders
    >>> f1 = [0.5, 0.6, 0.7, 0.4, 0.8, 0.6]
    >>> sae = Scores(LatentScore(i, "ok", None, f1=v) for i, v in enumerate(f1))
    >>> ito = Scores(LatentScore(i, "ok", None, f1=v + 0.1) for i, v in enumerate(f1))
    >>> comparison = compare_encoders(sae, ito)
    >>> comparison.n_latents, round(comparison.difference, 2), round(comparison.p_value, 3)
    (6, 0.1, 0.031)
    """
    from scipy.stats import wilcoxon

    _check_comparable(a, b, max_l0_ratio)
    first, second = a.values(measure), b.values(measure)
    if pairs is None:
        pairs = [(latent, latent) for latent in first]
    both = [(first[i], second[j]) for i, j in pairs if i in first and j in second]
    if len(both) < 2:
        raise ValueError(
            f"{len(both)} pairs of latents have a {measure!r} on both sides, but at least 2 are "
            "needed: score the same latents, or give pairs."
        )
    values = np.array(both, dtype=float)
    differences = values[:, 1] - values[:, 0]
    # what rounding left of equal scores is no difference
    differences[np.abs(differences) < 1e-12] = 0.0
    p_value = wilcoxon(differences, zero_method="zsplit").pvalue if differences.any() else 1.0
    interval = mean_interval(
        differences, n_bootstrap=n_bootstrap, confidence=confidence, rng=stream(random_state)
    )
    mean_a, mean_b = values.mean(axis=0).tolist()
    l0_a, l0_b = a.metadata.get("l0"), b.metadata.get("l0")
    difference = float(differences.mean())
    return Comparison(len(both), mean_a, mean_b, difference, interval, float(p_value), l0_a, l0_b)


def _check_comparable(a: Scores, b: Scores, max_l0_ratio: float) -> None:
    for name in ("method", "n_contexts", "n_per_prompt", "n_similar", "model"):
        ours, theirs = a.metadata.get(name), b.metadata.get(name)
        if ours != theirs:
            raise ValueError(
                f"a was scored with {name}={ours!r} and b with {name}={theirs!r}: score both in "
                "the same way."
            )
    l0 = [scores.metadata["l0"] for scores in (a, b) if "l0" in scores.metadata]
    if len(l0) == 2 and max(l0) > max_l0_ratio * min(l0):
        raise ValueError(
            f"L0 is {l0[0]:.4g} in a and {l0[1]:.4g} in b, more than max_l0_ratio={max_l0_ratio} "
            "apart: compare at matched L0 (the same n_nonzero_coefs, or another alpha), or raise "
            "max_l0_ratio and say so."
        )
