"""The lasso over very many atoms: problems on few candidates, between products with all atoms."""

from __future__ import annotations

import numpy as np

from .cpu_active_set import ACTIVE, IDLE, activate, descend, new_face, project, settle
from .cpu_certificate import subtract
from .cpu_jit import compiled, inlined, part
from .cpu_working_set import BLOCK, SPARE, finish, gains, scratch, violated

GREED = 0.35  # candidates are violated by at least this share of the worst violation


@inlined
def _narrow_dot(a, i, b, j):
    """Product of two rows in their own precision."""
    total = a.dtype.type(0)
    for m in range(a.shape[1]):
        total += a[i, m] * b[j, m]
    return total


@inlined
def _active(codes, row, found):
    """Atoms with a code, at most as many as there is room for; how many."""
    m = 0
    for b in range(0, codes.shape[1], BLOCK):
        stop = min(codes.shape[1], b + BLOCK)
        some = False
        for j in range(b, stop):
            some |= codes[row, j] != 0
        if some:
            for j in range(b, stop):
                if codes[row, j] != 0 and m < found.shape[0]:
                    found[m] = j
                    m += 1
    return m


@part
def _make_face(face, cand, p, k, x, row, D, codes, penalty, ridge, independent):
    """Problem on ``p`` candidates, the first ``k`` of which have codes; how many are active.

    Of atoms that depend on others the codes are given up.
    """
    gram, slope = face.gram, face.slope
    for i in range(p):
        for j in range(i + 1):
            gram[i, j] = gram[j, i] = _narrow_dot(D, cand[i], D, cand[j])
        gram[i, i] += ridge
        slope[i] = _narrow_dot(x, row, D, cand[i])
        face.penalty[i] = penalty[cand[i]]
        face.code[i], face.sign[i], face.state[i] = 0, 0, IDLE
    active = 0
    for i in range(k):
        value = codes[row, cand[i]]
        codes[row, cand[i]] = 0
        left = project(face, active, i)
        if left > independent * gram[i, i] and active + 1 < face.active.shape[0]:
            activate(face, active, i, left)
            face.state[i], face.sign[i] = ACTIVE, 1 if value > 0 else -1
            face.code[i] = value
            active += 1
            for j in range(p):
                slope[j] -= value * gram[i, j]
    return settle(face, p, active, -1)


@inlined
def _keep(face, cand, k, x, row, D, codes, room, residual, r):
    """Write the codes, and the residual that the next product is made with."""
    exact = room[0]
    for m in range(exact.shape[0]):
        exact[m] = x[row, m]
    for i in range(k):
        place = face.active[i]
        codes[row, cand[place]] = face.code[place]
        subtract(exact, face.code[place], D, cand[place])
    for m in range(exact.shape[0]):
        residual[r, m] = exact[m]


@compiled
def wide_round(
    places, X, D, penalty, ridge, positive, eps, least, rows, slopes, residual, done, max_steps,
    codes, gap, energy, n_iter,
):  # fmt: skip
    """Solve rows on their active atoms and those violated most.

    Parameters
    ----------
    places : int array
        Which of ``rows`` to solve.
    least : float
        Violations below this share of an atom's penalty are left for later; zero if ``slopes``
        are exact, so that a row without violation gets its certificate.
    rows : int array of shape (m,)
        Rows that are open.
    slopes : array of shape (m, n_components)
        Products of all atoms with their residuals; written to.
    residual : array of shape (n, n_features)
        Receives those of the new codes.
    done : bool array of shape (n,)
        Receives whether no atom is violated, or nothing more can be done.
    others
        As in :func:`~.cpu_working_set.working_set`; ``codes`` are where to start.
    """
    n_components, n_features = D.shape
    independent = eps**0.7
    most = n_components if ridge > 0 else min(n_components, n_features)
    cap = min(n_components, 2 * most + SPARE)
    face = new_face(np.zeros((cap, cap), D.dtype), most + 1)
    cand, found = np.zeros(cap, np.int64), np.zeros(cap, np.int64)
    threshold = np.zeros(n_components, D.dtype)
    blocks = np.zeros(-(-n_components // BLOCK), D.dtype)
    room = scratch(n_features, most + 1)
    one = D.dtype.type(1)
    for place in places:
        r, slope = rows[place], slopes[place]
        top, size = D.dtype.type(0), D.dtype.type(0)
        for j in range(n_components):
            threshold[j] = (one + least) * penalty[j]
        k = _active(codes, r, cand)
        for i in range(k):
            threshold[cand[i]] = np.inf
        largest = gains(slope, threshold, positive, blocks)
        for f in range(n_features):
            top += X[r, f] * X[r, f]
            size += residual[r, f] * residual[r, f]
        tol = D.dtype.type(eps) * np.sqrt(top)
        cut = max(D.dtype.type(4 * eps) * np.sqrt(size), D.dtype.type(GREED) * largest)
        m = 0
        if n_iter[r] < max_steps:
            m = violated(slope, threshold, positive, blocks, cut, found, cap - k)
        for i in range(m):
            cand[k + i] = found[i]
        p = k + m
        before = n_iter[r]
        k = _make_face(face, cand, p, k, X, r, D, codes, penalty, ridge, independent)
        if m > 0:
            k, steps = descend(face, p, k, positive, tol, independent, max_steps - before)
            n_iter[r] += steps
        done[r] = m == 0 or n_iter[r] == before
        if done[r] and least == 0:
            gap[r], energy[r] = finish(
                X, r, D, cand, face, k, ridge, slope, penalty, positive, room, codes
            )
        else:
            _keep(face, cand, k, X, r, D, codes, room, residual, r)
