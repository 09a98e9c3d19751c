"""Gemma Scope: ``params.npz``, a JumpReLU SAE.

Lieberum et al. (2024), "Gemma Scope: open sparse autoencoders everywhere all at once on
Gemma 2", arXiv 2408.05147, eq. 1–2.
"""

from __future__ import annotations

from pathlib import Path

from .files import read_npz
from .parameters import Parameters, Tensors

WEIGHTS = "params.npz"


def read(weights: Path) -> Parameters:
    """An SAE from its weights. Rows are not centred before they are encoded.

    Nothing in the file tells an SAE from a transcoder between spaces of one size.

    Raises
    ------
    ValueError
        If a key or a shape is wrong.
    OSError
        If the file is missing.
    """
    arrays = {name.lower(): array for name, array in read_npz(weights).items()}
    tensors = Tensors(weights, arrays)
    n_components, n_features = tensors.length("b_enc"), tensors.length("b_dec")
    given = Parameters(
        encoder=tensors.matrix("w_enc", n_features, n_components),
        encoder_bias=tensors.vector("b_enc", n_components),
        decoder=tensors.matrix("w_dec", n_components, n_features),
        decoder_bias=tensors.vector("b_dec", n_features),
        centred=False,
        activation="jumprelu",
        threshold=tensors.vector("threshold", n_components),
    )
    tensors.finish()
    return given
