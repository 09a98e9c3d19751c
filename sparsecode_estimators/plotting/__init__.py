"""Pictures of results, in scikit-learn's Display convention.

matplotlib is imported when one is drawn.
"""

from .dictionary import DictionaryDisplay
from .frontier import FrontierDisplay
from .gap import GapDisplay
from .intervals import mean_interval
from .recovery import RecoveryDisplay
from .training import TrainingDisplay

__all__ = [
    "DictionaryDisplay",
    "FrontierDisplay",
    "GapDisplay",
    "RecoveryDisplay",
    "TrainingDisplay",
    "mean_interval",
]
