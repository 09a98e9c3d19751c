"""SAEs of other programs: read into fitted estimators, and written for them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

from sklearn.utils.validation import check_is_fitted

from ..estimators.base import thawed
from ..estimators.sae import SAEEncoder
from . import dictionary_learning, gemma_scope, native, saelens, sparsify
from .files import write_folder
from .parameters import Parameters, to_estimator


@dataclass(frozen=True)
class Format:
    """A row of the table.

    Parameters
    ----------
    files : tuple of str
        Names of the weights, by which a folder is recognised.
    endings : tuple of str
        Of a single file that has another name.
    read : callable
        From the path of the weights to parameters.
    write : callable or None
        Called with a new folder, an SAE and what is known of the model.
    written : tuple of str
        Names of the files that ``write`` makes.
    """

    files: tuple[str, ...]
    endings: tuple[str, ...]
    read: Callable[[Path], Parameters]
    write: Callable[[Path, SAEEncoder, Mapping[str, Any]], None] | None = None
    written: tuple[str, ...] = ()


FORMATS = {
    "saelens": Format(
        (saelens.WEIGHTS,), (), saelens.read, saelens.write, (saelens.WEIGHTS, saelens.CONFIG)
    ),
    "sparsify": Format((sparsify.WEIGHTS,), (), sparsify.read),
    "dictionary_learning": Format(
        dictionary_learning.WEIGHTS, (".pt", ".safetensors"), dictionary_learning.read
    ),
    "gemma_scope": Format((gemma_scope.WEIGHTS,), (".npz",), gemma_scope.read),
}


def load_pretrained(
    path: str | os.PathLike,
    format: str = "auto",
    *,
    activation_scale: float | None = None,
    objective: str = "auto",
) -> SAEEncoder:
    r"""Read an SAE that another program has trained, as a fitted estimator.

    Its codes make the same reconstructions. They are scaled: atoms of other programs may have
    any length, ours have length one, so a code here is theirs times the length of its atom,
    ``codes == theirs * sae.code_scale_``. Where the k largest codes are kept, other lengths
    could change which these are: there all atoms are divided by one number, the root mean square
    of the lengths, and single atoms are longer or shorter than one. (With
    ``rescale_acts_by_decoder_norm`` SAELens scales its codes in this way itself, and
    ``code_scale_`` is one. Some versions of dictionary_learning, not 0.1.0, multiply codes of
    ``GatedAutoEncoder`` and ``JumpReluAutoEncoder`` by these lengths, too: then theirs are ours.)

    Rows are what the model computes, in the shape (n_samples, n_features). A bias that is not
    taken off the rows before they are encoded is folded into that of the encoder.

    A transcoder, which predicts other activations than those that it reads, becomes an SAE with
    ``objective="targets"``: ``inverse_transform`` gives its predictions, and ``score(X, y)``
    judges them. One with a linear connection around the latents (``W_skip``) that is not zero
    cannot be represented, and is refused.

    Parameters
    ----------
    path : str or path
        A folder, or its file of weights. Names of a hub are not fetched: download first.
    format : {"auto", "saelens", "sparsify", "dictionary_learning", "gemma_scope"}, default="auto"
        "saelens": ``sae_weights.safetensors`` with ``cfg.json``, of versions 3 to 6; the
        architectures "standard", "topk", "abstopk", "batchtopk", "matryoshka_batchtopk",
        "jumprelu", "gated", "transcoder" and "jumprelu_transcoder". "sparsify":
        ``sae.safetensors`` with ``cfg.json``.
        "dictionary_learning": ``ae.pt`` or ``ae.safetensors``, with ``config.json``.
        "gemma_scope": ``params.npz``. "auto": by the names of the files.
    activation_scale : float > 0 or None, default=None
        What the program multiplied rows with before the SAE saw them; folded into the
        parameters, so that X stays as the model computes it. SAEs that were saved with such a
        scaling outside of them are refused without it. 1.0: rows come scaled already. What a
        transcoder predicts stays as its program saw it.
    objective : {"auto", "targets"}, default="auto"
        "auto": a transcoder where the files say so. SAELens and sparsify do, the other formats
        have no word for it, and transcoders of Gemma Scope need "targets".

    Returns
    -------
    SAEEncoder
        Fitted, with two attributes more: ``code_scale_``, ndarray of shape (n_components_,),
        see above; and ``metadata_``, a dict of what the files say of the model and the training.
        Both are about what was loaded, whatever ``fit`` does later.
        It has no ``alpha_`` until it is trained further, as no file tells one for our objective:
        give ``alpha`` where it is needed. To train it further set ``warm_start=True``, or use
        ``partial_fit``; the learned atoms then have unit length.

    Raises
    ------
    FileNotFoundError
        If there is nothing of this name, or a file is missing.
    ValueError
        If `format` or `objective` is unknown, or the files are damaged, of no known format, of an
        architecture without a linear encoder, of one whose rows are scaled in a way that they do
        not say, or of a transcoder with a connection around its latents.
    OSError
        If a file cannot be read.
    ImportError
        Without safetensors.

    See Also
    --------
    export : The way back.

    Notes
    -----
    Files are read as data: JSON; safetensors; npz with ``allow_pickle=False``; pickles of torch
    with ``weights_only=True``. Numbers of 16 bits become float32.

    Examples
    --------
    >>> import tempfile
    >>> from sparsecode_estimators import ITORefiner, SAEEncoder
    >>> from sparsecode_estimators.datasets import make_sparse_codes
    >>> from sparsecode_estimators.formats import export, load_pretrained
    >>> from sklearn.frozen import FrozenEstimator
    >>> X = make_sparse_codes(500, 8, 16, 3, random_state=0).X
    >>> sae = SAEEncoder(16, activation="topk", n_nonzero_coefs=3, max_iter=10, random_state=0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     export(sae.fit(X), folder + "/sae", metadata={"model_name": "gpt2"})
    ...     theirs = load_pretrained(folder + "/sae")
    >>> theirs.metadata_["model_name"]
    'gpt2'
    >>> ito = ITORefiner(FrozenEstimator(theirs)).fit(X)
    >>> bool(ito.score(X) > theirs.score(X))
    True
    """
    if format != "auto" and format not in FORMATS:
        raise ValueError(
            f"format={format!r} is unknown: choose 'auto', {', '.join(map(repr, FORMATS))}."
        )
    if objective not in ("auto", "targets"):
        raise ValueError(f"objective={objective!r} is unknown: choose 'auto' or 'targets'.")
    if activation_scale is not None and not (
        isinstance(activation_scale, Real) and 0 < float(activation_scale) < float("inf")
    ):
        raise ValueError(
            f"activation_scale={activation_scale!r} must be a finite number above 0, or None."
        )
    name, weights = _find(Path(path), format)
    given = FORMATS[name].read(weights)
    given.targets = given.targets or objective == "targets"
    if given.normalised is not None and activation_scale is None:
        raise ValueError(_about_scale(weights, given.normalised))
    return to_estimator(given, 1.0 if activation_scale is None else float(activation_scale))


def _find(path: Path, format: str) -> tuple[str, Path]:
    """The format, and the file of weights."""
    asked = FORMATS if format == "auto" else {format: FORMATS[format]}
    if path.is_dir():
        for name, row in asked.items():
            for file in row.files:
                if (path / file).is_file():
                    return name, path / file
        raise FileNotFoundError(_nothing_in(path, asked))
    if not path.exists():
        raise FileNotFoundError(
            f"path={str(path)!r} is neither a folder nor a file. Names of a hub are not fetched: "
            "download first, for example by huggingface_hub.snapshot_download(name), and give "
            "the folder of one SAE."
        )
    if format != "auto":
        return format, path
    for name, row in asked.items():
        if path.name in row.files:
            return name, path
    for name, row in asked.items():
        if path.suffix in row.endings:
            return name, path
    raise ValueError(
        f"path={str(path)!r} has a name of none of the formats: set format, to one of "
        f"{', '.join(map(repr, FORMATS))}."
    )


def _nothing_in(path: Path, asked: Mapping[str, Format]) -> str:
    files = [file for row in asked.values() for file in row.files]
    message = f"path={str(path)!r} has no weights of an SAE in it, none of {', '.join(files)}"
    if (path / native.CONFIG).exists():
        return f"{message}: it was written by save, use load."
    patterns = [f"{depth}/{file}" for depth in ("*", "*/*") for file in files]
    found = {file.parent for pattern in patterns for file in path.glob(pattern)}
    inside = sorted(str(folder.relative_to(path)) for folder in found)
    if inside:
        return f"{message}: it holds several, give the folder of one, as {', '.join(inside[:3])}."
    return f"{message}: give the folder of one SAE, or the file and its format."


def _about_scale(weights: Path, normalised: str) -> str:
    if normalised == "expected_average_only_in":
        return (
            f"{str(weights)!r}: the SAE was trained on rows times a number, which the files do not "
            "say (normalize_activations='expected_average_only_in'): give it as activation_scale. "
            "It was √n_features over the mean norm of the rows. 1.0 if your rows are scaled."
        )
    return (
        f"{str(weights)!r}: the SAE needs rows that were normalised before "
        f"(normalize_activations={normalised!r:.50}), which is no part of a linear encoder: "
        "normalise them yourself, and say so by activation_scale=1.0."
    )


def export(
    estimator: Any,
    path: str | os.PathLike,
    format: str = "saelens",
    *,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Write a fitted SAE as a folder that another program reads.

    SAELens loads it by ``SAE.load_from_disk(path)`` and gives the same codes. "relu" becomes
    "standard"; "batch_topk", as SAELens itself stores it, becomes "jumprelu" with one threshold
    for all. With ``objective="targets"`` these become "transcoder" and "jumprelu_transcoder". Of
    the other activations SAELens has no transcoders; where X and y are of one width and `metadata`
    has "hook_name_out", they are written as an SAE, which SAELens then takes for one.

    Parameters
    ----------
    estimator : SAEEncoder
        Fitted; also in a ``FrozenEstimator``.
    path : str or path
        The folder, made with those above it. An older one of these is replaced as a whole; it
        is never half-written.
    format : {"saelens"}, default="saelens"
        Version 6: ``cfg.json`` and ``sae_weights.safetensors``.
    metadata : dict or None, default=None
        What the program should know of the model, as "model_name" and "hook_name": text,
        numbers, lists and dicts. None: the estimator's ``metadata_``, if it was loaded.

    Raises
    ------
    NotFittedError
        If it has not been fitted.
    TypeError
        If it is another estimator: SAELens has no room for others than SAEs. Of an ITORefiner
        export ``estimator_``, the encoder inside. Or if `metadata` is not JSON.
    ValueError
        If `format` is unknown, NaN or infinity are among the metadata, or SAELens has no
        transcoder of this kind.
    FileExistsError
        If `path` is a file, or a folder with other files in it.
    OSError
        If the folder cannot be written.
    ImportError
        Without safetensors.

    See Also
    --------
    save : Our own format, for all estimators.

    Examples
    --------
    See :func:`load_pretrained`.
    """
    writers = {name: row.write for name, row in FORMATS.items() if row.write is not None}
    if format not in writers:
        raise ValueError(
            f"format={format!r} cannot be written: choose {', '.join(map(repr, writers))}."
        )
    inner = thawed(estimator)
    if not isinstance(inner, SAEEncoder):
        raise TypeError(
            f"estimator is a {type(inner).__name__}, but only an SAEEncoder is an SAE as others "
            "know it: use save to keep it, and of an ITORefiner export its estimator_."
        )
    check_is_fitted(inner)
    about = getattr(inner, "metadata_", {}) if metadata is None else metadata
    names = set(FORMATS[format].written)
    write_folder(Path(path), names, lambda folder: writers[format](folder, inner, about))
