"""Greedy k-sparse codes over many atoms, one row at a time."""

from __future__ import annotations

import numpy as np

from .cpu_all_atoms import CHOSEN, best_listed, new_field
from .cpu_jit import compiled, inlined
from .cpu_room import space
from .cpu_support import (
    choose,
    extend,
    finish,
    largest,
    length_of,
    look_again,
    new_support,
    settle,
    spread_sum,
)
from .shared import FLOOR, RESOLUTION


@inlined
def _enter(support, field, gram, D, whole, Q, row, length, e, k, gone, positive, ols, eps):
    """One more atom, and codes to least squares, less the atoms that turn negative.

    Returns how many atoms there are, how many of ``support.listed``, and whether the atom
    had anything to add.
    """
    values, column, weights = support.values, support.column, support.weights
    slope, left = field.slope, field.left
    none, one = slope.dtype.type(0), slope.dtype.type(1)
    left[e] = CHOSEN
    height, scale, blocked = extend(
        support, gram, D, whole, e, Q[row, e] / length, k, positive, eps
    )
    if scale == 0:
        look_again(gram, support, field)
        return k, gone, False
    k += 1
    change = -one if ols else none
    if not blocked:
        spread_sum(gram, support, field, k, slope.dtype.type(height), change)
        for i in range(k):
            values[i] = column[i]
        return k, gone, True
    if ols:
        spread_sum(gram, support, field, k, none, change)
    k, gone = settle(support, field, gram, k, gone, ols)
    for j in range(D.shape[0]):
        slope[j] = Q[row, j] / length
    for i in range(k):
        weights[i] = values[i]
    spread_sum(gram, support, field, k, one, none)
    return k, gone, True


def room_for(X, gram, lengths, most, positive, ols, eps):
    """What :func:`pursuit` works in; arguments are as there."""
    shortest = lengths.min()
    # what is useful in the best case; with atoms of other lengths _enter looks closer
    floor, least = FLOOR * eps * np.sqrt(shortest), eps**RESOLUTION * shortest if ols else 0.0
    field = new_field(X, gram.shape[1], floor, least, positive)
    whole = (lengths if ols else np.ones_like(lengths)).astype(X.dtype)
    return new_support(most + 1, X), field, whole, space(X.shape[1])


@compiled
def pursuit(
    rows, X, D, gram, lengths, Q, most, positive, ols, eps, max_steps, warm, codes, energy, n_iter,
    room,
):  # fmt: skip
    r"""Lower :math:`\tfrac12\|x-sD\|^2` by one atom after the other, refitting all codes.

    The inverse of the chosen atoms' Gram matrix is kept, by borders and downdates. It gives
    the direction in which a newcomer extends their span, and a sum of rows of the Gram
    matrix its products with all atoms, from which follow their products with the residual
    and what is left of their lengths.

    Parameters
    ----------
    rows : int array
        Which rows to code.
    X, D : arrays of shape (n, n_features), (n_components, n_features)
    gram : array of shape (n_components, n_components)
        ``DDᵀ``, with columns of zeros up to a multiple of 64. In bfloat16, as uint16, its sums
        say which few atoms may be the best, and all else is computed exactly.
    lengths : float64 array of shape (n_components,)
        ``‖d_j‖²``.
    Q : array of shape (n, n_components)
        ``XDᵀ``.
    most : int
        Most atoms of a row.
    positive : bool
    ols : bool
        Whether atoms are measured by what the chosen ones leave of them.
    eps : float
        Of the floating point type.
    max_steps : int
        Most atoms added to a row.
    warm : bool
        Whether ``codes`` holds a start; otherwise it holds zeros.
    codes : array of shape (n, n_components)
        Written to, as are ``energy`` (``½‖x−sD‖²``) and ``n_iter``, of shape (n,).
    room : tuple
        See :func:`room_for`.
    """
    support, field, whole, r = room
    slope, left, listed, kind = field.slope, field.left, support.listed, field.slope.dtype.type
    n_components = D.shape[0]
    for row in rows:
        length = length_of(X, row)
        scale = kind(1 / length if length > 0 else 0)
        for j in range(n_components):
            slope[j], left[j] = Q[row, j] * scale, whole[j]
        look_again(gram, support, field)
        k, steps, gone = 0, 0, 0
        if warm:
            gone = largest(codes, row, most, positive, listed)
            for j in range(n_components):
                codes[row, j] = 0
        while k < most:
            again = 0 < gone < listed.shape[0]
            e = best_listed(listed, gone, field) if again else -1
            if e < 0:
                again, gone = False, 0
                if steps == max_steps:
                    break
                e = choose(X, row, D, length, support, field, gram, k, r)
                if e < 0:
                    break
            k, gone, entered = _enter(
                support, field, gram, D, lengths[e], Q, row, length, e, k, gone, positive, ols, eps
            )
            steps += entered and not again
        energy[row] = finish(X, row, D, length, support, k, positive, r, codes)
        n_iter[row] = steps
