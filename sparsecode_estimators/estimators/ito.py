"""Inference-time optimisation: start from an encoder's codes, end at the optimum."""

from __future__ import annotations

from importlib.util import find_spec
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
import torch
from scipy import sparse
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.utils import get_tags
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from .arrays import Rows, optional_tensor, read_rows, to_array, to_tensor
from .base import SAMPLE_ROWS, SOLVER_ALPHA_FRACTION, BaseSparseCoder, Encode, auto_alpha, thawed
from .coding import SOLVER_CONSTRAINTS, Coder, EncodeInfo, check_solver
from .given import given_dictionary, given_weights
from .validation import Interval, StrOptions, _fit_context


class ITORefiner(BaseSparseCoder):
    r"""Refine the codes of an encoder for its own dictionary.

    The inner encoder guesses codes; from there a solver minimises

    .. math:: \tfrac12\|x - b - sD\|^2 + \alpha\sum_j w_j|s_j| + \tfrac{\rho}{2}\|s\|^2

    with the encoder's dictionary D and offset b, to a duality gap of ``tol`` or for
    ``max_iter`` iterations, whatever comes first. The difference of the objective before
    and after is the encoder's amortisation gap. It is a meta-estimator because a later step
    of a pipeline would see only codes and no longer X.

    Parameters
    ----------
    estimator : encoder or None, default=None
        Fitted inside on a clone; wrap a fitted one in ``sklearn.frozen.FrozenEstimator`` to
        use it as it is. An encoder of this package, or any transformer with
        ``components_`` whose ``transform`` gives codes for them; its offset is ``intercept_``,
        or scikit-learn's ``mean_``, or zero. None: sparse coding with ``dictionary``.
    dictionary : array-like of shape (n_components, n_features), callable or None, default=None
        Used in place of the encoder's; required without one.
    solver : str, default="auto"
        For the lasso "working_set", "fista", "lca", "homotopy" or "adam"; for k-sparse codes
        "omp", "omp_replacement", "stagewise", "ols", "matching_pursuit", "iht", "htp" or
        "l0"; the user guide tells them apart.
        "auto": "working_set" where its compiled loops serve, else "fista", also with
        ``tol=None``; for k-sparse codes "omp_replacement", or "omp" from zero. "homotopy"
        and "l0" find the same codes from any start: an encoder saves them nothing.
    alpha : float >= 0, "auto" or None, default=None
        None: the encoder's ``alpha_``; if it has none, or without an encoder, "auto", which
        is 1 % of the training rows' median ``alpha_max``.
    n_nonzero_coefs : int >= 1 or None, default=None
        Most non-zero codes of a row. None: with ``alpha=None`` the encoder's, if its
        activation is "topk", "abs_topk" or "batch_topk" (whose mean becomes the most of every
        row); otherwise the penalty alone sets the sparsity.
    init : {"encoder", "zeros"}, default="encoder"
        Where the solver starts.
    positive_code : bool or None, default=None
        None: the encoder's own ``positive_code`` if it has one, else True.
    max_iter : int >= 1, default=2000
        Most iterations for a row.
    tol : float > 0 or None, default=1e-6
        Duality gap, as a share of ``½‖x − b‖²``, at which a row is done. None: take exactly
        ``max_iter`` iterations, for a point on a curve of compute.
    weights : array-like of shape (n_components,) or None, default=None
        Factors of alpha, above 0, one for each atom; None: ones. Not for
        k-sparse codes.
    ridge : float >= 0, default=0.0
        Weight ρ of ``½‖s‖²``, which shares a code between like atoms (elastic net). Not
        for k-sparse codes.
    debias : bool, default=False
        Whether codes are refitted by least squares, non-negative for positive codes, on the
        support that was found. Takes back the shrinkage of the penalty. For "adam", whose
        codes never reach zero, the support is every atom.
    sparse_output : bool, default=False
        Whether ``transform`` returns CSR.
    device : str, default="auto"
        "auto": where a tensor X lies, else CUDA if there is one, else the CPU.

    Attributes
    ----------
    estimator_ : encoder
        The fitted encoder; absent without one.
    components_, intercept_ : ndarray
        Dictionary (n_components, n_features) and offset (n_features,) in use.
    n_components_ : int
    alpha_ : float
    weights_ : ndarray of shape (n_components_,) or None
        The weights in use.
    positive_code_ : bool
        The sign rule in use.
    n_nonzero_coefs_ : int or None
        Most active codes of a row; None: the penalty alone limits them. This, ``alpha_``,
        ``weights_`` and ``positive_code_`` stay as ``fit`` found them.
    n_iter_ : int
        1: ``fit`` does not iterate beyond the inner fit.
    device_ : str
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (n_features_in_,)

    Raises
    ------
    ValueError
        In ``fit``, with neither an estimator nor a dictionary, for a dictionary of another
        shape than the encoder's, an encoder without ``components_``, or one with
        ``objective="targets"``.

    See Also
    --------
    SparseCodingEncoder : The same solvers, without an encoder to start from.
    sparse_encode : The same inference as a function, with certificates.

    References
    ----------
    O'Neill, Gumran & Klindt (2025), arXiv 2411.13117, "SAE + ITO". (The published curves
    do not start from the SAE's codes; this one does.)

    Examples
    --------
    >>> from sparsecode_estimators import ITORefiner, SAEEncoder
    >>> from sparsecode_estimators.datasets import make_sparse_codes
    >>> data = make_sparse_codes(500, 8, 16, 3, random_state=0)
    >>> sae = SAEEncoder(16, dictionary=data.dictionary, max_iter=50, random_state=0)
    >>> ito = ITORefiner(sae, alpha=0.0025).fit(data.X)
    >>> bool(ito.score(data.X) > ito.estimator_.score(data.X))
    True
    """

    _parameter_constraints: ClassVar[dict] = {
        **SOLVER_CONSTRAINTS,
        "estimator": "no_validation",
        "dictionary": ["array-like", callable, None],
        "alpha": [StrOptions({"auto"}), Interval(Real, 0, None, closed="left"), None],
        "init": [StrOptions({"encoder", "zeros"})],
        "positive_code": ["boolean", None],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "sparse_output": ["boolean"],
        "device": [str, torch.device],
    }

    def __init__(
        self,
        estimator=None,
        *,
        dictionary=None,
        solver="auto",
        alpha=None,
        n_nonzero_coefs=None,
        init="encoder",
        positive_code=None,
        max_iter=2000,
        tol=1e-6,
        weights=None,
        ridge=0.0,
        debias=False,
        sparse_output=False,
        device="auto",
    ):
        self.estimator = estimator
        self.dictionary = dictionary
        self.solver = solver
        self.alpha = alpha
        self.n_nonzero_coefs = n_nonzero_coefs
        self.init = init
        self.positive_code = positive_code
        self.max_iter = max_iter
        self.tol = tol
        self.weights = weights
        self.ridge = ridge
        self.debias = debias
        self.sparse_output = sparse_output
        self.device = device

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        if self.estimator is not None:
            tags.target_tags.required = get_tags(self.estimator).target_tags.required
        return tags

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X: Any, y: Any = None) -> ITORefiner:
        """Fit a clone of the encoder, and take over its dictionary.

        Parameters
        ----------
        X : array-like, CSR matrix, data frame, Tensor or ActivationStore
            Of shape (n_samples, n_features). What the encoder's ``fit`` takes.
        y : array-like, default=None
            Handed to the encoder's ``fit``.

        Returns
        -------
        self
        """
        rows = read_rows(self, X, reset=True, device=self.device)
        if getattr(self.estimator, "objective", None) == "targets":
            raise ValueError(
                "estimator has objective='targets': its dictionary is one of y, and codes cannot "
                "be refined from X alone. Refine an encoder of y, or sparse_encode y itself."
            )
        if self.estimator is None and self.dictionary is None:
            raise ValueError(
                "estimator=None and dictionary=None: ITORefiner needs an encoder to refine, or a "
                "dictionary to code with."
            )
        known = given_dictionary("dictionary", self.dictionary, rows, self._expected_width())
        self._check_problem(known)
        inner = self._fit_inner(X, y)
        D = self._dictionary(known, inner)
        if D.shape[1] != rows.n_features:
            raise ValueError(
                f"estimator={type(inner).__name__} was fitted to {D.shape[1]} features, but X has "
                f"{rows.n_features}: give it the rows that it is for."
            )
        self.components_ = to_array(to_tensor(D, rows), rows)
        offset = getattr(inner, "intercept_", getattr(inner, "mean_", None))
        offset = np.zeros(rows.n_features) if offset is None else offset
        self.intercept_ = to_array(to_tensor(offset, rows), rows)
        self.n_components_ = len(self.components_)
        self._choose_problem(inner, rows)
        self.n_iter_ = 1
        self.device_ = str(rows.device)
        return self

    def _expected_width(self) -> int | None:
        """How many atoms the encoder will have, as far as that can be known before its fit."""
        width = getattr(thawed(self.estimator), "n_components", None)
        return int(width) if isinstance(width, Integral) else None

    def _k_sparse(self) -> bool:
        if self.n_nonzero_coefs is not None or self.alpha is not None:
            return self.n_nonzero_coefs is not None
        outer = thawed(self.estimator)
        return isinstance(outer, BaseSparseCoder) and outer._k_sparse()

    def _check_problem(self, known: np.ndarray | None) -> None:
        """Whether the parameters suit each other, before the encoder's fit, which may be long."""
        positive = self.positive_code
        if positive is None:
            positive = _sign_rule(self.estimator)
        self.positive_code_: bool = positive
        check_solver(
            self.solver,
            k_sparse=self._k_sparse(),
            positive=positive,
            weighted=self.weights is not None,
            ridge=self.ridge,
        )
        width = self._expected_width() if known is None else len(known)
        if self.weights is not None:
            given_weights(self.weights, np.size(self.weights) if width is None else width)

    def _fit_inner(self, X: Any, y: Any) -> Any:
        """The fitted encoder, without the wrapper that froze it."""
        if self.estimator is None:
            if hasattr(self, "estimator_"):
                del self.estimator_
            return None
        # data frames coming out of an inner transform could not be started from
        self.estimator_: Any = clone(self.estimator)
        if hasattr(self.estimator_, "set_output") and not isinstance(
            self.estimator_, FrozenEstimator
        ):
            self.estimator_.set_output(transform="default")
        self.estimator_.fit(X, y)
        return self._inner()

    def _inner(self) -> Any:
        return thawed(getattr(self, "estimator_", None))

    @staticmethod
    def _dictionary(known: np.ndarray | None, inner: Any) -> np.ndarray:
        if inner is None:
            assert known is not None
            return known
        components = getattr(inner, "components_", None)
        if components is None:
            raise ValueError(
                f"estimator={type(inner).__name__} has no components_ after fit: ITORefiner needs "
                "the dictionary that its codes are for."
            )
        if known is not None and np.shape(components) != known.shape:
            raise ValueError(
                f"dictionary has shape {known.shape}, but the encoder's codes are for components_ "
                f"of shape {np.shape(components)}: give a dictionary of that shape, or "
                "estimator=None."
            )
        return np.asarray(components) if known is None else known

    def _choose_problem(self, inner: Any, rows: Rows) -> None:
        """alpha, k and weights: what was asked for, else what the encoder has."""
        k = self.n_nonzero_coefs
        if k is None and self._k_sparse():
            k = inner._sparsity()
        self.n_nonzero_coefs_: int | None = k
        self.weights_ = given_weights(self.weights, self.n_components_)
        alpha = getattr(inner, "alpha_", "auto") if self.alpha is None else self.alpha
        if isinstance(alpha, str):
            x = rows.sample(SAMPLE_ROWS) - to_tensor(self.intercept_, rows)
            alpha = auto_alpha(
                x,
                to_tensor(self.components_, rows),
                SOLVER_ALPHA_FRACTION,
                positive=self.positive_code_,
                weights=optional_tensor(self.weights_, rows),
            )
        self.alpha_ = float(alpha)

    def _sparsity(self) -> int | None:
        return self.n_nonzero_coefs_

    def _encoder(self, rows: Rows) -> _Refine:
        k, positive = self.n_nonzero_coefs_, self.positive_code_
        coder = Coder.of(self, rows, k=k, positive=positive, max_iter=self.max_iter)
        return _Refine(coder, self._starter(rows))

    def _starter(self, rows: Rows) -> Encode | None:
        inner = self._inner()
        if inner is None or self.init == "zeros":
            return None
        check_is_fitted(inner)
        if isinstance(inner, BaseSparseCoder):
            return inner._encoder(rows)
        return lambda x: to_tensor(_dense(inner.transform(_named(x, inner))), rows)

    def _after_transform(self, encode: Any) -> None:
        encode.coder.warn("max_iter")


def _named(x: Tensor, inner: Any) -> Any:
    """Rows for an encoder that is not of this package, with the names that its columns had."""
    names = getattr(inner, "feature_names_in_", None)
    if names is None or find_spec("pandas") is None:
        return x.cpu().numpy()
    import pandas as pd

    return pd.DataFrame(x.cpu().numpy(), columns=names)


def _sign_rule(estimator: Any) -> bool:
    """Whether an encoder's codes are positive; a refiner may leave that to its own encoder."""
    frozen = False
    while estimator is not None:
        frozen = frozen or isinstance(estimator, FrozenEstimator)
        inner = thawed(estimator)
        for name in ("positive_code_", "positive_code") if frozen else ("positive_code",):
            rule = getattr(inner, name, None)
            if rule is not None:
                return bool(rule)
        estimator = getattr(inner, "estimator", None)
    return True


def _dense(codes: Any) -> np.ndarray:
    """Codes of an encoder that is not of this package."""
    return codes.toarray() if sparse.issparse(codes) else np.asarray(codes)


class _Refine:
    """First the encoder, then the solver."""

    def __init__(self, coder: Coder, starter: Encode | None) -> None:
        self.coder = coder
        self.starter = starter

    @property
    def loops(self) -> bool:
        return self.coder.loops

    def info(self) -> EncodeInfo:
        """What the solver says of all batches so far."""
        return self.coder.info()

    def __call__(self, x: Tensor) -> Tensor:
        return self.coder(x, None if self.starter is None else self.starter(x))
