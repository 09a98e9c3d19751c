"""The lasso over few atoms in one kernel: each row is solved where its data lies, in registers."""

from __future__ import annotations

import triton
import triton.language as tl

from .cuda_pivoting import descend

ROUNDS = tl.constexpr(2)  # of descending in the type of the rows and Newton steps in float64


@triton.jit
def _correlations(X, D, rows, atoms, n, n_components, n_features: tl.constexpr):
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
def _slopes(q, codes, gram):
    """``q − uG`` in double precision."""
    return q - tl.sum(codes[:, :, None] * gram[None, :, :], axis=1)


@triton.jit
def _newton(T, codes, slope, penalty, sign):
    """To the minimiser on the active atoms, or as far as no code changes its sign."""
    wanted = tl.where(sign != 0, slope - penalty * sign, 0.0)
    step = -tl.sum(T * wanted.to(T.dtype)[:, :, None], axis=1).to(tl.float64)
    step = tl.where(sign != 0, step, 0.0)
    loss, left = -step * sign, codes * sign
    until = tl.where(loss > left, left / tl.where(loss > left, loss, 1.0), 1.0)
    share = tl.min(until, axis=1)[:, None]
    return tl.where((until < 1) & (until <= share), 0.0, codes + share * step)


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
        See :func:`.cuda_pivoting.descend`.
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
    q, square = _correlations(X, D, rows, atoms, n, n_components, n_features)
    top = tl.max(tl.abs(q), axis=1)
    tol = 8 * eps * top

    T = tl.broadcast_to(G.to(X.dtype.element_ty)[None, :, :], (height, width, width))
    u = tl.zeros((height, width), tl.float64)
    slope = q
    sign = tl.zeros((height, width), X.dtype.element_ty)
    joined = tl.zeros((height,), tl.int32)
    for _ in range(ROUNDS):
        T, u, slope, sign, joined = descend(
            T, u, slope, sign, joined, diagonal, p, tol, independent, rank, max_joins, 16 * width,
            positive,
        )  # fmt: skip
        u = _newton(T, u, _slopes(q, u, G), p, sign)
        slope = _slopes(q, u, G)
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
