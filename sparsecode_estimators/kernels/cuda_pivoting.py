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
def _next_atom(codes, slope, sign, banned, penalty, tol, may_join, positive: tl.constexpr):
    """Atom that each row turns next, or −1.

    One that is active with nothing left of its code; if there is none, the idle one that
    gains most from leaving zero.
    """
    gain = (slope if positive else tl.abs(slope)) - penalty
    gain = tl.where(may_join[:, None] & ~banned, gain, -float("inf"))
    spent = tl.where(codes * sign > 0, -float("inf"), float("inf"))
    best, atom = tl.max(tl.where(sign != 0, spent, gain), axis=1, return_indices=True)
    return tl.where(best > tol, atom, -1)


@triton.jit
def descend(
    T, codes, slope, sign, joined, diagonal, penalty, tol, independent, rank, max_joins, max_turns,
    positive: tl.constexpr,
):  # fmt: skip
    r"""Let atoms join and leave until none gains: the minimiser, to the rounding of T.

    Minimises :math:`\tfrac12 uGu^T - qu^T + \sum_j p_j|u_j|` for every row. The atom that gains
    most leaves zero, while codes of active atoms follow so that they stay optimal. It joins
    them where it has no more to gain; if an active code reaches zero first, that atom
    leaves, and the same atom goes on. All rows take their steps together and a row that is
    done waits, so that no row depends on another.

    Parameters
    ----------
    T : tensor of shape (rows, width, width)
        Tableaus, swept on the atoms with a sign.
    codes, slope : float64 tensors of shape (rows, width)
        u and ``q − uG``.
    sign : tensor of shape (rows, width)
        Of active codes; 0 for idle ones.
    joined : int32 tensor of shape (rows,)
        Atoms that have joined so far.
    diagonal, penalty : float64 tensors of shape (1, width)
        Of G; and p.
    tol : float64 tensor of shape (rows,)
        Gain that counts.
    independent : float
        Share of its length below which what is left of an atom is rounding.
    rank, max_joins, max_turns : int
        Most active atoms; most atoms that may join; limit of sweeps.
    """
    place = tl.arange(0, T.shape[1])[None, :]
    banned = sign != sign
    atom = _next_atom(codes, slope, sign, banned, penalty, tol, joined < max_joins, positive)
    turns = 0
    while (tl.max(atom, axis=0) >= 0) & (turns < max_turns):
        here = place == atom[:, None]
        values = column(T, here)
        active = sign != 0
        steep = pick(slope, here)
        side = tl.where(steep < 0, -1.0, 1.0).to(T.dtype)
        # how far until the atom has no more to gain; 0 if it is active: then it only leaves
        bend = pick(values, here)
        spanned = bend <= independent * pick(diagonal, here)
        spanned |= tl.sum(active.to(tl.int32), axis=1) >= rank
        goal = (tl.abs(steep) - pick(penalty, here)) / tl.where(spanned, 1.0, bend)
        goal = tl.where(spanned, float("inf"), goal)
        goal = tl.where(pick(sign, here) != 0, 0.0, goal)
        # how far until an active code is used up
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
        there = tl.where((atom < 0) | stuck, -1, there)
        turned = place == there[:, None]
        joins = turned & ~active
        codes = tl.where(turned & active, 0.0, codes)
        slope = tl.where(joins, side[:, None] * penalty, slope)
        sign = tl.where(turned, tl.where(joins, side[:, None], 0.0), sign)
        joined += tl.sum(joins.to(tl.int32), axis=1)
        banned |= here & stuck[:, None]
        T = sweep(T, turned)

        following = _next_atom(
            codes, slope, sign, banned, penalty, tol, joined < max_joins, positive
        )
        atom = tl.where(stuck | (there == atom), following, atom)
        turns += 1
    return T, codes, slope, sign, joined
