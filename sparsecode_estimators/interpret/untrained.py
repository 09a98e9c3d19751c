"""The encoder that has learned nothing: what explanations of its latents score is no merit."""

from typing import Any

import numpy as np
import torch
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from ..estimators.arrays import read_rows
from ..estimators.base import SAMPLE_ROWS, make_generator
from ..estimators.pretrained import sae_from_parameters
from ..estimators.sae import SAEEncoder
from ..learning.atoms import unit
from .streams import iter_codes

_ROWS = 1024  # encoded at a time


def random_encoder(estimator: Any, X: Any, *, random_state: Any = None) -> SAEEncoder:
    r"""An SAE with random atoms, of the shape, the offset and the sparsity of an encoder.

    Atoms are uniform on the unit sphere, and the encoder is their transpose. So latent j of a
    row is :math:`\sigma(\langle x - b, d_j\rangle)`, with nothing in it that was learned but
    b. Codes are as sparse as those of `estimator`: where it keeps the k largest of a row, or
    codes may be negative, this keeps as many (on average over X, rounded); otherwise those
    above one threshold for all, at which L0 is the same on X.

    Explain and score its latents as those of the encoder: what they reach is due to the text,
    to the judge, and to directions in which all rows vary, and not to the training.

    Parameters
    ----------
    estimator : fitted encoder
        Of this package, refined or not, frozen or not, or anything with ``transform`` and
        ``components_``. Of a pipeline give the last step, and X as that sees it. Of a transcoder
        (``objective="targets"``) the atoms here are in the space of X.
    X : array-like, memory map, ActivationStore or Tensor of shape (n_samples, n_features)
        Rows on which sparsity is matched: those that are encoded later. Of more than 16,384 as
        many, evenly spread.
    random_state : int, RandomState or None, default=None
        Of the atoms.

    Returns
    -------
    SAEEncoder
        Fitted, with ``activation`` "topk", "abs_topk" or "batch_topk". It has no ``alpha_``.

    Raises
    ------
    TypeError
        If `estimator` is a pipeline, or has no ``transform`` or ``components_``.
    NotFittedError
        If it has not been fitted.
    ValueError
        If its codes of X are all zero, or X is of another width, empty or not finite.

    See Also
    --------
    compare_encoders : The scores of both.
    score_explanations : Has the other baseline, explanations of other latents.

    Notes
    -----
    About half of all products with random atoms are positive: codes that are less sparse than
    that are not matched.

    References
    ----------
    Heap, Lawson, Farnik & Aitchison (2025), "Sparse autoencoders can interpret randomly
    initialized transformers", arXiv:2501.17727, for why a control is needed.

    Examples
    --------
    >>> from sparsecode_estimators import SAEEncoder
    >>> from sparsecode_estimators.datasets import make_sparse_codes
    >>> from sparsecode_estimators.interpret import random_encoder
    >>> from sparsecode_estimators.metrics import l0
    >>> X = make_sparse_codes(500, 8, 32, 3, random_state=0).X
    >>> sae = SAEEncoder(32, activation="topk", n_nonzero_coefs=3, random_state=0).fit(X)
    >>> control = random_encoder(sae, X, random_state=0)
    >>> control.components_.shape, l0(control.transform(X)) == l0(sae.transform(X))
    ((32, 8), True)
    >>> bool(control.score(X) < sae.score(X))
    True
    """
    _check(estimator)
    D, b = _random_atoms(estimator, random_state), _offset(estimator)
    sae = sae_from_parameters(
        encoder=D.T.numpy(),
        encoder_bias=np.zeros(len(D)),
        dictionary=D.numpy(),
        offset=b.numpy(),
        activation="topk",  # until it is known how sparse codes have to be
    )
    if hasattr(estimator, "feature_names_in_"):
        sae.feature_names_in_ = estimator.feature_names_in_
    rows = read_rows(sae, X, reset=False, device="cpu")
    x = rows.using(D.dtype).sample(SAMPLE_ROWS)
    n_active, signed = _activity(estimator, X if len(x) == len(rows) else x.numpy())
    k = max(1, round(n_active / len(x)))
    if signed or _keeps_k(estimator):
        sae.set_params(activation="abs_topk" if signed else "topk", n_nonzero_coefs=k)
    else:
        sae.set_params(activation="batch_topk", n_nonzero_coefs=k)
        sae.threshold_ = _threshold(x - b, D, n_active).numpy()
    return sae.set_params(sparse_output=getattr(estimator, "sparse_output", False))


def _check(estimator: Any) -> None:
    if isinstance(estimator, Pipeline):
        raise TypeError(
            "estimator is a Pipeline: give its last step, pipeline[-1], and for X what that sees, "
            "pipeline[:-1].transform(X)."
        )
    if not hasattr(estimator, "transform"):
        raise TypeError(
            f"estimator ({type(estimator).__name__}) has no transform; give a fitted encoder."
        )
    check_is_fitted(estimator)
    if not hasattr(estimator, "components_"):
        raise TypeError(
            f"estimator ({type(estimator).__name__}) has no components_, which say how many "
            "latents there are; give a fitted encoder."
        )


def _random_atoms(estimator: Any, random_state: Any) -> Tensor:
    shape = len(estimator.components_), estimator.n_features_in_
    atoms = unit(torch.randn(shape, generator=make_generator(random_state), dtype=torch.float64))
    return atoms.to(torch.from_numpy(np.empty(0, np.asarray(estimator.components_).dtype)).dtype)


def _offset(estimator: Any) -> Tensor:
    """What is taken off the rows of X."""
    of_rows = getattr(estimator, "intercept_", np.zeros(estimator.n_features_in_))
    return torch.as_tensor(
        np.asarray(
            getattr(estimator, "input_intercept_", of_rows),
            dtype=np.asarray(estimator.components_).dtype,
        )
    )


def _keeps_k(estimator: Any) -> bool:
    """Whether a number limits the codes of every row by itself."""
    sparsity = getattr(estimator, "_sparsity", None)
    if sparsity is None or getattr(estimator, "activation", None) == "batch_topk":
        return False
    return sparsity() is not None


def _activity(estimator: Any, X: Any) -> tuple[int, bool]:
    """How many codes are not zero, and whether any is below."""
    n_active, signed = 0, False
    for codes in iter_codes(estimator, X, n_rows=_ROWS):
        n_active += int(np.count_nonzero(codes.data))
        signed = signed or bool((codes.data < 0).any())
    if n_active == 0:
        raise ValueError(
            "estimator gives no code of X that is not zero: there is no sparsity to match. Give "
            "rows like those that it was fitted on."
        )
    return n_active, signed


def _threshold(centred: Tensor, D: Tensor, n_active: int) -> Tensor:
    """What as many products with atoms reach; above zero."""
    floor = torch.finfo(D.dtype).tiny
    top = D.new_empty(0)
    for rows in centred.split(_ROWS):
        products = rows @ D.T
        top = torch.cat([top, products[products >= floor]])
        if len(top) > n_active:
            top = top.topk(n_active, sorted=False).values
            floor = top.min().item()
    return top.min() if len(top) == n_active else D.new_tensor(floor)
