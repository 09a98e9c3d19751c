"""Atoms: where they start, and the rules by which they follow the codes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

DUPLICATE = 0.95  # |cosine| above which two atoms are one
LARGEST = 16  # rows that say what direction a latent has
NOISE = 0.3  # length of what disturbs an atom that starts at a row


def magnitude(rows: Tensor) -> Tensor:
    """The power of two at or below the largest entry of each row, shape (n, 1); 1 for zero rows.

    To divide by it rounds nothing, and then squares neither overflow nor vanish.
    """
    largest = rows.abs().amax(1, keepdim=True)
    return torch.where(largest > 0, largest / (2 * torch.frexp(largest).mantissa), 1.0)


def unit(atoms: Tensor) -> Tensor:
    """Rows of length one, however long or short; zero rows stay zero."""
    atoms = atoms / magnitude(atoms)
    return atoms / atoms.norm(dim=1, keepdim=True).clamp(min=1)


def directions(X: Tensor, codes: Tensor) -> Tensor:
    """Where rows lie in which each code is largest, shape (n_components, n_features).

    The mean of a few, weighted by their codes; that of all points where most of X lies.
    """
    values, rows = codes.topk(min(LARGEST, len(codes)), dim=0)
    return unit(torch.einsum("kj,kjm->jm", values, X[rows]))


def allowed(atoms: Tensor, previous: Tensor, *, positive: bool) -> Tensor:
    """Unit atoms, non-negative if asked; one with no allowed direction stays as it was."""
    atoms = unit(atoms.clamp(min=0) if positive else atoms)
    return torch.where(atoms.any(1, keepdim=True), atoms, previous)


def initial_dictionary(
    X: Tensor, n_components: int, generator: torch.Generator, *, positive: bool = False
) -> Tensor:
    """Directions of random rows, a little disturbed, shape (n_components, n_features).

    Rows are taken once each while they last. The disturbance keeps atoms apart that
    come from equal rows and replaces those from zero rows.
    """
    order = torch.randperm(len(X), generator=generator)
    order = order.repeat(-(-n_components // len(X)))[:n_components]
    rows = unit(X[order.to(X.device)])
    return disturbed(rows, generator, positive=positive)


def disturbed(atoms: Tensor, generator: torch.Generator, *, positive: bool = False) -> Tensor:
    """Unit atoms with noise of length about 0.3, which keeps equal ones apart."""
    noise = torch.randn(atoms.shape, generator=generator) / atoms.shape[1] ** 0.5
    noise = NOISE * noise.to(atoms)
    moved = unit(atoms + noise)
    # the noise itself, folded, is where an atom goes that has nothing positive
    return allowed(moved, unit(noise.abs()), positive=True) if positive else moved


@dataclass(frozen=True)
class AtomUpdate:
    """A row of the table.

    Parameters
    ----------
    run : callable
        With ``from_moments`` ``run(D, gram, cross, *, positive) -> D``, else
        ``run(D, codes, X, *, alpha, positive_code, positive) -> (D, codes)``.
    from_moments : bool
        Whether SᵀS and SᵀX are all that the rule needs to know of the rows. Only then
        can rows be forgotten once they have been coded.
    """

    run: Callable
    from_moments: bool


def block_coordinate(D: Tensor, gram: Tensor, cross: Tensor, *, positive: bool = False) -> Tensor:
    r"""One pass of block-coordinate descent over unit atoms.

    With ``gram`` = SᵀS and ``cross`` = SᵀX, each atom in turn moves to its minimiser
    :math:`d_j + (\text{cross}_j - \text{gram}_j D)/\text{gram}_{jj}`, on the sphere
    (Mairal et al. 2010, alg. 2, with the sphere in place of the ball, so that no code
    can shrink for free). Atoms that no code uses stay. On the sphere the objective is
    linear in one atom, so clipping before scaling gives the best non-negative atom.

    Parameters
    ----------
    D : Tensor of shape (n_components, n_features)
    gram : Tensor of shape (n_components, n_components)
    cross : Tensor of shape (n_components, n_features)
    positive : bool
        Whether atoms must not be negative.
    """
    D = D.clone()
    used = torch.nonzero(gram.diagonal() > 0).squeeze(1).tolist()
    scale = torch.maximum(magnitude(gram), magnitude(cross))  # an atom's direction has no scale
    # without the diagonal the pull of the others is left; rows are cut once, not in the loop
    pulls = ((gram - gram.diag().diag()) / scale).unbind(0)
    targets, atoms = (cross / scale).unbind(0), D.unbind(0)
    transposed = D.T
    for j in used:
        atom = torch.addmv(targets[j], transposed, pulls[j], alpha=-1)
        atom = atom.clamp_(min=0) if positive else atom
        norm = torch.linalg.vector_norm(atom)
        atoms[j].copy_(torch.where(norm > 0, atom / norm, atoms[j]))
    return D


def optimal_directions(D: Tensor, gram: Tensor, cross: Tensor, *, positive: bool = False) -> Tensor:
    r"""All atoms at once by least squares, then unit norm.

    The method of optimal directions of Engan, Aase & Husøy (1999). A pull towards the
    present atoms, as small as the rounding of the Gram matrix,

    .. math:: (S^\top S + \varepsilon I) D_{\text{new}} = S^\top X + \varepsilon D,

    makes the solution unique: atoms that no code uses, and what the codes cannot tell
    apart, stay. Scaling, and clipping for ``positive``, come after the solution, so
    unlike the other rules this one can raise the objective.

    Parameters
    ----------
    D, gram, cross, positive
        As for :func:`block_coordinate`.
    """
    ridge = len(gram) * torch.finfo(gram.dtype).eps * gram.diagonal().max().double()
    if ridge <= 0:
        return D
    left = gram.double() + ridge * torch.eye(len(gram), dtype=torch.float64, device=gram.device)
    right = cross.double() + ridge * D.double()
    atoms = torch.linalg.solve(left, right).to(D.dtype)
    return allowed(atoms, D, positive=positive)


def k_svd(
    D: Tensor,
    codes: Tensor,
    X: Tensor,
    *,
    alpha: float = 0.0,
    positive_code: bool = False,
    positive: bool = False,
) -> tuple[Tensor, Tensor]:
    r"""One pass of approximate K-SVD: each atom together with the codes that use it.

    With E the rows that use atom j, less what the other atoms explain of them,

    .. math:: d_j = E^\top s_j / \|E^\top s_j\|, \qquad s_j = \mathrm{soft}(E d_j, \alpha),

    one step of the power iteration in place of the singular value decomposition of
    Aharon, Elad & Bruckstein (2006), as in Rubinstein, Zibulevsky & Elad (2008); they
    have no penalty (alpha = 0). Both halves minimise the objective, so it never rises.
    Non-negative atoms and codes are clipped, as in NN-K-SVD (Aharon et al. 2005).

    Parameters
    ----------
    D : Tensor of shape (n_components, n_features)
    codes : Tensor of shape (n, n_components)
    X : Tensor of shape (n, n_features)
    alpha : float
    positive_code, positive : bool
        Whether codes, and atoms, must not be negative.

    Returns
    -------
    D, codes : Tensor
    """
    D, codes = D.clone(), codes.clone()
    residual = X - codes @ D
    for j in range(len(D)):
        rows = torch.nonzero(codes[:, j]).squeeze(1)
        if not len(rows):
            continue
        s = codes[rows, j]
        E = torch.addr(residual[rows], s, D[j])
        D[j] = allowed((s @ E)[None], D[j : j + 1], positive=positive)[0]
        s = E @ D[j]
        s = (s - alpha).clamp(min=0) if positive_code else s - s.clamp(-alpha, alpha)
        codes[rows, j] = s
        residual[rows] = torch.addr(E, s, D[j], alpha=-1)
    return D, codes


ATOM_UPDATES = {
    "bcd": AtomUpdate(block_coordinate, from_moments=True),
    "mod": AtomUpdate(optimal_directions, from_moments=True),
    "ksvd": AtomUpdate(k_svd, from_moments=False),
}


def duplicates(D: Tensor, energy: Tensor) -> Tensor:
    """Atoms that nearly coincide with one that more energy goes through."""
    close = (D @ D.T).abs() > DUPLICATE
    rank = energy.argsort().argsort()
    return (close & (rank[:, None] < rank[None, :])).any(1)


def least_squares_decoder(
    batches: Iterable[tuple[Tensor, Tensor]],
    offset: Tensor,
    D: Tensor | None = None,
    *,
    learn_offset: bool,
) -> tuple[Tensor, Tensor]:
    r"""D and b that minimise ``‖X − b − SD‖²`` for known codes S, from one pass.

    With :math:`\bar x` and :math:`\bar s` the means, :math:`b = \bar x - \bar s D`, and D is
    that of rows and codes less their means. Atoms that no code uses, or that the codes cannot tell
    apart, get the solution of least norm. The atoms are not scaled to unit norm: the scale of S is
    given.

    Parameters
    ----------
    batches : iterable of (X, S), Tensors of shape (n_i, n_features), (n_i, n_components)
    offset : Tensor of shape (n_features,)
        Where b is, or about where it is.
    D : Tensor of shape (n_components, n_features) or None
        If it is known.
    learn_offset : bool
        Whether b may change.
    """
    gram: Any = 0.0
    cross: Any = 0.0
    codes_sum: Any = 0.0
    rows_sum: Any = 0.0
    n = 0
    for x, codes in batches:
        s, r = codes.double(), (x - offset).double()
        gram, cross = gram + s.T @ s, cross + s.T @ r
        codes_sum, rows_sum, n = codes_sum + s.sum(0), rows_sum + r.sum(0), n + len(x)
    if learn_offset:
        gram = gram - torch.outer(codes_sum, codes_sum) / n
        cross = cross - torch.outer(codes_sum, rows_sum) / n
    if D is None:
        D = (torch.linalg.pinv(gram, hermitian=True) @ cross).to(offset.dtype)
    if learn_offset:
        offset = (offset + (rows_sum - codes_sum @ D.double()) / n).to(offset.dtype)
    return D, offset
