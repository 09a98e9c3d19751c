"""The lasso over few atoms, sixteen rows side by side."""

from __future__ import annotations

from .cpu_jit import compiled, inlined
from .cpu_lane_active import BEYOND
from .cpu_lane_certificate import certify, times_inverse
from .cpu_lane_rows import look_up, multiply_rows, of_atom, read
from .cpu_lane_state import DEPTH
from .cpu_lane_vectors import in_turn, put_columns, tag, tagged
from .cpu_vectors import (
    WIDTH,
    absolute,
    add,
    at_least,
    bits,
    both,
    divide,
    equal,
    get,
    load,
    lowest,
    maximum,
    more_than,
    multiply,
    put,
    splat,
    store,
    subtract,
    where,
    zeros,
)
from .shared import FEW

TOL = 4  # an atom is violated by more than this many roundings of the largest product
SPANNED = 1e-3  # share of a newcomer's squared length below which the active atoms span it
SMALLEST, LARGEST = 1e-25, 1e25  # products between which nothing under- or overflows


@inlined
def _begin(problem, state, n_features, width, tol):
    """No atom is active."""
    multiply_rows(problem.atoms, state.x, state.products, n_features, width)
    top, none = zeros(state.x), zeros(state.x)
    kind = state.x.dtype.type
    for j in range(width):
        top = maximum(top, absolute(load(state.products, j * WIDTH)))
    usual = both(at_least(splat(kind(LARGEST)), top), at_least(top, splat(kind(SMALLEST))))
    odd = more_than(where(usual, none, top), none)
    store(state.limit, 0, where(odd, splat(kind(BEYOND)), multiply(top, splat(tol))))
    store(state.lost, 0, where(odd, splat(kind(1)), none))
    store(state.size, 0, none)


@inlined
def _violation(problem, j, slope, turned):
    """By how much a slope exceeds its penalty, tagged with its atom."""
    size = maximum(slope, multiply(slope, turned))
    gain = subtract(size, splat(get(problem.penalty, j)))
    return tagged(gain, splat(get(problem.bits, j)))


@inlined
def _most_violated(problem, state, t, width, turned):
    """The largest violation above the limit, tagged with its atom."""
    products, column = state.products, state.column
    best = load(state.limit, 0)
    for j in range(0, width, 4):
        a, b = load(products, j * WIDTH), load(products, (j + 1) * WIDTH)
        c, d = load(products, (j + 2) * WIDTH), load(products, (j + 3) * WIDTH)
        for i in range(t):
            code, place = load(state.code, i * WIDTH), (i * width + j) * WIDTH
            less = subtract(zeros(state.code), code)
            a = in_turn(a, less, load(column, place))
            b = in_turn(b, less, load(column, place + WIDTH))
            c = in_turn(c, less, load(column, place + 2 * WIDTH))
            d = in_turn(d, less, load(column, place + 3 * WIDTH))
        a, b = _violation(problem, j, a, turned), _violation(problem, j + 1, b, turned)
        c, d = _violation(problem, j + 2, c, turned), _violation(problem, j + 3, d, turned)
        best = maximum(best, maximum(maximum(a, b), maximum(c, d)))
    return best


@inlined
def _span(state, t, width, e):
    """The mix of active atoms that comes nearest to the newcomer.

    Returns its squared length, and the slope of the newcomer.
    """
    slope = of_atom(state.products, 0, width, e)
    for i in range(t):
        near = of_atom(state.column, i * width, width, e)
        store(state.near, i * WIDTH, near)
        less = subtract(zeros(state.code), load(state.code, i * WIDTH))
        slope = in_turn(slope, less, near)
    length = zeros(state.near)
    for i in range(t):
        v = times_inverse(state, i, t)
        store(state.mix, i * WIDTH, v)
        length = in_turn(length, v, load(state.near, i * WIDTH))
    return length, slope


@inlined
def _border(state, t, scale):
    """The inverse with the newcomer in slot ``t``: of a block matrix, by its Schur complement."""
    inverse = state.inverse
    for i in range(t):
        w = multiply(load(state.mix, i * WIDTH), scale)
        for u in range(i + 1):
            place = (i * DEPTH + u) * WIDTH
            h = add(load(inverse, place), multiply(w, load(state.mix, u * WIDTH)))
            store(inverse, place, h)
        store(inverse, (t * DEPTH + i) * WIDTH, subtract(zeros(inverse), w))
    store(inverse, (t * DEPTH + t) * WIDTH, scale)


@inlined
def _enter(problem, state, t, width, best):
    """Put the newcomers in slot ``t``. Returns the errors of their slopes."""
    kind, none = state.code.dtype.type, zeros(state.code)
    one, limit = splat(kind(1)), load(state.limit, 0)
    some = more_than(best, limit)
    e = where(some, tag(best), none)
    length = look_up(problem.lengths, 0, width, e)
    spanned, slope = _span(state, t, width, e)
    left = subtract(length, spanned)
    enough = more_than(left, multiply(splat(kind(SPANNED)), length))
    lost = where(enough, none, where(some, one, none))
    store(state.lost, 0, maximum(load(state.lost, 0), lost))
    store(state.limit, 0, maximum(limit, multiply(lost, splat(kind(BEYOND)))))
    some = both(some, enough)
    sign = where(some, where(more_than(slope, none), one, splat(kind(-1))), none)
    store(state.atom, t * WIDTH, e)
    store(state.sign, t * WIDTH, sign)
    store(state.code, t * WIDTH, none)
    store(state.size, 0, add(load(state.size, 0), where(some, one, none)))
    _border(state, t, where(some, divide(one, where(some, left, one)), none))
    for j in range(width):
        store(state.column, (t * width + j) * WIDTH, look_up(problem.gram, j * FEW, width, e))
    price = look_up(problem.penalty, 0, width, e)
    return where(some, subtract(slope, multiply(sign, price)), none)


@inlined
def _any_crossed(state, t, error):
    """Whether a code of some row would not keep its sign."""
    least = zeros(state.code)
    for i in range(t):
        step = multiply(error, load(state.inverse, (t * DEPTH + i) * WIDTH))
        code = add(load(state.code, i * WIDTH), step)
        against = multiply(code, load(state.sign, i * WIDTH))
        least = maximum(least, subtract(zeros(state.code), against))
    return bits(more_than(least, zeros(state.code))) != 0


@inlined
def _reach(state, t, error):
    """How far codes go until the first changes its sign, at most 1, and its slot, or -1."""
    kind, none = state.code.dtype.type, zeros(state.code)
    one = splat(kind(1))
    share, out, slot = one, splat(kind(-1)), none
    for i in range(t):
        code, sign = load(state.code, i * WIDTH), load(state.sign, i * WIDTH)
        step = multiply(error, load(state.inverse, (t * DEPTH + i) * WIDTH))
        inward = more_than(none, multiply(step, sign))
        ratio = divide(code, where(inward, subtract(none, step), one))
        sooner = both(inward, more_than(share, ratio))
        share, out = where(sooner, ratio, share), where(sooner, slot, out)
        slot = add(slot, one)
    return share, out


@inlined
def _drop(state, t, out):
    """Empty the slots ``out`` of the inverse: the Schur complement again, the other way round."""
    inverse, none = state.inverse, zeros(state.inverse)
    one, slot, pivot = splat(inverse.dtype.type(1)), none, none
    for i in range(t + 1):
        found, other = none, none
        for u in range(t):
            place = (max(i, u) * DEPTH + min(i, u)) * WIDTH
            found = where(equal(out, other), load(inverse, place), found)
            other = add(other, one)
        here = equal(out, slot)
        pivot = where(here, found, pivot)
        store(state.near, i * WIDTH, found)
        store(state.mix, i * WIDTH, where(here, none, one))
        slot = add(slot, one)
    scale = divide(one, where(more_than(pivot, none), pivot, one))
    for i in range(t + 1):
        kept = load(state.mix, i * WIDTH)
        v = multiply(load(state.near, i * WIDTH), scale)
        for u in range(i + 1):
            place = (i * DEPTH + u) * WIDTH
            h = subtract(load(inverse, place), multiply(v, load(state.near, u * WIDTH)))
            store(inverse, place, multiply(multiply(h, kept), load(state.mix, u * WIDTH)))


@inlined
def _drop_crossed(state, t, error):
    """Go as far as all codes keep their signs, and drop the one that vanishes first.

    Returns the errors of the newcomers' slopes that are left.
    """
    share, out = _reach(state, t, error)
    step, none, slot = multiply(share, error), zeros(state.code), zeros(state.code)
    _go(state, t, step)
    for i in range(t):
        gone = equal(out, slot)
        store(state.code, i * WIDTH, where(gone, none, load(state.code, i * WIDTH)))
        store(state.sign, i * WIDTH, where(gone, none, load(state.sign, i * WIDTH)))
        slot = add(slot, splat(state.code.dtype.type(1)))
    _drop(state, t, out)
    return subtract(error, step)


@inlined
def _go(state, t, step):
    """Change codes so that only the newcomer's slope changes: along its row of the inverse."""
    for i in range(t + 1):
        h = load(state.inverse, (t * DEPTH + i) * WIDTH)
        store(state.code, i * WIDTH, add(load(state.code, i * WIDTH), multiply(step, h)))


@inlined
def _descend(problem, state, width, most, positive):
    """Active atoms and codes of sixteen rows.

    Returns how many slots are in use, and as bits the rows that want more of them.
    """
    kind = state.code.dtype.type
    turned = splat(kind(1) if positive else kind(-1))
    for t in range(most + 1):
        best = _most_violated(problem, state, t, width, turned)
        wanting = bits(more_than(best, load(state.limit, 0)))
        if wanting == 0 or t == most:
            return t, wanting
        error = _enter(problem, state, t, width, best)
        while _any_crossed(state, t, error):
            error = _drop_crossed(state, t, error)
        _go(state, t, error)
    return most, 0


@inlined
def _by_row(state, width, k, out):
    """Codes of all atoms, row by row, ``FEW`` numbers apart.

    Each is the sum over its atom's slots, of which at most one is not zero.
    """
    kind, none = state.code.dtype.type, zeros(state.code)
    for j in range(0, width, 4):
        a = b = c = d = none
        for i in range(k):
            atom, code = load(state.atom, i * WIDTH), load(state.code, i * WIDTH)
            a = add(a, where(equal(atom, splat(kind(j))), code, none))
            b = add(b, where(equal(atom, splat(kind(j + 1))), code, none))
            c = add(c, where(equal(atom, splat(kind(j + 2))), code, none))
            d = add(d, where(equal(atom, splat(kind(j + 3))), code, none))
        put_columns(out, j, FEW, a, b, c, d)


@inlined
def _write(state, rows, start, busy, bad, width, k, codes, gap, energy, n_iter):
    """What was found; codes of rows that are left stay zeros."""
    found, n_components = state.products, codes.shape[1]
    whole = n_components // WIDTH * WIDTH
    _by_row(state, width, k, found)
    for lane in range(busy):
        row = rows[start + lane]
        put(n_iter, row, int(get(state.size, lane)))
        put(gap, row, get(state.exact, lane))
        put(energy, row, get(state.exact, WIDTH + lane))
        if bad >> lane & 1:
            continue
        for j in range(0, whole, WIDTH):
            store(codes, row * n_components + j, load(found, lane * FEW + j))
        for j in range(whole, n_components):
            put(codes, row * n_components + j, get(found, lane * FEW + j))


@compiled
def lane_lasso(rows, left, X, problem, state, most, positive, eps, codes, gap, energy, n_iter):
    r"""Minimise :math:`\tfrac12\|x-sD\|^2 + \sum_j p_j|s_j|`.

    An active set as in :func:`~.cpu_few_atoms.few_atoms`, with the inverse of the active atoms'
    Gram matrix. A row's numbers meet only those of the dictionary, so that its answer does not
    depend on the fifteen rows beside it.

    Parameters
    ----------
    rows : int array
        In ascending order.
    left : int array of shape (len(rows),)
        Receives the rows that are left: they want more atoms, or nearly dependent ones, or their
        gap is not small. Their ``n_iter`` is the atoms that were added.
    problem : Penalised
        All penalties above zero.
    state : Active
        Room to work in.
    most : int
        Most atoms that are added to a row, at most ``DEPTH``.
    others
        As in :func:`~.cpu_few_atoms.few_atoms`; ``codes`` holds zeros.

    Returns
    -------
    int
        How many rows are left.
    """
    n_features, width = X.shape[1], -(-codes.shape[1] // 4) * 4
    kind = state.x.dtype.type
    tol = kind(TOL * eps)
    n_left = 0
    for start in range(0, len(rows), WIDTH):
        busy = min(WIDTH, len(rows) - start)
        read(X, rows, start, busy, state.x)
        _begin(problem, state, n_features, width, tol)
        k, bad = _descend(problem, state, width, most, positive)
        bad |= certify(problem, state, n_features, width, k, positive)
        bad &= (1 << busy) - 1
        _write(state, rows, start, busy, bad, width, k, codes, gap, energy, n_iter)
        while bad:
            left[n_left] = rows[start + lowest(bad)]
            bad &= bad - 1
            n_left += 1
    return n_left
