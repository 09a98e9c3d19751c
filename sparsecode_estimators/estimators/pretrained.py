"""A fitted SAE from parameters that something else has found."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..learning.jumprelu import BANDWIDTH
from .attributes import history_of
from .sae import SAEEncoder


def sae_from_parameters(
    *,
    encoder: np.ndarray,
    encoder_bias: np.ndarray,
    dictionary: np.ndarray,
    offset: np.ndarray,
    activation: str,
    n_nonzero_coefs: int | None = None,
    prefix_sizes: Sequence[int] | None = None,
    threshold: np.ndarray | None = None,
    gate: tuple[np.ndarray, np.ndarray] | None = None,
    input_offset: np.ndarray | None = None,
) -> SAEEncoder:
    """An SAE that has these parameters, as if it had been fitted.

    No rows have been seen: it has no ``alpha_``, and nothing that is counted in training. A
    ``fit`` with ``warm_start=True``, or ``partial_fit``, measures these on its rows and goes on
    from the parameters.

    Parameters
    ----------
    encoder : ndarray of shape (n_inputs, n_components)
        With n_inputs = n_features, unless there is an ``input_offset``.
    encoder_bias : ndarray of shape (n_components,)
    dictionary : ndarray of shape (n_components, n_features)
    offset : ndarray of shape (n_features,)
    activation : str
    n_nonzero_coefs, prefix_sizes
        As of :class:`SAEEncoder`.
    threshold : ndarray of shape () or (n_components,), default=None
        For "batch_topk" and "jumprelu".
    gate : tuple of ndarray of shape (n_components,), default=None
        ``gate_scale_`` and ``gate_shift_``, for "gated".
    input_offset : ndarray of shape (n_inputs,), default=None
        ``input_intercept_`` of an SAE that predicts other activations, ``objective="targets"``.
    """
    n_components, n_features = dictionary.shape
    dtype = dictionary.dtype

    def kept(array: np.ndarray) -> np.ndarray:
        return np.asarray(array, dtype=dtype, order="C")

    sae = SAEEncoder(
        n_components,
        activation=activation,
        n_nonzero_coefs=n_nonzero_coefs,
        prefix_sizes=prefix_sizes,
        objective="reconstruction" if input_offset is None else "targets",
        precision="float64" if dtype == np.float64 else "float32",
    )
    sae.encoder_coefs_ = [kept(encoder)]
    sae.encoder_intercepts_ = [kept(encoder_bias)]
    sae.components_, sae.intercept_ = kept(dictionary), kept(offset)
    if input_offset is not None:
        sae.input_intercept_ = kept(input_offset)
    if threshold is not None:
        sae.threshold_ = kept(threshold)
    if activation == "jumprelu":
        # training starts with every threshold at alpha, and a window of this share of it
        sae._bandwidth = BANDWIDTH * float(np.median(sae.threshold_))
    if gate is not None:
        sae.gate_scale_, sae.gate_shift_ = map(kept, gate)
    sae.n_components_, sae.n_features_in_ = n_components, len(encoder)
    sae.history_ = history_of([], 1.0, n_components, n_features)
    sae.loss_curve_, sae.loss_ = [], float("nan")
    sae.n_iter_ = sae.n_steps_ = 0
    sae.device_ = "cpu"
    sae._scale = None
    sae._silent_for = np.zeros(n_components, dtype=np.int64)
    sae._optimizer_state = (sae.optimizer, {})
    return sae
