"""Between a trained network and the attributes of its estimator, at the scale of X."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from ..learning.activations import (
    Activation,
    BatchTopK,
    Gated,
    JumpReLU,
    ReLU,
    TopK,
    make_activation,
)
from ..learning.encoders import SparseAutoencoder
from ..learning.records import Epoch
from ..learning.unrolled import UnrolledAutoencoder
from .arrays import Rows, to_array, to_tensor


def initial_activation(estimator: Any, D: Tensor, alpha: float) -> Activation:
    """The activation before training, for rows of unit variance and their alpha."""
    bounded = estimator.penalty == "tanh"
    return make_activation(estimator.activation, estimator._sparsity(), D, alpha, bounded=bounded)


def fitted_activation(estimator: Any, rows: Rows) -> Activation:
    """The activation from the attributes.

    Raises
    ------
    ValueError
        If they are those of another activation.
    """
    _check_activation(estimator)
    name, bounded = estimator.activation, estimator.penalty == "tanh"
    if name == "batch_topk":
        return BatchTopK(estimator._sparsity(), to_tensor(estimator.threshold_, rows))
    if name == "jumprelu":
        threshold = to_tensor(estimator.threshold_, rows)
        return JumpReLU(threshold.log(), estimator._bandwidth, bounded=bounded)
    if name == "gated":
        scale, shift = (to_tensor(a, rows) for a in (estimator.gate_scale_, estimator.gate_shift_))
        return Gated(scale.log(), shift)
    if name == "relu":
        return ReLU(bounded=bounded)
    return TopK(estimator._sparsity(), signed=name == "abs_topk")


def _check_activation(estimator: Any) -> None:
    """Thresholds and gates are needed by the activation that has learned them, and by no other."""
    before, now = _learned_by(estimator), estimator.activation
    # the threshold of "batch_topk" is for inference only: a network without one can go on from it
    free = before in (None, "batch_topk") and now in ("relu", "topk", "abs_topk")
    if before == now or free:
        return
    was = "one that learns no thresholds or gates" if before is None else repr(before)
    raise ValueError(
        f"activation={now!r}, but this {type(estimator).__name__} was fitted with {was}: set the "
        "old activation, or fit with warm_start=False to start again."
    )


def _learned_by(estimator: Any) -> str | None:
    """The activation that has left its attributes; None: one that leaves none."""
    if hasattr(estimator, "gate_scale_"):
        return "gated"
    if hasattr(estimator, "threshold_"):
        return "jumprelu" if np.ndim(estimator.threshold_) else "batch_topk"
    return None


def store_activation(estimator: Any, activation: Activation, rows: Rows) -> None:
    """Keep what the activation has learned as attributes."""
    for name in ("threshold_", "gate_scale_", "gate_shift_"):
        if hasattr(estimator, name):
            delattr(estimator, name)
    if isinstance(activation, BatchTopK | JumpReLU):
        estimator.threshold_ = to_array(activation.threshold, rows)
    if isinstance(activation, JumpReLU):
        estimator._bandwidth = activation.bandwidth
    if isinstance(activation, Gated):
        estimator.gate_scale_ = to_array(activation.log_scale.exp(), rows)
        estimator.gate_shift_ = to_array(activation.shift, rows)


def store_inputs(estimator: Any, model: SparseAutoencoder, input_scale: float, rows: Rows) -> None:
    """Keep what the encoder knows of a space of inputs that is not reconstructed."""
    for name in ("input_intercept_", "input_components_", "_input_scale"):
        if hasattr(estimator, name):
            delattr(estimator, name)
    if model.input_offset is not None:
        estimator.input_intercept_ = to_array(model.input_offset, rows)
        estimator._input_scale = input_scale
    if isinstance(model, UnrolledAutoencoder) and model.input_dictionary is not None:
        estimator.input_components_ = to_array(model.input_dictionary, rows)


def history_of(
    epochs: list[Epoch], scale: float, n_components: int, n_features: int
) -> dict[str, np.ndarray]:
    """Curves of some epochs.

    Parameters
    ----------
    epochs : list of Epoch
    scale : float
        What rows were divided by: their variance was one.
    n_components, n_features : int
    """
    return {
        "loss": np.array([e.loss for e in epochs]) * scale**2,
        "explained_variance": 1 - 2 * np.array([e.energy for e in epochs]) / n_features,
        "l0": np.array([e.l0 for e in epochs]),
        "dead": np.array([e.n_dead for e in epochs]) / n_components,
        "n_steps": np.array([e.n_steps for e in epochs]),
        "seconds": np.array([e.seconds for e in epochs]),
    }
