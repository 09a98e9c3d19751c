"""What the kernels mean, in torch, for any device."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .least_squares import damped_factor, least_squares, resolution, top_support
from .shared import FLOOR, INDEPENDENT


class Answer(NamedTuple):
    """Codes and how good they are, row by row.

    Attributes
    ----------
    codes : Tensor of shape (n, n_components)
    gap : Tensor of shape (n,)
        Duality gap, in double precision; NaN for k-sparse codes, which have none.
    energy : Tensor of shape (n,)
        ``½‖x − sD‖²``.
    n_iter : Tensor of shape (n,)
        Atoms added.
    flops : int or None
        Operations on all rows, if the make has counted them.
    """

    codes: Tensor
    gap: Tensor
    energy: Tensor
    n_iter: Tensor
    flops: int | None = None


def soft_threshold(values: Tensor, threshold: Tensor, *, positive: bool) -> Tensor:
    """Values moved towards zero by ``threshold``, and to zero if that is nearer.

    For positive codes those below zero become zero.
    """
    if positive:
        return (values - threshold).clamp_(min=0)
    return values - values.clamp(-threshold, threshold)


def proximal_step(
    z: Tensor,
    gradient: Tensor,
    codes: Tensor,
    t: Tensor,
    threshold: Tensor,
    *,
    step: Tensor,
    positive: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """See :func:`sparsecode_estimators.kernels.proximal_step`."""
    after = soft_threshold(z - step * gradient, threshold, positive=positive)
    restart = ((z - after) * (after - codes)).sum(1, keepdim=True) > 0
    t_after = torch.where(restart, 1.0, (1 + (1 + 4 * t.square()).sqrt()) / 2)
    momentum = torch.where(restart, 0.0, (t - 1) / t_after)
    return after, after + momentum * (after - codes), t_after


def working_set(
    X: Tensor,
    D: Tensor,
    gram: Tensor | None,
    penalty: Tensor,
    *,
    ridge: float,
    positive: bool,
    start: Tensor | None,
    max_steps: int,
) -> Answer:
    """See :func:`sparsecode_estimators.kernels.working_set`; ``gram`` includes the ridge.

    An active-set method, all rows at a time and in double precision: every row adds its
    most violated atom, then goes to the minimiser on its active atoms, or as far as no code
    changes its sign. ``start`` is not needed: the answer is the same from everywhere.
    """
    x, d, p = (t.double() for t in (X, D, penalty))
    g = gram.double() if gram is not None else d @ d.T + ridge * torch.eye(len(d)).to(d)
    q = x @ d.T
    product, square = 2 * d.numel(), 2 * g.numel()
    flops = 3 * len(x) * product + (0 if gram is not None else square * d.shape[1])
    codes = torch.zeros_like(q)
    n_iter = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    tol = 8 * torch.finfo(X.dtype).eps * q.abs().amax(1)
    rows = torch.arange(len(x), device=x.device)
    for _ in range(max_steps):
        flops += len(rows) * square
        slope = q[rows] - codes[rows] @ g
        gain = (slope if positive else slope.abs()) - p
        gain = gain.masked_fill(codes[rows] != 0, -torch.inf)
        best, atom = gain.max(1)
        keep = best > tol[rows]
        rows, slope, atom = rows[keep], slope[keep], atom[keep]
        if not len(rows):
            break
        sign = codes[rows].sign()
        entering = slope.gather(1, atom[:, None]).sign()
        sign.scatter_(1, atom[:, None], entering)
        codes[rows], spent = _settle(codes[rows], sign, q[rows], g, p)
        flops += spent
        n_iter[rows] += 1
    codes = codes.to(X.dtype)
    gap, energy = _gap(x, d, codes.double(), p, ridge, positive)
    return Answer(codes, gap, energy, n_iter, flops)


def _settle(
    codes: Tensor, sign: Tensor, q: Tensor, gram: Tensor, penalty: Tensor
) -> tuple[Tensor, int]:
    """Newton steps on the active atoms, those with a sign, as far as no code changes its own.

    And their operations.
    """
    todo = torch.arange(len(codes), device=codes.device)
    flops = 0
    while len(todo):
        u, s = codes[todo], sign[todo]
        on = (s != 0).to(u)
        k = int(on.sum(1).max())
        flops += len(todo) * (2 * gram.numel() + k**3 // 3 + 2 * k * k)
        valid, places = on.topk(k, dim=1)
        target = u + _newton(u, s, q[todo], gram, penalty, places, valid)
        blocked = (s != 0) & (target * s <= 0)
        ratio = torch.where(blocked, u / (u - target), torch.inf)
        share = ratio.amin(1, keepdim=True).clamp(max=1)
        out = blocked & (ratio <= share)
        codes[todo] = torch.where(out | (s == 0), 0.0, u + share * (target - u))
        sign[todo] = torch.where(out, 0.0, s)
        todo = todo[out.any(1)]
    return codes, flops


def _newton(
    u: Tensor, sign: Tensor, q: Tensor, gram: Tensor, penalty: Tensor, places: Tensor, valid: Tensor
) -> Tensor:
    """Step to the minimiser on the active atoms; a hair of damping where they are dependent.

    The damping makes the step a descent along which some code vanishes.
    """
    wanted = (q - u @ gram - penalty * sign).gather(1, places) * valid
    block = gram[places[:, :, None], places[:, None, :]]
    factor = damped_factor(block, valid > 0, torch.finfo(u.dtype).eps ** INDEPENDENT)
    step = torch.cholesky_solve(wanted[:, :, None], factor).squeeze(2)
    return torch.zeros_like(u).scatter_(1, places, step * valid)


def _gap(
    x: Tensor, d: Tensor, codes: Tensor, penalty: Tensor, ridge: float, positive: bool
) -> tuple[Tensor, Tensor]:
    """Duality gap (see ``Lasso.duality_gap``) and ``½‖x − sD‖²``."""
    r = x - codes @ d
    products = r @ d.T - ridge * codes
    energy = r.square().sum(1)
    whole = energy + ridge * codes.square().sum(1)
    agreement = (codes * products).sum(1)
    ratio = largest_ratio(products, penalty, positive=positive)
    return gap_of(whole, agreement, codes.abs() @ penalty, ratio), 0.5 * energy


def largest_ratio(products: Tensor, penalty: Tensor, *, positive: bool) -> Tensor:
    """The most that a product is of its atom's penalty, at least 0, shape (n,)."""
    sizes = products.clamp(min=0) if positive else products.abs()
    # 0/0 is a zero residual, or a row that no atom points along: any multiple is feasible
    return (sizes / penalty).nan_to_num(0.0, torch.inf).amax(1) + 0.0  # and not -0.0


def gap_of(energy: Tensor, agreement: Tensor, length: Tensor, ratio: Tensor) -> Tensor:
    """The gap that ``Lasso.duality_gap`` derives, all of shape (n,).

    Parameters
    ----------
    energy : Tensor
        ``‖r‖² + ridge·‖s‖²``.
    agreement : Tensor
        ``Σ s_j (d_j·r − ridge·s_j)``.
    length : Tensor
        ``Σ p_j |s_j|``.
    ratio : Tensor
        Of :func:`largest_ratio`.
    """
    c = torch.where(energy > 0, 1 + agreement / energy, 1.0).clamp(min=0)
    c = torch.minimum(c, 1 / ratio)
    return 0.5 * (1 - c).square() * energy + (length - c * agreement).clamp(min=0)


def pursuit(
    X: Tensor,
    D: Tensor,
    gram: Tensor | None,
    *,
    k: int,
    positive: bool,
    rule: str,
    start: Tensor | None,
    max_steps: int,
) -> Answer:
    """See :func:`sparsecode_estimators.kernels.pursuit`; ``gram`` is not needed.

    All rows at a time and in double precision: every row takes the best atom of all, refits,
    and ends when that does not lower its residual.
    """
    x, d = X.double(), D.double()
    lengths = d.norm(dim=1)
    codes = x.new_zeros(len(x), len(d))
    product = 2 * d.numel()
    flops = len(x) * product
    if start is not None:
        indices, valid = top_support(start.clamp(min=0) if positive else start, k)
        on = torch.zeros_like(codes, dtype=torch.bool).scatter_(1, indices, valid)
        codes, spent = _refit(x, d, on, codes, positive)
        flops += spent
    floor = FLOOR * torch.finfo(X.dtype).eps * x.norm(dim=1)
    n_iter = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    rows = torch.arange(len(x), device=x.device)
    for _ in range(max_steps):
        rows = rows[(codes[rows] != 0).sum(1) < k]
        if not len(rows):
            break
        u, r = codes[rows], x[rows] - codes[rows] @ d
        slope = r @ d.T
        flops += 3 * len(rows) * product
        strength = slope if positive else slope.abs()
        # an atom that the others explain to the precision of a refit can add nothing to them
        left = lengths.square().expand_as(u)
        if rule == "ols":
            left, spent = _unexplained(d, u)
            flops += spent
        useful = (u == 0) & (strength > floor[rows, None] * lengths)
        useful &= left > resolution(X.dtype) * lengths.square()
        gain = strength.square() / left if rule == "ols" else strength
        best, atom = gain.masked_fill(~useful, 0.0).max(1)
        on = (u != 0).scatter(1, atom[:, None], best[:, None] > 0)
        trial, spent = _refit(x[rows], d, on, u, positive)
        flops += spent
        better = (best > 0) & ((x[rows] - trial @ d).square().sum(1) < r.square().sum(1))
        rows = rows[better]
        codes[rows] = trial[better]
        n_iter[rows] += 1
    energy = 0.5 * (x - codes @ d).square().sum(1)
    return Answer(codes.to(X.dtype), torch.full_like(energy, torch.nan), energy, n_iter, flops)


def _refit(x: Tensor, d: Tensor, on: Tensor, codes: Tensor, positive: bool) -> tuple[Tensor, int]:
    """Least squares over the atoms that are ``on``, from ``codes``; shape (n, n_components).

    And their operations.
    """
    if not on.any():
        return torch.zeros_like(codes), 0
    indices, valid = top_support(on.to(codes), int(on.sum(1).max()))
    start = codes.gather(1, indices)
    values, flops = least_squares(x, d, indices, valid, start, positive=positive)
    return torch.zeros_like(codes).scatter_(1, indices, values), flops


def _unexplained(d: Tensor, codes: Tensor) -> tuple[Tensor, int]:
    """Squared length of every atom's part outside the span of those in use, (n, n_components).

    And the operations that it takes.
    """
    indices, valid = top_support(codes, int((codes != 0).sum(1).max()))
    basis = torch.linalg.qr((d[indices] * valid[..., None]).mT).Q * valid[:, None]
    left = d.square().sum(1).expand_as(codes)
    for direction in basis.unbind(2):  # one after the other: no (n, k, N) in memory
        left = left - (direction @ d.T).square()
    n, k = indices.shape
    return left, n * k * (2 * d.numel() + 4 * k * d.shape[1])
