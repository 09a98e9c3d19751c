"""Sparse codes of activations: estimators of one objective, as scikit-learn transformers."""

from .estimators.coding import EncodeInfo
from .estimators.functional import sparse_encode
from .estimators.ito import ITORefiner
from .estimators.many import fit_many
from .estimators.mlp import MLPEncoder
from .estimators.sae import SAEEncoder
from .estimators.sparse_coding import SparseCodingEncoder
from .estimators.unrolled import UnrolledEncoder

__all__ = [
    "EncodeInfo",
    "ITORefiner",
    "MLPEncoder",
    "SAEEncoder",
    "SparseCodingEncoder",
    "UnrolledEncoder",
    "__version__",
    "fit_many",
    "sparse_encode",
]

__version__ = "0.1.0"
