"""What latents stand for: where they fire, and what they do."""

from .contexts import Context, LatentContexts, collect_contexts
from .promoted import PromotedTokens, promoted_tokens
from .streams import iter_codes

__all__ = [
    "Context",
    "LatentContexts",
    "PromotedTokens",
    "collect_contexts",
    "iter_codes",
    "promoted_tokens",
]
