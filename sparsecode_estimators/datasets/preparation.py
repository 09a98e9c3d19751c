"""All that a run of texts through a model needs before its weights are loaded."""

from typing import Any, NamedTuple

import torch

from .language_models import (
    check_config,
    check_precision,
    read_config,
    resolve_device,
    resolve_tokenizer,
    vocabulary_size,
)
from .windows import Cutter


class Prepared(NamedTuple):
    """Where the model runs, its configuration, and how texts become windows."""

    device: torch.device
    config: Any
    tokenizer: Any
    cutter: Cutter


def prepare(
    model: Any,
    tokenizer: Any,
    layers: list[int],
    *,
    device: str,
    precision: str,
    context_length: int,
    long_texts: str = "split",
    overlap: int = 0,
    drop_first: bool,
) -> Prepared:
    """Check what can be checked without weights, and open the tokenizer.

    Raises
    ------
    TypeError, ValueError, OSError, ImportError
        As `load_activations`.
    """
    check_precision(precision, model)
    place = resolve_device(device, model)
    config = read_config(model)
    check_config(config, layers, context_length)
    reader = resolve_tokenizer(tokenizer, model)
    cutter = Cutter(
        reader,
        context_length=context_length,
        long_texts=long_texts,
        overlap=overlap,
        drop_first=drop_first,
        vocab_size=vocabulary_size(config),
    )
    return Prepared(place, config, reader, cutter)
