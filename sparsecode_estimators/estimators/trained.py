"""What encoders that are trained by gradient descent share: SAE, MLP, unrolled."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from ..learning.activations import Activation, make_activation
from ..learning.atoms import initial_dictionary, least_squares_dictionary, unit
from ..learning.dead import DeadLatents
from ..learning.encoders import SparseAutoencoder, initial_layers
from ..learning.loop import AdamState, History, Settings, train, trained
from .arrays import Rows, read_rows, read_targets, resolve_device, to_array, to_tensor
from .base import (
    ENCODER_ALPHA_FRACTION,
    SAMPLE_ROWS,
    BaseSparseCoder,
    Encode,
    auto_alpha,
    make_generator,
)
from .validation import Interval, StrOptions, _fit_context, given_dictionary

_AUTO_BATCH = 256
_MAX_DEAD_AFTER = 10_000_000


@dataclass
class _Run:
    """Everything that training changes, in units in which rows have a variance of one."""

    model: SparseAutoencoder
    optimizer: AdamState | None
    dead: DeadLatents
    scale: float
    alpha: float


class BaseSparseEncoder(BaseSparseCoder):
    """Encoders with parameters: one way to start, train, resume and hand them out.

    Training runs on ``X/σ``, σ being the root mean square of the centred training
    entries, and the parameters are brought back to the scale of X at the end. So the
    learning rate means the same for every X, and multiplying X by a number multiplies
    the codes by it and changes nothing else.
    """

    _parameter_constraints: ClassVar[dict] = {
        "n_components": [Interval(Integral, 1, None, closed="left"), None],
        "activation": [StrOptions({"relu", "topk"})],
        "n_nonzero_coefs": [Interval(Integral, 1, None, closed="left"), None],
        "alpha": [StrOptions({"auto"}), Interval(Real, 0, None, closed="left")],
        "dictionary": ["array-like", callable, None],
        "dict_init": ["array-like", None],
        "objective": [StrOptions({"reconstruction", "codes"})],
        "fit_intercept": ["boolean", StrOptions({"auto"})],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "batch_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "learning_rate_init": [Interval(Real, 0, None, closed="neither")],
        "learning_rate": [StrOptions({"decay", "constant"})],
        "optimizer": [StrOptions({"adam"})],
        "tol": [Interval(Real, 0, None, closed="left")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
        "shuffle": ["boolean"],
        "warm_start": ["boolean"],
        "dead_after": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "aux_alpha": [Interval(Real, 0, None, closed="left")],
        "sparse_output": ["boolean"],
        "random_state": ["random_state"],
        "device": [str, torch.device],
        "precision": [StrOptions({"float32", "float64"})],
        "verbose": ["verbose"],
    }

    # Whether codes depend on the dictionary: then it cannot be found after training.
    _encodes_by_dictionary: ClassVar[bool] = False

    def _hidden(self) -> Sequence[int]:
        """Widths of the hidden layers."""
        return ()

    def _shapes(self, n_features: int, n_components: int) -> list[tuple[int, ...]]:
        """Shapes of ``encoder_coefs_``."""
        return list(itertools.pairwise([n_features, *self._hidden(), n_components]))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = self.objective == "codes"
        return tags

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any = None) -> BaseSparseEncoder:
        """Train on X.

        Parameters
        ----------
        X : array-like, CSR matrix, data frame or Tensor of shape (n_samples, n_features)
        y : array-like of shape (n_samples, n_components), default=None
            Known codes, with ``objective="codes"``; otherwise ignored, so that a scorer
            may use it as the truth.

        Returns
        -------
        self
        """
        resume = self.warm_start and hasattr(self, "components_")
        return self._fit(X, y, resume=resume, n_epochs=self.max_iter, decay=True)

    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: Any, y: Any = None) -> BaseSparseEncoder:
        """One pass over a chunk of rows, going on from where the last call ended.

        The first call decides the dictionary's start, the scale and ``alpha_`` from its
        chunk; the learning rate stays constant.

        Parameters
        ----------
        X, y
            As for :meth:`fit`.

        Returns
        -------
        self
        """
        return self._fit(X, y, resume=hasattr(self, "components_"), n_epochs=1, decay=False)

    def _fit(
        self, X: Any, y: Any, *, resume: bool, n_epochs: int, decay: bool
    ) -> BaseSparseEncoder:
        self._check_combinations()
        rows = read_rows(self, X, reset=not resume, device=self.device)
        width = self.n_components_ if resume else self.n_components
        known = given_dictionary("dictionary", self.dictionary, rows, width)
        given = (
            given_dictionary("dict_init", self.dict_init, rows, width) if known is None else known
        )
        width = width if given is None else len(given)
        targets = read_targets(y, rows, width) if self.objective == "codes" else None
        width = width if targets is None else targets.n_features
        work = rows.using(getattr(torch, self.precision))
        generator = make_generator(self.random_state)
        fresh = (targets, given, width, generator)
        run = self._resume(work, known) if resume else self._start(work, *fresh)
        sources = tuple(
            source.using(work.dtype, 1 / run.scale)
            for source in (rows, targets)
            if source is not None
        )
        settings = self._settings(run, len(rows), n_epochs, decay)
        params = trained(run.model, settings)
        if run.optimizer is not None and len(run.optimizer.means) != len(params):
            run.optimizer = AdamState.fresh(params)  # what is trained has changed since
        history = train(
            run.model,
            sources,
            settings,
            generator=generator,
            optimizer=run.optimizer,
            dead=run.dead,
            report=lambda epoch, loss: self._report(epoch, n_epochs, loss * run.scale**2),
        )
        run.model.rescale_(run.scale)
        if targets is not None and known is None and not self._encodes_by_dictionary:
            offset = run.model.offset.detach()
            run.model.dictionary.data = least_squares_dictionary(work.paired(targets), offset)
        self._store(run, history, rows, known, resume=resume)
        return self

    def _check_combinations(self) -> None:
        if self.activation == "relu" and self.n_nonzero_coefs is not None:
            raise ValueError(
                f"n_nonzero_coefs={self.n_nonzero_coefs} is for activation='topk': leave it None "
                "with activation='relu' and set the sparsity by alpha."
            )
        if self.dictionary is not None and self.dict_init is not None:
            raise ValueError(
                "dictionary is kept fixed, so dict_init would go unused: give only one of them."
            )

    def _learns_offset(self) -> bool:
        if self.fit_intercept == "auto":
            return self.dictionary is None and self.objective == "reconstruction"
        return bool(self.fit_intercept)

    def _sparsity(self) -> int | None:
        if self.activation == "relu":
            return None
        # scikit-learn's rule for OMP: a tenth of the features
        return self.n_nonzero_coefs or max(1, self.n_features_in_ // 10)

    def _start(
        self,
        work: Rows,
        targets: Rows | None,
        given: np.ndarray | None,
        n_components: int | None,
        generator: torch.Generator,
    ) -> _Run:
        x = work.sample(SAMPLE_ROWS)
        offset = x.mean(0) if self._learns_offset() else x.new_zeros(x.shape[1])
        centred = x - offset
        scale = centred.square().mean().sqrt().item() or 1.0
        if targets is not None and self.dictionary is None and self._encodes_by_dictionary:
            D = least_squares_dictionary(work.paired(targets), offset)
        elif given is not None:
            D = to_tensor(given, work)
            D = D if self.dictionary is not None else unit(D)
        else:
            D = initial_dictionary(centred, n_components or 8 * work.n_features, generator)
        alpha = self.alpha
        if alpha == "auto":
            alpha = auto_alpha(centred, D, ENCODER_ALPHA_FRACTION, positive=True)
        return _Run(
            model=self._initial_module(D, offset / scale, alpha / scale, generator),
            optimizer=None,
            dead=self._dead(torch.zeros(len(D), dtype=torch.int64, device=work.device), len(work)),
            scale=scale,
            alpha=float(alpha),
        )

    def _resume(self, work: Rows, known: np.ndarray | None) -> _Run:
        shapes = [w.shape for w in self.encoder_coefs_]
        wanted = self._shapes(work.n_features, self.n_components or self.n_components_)
        if shapes != wanted:
            raise ValueError(
                f"The fitted encoder has layers of shapes {shapes}, the parameters now ask for "
                f"{wanted}: set warm_start=False to start again, or the old sizes."
            )
        model = self._to_model(work)
        if known is not None:
            model.dictionary.data = to_tensor(known, work)
            model.refresh_()
        model.rescale_(1 / self._scale)
        means, squares, steps = (
            [to_tensor(a, work) for a in arrays] for arrays in self._optimizer_state
        )
        silent = torch.tensor(self._silent_for, device=work.device)
        return _Run(
            model=model,
            optimizer=AdamState(means, squares, [s.float() for s in steps]),
            dead=self._dead(silent, len(work)),
            scale=self._scale,
            alpha=self.alpha_ if self.alpha == "auto" else float(self.alpha),
        )

    def _dead(self, silent_for: Tensor, n: int) -> DeadLatents:
        # two passes without firing; a chunk of partial_fit says little about how many come
        after = min(2 * n, _MAX_DEAD_AFTER) if self.dead_after == "auto" else self.dead_after
        k_aux = min(max(1, self.n_features_in_ // 2), len(silent_for))
        return DeadLatents(silent_for, after, k_aux)

    def _settings(self, run: _Run, n: int, n_epochs: int, decay: bool) -> Settings:
        return Settings(
            objective=self.objective,
            alpha=run.alpha / run.scale,
            learn_dictionary=self.dictionary is None,
            learn_offset=self._learns_offset(),
            max_iter=n_epochs,
            batch_size=min(_AUTO_BATCH if self.batch_size == "auto" else self.batch_size, n),
            learning_rate=self.learning_rate_init,
            decay=decay and self.learning_rate == "decay",
            tol=self.tol,
            n_iter_no_change=self.n_iter_no_change,
            shuffle=self.shuffle,
            dead_after=run.dead.dead_after,
            aux_alpha=self.aux_alpha,
        )

    def _activation(self) -> Activation:
        return make_activation(self.activation, self._sparsity())

    def _initial_module(
        self, D: Tensor, offset: Tensor, alpha: float, generator: torch.Generator
    ) -> SparseAutoencoder:
        """The network before training, for rows of unit variance and their alpha."""
        weights, biases = initial_layers(D, self._hidden(), generator)
        return SparseAutoencoder(weights, biases, D, offset, self._activation())

    def _to_model(self, rows: Rows) -> SparseAutoencoder:
        """The network from the attributes."""
        return SparseAutoencoder(
            [to_tensor(w, rows) for w in self.encoder_coefs_],
            [to_tensor(b, rows) for b in self.encoder_intercepts_],
            to_tensor(self.components_, rows),
            to_tensor(self.intercept_, rows),
            self._activation(),
        )

    def _store(
        self, run: _Run, history: History, rows: Rows, known: np.ndarray | None, *, resume: bool
    ) -> None:
        model = run.model
        self.encoder_coefs_ = [to_array(w, rows) for w in model.weights]
        self.encoder_intercepts_ = [to_array(b, rows) for b in model.biases]
        # a known dictionary is kept to the last digit, whatever training computes in
        kept = model.dictionary if known is None else torch.tensor(known)
        self.components_ = to_array(kept, rows)
        self.intercept_ = to_array(model.offset, rows)
        self.n_components_ = len(self.components_)
        self.alpha_ = run.alpha
        losses = [loss * run.scale**2 for loss in history.losses]
        self.loss_curve_: list[float] = self.loss_curve_ + losses if resume else losses
        self.loss_ = self.loss_curve_[-1]
        self.n_iter_ = len(self.loss_curve_)
        self.n_steps_: int = history.n_steps + (self.n_steps_ if resume else 0)
        assert history.frequency is not None
        self.activation_frequency_ = history.frequency.cpu().double().numpy()
        self.dead_latents_ = np.flatnonzero(self.activation_frequency_ == 0)
        self.device_ = str(rows.device)
        self._scale = run.scale
        self._silent_for = run.dead.silent_for.cpu().numpy()
        state = history.optimizer
        self._optimizer_state = tuple(
            [tensor.cpu().numpy() for tensor in tensors]
            for tensors in (state.means, state.squares, state.steps)
        )

    def _report(self, iteration: int, n_epochs: int, loss: float) -> None:
        if self.verbose:
            print(f"epoch {iteration + 1}/{n_epochs}: loss {loss:.6g}")  # noqa: T201

    def _encoder(self, rows: Rows) -> Encode:
        return self._to_model(rows).encode

    def to_module(self, device: str = "auto") -> nn.Module:
        """The trained network as a bare ``torch.nn.Module``.

        Parameters
        ----------
        device : str, default="auto"
            "auto": CUDA if there is one, else the CPU.

        Returns
        -------
        torch.nn.Module
            With ``encode``, ``decode`` and ``forward`` (the reconstruction) on tensors; a
            copy, so that training it further leaves the estimator as it is.
        """
        check_is_fitted(self)
        dtype = torch.float64 if self.components_.dtype == np.float64 else torch.float32
        rows = Rows(self.components_, dtype, resolve_device(device))
        return self._to_model(rows)
