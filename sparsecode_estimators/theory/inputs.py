"""What the theory reads: dictionaries of unit atoms, sets of atoms, blocks of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from math import comb
from numbers import Integral
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.utils import check_array

BLOCK = 2**22  # numbers that are worked with at once: 32 MiB of float64
MOST_SUPPORTS = 200_000  # sets of atoms that are tried one after the other


def as_matrix(values: Any, name: str, dtype: Any = np.float64) -> np.ndarray:
    """A finite two-dimensional array; tensors come from their device, CSR becomes dense."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = (values.double() if values.element_size() < 4 else values).numpy()
    values = values.toarray() if sparse.issparse(values) else values
    return check_array(values, dtype=dtype, input_name=name)


def as_dictionary(dictionary: Any) -> np.ndarray:
    """Atoms as they are, shape (n_components, n_features), none of them zero."""
    D = as_matrix(dictionary, "dictionary")
    zero = np.flatnonzero(~D.any(axis=1))
    if len(zero):
        raise ValueError(
            f"dictionary has atoms that are all zero (rows {zero[:5].tolist()}): remove them, "
            "no code can use them."
        )
    return D


def unit_atoms(dictionary: Any) -> np.ndarray:
    """Atoms of length one: no theorem here depends on their lengths."""
    D = as_dictionary(dictionary)
    D = D / np.abs(D).max(axis=1, keepdims=True)  # squares of tiny or huge entries would be lost
    return D / np.linalg.norm(D, axis=1, keepdims=True)


def as_size(k: Any, n_components: int, name: str) -> int:
    """A number of atoms, from 1 to all of them."""
    if not isinstance(k, Integral) or not 1 <= int(k) <= n_components:
        raise ValueError(
            f"{name}={k!r} must be an integer from 1 to the number of atoms, {n_components}."
        )
    return int(k)


def few_enough(n_components: int, size: int) -> bool:
    """Whether all sets of that many atoms can be tried."""
    return comb(n_components, size) <= MOST_SUPPORTS


def all_supports(n_components: int, size: int, numbers: int) -> Iterator[np.ndarray]:
    """All sets of ``size`` atoms, in blocks of shape (n, size).

    Parameters
    ----------
    n_components, size : int
    numbers : int
        How many the caller makes of each set, by which blocks are cut.
    """
    sets = itertools.combinations(range(n_components), size)
    while block := list(itertools.islice(sets, max(1, BLOCK // numbers))):
        yield np.array(block)
