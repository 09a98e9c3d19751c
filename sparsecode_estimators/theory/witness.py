"""The theorem on one-pass encoders, executable: a source on which a given encoder errs."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
from sklearn.utils.validation import check_is_fitted

from .inputs import BLOCK, as_dictionary, as_matrix


class AmortisationWitness(NamedTuple):
    """A source, and how far an encoder is from it.

    Attributes
    ----------
    codes : ndarray of shape (n_components,)
        The source: one or two non-zeros, each of them ``lo`` or ``hi``.
    error : float
        Largest absolute error of a code that the encoder gives for its row.
    bound : float
        What no one-pass encoder for this dictionary stays below on all such sources.

    See Also
    --------
    amortisation_witness : Makes it.

    Examples
    --------
    >>> import numpy as np
    >>> from sparsecode_estimators import SAEEncoder
    >>> from sparsecode_estimators.datasets import make_sparse_codes
    >>> from sparsecode_estimators.theory import amortisation_witness
    >>> data = make_sparse_codes(500, 8, 16, 3, random_state=0)
    >>> sae = SAEEncoder(dictionary=data.dictionary, max_iter=50, random_state=0).fit(data.X)
    >>> witness = amortisation_witness(sae, data.dictionary, lo=0.5, hi=2.0)
    >>> row = witness.codes @ data.dictionary
    >>> error = np.abs(sae.transform(row[None]) - witness.codes).max()
    >>> bool(np.isclose(error, witness.error, rtol=1e-4))
    True
    """

    codes: np.ndarray
    error: float
    bound: float


def amortisation_witness(
    encoder: Any, dictionary: Any, *, lo: float, hi: float, check: bool = True
) -> AmortisationWitness:
    r"""A source with at most two active latents that a one-pass encoder gets wrong.

    Every output j of a one-pass encoder is 0 or an affine function of the row,
    :math:`x w_j + c_j`: ReLU, JumpReLU, top-k, a gate with a scaled copy. On rows
    :math:`x = sD`, the source :math:`e_i` then contributes :math:`(DW)_{ij}` to it, and

    .. math:: E = DW - I \quad\text{has an entry}\quad |E_{ij}| \ge \frac{\sqrt{N-M}}{N},

    for DW has at most rank M, the number of features, so that at least N − M singular values
    of E are 1 or more (Eckart & Young). Take latent j at the value ``hi`` and latent i at
    ``lo``, then at ``hi``: if output j is 0, it is wrong by ``hi``; if not, its two errors
    differ by :math:`(hi - lo)\,|E_{ij}|`, and one of them is at least half of that. (On the
    diagonal, i = j, latent j alone at ``lo`` and at ``hi``.) So some source errs by

    .. math:: \min\Bigl(lo,\ \frac{(hi-lo)\sqrt{N-M}}{2N}\Bigr)

    or more. No training changes this. It is about values: the support may be right.

    Parameters
    ----------
    encoder : fitted one-pass encoder, or callable
        An ``SAEEncoder`` with any activation, or an ``UnrolledEncoder`` of one step. A callable
        maps rows (n, n_features) to codes (n, n_components), of each row on its own; nothing is
        known of its weights, so all sources of the family are tried, and the worst one is
        returned. (Of a pipeline with an affine scaler give ``pipeline.transform``.)
    dictionary : array-like of shape (n_components, n_features)
        Atoms of any length. Rows have no offset: an encoder's own is part of its c.
    lo, hi : float, 0 < lo < hi
        Values of active latents.
    check : bool, default=True
        Whether estimators that are exempt from the theorem are refused: several layers or
        steps, or codes that are solved for. False: treat them as a callable; their error may be
        below the bound.

    Returns
    -------
    AmortisationWitness
        ``(codes, error, bound)``. The bound is 0 unless there are more atoms than features.

    Raises
    ------
    ValueError
        If the encoder is exempt, shapes do not fit, or lo and hi are out of range.

    See Also
    --------
    perfect_linear_encoder_exists : Whether any one-pass encoder is right on given rows.

    References
    ----------
    O'Neill, Gumran & Klindt (2025), arXiv 2411.13117, theorem 3.1 (that the gap is not zero);
    Eckart & Young (1936).

    Examples
    --------
    >>> from sparsecode_estimators import SAEEncoder
    >>> from sparsecode_estimators.datasets import make_sparse_codes
    >>> from sparsecode_estimators.theory import amortisation_witness
    >>> data = make_sparse_codes(500, 8, 16, 3, random_state=0)
    >>> sae = SAEEncoder(dictionary=data.dictionary, max_iter=50, random_state=0).fit(data.X)
    >>> codes, error, bound = amortisation_witness(sae, data.dictionary, lo=0.5, hi=2.0)
    >>> int((codes != 0).sum()), bool(error >= bound > 0.13)
    (2, True)
    """
    D = as_dictionary(dictionary)
    if not all(isinstance(v, Real) for v in (lo, hi)) or not 0 < lo < hi < np.inf:
        raise ValueError(f"lo={lo!r} and hi={hi!r} must be numbers with 0 < lo < hi.")
    encode, weights = _parts(encoder, check=check)
    if weights is None:
        blocks = _all_pairs(len(D))
    else:
        n_features, n_components = weights.shape
        if (n_components, n_features) != D.shape:
            raise ValueError(
                f"dictionary has shape {D.shape}, but the encoder has {n_features} features "
                f"and {n_components} latents: give the dictionary that its codes are for."
            )
        blocks = iter([_largest_entry(D, weights)])
    N, M = D.shape
    bound = min(float(lo), (hi - lo) * max(N - M, 0) ** 0.5 / (2 * N))
    return AmortisationWitness(*_worst(encode, D, blocks, lo, hi), bound)


def _parts(encoder: Any, *, check: bool) -> tuple[Callable[..., Any], np.ndarray | None]:
    """How to encode, and W (n_features, n_components) where it is known."""
    if not hasattr(encoder, "transform"):
        if callable(encoder):
            return encoder, None
        raise ValueError(
            f"encoder={encoder!r} is neither an estimator nor callable: give a fitted encoder, or "
            "a function from rows to codes."
        )
    check_is_fitted(encoder)
    weights = _one_pass_weights(encoder)
    if weights is None and check:
        raise ValueError(
            f"encoder={type(encoder).__name__} is not known to be one affine map with an "
            "activation, so the theorem does not bind it (several layers or steps, or codes that "
            "are solved for): give its transform, or check=False, to see its error all the same."
        )
    return encoder.transform, weights


def _one_pass_weights(encoder: Any) -> np.ndarray | None:
    layers: Any = getattr(encoder, "encoder_coefs_", ())
    steps = np.atleast_1d(getattr(encoder, "step_sizes_", 1.0))
    if len(layers) != 1 or len(steps) != 1:
        return None
    return np.asarray(layers[0], dtype=np.float64) * steps * getattr(encoder, "gate_scale_", 1.0)


def _largest_entry(D: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The pair ``[[i, j]]`` with the largest ``|(DW − I)_ij|``."""
    best, pair = -np.inf, (0, 0)
    step = max(1, BLOCK // len(D))
    for start in range(0, len(D), step):
        E = D[start : start + step] @ weights
        rows = np.arange(len(E))
        E[rows, start + rows] -= 1
        i, j = np.unravel_index(np.abs(E).argmax(), E.shape)
        if abs(E[i, j]) > best:
            best, pair = abs(E[i, j]), (start + int(i), int(j))
    return np.array([pair])


def _all_pairs(n_components: int) -> Iterator[np.ndarray]:
    """Every ``[i, j]``, in blocks."""
    step = max(1, BLOCK // (2 * n_components**2))
    j = np.arange(n_components)
    for start in range(0, n_components, step):
        i = j[start : start + step]
        yield np.column_stack([np.repeat(i, n_components), np.tile(j, len(i))])


def _worst(
    encode: Callable[..., Any], D: np.ndarray, blocks: Iterator[np.ndarray], lo: float, hi: float
) -> tuple[np.ndarray, float]:
    """Of the sources of some pairs the one with the largest error, and the error."""
    worst, source = -1.0, np.zeros(len(D))
    for pairs in blocks:
        codes = np.concatenate([_sources(pairs, len(D), value, hi) for value in (lo, hi)])
        with warnings.catch_warnings():  # rows that are made here have no names
            warnings.filterwarnings("ignore", message="X does not have valid feature names")
            found = as_matrix(encode(codes @ D), "the encoder's codes")
        if found.shape != codes.shape:
            raise ValueError(
                f"the encoder gave codes of shape {found.shape} for {len(codes)} rows, but "
                f"dictionary has {len(D)} atoms: give the dictionary that its codes are for."
            )
        errors = np.abs(found - codes).max(axis=1)
        place = int(errors.argmax())
        if errors[place] > worst:
            worst, source = float(errors[place]), codes[place]
    return source, worst


def _sources(pairs: np.ndarray, n_components: int, value: float, hi: float) -> np.ndarray:
    """``hi·e_j + value·e_i``; ``value·e_j`` alone where i is j."""
    codes = np.zeros((len(pairs), n_components))
    rows = np.arange(len(pairs))
    codes[rows, pairs[:, 1]] = hi
    codes[rows, pairs[:, 0]] = value
    return codes
