"""An SAE as files describe it, and what it is as an estimator of ours."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..estimators.pretrained import sae_from_parameters
from ..estimators.sae import SAEEncoder
from ..learning.activations import K_SPARSE


@dataclass(kw_only=True)
class Parameters:
    r"""A linear encoder, an activation and a dictionary, as other programs write them.

    .. math:: f = \sigma(xW + c), \qquad \hat x = fD + b,

    with :math:`x - b` in place of x where rows are centred, and :math:`\hat y` in place of
    :math:`\hat x` where the prediction is one of other activations (a transcoder).

    Attributes
    ----------
    encoder : ndarray of shape (n_inputs, n_components)
        W; n_inputs is n_features, but for a transcoder.
    encoder_bias : ndarray of shape (n_components,)
        c; of "gated" that of the gate.
    decoder : ndarray of shape (n_components, n_features)
        D, with atoms of any length.
    decoder_bias : ndarray of shape (n_features,)
        b.
    centred : bool
        Whether b is taken off rows before they are encoded.
    targets : bool
        Whether it is a transcoder.
    activation : str
        As of :class:`~sparsecode_estimators.SAEEncoder`.
    k : int or None
        Active codes of a row, of k-sparse activations.
    prefix_sizes : list of int or None
    threshold : ndarray of shape () or (n_components,) or None
        Of "batch_topk" and "jumprelu": codes above it are active.
    log_gain, size_bias : ndarray of shape (n_components,) or None
        Of "gated": active codes are ``xW·exp(log_gain) + size_bias``.
    scaled : bool
        Whether the activation sees pre-activations times the length of their atoms, and codes
        are for atoms of unit length.
    normalised : str or None
        How rows have to be scaled first, which is not in the other parameters.
    metadata : dict
        What else the file tells.
    """

    encoder: np.ndarray
    encoder_bias: np.ndarray
    decoder: np.ndarray
    decoder_bias: np.ndarray
    centred: bool
    activation: str
    k: int | None = None
    prefix_sizes: list[int] | None = None
    threshold: np.ndarray | None = None
    log_gain: np.ndarray | None = None
    size_bias: np.ndarray | None = None
    targets: bool = False
    scaled: bool = False
    normalised: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)


@np.errstate(all="ignore")  # what is too large is found at the end
def to_estimator(given: Parameters, activation_scale: float) -> SAEEncoder:
    r"""The fitted SAE that makes the same reconstructions.

    Lengths of atoms go over to the encoder, by :math:`\sigma(v)\,\|d\| = \sigma(v\|d\|)`.
    Where the k largest codes of a row (or batch) are kept, and they were chosen before such a
    scaling, one length is taken for all: other than a factor of all codes would change the
    choice.

    Parameters
    ----------
    given : Parameters
    activation_scale : float
        What rows were multiplied with before the SAE saw them; not what a transcoder predicts.

    Returns
    -------
    SAEEncoder
        With ``code_scale_``, what their codes are multiplied with to become ours, and
        ``metadata_``.

    Raises
    ------
    ValueError
        If the numbers are too large to be multiplied.
    """
    scale = 1.0 if given.targets else activation_scale  # of what is reconstructed
    lengths = np.linalg.norm(given.decoder, axis=1) / scale
    gain = np.where(lengths > 0, lengths, 0 if given.scaled else 1)
    if given.activation in K_SPARSE and not given.scaled:
        gain = np.full_like(gain, np.sqrt(np.mean(gain**2)))
    code_scale = np.full_like(gain, 1 / scale) if given.scaled else gain
    bias, input_offset = given.encoder_bias, None
    if given.targets:
        taken_off = given.decoder_bias if given.centred else np.zeros(len(given.encoder))
        input_offset = taken_off / activation_scale
    elif not given.centred:
        bias = bias + given.decoder_bias @ given.encoder
    sae = sae_from_parameters(
        encoder=given.encoder * (gain * activation_scale),
        encoder_bias=bias * gain,
        dictionary=given.decoder / (np.where(gain > 0, gain, 1) * scale)[:, None],
        offset=given.decoder_bias / scale,
        activation=given.activation,
        n_nonzero_coefs=given.k,
        prefix_sizes=given.prefix_sizes,
        threshold=_threshold(given, code_scale),
        gate=_gate(given, gain),
        input_offset=input_offset,
    )
    sae.code_scale_ = code_scale
    sae.metadata_ = given.metadata
    _check_finite(sae)
    return sae


def _check_finite(sae: SAEEncoder) -> None:
    for value in vars(sae).values():
        for array in value if isinstance(value, list) else [value]:
            if isinstance(array, np.ndarray) and not np.isfinite(array).all():
                raise ValueError(
                    "The numbers in the files are finite, but so large or small that the lengths "
                    "of atoms cannot be folded into the encoder: these are no weights of an SAE."
                )


def _threshold(given: Parameters, code_scale: np.ndarray) -> np.ndarray | None:
    """At the scale of our codes; none are negative, as no code is."""
    if given.threshold is None:
        return None
    if given.activation == "batch_topk":
        least = np.maximum(given.threshold, 0) * code_scale.flat[0]
        return np.nextafter(least, np.inf, dtype=code_scale.dtype)  # ours may be met, theirs not
    return np.maximum(given.threshold, 0) * code_scale


def _gate(given: Parameters, gain: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Scale and shift of active codes, relative to what the gate sees."""
    if given.log_gain is None or given.size_bias is None:
        return None
    scale = np.exp(given.log_gain)
    return scale, (given.size_bias - scale * given.encoder_bias) * gain


class Tensors:
    """Arrays of a file by their names: each is checked when it is asked for.

    Parameters
    ----------
    path : Path
        For messages.
    arrays : dict of str to ndarray
    """

    def __init__(self, path: Path, arrays: Mapping[str, np.ndarray]) -> None:
        self.path = path
        self._arrays = dict(arrays)
        self._names = sorted(self._arrays)

    def __contains__(self, name: str) -> bool:
        return name in self._arrays

    def matrix(self, name: str, rows: int, columns: int) -> np.ndarray:
        """Of this shape, or of the transposed one and then turned."""
        array = self._take(name)
        if array.shape == (rows, columns):
            return array
        if array.shape == (columns, rows):
            return np.ascontiguousarray(array.T)
        raise ValueError(
            f"{str(self.path)!r}: {name} has shape {array.shape}, but must be ({rows}, {columns}), "
            "or that transposed."
        )

    def vector(self, name: str, size: int) -> np.ndarray:
        array = self._take(name)
        if array.shape != (size,):
            raise ValueError(
                f"{str(self.path)!r}: {name} has shape {array.shape}, but must be ({size},)."
            )
        return array

    def scalar(self, name: str) -> np.ndarray:
        array = self._take(name)
        if array.size != 1:
            raise ValueError(
                f"{str(self.path)!r}: {name} has shape {array.shape}, but must be one number."
            )
        return array.reshape(())

    def length(self, *names: str) -> int:
        """How long the first of these vectors is that there is."""
        name = next((name for name in names if name in self), names[0])
        array = self._peek(name)
        if array.ndim != 1 or not len(array):
            raise ValueError(
                f"{str(self.path)!r}: {name} has shape {array.shape}, but must be a vector."
            )
        return len(array)

    def finish(self) -> None:
        """Make sure that nothing was left over, which might change codes."""
        left = sorted(self._arrays)
        if left:
            raise ValueError(
                f"{str(self.path)!r}: tensors {left!r:.300} do not belong to an SAE of this kind, "
                "and what they stand for is not known here."
            )

    def _peek(self, name: str) -> np.ndarray:
        if name not in self._arrays:
            raise ValueError(
                f"{str(self.path)!r}: there is no tensor {name!r}, only {self._names!r:.300}."
            )
        return self._arrays[name]

    def _take(self, name: str) -> np.ndarray:
        array = self._peek(name)
        del self._arrays[name]
        if array.dtype.kind != "f":
            array = array.astype(np.float64)
        if not np.isfinite(array).all():
            raise ValueError(
                f"{str(self.path)!r}: {name} contains NaN or infinity, but must be finite."
            )
        return array


def refuse_skip(tensors: Tensors, n_targets: int, n_inputs: int) -> None:
    """Make sure that a connection around the latents carries nothing.

    Raises
    ------
    ValueError
        If it is missing, of another shape, or not zero.
    """
    if tensors.matrix("W_skip", n_targets, n_inputs).any():
        raise ValueError(
            f"{str(tensors.path)!r}: W_skip is not zero: predictions are a linear map of the rows "
            "besides the codes, for which no SAEEncoder has a place. The codes and the rest of "
            "the prediction do not depend on it: to read these, set W_skip to zero in the file; "
            "they predict y - X @ W_skip.T."
        )


def integer(path: Path, where: Mapping[str, Any], name: str, *, least: int = 1) -> int:
    """A number of a description that counts something.

    Raises
    ------
    ValueError
        If it is missing or no integer, or a smaller one than ``least``.
    """
    value = where.get(name)
    if type(value) is not int or value < least:
        raise ValueError(
            f"{str(path)!r}: {name} is {value!r:.50}, but must be an integer that is at least "
            f"{least}."
        )
    return value


def choice(
    path: Path, where: Mapping[str, Any], name: str, allowed: Iterable[str], default: str
) -> str:
    """One of some names in a description.

    Raises
    ------
    ValueError
        If it is another one.
    """
    value = where.get(name, default)
    names = tuple(allowed)
    if not isinstance(value, str) or value not in names:
        raise ValueError(
            f"{str(path)!r}: {name} is {value!r:.50}, but only {', '.join(map(repr, names))} can "
            "be read."
        )
    return value


def section(path: Path, where: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A part of a description that is an object itself; empty if there is none.

    Raises
    ------
    ValueError
        If it is something else.
    """
    value = where.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError(f"{str(path)!r}: {name} is {value!r:.50}, but must be an object.")
    return value


def flag(path: Path, where: Mapping[str, Any], name: str, *, default: bool) -> bool:
    """Yes or no in a description.

    Raises
    ------
    ValueError
        If it is something else.
    """
    value = where.get(name, default)
    if not isinstance(value, bool):
        raise ValueError(f"{str(path)!r}: {name} is {value!r:.50}, but must be true or false.")
    return value
