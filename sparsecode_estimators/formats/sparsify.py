"""sparsify of EleutherAI: ``cfg.json`` beside ``sae.safetensors``."""

from __future__ import annotations

from pathlib import Path

from .files import read_json, read_safetensors
from .parameters import Parameters, Tensors, choice, flag, integer, refuse_skip

CONFIG, WEIGHTS = "cfg.json", "sae.safetensors"


def read(weights: Path) -> Parameters:
    """An SAE from its weights, and the description beside them.

    Rows are centred by ``b_dec``, but for those of a transcoder. ``signed``, of versions before 1,
    keeps the largest codes by absolute value.

    Raises
    ------
    ValueError
        If a key or a shape is wrong, its activation another one, or a skip connection not zero.
    OSError
        If a file is missing.
    """
    path = weights.with_name(CONFIG)
    config = read_json(path)
    choice(path, config, "activation", ("topk",), "topk")
    transcoder = flag(path, config, "transcode", default=False)
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
        centred=not transcoder,
        targets=transcoder,
        activation="abs_topk" if flag(path, config, "signed", default=False) else "topk",
        k=integer(path, config, "k"),
        metadata=config,
    )
    if flag(path, config, "skip_connection", default=False):
        refuse_skip(tensors, n_features, n_features)
    tensors.finish()
    return given
