"""Active sets of some rows side by side: atoms join and leave by sweeps of a tableau."""

from __future__ import annotations

import triton
import triton.language as tl

# The tableau T of a row starts as the Gram matrix G. A sweep on an idle atom makes it active,
# one on an active atom makes it idle. With A the active atoms and I the others,
#     T_AA = −inv(G_AA),   T_IA = G_IA·inv(G_AA),   T_II = G_II − G_IA·inv(G_AA)·G_AI,
# and T stays symmetric (Goodnight 1979). What a code that leaves zero does to all other codes
# and slopes is its column of T. So every step of every row is the same arithmetic: nothing
# branches, and nothing is looked up.


@triton.jit
def pick(values, here):
    """The one value of each row that ``here`` marks; zero where it marks none."""
    return tl.sum(tl.where(here, values, 0.0), axis=1)


@triton.jit
def column(T, here):
    """The one column of each tableau that ``here`` marks; zeros where it marks none."""
    return tl.sum(tl.where(here[:, :, None], T, 0.0), axis=1)


@triton.jit
def sweep(T, here):
    """Tableaus after a sweep on the atom that ``here`` marks; where it marks none, the same."""
    values = column(T, here)
    pivot = pick(values, here)[:, None]
    pivot = tl.where(pivot == 0, 1.0, pivot)
    others = tl.where(here, 0.0, values)
    scale = tl.where(here, 1 / tl.abs(pivot), 1.0)
    T -= others[:, :, None] * (others / pivot)[:, None, :]
    T *= scale[:, :, None] * scale[:, None, :]
    corner = here[:, :, None] & here[:, None, :]
    return tl.where(corner, -1 / pivot[:, :, None], T)


@triton.jit
def advance(T, values, codes, slope, sign, atom, side, goal, price, bounded: tl.constexpr):
    """Move the code of one atom, and sweep: what all steps of all rows have in common.

    Codes of active atoms follow so that they stay optimal. The atom joins them at its goal;
    if an active code is used up first, that atom leaves instead.

    Parameters
    ----------
    T : tensor of shape (rows, width, width)
        Tableaus, swept on the atoms with a sign.
    values : tensor of shape (rows, width)
        The atom's column of T.
    codes, slope : float64 tensors of shape (rows, width)
        u and ``q − uG``.
    sign : tensor of shape (rows, width)
        Of active codes; 0 for idle ones.
    atom, side, goal : tensors of shape (rows,)
        Which atom moves, −1 for none; which way; and how far, 0 for one that is active and
        only leaves, infinity for one that others span.
    price : float64 tensor of shape (1, width)
        Slope of active atoms, but for its sign.
    bounded : bool
        Whether codes keep their sign.

    Returns
    -------
    T, codes, slope, sign : tensors
    turned : int1 tensor of shape (rows, width)
        The atom that joined or left.
    stuck : int1 tensor of shape (rows,)
        Whether neither happens however far the atom goes; then nothing has changed.
    """
    place = tl.arange(0, T.shape[1])[None, :]
    active = sign != 0
    here = place == atom[:, None]
    limit, blocker = tl.full(goal.shape, float("inf"), T.dtype), atom
    if bounded:
        loss = side[:, None] * values * sign
        left = tl.maximum(codes * sign, 0.0).to(T.dtype)
        until = tl.where(loss > 0, left / tl.where(loss > 0, loss, 1.0), float("inf"))
        limit, blocker = tl.min(until, axis=1, return_indices=True)
    step = tl.minimum(goal, limit)
    stuck = step == float("inf")
    step = tl.where((atom < 0) | stuck, 0.0, step) * side
    codes += step[:, None] * tl.where(active, -values, tl.where(here, 1.0, 0.0))
    slope -= step[:, None] * tl.where(active, 0.0, values)

    there = tl.where(goal <= limit, atom, blocker)
    turned = place == tl.where((atom < 0) | stuck, -1, there)[:, None]
    joins = turned & ~active
    codes = tl.where(turned & active, 0.0, codes)
    slope = tl.where(joins, side[:, None] * price, slope)
    sign = tl.where(turned, tl.where(joins, side[:, None], 0.0), sign)
    return sweep(T, turned), codes, slope, sign, turned, stuck


@triton.jit
def newton(T, codes, slope, price, sign, bounded: tl.constexpr):
    """To the minimiser on the active atoms; if bounded, as far as no code changes its sign."""
    wanted = tl.where(sign != 0, slope - price * sign, 0.0)
    step = -tl.sum(T * wanted.to(T.dtype)[:, :, None], axis=1).to(tl.float64)
    step = tl.where(sign != 0, step, 0.0)
    if not bounded:
        return codes + step
    loss, left = -step * sign, codes * sign
    until = tl.where(loss > left, left / tl.where(loss > left, loss, 1.0), 1.0)
    share = tl.min(until, axis=1)[:, None]
    return tl.where((until < 1) & (until <= share), 0.0, codes + share * step)


@triton.jit
def correlations(X, D, rows, atoms, n, n_components, n_features: tl.constexpr):
    """``xDᵀ`` and ``‖x‖²`` in double precision."""
    q = tl.zeros((rows.shape[0], atoms.shape[0]), tl.float64)
    square = tl.zeros((rows.shape[0],), tl.float64)
    for m in range(n_features):
        x = tl.load(X + rows * n_features + m, mask=rows < n, other=0.0).to(tl.float64)
        d = tl.load(D + atoms * n_features + m, mask=atoms < n_components, other=0.0)
        q += x[:, None] * d.to(tl.float64)[None, :]
        square += x * x
    return q, square


@triton.jit
def slopes(q, codes, gram):
    """``q − uG`` in double precision."""
    return q - tl.sum(codes[:, :, None] * gram[None, :, :], axis=1)
