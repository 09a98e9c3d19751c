"""Scorers for model selection: callables ``(estimator, X, y=None) -> float``.

Each works on anything with `transform` (and `inverse_transform`), so also on a
pipeline, whatever kind of container its codes come in.
"""

from typing import Any

from .correlation import mean_corr_coef
from .inputs import as_codes
from .reconstruction import explained_variance
from .sparsity import l0


def mcc_scorer(estimator: Any, X: Any, y: Any = None) -> float:
    """`mean_corr_coef` of the codes of `X` with the true codes `y`.

    Parameters
    ----------
    estimator : object
        Fitted, with `transform`.
    X : array-like of shape (n_samples, n_features)
    y : array-like or CSR of shape (n_samples, n_true)
        The true codes, as in ``GridSearchCV(...).fit(X, codes)``.

    Returns
    -------
    float
        Between 0 and 1, higher is better.

    Raises
    ------
    ValueError
        If `y` is None, or holds no codes but what an encoder with ``objective="targets"`` predicts.

    See Also
    --------
    mean_corr_coef : The same of two arrays.

    Examples
    --------
    >>> from sparsecode_estimators import SparseCodingEncoder
    >>> from sparsecode_estimators.datasets import make_sparse_codes
    >>> from sparsecode_estimators.metrics import mcc_scorer
    >>> data = make_sparse_codes(500, 8, 16, 3, random_state=0)
    >>> coder = SparseCodingEncoder(dictionary=data.dictionary, alpha=0.0025).fit(data.X)
    >>> bool(mcc_scorer(coder, data.X, data.codes) > 0.98)
    True
    """
    if _predicts_targets(estimator):
        raise ValueError(
            "mcc_scorer compares with true codes, but with objective='targets' y holds other "
            "activations: use reconstruction_scorer."
        )
    if y is None:
        raise ValueError(
            "y=None, but mcc_scorer compares with the true codes: pass them as y, as in "
            "search.fit(X, codes), or use reconstruction_scorer, which needs no truth."
        )
    return mean_corr_coef(as_codes(y, "y", min_samples=2), estimator.transform(X))


def reconstruction_scorer(estimator: Any, X: Any, y: Any = None) -> float:
    """`explained_variance` of `X` by ``inverse_transform(transform(X))``.

    On a pipeline this is measured in the space of `X`, before any scaling. Of an encoder with
    ``objective="targets"`` it is the `explained_variance` of `y`, its own ``score(X, y)``.

    Parameters
    ----------
    estimator : object
        Fitted, with `transform` and `inverse_transform`.
    X : array-like of shape (n_samples, n_features)
    y : array-like of shape (n_samples, n_targets), default=None
        Used with ``objective="targets"`` only.

    Returns
    -------
    float
        At most 1, higher is better.

    See Also
    --------
    explained_variance : The same of two arrays.

    Examples
    --------
    >>> import numpy as np
    >>> from sparsecode_estimators import SparseCodingEncoder
    >>> from sparsecode_estimators.metrics import reconstruction_scorer
    >>> X = np.array([[3.0, 0.5], [0.0, 4.0]])
    >>> coder = SparseCodingEncoder(dictionary=np.eye(2), alpha=0.0).fit(X)
    >>> round(reconstruction_scorer(coder, X), 6)
    1.0
    """
    if _predicts_targets(estimator):
        return float(estimator.score(X, y))
    codes = _without_frame(estimator.transform(X))
    return explained_variance(X, estimator.inverse_transform(codes))


def sparsity_scorer(estimator: Any, X: Any, y: Any = None) -> float:
    """Minus the mean number of active latents, so that higher is sparser.

    Parameters
    ----------
    estimator : object
        Fitted, with `transform`.
    X : array-like of shape (n_samples, n_features)
    y : ignored

    Returns
    -------
    float
        Between -n_components and 0.

    See Also
    --------
    l0 : The same of an array.

    Examples
    --------
    >>> import numpy as np
    >>> from sparsecode_estimators import SparseCodingEncoder
    >>> from sparsecode_estimators.metrics import sparsity_scorer
    >>> X = np.array([[3.0, 0.5], [0.0, 4.0]])
    >>> sparsity_scorer(SparseCodingEncoder(dictionary=np.eye(2), alpha=1.0).fit(X), X)
    -1.0
    """
    return -l0(estimator.transform(X))


#: For ``GridSearchCV(..., scoring=SCORERS, refit="reconstruction")``.
SCORERS = {
    "mcc": mcc_scorer,
    "reconstruction": reconstruction_scorer,
    "sparsity": sparsity_scorer,
}


def _predicts_targets(estimator: Any) -> bool:
    """Whether codes reconstruct something else than X."""
    last = estimator.steps[-1][1] if hasattr(estimator, "steps") else estimator
    return getattr(last, "objective", None) == "targets"


def _without_frame(codes: Any) -> Any:
    """The array inside a data frame: not every `inverse_transform` takes a frame."""
    return codes.to_numpy() if hasattr(codes, "columns") else codes
