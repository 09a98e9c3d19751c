"""Dictionaries, weights and sizes that the user gave, checked."""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Integral
from typing import Any

import numpy as np

from .arrays import Rows, copied


def given_sizes(name: str, sizes: Iterable[Any]) -> tuple[int, ...]:
    """Numbers of latents or neurons that the user gave.

    Raises
    ------
    ValueError
        If one is no integer above 0.
    """
    sizes = tuple(sizes)
    for i, size in enumerate(sizes):
        if not isinstance(size, Integral) or size < 1:
            raise ValueError(f"{name}[{i}]={size!r} must be an int of at least 1.")
    return tuple(map(int, sizes))


def given_dictionary(
    name: str, value: Any, rows: Rows, n_components: int | None, of: str = "X"
) -> np.ndarray | None:
    """A dictionary that the user gave, as a float array; None if there is none.

    Parameters
    ----------
    name : str
        Of the parameter, for messages.
    value : array-like of shape (n_components, n_features), callable or None
        A callable is called with ``(n_components, n_features)``.
    rows : Rows
        The training rows, or what else it has to reconstruct.
    n_components : int or None
    of : str
        What these rows are, for messages.

    Raises
    ------
    ValueError
        For the wrong shape, values that are not finite, or an atom of zeros.
    """
    if value is None:
        return None
    n_features = rows.n_features
    if callable(value):
        value = value(n_components or 8 * n_features, n_features)
    D = _array(value)
    if D.dtype.kind not in "fiu":
        raise ValueError(f"{name} has dtype {D.dtype}: give an array of real numbers.")
    D = copied(D, np.float32 if D.dtype in (np.float16, np.float32) else np.float64)
    _check_shape(name, D, n_features, n_components, of)
    squares = np.einsum("jm,jm->j", D, D)  # one look at a large matrix in place of three
    odd = np.flatnonzero(~(np.isfinite(squares) & (squares > 0)))  # these, very long or short ones
    if not np.isfinite(D[odd]).all():
        raise ValueError(f"{name} contains NaN or infinity: every atom must be finite.")
    zero = odd[~D[odd].any(axis=1)]
    if len(zero):
        raise ValueError(
            f"{name} has atoms that are all zero (rows {zero[:5].tolist()}): remove them, "
            "no code can use them."
        )
    return D


def given_weights(value: Any, n_components: int) -> np.ndarray | None:
    """Weights of the penalty that the user gave, as a float64 array; None if there are none.

    Raises
    ------
    ValueError
        For the wrong shape, and for weights that are not finite and above zero.
    """
    if value is None:
        return None
    weights = _array(value)
    if weights.shape != (n_components,) or weights.dtype.kind not in "fiu":
        raise ValueError(
            f"weights has shape {weights.shape} and dtype {weights.dtype}, but must be "
            f"({n_components},) real numbers: one weight for each atom."
        )
    weights = weights.astype(np.float64)
    if not np.isfinite(weights).all() or (weights <= 0).any():
        bad = np.flatnonzero(~(np.isfinite(weights) & (weights > 0)))[:5]
        raise ValueError(
            f"weights must be finite and above 0, but those of atoms {bad.tolist()} are "
            f"{weights[bad].tolist()}: give a free atom a small weight, an unwanted one a "
            "large one."
        )
    return weights


def _array(value: Any) -> np.ndarray:
    """An array of what may be a tensor of any type and device."""
    if hasattr(value, "detach"):
        value = value.detach().cpu().double().numpy()
    return np.asarray(value)


def _check_shape(
    name: str, D: np.ndarray, n_features: int, n_components: int | None, of: str
) -> None:
    if D.ndim != 2 or 0 in D.shape:
        raise ValueError(
            f"{name} has shape {D.shape}, but must be (n_components, n_features): "
            "one atom in each row."
        )
    if D.shape[1] != n_features:
        raise ValueError(
            f"{name} has shape {D.shape}, but {of} has {n_features} features: its rows are atoms "
            f"of length {n_features}." + (" Transpose it." if D.shape[0] == n_features else "")
        )
    if n_components is not None and D.shape[0] != n_components:
        raise ValueError(
            f"{name} has {D.shape[0]} atoms but n_components={n_components}: "
            "leave n_components=None, or make them agree."
        )
