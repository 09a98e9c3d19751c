"""What fits a dictionary: all rows at once, batch by batch, or chunk by chunk."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.utils.metaestimators import available_if
from torch import Tensor

from ..inference.exhaustive import check_supports
from ..learning.atoms import ATOM_UPDATES, initial_dictionary, unit
from ..learning.batches import epoch
from ..learning.dictionary import (
    Rules,
    annealing,
    check_squares,
    fresh_starts,
    learn_dictionary,
    resumed_start,
    usual_restarts,
)
from ..learning.online import (
    Moments,
    Online,
    OnlineStart,
    begin,
    carry_on,
    learn_in_passes,
    mean_objective,
)
from .arrays import Rows, optional_tensor, read_rows, to_array, to_shared, to_tensor
from .base import SAMPLE_ROWS, SOLVER_ALPHA_FRACTION, BaseSparseCoder, auto_alpha, make_generator
from .coding import check_solver
from .given import given_dictionary, given_weights
from .resume import check_offset
from .validation import _fit_context


def _from_moments(estimator: Any) -> bool:
    """Whether rows may be forgotten once they have been coded."""
    update = ATOM_UPDATES.get(estimator.dict_update)
    if update is not None and not update.from_moments:
        raise AttributeError(
            f"dict_update={estimator.dict_update!r} needs the codes of all rows, which are not "
            "kept from one call of partial_fit to the next: choose 'bcd' or 'mod'."
        )
    return True


class DictionaryLearner(BaseSparseCoder):
    """A coder whose dictionary is known, or learned by alternation.

    What learning from batches has to remember is kept as NumPy arrays in ``_online``. A
    fit on all rows leaves only how much each atom was used, from which ``partial_fit``
    can go on as well.
    """

    _online: dict[str, Any] | None
    weights_: np.ndarray | None

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any = None) -> DictionaryLearner:
        """Learn the dictionary, or take the given one.

        Parameters
        ----------
        X : array-like, CSR matrix, data frame, Tensor or ActivationStore
            Of shape (n_samples, n_features). With ``batch_size`` it may be larger than memory:
            stores, memory maps and other objects with ``shape``, ``dtype`` and slicing are read
            batch by batch.
        y : ignored
            Scorers may use it as the truth.

        Returns
        -------
        self
        """
        if self.batch_size is not None and not ATOM_UPDATES[self.dict_update].from_moments:
            raise ValueError(
                f"dict_update={self.dict_update!r} needs the codes of all rows, which "
                f"batch_size={self.batch_size} does not keep: set batch_size=None, or choose "
                "'bcd' or 'mod'."
            )
        resume = self.warm_start and hasattr(self, "components_")
        rows, known, initial = self._read(X, resume=resume)
        if known is not None:
            return self._take(known, rows)
        if self.batch_size is None:
            return self._learn(initial, rows, resume=resume)
        return self._learn_in_passes(initial, rows, resume=resume)

    @available_if(_from_moments)
    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: Any, y: Any = None) -> DictionaryLearner:
        """One pass over a chunk of rows, going on from where the last call ended.

        The first call decides the dictionary's start and ``alpha_`` from its chunk. Rows
        are forgotten when they have been coded: what is kept does not grow with their
        number. With a known dictionary only the first call does anything.

        Parameters
        ----------
        X, y
            As for :meth:`fit`. The chunk is one batch, or is cut into batches of
            ``batch_size`` rows, in order.

        Returns
        -------
        self
        """
        resume = hasattr(self, "components_")
        rows, known, initial = self._read(X, resume=resume)
        if known is not None:
            return self if resume else self._take(known, rows)
        work = rows.using(getattr(torch, self.precision))
        online = self._resumed(work) if resume else self._begin(initial, work)
        rules, before = self._rules(), online.steps
        batch_size = self.batch_size or len(rows)
        with torch.no_grad():
            for (x,) in epoch((work,), batch_size, torch.Generator(), shuffle=False):
                online.learn(x, rules)
        loss = online.best.moments.loss
        self._store(online.best.D, online.best.offset, rows)
        self._count([loss], loss, 1, online.steps - before, online.flops, resume=resume)
        self._online = _packed(online, work)
        return self

    def _read(self, X: Any, *, resume: bool) -> tuple[Rows, np.ndarray | None, np.ndarray | None]:
        """Rows, the known dictionary and the one to begin with, all checked."""
        self._check(resume=resume)
        rows = read_rows(self, X, reset=not resume, device=self.device)
        return rows, *self._given(rows, resume=resume)

    def _check(self, *, resume: bool) -> None:
        """Whether parameters go together."""
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
        if self.dictionary is not None and self.dict_init is not None:
            raise ValueError(
                "dictionary and dict_init are both given: dictionary is kept, dict_init is where "
                "learning begins. Give only one of them."
            )
        if resume and self.dictionary is None and self.weights_ is not None:
            raise ValueError(
                "the last fit had weights, for a dictionary that was given; to learn on from it "
                "they have no meaning: set warm_start=False, or fit anew."
            )
        if resume and self.n_components not in (None, self.n_components_):
            raise ValueError(
                f"n_components={self.n_components}, but the fitted dictionary has "
                f"{self.n_components_} atoms: set warm_start=False to start again, or the old size."
            )
        if resume and self.dictionary is None:
            check_offset(self)

    def _given(self, rows: Rows, *, resume: bool) -> tuple[np.ndarray | None, np.ndarray | None]:
        """The known dictionary and the one to begin with, for these rows."""
        width = self.n_components_ if resume else self.n_components
        known = given_dictionary("dictionary", self.dictionary, rows, width)
        initial = given_dictionary("dict_init", self.dict_init, rows, width)
        begins = self.components_ if resume else initial
        if known is None and begins is not None and self.positive_dict and (begins < 0).any():
            raise ValueError(
                f"positive_dict=True, but {'components_' if resume else 'dict_init'} has negative "
                "entries: "
                + ("set warm_start=False." if resume else "clip it, np.maximum(dict_init, 0).")
            )
        if self.solver == "l0" and self.n_nonzero_coefs is not None:
            given = known if known is not None else begins
            size = len(given) if given is not None else width or 8 * rows.n_features
            check_supports(size, min(self.n_nonzero_coefs, size))
        self.device_ = str(rows.device)
        return known, initial

    def _fit_known(self, rows: Rows) -> None:
        """Fit with a known dictionary, parameters being valid and rows looked through."""
        self._check(resume=False)
        known, _ = self._given(rows, resume=False)
        assert known is not None
        self._take(known, rows)

    def _rules(self) -> Rules:
        return Rules(
            alpha=self.alpha_,
            positive=self.positive_code,
            positive_dict=self.positive_dict,
            learn_offset=self.fit_intercept,
            update=self.dict_update,
        )

    def _take(self, D: np.ndarray, rows: Rows) -> DictionaryLearner:
        measured = self.fit_intercept or self.alpha == "auto"
        x = rows.sample(SAMPLE_ROWS if measured else 1)
        offset = x.mean(0) if self.fit_intercept else x.new_zeros(x.shape[1])
        atoms = to_shared(D, rows)
        self.weights_ = given_weights(self.weights, len(atoms))
        self.alpha_ = self._alpha(x - offset, atoms, optional_tensor(self.weights_, rows))
        self._store(atoms, offset, rows)
        self._count([], float("nan"), 1, 0, 0, resume=False)
        self._forget_rows(torch.zeros(len(atoms)), 0)
        return self

    def _learn(self, initial: np.ndarray | None, rows: Rows, *, resume: bool) -> DictionaryLearner:
        work = rows.using(getattr(torch, self.precision))
        generator = make_generator(self.random_state)
        x = work.read(slice(0, len(work)))
        mean = x.mean(0) if self.fit_intercept else x.new_zeros(x.shape[1])
        x = x - mean  # a far-away origin would hide what alpha is measured by
        check_squares(x)
        with torch.no_grad():
            if resume:
                D, offset = self._learned(work)
                starts = [resumed_start(x, D, offset - mean, self._rules())]
                alphas = [self.alpha_] * self.max_iter
            else:
                D = self._initial(x, initial, work, generator)
                starts = fresh_starts(x, D, self._rules(), self._restarts(D), generator)
                alphas = annealing(x, D, self._rules(), self.max_iter)
            best, curve = learn_dictionary(x, starts, alphas, self._rules(), self._report)
        self._store(best.D, mean + best.offset, rows)
        self._count(curve, best.loss, self.max_iter, self.max_iter, best.flops, resume=resume)
        self._forget_rows(best.codes.square().mean(0), len(rows))
        return self

    def _learn_in_passes(
        self, initial: np.ndarray | None, rows: Rows, *, resume: bool
    ) -> DictionaryLearner:
        work = rows.using(getattr(torch, self.precision))
        generator = make_generator(self.random_state)
        if resume:
            online = self._resumed(work)
        else:
            online = self._begin(initial, work, generator)
            # alpha has to arrive, however short the run
            online.anneal_steps = min(
                online.anneal_steps, self.max_iter * -(-len(work) // self.batch_size)
            )
        rules, before = self._rules(), online.steps
        with torch.no_grad():
            curve = learn_in_passes(
                online,
                work,
                rules,
                batch_size=self.batch_size,
                max_iter=self.max_iter,
                generator=generator,
                report=self._report,
            )
            loss = mean_objective(work.batches(len(online.best.D)), online, rules)
        self._store(online.best.D, online.best.offset, rows)
        self._count(curve, loss, len(curve), online.steps - before, online.flops, resume=resume)
        self._online = _packed(online, work)
        return self

    def _begin(
        self, initial: np.ndarray | None, work: Rows, generator: torch.Generator | None = None
    ) -> Online:
        generator = generator or make_generator(self.random_state)
        x = work.sample(SAMPLE_ROWS)
        offset = x.mean(0) if self.fit_intercept else x.new_zeros(x.shape[1])
        check_squares(x - offset)
        D = self._initial(x - offset, initial, work, generator)
        return begin(x - offset, D, offset, self._rules(), self._restarts(D), generator)

    def _initial(
        self, x: Tensor, initial: np.ndarray | None, work: Rows, generator: torch.Generator
    ) -> Tensor:
        """Where the first restart begins; alpha is measured there."""
        if initial is None:
            size = self.n_components or 8 * work.n_features
            D = initial_dictionary(x, size, generator, positive=self.positive_dict)
        else:
            D = to_tensor(initial, work)
        self.weights_ = None
        self.alpha_ = self._alpha(x, D)
        return unit(D)

    def _restarts(self, D: Tensor) -> int:
        return usual_restarts(len(D)) if self.n_init == "auto" else self.n_init

    def _alpha(self, x: Tensor, D: Tensor, weights: Tensor | None = None) -> float:
        if self.alpha == "auto":
            return auto_alpha(
                x, D, SOLVER_ALPHA_FRACTION, positive=self.positive_code, weights=weights
            )
        return float(self.alpha)

    def _learned(self, work: Rows) -> tuple[Tensor, Tensor]:
        """Dictionary and offset as they are; an alpha that was set since holds from now on."""
        self.alpha_ = self.alpha_ if self.alpha == "auto" else float(self.alpha)
        return to_tensor(self.components_, work), to_tensor(self.intercept_, work)

    def _resumed(self, work: Rows) -> Online:
        D, offset = self._learned(work)
        if self._online is not None:
            return _unpacked(self._online, work)
        energy, n = to_tensor(self._energy, work), self._n_rows
        return carry_on(unit(D), offset, energy, self.loss_ if n else 0.0, n)

    def _forget_rows(self, energy: Tensor, n_rows: int) -> None:
        self._online = None
        self._energy, self._n_rows = energy.cpu().double().numpy(), n_rows

    def _store(self, D: Tensor, offset: Tensor, rows: Rows) -> None:
        self.components_, self.intercept_ = to_array(D, rows), to_array(offset, rows)
        self.n_components_ = int(self.components_.shape[0])

    def _count(
        self,
        curve: list[float],
        loss: float,
        n_iter: int,
        n_steps: int,
        flops: int,
        *,
        resume: bool,
    ) -> None:
        self.loss_ = loss
        self.loss_curve_: list[float] = self.loss_curve_ + curve if resume else curve
        self.n_iter_: int = n_iter + (self.n_iter_ if resume else 0)
        self.n_steps_: int = n_steps + (self.n_steps_ if resume else 0)
        self._flops: int = flops + (self._flops if resume else 0)

    def _report(self, iteration: int, loss: float) -> None:
        if self.verbose:
            print(f"round {iteration}/{self.max_iter}: objective {loss:.6g}")  # noqa: T201


_COUNTERS = ("top", "steps", "rows", "anneal_steps")


def _packed(online: Online, work: Rows) -> dict[str, Any]:
    """The state of learning from batches without tensors, so that it can be stored."""
    starts = [
        {
            "D": to_array(start.D, work),
            "offset": to_array(start.offset, work),
            **{
                name: to_array(value, work) if isinstance(value, Tensor) else value
                for name, value in vars(start.moments).items()
            },
        }
        for start in online.starts
    ]
    return {"starts": starts, **{name: getattr(online, name) for name in _COUNTERS}}


def _unpacked(state: dict[str, Any], work: Rows) -> Online:
    """The inverse of ``_packed``: tensors of their own, on the rows' device."""
    starts = []
    for start in state["starts"]:
        values: dict[str, Any] = {
            name: to_tensor(value, work) if isinstance(value, np.ndarray) else value
            for name, value in start.items()
        }
        D, offset = values.pop("D"), values.pop("offset")
        starts.append(OnlineStart(D, offset, Moments(**values)))
    return Online(starts, **{name: state[name] for name in _COUNTERS})
