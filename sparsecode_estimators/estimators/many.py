"""Several encoders trained on the same passes over the data."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from numbers import Integral
from typing import Any

from sklearn import config_context

from ..learning.distributed import Group
from ..learning.loop import train
from .trained import BaseSparseEncoder, Fit

_SHARED = ("objective", "batch_size", "shuffle", "random_state", "precision", "device")


def fit_many(
    estimators: Sequence[BaseSparseEncoder], X: Any, y: Any = None
) -> list[BaseSparseEncoder]:
    """Fit several encoders, reading every row once an epoch for all of them.

    Each comes to exactly what its own ``fit(X, y)`` would have come to, to the last digit, and
    ends when that would have ended. Where rows come from a disk, reading them may take longer
    than a step; here every block is read once, and every encoder takes its step on each of its
    batches. (The rows of which each makes its start, and those by which it starts dead latents
    again, it reads itself.) In memory it saves little. All models are held at the same time.

    Parameters
    ----------
    estimators : sequence of SAEEncoder, MLPEncoder and UnrolledEncoder
        They are fitted in place. They may differ in everything but ``objective``,
        ``batch_size``, ``shuffle``, ``random_state``, which has to be an int (the order of the
        rows follows from these), ``precision`` and ``device``. Callbacks and checkpoints work as
        in ``fit``; a run that is taken up behind others is brought up to them first.
    X : array-like, CSR matrix, data frame, ActivationStore or Tensor of shape \
            (n_samples, n_features)
    y : array-like of shape (n_samples, n_components) or (n_samples, n_targets), default=None
        Known codes, with ``objective="codes"``; other activations, with ``objective="targets"``.

    Returns
    -------
    list
        The estimators.

    Raises
    ------
    TypeError
        If one of them is not trained by gradient descent.
    ValueError
        If they do not share the order of the rows, or as in ``fit``.
    FloatingPointError
        When the loss of some stops being finite, after the others have been fitted. As in
        ``fit`` the attributes of these hold their last finite state.

    See Also
    --------
    SAEEncoder : One encoder, of any size.

    Examples
    --------
    >>> from sparsecode_estimators import MLPEncoder, SAEEncoder, fit_many
    >>> from sparsecode_estimators.datasets import make_sparse_codes
    >>> X = make_sparse_codes(500, 8, 16, 3, random_state=0).X
    >>> candidates = [SAEEncoder(16, alpha=a, max_iter=20, random_state=0) for a in (0.1, 0.3)]
    >>> candidates.append(MLPEncoder(32, max_iter=10, random_state=0))
    >>> [e.n_iter_ for e in fit_many(candidates, X)]
    [20, 20, 10]
    """
    estimators = list(estimators)
    _check(estimators)
    call: Callable[[], None] = partial(_fit_all, estimators, X, y)
    for estimator in reversed(estimators):  # within what scikit-learn does around each fit
        call = partial(estimator._within_fit, call)
    call()
    return estimators


def _check(estimators: list[BaseSparseEncoder]) -> None:
    for i, estimator in enumerate(estimators):
        if not isinstance(estimator, BaseSparseEncoder):
            raise TypeError(
                f"estimators[{i}] is {estimator!r}: fit_many trains SAEEncoder, MLPEncoder and "
                "UnrolledEncoder. Call its fit."
            )
        if any(estimator is other for other in estimators[:i]):
            raise ValueError(f"estimators[{i}] is in the list twice: give a clone of it.")
        if not isinstance(estimator.random_state, Integral):
            raise ValueError(
                f"estimators[{i}] has random_state={estimator.random_state!r}: all need the same "
                "int, from which the order of the rows follows."
            )
        for name in _SHARED:
            here, first = (_shared(e, name) for e in (estimator, estimators[0]))
            if here != first:
                raise ValueError(
                    f"estimators[{i}] has {name}={here!r}, but estimators[0] has {first!r}: they "
                    "read the same batches, so set it to the same value in all of them."
                )


def _shared(estimator: BaseSparseEncoder, name: str) -> Any:
    return estimator._batch_size(math.inf) if name == "batch_size" else getattr(estimator, name)


def _fit_all(estimators: list[BaseSparseEncoder], X: Any, y: Any) -> None:
    with Group.present() as group:
        group.agree({"the number of estimators": str(len(estimators))})
        fits: list[Fit] = []
        for estimator in estimators:
            with config_context(**({"assume_finite": True} if fits else {})):  # it is known by now
                fits.append(estimator._begin_whole_fit(X, y, group))
        if fits:
            train([fit.training for fit in fits], fits[0].read, group)
    diverged = []
    for i, (estimator, fit) in enumerate(zip(estimators, fits, strict=True)):
        try:
            estimator._end_fit(fit)
        except FloatingPointError as error:
            diverged.append(f"estimators[{i}]: {error}")
    if diverged:
        raise FloatingPointError(" ".join(diverged))
