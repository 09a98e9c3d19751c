"""Least squares on given supports, signed or non-negative, a batch of rows at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .shared import FLOOR, LIMIT, RESOLUTION

# Gathered atoms take n·k·n_features numbers; rows are cut so that they fit a cache.
GATHER_LIMIT = 2**22
REFINEMENTS = 8  # with one factor: the later ones take back what its damping cost


def top_support(codes: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Indices of the ``k`` largest codes of each row and which of them are not zero."""
    magnitude, indices = codes.abs().topk(k, dim=1)
    return indices, magnitude > 0


def resolution(dtype: torch.dtype) -> float:
    """Squared sine below which an atom counts as explained by others.

    Gram matrices are damped by this. Along directions in which atoms cancel each other, least
    squares are not unique, and a smaller damping would blow rounding up there.
    """
    return torch.finfo(dtype).eps ** RESOLUTION


def damped_factor(gram: Tensor, valid: Tensor, share: float) -> Tensor:
    """Cholesky factors of the valid atoms' Gram matrices, the identity elsewhere but for its size.

    Parameters
    ----------
    gram : Tensor of shape (n, k, k)
    valid : Tensor of shape (n, k)
    share : float
        Of each entry of the diagonal, that is added to it: atoms may depend on each other, and
        be of very different lengths.
    """
    gram = gram * (valid.unsqueeze(2) & valid.unsqueeze(1))
    own = gram.diagonal(dim1=1, dim2=2)
    size = own.amax(1, keepdim=True).clamp(min=torch.finfo(gram.dtype).tiny)
    least = torch.finfo(gram.dtype).eps ** 2 * size  # an atom of zeros has no length
    damping = torch.where(valid, torch.maximum(share * own, least), size)
    return torch.linalg.cholesky_ex(gram + torch.diag_embed(damping))[0]


def least_squares(
    X: Tensor, D: Tensor, indices: Tensor, valid: Tensor, start: Tensor, *, positive: bool
) -> tuple[Tensor, int]:
    r"""Minimise :math:`\tfrac12\|x - uA\|^2` over the atoms A of each row, shape (n, k).

    And the floating point operations that this took. Worked out in double precision, or atoms
    that are alike would lose all digits of float32; the answer has the type of ``X``.

    Parameters
    ----------
    X : Tensor of shape (n, n_features)
    D : Tensor of shape (n_components, n_features)
    indices, valid : Tensor of shape (n, k)
        Atoms of each row; where ``valid`` is false the place is padding and stays zero.
    start : Tensor of shape (n, k)
        Values to begin with, at least zero for positive problems. The answer does not
        depend on them, the time does.
    positive : bool
        Whether u ≥ 0 is asked for; then by the active-set method of Lawson & Hanson (1974,
        chapter 23), all rows in step and each with its own set.
    """
    spent = [0]
    solve = _non_negative if positive else _Atoms.newton
    parts = _parts(X, D, indices, valid, start, spent)
    values = torch.cat([solve(rows, values, free) for rows, values, free in parts])
    return values.to(X.dtype), spent[0]


def descend_on_support(
    X: Tensor, D: Tensor, indices: Tensor, valid: Tensor, start: Tensor, *, positive: bool
) -> tuple[Tensor, Tensor, int]:
    """As :func:`least_squares`, but a code that would turn negative is dropped for good.

    On the way from ``start``, as far as no other does. Returns the values, which of them are
    left, and the operations.
    """
    spent = [0]
    parts = _parts(X, D, indices, valid, start, spent)
    if positive:
        solved = [_feasible(rows, values, free) for rows, values, free in parts]
    else:
        solved = [(rows.newton(values, free), free) for rows, values, free in parts]
    values, free = (torch.cat(t) for t in zip(*solved, strict=True))
    return values.to(X.dtype), free, spent[0]


def _parts(
    X: Tensor, D: Tensor, indices: Tensor, valid: Tensor, start: Tensor, spent: list[int]
) -> Iterator[tuple[_Atoms, Tensor, Tensor]]:
    """Rows, as many at a time as fit a cache, with their start and their places in use."""
    size = max(1, GATHER_LIMIT // max(1, indices.shape[1] * D.shape[1]))
    for x, i, v, u in zip(
        *(t.split(size) for t in (X, indices, valid, start * valid)), strict=True
    ):
        yield _Atoms.of(x.double(), D[i].double() * v[..., None], spent), u.double(), v


@dataclass
class _Atoms:
    """Atoms of some rows, (n, k, n_features), and their products with each other, as doubles.

    ``spent`` is one number, the operations so far, which all parts of a problem share.
    """

    X: Tensor
    atoms: Tensor
    gram: Tensor
    spent: list[int]

    @classmethod
    def of(cls, X: Tensor, atoms: Tensor, spent: list[int]) -> _Atoms:
        spent[0] += 2 * atoms.numel() * atoms.shape[1]
        return cls(X, atoms, atoms @ atoms.mT, spent)

    def __getitem__(self, rows: Tensor) -> _Atoms:
        return _Atoms(self.X[rows], self.atoms[rows], self.gram[rows], self.spent)

    def pull(self, values: Tensor) -> Tensor:
        """Products of the atoms with the residual, shape (n, k)."""
        self.spent[0] += 4 * self.atoms.numel()
        residual = self.X - (values.unsqueeze(1) @ self.atoms).squeeze(1)
        return (self.atoms @ residual.unsqueeze(2)).squeeze(2)

    def newton(self, values: Tensor, free: Tensor) -> Tensor:
        """The minimiser over the ``free`` places, the others held, nearest to ``values``."""
        factor = damped_factor(self.gram, free, resolution(values.dtype))
        n, k = values.shape
        self.spent[0] += n * (k**3 // 3 + 2 * REFINEMENTS * k * k)
        for _ in range(REFINEMENTS):
            step = torch.cholesky_solve((self.pull(values) * free).unsqueeze(2), factor)
            values = values + step.squeeze(2) * free
        return values


def _non_negative(rows: _Atoms, values: Tensor, valid: Tensor) -> Tensor:
    values, free = _feasible(rows, values, valid)
    floor = _rounding(rows)
    open_rows = torch.arange(len(values), device=values.device)
    for _ in range(LIMIT * values.shape[1]):  # k rounds are usual
        part, held = rows[open_rows], valid[open_rows] & ~free[open_rows]
        pull = part.pull(values[open_rows]).masked_fill(~held, -torch.inf)
        best, place = (pull - floor[open_rows]).max(1)
        going = best > 0
        if not going.any():
            break
        open_rows, part, place = open_rows[going], part[going], place[going, None]
        before = free[open_rows]
        values[open_rows], free[open_rows] = _feasible(
            part, values[open_rows], before.scatter(1, place, True)
        )
        # a newcomer that is dropped at once was rounding: nothing is left to gain
        open_rows = open_rows[(free[open_rows] != before).any(1)]
        if not len(open_rows):
            break
    return values


def _feasible(rows: _Atoms, values: Tensor, free: Tensor) -> tuple[Tensor, Tensor]:
    """The minimiser over ``free``, less the places that would turn negative on the way."""
    while True:
        target = rows.newton(values, free)
        blocking = free & (target <= 0)
        if not blocking.any():
            return target, free
        # as far towards the target as nothing turns negative; what blocks is held at zero
        ratio = (values / (values - target)).masked_fill(~blocking, torch.inf).nan_to_num(0.0)
        step = ratio.amin(1, keepdim=True).clamp(max=1)
        free = free & ~(blocking & (ratio <= step))
        values = (values + step * (target - values)).clamp(min=0) * free


def _rounding(rows: _Atoms) -> Tensor:
    """Below this a product with a residual is rounding, shape (n, k)."""
    eps = torch.finfo(rows.X.dtype).eps
    return FLOOR * eps * rows.X.norm(dim=1, keepdim=True) * rows.atoms.norm(dim=2)
