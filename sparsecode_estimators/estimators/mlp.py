"""An SAE whose encoder has hidden layers."""

from __future__ import annotations

from numbers import Integral
from typing import ClassVar

from sklearn.utils.validation import check_scalar

from .trained import BaseSparseEncoder


class MLPEncoder(BaseSparseEncoder):
    r"""Sparse codes in one pass through a multilayer perceptron.

    Minimises the objective of :class:`SAEEncoder`,

    .. math:: \tfrac12\|x - b - sD\|^2 + \alpha\|s\|_1,

    with ReLU layers between x − b and the codes. It can come closer to the optimal codes
    than one linear map, for more compute per row.

    Parameters
    ----------
    n_components : int or None, default=None
        Number of latents; None: as many as ``dictionary`` or the known codes have, else
        8 × n_features.
    hidden_layer_sizes : sequence of int >= 1, default=(256,)
        Width of each hidden layer. Empty: the SAE.
    activation : {"relu", "topk"}, default="relu"
        "relu": sparse by the penalty. "topk": the ``n_nonzero_coefs`` largest, no penalty.
    n_nonzero_coefs : int >= 1 or None, default=None
        For "topk": most active codes of a row, clipped to n_components. None: a tenth of
        the features, at least 1.
    alpha : float >= 0 or "auto", default="auto"
        Weight of ``‖s‖₁`` on the scale of x. "auto": 10 % of the median ``alpha_max`` of the
        training rows under the starting dictionary, so that multiplying X by a number
        multiplies the codes by it. (Solvers take 1 %: give a number to compare with them.)
    dictionary : array-like of shape (n_components, n_features), callable or None, default=None
        Known dictionary, kept fixed: only the encoder is trained. A callable gets
        ``(n_components, n_features)`` and returns the array.
    dict_init : array-like of shape (n_components, n_features) or None, default=None
        Where the dictionary starts, brought to unit norm. None: at random rows.
    objective : {"reconstruction", "codes"}, default="reconstruction"
        "codes": learn from known codes, ``fit(X, codes)``, by ``½‖s_true − s‖²``; the
        dictionary is then the least-squares one, unless it is given.
    fit_intercept : bool or "auto", default="auto"
        Whether to learn the offset b, from the mean on. Without it ``b = 0``. "auto": when
        the dictionary is learned from reconstruction; a known dictionary, or known codes, are
        taken to be all that rows are made of.
    max_iter : int >= 1, default=200
        Most epochs.
    batch_size : int >= 1 or "auto", default="auto"
        "auto": 256, or all rows if there are fewer.
    learning_rate_init : float > 0, default=3e-3
        Of Adam, for X scaled to unit variance.
    learning_rate : {"decay", "constant"}, default="decay"
        "decay": constant, then linearly towards zero in the last third of the epochs.
    optimizer : {"adam"}, default="adam"
    tol : float >= 0, default=1e-4
        When the loss has not improved by this share of it for ``n_iter_no_change`` epochs in
        a row, training stops; with ``learning_rate="decay"`` after the rate has fallen.
    n_iter_no_change : int >= 1, default=20
    shuffle : bool, default=True
    warm_start : bool, default=False
        Whether ``fit`` goes on from the last fit.
    dead_after : int >= 1 or "auto", default="auto"
        Rows after which a silent latent counts as dead and is revived. "auto": two passes
        over the rows, at most 10⁷.
    aux_alpha : float >= 0, default=1/32
        Weight of the auxiliary loss by which dead latents learn the residual.
    sparse_output : bool, default=False
        Whether ``transform`` returns CSR.
    random_state : int, RandomState or None, default=None
    device : str, default="auto"
        "auto": where a tensor X lies, else CUDA if there is one, else the CPU.
    precision : {"float32", "float64"}, default="float32"
        Arithmetic of training. ``transform`` computes in the type of X.
    verbose : int, default=0
        At 1 a line an epoch.

    Attributes
    ----------
    components_ : ndarray of shape (n_components_, n_features)
        The dictionary; learned atoms have unit norm.
    intercept_ : ndarray of shape (n_features,)
        The offset b.
    encoder_coefs_ : list of ndarray of shape (n_in, n_out)
        Weights of the encoder's layers; they apply to ``x − b``.
    encoder_intercepts_ : list of ndarray of shape (n_out,)
    n_components_ : int
    alpha_ : float
        The alpha in use (not used by "topk").
    n_iter_, n_steps_ : int
        Epochs and optimiser steps run.
    loss_ : float
        Objective of the last epoch, mean over rows.
    loss_curve_ : list of float
        The same for every epoch.
    activation_frequency_ : ndarray of shape (n_components_,)
        Share of the rows of the last epoch on which each latent fired.
    dead_latents_ : ndarray of int
        Latents that did not fire in the last epoch.
    device_ : str
        Where ``fit`` ran.
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (n_features_in_,)

    Raises
    ------
    ValueError
        In ``fit``, for parameters or data out of range or of the wrong shape.
    FloatingPointError
        In ``fit``, when the loss stops being finite.

    References
    ----------
    O'Neill, Gumran & Klindt (2025), arXiv 2411.13117, section 4.

    Examples
    --------
    >>> from sparsecode_estimators import MLPEncoder
    >>> from sparsecode_estimators.datasets import make_sparse_codes
    >>> data = make_sparse_codes(500, 8, 16, 3, random_state=0)
    >>> mlp = MLPEncoder(hidden_layer_sizes=(64,), objective="codes", max_iter=50, random_state=0)
    >>> mlp.fit(data.X, data.codes).transform(data.X).shape
    (500, 16)
    """

    _parameter_constraints: ClassVar[dict] = {
        **BaseSparseEncoder._parameter_constraints,
        "hidden_layer_sizes": ["array-like"],
    }

    def __init__(
        self,
        n_components=None,
        *,
        hidden_layer_sizes=(256,),
        activation="relu",
        n_nonzero_coefs=None,
        alpha="auto",
        dictionary=None,
        dict_init=None,
        objective="reconstruction",
        fit_intercept="auto",
        max_iter=200,
        batch_size="auto",
        learning_rate_init=3e-3,
        learning_rate="decay",
        optimizer="adam",
        tol=1e-4,
        n_iter_no_change=20,
        shuffle=True,
        warm_start=False,
        dead_after="auto",
        aux_alpha=1 / 32,
        sparse_output=False,
        random_state=None,
        device="auto",
        precision="float32",
        verbose=0,
    ):
        self.n_components = n_components
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.n_nonzero_coefs = n_nonzero_coefs
        self.alpha = alpha
        self.dictionary = dictionary
        self.dict_init = dict_init
        self.objective = objective
        self.fit_intercept = fit_intercept
        self.max_iter = max_iter
        self.batch_size = batch_size
        self.learning_rate_init = learning_rate_init
        self.learning_rate = learning_rate
        self.optimizer = optimizer
        self.tol = tol
        self.n_iter_no_change = n_iter_no_change
        self.shuffle = shuffle
        self.warm_start = warm_start
        self.dead_after = dead_after
        self.aux_alpha = aux_alpha
        self.sparse_output = sparse_output
        self.random_state = random_state
        self.device = device
        self.precision = precision
        self.verbose = verbose

    def _hidden(self) -> tuple[int, ...]:
        return tuple(
            int(check_scalar(n, f"hidden_layer_sizes[{i}]", Integral, min_val=1))
            for i, n in enumerate(self.hidden_layer_sizes)
        )
