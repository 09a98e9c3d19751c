"""What encoders that are trained by gradient descent share: SAE, MLP, unrolled."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from ..learning.atoms import least_squares_decoder
from ..learning.codes import Workspace
from ..learning.dead import DeadLatents
from ..learning.distributed import Group
from ..learning.encoders import Inputs, SparseAutoencoder, initial_layers
from ..learning.loop import Training, start, train
from ..learning.records import History
from ..learning.run import trained
from .arrays import Rows, optional_tensor, resolve_device, to_array, to_tensor
from .attributes import (
    fitted_activation,
    history_of,
    initial_activation,
    store_activation,
    store_inputs,
)
from .base import Encode, make_generator
from .callbacks import CallbackSupportMixin, Watch
from .checkpoints import checkpoint_of, run_facts
from .parameters import TrainingParameters
from .resume import check_width, resumed, resumed_optimizer
from .sources import Sources, read_sources
from .start import Trainee, begin, read_dictionaries
from .validation import _fit_context

T = TypeVar("T")

_MAX_DEAD_AFTER = 10_000_000
_HANDFUL = 4  # a solver holds as many matrices of codes; sparse codes need one product
_MANY = 1024  # rows for which it pays to prepare a screen
_ROWS_FOR_LATENT = 4  # in which a latent that is alive should have fired


@dataclass
class Fit:
    """A fit that has begun.

    Attributes
    ----------
    training : Training
    run : Trainee
    given : Sources
        As the caller gave them.
    dtype : torch.dtype
        Of training.
    known : ndarray of shape (n_components, n_features) or None
        A dictionary that is kept fixed.
    resume : bool
    """

    training: Training
    run: Trainee
    given: Sources
    dtype: torch.dtype
    known: np.ndarray | None
    resume: bool

    @property
    def read(self) -> tuple[Rows, ...]:
        """What passes over the data read."""
        return self.given.using(self.dtype).all


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

        Where ``torch.distributed`` has been initialised all processes of the group train one
        model: each calls ``fit`` with the same parameters and the same X, computes its part of
        every batch, and returns the same estimator. See :doc:`/user_guide/parallel`.

        Parameters
        ----------
        X : array-like, CSR matrix, data frame, Tensor or ActivationStore
            Of shape (n_samples, n_features). A store, a memory map or another object with
            ``shape``, ``dtype`` and slicing is read batch by batch.
        y : array-like of shape (n_samples, n_components) or (n_samples, n_targets), default=None
            Of all kinds that X may have. Known codes, with ``objective="codes"``; other
            activations of the same samples, with ``objective="targets"``. Otherwise ignored,
            so that a scorer may use it as the truth.

        Returns
        -------
        self
        """
        with Group.present() as group:
            fit = self._begin_whole_fit(X, y, group)
            train([fit.training], fit.read, group)
        return self._end_fit(fit)

    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: Any, y: Any = None) -> BaseSparseEncoder:
        """One pass over a chunk of rows, going on from where the last call ended.

        The first call decides the dictionary's start, the scale and ``alpha_`` from its
        chunk; the learning rate stays constant. Dead latents are left to the auxiliary loss: by
        the rows of a small chunk they would be started again so that others get worse. (Within
        a chunk of more than ``dead_after`` rows they are.) With ``objective="codes"`` dictionary
        and offset are those of the last chunk: give chunks of many more rows than there are
        latents.

        Parameters
        ----------
        X, y
            As for :meth:`fit`.

        Returns
        -------
        self
        """
        with Group.present() as group:
            resume = hasattr(self, "components_")
            fit = self._begin_fit(X, y, group, resume=resume, n_epochs=1, decay=False)
            train([fit.training], fit.read, group)
        return self._end_fit(fit)

    @_fit_context(prefer_skip_nested_validation=False)
    def _within_fit(self, call: Callable[[], T]) -> T:
        """Call something as a part of ``fit``: parameters are checked, callbacks are set up."""
        return call()

    def _begin_whole_fit(self, X: Any, y: Any, group: Group) -> Fit:
        """What ``fit`` begins with, and not ``partial_fit``."""
        resume = self.warm_start and hasattr(self, "components_")
        return self._begin_fit(X, y, group, resume=resume, n_epochs=self.max_iter, decay=True)

    def _begin_fit(
        self, X: Any, y: Any, group: Group, *, resume: bool, n_epochs: int, decay: bool
    ) -> Fit:
        """Everything before the first step."""
        self._check_combinations()
        given = read_sources(self, X, y, reset=not resume)
        rows = given.rows
        known, init, width = read_dictionaries(self, given, resume=resume)
        work = given.using(self._training_type())
        seed = group.first(make_generator(self.random_state).initial_seed())
        fresh = init, width, torch.Generator().manual_seed(seed)
        run = self._resume(work, known) if resume else begin(self, work, *fresh)
        scales = run.scale, run.input_scale, run.alpha
        run.scale, run.input_scale, run.alpha = group.first(scales)
        sources = given.using(work.rows.dtype, 1 / run.input_scale, 1 / run.scale)
        dead = self._dead(run, len(rows), n_epochs if decay else None)
        settings = self._settings(
            run.alpha / run.scale, len(run.model.dictionary), len(rows), n_epochs,
            decay=decay, device=work.rows.device,
        )  # fmt: skip
        keep = None
        if group.size > 1 or (decay and self.checkpoint is not None):
            facts = run_facts(self, given.all, init, resume=resume)
            group.agree(facts)
            if decay and self.checkpoint is not None and group.rank == 0:
                keep = checkpoint_of(self, facts, given.all)
        optimizer = None
        if resume:
            optimizer = resumed_optimizer(self, work.rows, trained(run.model, settings))
        watch = None
        if group.rank == 0:
            watch = Watch(
                self, X, y, n_epochs, run.scale, (len(rows), given.whole.n_features),
                lambda history: self._as_fitted(run, history, given, work, known), callbacks=decay,
            )  # fmt: skip
        steps = start(
            run.model, sources.all, settings, seed=seed, optimizer=optimizer, dead=dead,
            group=group,
        )  # fmt: skip
        return Fit(Training(steps, keep, watch), run, given, work.rows.dtype, known, resume)

    def _end_fit(self, fit: Fit) -> BaseSparseEncoder:
        """Everything after the last step."""
        run, training, given = fit.run, fit.training, fit.given
        run.silent_for = training.run.dead.silent_for
        run.model.rescale_(run.scale, run.input_scale)
        self._explain_by_codes(run.model, given.using(fit.dtype), fit.known)
        self._store(run, training.run.history, given, fit.known, resume=fit.resume)
        if training.diverged is not None:
            raise training.diverged
        if training.watch is not None:
            training.watch.close()
        return self

    def _explain_by_codes(
        self, model: SparseAutoencoder, work: Sources, known: np.ndarray | None
    ) -> None:
        """Of known codes dictionary and offset are those of least squares; codes stay as they are.

        An encoder that sees its dictionary has them from the start.
        """
        learns = self._learns_offset()
        if work.codes is None or self._encodes_by_dictionary or not (known is None or learns):
            return
        before = model.offset.detach()
        D, offset = least_squares_decoder(
            work.rows.paired(work.codes), before,
            None if known is None else model.dictionary.detach(), learn_offset=learns,
        )  # fmt: skip
        model.dictionary.data, model.offset.data = D, offset
        model.biases[0].data += model.weights[0].detach() @ (offset - before)

    def _resume(self, work: Sources, known: np.ndarray | None) -> Trainee:
        wanted = self._shapes(work.rows.n_features, self.n_components or self.n_components_)
        return resumed(self, self._to_model(work.rows), work, known, wanted)

    def _dead(self, run: Trainee, n: int, n_epochs: int | None) -> DeadLatents:
        silent_for, n_features = run.silent_for, run.model.dictionary.shape[1]
        after = self.dead_after
        if after == "auto":
            # a chunk of partial_fit says little about how many come
            long = 2 * n if n_epochs is None else n * n_epochs // 20
            after = min(2 * n, max(long, _ROWS_FOR_LATENT * len(silent_for)), _MAX_DEAD_AFTER)
        k_aux = min(max(1, n_features // 2), len(silent_for))
        return DeadLatents(silent_for, after, k_aux)

    def _initial_module(
        self,
        D: Tensor,
        offset: Tensor,
        alpha: float,
        generator: torch.Generator,
        inputs: Inputs | None,
    ) -> SparseAutoencoder:
        """The network before training, for rows of unit variance and their alpha."""
        activation = initial_activation(self, D, alpha)
        if inputs is None:
            layers = initial_layers(D, self._hidden(), generator)
            return SparseAutoencoder(*layers, D, offset, activation)
        layers = initial_layers(D.new_zeros(len(D), inputs.x.shape[1]), self._hidden(), generator)
        model = SparseAutoencoder(*layers, D, offset, activation, inputs.offset)
        model.restart_(torch.arange(len(D), device=D.device), inputs.x, inputs.wanted, alpha)
        model.biases[-1].data.zero_()  # what is not zero in the mean makes codes dense
        return model

    def _to_model(self, rows: Rows) -> SparseAutoencoder:
        """The network from the attributes."""
        return SparseAutoencoder(
            [to_tensor(w.T, rows) for w in self.encoder_coefs_],
            [to_tensor(b, rows) for b in self.encoder_intercepts_],
            to_tensor(self.components_, rows),
            to_tensor(self.intercept_, rows),
            fitted_activation(self, rows),
            optional_tensor(getattr(self, "input_intercept_", None), rows),
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
        model, rows = run.model, given.rows
        self.encoder_coefs_ = [to_array(w.T, rows) for w in model.weights]
        self.encoder_intercepts_ = [to_array(b, rows) for b in model.biases]
        # a known dictionary is kept to the last digit, whatever training computes in
        kept = model.dictionary if known is None else torch.tensor(known)
        self.components_ = to_array(kept, rows)
        self.intercept_ = to_array(model.offset, rows)
        store_inputs(self, model, run.input_scale, rows)
        store_activation(self, model.activation, rows)
        self.n_components_ = len(self.components_)
        self.alpha_ = run.alpha
        curves = history_of(history.epochs, run.scale, *self.components_.shape)
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
        self,
        run: Trainee,
        history: History,
        given: Sources,
        work: Sources,
        known: np.ndarray | None,
    ) -> dict[str, Any]:
        """The attributes, if training ended now."""
        twin = copy.copy(self)
        model, optimizer = copy.deepcopy((run.model, history.optimizer))
        optimizer.finish_()
        model.rescale_(run.scale, run.input_scale)
        self._explain_by_codes(model, work, known)
        twin._store(replace(run, model=model), history, given, known, resume=False)
        return {k: v for k, v in vars(twin).items() if k not in vars(self) or k.endswith("_")}

    def _encoder(self, rows: Rows) -> Encode:
        return self._to_model(rows).encode

    def _sparse_encoder(self, rows: Rows) -> Any:
        model = self._to_model(rows)
        screen = model.screen() if len(rows) >= _MANY else None
        return partial(model.encode_sparse, work=Workspace(), screen=screen)

    @property
    def _sparse_width(self) -> int:
        return -(-self._n_features_out // _HANDFUL)

    def score(self, X: Any, y: Any = None) -> float:
        """Share of the variance of X, or with ``objective="targets"`` of y, that is explained.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        y : array-like of shape (n_samples, n_targets), default=None
            With ``objective="targets"``; otherwise ignored.

        Returns
        -------
        float
            1 − FVU: at most 1; 0 is what the mean of these rows would get. If they are all the
            same it is 1 where the reconstruction is exact up to rounding in float32, and 0
            otherwise.

        Raises
        ------
        ValueError
            With ``objective="targets"``, if y is missing or of another width than in fit.
        """
        if self.objective != "targets":
            return super().score(X, y)
        check_is_fitted(self, "components_")
        given = read_sources(self, X, y, reset=False)
        check_width(self, given.whole)
        return self._explained(given.rows, given.whole)

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
        check_is_fitted(self, "components_")
        dtype = torch.float64 if self.components_.dtype == np.float64 else torch.float32
        rows = Rows(self.components_, dtype, resolve_device(device))
        return self._to_model(rows)
