"""What latents stand for: where they fire, what they do, what that is in words; splicing."""

from .budget import Estimate
from .client import ChatClient
from .compare import Comparison, compare_encoders
from .contexts import Context, LatentContexts, collect_contexts
from .explain import Explanation, Explanations, explain_latents
from .promoted import PromotedTokens, promoted_tokens
from .report import LatentReport
from .score import score_explanations
from .scores import LatentScore, Scores
from .sender import Answer
from .splice import splice_scores
from .splice_result import SpliceScores
from .streams import iter_codes
from .tokens import TokenScores, score_tokens
from .untrained import random_encoder

__all__ = [
    "Answer",
    "ChatClient",
    "Comparison",
    "Context",
    "Estimate",
    "Explanation",
    "Explanations",
    "LatentContexts",
    "LatentReport",
    "LatentScore",
    "PromotedTokens",
    "Scores",
    "SpliceScores",
    "TokenScores",
    "collect_contexts",
    "compare_encoders",
    "explain_latents",
    "iter_codes",
    "promoted_tokens",
    "random_encoder",
    "score_explanations",
    "score_tokens",
    "splice_scores",
]
