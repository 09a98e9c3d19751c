"""sparsify of EleutherAI: ``cfg.json`` beside ``sae.safetensors``."""

from __future__ import annotations

from pathlib import Path

from .files import read_json, read_safetensors
from .parameters import Parameters, Tensors, choice, flag, integer

CONFIG, WEIGHTS = "cfg.json", "sae.safetensors"


def read(weights: Path) -> Parameters:
    """An SAE from its weights, and the description beside them.

    Rows are centred by ``b_dec``. ``signed``, of versions before 1, keeps the largest codes by
    absolute value.

    Raises
    ------
    ValueError
        If a key or a shape is wrong, or it is a transcoder, or its activation another one.
    OSError
        If a file is missing.
    """
    path = weights.with_name(CONFIG)
    config = read_json(path)
    choice(path, config, "activation", ("topk",), "topk")
    for name in ("transcode", "skip_connection"):
        if flag(path, config, name, default=False):
            raise ValueError(
                f"{str(path)!r}: {name} is true: a transcoder maps to other activations than those "
                "it reads, and is no code of them."
            )
    tensors = Tensors(weights, read_safetensors(weights))
    n_components, n_features = tensors.length("encoder.bias"), tensors.length("b_dec")
    if integer(path, config, "d_in") != n_features:
        raise ValueError(
            f"{str(path)!r}: d_in is {config['d_in']!r:.50}, but b_dec in {WEIGHTS} has "
            f"{n_features} entries."
        )
    given = Parameters(
        encoder=tensors.matrix("encoder.weight", n_components, n_features).T,
        encoder_bias=tensors.vector("encoder.bias", n_components),
        decoder=tensors.matrix("W_dec", n_components, n_features),
        decoder_bias=tensors.vector("b_dec", n_features),
        centred=True,
        activation="abs_topk" if flag(path, config, "signed", default=False) else "topk",
        k=integer(path, config, "k"),
        metadata=config,
    )
    tensors.finish()
    return given
