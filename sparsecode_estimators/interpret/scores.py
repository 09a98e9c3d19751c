"""Scores of latents: what each got, and all together."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.utils import check_random_state

from .measures import mean_interval
from .results import Results

_STREAM = 0x5C04E  # keeps draws apart from those of others with the same seed


@dataclass(frozen=True)
class LatentScore:
    """How well one latent was found by its explanation.

    Attributes
    ----------
    latent : int
    status : {"ok", "failed", "not sent", "no explanation", "too few contexts"}
        "failed": some contexts have no valid verdict; each counts as a wrong one. "not sent":
        some were not judged, as the budget was spent or the server unwilling, and there is no
        score.
    reason : str or None
    f1, balanced_accuracy : float or None
        In [0, 1]. None if contexts were not judged.
    f1_interval, balanced_accuracy_interval : tuple of float, or None
        Bootstrap percentile intervals over contexts. All verdicts right or all wrong gives an
        interval of no width: with few contexts it is too narrow.
    chance_f1 : float or None
        F1 of saying yes to everything. Chance of the balanced accuracy is 0.5.
    baseline_f1, baseline_balanced_accuracy : float or None
        Of the explanation of another latent, on the same contexts.
    baseline_latent : int or None
        Which one.
    baseline_n_failed : int
        Contexts without a valid verdict there; each counts as a wrong one.
    n_positive, n_negative : int
        Contexts judged.
    n_failed : int
        Of them, without a valid verdict.
    n_requests, prompt_tokens, answer_tokens : int
        With those of the baseline.
    judged : tuple of (int, str, bool, bool or None)
        Row of the corpus, kind of context, truth and verdict of each.

    See Also
    --------
    score_explanations : Makes one for each latent.
    """

    latent: int
    status: str
    reason: str | None
    f1: float | None = None
    f1_interval: tuple[float, float] | None = None
    balanced_accuracy: float | None = None
    balanced_accuracy_interval: tuple[float, float] | None = None
    chance_f1: float | None = None
    baseline_f1: float | None = None
    baseline_balanced_accuracy: float | None = None
    baseline_latent: int | None = None
    baseline_n_failed: int = 0
    n_positive: int = 0
    n_negative: int = 0
    n_failed: int = 0
    n_requests: int = 0
    prompt_tokens: int = 0
    answer_tokens: int = 0
    judged: tuple[tuple[int, str, bool, bool | None], ...] = ()


class Scores(Results[LatentScore]):
    """Scores of latents, in the order of their explanations: a sequence.

    Made by :func:`score_explanations`.

    Parameters
    ----------
    rows : iterable of LatentScore
    metadata : mapping, default=None
        How they came about: model, method, settings, and the L0 of the codes.

    See Also
    --------
    score_explanations : Makes them.
    compare_encoders : Compares those of two encoders.

    Examples
    --------
    >>> from sparsecode_estimators.interpret import LatentScore, Scores
    >>> scores = Scores([LatentScore(3, "ok", None, f1=0.8), LatentScore(5, "ok", None, f1=0.6)])
    >>> round(scores.summary("f1", random_state=0)["mean"], 3)
    0.7
    """

    _row = LatentScore

    def values(self, measure: str = "f1") -> dict[int, float]:
        """One measure of all latents that have it, by latent.

        Parameters
        ----------
        measure : str, default="f1"
            Or "balanced_accuracy", "baseline_f1", "baseline_balanced_accuracy", "chance_f1".
        """
        found = {row.latent: getattr(row, measure) for row in self.rows}
        return {latent: value for latent, value in found.items() if value is not None}

    def summary(
        self,
        measure: str = "f1",
        *,
        confidence: float = 0.95,
        n_bootstrap: int = 2000,
        random_state: Any = 0,
    ) -> dict[str, Any]:
        """The mean over latents, with a bootstrap interval over latents.

        Parameters
        ----------
        measure : str, default="f1"
            As in :meth:`values`.
        confidence : float, default=0.95
        n_bootstrap : int, default=2000
        random_state : int, RandomState or None, default=0

        Returns
        -------
        summary : dict
            "mean", "interval" (None without scores), "n_latents" that were asked for and
            "n_scored", of which the mean is.
        """
        values = np.array(list(self.values(measure).values()), dtype=float)
        found: dict[str, Any] = {"mean": None, "interval": None}
        if len(values):
            rng = stream(random_state, 0)
            interval = mean_interval(
                values, rng=rng, n_bootstrap=n_bootstrap, confidence=confidence
            )
            found = {"mean": float(values.mean()), "interval": interval}
        return {**found, "n_latents": len(self.rows), "n_scored": len(values)}


def stream(random_state: Any, *path: int) -> np.random.Generator:
    """A generator for one latent, whichever others there are."""
    entropy = int(check_random_state(random_state).randint(2**31 - 1))
    return np.random.default_rng(np.random.SeedSequence([_STREAM, entropy, *path]))
