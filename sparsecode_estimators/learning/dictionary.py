"""Dictionary learning: exact-in-the-limit alternation, annealed, with restarts."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..inference import Lasso, alpha_max, solve
from ..inference.fista import fista

# Chosen on planted data drawn from other seeds than any test uses; see benchmarks/NOTES.md.
CODE_STEPS = 5  # proximal steps on the codes between two updates of the atoms
START_FRACTION = 0.25  # alpha starts at this share of the median alpha_max
LOOK_EVERY = 10  # rounds between two searches for duplicate atoms
DUPLICATE = 0.95  # |cosine| above which two atoms are one
SETTLE = 0.2  # share of the rounds at the end in which no atom is replaced
KEEP = 0.5  # share of the restarts that survives each of the stages
STAGES = (0.3, 0.6)  # where in the schedule restarts are compared


def unit(atoms: Tensor) -> Tensor:
    """Rows of length one; zero rows stay zero."""
    return atoms / atoms.norm(dim=1, keepdim=True).clamp(min=torch.finfo(atoms.dtype).tiny)


def initial_dictionary(X: Tensor, n_components: int, generator: torch.Generator) -> Tensor:
    """Directions of random rows, a little disturbed, shape (n_components, n_features).

    Rows are taken once each while they last. The disturbance keeps atoms apart that
    come from equal rows and replaces those from zero rows.
    """
    order = torch.randperm(len(X), generator=generator)
    order = order.repeat(-(-n_components // len(X)))[:n_components]
    return disturbed(unit(X[order.to(X.device)]), generator)


def disturbed(atoms: Tensor, generator: torch.Generator) -> Tensor:
    """Unit atoms with noise of length about 0.3, which keeps equal ones apart."""
    noise = torch.randn(atoms.shape, generator=generator) / atoms.shape[1] ** 0.5
    return unit(atoms + 0.3 * noise.to(atoms))


@dataclass
class Start:
    """One restart: dictionary, offset, codes, and the objective they reach."""

    D: Tensor
    offset: Tensor
    codes: Tensor
    loss: float = float("inf")


def learn_dictionary(
    X: Tensor,
    initial: Tensor,
    *,
    alpha: float,
    positive: bool,
    learn_offset: bool,
    n_init: int,
    max_iter: int,
    generator: torch.Generator,
    report: Callable[[int, float], None] = lambda iteration, loss: None,
) -> tuple[Start, list[float]]:
    r"""Minimise :math:`\tfrac12\|X - b - SD\|^2 + \alpha\|S\|_1` over S, unit atoms D and b.

    Alternates a few accelerated proximal steps on all codes, warm-started, with one
    pass of block-coordinate updates over the atoms (Mairal et al. 2010, alg. 2). alpha
    is annealed geometrically from a quarter of the median ``alpha_max`` down to its
    value: first only the strongest structure is fitted, which avoids most bad minima.
    Atoms that die or turn into duplicates are replaced by the worst explained row.
    ``n_init`` starts run; after 30 % and 60 % of the rounds the worse half is given
    up, and the lowest training objective wins.

    Parameters
    ----------
    X : Tensor of shape (n, n_features)
    initial : Tensor of shape (n_components, n_features)
        Where the first start begins; the others begin at random rows.
    alpha : float
    positive, learn_offset : bool
    n_init : int
    max_iter : int
        Rounds.
    generator : torch.Generator
    report : callable
        Called with the round and the best objective whenever restarts are compared.

    Returns
    -------
    best : Start
    curve : list of float
        Objective, mean over rows, of the best start after each stage.
    """
    n_components = len(initial)
    schedule = _annealing(X, initial, alpha, positive, max_iter)
    others = (initial_dictionary(X, n_components, generator) for _ in range(n_init - 1))
    starts = [
        Start(D, X.new_zeros(X.shape[1]), X.new_zeros(len(X), n_components))
        for D in (unit(initial), *others)
    ]
    cuts = [0, *(round(stage * max_iter) for stage in STAGES), max_iter]
    curve = []
    for begin, end in itertools.pairwise(cuts):
        for start in starts:
            for iteration in range(begin, end):
                replace = iteration % LOOK_EVERY == 0 and iteration < (1 - SETTLE) * max_iter
                _round(X, start, schedule[iteration], positive, learn_offset, replace=replace)
            start.loss = _objective(X, start, alpha, positive)
        starts.sort(key=lambda start: start.loss)
        curve.append(starts[0].loss)
        report(end, starts[0].loss)
        starts = starts[: max(1, round(KEEP * len(starts)))]
    return starts[0], curve


def _annealing(X: Tensor, D: Tensor, alpha: float, positive: bool, max_iter: int) -> list[float]:
    """alpha of every round, geometrically from a share of the median alpha_max."""
    top = START_FRACTION * alpha_max(X, D, positive=positive).median().item()
    top = max(top, alpha)
    if top <= 0:
        return [alpha] * max_iter
    low = max(alpha, 1e-6 * top)  # a geometric path cannot end at zero
    return [top * (low / top) ** (i / max(1, max_iter - 1)) for i in range(max_iter)]


def _objective(X: Tensor, start: Start, alpha: float, positive: bool) -> float:
    answer = solve(
        X - start.offset, start.D, alpha=alpha, positive=positive, codes=start.codes, max_iter=100
    )
    return (answer.residual + alpha * answer.codes.abs().sum(1)).double().mean().item()


def _round(
    X: Tensor, start: Start, alpha: float, positive: bool, learn_offset: bool, *, replace: bool
) -> None:
    """Better codes, then better atoms, then a better offset; in place."""
    centred = X - start.offset
    problem = Lasso(centred, start.D, positive, alpha=alpha)
    start.codes = fista(problem, start.codes, max_iter=CODE_STEPS, tol=None).codes
    gram = start.codes.T @ start.codes
    start.D = update_atoms(start.D, gram, start.codes.T @ centred)
    if learn_offset:
        start.offset = (X - start.codes @ start.D).mean(0)
    worthless = gram.diagonal() <= 0
    if replace:
        worthless |= _duplicates(start.D, gram.diagonal())
    if worthless.any():
        _replace(X - start.offset, start, worthless)


def update_atoms(D: Tensor, gram: Tensor, cross: Tensor) -> Tensor:
    r"""One pass of block-coordinate descent over unit atoms.

    With ``gram`` = SᵀS and ``cross`` = SᵀX, each atom in turn moves to its minimiser
    :math:`d_j + (\text{cross}_j - \text{gram}_j D)/\text{gram}_{jj}`, on the sphere
    (Mairal et al. 2010, alg. 2, with the sphere in place of the ball, so that no code
    can shrink for free). Atoms that no code uses stay.
    """
    D = D.clone()
    used = torch.nonzero(gram.diagonal() > 0).squeeze(1).tolist()
    for j in used:
        # the diagonal weighs an atom against the pull of the others; its sign is positive
        atom = torch.addmv(cross[j] + gram[j, j] * D[j], D.T, gram[j], alpha=-1)
        norm = atom.norm()
        D[j] = torch.where(norm > 0, atom / norm, D[j])
    return D


def _duplicates(D: Tensor, energy: Tensor) -> Tensor:
    """Atoms that nearly coincide with one that more energy goes through."""
    close = (D @ D.T).abs() > DUPLICATE
    rank = energy.argsort().argsort()
    return (close & (rank[:, None] < rank[None, :])).any(1)


def _replace(X: Tensor, start: Start, worthless: Tensor) -> None:
    """Put the residuals of the worst explained rows in place of worthless atoms."""
    index = torch.nonzero(worthless).squeeze(1)[: len(X)]
    residual = X - start.codes @ start.D
    worst = residual.square().sum(1).topk(len(index))
    fresh = unit(residual[worst.indices])
    start.D[index] = torch.where(worst.values[:, None] > 0, fresh, start.D[index])
    start.codes[:, index] = 0


def least_squares_dictionary(batches: Iterable[tuple[Tensor, Tensor]], offset: Tensor) -> Tensor:
    """The D that minimises ``‖X − b − SD‖²`` for known codes S, from one pass.

    Atoms that no code uses, or that the codes cannot tell apart, get the solution of
    least norm. The atoms are not scaled to unit norm: the scale of S is given.

    Parameters
    ----------
    batches : iterable of (X, S), Tensors of shape (n_i, n_features), (n_i, n_components)
    offset : Tensor of shape (n_features,)
    """
    gram: Tensor | float = 0.0
    cross: Tensor | float = 0.0
    for x, codes in batches:
        s, r = codes.double(), (x - offset).double()
        gram, cross = gram + s.T @ s, cross + s.T @ r
    assert isinstance(gram, Tensor)
    assert isinstance(cross, Tensor)
    return (torch.linalg.pinv(gram, hermitian=True) @ cross).to(offset.dtype)
