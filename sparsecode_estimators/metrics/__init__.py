"""Metrics for codes, dictionaries and reconstructions, and scorers for model selection.

Codes may be ndarrays, SciPy CSR, pandas or polars frames, or torch tensors.
"""

from .chance import chance_level
from .correlation import aligned_corr_coef, dictionary_corr_coef, mean_corr_coef
from .gap import AmortisationGap, amortisation_gap
from .reconstruction import explained_variance
from .scorers import SCORERS, mcc_scorer, reconstruction_scorer, sparsity_scorer
from .sparsity import SupportScores, dead_latent_fraction, l0, support_scores

__all__ = [
    "SCORERS",
    "AmortisationGap",
    "SupportScores",
    "aligned_corr_coef",
    "amortisation_gap",
    "chance_level",
    "dead_latent_fraction",
    "dictionary_corr_coef",
    "explained_variance",
    "l0",
    "mcc_scorer",
    "mean_corr_coef",
    "reconstruction_scorer",
    "sparsity_scorer",
    "support_scores",
]
