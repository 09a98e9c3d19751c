r"""The lasso over very many atoms: problems on few candidates, between products with all atoms.

A product of all atoms with a residual r also bounds those with any other residual:
:math:`|d_j\cdot r'| \le |d_j\cdot r| + \|d_j\|\,\|r'-r\|`, and what is lost in rounding has a
bound of the same kind. While many atoms may be violated by these bounds, the most promising ones
are looked at. As soon as few may be, all of them are, which proves that a row is solved without
one more product. (The spheres of El Ghaoui, Viallon & Rabbani 2012, around a moving centre.)
"""

from __future__ import annotations

import numpy as np

from .cpu_active_set import ACTIVE, IDLE, activate, descend, lost, new_face, project, settle
from .cpu_bounds import look, most_violated, new_looked, violated
from .cpu_certificate import NEAR, far
from .cpu_gather import products_with
from .cpu_jit import compiled, inlined, part
from .cpu_kept import keep, products_of
from .cpu_residual import subtract
from .cpu_room import space
from .cpu_working_set import finish, limits, scratch
from .shared import INDEPENDENT

TURNS = 3  # among candidates, before the inverse of their products is made anew
BLOCK = 64  # codes looked at together
OPEN, UNSURE, DONE = 0, 1, 2  # a row wants a product; one that is not rounded; nothing


@inlined
def _length(a, row):
    total = a.dtype.type(0)
    for m in range(a.shape[1]):
        total += a[row, m] * a[row, m]
    return np.sqrt(total)


@inlined
def _with_codes(codes, row, found, most):
    """Write the atoms with a code; how many, at most as many as there is room for."""
    m = 0
    for b in range(0, codes.shape[1], BLOCK):
        stop = min(codes.shape[1], b + BLOCK)
        some = False
        for j in range(b, stop):
            some |= codes[row, j] != 0
        if some:
            for j in range(b, stop):
                if codes[row, j] != 0 and m < most:
                    found[m] = j
                    m += 1
    return m


@inlined
def _enter(face, cand, p, j, threshold, penalty):
    """Make atom j a candidate; an infinite threshold keeps atoms from coming twice."""
    cand[p], threshold[j] = j, np.inf
    face.penalty[p] = penalty[j]
    face.code[p], face.sign[p], face.state[p] = 0, 0, IDLE


@part
def _admit(face, cand, p, found, m, threshold, D, ridge, penalty, column):
    """Make candidates of ``m`` atoms, with their products; how many there are."""
    for i in range(m):
        j = found[i]
        _enter(face, cand, p, j, threshold, penalty)
        products_with(D, j, D, cand, p + 1, column)
        for d in range(p + 1):
            face.gram[p, d] = face.gram[d, p] = column[d]
        face.gram[p, p] += ridge
        p += 1
    return p


@part
def _take_back(face, cand, kept, row, threshold, penalty):
    """Make candidates of the atoms that are kept; how many there are."""
    p = products_of(kept, row, face)
    for i in range(p):
        _enter(face, cand, i, kept.atoms[row, i], threshold, penalty)
    return p


@part
def _slopes(face, cand, p, residual, D, ridge, column):
    """Slopes of the candidates by the residual; another chance for those that seemed useless."""
    products_with(residual, 0, D, cand, p, column)
    for d in range(p):
        face.slope[d] = column[d] - ridge * face.code[d]
        if face.state[d] != ACTIVE:
            face.state[d] = IDLE


@part
def _begin(face, cand, p, codes, row, ridge, independent):
    """Make the candidates active whose codes are given; how many are.

    Of atoms that depend on others the codes are given up.
    """
    gram, slope, k = face.gram, face.slope, 0
    for i in range(p):
        value = codes[row, cand[i]]
        codes[row, cand[i]] = 0
        left = project(face, k, i)
        if left > independent * gram[i, i] and k + 1 < face.active.shape[0]:
            activate(face, k, i, left)
            face.state[i], face.sign[i] = ACTIVE, 1 if value > 0 else -1
            face.code[i] = value
            k += 1
        else:
            for j in range(p):
                slope[j] += value * gram[i, j]
        slope[i] -= ridge * value  # which the Gram matrix has, and the residual has not
    return settle(face, p, k, -1)


@part
def _subtract_codes(face, cand, k, x, row, D, room, residual, before):
    """Write the residual; its distance to the one before."""
    exact, codes, _, _, atoms = room
    for m in range(exact.shape[0]):
        exact[m] = x[row, m]
    for i in range(k):
        place = face.active[i]
        atoms[i], codes[i] = cand[place], face.code[place]
    subtract(exact, codes, D, atoms, k)
    total = 0.0
    for m in range(exact.shape[0]):
        residual[0, m] = exact[m]
        move = exact[m] - before[row, m]
        total += move * move
    return np.sqrt(total)


def room_for(D, scale, penalty, ridge):
    """What :func:`wide_round` works in: candidates, what is known of others, and a residual."""
    most, cap = limits(D, ridge)
    return (
        new_face(cap, most + 1, D.dtype),
        *(space(cap, np.int64) for _ in range(2)),
        space(cap + 3, D.dtype),
        new_looked(penalty, scale.longest),
        space((1, D.shape[1]), D.dtype),
        scratch(D.shape[1], most + 1),
        scale,
    )


@compiled
def wide_round(
    places, X, D, penalty, ridge, positive, eps, lengths, unit, rounded, kept, given, rows,
    slopes, residual, outcome, max_steps, codes, gap, energy, n_iter, room,
):  # fmt: skip
    """Solve rows as far as the products of all atoms with their residuals tell.

    Parameters
    ----------
    places : int array
        Which of ``rows`` to solve.
    lengths : array of shape (n_components,)
        Of the atoms.
    unit : array of shape (m,)
        Slopes are off by at most this times the lengths of atom and residual.
    rounded : bool
        Whether slopes are of rounded numbers; if not, rows get a certificate when no atom
        can be added.
    kept : Kept
        What is known of rows besides their codes; to read the pages of codes that nothing was
        written to would make writing to them several times slower.
    given : bool
        Whether codes are a start, which moves before anything is added: then slopes are not those
        of codes that nothing was added to.
    rows : int array of shape (m,)
        Rows that are open.
    slopes : array of shape (m, n_components)
        Products of all atoms with their residuals; written to.
    residual : array of shape (n, n_features)
        Of the codes; receives those of the new ones.
    outcome : int8 array of shape (n,)
        Receives ``OPEN``, ``UNSURE`` or ``DONE``.
    others
        As in :func:`~.cpu_working_set.working_set`; ``codes`` are where to start.
    room : tuple
        See :func:`room_for`.
    """
    n_components, n_features = D.shape
    number = D.dtype.type
    independent = eps**INDEPENDENT
    face, cand, used, column, looked, now, last, scale = room
    cap = len(cand)
    near, found, threshold = looked.near, looked.violated, looked.threshold
    for j in range(n_components):
        threshold[j] = penalty[j]
    for place in places:
        r, start = rows[place], place * n_components
        slope, before, size = slopes[place], n_iter[r], _length(residual, r)
        whole, least = np.float64(_length(X, r)), number(4 * eps * size)
        tol, most = number(eps * whole), number(far(scale, whole, ridge))
        for f in range(n_features):
            now[0, f] = residual[r, f]
        if kept.size[r] < 0:
            m = _with_codes(codes, r, used, cap)
            p = _admit(face, cand, 0, used, m, threshold, D, ridge, penalty, column)
        else:
            p = _take_back(face, cand, kept, r, threshold, penalty)
        _slopes(face, cand, p, now, D, ridge, column)
        k = _begin(face, cand, p, codes, r, ridge, independent)
        if p > 0:  # codes of a start move
            _subtract_codes(face, cand, k, X, r, D, last, now, residual)
        cut, all_ = number(0), False
        m = most_violated(slopes, start, lengths, least, positive, looked)
        m = min(m, cap - p) if before < max_steps else 0
        for _ in range(TURNS):
            if m > 0:
                p = _admit(face, cand, p, found, m, threshold, D, ridge, penalty, column)
                _slopes(face, cand, p, now, D, ridge, column)
                k, steps = descend(face, p, k, positive, tol, independent, max_steps - n_iter[r])
                n_iter[r] += steps
            astray = lost(face, p, most)
            if astray:
                break
            way = _subtract_codes(face, cand, k, X, r, D, last, now, residual)
            reach = way + unit[place] * size
            n, all_, cut = look(
                slopes, start, lengths, reach, 1 - NEAR, cut, now, D, positive, looked
            )
            m = violated(looked, n, penalty, least if all_ else max(least, cut), positive)
            if m == 0 or p + m > cap or n_iter[r] >= max_steps:
                break
        solved = not astray and all_ and (m == 0 or n_iter[r] >= max_steps)
        added = given or n_iter[r] > before
        if astray:  # zeros, whose gap is their energy
            gap[r] = energy[r] = 0.5 * whole * whole
            outcome[r] = DONE
        elif solved or not (added or rounded):
            for i in range(n):
                slope[near[i]] = looked.slope[i]
            for d in range(p):
                slope[cand[d]] = face.slope[d]
            stale = scale.longest * np.float64(reach)
            gap[r], energy[r] = finish(
                X, r, D, cand, face, k, ridge, slope, 0.0 if solved else stale, stale, penalty,
                scale, whole, positive, last, codes,
            )  # fmt: skip
            outcome[r] = DONE
        else:
            for i in range(k):
                codes[r, cand[face.active[i]]] = face.code[face.active[i]]
            keep(kept, r, face, cand, k)
            for f in range(n_features):
                residual[r, f] = now[0, f]
            outcome[r] = OPEN if added else UNSURE
        for d in range(p):
            threshold[cand[d]] = penalty[cand[d]]
