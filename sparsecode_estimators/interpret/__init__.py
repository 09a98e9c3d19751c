"""What latents stand for, and what a model loses without the rest."""

from .splice import splice_scores
from .splice_result import SpliceScores

__all__ = [
    "SpliceScores",
    "splice_scores",
]
