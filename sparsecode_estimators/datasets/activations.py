"""Activations of language models, one row a token."""

import time
from collections.abc import Iterable, Iterator
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils import Bunch
from torch import Tensor, nn

from .hooks import HOOKS, evaluating, find_blocks, hooked_module, run_until
from .language_models import (
    check_config,
    input_device,
    name_of,
    read_config,
    resolve_device,
    resolve_model,
    resolve_tokenizer,
    vocabulary_size,
)
from .windows import Windows, cut_windows, decode_each

TINY_GPT2 = Path(__file__).parent / "tiny_gpt2"
_DTYPES = {"float32": torch.float32, "float16": torch.float16}


def load_activations(
    texts: Iterable[str],
    *,
    model: Any,
    layer: int,
    hook: str = "resid_pre",
    tokenizer: Any = None,
    context_length: int = 128,
    batch_size: int = 32,
    drop_first: bool = True,
    device: str = "auto",
    dtype: str = "float32",
    verbose: int = 0,
) -> Bunch:
    """Run texts through a language model and return what one of its layers computes.

    A text longer than the context is read in consecutive windows, none of it is
    left out. The forward pass ends at the hooked layer, later ones never run.

    Parameters
    ----------
    texts : iterable of str
        The documents. Empty ones contribute nothing.
    model : str, path or transformers model
        The name of a model on the Hugging Face hub, the folder of a saved one,
        or a loaded one. A name or folder is computed with in float32 (unless its
        weights are quantised); for another precision load the model yourself. A
        loaded model is used where it lies and as it is, with its own hooks, in
        evaluation mode. Decoders (GPT-2, Llama, Qwen, ...) and encoders (BERT,
        ...) alike.
    layer : int
        Which block, from 0 to the number of layers minus 1.
    hook : {"resid_pre", "resid_post", "attn_out", "mlp_out"}, default="resid_pre"
        What to take:

        - "resid_pre": the input of the block, in GPT-2 the residual stream.
        - "resid_post": the output of the block. In GPT-2 that is the residual
          stream before the next block; in post-norm families such as BERT it
          has been layer-normalised.
        - "attn_out": what attention computes, before it is added to its input.
        - "mlp_out": what the perceptron computes, before it is added.
    tokenizer : str, path or transformers tokenizer, default=None
        None takes the one that is saved with the model.
    context_length : int, default=128
        Tokens that the model sees at a time. Special tokens that its tokenizer
        puts around a text (``[CLS]``, ``[SEP]``, ``<s>``) are put around every
        window and count; those at its end become rows like any other.
    batch_size : int, default=32
        Windows in a forward pass. Windows of like length go together, so there
        is little padding. The activations do not depend on it beyond rounding.
    drop_first : bool, default=True
        Leave out position 0 of every window. Nothing precedes it, so models use
        it as a resting place for attention, and its activations are often a
        hundred times larger than all others and the same for every text. Where
        the tokenizer begins with a special token, it is that one which is left
        out; in GPT-2 it is a token of the text.
    device : str, default="auto"
        Where to run: "cpu", "cuda", "cuda:1", ...; "auto" is CUDA where there is
        any, and where a loaded model lies.
    dtype : {"float32", "float16"}, default="float32"
        Of the rows returned. The model computes in its own precision.
    verbose : int, default=0
        1 prints a line each time a tenth of the tokens is done.

    Returns
    -------
    sklearn.utils.Bunch
        One row a token, in the order of the texts:

        - ``data``: ndarray of shape (n_tokens, n_features), the activations.
        - ``token_ids``: int64 ndarray of shape (n_tokens,).
        - ``tokens``: object ndarray of shape (n_tokens,), each token as text. A
          token that is a part of one character only reads as U+FFFD.
        - ``positions``: int64 ndarray of shape (n_tokens,), the place in the window.
        - ``document_ids``: int64 ndarray of shape (n_tokens,), the index into `texts`.
        - ``model``, ``layer``, ``hook``: where the data come from.

    Raises
    ------
    TypeError
        If `texts` is one str or holds something else than str, or `model`,
        `tokenizer` or `layer` is of no use.
    ValueError
        If a parameter is out of its range, no token is left, the tokenizer
        does not fit the model, or an activation is not finite (in float16: larger
        than 65504).
    OSError
        If the model or the tokenizer cannot be read or fetched.
    ImportError
        If transformers is not installed.

    See Also
    --------
    load_gpt2_activations : The same for GPT-2, and for the small one in this package.

    Notes
    -----
    The result takes ``n_tokens * n_features * 4`` bytes (2 in float16) and is
    allocated once, before the second batch is run.

    Examples
    --------
    >>> from sparsecode_estimators.datasets import load_activations
    >>> from sparsecode_estimators.datasets.activations import TINY_GPT2 as folder
    >>> texts = ["Return a copy of the list.", "The list is empty."]
    >>> bunch = load_activations(texts, model=folder, layer=2, hook="mlp_out", drop_first=False)
    >>> bunch.data.shape == (len(bunch.tokens), 160)
    True
    >>> "".join(bunch.tokens[bunch.document_ids == 1])
    'The list is empty.'
    """
    documents = _check_texts(texts)
    _check_choice("hook", hook, HOOKS)
    _check_choice("dtype", dtype, tuple(_DTYPES))
    _check_integer("layer", layer, 0)
    _check_integer("batch_size", batch_size, 1)
    _check_integer("context_length", context_length, 1)
    place = resolve_device(device, model)
    config = read_config(model)
    check_config(config, layer, context_length)
    reader = resolve_tokenizer(tokenizer, model)
    windows = cut_windows(
        documents,
        reader,
        context_length=context_length,
        drop_first=drop_first,
        vocab_size=vocabulary_size(config),
    )
    token_ids = windows.row_token_ids()

    network = resolve_model(model, place)
    module = hooked_module(find_blocks(network)[layer], hook)
    with evaluating(network):
        batches = _run(network, module, hook, windows, batch_size)
        progress = _Progress(len(token_ids), verbose)
        data = _gather(batches, windows, _DTYPES[dtype], progress)
    return Bunch(
        data=data,
        token_ids=token_ids,
        tokens=decode_each(reader, token_ids),
        positions=windows.row_positions(),
        document_ids=windows.row_document_ids(),
        model=name_of(model),
        layer=int(layer),
        hook=hook,
    )


def load_gpt2_activations(
    texts: Iterable[str],
    *,
    layer: int = 9,
    model: Any = "gpt2",
    hook: str = "resid_pre",
    tokenizer: Any = None,
    context_length: int = 128,
    batch_size: int = 32,
    drop_first: bool = True,
    device: str = "auto",
    dtype: str = "float32",
    verbose: int = 0,
) -> Bunch:
    """Activations of GPT-2, or of the small one of its kind in this package.

    Parameters
    ----------
    texts : iterable of str
    layer : int, default=9
        The default is for the 12 layers of "gpt2". "tiny" has 6, from 0 to 5.
    model : str, path or transformers model, default="gpt2"
        "gpt2", "gpt2-medium", ..., a folder or a loaded model, all as
        `load_activations` takes them; or "tiny", a GPT-2 with 6 layers of 160
        features, trained on the Python documentation, that needs no download.
    hook, tokenizer, context_length, batch_size, drop_first, device, dtype, verbose
        As in `load_activations`. The context of "tiny" is 256 at most, of
        "gpt2" 1024.

    Returns
    -------
    sklearn.utils.Bunch
        As `load_activations`.

    Raises
    ------
    TypeError, ValueError, OSError, ImportError
        As `load_activations`.

    See Also
    --------
    load_activations : The same for any transformers model.

    Examples
    --------
    >>> from sparsecode_estimators.datasets import load_gpt2_activations
    >>> texts = ["Return a list of the keys.", "", "Raise an error if there are none."]
    >>> bunch = load_gpt2_activations(texts, model="tiny", layer=3)
    >>> bunch.data.shape[1], bunch.data.dtype.name
    (160, 'float32')
    >>> sorted(set(bunch.document_ids.tolist()))
    [0, 2]
    """
    is_tiny = isinstance(model, str) and model == "tiny"
    bunch = load_activations(
        texts,
        model=TINY_GPT2 if is_tiny else model,
        layer=layer,
        hook=hook,
        tokenizer=tokenizer,
        context_length=context_length,
        batch_size=batch_size,
        drop_first=drop_first,
        device=device,
        dtype=dtype,
        verbose=verbose,
    )
    if is_tiny:
        bunch.model = "tiny"
    return bunch


def _run(
    model: nn.Module, module: nn.Module, hook: str, windows: Windows, batch_size: int
) -> Iterator[tuple[NDArray[np.int64], Tensor]]:
    """Windows and their activations of shape (n, length, n_features), batch after batch."""
    options = _forward_options(model)
    for chosen in windows.batches(batch_size):
        inputs = windows.inputs(chosen, input_device(model))
        yield chosen, run_until(model, module, {**inputs, **options}, hook=hook)


def _gather(
    batches: Iterator[tuple[NDArray[np.int64], Tensor]],
    windows: Windows,
    dtype: torch.dtype,
    progress: "_Progress",
) -> NDArray[Any]:
    """All rows in the order of the documents, without padding, in one array."""
    lengths, counts = windows.lengths(), windows.counts()
    ends = np.cumsum(counts)
    data: NDArray[Any] | None = None
    for chosen, hidden in batches:
        values = hidden.to(dtype).cpu().numpy()
        if data is None:
            data = np.empty((ends[-1], values.shape[2]), values.dtype)
        for window, of_window in zip(chosen, values, strict=True):
            rows = of_window[windows.first : lengths[window]]
            _check_finite(rows)
            data[ends[window] - len(rows) : ends[window]] = rows
        progress.add(int(counts[chosen].sum()))
    assert data is not None  # cut_windows has made sure that there is a row
    return data


def _forward_options(model: nn.Module) -> dict[str, bool]:
    """Turn off what the configuration turns on and a pass that is cut short cannot use."""
    names = ("use_cache", "output_hidden_states", "output_attentions")
    return {name: False for name in names if getattr(model.config, name, False)}


class _Progress:
    """Prints a line each time another tenth is done, if asked to."""

    def __init__(self, total: int, verbose: int) -> None:
        self.total, self.verbose = total, verbose
        self.done = 0
        self.begin = time.monotonic()

    def add(self, n_tokens: int) -> None:
        before, self.done = self.done, self.done + n_tokens
        if self.verbose and 10 * before // self.total < 10 * self.done // self.total:
            print(  # noqa: T201
                f"[load_activations] {self.done} of {self.total} tokens "
                f"({self.done / self.total:.0%}), {time.monotonic() - self.begin:.0f} s"
            )


# Checks: each names the parameter, its value and the remedy.


def _check_texts(texts: Any) -> list[str]:
    if isinstance(texts, (str, bytes)):
        raise TypeError(
            f"texts must be a list of str, got one {type(texts).__name__}; for a single text "
            "write texts=[text]."
        )
    if not isinstance(texts, Iterable):
        raise TypeError(f"texts must be a list of str, got {type(texts).__name__}.")
    documents = list(texts)
    for i, text in enumerate(documents):
        if not isinstance(text, str):
            raise TypeError(
                f"texts[{i}] must be a str, got {type(text).__name__}; decode or drop it."
            )
    if not any(documents):
        raise ValueError(f"texts has {len(documents)} texts and all are empty; give some text.")
    return documents


def _check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name}={value!r} is unknown; choose one of {list(choices)}.")


def _check_integer(name: str, value: Any, low: int) -> None:
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(f"{name}={value!r} must be an integer, got {type(value).__name__}.")
    if value < low:
        raise ValueError(f"{name}={value} must be at least {low}.")


def _check_finite(rows: NDArray[Any]) -> None:
    if not np.isfinite(rows).all():
        remedy = (
            'float16 ends at 65504, ask for dtype="float32"'
            if rows.dtype == np.float16
            else "check the weights of the model"
        )
        raise ValueError(f"the model gave activations that are not finite; {remedy}.")
