"""Greedy k-sparse codes over few atoms in one kernel: OMP and OLS in registers."""

from __future__ import annotations

import triton
import triton.language as tl

from .cuda_pivoting import advance, column, correlations, newton, pick, slopes


@triton.jit
def _best_atom(
    T, codes, slope, sign, banned, diagonal, floor, independent, may_join,
    positive: tl.constexpr, orthogonal: tl.constexpr,
):  # fmt: skip
    """Atom that each row turns next, or −1.

    For positive codes an active one with nothing left of its code, if there is one; else the
    idle one that correlates most with the residual, by its part that active atoms do not
    explain if ``orthogonal``.
    """
    place = tl.arange(0, T.shape[1])
    eye = place[:, None] == place[None, :]
    unexplained = tl.sum(tl.where(eye[None, :, :], T, 0.0), axis=1)
    strength = slope if positive else tl.abs(slope)
    useful = (strength > floor) & (unexplained > independent * diagonal)
    useful &= may_join[:, None] & ~banned & (sign == 0)
    gain = strength
    if orthogonal:
        gain = strength * strength / tl.where(useful, unexplained, 1.0)
    gain = tl.where(useful, gain, 0.0)
    if positive:
        gain = tl.where((sign != 0) & (codes <= 0), float("inf"), gain)
    best, atom = tl.max(gain, axis=1, return_indices=True)
    return tl.where(best > 0, atom, -1)


@triton.jit(do_not_specialize=["n", "k", "max_joins"])
def pursuit(
    X, D, gram, codes, energy, n_iter,
    n, n_components, k, max_joins, rounding, independent,
    n_features: tl.constexpr, height: tl.constexpr, width: tl.constexpr,
    positive: tl.constexpr, orthogonal: tl.constexpr,
):  # fmt: skip
    """Codes of ``height`` rows.

    Parameters
    ----------
    X, D : pointers to (n, n_features) and (n_components, n_features)
    gram : pointer to (n_components, n_components), float64
        ``DDᵀ``.
    codes, energy, n_iter : pointers to (n, n_components), (n,) and (n,)
        Written to.
    k, max_joins : int
        Most atoms of a row, and most that may be added to it.
    rounding : float
        Correlations that are rounding, as a share of the lengths of the row and of the atom.
    independent : float
        Share of its squared length that an atom must have outside the span of the others.
    height, width : int
        Rows of a program, and ``n_components`` or above; powers of two.
    orthogonal : bool
        Whether atoms are chosen by the rule of OLS.
    """
    rows = tl.program_id(0).to(tl.int64) * height + tl.arange(0, height)
    atoms = tl.arange(0, width)
    real = atoms < n_components
    both = real[:, None] & real[None, :]
    G = tl.load(gram + atoms[:, None] * n_components + atoms[None, :], mask=both, other=0.0)
    diagonal = tl.sum(tl.where(atoms[:, None] == atoms[None, :], G, 0.0), axis=0)[None, :]
    q, square = correlations(X, D, rows, atoms, n, n_components, n_features)
    floor = rounding * tl.sqrt(square)[:, None] * tl.sqrt(diagonal)
    free = tl.zeros((1, width), tl.float64)

    T = tl.broadcast_to(G.to(X.dtype.element_ty)[None, :, :], (height, width, width))
    u = tl.zeros((height, width), tl.float64)
    slope = q
    sign = tl.zeros((height, width), X.dtype.element_ty)
    joined = tl.zeros((height,), tl.int32)
    banned = sign != sign
    atom = _best_atom(
        T, u, slope, sign, banned, diagonal, floor, independent, joined < max_joins,
        positive, orthogonal,
    )  # fmt: skip
    turns = 0
    while (tl.max(atom, axis=0) >= 0) & (turns < 16 * width):
        here = atoms[None, :] == atom[:, None]
        values = column(T, here)
        steep, bend = pick(slope, here), pick(values, here)
        spanned = bend <= independent * pick(diagonal, here)
        goal = tl.where(spanned, float("inf"), tl.abs(steep) / tl.where(spanned, 1.0, bend))
        goal = tl.where(pick(sign, here) != 0, 0.0, goal)
        side = tl.where(steep < 0, -1.0, 1.0).to(T.dtype)
        T, u, slope, sign, turned, stuck = advance(
            T, values, u, slope, sign, atom, side, goal, free, positive
        )
        joined += tl.sum((turned & (sign != 0)).to(tl.int32), axis=1)
        banned |= here & stuck[:, None]
        used = tl.sum((sign != 0).to(tl.int32), axis=1)
        following = _best_atom(
            T, u, slope, sign, banned, diagonal, floor, independent,
            (used < k) & (joined < max_joins), positive, orthogonal,
        )  # fmt: skip
        done = stuck | (tl.sum((turned & here).to(tl.int32), axis=1) > 0)
        atom = tl.where(done, following, atom)
        turns += 1

    u = newton(T, u, slopes(q, u, G), free, sign, positive)
    left = square - tl.sum(u * (q + slopes(q, u, G)), axis=1)
    inside = (rows < n)[:, None] & real[None, :]
    out = codes + rows[:, None] * n_components + atoms[None, :]
    tl.store(out, u.to(X.dtype.element_ty), mask=inside)
    tl.store(energy + rows, 0.5 * tl.maximum(left, 0.0), mask=rows < n)
    tl.store(n_iter + rows, joined.to(tl.int64), mask=rows < n)
