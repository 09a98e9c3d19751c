"""What encoders that are trained by gradient descent share: SAE, MLP, unrolled."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from ..learning.atoms import initial_dictionary, least_squares_dictionary, unit
from ..learning.dead import DeadLatents
from ..learning.encoders import SparseAutoencoder, initial_layers
from ..learning.loop import train, trained
from ..learning.optimizers import OPTIMIZERS, Optimizer
from ..learning.run import Diverged, History
from .arrays import Rows, read_rows, read_targets, resolve_device, to_array, to_tensor
from .attributes import (
    fitted_activation,
    history_of,
    initial_activation,
    kept_run,
    store_activation,
)
from .base import (
    SAMPLE_ROWS,
    Encode,
    auto_alpha,
    make_generator,
)
from .callbacks import CallbackSupportMixin, Watch
from .parameters import TrainingParameters
from .validation import _fit_context, given_dictionary

_MAX_DEAD_AFTER = 10_000_000
_ROWS_FOR_LATENT = 16  # in which a latent that is alive should have fired


@dataclass
class _Run:
    """Everything that training changes, in units in which rows have a variance of one."""

    model: SparseAutoencoder
    silent_for: Tensor
    scale: float
    alpha: float


def _spread(centred: Tensor) -> float:
    """Root mean square of all entries; 1 if all are zero."""
    length = torch.linalg.vector_norm(centred, dtype=torch.float64).item()
    return length / centred.numel() ** 0.5 or 1.0


class BaseSparseEncoder(CallbackSupportMixin, TrainingParameters):
    """Encoders with parameters: one way to start, train, resume and hand them out.

    Training runs on ``X/σ``, σ being the root mean square of the centred training
    entries, and the parameters are brought back to the scale of X at the end. So the
    learning rate means the same for every X, and multiplying X by a number multiplies
    the codes by it and changes nothing else.
    """

    # Whether codes depend on the dictionary: then it cannot be found after training.
    _encodes_by_dictionary: ClassVar[bool] = False

    _scale: float | None  # None: the parameters are from elsewhere, and have seen no rows

    def _hidden(self) -> Sequence[int]:
        """Widths of the hidden layers."""
        return ()

    def _shapes(self, n_features: int, n_components: int) -> list[tuple[int, ...]]:
        """Shapes of ``encoder_coefs_``."""
        return list(itertools.pairwise([n_features, *self._hidden(), n_components]))

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
        dead = self._dead(run.silent_for, len(rows), n_epochs if decay else None)
        settings = self._settings(
            run.alpha / run.scale, len(run.model.dictionary), len(rows), n_epochs, decay=decay
        )  # fmt: skip
        keep = None
        if decay and self.checkpoint is not None:
            read = (rows,) if targets is None else (rows, targets)
            keep = kept_run(self, read, given, resume=resume)
        watch = Watch(
            self, X, y, n_epochs, run.scale, (len(rows), rows.n_features),
            lambda history: self._as_fitted(run, history, rows, known), callbacks=decay,
        )  # fmt: skip
        diverged = None
        try:
            history = train(
                run.model,
                sources,
                settings,
                generator=generator,
                optimizer=self._resumed_optimizer(work, trained(run.model, settings))
                if resume
                else None,
                dead=dead,
                checkpoint=keep,
                watch=watch,
            )
        except Diverged as error:
            history, diverged = error.history, error
        run.silent_for = dead.silent_for
        run.model.rescale_(run.scale)
        if targets is not None and known is None and not self._encodes_by_dictionary:
            offset = run.model.offset.detach()
            run.model.dictionary.data = least_squares_dictionary(work.paired(targets), offset)
        self._store(run, history, rows, known, resume=resume)
        if diverged is not None:
            raise diverged
        watch.close()
        return self

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
        scale = _spread(centred)
        if targets is not None and self.dictionary is None and self._encodes_by_dictionary:
            D = least_squares_dictionary(work.paired(targets), offset)
        elif given is not None:
            D = to_tensor(given, work)
            D = D if self.dictionary is not None else unit(D)
        else:
            D = initial_dictionary(centred, n_components or 8 * work.n_features, generator)
        alpha = self._measured_alpha(centred, D)
        return _Run(
            model=self._initial_module(D, offset / scale, alpha / scale, generator),
            silent_for=torch.zeros(len(D), dtype=torch.int64, device=work.device),
            scale=scale,
            alpha=alpha,
        )

    def _measured_alpha(self, centred: Tensor, D: Tensor) -> float:
        if self.alpha == "auto":
            return auto_alpha(centred, D, self._alpha_fraction(), positive=True)
        return float(self.alpha)

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
        scale = self._scale
        if scale is None:
            centred = work.sample(SAMPLE_ROWS) - model.offset.detach()
            scale = _spread(centred)
            alpha = self._measured_alpha(centred, model.dictionary.detach())
        else:
            alpha = self.alpha_ if self.alpha == "auto" else float(self.alpha)
        model.rescale_(1 / scale)
        return _Run(
            model=model,
            silent_for=torch.tensor(self._silent_for, device=work.device),
            scale=scale,
            alpha=alpha,
        )

    def _resumed_optimizer(self, work: Rows, params: list[Tensor]) -> Optimizer:
        """As it was after the last fit; fresh if it or its parameters are others now."""
        slots = {
            name: [to_tensor(a, work) for a in arrays]
            for name, arrays in self._optimizer_state[1].items()
        }
        optimizer = OPTIMIZERS[self.optimizer](params, slots)
        if self._optimizer_state[0] != self.optimizer or not optimizer.fits(params):
            return OPTIMIZERS[self.optimizer].fresh(params)
        if "steps" in slots:
            slots["steps"] = [t.float() for t in slots["steps"]]
        optimizer.resume_()
        return optimizer

    def _dead(self, silent_for: Tensor, n: int, n_epochs: int | None) -> DeadLatents:
        after = self.dead_after
        if after == "auto":
            # a chunk of partial_fit says little about how many come
            long = 2 * n if n_epochs is None else n * n_epochs // 20
            after = min(2 * n, max(long, _ROWS_FOR_LATENT * len(silent_for)), _MAX_DEAD_AFTER)
        k_aux = min(max(1, self.n_features_in_ // 2), len(silent_for))
        return DeadLatents(silent_for, after, k_aux)

    def _initial_module(
        self, D: Tensor, offset: Tensor, alpha: float, generator: torch.Generator
    ) -> SparseAutoencoder:
        """The network before training, for rows of unit variance and their alpha."""
        weights, biases = initial_layers(D, self._hidden(), generator)
        activation = initial_activation(self, D, alpha)
        return SparseAutoencoder(weights, biases, D, offset, activation)

    def _to_model(self, rows: Rows) -> SparseAutoencoder:
        """The network from the attributes."""
        return SparseAutoencoder(
            [to_tensor(w.T, rows) for w in self.encoder_coefs_],
            [to_tensor(b, rows) for b in self.encoder_intercepts_],
            to_tensor(self.components_, rows),
            to_tensor(self.intercept_, rows),
            fitted_activation(self, rows),
        )

    def _store(
        self, run: _Run, history: History, rows: Rows, known: np.ndarray | None, *, resume: bool
    ) -> None:
        model = run.model
        self.encoder_coefs_ = [to_array(w.T, rows) for w in model.weights]
        self.encoder_intercepts_ = [to_array(b, rows) for b in model.biases]
        # a known dictionary is kept to the last digit, whatever training computes in
        kept = model.dictionary if known is None else torch.tensor(known)
        self.components_ = to_array(kept, rows)
        self.intercept_ = to_array(model.offset, rows)
        store_activation(self, model.activation, rows)
        self.n_components_ = len(self.components_)
        self.alpha_ = run.alpha
        curves = history_of(history.epochs, run.scale, self.n_components_, rows.n_features)
        if resume:
            curves = {k: np.concatenate([self.history_[k], curve]) for k, curve in curves.items()}
        self.history_: dict[str, np.ndarray] = curves
        self.loss_curve_: list[float] = curves["loss"].tolist()
        self.loss_ = self.loss_curve_[-1]
        self.n_iter_ = len(self.loss_curve_)
        self.n_steps_ = int(curves["n_steps"].sum())
        self.activation_frequency_ = history.frequency.cpu().numpy()
        self.dead_latents_ = np.flatnonzero(self.activation_frequency_ == 0)
        self.device_ = str(rows.device)
        self._scale = run.scale
        self._silent_for = run.silent_for.cpu().numpy()
        self._optimizer_state = (
            self.optimizer,
            {
                name: [tensor.cpu().numpy() for tensor in tensors]
                for name, tensors in history.optimizer.slots.items()
            },
        )

    def _as_fitted(
        self, run: _Run, history: History, rows: Rows, known: np.ndarray | None
    ) -> dict[str, Any]:
        """The attributes, if training ended now."""
        twin = copy.copy(self)
        model, optimizer = copy.deepcopy((run.model, history.optimizer))
        optimizer.finish_()
        model.rescale_(run.scale)
        twin._store(replace(run, model=model), history, rows, known, resume=False)
        return {k: v for k, v in vars(twin).items() if k not in vars(self) or k.endswith("_")}

    def _encoder(self, rows: Rows) -> Encode:
        return self._to_model(rows).encode

    def _sparse_encoder(self, rows: Rows) -> Any:
        return self._to_model(rows).encode_sparse

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
