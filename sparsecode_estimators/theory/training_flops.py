"""What the steps of training an encoder multiply (see ``count_flops``)."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..learning.codes import SPARSE_SHARE
from ..learning.run import SETTLING

UPDATE = {"adam": 12, "sign": 8}  # operations of an optimiser for each parameter
UNIT = 3  # operations for each entry of an atom that is brought to unit length


def encoder_products(encoder: Any, n_components: int, n_features: int) -> int:
    """Of the codes of one row."""
    if hasattr(encoder, "n_steps"):  # from zero, then a residual before every other step
        return (4 * encoder.n_steps - 2) * n_components * n_features
    return 2 * sum(a * b for a, b in encoder._shapes(n_features, n_components))


def training(encoder: Any, n: int) -> int:
    """All epochs of a fit to ``n`` rows, and all its steps.

    Rows of a transcoder may be wider than its atoms, or narrower.
    """
    (N, M), width = encoder.components_.shape, encoder.n_features_in_
    moves = encoder.objective != "codes" and encoder.dictionary is None
    if hasattr(encoder, "n_steps"):
        rows: list[float] = [_unrolled_row(encoder, N, M, moves=moves)] * encoder.n_iter_
    elif encoder.objective == "codes":
        rows = [_row_of_known_codes(encoder, N)] * encoder.n_iter_
    else:
        rows = [
            _row(encoder, N, M, active, N * dead)
            for active, dead in zip(encoder.history_["l0"], encoder.history_["dead"], strict=True)
        ]
    total = n * sum(rows) + encoder.n_steps_ * _step(encoder, N, M, moves=moves)
    if encoder.objective == "codes" and encoder.dictionary is None:
        total += 2 * n * N * (N + M)  # the dictionary by least squares
    if encoder.activation == "batch_topk":  # codes by which the threshold is set at the end
        total += min(n, max(1, SETTLING // N)) * encoder_products(encoder, N, width)
    if getattr(encoder, "weights", None) == "analytic" and (moves or _transcodes(encoder)):
        total += encoder.n_iter_ * 4 * N * width * (N + width)  # anew after every epoch
    return round(total)


def _transcodes(encoder: Any) -> bool:
    """Whether the encoder sees other rows than it explains, whose offset stays as it is."""
    return bool(encoder.objective == "targets")


def _row(encoder: Any, N: int, M: int, active: float, dead: float) -> float:
    """Of one row in ``learning.gradients.factored``, by the mean active latents of its epoch."""
    *below, (width, _) = encoder._shapes(encoder.n_features_in_, N)
    deep = 2 * sum(a * b for a, b in below)
    k = encoder._sparsity()
    places = max(active, k or 0)
    nested = encoder.prefix_sizes is not None
    if encoder.activation != "batch_topk" and not nested and places > SPARSE_SHARE * N:
        places = N
    # reconstruction, derivatives by the codes, and by the atoms; those by the last layer
    products = 6 * places * M + 2 * places * width
    if encoder.activation == "gated":  # reconstruction by the gate alone, and its derivatives
        products += 4 * places * M
    if encoder.aux_alpha:
        dead_products = 6 * dead * M + 2 * dead * width
        products += dead_products + (2 * dead * width if below else 0)
    if below:  # through the last layer, then weights and inputs of the others
        products += 2 * places * width + 2 * deep
        if _transcodes(encoder):
            products -= 2 * below[0][0] * below[0][1]
    return 2 * N * width + deep + products


def _row_of_known_codes(encoder: Any, N: int) -> int:
    """Forward, weights, and inputs of all layers but the first."""
    sizes = [a * b for a, b in encoder._shapes(encoder.n_features_in_, N)]
    return 2 * (3 * sum(sizes) - sizes[0])


def _unrolled_row(encoder: Any, N: int, M: int, *, moves: bool) -> int:
    """Forward, inputs, and the weights and atoms that are learned."""
    residuals = encoder.n_steps - 1
    learned = encoder.n_steps if encoder.weights == "learned" else 0
    atoms = residuals if moves or _transcodes(encoder) else 0
    steps = 2 * (encoder.n_steps + residuals) + learned + atoms
    decoding = 2 + moves if encoder.objective != "codes" else 0
    return 2 * N * (steps * encoder.n_features_in_ + decoding * M)


def _step(encoder: Any, N: int, M: int, *, moves: bool) -> int:
    """Updates of all parameters, the length of the atoms, and what is once a step."""
    arrays = [*encoder.encoder_intercepts_, getattr(encoder, "step_sizes_", ())]
    if getattr(encoder, "weights", "learned") == "learned":
        arrays += encoder.encoder_coefs_
    if encoder.activation == "gated":
        arrays += [encoder.gate_scale_, encoder.gate_shift_]
    if encoder.activation == "jumprelu":
        arrays += [encoder.threshold_]
    if encoder.objective != "codes":
        arrays += [encoder.components_] if moves else []
        arrays += [encoder.intercept_] if encoder._learns_offset() else []
    if _transcodes(encoder):
        arrays += [getattr(encoder, "input_components_", ())]
    parameters = sum(np.size(a) for a in arrays)
    once = UNIT * N * M if moves else 0
    shallow = not hasattr(encoder, "n_steps") and len(encoder.encoder_coefs_) == 1
    if shallow and encoder.objective == "reconstruction":
        once += 2 * N * M  # the offset's derivative
    return UPDATE[encoder.optimizer] * parameters + once
