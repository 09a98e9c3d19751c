"""Activations of language models, one row a token."""

import os
from collections.abc import Iterator
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import Bunch

from .checks import check_choice, check_integer
from .documents import read_documents
from .extraction import Extractor, Memory, ahead
from .extraction_store import Stores, Target
from .hooks import HOOKS
from .language_models import name_of, of_package, resolve_tokenizer, stable_name
from .preparation import prepare
from .store import ActivationStore
from .store_files import MANIFEST
from .store_rows import TORCH
from .windows import Windows, decode_each


def load_activations(
    texts: Any,
    *,
    model: Any,
    layer: int | list[int],
    hook: str | list[str] = "resid_pre",
    tokenizer: Any = None,
    text_column: str = "text",
    context_length: int = 128,
    long_texts: str = "split",
    overlap: int = 0,
    batch_size: int = 32,
    look_ahead: int = 16,
    drop_first: bool = True,
    max_norm: float | None = None,
    device: str = "auto",
    precision: str = "auto",
    dtype: str = "float32",
    store: Any = None,
    rows_per_shard: int | None = None,
    verbose: int = 0,
) -> Bunch:
    """Run texts through a language model and return what some of its layers compute.

    The forward pass ends at the last hooked layer, later ones never run. Rows are returned as
    arrays, or written to a store on disk: then texts are read as they are needed, so there may
    be more of them than memory holds, and a run that is killed goes on where it was.

    Parameters
    ----------
    texts : iterable or path
        The documents. Empty ones contribute nothing.

        - A list, or any iterable, of str.
        - Conversations among them: a list of messages, each a dict with "role" and "content",
          is written out by the chat template of the tokenizer.
        - Rows of a data set, as of Hugging Face ``datasets``: mappings that hold one of these
          under `text_column`.
        - A ``pathlib.Path``: a file of text, which is one document; a file of JSON lines
          (``.jsonl``), each a document or a row; or a folder of these (``.txt``, ``.md``,
          ``.rst``, ``.jsonl``), read in the order of their names.
    model : str, path or transformers model
        The name of a model on the Hugging Face hub, the folder of a saved one, "tiny" for the
        small GPT-2 in this package, or a loaded one. A loaded model is used where it lies and
        as it is, with its own hooks, in evaluation mode. Decoders (GPT-2, Llama, Qwen, ...) and
        encoders (BERT, ...) alike.
    layer : int or list of int
        Which block, from 0 to the number of layers minus 1. Of several all are taken in one
        pass.
    hook : str or list of str, default="resid_pre"
        What to take:

        - "resid_pre": the input of the block, in GPT-2 the residual stream.
        - "resid_post": the output of the block. In GPT-2 that is the residual
          stream before the next block; in post-norm families such as BERT it
          has been layer-normalised.
        - "attn_out": what attention computes, before it is added to its input.
        - "mlp_out": what the perceptron computes, before it is added.

        Of several all are taken, at every layer.
    tokenizer : str, path or transformers tokenizer, default=None
        None takes the one that is saved with the model.
    text_column : str, default="text"
        Where in a row the document is.
    context_length : int, default=128
        Tokens that the model sees at a time. Special tokens that its tokenizer
        puts around a text (``[CLS]``, ``[SEP]``, ``<s>``) are put around every
        window and count; those at its end become rows like any other. A chat template brings
        its own.
    long_texts : {"split", "cut"}, default="split"
        A text longer than the context is read in consecutive windows, or only its beginning is.
    overlap : int, default=0
        With "split": so many tokens at the end of a window are repeated as context at the
        beginning of the next one. They do not become rows again, and nothing before the first
        new token does.
    batch_size : int, default=32
        Windows in a forward pass. The activations do not depend on it beyond rounding.
    look_ahead : int, default=16
        Windows of this many batches are sorted by length before they are put into batches, so
        that there is little padding. The rows of two times as many are in memory before they
        are written to a store.
    drop_first : bool, default=True
        Leave out position 0 of every window. Nothing precedes it, so models use
        it as a resting place for attention, and its activations are often a
        hundred times larger than all others and the same for every text. Where
        the tokenizer begins with a special token, it is that one which is left
        out; in GPT-2 it is a token of the text.
    max_norm : float >= 1 or None, default=None
        Leave out outliers: tokens whose activation, at any hook, is longer than this many times
        the median length. The median is over the rows of `look_ahead` batches. Some models use
        other tokens than the first as resting places; 10 leaves out those and little else.
    device : str, default="auto"
        Where to run: "cpu", "cuda", "cuda:1", ...; "auto" is CUDA where there is
        any, and where a loaded model lies.
    precision : {"auto", "float32", "bfloat16", "float16"}, default="auto"
        What the model computes in. "auto": float32 for a name or folder (unless its weights are
        quantised), as it is for a loaded one.
    dtype : {"float32", "float16", "bfloat16"}, default="float32"
        Of the rows. NumPy has no bfloat16: only a store can have it, and is read as float32.
    store : str, path, ActivationStore or None, default=None
        Folder to write rows to, in place of returning arrays; for several layers or hooks a
        folder of stores, such as ``layer3_resid_pre``. What is there from the same call is
        gone on with. If it is complete the texts are read and compared, and it is returned
        without loading the model; ``ActivationStore(path)`` opens it without texts. An
        `ActivationStore` takes one layer and hook.
    rows_per_shard : int or None, default=None
        Rows in a file of the store, see :meth:`ActivationStore.create`; at most so many are lost
        by a kill, beside those of two times `look_ahead` batches.
    verbose : int, default=0
        1 prints how far it is and how fast: each time a tenth of the tokens is done, for a
        store every ten seconds.

    Returns
    -------
    sklearn.utils.Bunch
        One row a token, in the order of the texts:

        - ``data``: ndarray of shape (n_tokens, n_features), or `ActivationStore`. If `layer` or
          `hook` is a list, a dict of them by ``(layer, hook)``.
        - ``token_ids``: int64 ndarray of shape (n_tokens,).
        - ``tokens``: object ndarray of shape (n_tokens,), each token as text. A
          token that is a part of one character only reads as U+FFFD.
        - ``positions``: int64 ndarray of shape (n_tokens,), the place in the window.
        - ``document_ids``: int64 ndarray of shape (n_tokens,), the index into `texts`.
        - ``n_outliers``: how many rows `max_norm` left out.
        - ``model``, ``layer``, ``hook``: where the data come from.

        With `store` the columns are those of the stores (``data.token_ids`` and so on), and
        `decode_tokens` gives the text of tokens.

    Raises
    ------
    TypeError
        If `texts` is one str or holds something else than documents, or `model`,
        `tokenizer` or `layer` is of no use.
    ValueError
        If a parameter is out of its range, no token is left, the tokenizer
        does not fit the model, an activation is not finite (in float16: larger
        than 65504), or the store was begun with other settings or texts.
    OSError
        If the model, the tokenizer or the texts cannot be read, or the store not be written.
    RuntimeError
        If another process writes to the store.
    ImportError
        If transformers is not installed.

    See Also
    --------
    load_gpt2_activations : The same for GPT-2, and for the small one in this package.
    ActivationStore : Rows on disk, read like an array.

    Notes
    -----
    Arrays take ``n_tokens * n_features * 4`` bytes for each layer and hook (2 in float16) and
    are allocated once, before the second batch is run.

    A run into a store keeps in the store's metadata which settings it has, how many blocks of
    `look_ahead` batches are done, and a checksum of their tokens. When it is called again it
    reads and checks the texts up to there and computes the block that was not complete once more:
    no document is missing and none is there twice, and on the same machine the files come to the
    same bytes as without the interruption.

    Examples
    --------
    >>> from sparsecode_estimators.datasets import load_activations
    >>> texts = ["Return a copy of the list.", "The list is empty."]
    >>> bunch = load_activations(texts, model="tiny", layer=2, hook="mlp_out", drop_first=False)
    >>> bunch.data.shape == (len(bunch.tokens), 160)
    True
    >>> "".join(bunch.tokens[bunch.document_ids == 1])
    'The list is empty.'

    Two layers in one pass, to the disk:

    >>> import tempfile
    >>> place = tempfile.TemporaryDirectory()
    >>> bunch = load_activations(
    ...     texts, model="tiny", layer=[2, 4], dtype="float16", store=place.name + "/tiny"
    ... )
    >>> for key, rows in bunch.data.items():
    ...     print(key, rows.shape[1], rows.stored_dtype, len(rows) == len(rows.token_ids))
    (2, 'resid_pre') 160 float16 True
    (4, 'resid_pre') 160 float16 True
    >>> place.cleanup()
    """
    name = name_of(model)
    model, tokenizer = of_package(model), of_package(tokenizer)
    is_single = not isinstance(layer, (list, tuple)) and not isinstance(hook, (list, tuple))
    where = _layers_and_hooks(layer, hook)
    check_choice("dtype", dtype, tuple(TORCH))
    check_choice("long_texts", long_texts, ("split", "cut"))
    check_integer("batch_size", batch_size, 1)
    check_integer("look_ahead", look_ahead, 1)
    check_integer("context_length", context_length, 1)
    check_integer("overlap", overlap, 0)
    _check_max_norm(max_norm)
    if overlap and long_texts == "cut":
        raise ValueError(f"overlap={overlap} is for long_texts='split'; leave it 0.")
    _check_output(dtype, store, rows_per_shard, is_single)
    prepared = prepare(
        model,
        tokenizer,
        [layer for layer, _ in where],
        device=device,
        precision=precision,
        context_length=context_length,
        long_texts=long_texts,
        overlap=overlap,
        drop_first=drop_first,
    )
    documents = read_documents(texts, text_column)
    blocks = prepared.cutter.blocks(documents, look_ahead * batch_size)
    extractor = Extractor(
        model=model,
        where=where,
        device=prepared.device,
        precision=precision,
        dtype=TORCH[dtype],
        batch_size=batch_size,
        max_norm=max_norm,
        verbose=verbose,
    )
    if store is None:
        found = _in_memory(extractor, blocks, prepared.tokenizer)
    else:
        settings = {
            "model": stable_name(name),
            "tokenizer": stable_name(name_of(prepared.tokenizer)),
            "context_length": int(context_length),
            "long_texts": long_texts,
            "overlap": int(overlap),
            "batch_size": int(batch_size),
            "look_ahead": int(look_ahead),
            "drop_first": bool(drop_first),
            "max_norm": None if max_norm is None else float(max_norm),
            "max_norm_at": None if max_norm is None else [list(key) for key in where],
            "precision": precision,
        }
        targets = []
        for key in where:
            of_store = {**settings, "layer": key[0], "hook": key[1]}
            folder = _place(store, *key, is_single)
            targets.append(Target(folder, of_store, dtype, rows_per_shard))
        found = _in_stores(extractor, blocks, Stores(targets))
    data = found.pop("data")
    return Bunch(
        data=data[0] if is_single else dict(zip(where, data, strict=True)),
        **found,
        model=name,
        layer=where[0][0] if is_single else layer,
        hook=hook,
    )


def load_gpt2_activations(
    texts: Any, *, layer: int | list[int] = 9, model: Any = "gpt2", **options: Any
) -> Bunch:
    """Activations of GPT-2, or of the small one of its kind in this package.

    Parameters
    ----------
    texts : iterable or path
        As in `load_activations`.
    layer : int or list of int, default=9
        The default is for the 12 layers of "gpt2". "tiny" has 6, from 0 to 5.
    model : str, path or transformers model, default="gpt2"
        "gpt2", "gpt2-medium", ..., a folder or a loaded model, all as
        `load_activations` takes them; or "tiny", a GPT-2 with 6 layers of 160
        features, trained on the Python documentation, that needs no download.
    **options : object
        All other parameters of `load_activations`. The context of "tiny" is 256 at most, of
        "gpt2" 1024.

    Returns
    -------
    sklearn.utils.Bunch
        As `load_activations`.

    Raises
    ------
    TypeError, ValueError, OSError, RuntimeError, ImportError
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
    return load_activations(texts, layer=layer, model=model, **options)


def decode_tokens(token_ids: Any, tokenizer: Any) -> NDArray[np.object_]:
    """Each token as text of its own.

    Parameters
    ----------
    token_ids : array-like of int of shape (n_tokens,)
        Those of a store, for example.
    tokenizer : str, path or transformers tokenizer
        What the metadata of a store name, too: "tiny" is that of the small GPT-2 in this package.

    Returns
    -------
    object ndarray of shape (n_tokens,)
        A token that is a part of one character only reads as U+FFFD.

    Raises
    ------
    TypeError
        If `tokenizer` is something else.
    OSError
        If it cannot be read or fetched.

    See Also
    --------
    load_activations : Keeps the ids of the tokens.

    Examples
    --------
    >>> from sparsecode_estimators.datasets import decode_tokens, load_gpt2_activations
    >>> bunch = load_gpt2_activations(["Return a list."], model="tiny", layer=0, drop_first=False)
    >>> "".join(decode_tokens(bunch.token_ids, "tiny"))
    'Return a list.'
    """
    reader = resolve_tokenizer(of_package(tokenizer), None)
    return decode_each(reader, np.asarray(token_ids))


def _in_memory(extractor: Extractor, blocks: Iterator[Windows], reader: Any) -> dict[str, Any]:
    """All rows as arrays, and what is known of them."""
    known = list(blocks)
    n_rows = sum(int(windows.counts().sum()) for windows in known)
    memory = Memory(n_rows, extractor.dtype)
    extractor.run(iter(known), memory, n_rows)
    _check_some_left(memory.done, extractor.max_norm)
    columns = memory.columns()
    return {
        "data": memory.arrays(),
        "tokens": decode_each(reader, columns.token_ids),
        **columns._asdict(),
        "n_outliers": memory.n_outliers,
    }


def _in_stores(extractor: Extractor, blocks: Iterator[Windows], stores: Stores) -> dict[str, Any]:
    """All rows in stores, those that are there already included."""
    if stores.are_complete:
        stores.check_texts(blocks)
    else:
        with stores:
            extractor.run(stores.remaining(ahead(blocks)), stores)
            _check_some_left(stores.n_rows, extractor.max_norm)
    return {"data": [target.store for target in stores.targets], "n_outliers": stores.n_outliers}


def _place(store: Any, layer: int, hook: str, is_single: bool) -> Any:
    """The store, or the folder of the one for this layer and hook."""
    if isinstance(store, ActivationStore):
        return store
    folder = Path(store).absolute()
    return folder if is_single else folder / f"layer{layer}_{hook}"


# Checks: each names the parameter, its value and the remedy.


def _layers_and_hooks(layer: Any, hook: Any) -> list[tuple[int, str]]:
    """Every layer with every hook."""
    layers = list(layer) if isinstance(layer, (list, tuple)) else [layer]
    hooks = list(hook) if isinstance(hook, (list, tuple)) else [hook]
    for one in layers:
        check_integer("layer", one, 0)
    for one in hooks:
        check_choice("hook", one, HOOKS)
    for name, values in (("layer", layers), ("hook", hooks)):
        if not values or len(set(values)) < len(values):
            raise ValueError(f"{name}={values!r} must name one or more, each once.")
    return [(int(one), other) for one in layers for other in hooks]


def _check_max_norm(max_norm: Any) -> None:
    if max_norm is None:
        return
    if not isinstance(max_norm, Real) or isinstance(max_norm, bool):
        raise TypeError(
            f"max_norm={max_norm!r} must be a number or None, got {type(max_norm).__name__}."
        )
    if not 1 <= float(max_norm) < float("inf"):
        raise ValueError(f"max_norm={max_norm} must be at least 1, a number of medians.")


def _check_some_left(n_rows: int, max_norm: float | None) -> None:
    if not n_rows:  # at one site half of the rows are always left
        raise ValueError(
            f"max_norm={max_norm} leaves out every token at one layer and hook or another; raise "
            "it, or take fewer of them."
        )


def _check_output(dtype: str, store: Any, rows_per_shard: Any, is_single: bool) -> None:
    """Refuse what arrays, or stores, cannot do."""
    if store is None:
        if dtype == "bfloat16":
            raise ValueError(
                "dtype='bfloat16', but NumPy has no such type; give store=, or dtype='float32'."
            )
        if rows_per_shard is not None:
            raise ValueError(
                f"rows_per_shard={rows_per_shard}, but store=None; give the folder of a store."
            )
        return
    if rows_per_shard is not None:
        check_integer("rows_per_shard", rows_per_shard, 1)
    if isinstance(store, ActivationStore):
        if not is_single:
            raise ValueError(
                "store is one ActivationStore, but layer or hook is a list; give a folder, in "
                "which each gets its own."
            )
    elif not isinstance(store, (str, os.PathLike)):
        raise TypeError(
            f"store must be a folder or an ActivationStore, got {type(store).__name__}."
        )
    elif not is_single and (Path(store) / MANIFEST).exists():
        raise ValueError(
            f"store={os.fspath(store)!r} is the store of one layer and hook, but layer or hook is "
            "a list; give another folder, in which each gets its own."
        )
