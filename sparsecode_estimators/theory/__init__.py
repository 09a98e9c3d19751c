"""What can be guaranteed about sparse codes, what cannot, and what computing them costs."""

from .certificates import EncoderCertificate, perfect_linear_encoder_exists
from .coherence import babel_function, exact_recovery_condition, mutual_coherence
from .flops import count_flops
from .guarantees import RecoveryGuarantee, recovery_guarantee
from .isometry import RestrictedIsometry, restricted_isometry, spark
from .transitions import phase_transition
from .witness import AmortisationWitness, amortisation_witness

__all__ = [
    "AmortisationWitness",
    "EncoderCertificate",
    "RecoveryGuarantee",
    "RestrictedIsometry",
    "amortisation_witness",
    "babel_function",
    "count_flops",
    "exact_recovery_condition",
    "mutual_coherence",
    "perfect_linear_encoder_exists",
    "phase_transition",
    "recovery_guarantee",
    "restricted_isometry",
    "spark",
]
