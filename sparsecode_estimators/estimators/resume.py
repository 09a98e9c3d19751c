"""How a fit goes on from an encoder that has been fitted, or was made elsewhere."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..learning.encoders import SparseAutoencoder
from ..learning.optimizers import OPTIMIZERS, Optimizer
from .arrays import Rows, to_tensor
from .base import SAMPLE_ROWS
from .sources import Sources
from .start import Trainee, measured_alpha, spread


def resumed(
    estimator: Any,
    model: SparseAutoencoder,
    work: Sources,
    known: np.ndarray | None,
    wanted: list[tuple[int, ...]],
) -> Trainee:
    """The fitted network in the units of training.

    Parameters
    ----------
    estimator : BaseSparseEncoder
        Fitted.
    model : SparseAutoencoder
        Its network.
    work : Sources
        What it goes on to learn from.
    known : ndarray of shape (n_components, n_features) or None
        A dictionary that is kept fixed.
    wanted : list of tuple
        Shapes of the layers that its parameters ask for now.

    Raises
    ------
    ValueError
        If layers or targets are others than in the last fit, or there is an offset, which now
        must be zero.
    """
    _check_targets(estimator, work)
    check_offset(estimator)
    shapes = [w.shape for w in estimator.encoder_coefs_]
    if shapes != wanted:
        raise ValueError(
            f"The fitted encoder has layers of shapes {shapes}, the parameters now ask for "
            f"{wanted}: set warm_start=False to start again, or the old sizes."
        )
    if known is not None:
        model.dictionary.data = to_tensor(known, work.rows)
        model.refresh_()
    scale, input_scale, alpha = _units(estimator, work, model)
    model.rescale_(1 / scale, 1 / input_scale)
    return Trainee(
        model=model,
        silent_for=torch.tensor(estimator._silent_for, device=work.rows.device),
        scale=scale,
        input_scale=input_scale,
        alpha=alpha,
    )


def resumed_optimizer(estimator: Any, work: Rows, params: list[Tensor]) -> Optimizer:
    """As it was after the last fit; fresh if it or its parameters are others now."""
    before, state = estimator._optimizer_state
    slots = {name: [to_tensor(a, work) for a in arrays] for name, arrays in state.items()}
    optimizer = OPTIMIZERS[estimator.optimizer](params, slots)
    if before != estimator.optimizer or not optimizer.fits(params):
        return OPTIMIZERS[estimator.optimizer].fresh(params)
    if "steps" in slots:
        slots["steps"] = [t.float() for t in slots["steps"]]
    optimizer.resume_()
    return optimizer


def check_width(estimator: Any, targets: Rows) -> None:
    """Refuse other activations than those that were reconstructed in the last fit."""
    if targets.n_features != estimator.components_.shape[1]:
        raise ValueError(
            f"y has {targets.n_features} columns, but this {type(estimator).__name__} was fitted "
            f"to y with {estimator.components_.shape[1]}: give the same activations."
        )


def check_offset(estimator: Any) -> None:
    """Refuse to go on with an offset if there must be none."""
    kept = estimator.fit_intercept == "auto" or estimator.fit_intercept
    if not kept and estimator.intercept_.any():
        raise ValueError(
            f"fit_intercept={estimator.fit_intercept} means b = 0, but the fitted intercept_ is "
            "not zero: set fit_intercept=True, or fit with warm_start=False to start again."
        )


def _check_targets(estimator: Any, work: Sources) -> None:
    """What is reconstructed must be what it was in the last fit."""
    before, now = hasattr(estimator, "input_intercept_"), work.targets is not None
    if before != now:
        what = "other activations (objective='targets')" if before else "its own rows, or codes"
        raise ValueError(
            f"The fitted encoder has learned from {what}, and objective={estimator.objective!r} "
            "is another: set warm_start=False to start again, or the old objective."
        )
    check_width(estimator, work.whole)


def _units(estimator: Any, work: Sources, model: SparseAutoencoder) -> tuple[float, float, float]:
    """Scales of what is reconstructed and of X, and alpha; measured if no fit has done so."""
    scale = estimator._scale
    if scale is None:  # parameters from elsewhere
        centred = work.whole.sample(SAMPLE_ROWS) - model.offset.detach()
        scale = input_scale = spread(centred)
        if model.input_offset is not None:
            input_scale = spread(work.rows.sample(SAMPLE_ROWS) - model.input_offset)
        return scale, input_scale, measured_alpha(estimator, centred, model.dictionary.detach())
    alpha = estimator.alpha_ if estimator.alpha == "auto" else float(estimator.alpha)
    return scale, getattr(estimator, "_input_scale", scale), alpha
