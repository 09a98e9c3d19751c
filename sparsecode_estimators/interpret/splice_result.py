"""Cross-entropies and divergences, summed over documents, and what follows from them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .resampling import percentile_intervals

MEASURES = (
    "ce_original",
    "ce_splice",
    "ce_zero",
    "ce_mean",
    "kl_splice",
    "kl_zero",
    "kl_mean",
)


class SpliceScores(NamedTuple):
    """What becomes of a model's predictions, in nats per token.

    Attributes
    ----------
    ce_original, ce_splice, ce_zero, ce_mean : float
        Cross-entropy of the next token with the model's own activations, and with the
        reconstruction, zeros and the mean in their place.
    kl_splice, kl_zero, kl_mean : float
        KL divergence of the original prediction from each of these, KL(original ‖ other).
    loss_recovered : float
        ``(ce_zero - ce_splice) / (ce_zero - ce_original)``: 1 if nothing is lost, 0 if as much
        as by zeros. NaN if zeros lose nothing.
    loss_recovered_mean : float
        The same with ``ce_mean`` for ``ce_zero``.
    intervals : dict of str to (float, float)
        For each of the above the ends of an interval, by the bootstrap over documents; NaN if
        there is only one document.
    per_document : dict of str to ndarray of shape (n_documents,)
        "document_ids", "n_tokens", and the mean over its tokens of each cross-entropy and
        divergence, for paired comparisons of estimators on the same texts.
    n_tokens : int
        Predictions that were scored.

    See Also
    --------
    splice_scores : Makes them.
    """

    ce_original: float
    ce_splice: float
    ce_zero: float
    ce_mean: float
    kl_splice: float
    kl_zero: float
    kl_mean: float
    loss_recovered: float
    loss_recovered_mean: float
    intervals: dict[str, tuple[float, float]]
    per_document: dict[str, NDArray[Any]]
    n_tokens: int


class SpliceSums:
    """Sums over the tokens of every document."""

    def __init__(self, n_documents: int) -> None:
        self.sums = np.zeros((n_documents, len(MEASURES)))
        self.n_tokens = np.zeros(n_documents, dtype=np.int64)

    def add(self, documents: NDArray[np.int64], measures: NDArray[np.float64]) -> None:
        """Add some tokens, of which there are documents (n,) and measures (n_measures, n)."""
        np.add.at(self.sums, documents, measures.T)
        np.add.at(self.n_tokens, documents, 1)

    def scores(
        self, confidence: float, n_resamples: int, generator: np.random.RandomState
    ) -> SpliceScores:
        """Means over all tokens, with intervals."""
        ids = np.flatnonzero(self.n_tokens)
        n_tokens, sums = self.n_tokens[ids], self.sums[ids]
        totals = np.column_stack([n_tokens, sums])
        values = _ratios(totals.sum(0))
        intervals = percentile_intervals(
            totals, _ratios, confidence=confidence, n_resamples=n_resamples, generator=generator
        )
        means = dict(zip(MEASURES, (sums / n_tokens[:, None]).T, strict=True))
        names = SpliceScores._fields[: len(values)]
        return SpliceScores(
            **{name: float(value) for name, value in zip(names, values, strict=True)},
            intervals={
                name: (float(low), float(high))
                for name, low, high in zip(names, *intervals, strict=True)
            },
            per_document={"document_ids": ids, "n_tokens": n_tokens, **means},
            n_tokens=int(n_tokens.sum()),
        )


def _ratios(totals: NDArray[np.float64]) -> NDArray[np.float64]:
    """Means per token, and both shares of the loss; (n_tokens, *sums) along the last axis."""
    means = totals[..., 1:] / totals[..., :1]
    original, splice, zero, mean = (means[..., i] for i in range(4))
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = [
            np.where(ablated == original, np.nan, (ablated - splice) / (ablated - original))
            for ablated in (zero, mean)
        ]
    return np.concatenate([means, np.stack(shares, axis=-1)], axis=-1)
