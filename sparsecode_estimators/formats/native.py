"""Our own format: a folder with ``estimator.json`` and ``tensors.safetensors``."""

from __future__ import annotations

import hashlib
import os
import platform
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
import torch
from sklearn.utils.validation import check_is_fitted

from ..estimators.arrays import Rows
from ..estimators.base import thawed
from .files import read_json, read_safetensors, write_folder, write_json, write_safetensors
from .values import Packer, unpack

CONFIG, WEIGHTS = "estimator.json", "tensors.safetensors"
_FORMAT, _VERSION = "sparsecode_estimators", 1


def save(estimator: Any, path: str | os.PathLike) -> None:
    """Write a fitted estimator of this package into a folder.

    The folder has ``estimator.json``, for people too, and ``tensors.safetensors``: data only,
    that other programs can read. Written are all parameters and fitted attributes, types of
    arrays included, and the versions of what wrote it. So :func:`load` gives an estimator whose
    codes are the same to the last digit, and which ``partial_fit`` or ``warm_start`` can train
    on as if nothing had happened. Callbacks are not written, for they are code.

    Parameters
    ----------
    estimator : SAEEncoder, MLPEncoder, UnrolledEncoder, SparseCodingEncoder or ITORefiner
        Also in a ``FrozenEstimator``, or an ITORefiner around one.
    path : str or path
        The folder, made with those above it. An older one of these is replaced as a whole; it
        is never half-written.

    Raises
    ------
    NotFittedError
        If it has not been fitted.
    TypeError
        If it, or the estimator inside it, is of another class, or holds something that is no
        data, as a callable `dictionary` or a ``RandomState``, or an attribute that no ``fit``
        leaves.
    FileExistsError
        If `path` is a file, or a folder with other files in it.
    OSError
        If the folder cannot be written.
    ImportError
        Without safetensors.

    See Also
    --------
    export : Write an SAE for another program.

    Examples
    --------
    >>> import tempfile
    >>> from sparsecode_estimators import SAEEncoder
    >>> from sparsecode_estimators.datasets import make_sparse_codes
    >>> from sparsecode_estimators.formats import load, save
    >>> X = make_sparse_codes(500, 8, 16, 3, random_state=0).X
    >>> sae = SAEEncoder(16, max_iter=10, random_state=0).fit(X)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(sae, folder + "/sae")
    ...     again = load(folder + "/sae")
    >>> bool((again.transform(X) == sae.transform(X)).all())
    True
    """
    check_is_fitted(estimator)
    packer = Packer()
    packer.estimator(estimator)

    def fill(folder: Path) -> None:
        write_safetensors(folder / WEIGHTS, packer.arrays)
        content = {
            "format": _FORMAT,
            "format_version": _VERSION,
            "versions": _versions(),
            "sha256": _digest(folder / WEIGHTS),
            "estimators": packer.estimators,
        }
        write_json(folder / CONFIG, content)

    write_folder(Path(path), {WEIGHTS, CONFIG}, fill)


def load(path: str | os.PathLike) -> Any:
    """Read an estimator that :func:`save` wrote.

    Nothing in the files is executed: classes are those of a table, tensors are numbers. So files
    of people whom you do not trust can be loaded.

    Parameters
    ----------
    path : str or path
        The folder.

    Returns
    -------
    estimator : fitted estimator

    Raises
    ------
    FileNotFoundError
        If there is no such folder, or a file in it is missing.
    ValueError
        If the files are damaged, do not belong together, describe no fitted estimator, or are
        of a later version of the format.
    OSError
        If they cannot be read.
    ImportError
        Without safetensors.

    See Also
    --------
    save : Writes what it reads.
    load_pretrained : SAEs of other libraries.

    Examples
    --------
    See :func:`save`.
    """
    folder = Path(path)
    if not (folder / CONFIG).exists():
        raise FileNotFoundError(
            f"path={str(folder)!r} holds no estimator, as there is no {CONFIG} in it: give the "
            "folder that save wrote. SAEs of other programs are read by load_pretrained."
        )
    config = read_json(folder / CONFIG)
    version = config.get("format_version")
    if config.get("format") != _FORMAT or type(version) is not int or version < 1:
        raise ValueError(
            f"{str(folder / CONFIG)!r} is not of the format {_FORMAT!r}: it says format="
            f"{config.get('format')!r:.50}, format_version={version!r:.50}."
        )
    if version > _VERSION:
        raise ValueError(
            f"{str(folder / CONFIG)!r} has format_version {version}, and this package reads up to "
            f"{_VERSION}: update sparsecode_estimators."
        )
    arrays = read_safetensors(folder / WEIGHTS)
    if config.get("sha256") != _digest(folder / WEIGHTS):
        raise ValueError(
            f"{str(folder / WEIGHTS)!r} is not the file that {CONFIG} was written with: restore "
            "both from one copy."
        )
    try:
        estimator = unpack(config["estimators"], arrays)
        _check_whole(estimator)
    except Exception as error:  # whatever a description leads to that save never wrote
        raise ValueError(
            f"{str(folder / CONFIG)!r} describes no fitted estimator ({type(error).__name__}: "
            f"{str(error)[:300]}); it was written by version "
            f"{config.get('versions')!r:.200}."
        ) from error
    return estimator


def _check_whole(estimator: Any) -> None:
    """Encode a row of zeros, for which everything that codes depend on has to be there."""
    estimator = thawed(estimator)
    check_is_fitted(estimator)
    n_components, n_features = estimator.components_.shape
    # rows of a transcoder are of another width than what its atoms are parts of
    n_inputs = len(getattr(estimator, "input_intercept_", estimator.components_.T))
    if (estimator.n_components_, estimator.n_features_in_) != (n_components, n_inputs):
        raise ValueError(f"components_ has shape {(n_components, n_features)}")
    zeros = np.zeros((1, n_inputs), dtype=estimator.components_.dtype)
    dtype = torch.float64 if zeros.dtype == np.float64 else torch.float32
    with torch.no_grad():
        row = Rows(zeros, dtype, torch.device("cpu"))
        codes = estimator._encoder(row)(row.read(slice(0, 1)))
    if codes.shape != (1, n_components) or estimator.intercept_.shape != (n_features,):
        raise ValueError("shapes of its attributes do not fit together")
    return None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _versions() -> dict[str, str]:
    from .. import __version__

    return {
        "sparsecode_estimators": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scikit-learn": sklearn.__version__,
        "torch": torch.__version__,
    }
