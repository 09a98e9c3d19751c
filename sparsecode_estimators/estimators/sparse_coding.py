"""Sparse coding: solve for the codes, for a known dictionary or a learned one."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ..inference import SOLVERS
from ..learning.dictionary import initial_dictionary, learn_dictionary
from .arrays import Rows, optional_tensor, read_rows, to_array, to_tensor
from .base import SAMPLE_ROWS, SOLVER_ALPHA_FRACTION, BaseSparseCoder, auto_alpha, make_generator
from .coding import Coder, check_solver
from .validation import Interval, StrOptions, _fit_context, given_dictionary, given_weights


class SparseCodingEncoder(BaseSparseCoder):
    r"""Codes that minimise the objective, with a certificate, and the dictionary for them.

    .. math:: \tfrac12\|x - b - sD\|^2 + \alpha\sum_j w_j|s_j| + \tfrac{\rho}{2}\|s\|^2

    is solved for every row, to a duality gap of ``tol``; by default w = 1 and ρ = 0. Nothing
    is amortised: it is the optimum that one-pass encoders try to guess, at a higher price
    per row.

    With ``dictionary`` given, ``fit`` only sets ``alpha``. Otherwise the dictionary is
    learned: codes and unit-norm atoms in alternation, alpha annealed from large to its
    value, dead and duplicate atoms replaced, ``n_init`` restarts of which the lowest
    training objective wins.

    Parameters
    ----------
    n_components : int or None, default=None
        Number of atoms; None: as many as ``dictionary`` has, else 8 × n_features.
    alpha : float >= 0 or "auto", default="auto"
        Weight of ``‖s‖₁`` on the scale of x. "auto": 1 % of the median ``alpha_max`` of the
        training rows, so that multiplying X by a number multiplies the codes by it.
    n_nonzero_coefs : int >= 1 or None, default=None
        If given, ``transform`` solves for codes with at most this many non-zeros in place of
        the penalty (at most n_components and n_features are used). A dictionary is still
        learned with the penalty, which has fewer bad minima.
    solver : str, default="auto"
        Of ``transform``. For the lasso "fista", "lca", "homotopy" or "adam"; for k-sparse
        codes "omp", "omp_replacement", "ols", "matching_pursuit", "iht", "htp" or "l0"; the
        user guide tells them apart.
        "auto": "fista", or "omp" with ``n_nonzero_coefs``.
    dictionary : array-like of shape (n_components, n_features), callable or None, default=None
        Known dictionary, used as it is: give its atoms unit norm. A callable gets
        ``(n_components, n_features)`` and returns the array, for bases known by formula.
    dict_init : array-like of shape (n_components, n_features) or None, default=None
        Where the first restart begins; the others begin at random rows.
    positive_code : bool, default=True
        Whether codes must not be negative.
    fit_intercept : bool, default=False
        Whether to learn the offset b. Without it ``b = 0``.
    n_init : int >= 1, default=10
        Restarts of dictionary learning. The worse half is given up after 30 % and 60 % of
        the rounds.
    max_iter : int >= 1, default=300
        Rounds of dictionary learning.
    transform_max_iter : int >= 1, default=2000
        Most iterations of the solver for a row.
    tol : float > 0 or None, default=1e-6
        Duality gap, as a share of ``½‖x − b‖²``, at which a row is done. None: take exactly
        ``transform_max_iter`` iterations.
    weights : array-like of shape (n_components,) or None, default=None
        Factors of alpha, above 0, one for each atom; None: ones. Only with
        ``dictionary``: atoms to be learned have no identity that a weight could belong to.
        Not for k-sparse codes.
    ridge : float >= 0, default=0.0
        Weight ρ of ``½‖s‖²``, which shares a code between like atoms (elastic net).
        A dictionary is learned without it: it is used by ``transform``. Not for k-sparse codes.
    debias : bool, default=False
        Whether codes are refitted by least squares, non-negative for positive codes, on the
        support that was found. Takes back the shrinkage of the penalty. For "adam", whose
        codes never reach zero, the support is every atom.
    sparse_output : bool, default=False
        Whether ``transform`` returns CSR.
    random_state : int, RandomState or None, default=None
    device : str, default="auto"
        "auto": where a tensor X lies, else CUDA if there is one, else the CPU.
    precision : {"float32", "float64"}, default="float32"
        Arithmetic of dictionary learning. ``transform`` computes in the type of X.
    verbose : int, default=0
        At 1 a line each time restarts are compared.

    Attributes
    ----------
    components_ : ndarray of shape (n_components_, n_features)
        The dictionary.
    intercept_ : ndarray of shape (n_features,)
        The offset b.
    n_components_ : int
    alpha_ : float
        The alpha in use.
    weights_ : ndarray of shape (n_components_,) or None
        The weights in use.
    loss_ : float
        Objective on the training rows, mean over rows; NaN with a known dictionary.
    loss_curve_ : list of float
        The best restart's objective after each stage.
    n_iter_ : int
        Rounds run; 1 with a known dictionary.
    device_ : str
        Where ``fit`` ran.
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (n_features_in_,)

    Raises
    ------
    ValueError
        In ``fit``, for parameters or data out of range or of the wrong shape.

    See Also
    --------
    sparse_encode : The same inference as a function.
    ITORefiner : Starts from another encoder's codes.

    Notes
    -----
    Learning keeps the codes of all rows, n_samples × n_components numbers.

    References
    ----------
    Mairal, Bach, Ponce & Sapiro (2010), "Online learning for matrix factorization and sparse
    coding"; O'Neill, Gumran & Klindt (2025), arXiv 2411.13117, section 4.

    Examples
    --------
    >>> from sparsecode_estimators import SparseCodingEncoder
    >>> from sparsecode_estimators.datasets import make_sparse_codes
    >>> from sparsecode_estimators.metrics import mean_corr_coef
    >>> data = make_sparse_codes(500, 8, 16, 3, random_state=0)
    >>> coder = SparseCodingEncoder(dictionary=data.dictionary, alpha=0.0025)
    >>> codes = coder.fit_transform(data.X)
    >>> bool(mean_corr_coef(data.codes, codes) > 0.98)
    True
    """

    _parameter_constraints: ClassVar[dict] = {
        "n_components": [Interval(Integral, 1, None, closed="left"), None],
        "alpha": [StrOptions({"auto"}), Interval(Real, 0, None, closed="left")],
        "n_nonzero_coefs": [Interval(Integral, 1, None, closed="left"), None],
        "solver": [StrOptions({"auto", *SOLVERS})],
        "dictionary": ["array-like", callable, None],
        "dict_init": ["array-like", None],
        "positive_code": ["boolean"],
        "fit_intercept": ["boolean"],
        "n_init": [Interval(Integral, 1, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "transform_max_iter": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="neither"), None],
        "weights": ["array-like", None],
        "ridge": [Interval(Real, 0, None, closed="left")],
        "debias": ["boolean"],
        "sparse_output": ["boolean"],
        "random_state": ["random_state"],
        "device": [str, torch.device],
        "precision": [StrOptions({"float32", "float64"})],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        n_components=None,
        *,
        alpha="auto",
        n_nonzero_coefs=None,
        solver="auto",
        dictionary=None,
        dict_init=None,
        positive_code=True,
        fit_intercept=False,
        n_init=10,
        max_iter=300,
        transform_max_iter=2000,
        tol=1e-6,
        weights=None,
        ridge=0.0,
        debias=False,
        sparse_output=False,
        random_state=None,
        device="auto",
        precision="float32",
        verbose=0,
    ):
        self.n_components = n_components
        self.alpha = alpha
        self.n_nonzero_coefs = n_nonzero_coefs
        self.solver = solver
        self.dictionary = dictionary
        self.dict_init = dict_init
        self.positive_code = positive_code
        self.fit_intercept = fit_intercept
        self.n_init = n_init
        self.max_iter = max_iter
        self.transform_max_iter = transform_max_iter
        self.tol = tol
        self.weights = weights
        self.ridge = ridge
        self.debias = debias
        self.sparse_output = sparse_output
        self.random_state = random_state
        self.device = device
        self.precision = precision
        self.verbose = verbose

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any = None) -> SparseCodingEncoder:
        """Learn the dictionary, or take the given one.

        Parameters
        ----------
        X : array-like, CSR matrix, data frame or Tensor of shape (n_samples, n_features)
        y : ignored
            Scorers may use it as the truth.

        Returns
        -------
        self
        """
        check_solver(
            self.solver,
            k_sparse=self.n_nonzero_coefs is not None,
            positive=self.positive_code,
            weighted=self.weights is not None,
            ridge=self.ridge,
        )
        if self.weights is not None and self.dictionary is None:
            raise ValueError(
                "weights are for atoms that are known, but dictionary=None asks for atoms to be "
                "learned, which have no identity yet: give a dictionary, or leave weights=None."
            )
        rows = read_rows(self, X, reset=True, device=self.device)
        known = given_dictionary("dictionary", self.dictionary, rows, self.n_components)
        initial = given_dictionary("dict_init", self.dict_init, rows, self.n_components)
        self.device_ = str(rows.device)
        if known is not None:
            self._take(known, rows)
        else:
            self._learn(initial, rows)
        self.n_components_ = int(self.components_.shape[0])
        return self

    def _take(self, D: np.ndarray, rows: Rows) -> None:
        x = rows.sample(SAMPLE_ROWS)
        offset = x.mean(0) if self.fit_intercept else x.new_zeros(x.shape[1])
        atoms = to_tensor(D, rows)
        self.weights_ = given_weights(self.weights, len(atoms))
        self.alpha_ = self._alpha(x - offset, atoms, optional_tensor(self.weights_, rows))
        self.components_, self.intercept_ = to_array(atoms, rows), to_array(offset, rows)
        self.loss_, self.n_iter_ = float("nan"), 1
        self.loss_curve_: list[float] = []

    def _learn(self, initial: np.ndarray | None, rows: Rows) -> None:
        work = rows.using(getattr(torch, self.precision))
        generator = make_generator(self.random_state)
        x = work.read(slice(0, len(work)))
        mean = x.mean(0) if self.fit_intercept else x.new_zeros(x.shape[1])
        x = x - mean  # a far-away origin would hide what alpha is measured by
        n_components = self.n_components or (
            8 * rows.n_features if initial is None else len(initial)
        )
        start = (
            initial_dictionary(x, n_components, generator)
            if initial is None
            else to_tensor(initial, work)
        )
        self.weights_ = None
        self.alpha_ = self._alpha(x, start)
        with torch.no_grad():
            best, curve = learn_dictionary(
                x,
                start,
                alpha=self.alpha_,
                positive=self.positive_code,
                learn_offset=self.fit_intercept,
                n_init=self.n_init,
                max_iter=self.max_iter,
                generator=generator,
                report=self._report,
            )
        self.components_, self.intercept_ = (
            to_array(best.D, rows),
            to_array(mean + best.offset, rows),
        )
        self.loss_, self.loss_curve_, self.n_iter_ = best.loss, curve, self.max_iter

    def _alpha(self, x: Tensor, D: Tensor, weights: Tensor | None = None) -> float:
        if self.alpha == "auto":
            return auto_alpha(
                x, D, SOLVER_ALPHA_FRACTION, positive=self.positive_code, weights=weights
            )
        return float(self.alpha)

    def _report(self, iteration: int, loss: float) -> None:
        if self.verbose:
            print(f"round {iteration}/{self.max_iter}: objective {loss:.6g}")  # noqa: T201

    def _sparsity(self) -> int | None:
        return self.n_nonzero_coefs

    def _encoder(self, rows: Rows) -> Coder:
        return Coder(
            D=to_tensor(self.components_, rows),
            offset=to_tensor(self.intercept_, rows),
            alpha=self.alpha_,
            k=self.n_nonzero_coefs,
            solver=self.solver,
            positive=self.positive_code,
            max_iter=self.transform_max_iter,
            tol=self.tol,
            weights=optional_tensor(self.weights_, rows),
            ridge=self.ridge,
            debias=self.debias,
        )

    def _after_transform(self, encode: Any) -> None:
        encode.warn("transform_max_iter")
