"""Stages and exchanges of k-sparse codes over very many atoms, between products with all atoms.

The same as :mod:`~.cpu_stages` and :mod:`~.cpu_replacement` without a Gram matrix. Slopes of all
atoms are wanted a handful of times a row; then rows wait, until products of all atoms with the
residuals of many rows are made at once.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .cpu_all_atoms import CHOSEN
from .cpu_inverse import padded
from .cpu_jit import compiled, inlined, part
from .cpu_replacement import begin, exchange
from .cpu_residual import residual
from .cpu_stages import look
from .cpu_support import Support, finish, length_of, look_again
from .shared import CLASSES, LIMIT


class Paused(NamedTuple):
    """Rows that wait for slopes; arrays over rows, and atoms of their supports.

    Attributes
    ----------
    atoms, values, pull, inverse
        As in :class:`~.cpu_support.Support`.
    size : int array of shape (n,)
        Atoms of the support.
    room : int array of shape (n,)
        Atoms that may enter in a stage; zero when stages are over.
    stages, exchanges : int arrays of shape (n,)
        How many there have been.
    energy : array of shape (n,)
        ``‖r‖²`` after the last exchange, -1 before.
    residual : array of shape (n, n_features)
        For rows of length 1.
    """

    atoms: np.ndarray
    values: np.ndarray
    pull: np.ndarray
    inverse: np.ndarray
    size: np.ndarray
    room: np.ndarray
    stages: np.ndarray
    exchanges: np.ndarray
    energy: np.ndarray
    residual: np.ndarray


def no_gram(D: np.ndarray) -> np.ndarray:
    """A Gram matrix without rows, as wide as others.

    Loops then compute products of atoms, and take slopes of float32 for rounded ones.
    """
    width = -(-len(D) // CLASSES) * CLASSES
    return np.zeros((0, width), np.uint16 if D.dtype == np.float32 else D.dtype)


def paused(X: np.ndarray, most: int) -> Paused:
    """Rows with no atoms."""
    n, size = len(X), most + 1
    lengths = np.linalg.norm(X.astype(np.float64), axis=1, keepdims=True)
    return Paused(
        np.zeros((n, size), np.int64),
        np.zeros((n, size)),
        np.zeros((n, size)),
        np.zeros((n, size, padded(size))),
        np.zeros(n, np.int64),
        np.full(n, most),
        np.zeros(n, np.int64),
        np.zeros(n, np.int64),
        np.full(n, -1.0),
        (X / np.where(lengths == 0, 1.0, lengths)).astype(X.dtype),
    )


@inlined
def _support_of(state, row, scratch):
    """What a row waits with, in place."""
    return Support(
        state.atoms[row], state.values[row], state.pull[row], state.inverse[row],
        scratch.column, scratch.products, scratch.weights, scratch.listed,
    )  # fmt: skip


@part
def _keep_residual(X, row, D, length, support, k, r, state):
    residual(X, row, D, length, support.atoms, support.values, k, r)
    for m in range(r.shape[0]):
        state.residual[row, m] = r[m]


@compiled
def begin_wide(rows, X, D, gram, lengths, most, positive, eps, codes, state, room):
    """Take the largest codes of each row as its support; codes become zeros.

    Parameters
    ----------
    rows, X, D, lengths, most, positive, eps, codes
        As in :func:`~.cpu_replacement.replacement`.
    gram : array of shape (0, width)
        :func:`no_gram`.
    state : Paused
        Written to.
    room : tuple
        See :func:`~.cpu_stages.room_for`.
    """
    scratch, _, field, r, _ = room
    for row in rows:
        length, k, support = length_of(X, row), 0, _support_of(state, row, scratch)
        if length > 0:
            k = begin(X, row, length, D, gram, lengths, codes, support, field, most, positive, eps)
            _keep_residual(X, row, D, length, support, k, r, state)
        state.size[row], state.room[row] = k, 0
        for j in range(codes.shape[1]):
            codes[row, j] = 0


@compiled
def wide_stages(
    places, X, D, gram, lengths, most, positive, share, depth, eps, max_steps, tol, rows, slopes,
    state, open_, codes, energy, n_iter, room,
):  # fmt: skip
    """Stages of each row for which one look at all atoms is enough, or one exchange.

    Parameters
    ----------
    places : int array
        Which of ``rows`` to go on with.
    X, D, lengths, most, positive, share, depth, eps, max_steps, tol
        As in :func:`~.cpu_stages.stages`.
    gram : array of shape (0, width)
        :func:`no_gram`.
    rows : int array of shape (m,)
        Rows that are open.
    slopes : array of shape (m, n_components)
        Products of all atoms with their residuals.
    state : Paused
    open_ : bool array of shape (n,)
        Receives whether a row wants slopes again.
    codes : array of shape (n, n_components)
        Zeros. Those of a row are written when it is done, as are ``energy`` and ``n_iter``.
    room : tuple
        See :func:`~.cpu_stages.room_for`.
    """
    n_components = D.shape[0]
    scratch, trial, field, r, near = room
    no_products = gram  # neither has rows
    for place in places:
        row = rows[place]
        length, support, k = length_of(X, row), _support_of(state, row, scratch), state.size[row]
        waits = False
        if length > 0:
            for j in range(n_components):
                field.slope[j], field.left[j] = slopes[place, j], 1
            for i in range(k):
                field.left[support.atoms[i]] = CHOSEN
            look_again(gram, support, field)
            if state.room[row] > 0 and state.stages[row] < min(max_steps, LIMIT * most):
                most_steps = min(max_steps, LIMIT * most) - state.stages[row]
                k, state.room[row], steps = look(
                    X, row, length, D, gram, lengths, no_products, most, positive, share, depth,
                    eps, most_steps, support, field, k, state.room[row], r, near,
                )  # fmt: skip
                state.stages[row] += steps
                waits = steps > 0
            if waits:
                state.room[row] = state.room[row] if k < most else 0
            elif state.exchanges[row] < max_steps:
                state.room[row] = 0
                k, state.energy[row] = exchange(
                    X, row, length, D, gram, lengths, most, positive, eps, tol,
                    state.energy[row], support, trial, field, k, r,
                )  # fmt: skip
                if state.energy[row] >= 0:
                    state.exchanges[row] += 1
                    waits = state.exchanges[row] < max_steps
        state.size[row], open_[row] = k, waits
        if waits:
            _keep_residual(X, row, D, length, support, k, r, state)
        else:
            energy[row] = finish(X, row, D, length, support, k, positive, r, codes)
            n_iter[row] = state.stages[row] + state.exchanges[row]
