"""Sparse coding: solve for the codes, for a known dictionary or a learned one."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any, ClassVar

import torch

from ..learning.atoms import ATOM_UPDATES
from .arrays import Rows
from .coding import SOLVER_CONSTRAINTS, Coder
from .learned import DictionaryLearner
from .validation import Interval, StrOptions


class SparseCodingEncoder(DictionaryLearner):
    r"""Codes that minimise the objective, with a certificate, and the dictionary for them.

    .. math:: \tfrac12\|x - b - sD\|^2 + \alpha\sum_j w_j|s_j| + \tfrac{\rho}{2}\|s\|^2

    is solved for every row, to a duality gap of ``tol``; by default w = 1 and ρ = 0. Nothing
    is amortised: it is the optimum that one-pass encoders try to guess, at a higher price
    per row.

    With ``dictionary`` given, ``fit`` only sets ``alpha``. Otherwise the dictionary is
    learned: codes and unit-norm atoms in alternation, with inertia, alpha annealed from
    large to its value, dead and duplicate atoms replaced, ``n_init`` restarts of which the
    lowest training objective wins. ``batch_size`` and ``partial_fit`` learn it from batches, in
    memory that does not grow with the number of rows.

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
        Of ``transform``. For the lasso "working_set", "fista", "lca", "homotopy" or "adam"; for
        k-sparse codes "omp", "omp_replacement", "stagewise", "ols", "matching_pursuit", "iht",
        "htp" or "l0"; the user guide tells them apart.
        "auto": "working_set" where its compiled loops serve, else "fista", also with
        ``tol=None``; "omp" with ``n_nonzero_coefs``.
    dictionary : array-like of shape (n_components, n_features), callable or None, default=None
        Known dictionary, used as it is: give its atoms unit norm. A callable gets
        ``(n_components, n_features)`` and returns the array, for bases known by formula.
    dict_init : array-like of shape (n_components, n_features) or None, default=None
        Where the first restart begins, for example ``components_`` of an SAE, scaled to
        unit norm; the others begin at random rows. With ``n_init=1`` it is the only one.
    dict_update : {"bcd", "mod", "ksvd"}, default="bcd"
        How atoms follow the codes. "bcd": one after the other to its minimiser. "mod": all
        at once by least squares, then scaled, which ends a few per cent above the objective
        of the others. "ksvd": approximate K-SVD, each atom together
        with the codes that use it; not with ``batch_size`` or ``partial_fit``.
    positive_code : bool, default=True
        Whether codes must not be negative.
    positive_dict : bool, default=False
        Whether learned atoms must not be negative. With positive codes this is non-negative
        matrix factorisation with a penalty.
    fit_intercept : bool, default=False
        Whether to learn the offset b. Without it ``b = 0``.
    n_init : int >= 1 or "auto", default="auto"
        Restarts of dictionary learning. The worse half is given up after 30 % and 60 % of
        the rounds. "auto": 16 with up to 128 atoms, 1 with more, where a start is dear and
        at worst misses an atom or two.
    max_iter : int >= 1, default=50
        Rounds of dictionary learning; 30 are enough for hundreds of atoms. With
        ``batch_size`` most passes over X: they end when alpha has arrived, after 300
        batches, and a pass lowers the objective by less than a thousandth.
    batch_size : int >= 1 or None, default=None
        None: ``fit`` keeps the codes of all rows and updates the atoms once a round, and
        ``partial_fit`` takes its chunk as one batch. Else the rows are read in batches of
        this size, and the atoms are updated after each.
    warm_start : bool, default=False
        Whether ``fit`` goes on from the last one: from its dictionary alone, with alpha at
        its value and no restarts.
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
        Objective on the training rows, mean over rows; NaN with a known dictionary. After
        ``partial_fit`` the running mean over the rows it was given, each at the dictionary
        before it was learned from and, in the first 300 batches, at the larger alpha of its batch.
    loss_curve_ : list of float
        The best restart's objective after each stage (of a single one at the end), or, as a
        running mean, after each pass or call of ``partial_fit``.
    n_iter_ : int
        Rounds, passes or calls of ``partial_fit`` run; 1 with a known dictionary.
    n_steps_ : int
        Updates of the atoms.
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
    Learning from all rows at once keeps their codes, n_samples × n_components numbers for
    each restart. Learning from batches keeps the moments :math:`\sum_i w_i s_i^\top s_i` and
    :math:`\sum_i w_i s_i^\top x_i`, n_components × (n_components + n_features) numbers for
    each restart, whatever n_samples is. A row that was seen when there were t weighs
    :math:`w = (t/T)^2` when there are T; ``fit`` counts t back by one pass at most. All restarts
    see every batch; they are compared by the objective of rows at the dictionary before it
    was learned from them, after 90, 180 and 300 batches, and then one is left.

    References
    ----------
    Mairal, Bach, Ponce & Sapiro (2010), "Online learning for matrix factorization and sparse
    coding"; Engan, Aase & Husøy (1999), "Method of optimal directions for frame design";
    Aharon, Elad & Bruckstein (2006), "K-SVD"; Rubinstein, Zibulevsky & Elad (2008),
    "Efficient implementation of the K-SVD algorithm using batch orthogonal matching
    pursuit"; Pock & Sabach (2016), "Inertial proximal alternating linearized minimization
    (iPALM)"; O'Neill, Gumran & Klindt (2025), arXiv 2411.13117, section 4.

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
        **SOLVER_CONSTRAINTS,
        "n_components": [Interval(Integral, 1, None, closed="left"), None],
        "alpha": [StrOptions({"auto"}), Interval(Real, 0, None, closed="left")],
        "dictionary": ["array-like", callable, None],
        "dict_init": ["array-like", None],
        "dict_update": [StrOptions(set(ATOM_UPDATES))],
        "positive_code": ["boolean"],
        "positive_dict": ["boolean"],
        "fit_intercept": ["boolean"],
        "n_init": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "batch_size": [Interval(Integral, 1, None, closed="left"), None],
        "warm_start": ["boolean"],
        "transform_max_iter": [Interval(Integral, 1, None, closed="left")],
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
        dict_update="bcd",
        positive_code=True,
        positive_dict=False,
        fit_intercept=False,
        n_init="auto",
        max_iter=50,
        batch_size=None,
        warm_start=False,
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
        self.dict_update = dict_update
        self.positive_code = positive_code
        self.positive_dict = positive_dict
        self.fit_intercept = fit_intercept
        self.n_init = n_init
        self.max_iter = max_iter
        self.batch_size = batch_size
        self.warm_start = warm_start
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

    def _k_sparse(self) -> bool:
        return self.n_nonzero_coefs is not None

    def _sparsity(self) -> int | None:
        return self.n_nonzero_coefs

    def _encoder(self, rows: Rows) -> Coder:
        k, positive = self.n_nonzero_coefs, self.positive_code
        return Coder.of(self, rows, k=k, positive=positive, max_iter=self.transform_max_iter)

    def _after_transform(self, encode: Any) -> None:
        encode.warn("transform_max_iter")
