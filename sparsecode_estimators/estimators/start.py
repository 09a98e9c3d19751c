"""How a fit begins: dictionary, offset, scale and alpha from the data, and an untrained encoder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..learning.atoms import initial_dictionary, least_squares_decoder, unit
from ..learning.batches import samples
from ..learning.centres import CENTRES
from ..learning.encoders import LENGTH_ROWS, Inputs, SparseAutoencoder, fit_length_
from ..learning.topk import TopK
from .arrays import to_tensor
from .base import SAMPLE_ROWS, auto_alpha
from .given import given_dictionary
from .sources import Sources

# rows of a regression at the start: most and least, and multiplications between them
MOST_ROWS, LEAST_ROWS, WORK = 8192, 1024, 2**34


@dataclass
class Trainee:
    """Everything that training changes, in units in which rows have a variance of one.

    Attributes
    ----------
    model : SparseAutoencoder
    silent_for : Tensor of shape (n_components,), int64
        Rows since each latent fired.
    scale : float
        What is reconstructed is divided by it, and so are codes and alpha.
    input_scale : float
        X is divided by it: the same, unless something else is reconstructed.
    alpha : float
        On the scale of what is reconstructed.
    """

    model: SparseAutoencoder
    silent_for: Tensor
    scale: float
    input_scale: float
    alpha: float


def read_dictionaries(
    estimator: Any, given: Sources, *, resume: bool
) -> tuple[np.ndarray | None, np.ndarray | None, int | None]:
    """The known dictionary, the one to start from, and the number of latents if it is known."""
    width = estimator.n_components_ if resume else estimator.n_components
    around = given.whole, width, given.whole_name
    known = given_dictionary("dictionary", estimator.dictionary, *around)
    start = known
    if known is None:
        start = given_dictionary("dict_init", estimator.dict_init, *around)
    width = width if start is None else len(start)
    if given.codes is None:
        return known, start, width
    n_codes = given.codes.n_features
    if width is not None and width != n_codes:
        raise ValueError(
            f"y has {n_codes} columns but n_components={width}: "
            "set n_components=None or to the number of columns of y."
        )
    return known, start, n_codes


def begin(
    estimator: Any,
    work: Sources,
    start: np.ndarray | None,
    n_components: int | None,
    generator: torch.Generator,
) -> Trainee:
    """Before the first step.

    Parameters
    ----------
    estimator : BaseSparseEncoder
    work : Sources
        In the type that is computed in.
    start : ndarray of shape (n_components, n_features) or None
        The dictionary; None: the least-squares one of known codes, if codes depend on it, else
        directions of rows.
    n_components : int or None
    generator : torch.Generator
    """
    x, *targets = samples(work.encoded, SAMPLE_ROWS)
    for name, part in zip(("X", "y"), (x, *targets), strict=False):
        if not part.isfinite().all():
            raise ValueError(
                f"{name} has numbers beyond {part.dtype}, in which training computes: divide it by "
                "a constant, or set precision='float64'."
            )
    whole = targets[0] if targets else x
    centre = CENTRES[estimator.offset_init]
    learns = estimator._learns_offset()
    centred, offset, scale = _centred(whole, centre if learns else None)
    if work.codes is not None and estimator._encodes_by_dictionary:
        known = None
        if estimator.dictionary is not None and start is not None:
            known = to_tensor(start, work.rows)
        pairs = work.rows.paired(work.codes)
        D, offset = least_squares_decoder(pairs, offset, known, learn_offset=learns)
        centred = whole - offset
        scale = spread(centred)
    elif start is not None:
        D = to_tensor(start, work.rows)
        D = D if estimator.dictionary is not None else unit(D)
    else:
        D = initial_dictionary(centred, n_components or 8 * whole.shape[1], generator)
    alpha = measured_alpha(estimator, centred, D)
    inputs, input_scale = None, scale
    if targets:
        inputs, input_scale = _inputs(estimator, x, centred / scale, D)
    model = estimator._initial_module(D, offset / scale, alpha / scale, generator, inputs)
    if inputs is None and work.codes is None:
        fit_length_(model, x[:: -(-len(x) // LENGTH_ROWS)] / scale)
    return Trainee(
        model=model,
        silent_for=torch.zeros(len(D), dtype=torch.int64, device=D.device),
        scale=scale,
        input_scale=input_scale,
        alpha=alpha,
    )


def _centred(x: Tensor, centre: Callable[[Tensor], Tensor] | None) -> tuple[Tensor, Tensor, float]:
    """Rows less their offset, the offset, and the root mean square of what is left."""
    offset = x.new_zeros(x.shape[1]) if centre is None else centre(x)
    centred = x - offset
    return centred, offset, spread(centred)


def spread(centred: Tensor) -> float:
    """Root mean square of all entries; 1 if all are zero."""
    length = torch.linalg.vector_norm(centred, dtype=torch.float64).item()
    return length / centred.numel() ** 0.5 or 1.0


def measured_alpha(estimator: Any, centred: Tensor, D: Tensor) -> float:
    """The estimator's alpha; "auto": that of these rows and atoms."""
    if estimator.alpha == "auto":
        return auto_alpha(centred, D, estimator._alpha_fraction(), positive=True)
    return float(estimator.alpha)


def _inputs(estimator: Any, x: Tensor, targets: Tensor, D: Tensor) -> tuple[Inputs, float]:
    """What an encoder starts from that sees x and has to find codes of the targets."""
    _, offset, scale = _centred(x, CENTRES[estimator.offset_init])
    few = slice(None, None, -(-len(x) // _regression_rows(D)))
    # atoms that share a row are told apart by the largest products, as by a k-sparse encoder
    k = estimator._sparsity() or max(1, D.shape[1] // 10)
    products = targets[few] @ D.T / D.square().sum(1)
    wanted = TopK(k, signed=not estimator.positive_code)(products)
    return Inputs(offset / scale, x[few] / scale, wanted), scale


def _regression_rows(D: Tensor) -> int:
    return min(max(LEAST_ROWS, WORK // D.numel()), MOST_ROWS)
