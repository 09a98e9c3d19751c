"""A few steps of a solver whose matrices are learned: LISTA and ALISTA."""

from __future__ import annotations

from numbers import Integral
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ..learning.atoms import directions
from ..learning.encoders import Inputs
from ..learning.loop import History
from ..learning.unrolled import UnrolledAutoencoder, initial_steps
from .arrays import Rows, optional_tensor, to_array, to_tensor
from .attributes import fitted_activation, initial_activation
from .sources import Sources
from .start import Trainee
from .trained import BaseSparseEncoder
from .validation import Interval, StrOptions


class UnrolledEncoder(BaseSparseEncoder):
    r"""Sparse codes from a few learned steps of a solver (LISTA, ALISTA).

    From :math:`s_0 = 0` on, every step corrects the codes by what they leave unexplained,

    .. math:: s_{t+1} = \sigma\bigl(s_t + \gamma_t\,((x - b - s_t D)\,W_t + c_t)\bigr),

    and the last codes minimise the objective of :class:`SAEEncoder`,

    .. math:: \tfrac12\|x - b - sD\|^2 + \alpha\|s\|_1.

    Untrained it is ISTA, stopped after ``n_steps`` steps; one step is an SAE with a tied
    start. It lies between the SAE and :class:`ITORefiner` in quality and in price: two
    matrix products a step, but for the first, which needs one.

    Parameters
    ----------
    n_components : int or None, default=None
        Number of latents; None: as many as ``dictionary`` or the known codes have, else
        8 × n_features, or 8 × n_targets.
    n_steps : int >= 1, default=3
        Steps of the encoder.
    weights : {"learned", "analytic"}, default="learned"
        "learned": a matrix, thresholds and a step size for each step, LISTA in the coupled
        form of Chen et al. "analytic": ALISTA, one matrix computed from the dictionary (again
        in every epoch where that is learned), and for each step a threshold and a step size,
        which is all that is learned of the encoder: for few rows, or with a known dictionary.
    activation : {"relu", "topk"}, default="relu"
        Ends every step. "relu": sparse by the penalty, ISTA unrolled. "topk": the
        ``n_nonzero_coefs`` largest, no penalty, iterative hard thresholding unrolled.
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
    objective : {"reconstruction", "codes", "targets"}, default="reconstruction"
        "codes": learn from known codes, ``fit(X, codes)``, by ``½‖s_true − s‖²``; the
        dictionary is then the least-squares one, unless it is given. The encoder computes
        with it, so it is found before training, by ``partial_fit`` from the first chunk. "targets":
        codes of X reconstruct other activations, ``fit(X, y)``, by ``½‖y − b − sD‖² + α‖s‖₁`` (a
        transcoder). The steps then have a dictionary of X of their own, which is learned, and
        y stands in place of x in all that is said here of dictionary, offset, alpha, codes and
        scale, and n_targets in place of n_features.
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
        Of Adam, for X scaled to unit variance; step sizes are learned by their logarithm.
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
        where they lead; half the memory. It needs no schedule: set ``learning_rate="constant"``.
        (Rows with large errors have full weight here, unlike those of an SAE.)
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
        Not used: the steps have no auxiliary loss by which dead latents of an SAE learn the
        residual. Dead latents are revived all the same.
    sparse_output : bool, default=False
        Whether ``transform`` returns CSR.
    random_state : int, RandomState or None, default=None
    device : str, default="auto"
        "auto": where a tensor X lies, else CUDA if there is one, else the CPU.
    precision : {"float32", "float64"}, default="float32"
        Arithmetic of training. ``transform`` computes in the type of X.
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
        The dictionary; learned atoms have unit norm.
    intercept_ : ndarray of shape (n_features,)
        The offset b.
    input_intercept_ : ndarray of shape (n_features_in_,)
        With ``objective="targets"``: the start of an offset for X, which the encoder takes off its
        rows in place of b, and which stays.
    input_components_ : ndarray of shape (n_components_, n_features_in_)
        With ``objective="targets"``: the dictionary that the steps have in place of D.
    encoder_coefs_ : list of ndarray of shape (n_features, n_components_)
        W of each step; with analytic weights the one of all steps.
    encoder_intercepts_ : list of ndarray of shape (n_components_,) or (1,)
        c of each step, minus the thresholds; (1,) with analytic weights.
    step_sizes_ : ndarray of shape (n_steps,)
        γ of each step.
    n_components_ : int
    alpha_ : float
        The alpha in use (not used by "topk").
    n_iter_, n_steps_ : int
        Epochs and optimiser steps run. (Steps of the encoder are the parameter ``n_steps``.)
    loss_ : float
        Objective of the last epoch, mean over rows.
    loss_curve_ : list of float
        The same for every epoch.
    history_ : dict of ndarray of shape (n_iter_,)
        For every epoch "loss", "explained_variance" (relative to the rows that ``fit`` began
        with; NaN for ``objective="codes"``), "l0" (active codes of a row), "dead" (share of
        the latents that are dead), "n_steps" and "seconds".
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
    SAEEncoder : One step with weights of its own.
    MLPEncoder : Layers that know nothing of the dictionary.
    ITORefiner : Steps that are not learned, as many as a certificate needs.

    References
    ----------
    Gregor & LeCun (2010), "Learning fast approximations of sparse coding". Chen, Liu, Wang &
    Yin (2018), "Theoretical linear convergence of unfolded ISTA and its practical weights and
    thresholds", eq. 14. Liu, Chen, Wang & Yin (2019), "ALISTA: analytic weights are as good
    as learned weights in LISTA". Xin, Wang, Gao & Wipf (2016), "Maximal sparsity with deep
    networks?", for "topk".

    Examples
    --------
    >>> from sparsecode_estimators import UnrolledEncoder
    >>> from sparsecode_estimators.datasets import make_sparse_codes
    >>> data = make_sparse_codes(500, 8, 16, 3, random_state=0)
    >>> encoder = UnrolledEncoder(n_steps=3, dictionary=data.dictionary, max_iter=50)
    >>> encoder.fit(data.X).transform(data.X).shape
    (500, 16)
    >>> encoder.step_sizes_.shape
    (3,)
    """

    _parameter_constraints: ClassVar[dict] = {
        **BaseSparseEncoder._parameter_constraints,
        "activation": [StrOptions({"relu", "topk"})],
        "n_steps": [Interval(Integral, 1, None, closed="left")],
        "precision": [StrOptions({"float32", "float64"})],
        "weights": [StrOptions({"learned", "analytic"})],
    }
    del _parameter_constraints["penalty"], _parameter_constraints["prefix_sizes"]
    penalty, prefix_sizes = "auto", None  # there is no choice
    _encodes_by_dictionary: ClassVar[bool] = True

    def __init__(
        self,
        n_components=None,
        *,
        n_steps=3,
        weights="learned",
        activation="relu",
        n_nonzero_coefs=None,
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
        self.n_steps = n_steps
        self.weights = weights
        self.activation = activation
        self.n_nonzero_coefs = n_nonzero_coefs
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

    def _shapes(self, n_features: int, n_components: int) -> list[tuple[int, ...]]:
        n_matrices = self.n_steps if self.weights == "learned" else 1
        return [(n_features, n_components)] * n_matrices

    @property
    def _is_analytic(self) -> bool:
        """Of the fitted encoder; one step for one atom looks the same."""
        if len(self.step_sizes_) > 1:
            return len(self.encoder_coefs_) == 1
        if self.n_components_ == 1:
            return self.weights == "analytic"
        return len(self.encoder_intercepts_[0]) < self.n_components_

    def _resume(self, work: Sources, known: np.ndarray | None) -> Trainee:
        fitted = len(self.step_sizes_), self._is_analytic
        if fitted != (self.n_steps, self.weights == "analytic"):
            raise ValueError(
                f"The fitted encoder has {fitted[0]} steps with "
                f"{'analytic' if fitted[1] else 'learned'} weights, the parameters now ask for "
                f"n_steps={self.n_steps} and weights={self.weights!r}: set warm_start=False to "
                "start again, or the old values."
            )
        return super()._resume(work, known)

    def _initial_module(
        self,
        D: Tensor,
        offset: Tensor,
        alpha: float,
        generator: torch.Generator,
        inputs: Inputs | None,
    ) -> UnrolledAutoencoder:
        activation, analytic = initial_activation(self, D, alpha), self.weights == "analytic"
        own = input_offset = None
        if inputs is not None:
            own, input_offset = directions(inputs.x - inputs.offset, inputs.wanted), inputs.offset
        weights, biases, log_sizes = initial_steps(
            D if own is None else own,
            self.n_steps,
            alpha if activation.penalised else 0.0,
            analytic=analytic,
        )
        return UnrolledAutoencoder(
            weights, biases, log_sizes, D, offset, activation, analytic=analytic,
            input_offset=input_offset, input_dictionary=own,
        )  # fmt: skip

    def _to_model(self, rows: Rows) -> UnrolledAutoencoder:
        return UnrolledAutoencoder(
            [to_tensor(w.T, rows) for w in self.encoder_coefs_],
            [to_tensor(b, rows) for b in self.encoder_intercepts_],
            to_tensor(self.step_sizes_, rows).log(),
            to_tensor(self.components_, rows),
            to_tensor(self.intercept_, rows),
            fitted_activation(self, rows),
            analytic=self._is_analytic,
            input_offset=optional_tensor(getattr(self, "input_intercept_", None), rows),
            input_dictionary=optional_tensor(getattr(self, "input_components_", None), rows),
        )

    def _store(
        self,
        run: Trainee,
        history: History,
        given: Sources,
        known: np.ndarray | None,
        *,
        resume: bool,
    ) -> None:
        super()._store(run, history, given, known, resume=resume)
        assert isinstance(run.model, UnrolledAutoencoder)
        self.step_sizes_ = to_array(run.model.log_step_sizes.exp(), given.rows)
