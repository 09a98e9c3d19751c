"""The lasso over many atoms: an active set among candidates that grow as they are needed."""

from __future__ import annotations

import numpy as np

from .cpu_active_set import ACTIVE, IDLE, descend, enlist, most_violated, new_face, settle
from .cpu_certificate import dot, gap_of, subtract, worst_ratio
from .cpu_jit import compiled

# Measured: see benchmarks/NOTES.md.
GREED = 0.5  # candidates are violated by at least this share of the worst violation
START = 0.1  # codes of a warm start below this share of the largest are not candidates
BLOCK = 64  # atoms looked at together
SPARE = 64  # candidates beyond twice as many as can be active


@compiled
def _slopes(q, gram, cand, face, k, slope):
    """``q − uG`` over all atoms, four rows of the Gram matrix at a time."""
    code, active = face.code, face.active
    n = q.shape[0]
    for j in range(n):
        slope[j] = q[j]
    i = 0
    while i + 4 <= k:
        a, b, c, d = active[i], active[i + 1], active[i + 2], active[i + 3]
        ua, ub, uc, ud = code[a], code[b], code[c], code[d]
        a, b, c, d = cand[a], cand[b], cand[c], cand[d]
        for j in range(n):
            slope[j] -= ua * gram[a, j] + ub * gram[b, j] + uc * gram[c, j] + ud * gram[d, j]
        i += 4
    while i < k:
        a, ua = cand[active[i]], code[active[i]]
        for j in range(n):
            slope[j] -= ua * gram[a, j]
        i += 1


@compiled
def _gains(slope, threshold, positive, blocks):
    """Largest gain from leaving zero in each block of atoms; the largest of all."""
    largest = slope.dtype.type(-np.inf)
    for b in range(blocks.shape[0]):
        best = slope.dtype.type(-np.inf)
        stop = min(slope.shape[0], (b + 1) * BLOCK)
        if positive:
            for j in range(b * BLOCK, stop):
                gain = slope[j] - threshold[j]
                best = gain if gain > best else best
        else:
            for j in range(b * BLOCK, stop):
                gain = abs(slope[j]) - threshold[j]
                best = gain if gain > best else best
        blocks[b] = best
        largest = max(largest, best)
    return largest


@compiled
def _violated(slope, threshold, positive, blocks, cut, found):
    """Atoms that gain more than ``cut`` from leaving zero; how many, at most the room."""
    m = 0
    for b in range(blocks.shape[0]):
        if blocks[b] > cut:
            for j in range(b * BLOCK, min(slope.shape[0], (b + 1) * BLOCK)):
                gain = (slope[j] if positive else abs(slope[j])) - threshold[j]
                if gain > cut and m < found.shape[0]:
                    found[m] = j
                    m += 1
    return m


@compiled
def _from_start(start, positive, found):
    """Atoms that a start uses much; how many."""
    largest = start.dtype.type(0)
    for j in range(start.shape[0]):
        largest = max(largest, start[j] if positive else abs(start[j]))
    m = 0
    for j in range(start.shape[0]):
        value = start[j] if positive else abs(start[j])
        if value > 0 and value >= START * largest and m < found.shape[0]:
            found[m] = j
            m += 1
    return m


@compiled
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


@compiled
def _evict(face, cand, threshold, p, k, penalty):
    """Only active candidates stay; their new places."""
    number = np.full(p, -1)
    for i in range(k):
        number[face.active[i]] = i
    q = 0
    for d in range(p):
        if face.state[d] != ACTIVE:
            threshold[cand[d]] = penalty[cand[d]]
            continue
        cand[q] = cand[d]
        face.penalty[q], face.code[q], face.sign[q] = face.penalty[d], face.code[d], face.sign[d]
        face.state[q] = ACTIVE
        face.active[number[d]] = q
        for i in range(q + 1):
            # places only move down, so nothing that is still needed is overwritten
            face.gram[q, i] = face.gram[d, i]
        number[q] = d
        q += 1
    for a in range(q):
        for b in range(a + 1):
            face.gram[a, b] = face.gram[b, a] = face.gram[number[a], number[b]]
    return q


@compiled
def _polish(x, D, cand, face, k, ridge, r, exact, products):
    """One Newton step from the exact residual r: codes to the last digit of their type.

    The step is so short that its own effect on the products is exact enough in the
    precision of the Gram matrix. Returns the energy of the new residual.
    """
    gram, inverse, column, step = face.gram, face.inverse, face.column, face.step
    active, code = face.active, face.code
    for i in range(r.shape[0]):
        r[i] = x[i]
    for i in range(k):
        place = active[i]
        subtract(r, np.float64(code[place]), D[cand[place]])
    energy = dot(r, r)
    for i in range(k):
        place = active[i]
        products[i] = dot(r, D[cand[place]]) - ridge * code[place]
        column[i] = products[i] - face.penalty[place] * face.sign[place]
    for i in range(k):
        place, total = active[i], 0.0
        for j in range(k):
            total += inverse[i, j] * column[j]
        old = np.float64(code[place])
        total = total if (old + total) * face.sign[place] > 0 else -old
        step[i], exact[i] = total, old + total
        # ‖r − δA‖² = ‖r‖² − δ·(2 Ar − δAAᵀ); the ridge is in both products and cancels
        energy -= total * (2 * products[i] + ridge * (old + exact[i]))
    for i in range(k):
        place, change = active[i], 0.0
        for j in range(k):
            change += gram[place, active[j]] * step[j]
        products[i] -= change
        energy += step[i] * change
    return energy


@compiled
def finish(x, D, cand, face, k, ridge, slope, penalty, positive, r, exact, products, codes):
    """Write the polished codes of a row; its gap and the energy of its residual."""
    energy = _polish(x, D, cand, face, k, ridge, r, exact, products)
    for i in range(k):
        slope[cand[face.active[i]]] = 0  # active: known better than from the slopes
    ratio = worst_ratio(r, D, slope, penalty, positive)
    agreement, length, square = 0.0, 0.0, 0.0
    for i in range(k):
        atom = cand[face.active[i]]
        codes[atom] = exact[i]
        rounded, size = np.float64(codes[atom]), np.float64(penalty[atom])
        agreement += rounded * products[i]
        length += size * abs(rounded)
        square += exact[i] * exact[i]
        if size > 0:
            ratio = max(ratio, (products[i] if exact[i] > 0 else -products[i]) / size)
    return gap_of(energy + ridge * square, agreement, length, ratio), 0.5 * energy


@compiled
def working_set(
    rows, X, D, gram, Q, penalty, ridge, positive, eps, max_steps, warm, codes, gap, energy, n_iter
):
    r"""Minimise :math:`\tfrac12\|x-sD\|^2 + \sum_j p_j|s_j| + \tfrac{\rho}{2}\|s\|^2`.

    For each row, the atoms violated most become candidates, :func:`descend` solves the
    problem on the candidates exactly, the slopes of all atoms follow from the Gram
    matrix, and so on until no atom is violated.

    Parameters
    ----------
    rows : int array
        Which rows to solve.
    X, D : arrays of shape (n, n_features), (n_components, n_features)
    gram : array of shape (n_components, n_components)
        ``DDᵀ + ridge·I``.
    Q : array of shape (n, n_components)
        ``XDᵀ``.
    penalty : array of shape (n_components,)
    ridge : float
    positive : bool
    eps : float
        Of the floating point type.
    max_steps : int
        Most atoms added to a row.
    warm : bool
        Whether ``codes`` holds a start; otherwise it holds zeros.
    codes : array of shape (n, n_components)
        Written to, as are ``gap``, ``energy`` (``½‖x−sD‖²``) and ``n_iter``, of shape (n,).
    """
    n_components, n_features = D.shape
    most = n_components if ridge > 0 else min(n_components, n_features)
    cap = min(n_components, 2 * most + SPARE)
    everything = cap == n_components and n_components <= SPARE
    face = new_face(gram if everything else np.zeros((cap, cap), gram.dtype), most + 1)
    cand, found = np.arange(cap), np.zeros(cap, np.int64)
    threshold, slope = penalty.copy(), np.empty(n_components, gram.dtype)
    blocks = np.empty(-(-n_components // BLOCK), gram.dtype)
    r, exact, products = np.empty(n_features), np.empty(most + 1), np.empty(most + 1)
    for row in rows:
        slope[:] = Q[row]
        tol = 8 * eps * np.abs(slope).max()
        p, k, steps, m = 0, 0, 0, 0
        if warm and not everything:
            m = _from_start(codes[row], positive, found)
        codes[row] = 0
        if everything:
            p = n_components
            face.penalty[:], face.code[:], face.sign[:], face.state[:] = penalty, 0, 0, IDLE
        while steps <= max_steps:
            if not everything and m == 0:
                if p + SPARE > cap:
                    p = _evict(face, cand, threshold, p, k, penalty)
                gain = _gains(slope, threshold, positive, blocks)
                cut = max(tol, slope.dtype.type(GREED) * gain)
                m = _violated(slope, threshold, positive, blocks, cut, found[: cap - p])
            p = _admit(face, cand, threshold, p, found, m, gram, penalty)
            for d in range(p):
                face.slope[d] = slope[cand[d]]
                if face.state[d] != ACTIVE:
                    face.state[d] = IDLE
            if m == 0 and most_violated(face, p, positive, tol) < 0:
                break
            if everything:
                k, added = settle(face, p, k, -1), 0
            else:
                k, added = enlist(face, p, k, positive, tol, 100 * eps)
            k, more = descend(face, p, k, positive, tol, 100 * eps, max_steps - steps)
            more += added
            _slopes(Q[row], gram, cand, face, k, slope)
            if m == 0 and more == 0:
                break
            steps += more
            m = 0
        if not everything:
            for d in range(p):
                threshold[cand[d]] = penalty[cand[d]]
        gap[row], energy[row] = finish(
            X[row],
            D,
            cand,
            face,
            k,
            ridge,
            slope,
            penalty,
            positive,
            r,
            exact,
            products,
            codes[row],
        )
        n_iter[row] = steps
