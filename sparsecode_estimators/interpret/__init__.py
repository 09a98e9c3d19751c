"""What latents stand for: where they fire, what they do, and what a model loses without the rest."""

from .contexts import Context, LatentContexts, collect_contexts
from .promoted import PromotedTokens, promoted_tokens
from .report import LatentReport
from .splice import splice_scores
from .splice_result import SpliceScores
from .streams import iter_codes

__all__ = [
    "Context",
    "LatentContexts",
    "LatentReport",
    "PromotedTokens",
    "SpliceScores",
    "collect_contexts",
    "iter_codes",
    "promoted_tokens",
    "splice_scores",
]
