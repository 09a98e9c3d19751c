"""dictionary_learning: ``config.json`` beside ``ae.pt`` or ``ae.safetensors``.

Which class it is says ``config.json``; without that the names of the tensors do, where they
are names of one class only.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .files import read_json, read_safetensors, read_torch
from .parameters import Parameters, Tensors, choice, integer, section

CONFIG, WEIGHTS = "config.json", ("ae.pt", "ae.safetensors")


def read(weights: Path) -> Parameters:
    """An SAE from its weights, and the description beside them if there is one.

    Raises
    ------
    ValueError
        If a key or a shape is wrong, or the class unknown.
    OSError
        If the file cannot be read.
    """
    path = weights.with_name(CONFIG)
    config = read_json(path) if path.exists() else {}
    trainer = section(path, config, "trainer")
    arrays = read_safetensors(weights) if weights.suffix == ".safetensors" else read_torch(weights)
    tensors = Tensors(weights, arrays)
    name = trainer.get("dict_class") and choice(path, trainer, "dict_class", _CLASSES, "")
    given = _CLASSES[name or _class_of(tensors)](tensors)
    if "k" in trainer and given.k is not None and integer(path, trainer, "k") != given.k:
        raise ValueError(
            f"{str(path)!r}: k is {trainer['k']!r:.50}, but the tensor k in {weights.name} says "
            f"{given.k}."
        )
    given.metadata = trainer
    tensors.finish()
    return given


def _class_of(tensors: Tensors) -> str:
    for key, name in _TELLING.items():
        if key in tensors:
            return name
    if "k" in tensors and "threshold" in tensors:
        raise ValueError(
            f"{str(tensors.path)!r} is an AutoEncoderTopK or a BatchTopKSAE, which have tensors of "
            f"the same names: put its {CONFIG} beside it, which says which."
        )
    raise ValueError(
        f"{str(tensors.path)!r} has none of the tensors {list(_TELLING)}, by which a class of "
        f"dictionary_learning could be told: put its {CONFIG} beside it."
    )


def _linear(tensors: Tensors, bias: str, offset: str) -> dict[str, Any]:
    """Weights of two ``torch.nn.Linear``, which are transposed."""
    n_components, n_features = tensors.length(bias), tensors.length(offset)
    return {
        "encoder": tensors.matrix("encoder.weight", n_components, n_features).T,
        "encoder_bias": tensors.vector(bias, n_components),
        "decoder": tensors.matrix("decoder.weight", n_features, n_components).T,
        "decoder_bias": tensors.vector(offset, n_features),
    }


def _plain(tensors: Tensors) -> dict[str, Any]:
    """Weights as they are multiplied with."""
    n_components, n_features = tensors.length("b_enc"), tensors.length("b_dec")
    return {
        "encoder": tensors.matrix("W_enc", n_features, n_components),
        "encoder_bias": tensors.vector("b_enc", n_components),
        "decoder": tensors.matrix("W_dec", n_components, n_features),
        "decoder_bias": tensors.vector("b_dec", n_features),
    }


def _count(tensors: Tensors) -> int:
    k = tensors.scalar("k")
    if k < 1 or k != np.round(k) or k >= 2**31:
        raise ValueError(f"{str(tensors.path)!r}: k is {k}, but must be a positive integer.")
    return int(k)


def _relu(tensors: Tensors) -> Parameters:
    return Parameters(**_linear(tensors, "encoder.bias", "bias"), centred=True, activation="relu")


def _relu_uncentred(tensors: Tensors) -> Parameters:
    return Parameters(
        **_linear(tensors, "encoder.bias", "decoder.bias"), centred=False, activation="relu"
    )


def _gated(tensors: Tensors) -> Parameters:
    given = Parameters(
        **_linear(tensors, "gate_bias", "decoder_bias"), centred=True, activation="gated"
    )
    n_components = len(given.encoder_bias)
    given.log_gain = tensors.vector("r_mag", n_components)
    given.size_bias = tensors.vector("mag_bias", n_components)
    return given


def _jumprelu(tensors: Tensors) -> Parameters:
    given = Parameters(**_plain(tensors), centred=False, activation="jumprelu")
    given.threshold = tensors.vector("threshold", len(given.encoder_bias))
    return given


def _topk(tensors: Tensors) -> Parameters:
    given = Parameters(
        **_linear(tensors, "encoder.bias", "b_dec"),
        centred=True,
        activation="topk",
        k=_count(tensors),
    )
    if "threshold" in tensors:
        tensors.scalar("threshold")  # its encoder keeps the k largest all the same
    return given


def _batch_topk(tensors: Tensors) -> Parameters:
    return Parameters(
        **_linear(tensors, "encoder.bias", "b_dec"),
        centred=True,
        activation="batch_topk",
        k=_count(tensors),
        threshold=tensors.scalar("threshold"),
    )


def _matryoshka(tensors: Tensors) -> Parameters:
    given = Parameters(
        **_plain(tensors),
        centred=True,
        activation="batch_topk",
        k=_count(tensors),
        threshold=tensors.scalar("threshold"),
    )
    sizes = tensors.vector("group_sizes", tensors.length("group_sizes"))
    if (sizes < 1).any() or sizes.sum() != len(given.encoder_bias):
        raise ValueError(
            f"{str(tensors.path)!r}: group_sizes is {sizes.tolist()!r:.100}, but must be "
            f"positive, with the sum {len(given.encoder_bias)}."
        )
    given.prefix_sizes = [int(n) for n in np.cumsum(sizes)]
    return given


_CLASSES: dict[str, Callable[[Tensors], Parameters]] = {
    "AutoEncoder": _relu,
    "AutoEncoderNew": _relu_uncentred,
    "GatedAutoEncoder": _gated,
    "JumpReluAutoEncoder": _jumprelu,
    "AutoEncoderTopK": _topk,
    "BatchTopKSAE": _batch_topk,
    "MatryoshkaBatchTopKSAE": _matryoshka,
}
# tensors that only one class has, but for those further up
_TELLING = {
    "bias": "AutoEncoder",
    "decoder.bias": "AutoEncoderNew",
    "gate_bias": "GatedAutoEncoder",
    "group_sizes": "MatryoshkaBatchTopKSAE",
    "W_enc": "JumpReluAutoEncoder",
}
