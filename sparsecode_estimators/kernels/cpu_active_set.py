"""The lasso on a few candidate atoms by an active set, one row at a time."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .cpu_inverse import border, dot_product, downdate, new_inverse, padded, times
from .cpu_jit import inlined, part
from .cpu_room import space
from .cpu_vectors import WIDTH, load, plus, store, without_sign

IDLE, ACTIVE, USELESS = 0, 1, 2


class Face(NamedTuple):
    r"""State of one row; candidates are numbered by their place, not by their atom.

    Minimises :math:`\tfrac12 uHu^T - qu^T + \sum_j p_j|u_j|`.

    Attributes
    ----------
    gram : array of shape (cap, padded cap)
        H, products of candidates; what lies beyond them is never looked at.
    slope : array of shape (padded cap,)
        ``q − uH``, kept up to date.
    code, penalty : arrays of shape (cap,)
        u and p.
    sign : int8 array of shape (cap,)
        Of active codes.
    state : int8 array of shape (cap,)
        IDLE, ACTIVE, or USELESS: in the span of active atoms that nothing blocks.
    active : int array of shape (size,)
        Places of the active candidates.
    inverse : array
        Of H on the active candidates, in their order; see :mod:`~.cpu_inverse`.
    column, step : arrays of shape (padded size,)
        Scratch.
    """

    gram: np.ndarray
    slope: np.ndarray
    code: np.ndarray
    penalty: np.ndarray
    sign: np.ndarray
    state: np.ndarray
    active: np.ndarray
    inverse: np.ndarray
    column: np.ndarray
    step: np.ndarray


def new_face(cap, size, dtype):
    """Room for ``size − 1`` active atoms among ``cap`` candidates."""
    return Face(
        space((cap, padded(cap)), dtype),
        space(padded(cap), dtype),
        space(cap, dtype),
        space(cap, dtype),
        space(cap, np.int8),
        space(cap, np.int8),
        space(size, np.int64),
        new_inverse(size, dtype),
        space(padded(size), dtype),
        space(padded(size), dtype),
    )


@inlined
def lost(face, p, most):
    """Whether a slope is larger than residuals allow, or no number at all: rounding has won.

    Compared as integers, among which infinities and NaN, of which compiled code takes no account,
    are the largest. A row whose objective falls keeps a residual no longer than itself.
    """
    bound = largest = without_sign(most)
    for d in range(p):
        largest = max(largest, without_sign(face.slope[d]))
    return largest > bound


@part
def project(face, k, e):
    """Coefficients of candidate ``e`` on the active atoms; what is left of its length."""
    gram, column, row, active = face.gram, face.column, face.step, face.active
    for i in range(k):
        row[i] = gram[e, active[i]]
    times(face.inverse, row, k, column)
    return gram[e, e] - dot_product(column, row, k)


@inlined
def activate(face, k, e, left):
    """One more active atom, whose projection is in ``face.column``."""
    border(face.inverse, face.column, k, left)
    face.active[k] = e


@part
def renew(face, p, k, independent):
    """Make the inverse anew; atoms that the others span leave. Returns how many stay active."""
    active, kept = face.active, 0
    for i in range(k):
        e = active[i]
        left = project(face, kept, e)
        if left > independent * face.gram[e, e]:
            activate(face, kept, e, left)
            kept += 1
            continue
        for d in range(p):
            face.slope[d] += face.code[e] * face.gram[e, d]
        face.code[e] = 0
        face.sign[e] = 0
        face.state[e] = IDLE
    return kept


@part
def _drop(face, k, which):
    """Take the active atom number ``which`` out; the last one takes its number."""
    active = face.active
    place = active[which]
    face.code[place] = 0
    face.sign[place] = 0
    face.state[place] = IDLE
    downdate(face.inverse, k, which)
    active[which] = active[k - 1]
    return k - 1


@part
def _blocked(face, k, limit):
    """How much of ``face.step`` can be taken before a code reaches zero, and whose."""
    step, sign, code, active = face.step, face.sign, face.code, face.active
    share, who = limit, -1
    for i in range(k):
        place = active[i]
        if step[i] * sign[place] < 0:
            ratio = -code[place] / step[i]
            if ratio < share:
                share, who = ratio, i
    return share, who


@part
def _move(face, p, k, share):
    """Take a share of ``face.step``, and keep the slopes up to date."""
    gram, slope, code = face.gram, face.slope, face.code
    step, active, stride = face.step, face.active, face.gram.shape[1]
    for i in range(k):
        step[i] *= share
        code[active[i]] += step[i]
    for j in range(0, p, WIDTH):
        now = load(slope, j)
        for i in range(k):
            now = plus(now, -step[i], load(gram, active[i] * stride + j))
        store(slope, j, now)


@part
def settle(face, p, k, newest):
    """Newton steps on the active set, each as far as no code changes its sign.

    With ``newest >= 0`` only that active atom is off its optimum, which saves the
    first product with the inverse.
    """
    one = face.slope.dtype.type(1)
    inverse, step, wanted = face.inverse, face.step, face.column
    slope, penalty, sign, active = face.slope, face.penalty, face.sign, face.active
    while k > 0:
        if newest >= 0:
            place = active[newest]
            off = slope[place] - penalty[place] * sign[place]
            for i in range(k):
                step[i] = inverse[newest, i] * off
            newest = -1
        else:
            for i in range(k):
                place = active[i]
                wanted[i] = slope[place] - penalty[place] * sign[place]
            times(inverse, wanted, k, step)
        share, who = _blocked(face, k, one)
        _move(face, p, k, share)
        if who < 0:
            break
        k = _drop(face, k, who)
    return k


@part
def _exchange(face, p, k, e, sign):
    """Let ``e``, which the active atoms span, take the place of the first that blocks it."""
    gram, slope = face.gram, face.slope
    for i in range(k):
        face.step[i] = -sign * face.column[i]
    share, who = _blocked(face, k, face.slope.dtype.type(np.inf))
    if who < 0:
        return k, False
    _move(face, p, k, share)
    length = sign * share
    face.code[e] += length
    for j in range(p):
        slope[j] -= length * gram[e, j]
    return _drop(face, k, who), True


@inlined
def most_violated(face, p, positive, tol):
    """Idle candidate that gains most from leaving zero, or -1."""
    slope, penalty, state = face.slope, face.penalty, face.state
    best, e = tol, -1
    for j in range(p):
        gain = (slope[j] if positive else abs(slope[j])) - penalty[j]
        if gain > best and state[j] == IDLE:
            best, e = gain, j
    return e


@inlined
def _imprecision(face, k):
    """By how much slopes of active atoms miss their penalties: rounding, which others have, too."""
    slope, penalty, active = face.slope, face.penalty, face.active
    worst = slope.dtype.type(0)
    for i in range(k):
        place = active[i]
        worst = max(worst, abs(abs(slope[place]) - penalty[place]))
    return worst


@part
def enlist(face, p, k, positive, tol, independent, most):
    """Make all violated candidates active at once, at most ``most``, then settle.

    Cheaper than one after the other where nearly all of them stay. Returns how many are
    active then, and how many were added.
    """
    slope, penalty, state = face.slope, face.penalty, face.state
    before = k
    for e in range(p):
        if k - before == most or k + 1 == face.active.shape[0]:
            break
        gain = (slope[e] if positive else abs(slope[e])) - penalty[e]
        if gain > tol and state[e] == IDLE:
            left = project(face, k, e)
            if left > independent * face.gram[e, e]:
                activate(face, k, e, left)
                state[e] = ACTIVE
                face.sign[e] = 1 if slope[e] > 0 else -1
                k += 1
    return settle(face, p, k, -1), k - before


@part
def descend(face, p, k, positive, tol, independent, max_steps):
    """Add the most violated candidate and settle, until none is violated by ``tol``.

    Or by no more than active atoms are, which is rounding: their copies would take turns with them.

    The objective never rises and every set of active atoms is visited at most once but
    for rounding, so the end is exact (Osborne, Presnell & Turlach 2000; with positive
    codes Lawson & Hanson 1974). An atom that the active ones span, to a relative
    ``independent``, moves along the flat direction until it can be exchanged.

    Returns
    -------
    k : int
        Number of active atoms.
    steps : int
        Atoms added or exchanged.
    """
    steps = 0
    while steps < max_steps:
        e = most_violated(face, p, positive, tol)
        if e < 0 or abs(face.slope[e]) - face.penalty[e] <= _imprecision(face, k):
            break
        sign = face.slope.dtype.type(1 if face.slope[e] > 0 else -1)
        while True:
            left = project(face, k, e)
            # a full set spans everything, whatever rounding leaves of a length
            if left > independent * face.gram[e, e] and k + 1 < face.active.shape[0]:
                activate(face, k, e, left)
                face.state[e] = ACTIVE
                face.sign[e] = np.int8(sign)
                k = settle(face, p, k + 1, k)
                steps += 1
                break
            k, exchanged = _exchange(face, p, k, e, sign)
            if not exchanged:
                face.state[e] = USELESS
                break
            steps += 1
    return k, steps
