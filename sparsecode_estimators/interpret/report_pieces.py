"""What a report shows, in pieces that its page reads one at a time."""

import base64
import gzip
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .contexts import Context, LatentContexts
from .promoted import PromotedTokens

PER_PIECE = 64  # latents; a piece takes the page a few milliseconds to open
_NEAREST = 8
_NOISE = 0.15  # cosines below it are those of a sketch of anything
_LISTED_TOKENS = 6


class Texts:
    """Every text of the page once, and its number."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def number(self, text: str) -> int:
        return self._numbers.setdefault(text, len(self._numbers))

    def all(self) -> list[str]:
        return list(self._numbers)


class EncoderPieces:
    """One encoder's latents as lists and numbers that JSON can hold.

    Parameters
    ----------
    contexts : LatentContexts
    promoted : PromotedTokens or None
    texts : Texts
        Of the page; what is not in it yet is added.
    n_top, n_per_quantile : int
        Contexts of a latent, and of each of its quantiles, at most.
    """

    def __init__(
        self,
        contexts: LatentContexts,
        promoted: PromotedTokens | None,
        texts: Texts,
        *,
        n_top: int,
        n_per_quantile: int,
    ) -> None:
        self.contexts, self.promoted, self.texts = contexts, promoted, texts
        self.n_top, self.n_per_quantile = n_top, n_per_quantile
        self.listed_tokens: list[list[int]] = []  # filled latent by latent

    def details(self) -> Iterator[list[dict[str, Any]]]:
        """All that is known of each latent, some latents at a time."""
        contexts = self.contexts
        for start in range(0, contexts.n_latents, PER_PIECE):
            latents = np.arange(start, min(start + PER_PIECE, contexts.n_latents))
            nearest, cosine = contexts.nearest(_NEAREST, latents=latents)
            yield [
                self._detail(int(latent), near, cos)
                for latent, near, cos in zip(latents, nearest, cosine, strict=True)
            ]

    def _detail(
        self, latent: int, nearest: NDArray[np.int64], cosine: NDArray[np.float32]
    ) -> dict[str, Any]:
        contexts = self.contexts
        top = contexts.top(latent, self.n_top)
        quantiles = [
            self._written(contexts.quantile(latent, q, self.n_per_quantile))
            for q in range(contexts.n_quantiles)
        ]
        self.listed_tokens.append(self._centers(top))
        detail: dict[str, Any] = {
            "histogram": _filled_bins(contexts.histogram[latent]),
            "nearest": [
                [int(other), round(float(cos), 2)]
                for other, cos in zip(nearest, cosine, strict=True)
                if abs(cos) >= _NOISE
            ],
            "top": self._written(top),
            "quantiles": quantiles,
        }
        if self.promoted is not None:
            raised, lowered = self.promoted[:2], self.promoted[2:]
            detail["raised"] = self._logits(raised[0][latent], raised[1][latent])
            detail["lowered"] = self._logits(lowered[0][latent], lowered[1][latent])
        return detail

    def _written(self, contexts: list[Context]) -> list[list[Any]]:
        """Each as [tokens, [place, code, place, code, ...], center, document, row]."""
        number = self.texts.number
        result = []
        for context in contexts:
            places = np.flatnonzero(context.activations)
            codes = [_short(code) for code in context.activations[places].tolist()]
            firing = [value for pair in zip(places.tolist(), codes, strict=True) for value in pair]
            tokens = [number(token) for token in context.tokens]
            result.append([tokens, firing, context.center, context.document, context.row])
        return result

    def _centers(self, contexts: list[Context]) -> list[int]:
        """The distinct tokens on which the latent fires most strongly."""
        tokens = dict.fromkeys(context.tokens[context.center] for context in contexts)
        return [self.texts.number(token) for token in list(tokens)[:_LISTED_TOKENS]]

    def _logits(self, tokens: Any, logits: Any) -> list[list[Any]]:
        return [
            [self.texts.number(str(token)), round(float(logit), 2)]
            for token, logit in zip(tokens, logits, strict=True)
        ]


def listed(
    contexts: LatentContexts, explanations: list[str | None], scores: NDArray[np.float64]
) -> dict[str, Any]:
    """What the list shows and searches, a column each."""
    return {
        "rate": [_short(rate) for rate in contexts.firing_rate.tolist()],
        "max": [_short(value) for value in contexts.max_activation.tolist()],
        "mean": [_short(value) for value in contexts.mean_activation.tolist()],
        "score": [None if np.isnan(score) else _short(score) for score in scores.tolist()],
        "explanation": explanations,
    }


def packed(value: Any) -> str:
    """JSON in ASCII, compressed, in base64: no character of it means anything to HTML."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return base64.b64encode(gzip.compress(text.encode("ascii"), 6, mtime=0)).decode("ascii")


def _filled_bins(counts: NDArray[np.int64]) -> list[Any]:
    """The first bin with anything in it, and counts from there to the last one."""
    filled = np.flatnonzero(counts)
    if not len(filled):
        return [0, []]
    return [int(filled[0]), counts[filled[0] : filled[-1] + 1].tolist()]


def _short(value: float) -> float:
    """To four significant digits."""
    return float(f"{value:.4g}")
