"""An SAE whose encoder has hidden layers."""

from __future__ import annotations

from typing import ClassVar

from .given import given_sizes
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
        8 × n_features, or 8 × n_targets.
    hidden_layer_sizes : sequence of int >= 1, default=(256,)
        Width of each hidden layer. Empty: the SAE.
    activation : {"relu", "topk", "abs_topk", "batch_topk", "jumprelu", "gated"}, default="relu"
        "relu": sparse by the penalty ``α‖s‖₁``. "topk": the ``n_nonzero_coefs`` largest codes of
        a row, no penalty; "abs_topk": the largest by absolute value, of both signs;
        "batch_topk": as many on average over a batch, and at inference those above a threshold
        that is learned. "jumprelu": codes above thresholds that are learned, with the penalty
        ``½α²‖s‖₀``. "gated": a gate with ``α‖·‖₁`` says which codes are active, a scaled copy
        how large they are.
    n_nonzero_coefs : int >= 1 or None, default=None
        For "topk", "abs_topk", "batch_topk": active codes of a row, clipped to n_components.
        None: a tenth of the features, at least 1.
    penalty : {"auto", "l1", "l0", "tanh"}, default="auto"
        "auto": "l1" for relu and gated, "l0" for jumprelu. "tanh", for relu and jumprelu:
        ``½α²Σ tanh(s/α)``, which does not shrink large codes.
    prefix_sizes : sequence of int or None, default=None
        For "topk" and "batch_topk": sizes of nested dictionaries, rising, each of which has to
        reconstruct on its own (Matryoshka). The whole dictionary is always one of them, and
        stands for sizes above n_components.
    alpha : float >= 0 or "auto", default="auto"
        Weight of the penalty on the scale of x. "auto": 10 % of the median ``alpha_max`` of the
        training rows under the starting dictionary, 25 % for "jumprelu", "gated" and "tanh",
        which do not shrink codes, so that multiplying X by a number multiplies the codes by it.
        (Solvers take 1 %: give a number to compare with them.)
    dictionary : array-like of shape (n_components, n_features), callable or None, default=None
        Known dictionary, kept fixed: only the encoder is trained. A callable gets
        ``(n_components, n_features)`` and returns the array.
    dict_init : array-like of shape (n_components, n_features) or None, default=None
        Where the dictionary starts, brought to unit norm. None: at random rows.
    objective : {"reconstruction", "codes", "targets"}, default="reconstruction"
        "codes": learn from known codes, ``fit(X, codes)``, by ``½‖s_true − s‖²``; the
        dictionary is then the least-squares one, unless it is given. "targets": codes of X
        reconstruct other activations, ``fit(X, y)``, by ``½‖y − b − sD‖² + α‖s‖₁`` (a transcoder).
        Then y stands in place of x in all that is said here of dictionary, offset, alpha, codes
        and scale, and n_targets in place of n_features.
    fit_intercept : bool or "auto", default="auto"
        Whether to learn the offset b. Without it ``b = 0``. "auto": when
        the dictionary is learned from reconstruction; a known dictionary, or known codes, are
        taken to be all that rows are made of.
    offset_init : {"mean", "median"}, default="mean"
        Where the offset starts, of at most 16,384 rows. "median": at their geometric median, which
        rows far from all others, as the first tokens of language models are, do not carry away.
    max_iter : int >= 1, default=200
        Most epochs.
    batch_size : int >= 1 or "auto", default="auto"
        "auto": 256, or all rows if there are fewer.
    learning_rate_init : float > 0, default=3e-3
        Step size, for X scaled to unit variance.
    learning_rate : {"decay", "constant", "linear", "cosine"}, default="decay"
        "decay": constant, then linearly towards zero in the last third of the steps. "linear",
        "cosine": falling to zero from the first step on.
    learning_rate_warmup : float in [0, 1], default=0.0
        Share of the steps over which the learning rate rises from zero.
    sparsity_warmup : float in [0, 1], default=0.0
        Share of the steps over which alpha rises from zero, or ``n_nonzero_coefs`` falls from
        eight times as many. (``partial_fit`` knows no number of steps, and uses neither these
        two nor a learning rate that falls.)
    max_grad_norm : float > 0 or None, default=None
        Longer gradients, of all parameters together, are scaled down to this length, for X scaled
        to unit variance.
    optimizer : {"adam", "sign"}, default="adam"
        "sign": schedule-free sign descent, steps along the signs of gradients and the average of
        where they lead; half the memory. Rows whose error is five times the median or more have
        limited weight, but not with ``objective="codes"``. It needs no schedule: set
        ``learning_rate="constant"``.
    tol : float >= 0, default=1e-4
        When the loss has not improved by this share of it for ``n_iter_no_change`` epochs in
        a row, training stops; with ``learning_rate="decay"`` after the rate has fallen.
    n_iter_no_change : int >= 1, default=20
    shuffle : bool, default=True
    warm_start : bool, default=False
        Whether ``fit`` goes on from the last fit.
    dead_after : int >= 1 or "auto", default="auto"
        Rows after which a silent latent counts as dead and is revived. "auto": a twentieth of
        all rows that ``max_iter`` epochs read, at least 4 for each latent, but at most two passes
        over the rows, and 10⁷.
    aux_alpha : float >= 0, default=1.0
        Weight of the auxiliary loss by which dead latents learn the residual. Not used with
        ``objective="codes"``.
    sparse_output : bool, default=False
        Whether ``transform`` returns CSR.
    random_state : int, RandomState or None, default=None
    device : str, default="auto"
        "auto": where a tensor X lies, else CUDA if there is one, else the CPU.
    precision : {"float32", "float64", "bfloat16", "auto"}, default="float32"
        Arithmetic of training. "bfloat16": dense products are those of rounded numbers. Where
        codes are sparse there is one such product, which chooses the active codes; their values,
        all gradients and the parameters are float32. "auto": that, where the processor
        multiplies such numbers in hardware and the encoder has 2²⁰ weights or more, else
        "float32". ``transform`` computes in the type of X.
    checkpoint : str, path or None, default=None
        Folder in which ``fit`` keeps its state as it goes (needs ``safetensors``). The same
        ``fit`` after an interruption goes on from there, to exactly the weights that it would
        have come to without one. The file of a fit that is complete stays, and the same fit is
        read from it (with ``random_state=None``, too): remove it to start again.
    checkpoint_seconds : float >= 0, default=300.0
        Least time between two writes.
    checkpoint_steps : int >= 1 or None, default=None
        In place of it, a number of steps.
    verbose : int, default=0
        At 1 a line an epoch.

    Attributes
    ----------
    components_ : ndarray of shape (n_components_, n_features)
        The dictionary. Learned atoms have unit norm; with ``objective="codes"`` they are the
        least-squares ones, of any length.
    intercept_ : ndarray of shape (n_features,)
        The offset b.
    input_intercept_ : ndarray of shape (n_features_in_,)
        With ``objective="targets"``: the start of an offset for X, which the encoder takes off its
        rows in place of b, and which stays.
    encoder_coefs_ : list of ndarray of shape (n_in, n_out)
        Weights of the encoder's layers; they apply to ``x − b``, or to
        ``x − input_intercept_``.
    encoder_intercepts_ : list of ndarray of shape (n_out,)
    n_components_ : int
    alpha_ : float
        The alpha in use (not used by k-sparse activations).
    n_iter_, n_steps_ : int
        Epochs and optimiser steps run.
    loss_ : float
        Objective of the last epoch, mean over rows.
    loss_curve_ : list of float
        The same for every epoch.
    history_ : dict of ndarray of shape (n_iter_,)
        For every epoch "loss", "explained_variance" (relative to the rows that ``fit`` began
        with; NaN for ``objective="codes"``), "l0" (active codes of a row), "dead" (share of
        the latents that are dead), "n_steps" and "seconds".
    threshold_ : ndarray of shape () or (n_components_,)
        Codes of "batch_topk" and "jumprelu" below it are zero.
    gate_scale_, gate_shift_ : ndarray of shape (n_components_,)
        Of "gated": active codes are ``gate_scale_·v + gate_shift_``, v being what the gate sees.
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
        In ``fit``, for parameters or data out of range or of the wrong shape; in ``fit`` and
        ``score``, if y is missing where the objective needs it.
    FloatingPointError
        In ``fit``, when the loss stops being finite. The attributes hold what the last step with
        a finite loss led to.
    OSError
        In ``fit``, if the folder ``checkpoint`` cannot be written to.

    See Also
    --------
    SAEEncoder : One matrix product in place of hidden layers.
    UnrolledEncoder : Layers that are steps of a solver.
    ITORefiner : Better codes by a solver that starts from this encoder's.

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
        penalty="auto",
        prefix_sizes=None,
        alpha="auto",
        dictionary=None,
        dict_init=None,
        objective="reconstruction",
        fit_intercept="auto",
        offset_init="mean",
        max_iter=200,
        batch_size="auto",
        learning_rate_init=3e-3,
        learning_rate="decay",
        learning_rate_warmup=0.0,
        sparsity_warmup=0.0,
        max_grad_norm=None,
        optimizer="adam",
        tol=1e-4,
        n_iter_no_change=20,
        shuffle=True,
        warm_start=False,
        dead_after="auto",
        aux_alpha=1.0,
        sparse_output=False,
        random_state=None,
        device="auto",
        precision="float32",
        checkpoint=None,
        checkpoint_seconds=300.0,
        checkpoint_steps=None,
        verbose=0,
    ):
        self.n_components = n_components
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.n_nonzero_coefs = n_nonzero_coefs
        self.penalty = penalty
        self.prefix_sizes = prefix_sizes
        self.alpha = alpha
        self.dictionary = dictionary
        self.dict_init = dict_init
        self.objective = objective
        self.fit_intercept = fit_intercept
        self.offset_init = offset_init
        self.max_iter = max_iter
        self.batch_size = batch_size
        self.learning_rate_init = learning_rate_init
        self.learning_rate = learning_rate
        self.learning_rate_warmup = learning_rate_warmup
        self.sparsity_warmup = sparsity_warmup
        self.max_grad_norm = max_grad_norm
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
        self.checkpoint = checkpoint
        self.checkpoint_seconds = checkpoint_seconds
        self.checkpoint_steps = checkpoint_steps
        self.verbose = verbose

    def _hidden(self) -> tuple[int, ...]:
        return given_sizes("hidden_layer_sizes", self.hidden_layer_sizes)
