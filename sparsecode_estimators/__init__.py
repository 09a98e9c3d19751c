"""Sparse codes of activations: estimators of one objective, as scikit-learn transformers."""

from .estimators.coding import EncodeInfo
from .estimators.functional import sparse_encode
from .estimators.ito import ITORefiner
from .estimators.mlp import MLPEncoder
from .estimators.sae import SAEEncoder
from .estimators.sparse_coding import SparseCodingEncoder

__all__ = [
    "EncodeInfo",
    "ITORefiner",
    "MLPEncoder",
    "SAEEncoder",
    "SparseCodingEncoder",
    "__version__",
    "sparse_encode",
]

__version__ = "0.1.0"
