"""The lasso over few atoms in one kernel: each row is solved where its data lies, in registers."""

from __future__ import annotations

import triton
import triton.language as tl

from .cuda_pivoting import advance, column, correlations, newton, pick, slopes

ROUNDS = tl.constexpr(2)  # of descending in the type of the rows and Newton steps in float64


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
def _descend(
    T, codes, slope, sign, joined, diagonal, penalty, tol, independent, rank, max_joins, max_turns,
    positive: tl.constexpr,
):  # fmt: skip
    r"""Let atoms join and leave until none gains: the minimiser, to the rounding of T.

    Minimises :math:`\tfrac12 uGu^T - qu^T + \sum_j p_j|u_j|` for every row. The atom that gains
    most leaves zero, and goes on until it has no more to gain, however many active atoms
    have to leave on the way. All rows take their steps together and a row that is done waits,
    so that no row depends on another.

    Parameters
    ----------
    T, codes, slope, sign : tensors
        See :func:`.cuda_pivoting.advance`.
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
        steep, bend = pick(slope, here), pick(values, here)
        spanned = bend <= independent * pick(diagonal, here)
        spanned |= tl.sum((sign != 0).to(tl.int32), axis=1) >= rank
        goal = (tl.abs(steep) - pick(penalty, here)) / tl.where(spanned, 1.0, bend)
        goal = tl.where(spanned, float("inf"), goal)
        goal = tl.where(pick(sign, here) != 0, 0.0, goal)
        side = tl.where(steep < 0, -1.0, 1.0).to(T.dtype)
        T, codes, slope, sign, turned, stuck = advance(
            T, values, codes, slope, sign, atom, side, goal, penalty, True
        )
        joined += tl.sum((turned & (sign != 0)).to(tl.int32), axis=1)
        banned |= here & stuck[:, None]
        following = _next_atom(
            codes, slope, sign, banned, penalty, tol, joined < max_joins, positive
        )
        done = stuck | (tl.sum((turned & here).to(tl.int32), axis=1) > 0)
        atom = tl.where(done, following, atom)
        turns += 1
    return T, codes, slope, sign, joined


@triton.jit
def _certificate(square, q, slope, codes, rounded, penalty, ridge, positive: tl.constexpr):
    """Duality gap (see ``Lasso.duality_gap``) of the rounded codes, and ``½‖x − sD‖²``.

    The dual point is a multiple of the residual before rounding.
    """
    whole = tl.maximum(square - tl.sum(codes * (q + slope), axis=1), 0.0)
    energy = tl.maximum(whole - ridge * tl.sum(codes * codes, axis=1), 0.0)
    agreement = tl.sum(rounded * slope, axis=1)
    towards = slope if positive else tl.abs(slope)
    feasible = penalty / tl.where(towards > 0, towards, 1.0)
    feasible = tl.min(tl.where(towards > 0, feasible, float("inf")), axis=1)
    c = 1 + agreement / tl.where(whole > 0, whole, 1.0)
    c = tl.minimum(tl.maximum(tl.where(whole > 0, c, 1.0), 0.0), feasible)
    slack = tl.sum(tl.abs(rounded) * penalty, axis=1) - c * agreement
    return 0.5 * (1 - c) * (1 - c) * whole + tl.maximum(slack, 0.0), 0.5 * energy


@triton.jit(do_not_specialize=["n", "rank", "max_joins"])
def lasso(
    X, D, gram, penalty, ridge, codes, gap, energy, n_iter,
    n, n_components, rank, max_joins, eps, finer, independent,
    n_features: tl.constexpr, height: tl.constexpr, width: tl.constexpr, positive: tl.constexpr,
):  # fmt: skip
    """Codes and certificates of ``height`` rows.

    Parameters
    ----------
    X, D : pointers to (n, n_features) and (n_components, n_features)
    gram, penalty : pointers to (n_components, n_components) and (n_components,), float64
        ``DDᵀ + ridge·I`` and p.
    codes, gap, energy, n_iter : pointers to (n, n_components), (n,), (n,) and (n,)
        Written to.
    ridge : pointer to one float64
        Passed by value it would be rounded.
    rank, max_joins : int
        Most active atoms, and most atoms that may be added to a row.
    eps, finer : float
        Gains that count, as shares of the largest correlation over 8, at first and once the
        slopes have been computed in double precision.
    independent : float
        See ``_descend``.
    height, width : int
        Rows of a program, and ``n_components`` or above; powers of two.
    """
    rows = tl.program_id(0).to(tl.int64) * height + tl.arange(0, height)
    atoms = tl.arange(0, width)
    real = atoms < n_components
    both = real[:, None] & real[None, :]
    G = tl.load(gram + atoms[:, None] * n_components + atoms[None, :], mask=both, other=0.0)
    p = tl.load(penalty + atoms, mask=real, other=1.0)[None, :]
    diagonal = tl.sum(tl.where(atoms[:, None] == atoms[None, :], G, 0.0), axis=0)[None, :]
    q, square = correlations(X, D, rows, atoms, n, n_components, n_features)
    top = tl.max(tl.abs(q), axis=1)
    tol = 8 * eps * top

    T = tl.broadcast_to(G.to(X.dtype.element_ty)[None, :, :], (height, width, width))
    u = tl.zeros((height, width), tl.float64)
    slope = q
    sign = tl.zeros((height, width), X.dtype.element_ty)
    joined = tl.zeros((height,), tl.int32)
    for _ in range(ROUNDS):
        T, u, slope, sign, joined = _descend(
            T, u, slope, sign, joined, diagonal, p, tol, independent, rank, max_joins, 16 * width,
            positive,
        )  # fmt: skip
        u = newton(T, u, slopes(q, u, G), p, sign, True)
        slope = slopes(q, u, G)
        tol = 8 * finer * top
    rounded = u.to(X.dtype.element_ty)
    inside = (rows < n)[:, None] & real[None, :]
    tl.store(codes + rows[:, None] * n_components + atoms[None, :], rounded, mask=inside)
    bound, left = _certificate(
        square, q, slope, u, rounded.to(tl.float64), p, tl.load(ridge), positive
    )
    tl.store(gap + rows, bound, mask=rows < n)
    tl.store(energy + rows, left, mask=rows < n)
    tl.store(n_iter + rows, joined.to(tl.int64), mask=rows < n)
