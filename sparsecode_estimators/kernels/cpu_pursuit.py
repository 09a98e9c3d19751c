"""Greedy k-sparse codes over many atoms, one row at a time."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .cpu_active_set import border, downdate
from .cpu_certificate import dot, square, subtract
from .cpu_jit import compiled, part

BLOCK = 64  # atoms looked at together
WIDTH = 1024  # atoms whose products are summed together, so that they stay in the first cache
TINY = 1e-37  # a gain below any, but above zero
FLOOR = 10  # slopes below so many roundings of a row's length are rounding


class Support(NamedTuple):
    r"""Chosen atoms of one row, in double precision; see :func:`new_support`.

    Attributes
    ----------
    atoms : int array of shape (size,)
    values : array of shape (size,)
        Their codes, least squares but while atoms come and go.
    pull : array of shape (size,)
        Their products with the row.
    inverse : array of shape (size, size)
        Of their Gram matrix.
    column, products : arrays of shape (size,)
        Scratch: coefficients of a newcomer on the others, and its products with them.
    weights : array of shape (size,)
        Scratch, in the precision of the Gram matrix.
    dropped : int array of shape (3·size,)
        Atoms that turned negative since the last newcomer.
    """

    atoms: np.ndarray
    values: np.ndarray
    pull: np.ndarray
    inverse: np.ndarray
    column: np.ndarray
    products: np.ndarray
    weights: np.ndarray
    dropped: np.ndarray


class Field(NamedTuple):
    """What one row says about all atoms; all arrays have the shape (n_components,).

    Attributes
    ----------
    slope : array
        Products with the residual, for a row of length 1.
    left : array
        Squared length of the part that chosen atoms do not explain; ones for a rule that does
        not ask. Infinite where an atom cannot be chosen.
    total : array
        Scratch.
    floor : array
        Slopes below this are rounding.
    least : array
        Atoms of which no more than this is left are explained.
    """

    slope: np.ndarray
    left: np.ndarray
    total: np.ndarray
    floor: np.ndarray
    least: np.ndarray


@part
def _new_support(size, like):
    return Support(
        np.zeros(size, np.int64),
        np.zeros(size),
        np.zeros(size),
        np.zeros((size, size)),
        np.zeros(size),
        np.zeros(size),
        np.zeros(size, like.dtype),
        np.zeros(3 * size, np.int64),
    )


@part
def _new_field(gram, ols, eps):
    n_components = gram.shape[0]
    dtype = gram.dtype
    floor, least = np.zeros(n_components, dtype), np.zeros(n_components, dtype)
    for j in range(n_components):
        whole = gram[j, j]
        floor[j] = FLOOR * eps * np.sqrt(whole)
        least[j] = eps**0.5 * whole if ols else 0
    return Field(
        np.zeros(n_components, dtype),
        np.zeros(n_components, dtype),
        np.zeros(n_components, dtype),
        floor,
        least,
    )


@part
def _add_four(a, b, c, d, wa, wb, wc, wd, total):
    for j in range(total.shape[0]):
        total[j] += wa * a[j] + wb * b[j] + wc * c[j] + wd * d[j]


@part
def _add_one(a, wa, total):
    for j in range(total.shape[0]):
        total[j] += wa * a[j]


@part
def _spread(gram, atoms, weights, k, height, change, slope, left, total):
    r"""With :math:`v = \sum_i w_i G_{e_i}`, ``slope −= height·v`` and ``left += change·v²``."""
    w = weights
    for start in range(0, slope.shape[0], WIDTH):
        stop = min(slope.shape[0], start + WIDTH)
        # slices of single rows, as only of them the loops are sure to be contiguous
        s, rest, v = slope[start:stop], left[start:stop], total[start:stop]
        for j in range(v.shape[0]):
            v[j] = 0
        i = 0
        while i + 4 <= k:
            a, b = gram[atoms[i], start:stop], gram[atoms[i + 1], start:stop]
            c, d = gram[atoms[i + 2], start:stop], gram[atoms[i + 3], start:stop]
            _add_four(a, b, c, d, w[i], w[i + 1], w[i + 2], w[i + 3], v)
            i += 4
        while i < k:
            _add_one(gram[atoms[i], start:stop], w[i], v)
            i += 1
        for j in range(v.shape[0]):
            s[j] -= height * v[j]
            rest[j] += change * v[j] * v[j]


@part
def _bounds(slope, left, positive, bound):
    """Most that an atom of each block can lower the residual."""
    tiny, infinite = slope.dtype.type(TINY), slope.dtype.type(np.inf)
    for b in range(bound.shape[0]):
        s, rest = slope[b * BLOCK : (b + 1) * BLOCK], left[b * BLOCK : (b + 1) * BLOCK]
        top, bottom = tiny, infinite
        for j in range(s.shape[0]):
            value = s[j] if positive else abs(s[j])
            top = value if value > top else top
            bottom = rest[j] if rest[j] < bottom else bottom
        bound[b] = top * top / (bottom if bottom > tiny else tiny)


@part
def _best(slope, left, floor, least, positive, bound):
    """Atom whose choice lowers the residual most, or -1.

    Bounds for blocks of atoms spare most of the divisions.
    """
    _bounds(slope, left, positive, bound)
    best, found = slope.dtype.type(TINY), -1
    for _ in range(bound.shape[0]):
        most, where = best, -1
        for b in range(bound.shape[0]):
            if bound[b] > most:
                most, where = bound[b], b
        if where < 0:
            break
        bound[where] = 0
        for j in range(where * BLOCK, min(slope.shape[0], (where + 1) * BLOCK)):
            value = slope[j] if positive else abs(slope[j])
            if value > floor[j] and left[j] > least[j] and value * value > best * left[j]:
                best, found = value * value / left[j], j
    return found


@part
def _best_of(atoms, count, slope, left, floor, least, positive):
    """The same among ``count`` atoms."""
    best, found = slope.dtype.type(TINY), -1
    for i in range(count):
        j = atoms[i]
        value = slope[j] if positive else abs(slope[j])
        if value > floor[j] and left[j] > least[j] and value * value > best * left[j]:
            best, found = value * value / left[j], j
    return found


@part
def _project(gram, e, atoms, inverse, k, column, products):
    """Coefficients of an atom on the chosen ones; what is left of its length."""
    for i in range(k):
        products[i] = gram[e, atoms[i]]
    left = np.float64(gram[e, e])
    for i in range(k):
        total = 0.0
        for j in range(k):
            total += inverse[i, j] * products[j]
        column[i] = total
        left -= total * products[i]
    return left


@part
def _first_to_vanish(values, goal, k):
    """How much of the way to a goal can be gone before a code reaches zero, and whose."""
    share, who = 1.0, -1
    for i in range(k):
        if goal[i] <= 0 and values[i] <= share * (values[i] - goal[i]):
            share, who = values[i] / (values[i] - goal[i]), i
    return share, who


@part
def _settle(support, field, gram, k, gone, ols):
    """Codes to least squares on the support, less the atoms that turn negative on the way.

    ``support.column`` holds where the codes go first. Returns how many atoms are left, and
    how many of ``support.dropped`` there are.
    """
    atoms, values, pull, inverse = support.atoms, support.values, support.pull, support.inverse
    goal, weights, dropped = support.column, support.weights, support.dropped
    slope, left, total = field.slope, field.left, field.total
    none, one = slope.dtype.type(0), slope.dtype.type(1)
    while True:
        share, who = _first_to_vanish(values, goal, k)
        for i in range(k):
            values[i] += share * (goal[i] - values[i])
        if who < 0:
            return k, gone
        dropped[gone] = atoms[who]
        gone += 1
        left[atoms[who]] = one
        if ols:
            length = np.sqrt(inverse[who, who])
            for i in range(k):
                weights[i] = inverse[i, who] / length
            _spread(gram, atoms, weights, k, none, one, slope, left, total)
            left[atoms[who]] = 1 / inverse[who, who]
        downdate(inverse, k, who)
        k -= 1
        atoms[who], values[who], pull[who] = atoms[k], values[k], pull[k]
        for i in range(k):
            place = 0.0
            for j in range(k):
                place += inverse[i, j] * pull[j]
            goal[i] = place


@part
def _enter(support, field, gram, Q, row, length, e, k, gone, positive, ols, independent):
    """One more atom, and codes to least squares, less the atoms that turn negative.

    Returns how many atoms there are, how many of ``support.dropped``, and whether the atom
    had anything to add.
    """
    atoms, values, pull, inverse = support.atoms, support.values, support.pull, support.inverse
    column, products, weights = support.column, support.products, support.weights
    slope, left, total = field.slope, field.left, field.total
    none, one = slope.dtype.type(0), slope.dtype.type(1)
    unexplained = _project(gram, e, atoms, inverse, k, column, products)
    left[e] = np.inf
    pull[k] = Q[row, e] / length
    off = pull[k]
    for i in range(k):
        off -= values[i] * products[i]
    if unexplained <= independent * gram[e, e] or (off if positive else abs(off)) <= field.floor[e]:
        return k, gone, False
    border(inverse, column, k, unexplained)
    scale = 1 / np.sqrt(unexplained)
    blocked = False
    for i in range(k):
        weights[i] = -column[i] * scale
        column[i] = values[i] - column[i] * off / unexplained
        blocked |= column[i] <= 0
    atoms[k], values[k], weights[k], column[k] = e, 0, scale, off / unexplained
    k += 1
    change = -one if ols else none
    if not (positive and blocked):
        height = slope.dtype.type(off * scale)
        _spread(gram, atoms, weights, k, height, change, slope, left, total)
        for i in range(k):
            values[i] = column[i]
        return k, gone, True
    if ols:
        _spread(gram, atoms, weights, k, none, change, slope, left, total)
    k, gone = _settle(support, field, gram, k, gone, ols)
    for j in range(slope.shape[0]):
        slope[j] = Q[row, j] / length
    for i in range(k):
        weights[i] = values[i]
    _spread(gram, atoms, weights, k, one, none, slope, left, total)
    return k, gone, True


@part
def _enter_some(
    support, field, gram, Q, row, length, some, count, k, gone, positive, ols, independent
):
    """Least squares on the support and some further atoms, (of them those that help)."""
    for _ in range(support.dropped.shape[0] - gone):
        e = _best_of(some, count, field.slope, field.left, field.floor, field.least, positive)
        if e < 0 or gone + k >= support.dropped.shape[0]:
            break
        k, gone, _ = _enter(
            support, field, gram, Q, row, length, e, k, gone, positive, ols, independent
        )
    return k, gone


@part
def _largest(codes, row, most, positive, found):
    """Atoms of the largest entries of a start, at most ``most``; how many."""
    count = 0
    for j in range(codes.shape[1]):
        value = codes[row, j] if positive else abs(codes[row, j])
        if not value > 0:
            continue
        if count < most:
            found[count] = j
            count += 1
            continue
        least = 0
        for i in range(1, count):
            if abs(codes[row, found[i]]) < abs(codes[row, found[least]]):
                least = i
        if value > abs(codes[row, found[least]]):
            found[least] = j
    return count


@part
def _finish(X, row, D, length, support, k, positive, r, codes):
    """Write a row's codes after one Newton step from the exact residual; ``½‖x − sD‖²``."""
    atoms, values, inverse = support.atoms, support.values, support.inverse
    products, step = support.products, support.column
    for m in range(r.shape[0]):
        r[m] = X[row, m]
    for i in range(k):
        values[i] *= length
        subtract(r, values[i], D, atoms[i])
    for i in range(k):
        products[i] = dot(r, D, atoms[i])
    for i in range(k):
        total = 0.0
        for j in range(k):
            total += inverse[i, j] * products[j]
        step[i] = -values[i] if positive and values[i] + total <= 0 else total
    for i in range(k):
        subtract(r, step[i], D, atoms[i])
        codes[row, atoms[i]] = values[i] + step[i]
    return 0.5 * square(r)


@compiled
def pursuit(rows, X, D, gram, Q, most, positive, ols, eps, max_steps, warm, codes, energy, n_iter):
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
        ``DDᵀ``.
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
    """
    n_components, n_features = D.shape
    independent = eps**0.5
    support = _new_support(most + 1, gram)
    field = _new_field(gram, ols, eps)
    slope, left = field.slope, field.left
    bound = np.zeros(-(-n_components // BLOCK), gram.dtype)
    whole = np.zeros(n_components, gram.dtype)
    for j in range(n_components):
        whole[j] = gram[j, j] if ols else 1
    found = np.zeros(most, np.int64)
    r = np.empty(n_features)
    for row in rows:
        length = 0.0
        for m in range(n_features):
            length += np.float64(X[row, m]) * X[row, m]
        length = np.sqrt(length)
        scale = gram.dtype.type(1 / length if length > 0 else 0)
        for j in range(n_components):
            slope[j], left[j] = Q[row, j] * scale, whole[j]
        k, steps, gone, count = 0, 0, 0, 0
        if warm:
            count = _largest(codes, row, most, positive, found)
            for j in range(n_components):
                codes[row, j] = 0
            k, gone = _enter_some(
                support, field, gram, Q, row, length, found, count, k, 0, positive, ols, independent
            )
        while k < most and steps < max_steps:
            e = _best(slope, left, field.floor, field.least, positive, bound)
            if e < 0:
                break
            k, gone, entered = _enter(
                support, field, gram, Q, row, length, e, k, 0, positive, ols, independent
            )
            steps += entered
            if gone > 1:  # with some atoms gone, another may be wanted again
                k, gone = _enter_some(
                    support, field, gram, Q, row, length, support.dropped, gone, k, gone, positive,
                    ols, independent,
                )  # fmt: skip
        energy[row] = _finish(X, row, D, length, support, k, positive, r, codes)
        n_iter[row] = steps
