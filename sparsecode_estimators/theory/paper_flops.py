"""The paper's formulas for floating point operations (see ``count_flops``)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple


class Shape(NamedTuple):
    """Of the dictionary."""

    n_components: int
    n_features: int


def _learned(estimator: Any) -> int:
    """ℓ: whether steps of training move the dictionary. Those by known codes do not."""
    by_codes = getattr(estimator, "objective", None) == "codes"
    return int(estimator.dictionary is None and not by_codes)


def _sae_inference(estimator: Any, shape: Shape, B: int, T: int) -> int:
    N, M = shape
    return B * (4 * M * N + N)


def _sae_training(estimator: Any, shape: Shape, B: int, T: int) -> int:
    N, M = shape
    return B * T * (10 * M * N + 5 * N + _learned(estimator) * 3 * M * N)


def _hidden(estimator: Any) -> int:
    sizes = tuple(estimator.hidden_layer_sizes)
    if len(sizes) != 1:
        raise ValueError(
            f"hidden_layer_sizes={sizes}: the paper's formula is for one hidden layer, choose "
            "convention='exact'."
        )
    return int(sizes[0])


def _mlp_inference(estimator: Any, shape: Shape, B: int, T: int) -> int:
    (N, M), h = shape, _hidden(estimator)
    return B * (2 * M * h + h + 2 * h * N + N + 2 * M * N)


def _mlp_training(estimator: Any, shape: Shape, B: int, T: int) -> int:
    (N, M), h = shape, _hidden(estimator)
    layers = 6 * M * h + 6 * h * N + 4 * M * N + 5 * h + 5 * N
    return B * T * (layers + _learned(estimator) * 3 * M * N)


def _coding_training(estimator: Any, shape: Shape, B: int, T: int) -> int:
    (N, M), learned = shape, _learned(estimator)
    forward = 2 * M * N + N + learned * 3 * M * N
    return B * T * (3 * forward + (2 * M + N) * B + N * B + learned * M * N)


def _solver_inference(estimator: Any, shape: Shape, B: int, T: int) -> int:
    """T are the iterations of all samples together."""
    N, M = shape
    return B * (M * N + N) + T * (4 * M * N + 2 * M + 11 * N)


PAPER: dict[tuple[str, str], Callable[[Any, Shape, int, int], int]] = {
    ("SAEEncoder", "inference"): _sae_inference,
    ("SAEEncoder", "training"): _sae_training,
    ("MLPEncoder", "inference"): _mlp_inference,
    ("MLPEncoder", "training"): _mlp_training,
    ("SparseCodingEncoder", "training"): _coding_training,
    ("solver", "inference"): _solver_inference,
}
