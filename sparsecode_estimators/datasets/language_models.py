"""Language models and their tokenizers, from the hub, a folder or the caller's hands.

transformers is imported only when something has to be loaded.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Any

import torch
from torch import nn

from .hooks import count_layers, text_config
from .store_rows import TORCH

TINY_GPT2 = Path(__file__).parent / "tiny_gpt2"


def check_precision(precision: str, model: Any) -> None:
    """Refuse a precision that is unknown, or not that of a loaded model."""
    if precision != "auto" and precision not in TORCH:
        raise ValueError(f"precision={precision!r} is unknown; choose one of {['auto', *TORCH]}.")
    actual = getattr(model, "dtype", None)
    if precision != "auto" and not _is_source(model) and actual != TORCH[precision]:
        raise ValueError(
            f"precision={precision!r}, but the loaded model computes in "
            f"{str(actual).removeprefix('torch.')}; convert it, as in model.to(torch.{precision}),"
            ' or leave precision="auto".'
        )


def resolve_device(device: str, model: Any) -> torch.device:
    """Where to run; a loaded model stays where it lies."""
    if _is_source(model):
        return _check_device(device)
    _check_is_model(model)
    actual = input_device(model)
    wanted = actual if device == "auto" else _check_device(device)
    if wanted.type != actual.type or wanted.index not in (None, actual.index):
        raise ValueError(
            f"device={device!r}, but the loaded model lies on {str(actual)!r}; move it with "
            f'model.to({device!r}), or leave device="auto".'
        )
    return actual


def read_config(model: Any) -> Any:
    """The configuration of the model, without its weights."""
    if not _is_source(model):
        has_halves = hasattr(getattr(model, "base_model", model), "decoder")
        return _check_one_stack(model.config, has_halves)
    transformers = _import_transformers()
    with _explained("model", model):
        config = transformers.AutoConfig.from_pretrained(model)
    return _check_one_stack(config, has_halves=True)


def resolve_model(
    model: Any, device: torch.device, precision: str = "auto", *, with_head: bool = False
) -> nn.Module:
    """The caller's model as it is, or the saved one, in `precision` if it is not quantised.

    With a head it gives the logits of the next token.
    """
    if not _is_source(model):
        return model
    transformers = _import_transformers()
    kind = transformers.AutoModelForCausalLM if with_head else transformers.AutoModel
    with _explained("model", model), _no_progress_bar():
        network = kind.from_pretrained(model)
    if getattr(network, "is_quantized", False):
        return network  # packed weights have their own precision, and place
    return network.to(device, TORCH.get(precision, torch.float32))


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    """transformers draws a bar while it loads, whoever asked; its setting is put back."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def resolve_tokenizer(tokenizer: Any, model: Any) -> Any:
    """The caller's tokenizer, or the one that is saved beside the model."""
    if tokenizer is None:
        tokenizer = model if _is_source(model) else getattr(model, "name_or_path", "")
        if not tokenizer:
            raise ValueError(
                f"tokenizer=None, but the loaded model ({type(model).__name__}) does not say "
                "where it comes from; pass the tokenizer that belongs to it."
            )
    if _is_source(tokenizer):
        transformers = _import_transformers()
        with _explained("tokenizer", tokenizer):
            return transformers.AutoTokenizer.from_pretrained(tokenizer)
    if not callable(tokenizer) or not hasattr(tokenizer, "decode"):
        raise TypeError(
            f"tokenizer must be a name, a folder or a transformers tokenizer, got "
            f"{type(tokenizer).__name__}; wrap one of the tokenizers library in "
            "transformers.PreTrainedTokenizerFast(tokenizer_object=...)."
        )
    return tokenizer


def vocabulary_size(config: Any) -> int:
    """Number of tokens that the model knows."""
    return int(getattr(text_config(config), "vocab_size", sys.maxsize))


def _is_source(model: Any) -> bool:
    """Whether this is a name or a folder, not something loaded."""
    return isinstance(model, (str, os.PathLike))


def _check_is_model(model: Any) -> None:
    if not isinstance(model, nn.Module) or not hasattr(model, "config"):
        raise TypeError(
            f"model must be the name of a model, its folder or a loaded transformers model, "
            f"got {type(model).__name__}."
        )


def _check_one_stack(config: Any, has_halves: bool) -> Any:
    if has_halves and getattr(config, "is_encoder_decoder", False):
        raise ValueError(
            f"model is an encoder-decoder ({config.model_type}), whose layers have no single "
            "order; pass one half of a loaded model, such as model.get_encoder()."
        )
    return config


def _import_transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise ImportError(
            "activations of language models need transformers: "
            'pip install "sparsecode_estimators[activations]"'
        ) from error
    return transformers


@contextmanager
def _explained(parameter: str, source: Any) -> Iterator[None]:
    """Turn the many ways in which loading can fail into one that says what to do."""
    try:
        yield
    except (ImportError, MemoryError):
        raise  # says itself what is wrong
    except Exception as error:
        raise OSError(
            f"{parameter}={os.fspath(source)!r} could not be loaded: it is no folder with a saved "
            f"{parameter}, and it could not be fetched from the Hugging Face hub "
            f"({type(error).__name__}). Without a network use the folder of a saved model, "
            'load_gpt2_activations(..., model="tiny"), or fetch the model where there is one '
            f"(`hf download {os.fspath(source)}`), copy the cache, and set HF_HUB_OFFLINE=1."
        ) from error


def input_device(model: nn.Module) -> torch.device:
    """Where the model takes its input."""
    return model.get_input_embeddings().weight.device  # type: ignore[operator]


def name_of(model: Any) -> str:
    """What to call the model."""
    if _is_source(model):
        return os.fspath(model)
    return getattr(model, "name_or_path", "") or type(model).__name__


def of_package(source: Any) -> Any:
    """The folder of the model that this package brings for "tiny"; all else as it is."""
    return TINY_GPT2 if isinstance(source, str) and source == "tiny" else source


def stable_name(name: Any) -> Any:
    """What a store calls a model or tokenizer: "tiny" is the same wherever it is installed."""
    is_ours = isinstance(name, str) and PurePath(name).parts[-3:] == TINY_GPT2.parts[-3:]
    return "tiny" if is_ours else name


def check_config(config: Any, layers: list[int], context_length: int) -> None:
    """Refuse a layer or a context that the model does not have."""
    n_layers = count_layers(config)
    for layer in layers:
        if layer >= n_layers:
            raise ValueError(
                f"layer={layer} is out of range: the model has {n_layers} layers, choose one of "
                f"0 to {n_layers - 1}."
            )
    longest = getattr(config, "max_position_embeddings", None)
    if longest is not None and context_length > longest:
        raise ValueError(
            f"context_length={context_length} exceeds the {longest} positions of the model; "
            "lower it, longer texts are read in windows."
        )


def _check_device(device: str) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f'device={device!r} is unknown; use "auto", "cpu", "cuda" or "cuda:<index>".'
        ) from error
    if place.type == "cuda" and (place.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device={device!r} is not on this machine, which has {torch.cuda.device_count()} "
            'CUDA devices; use device="auto".'
        )
    return place
