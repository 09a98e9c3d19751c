"""The lasso over many atoms: an active set among candidates that grow as they are needed."""

from __future__ import annotations

import numpy as np

from .cpu_active_set import (
    ACTIVE,
    IDLE,
    descend,
    enlist,
    lost,
    most_violated,
    new_face,
    renew,
    settle,
)
from .cpu_certificate import conclude, far, off
from .cpu_inverse import times
from .cpu_jit import compiled, inlined, part
from .cpu_residual import dot, square, subtract
from .cpu_room import space
from .cpu_sweep import new_sums, remember, sweep, violated
from .shared import INDEPENDENT

# Measured: see benchmarks/NOTES.md.
GREED = 0.5  # candidates are violated by at least this share of the worst violation
START = 0.1  # codes of a warm start below this share of the largest are not candidates
SPARE = 64  # candidates beyond twice as many as can be active
ROUNDINGS = 4  # of ‖x‖²/2; a gap beyond them is one that slopes by the Gram matrix have left
SHORT = 1e-3  # of the codes: a step after which nothing has to be computed anew
NEWTON_STEPS = 3  # most steps
AGAIN = 2  # times such a row goes on from exact slopes
FRESH = 64  # steps after which slopes and inverse are made anew: rounding piles up in them


@part
def _from_start(codes, row, positive, found):
    """Atoms that a start uses much; how many."""
    largest = codes.dtype.type(0)
    for j in range(codes.shape[1]):
        largest = max(largest, codes[row, j] if positive else abs(codes[row, j]))
    m = 0
    for j in range(codes.shape[1]):
        value = codes[row, j] if positive else abs(codes[row, j])
        if value > 0 and value >= START * largest and m < found.shape[0]:
            found[m] = j
            m += 1
    return m


@part
def _take_all(face, cand, penalty):
    """Every atom is a candidate, at its own place."""
    for j in range(penalty.shape[0]):
        cand[j], face.penalty[j] = j, penalty[j]
        face.code[j], face.sign[j], face.state[j] = 0, 0, IDLE
    return penalty.shape[0]


@part
def _refresh(face, cand, p, slope):
    """Exact slopes for the candidates, and another chance for those that seemed useless."""
    slopes, state = face.slope, face.state
    for d in range(p):
        slopes[d] = slope[cand[d]]
        if state[d] != ACTIVE:
            state[d] = IDLE


@part
def _admit(face, cand, threshold, p, found, m, gram, penalty):
    """Make candidates of ``m`` atoms; an infinite threshold keeps them from coming twice."""
    for i in range(m):
        j = found[i]
        cand[p], threshold[j] = j, np.inf
        face.penalty[p] = penalty[j]
        face.code[p], face.sign[p], face.state[p] = 0, 0, IDLE
        row = gram[j]
        for d in range(p + 1):
            face.gram[p, d] = face.gram[d, p] = row[cand[d]]
        p += 1
    return p


@part
def _evict(face, cand, threshold, p, k, gram, penalty, number):
    """Only active candidates stay; how many those are. Places only move down."""
    for i in range(k):
        number[face.active[i]] = i
    q = 0
    for d in range(p):
        atom = cand[d]
        if face.state[d] != ACTIVE:
            threshold[atom] = penalty[atom]
            continue
        cand[q], face.penalty[q], face.state[q] = atom, face.penalty[d], ACTIVE
        face.code[q], face.sign[q] = face.code[d], face.sign[d]
        face.active[number[d]] = q
        for i in range(q + 1):
            face.gram[q, i] = face.gram[i, q] = gram[atom, cand[i]]
        q += 1
    return q


@inlined
def _length(values, k):
    total = 0.0
    for i in range(k):
        total += abs(values[i])
    return total


@part
def finish(
    X, row, D, cand, face, k, ridge, slope, loose, stale, penalty, scale, size, positive, room,
    codes,
):  # fmt: skip
    """Newton steps from the exact residual: codes to the last digit of their type.

    One is enough but where active atoms are nearly dependent. Slopes are off by ``loose``, besides
    their rounding; those of atoms known to be well below their penalty, by ``stale`` more.
    """
    r, exact, products, step, atoms = room
    column, change, active = face.column, face.step, face.active
    for i in range(k):
        atoms[i], exact[i] = cand[active[i]], face.code[active[i]]
    loose += off(scale, size, _length(exact, k))
    for turn in range(NEWTON_STEPS):
        for m in range(r.shape[0]):
            r[m] = X[row, m]
        subtract(r, exact, D, atoms, k)
        for i in range(k):
            products[i] = dot(r, D, atoms[i]) - ridge * exact[i]
            column[i] = products[i] - penalty[atoms[i]] * face.sign[active[i]]
        times(face.inverse, column, k, change)
        for i in range(k):
            kept = (exact[i] + change[i]) * face.sign[active[i]] > 0
            step[i] = change[i] if kept else -exact[i]
        length = _length(step, k)
        if length <= SHORT * _length(exact, k):
            break
        # slopes are those of the codes before
        loose += stale + scale.longest * scale.longest * length
        stale = 0.0
        for i in range(k):
            if turn + 1 < NEWTON_STEPS:
                exact[i] += step[i]
            step[i] = 0
    return conclude(
        atoms, active, exact, products, k, square(r), r, D, face.gram, step, slope, loose, penalty,
        scale, positive, ridge, codes, row,
    )  # fmt: skip


@part
def exact_slopes(X, row, D, cand, face, k, ridge, room, slopes, codes):
    """Slopes of all atoms by the exact residual of the codes as written, which are taken back.

    Sums of rows of the Gram matrix round what is as large as the row, these what is as large
    as the residual. Returns the largest.
    """
    r, exact, _, _, atoms = room
    for m in range(r.shape[0]):
        r[m] = X[row, m]
    for i in range(k):
        place = face.active[i]
        atoms[i] = cand[place]
        exact[i] = face.code[place] = codes[row, atoms[i]]
    subtract(r, exact, D, atoms, k)
    top = face.slope.dtype.type(0)
    for j in range(slopes.shape[1]):
        slopes[0, j] = dot(r, D, j) - ridge * codes[row, j]
        codes[row, j] = 0
        top = max(top, abs(slopes[0, j]))
    return top


def limits(D, ridge):
    """How many atoms can be active, and how many candidates there can be."""
    n_components, n_features = D.shape
    most = n_components if ridge > 0 else min(n_components, n_features)
    return most, min(n_components, 2 * most + SPARE)


def scratch(n_features, size):
    """Room for the last step of a row: residual; codes, products, step and atoms."""
    return (
        space(n_features),
        space(size),
        space(size),
        space(size),
        space(size, np.int64),
    )


def room_for(D, scale, gram, ridge):
    """What :func:`working_set` works in: candidates, those found, and slopes of all atoms."""
    most, cap = limits(D, ridge)
    everything = len(D) <= SPARE
    slope, face = space(len(D), D.dtype), new_face(cap, most + 1, D.dtype)
    if everything:
        face.gram[:, :cap] = gram
    return (
        face,
        *(space(cap, np.int64) for _ in range(3)),
        space(len(D), D.dtype),
        slope,
        new_sums(gram, most + 1, cap),
        scratch(D.shape[1], most + 1),
        space((1, len(D)), D.dtype),
        scale,
    )


@part
def _until_none_is_violated(
    row, gram, Q, penalty, positive, tol, usual, size, most, independent, max_steps, room, p, k, m,
    steps, worst,
):  # fmt: skip
    """Candidates come in and are solved for, until no atom gains more than ``tol``.

    Slopes may be exact to begin with; then they are by the Gram matrix, whose rounding asks for
    the ``usual`` tolerance. Returns how many candidates and active atoms there are, and steps; -1
    active atoms if rounding has won.
    """
    face, cand, found, number, threshold, slope, sums, _, _, scale = room
    cap, everything = len(cand), len(slope) <= SPARE
    idle = 0  # rounds without a step: all newcomers were in the span of active atoms
    while steps + idle < max_steps:
        if not everything and m == 0:
            if p + SPARE > cap:
                p, tol = _evict(face, cand, threshold, p, k, gram, penalty, number), usual
                worst = sweep(
                    Q, row, gram, cand, face, 0, k, slope, threshold, positive, sums, scale, size,
                    True,
                )  # fmt: skip
            cut = gram.dtype.type(GREED) * worst
            m = violated(slope, threshold, positive, sums, max(tol, cut), found, cap - p)
        p = _admit(face, cand, threshold, p, found, m, gram, penalty)
        _refresh(face, cand, p, slope)
        if m == 0 and most_violated(face, p, positive, tol) < 0:
            break
        added = 0
        remember(face, p, sums)
        if everything:
            k = settle(face, p, k, -1)
        else:
            k, added = enlist(face, p, k, positive, tol, independent, max_steps - steps)
        steps += added
        here = min(FRESH, max_steps - steps)
        k, more = descend(face, p, k, positive, tol, independent, here)
        steps += more
        if more == FRESH:
            k = renew(face, p, k, independent)
        if lost(face, p, most):
            return p, -1, steps
        worst = sweep(
            Q, row, gram, cand, face, p, k, slope, threshold, positive, sums, scale, size, False
        )
        tol = usual
        if more + added == 0:
            if m == 0:
                break
            idle += 1
        m = 0
    return p, k, steps


@compiled
def working_set(
    rows, X, D, penalty, ridge, positive, eps, gram, Q, max_steps, warm, codes, gap, energy, n_iter,
    room,
):  # fmt: skip
    r"""Minimise :math:`\tfrac12\|x-sD\|^2 + \sum_j p_j|s_j| + \tfrac{\rho}{2}\|s\|^2`.

    For each row, the atoms violated most become candidates, :func:`descend` solves the
    problem on the candidates exactly, the slopes of all atoms follow from the Gram
    matrix, and so on until no atom is violated.

    Parameters
    ----------
    rows : int array
        Which rows to solve.
    X, D : arrays of shape (n, n_features), (n_components, n_features)
    penalty : array of shape (n_components,)
    ridge : float
    positive : bool
    eps : float
        Of the floating point type.
    gram : array of shape (n_components, n_components)
        ``DDᵀ + ridge·I``.
    Q : array of shape (n, n_components)
        ``XDᵀ``.
    max_steps : int
        Most atoms added to a row.
    warm : bool
        Whether ``codes`` holds a start; otherwise it holds zeros.
    codes : array of shape (n, n_components)
        Written to, as are ``gap``, ``energy`` (``½‖x−sD‖²``) and ``n_iter``, of shape (n,).
    room : tuple
        See :func:`room_for`.
    """
    n_components = D.shape[0]
    independent = eps**INDEPENDENT  # what is left of an atom that the others span, with rounding
    face, cand, found, _, threshold, slope, sums, last, exact, scale = room
    everything = n_components <= SPARE
    for row in rows:
        top, good = gram.dtype.type(0), 0.0
        for j in range(n_components):
            threshold[j] = penalty[j]
            top = max(top, abs(Q[row, j]))
        for j in range(X.shape[1]):
            good += np.float64(X[row, j]) * X[row, j]
        size = np.sqrt(good)
        most = gram.dtype.type(far(scale, size, ridge))
        good *= 0.5 * ROUNDINGS * eps
        usual = gram.dtype.type(8 * eps * top)
        tol, again = usual, AGAIN
        p, k, steps, m = 0, 0, 0, 0
        if everything:
            p = _take_all(face, cand, penalty)
        elif warm:
            m = _from_start(codes, row, positive, found)
        for j in range(n_components):
            codes[row, j] = 0
        worst = sweep(
            Q, row, gram, cand, face, 0, 0, slope, threshold, positive, sums, scale, size, True
        )
        while True:
            p, k, steps = _until_none_is_violated(
                row, gram, Q, penalty, positive, tol, usual, size, most, independent, max_steps,
                room, p, k, m, steps, worst,
            )  # fmt: skip
            if k < 0:  # zeros, whose gap is their energy
                gap[row] = energy[row] = 0.5 * size * size
                break
            gap[row], energy[row] = finish(
                X, row, D, cand, face, k, ridge, slope, 0.0, 0.0, penalty, scale, size, positive,
                last, codes,
            )  # fmt: skip
            if gap[row] <= good or again == 0 or steps >= max_steps:
                break
            again, m = again - 1, 0
            top = exact_slopes(X, row, D, cand, face, k, ridge, last, exact, codes)
            tol = gram.dtype.type(8 * eps * top)
            worst = sweep(
                exact, 0, gram, cand, face, 0, 0, slope, threshold, positive, sums, scale, size,
                True,
            )  # fmt: skip
        n_iter[row] = steps
