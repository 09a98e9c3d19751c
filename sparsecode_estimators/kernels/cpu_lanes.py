"""The lasso over few atoms, many rows side by side: each row has a lane of every vector."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .cpu_certificate import conclude, dot, square, subtract
from .cpu_jit import compiled, part
from .cpu_working_set import scratch

LANES = 32  # measured: see benchmarks/NOTES.md
DEPTH = 16  # most active atoms of a row that stays in its lane
TRIES = 4  # how often a row may start again without the atoms that came out with a wrong sign


class Lanes(NamedTuple):
    r"""State of some rows; the last axis of all arrays is the lane.

    Gram–Schmidt on the chosen atoms, in the geometry of the Gram matrix G: step t makes
    :math:`\text{basis}_t = (G_{e_t} - \sum_{u<t}\text{low}_{tu}\,\text{basis}_u)\,\text{scale}_t`.

    Attributes
    ----------
    slope, column : arrays of shape (n_components, lanes)
        Correlations with the residual; the column being orthogonalised.
    basis : array of shape (depth, n_components, lanes)
    low : array of shape (depth, depth, lanes)
        Cholesky factor of the Gram matrix of the chosen atoms, without its diagonal.
    scale, height, sign, code : arrays of shape (depth, lanes)
        One over the diagonal, coordinates along the basis, signs, codes.
    atom : int32 array of shape (depth + 1, lanes)
        Chosen atoms; -1 for a lane that has finished.
    best, tol : arrays of shape (lanes,)
    stuck : bool array of shape (lanes,)
        Rows that have to be solved in another way.
    """

    slope: np.ndarray
    column: np.ndarray
    basis: np.ndarray
    low: np.ndarray
    scale: np.ndarray
    height: np.ndarray
    sign: np.ndarray
    code: np.ndarray
    atom: np.ndarray
    best: np.ndarray
    tol: np.ndarray
    stuck: np.ndarray


@part
def _new_lanes(n_components, depth, like):
    dtype, lanes = like.dtype, LANES
    return Lanes(
        np.zeros((n_components, lanes), dtype),
        np.zeros((n_components, lanes), dtype),
        np.zeros((depth, n_components, lanes), dtype),
        np.zeros((depth, depth, lanes), dtype),
        np.zeros((depth, lanes), dtype),
        np.zeros((depth, lanes), dtype),
        np.zeros((depth, lanes), dtype),
        np.zeros((depth, lanes), dtype),
        np.zeros((depth + 1, lanes), np.int32),
        np.zeros(lanes, dtype),
        np.zeros(lanes, dtype),
        np.zeros(lanes, np.bool_),
    )


@part
def _choose(slope, penalty, tol, positive, best, atom, t):
    """Most violated atom of each lane, or -1."""
    n_components, lanes = slope.shape
    for lane in range(lanes):
        best[lane], atom[t, lane] = tol[lane], -1
    for j in range(n_components):
        price = penalty[j]
        for lane in range(lanes):
            value = slope[j, lane]
            gain = (value if positive else abs(value)) - price
            better = gain > best[lane]
            best[lane] = gain if better else best[lane]
            atom[t, lane] = j if better else atom[t, lane]


@part
def _orthogonalise(column, basis, low, t):
    n_components, lanes = column.shape
    for u in range(t):
        for j in range(n_components):
            for lane in range(lanes):
                column[j, lane] -= basis[u, j, lane] * low[u, lane]


@part
def _advance(column, scale, height, slope, basis):
    n_components, lanes = column.shape
    for j in range(n_components):
        for lane in range(lanes):
            value = column[j, lane] * scale[lane]
            basis[j, lane] = value
            slope[j, lane] -= value * height[lane]


@part
def _load(state, gram, t):
    """Columns of the atoms chosen in step t, and their products with the basis."""
    column, basis, low, atom = state.column, state.basis, state.low, state.atom
    n_components, lanes = column.shape
    for lane in range(lanes):
        e = atom[t, lane]
        for j in range(n_components):
            column[j, lane] = gram[e, j] if e >= 0 else 0
        for u in range(t):
            low[t, u, lane] = basis[u, e, lane] if e >= 0 else 0


@part
def _measure(state, gram, penalty, t, independent):
    """Length of each orthogonalised column, and how far to go along it."""
    slope, column, scale, height = state.slope, state.column, state.scale, state.height
    atom, sign, stuck = state.atom, state.sign, state.stuck
    for lane in range(slope.shape[1]):
        e = atom[t, lane]
        scale[t, lane] = height[t, lane] = 0
        if e < 0:
            continue
        left = column[e, lane]
        if left > independent * gram[e, e]:
            scale[t, lane] = 1 / np.sqrt(left)
            off = slope[e, lane] - penalty[e] * sign[t, lane]
            height[t, lane] = off * scale[t, lane]
        else:
            stuck[lane] = True


@part
def _solve_back(state, depth):
    """Codes from heights: the transposed Cholesky factor, from the last to the first."""
    low, scale, height, code = state.low, state.scale, state.height, state.code
    lanes = scale.shape[1]
    for v in range(depth - 1, -1, -1):
        for lane in range(lanes):
            code[v, lane] = height[v, lane]
        for w in range(v + 1, depth):
            for lane in range(lanes):
                code[v, lane] -= low[w, v, lane] * code[w, lane]
        for lane in range(lanes):
            code[v, lane] *= scale[v, lane]


@part
def _pursue(state, gram, penalty, positive, independent, busy, forced, n_forced):
    """Add atoms to all lanes until none wants another; how many steps were taken.

    The first atoms of a lane may be forced: 1 + atom, with the sign of its code.
    """
    slope, atom, sign, stuck = state.slope, state.atom, state.sign, state.stuck
    depth = sign.shape[0]
    one = slope.dtype.type(1)
    for t in range(depth + 1):
        _choose(slope, penalty, state.tol, positive, state.best, atom, t)
        wanted = False
        for lane in range(busy):
            if t == depth:
                stuck[lane] |= atom[t, lane] >= 0
                continue
            if t < n_forced[lane]:
                atom[t, lane] = abs(forced[lane, t]) - 1
                sign[t, lane] = one if forced[lane, t] > 0 else -one
            elif atom[t, lane] >= 0:
                sign[t, lane] = one if slope[atom[t, lane], lane] > 0 else -one
            wanted |= atom[t, lane] >= 0 and not stuck[lane]
        if not wanted:
            return t
        _load(state, gram, t)
        _orthogonalise(state.column, state.basis, state.low[t], t)
        _measure(state, gram, penalty, t, independent)
        _advance(state.column, state.scale[t], state.height[t], slope, state.basis[t])
    return depth


@part
def _keepers(atom, code, sign, lane, steps, forced):
    """Atoms of a lane whose codes have the sign they were chosen with; were there others?"""
    kept, wrong = 0, False
    for t in range(steps):
        e = atom[t, lane]
        if e < 0:
            continue
        if code[t, lane] * sign[t, lane] > 0:
            forced[lane, kept] = (e + 1) * (1 if sign[t, lane] > 0 else -1)
            kept += 1
        else:
            wrong = True
    return kept, wrong


@part
def _conclude_lane(
    atom, low, scale, sign, code, slopes, lane, steps, X, row, D, gram, penalty, positive, ridge,
    slope, r, exact, products, step, atoms, codes,
):  # fmt: skip
    """One Newton step from the exact residual: codes to the last digit of their type.

    Arrays come one by one, as a tuple would cost reference counts for every lane.
    """
    for m in range(r.shape[0]):
        r[m] = X[row, m]
    k = 0
    for t in range(steps):  # a lane's atoms come before its -1, so that k is also the step
        if atom[t, lane] < 0:
            break
        atoms[k], exact[k] = atom[t, lane], code[t, lane]
        subtract(r, exact[k], D, atoms[k])
        k += 1
    for i in range(k):
        products[i] = dot(r, D, atoms[i]) - ridge * exact[i]
        step[i] = products[i] - penalty[atoms[i]] * sign[i, lane]
    for i in range(k):
        for j in range(i):
            step[i] -= low[i, j, lane] * step[j]
        step[i] *= scale[i, lane]
    for i in range(k - 1, -1, -1):
        for j in range(i + 1, k):
            step[i] -= low[j, i, lane] * step[j]
        step[i] *= scale[i, lane]
        if (exact[i] + step[i]) * sign[i, lane] <= 0:
            step[i] = -exact[i]
    for j in range(slope.shape[0]):
        slope[j] = slopes[j, lane]
    return conclude(
        atoms, exact, products, k, square(r), r, D, gram, step, slope, penalty, positive, ridge,
        codes, row,
    )  # fmt: skip


@compiled
def lanes(rows, X, D, gram, Q, penalty, ridge, positive, eps, depth, codes, gap, energy, n_iter):
    r"""Minimise :math:`\tfrac12\|x-sD\|^2 + \sum_j p_j|s_j| + \tfrac{\rho}{2}\|s\|^2`.

    Every lane adds its most violated atom until none is violated; the slopes follow from
    an orthogonal basis of the chosen atoms. If then all codes have the sign they were
    chosen with, they are the optimum. Otherwise the row starts again from the atoms that
    have. Rows with many or dependent atoms are left to another method.

    Parameters
    ----------
    depth : int
        Most active atoms.
    others
        As in :func:`working_set`; ``codes`` holds zeros.

    Returns
    -------
    int array
        Rows that are left.
    """
    n_components, n_features = D.shape
    independent = eps**0.7  # what is left of an atom that the others span, with rounding
    state = _new_lanes(n_components, depth, gram)
    r, exact, products, step, atoms = scratch(n_features, depth + 1)
    slope = np.empty(n_components, gram.dtype)
    left, n_left = np.empty(len(rows), np.int64), 0
    slopes, tol, stuck = state.slope, state.tol, state.stuck
    atom, low, scale = state.atom, state.low, state.scale
    sign, code = state.sign, state.code
    lane_row, tries = np.zeros(LANES, np.int64), np.zeros(LANES, np.int64)
    forced, n_forced = np.zeros((LANES, depth + 1), np.int64), np.zeros(LANES, np.int64)
    size = 2 * LANES
    again_row, again_tries = np.zeros(size, np.int64), np.zeros(size, np.int64)
    again, n_again = np.zeros((size, depth + 1), np.int64), np.zeros(size, np.int64)
    waiting, fresh = 0, 0
    while fresh < len(rows) or waiting > 0:
        busy = 0
        retry = waiting >= LANES or fresh == len(rows)
        while busy < LANES and (waiting > 0 if retry else fresh < len(rows)):
            if retry:
                waiting -= 1
                row, tries[busy] = again_row[waiting], again_tries[waiting]
                n_forced[busy] = n_again[waiting]
                for i in range(depth):
                    forced[busy, i] = again[waiting, i]
            else:
                row, tries[busy], n_forced[busy] = rows[fresh], 0, 0
                fresh += 1
            lane_row[busy] = row
            top = gram.dtype.type(0)
            for j in range(n_components):
                value = Q[row, j]
                slopes[j, busy] = value
                top = max(top, abs(value))
            tol[busy] = 8 * eps * top
            stuck[busy] = False
            busy += 1
        for lane in range(busy, LANES):
            for j in range(n_components):
                slopes[j, lane] = 0
            tol[lane], stuck[lane], n_forced[lane] = 1, True, 0
        steps = _pursue(state, gram, penalty, positive, independent, busy, forced, n_forced)
        _solve_back(state, steps)
        for lane in range(busy):
            row = lane_row[lane]
            kept, wrong = _keepers(atom, code, sign, lane, steps, forced)
            if stuck[lane] or (wrong and tries[lane] == TRIES):
                left[n_left] = row
                n_left += 1
            elif wrong:
                again_row[waiting], again_tries[waiting] = row, tries[lane] + 1
                n_again[waiting] = kept
                for i in range(depth):
                    again[waiting, i] = forced[lane, i]
                waiting += 1
            else:
                gap[row], energy[row] = _conclude_lane(
                    atom, low, scale, sign, code, slopes, lane, steps, X, row, D, gram, penalty,
                    positive, ridge, slope, r, exact, products, step, atoms, codes,
                )  # fmt: skip
                n_iter[row] = kept + tries[lane]
    return left[:n_left]
