"""Data with known codes, the paper's data, and activations of language models."""

from .activations import decode_tokens, load_activations, load_gpt2_activations
from .paper import load_paper_data
from .store import ActivationStore
from .synthetic import make_sparse_codes

__all__ = [
    "ActivationStore",
    "decode_tokens",
    "load_activations",
    "load_gpt2_activations",
    "load_paper_data",
    "make_sparse_codes",
]
