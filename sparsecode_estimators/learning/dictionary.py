"""Dictionary learning: exact-in-the-limit alternation, annealed, with restarts."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import kernels
from ..inference import Lasso, Solution, solve, usual_alpha_max
from ..inference.fista import fista
from .atoms import ATOM_UPDATES, allowed, duplicates, initial_dictionary

# Chosen on planted data drawn from other seeds than any test uses; see benchmarks/NOTES.md.
CODE_STEPS = 10  # proximal steps a round where compiled loops do not serve
SOLVE_STEPS = 100  # most of them where there are no codes to begin with
ADDED_ATOMS = 1000  # most atoms that compiled loops add to a row
INERTIA = 0.8  # share of the last move that atoms make again before they are coded with
START_FRACTION = 0.5  # alpha starts at this share of the median alpha_max
ARRIVES = 0.8  # share of the rounds after which alpha has its value
FEW_ATOMS, RESTARTS = 128, 16  # up to so many atoms, restarts by default; one with more
# With more alpha falls to this share of its start first, in this share of the rounds, and so long
# atoms have less inertia, then none: they would go on for where a larger alpha had them go.
HALT, FIRST_LEG, LESS_INERTIA = 0.08, 0.7, 0.5
LOOK_EVERY = 10  # rounds between two searches for duplicate atoms
SETTLE = 0.2  # share of the rounds at the end in which no atom is replaced
ALL_ROWS = 0.1  # share of the rounds at the end with all rows
# Rows of other rounds for each atom, up to this share of the rounds and after; and the fewest.
HALFWAY, FEW_ROWS, ROWS, LEAST_ROWS = 0.4, 5, 10, 160
KEEP = 0.5  # share of the restarts that survives each of the stages
STAGES = (0.3, 0.6)  # where in the schedule restarts are compared


@dataclass(frozen=True)
class Rules:
    """What codes and atoms have to be, and how atoms follow the codes.

    Parameters
    ----------
    alpha : float
        The penalty in the end; on the way there it is larger.
    positive : bool
        Whether codes must not be negative.
    positive_dict : bool
        Whether atoms must not be negative.
    learn_offset : bool
    update : str
        A key of :data:`~sparsecode_estimators.learning.atoms.ATOM_UPDATES`.
    """

    alpha: float
    positive: bool = True
    positive_dict: bool = False
    learn_offset: bool = False
    update: str = "bcd"


@dataclass
class Start:
    """One restart: dictionary, offset, codes, and the objective they reach.

    ``last`` is the dictionary before the last update, None before the first; ``flops`` what
    the restart has cost.
    """

    D: Tensor
    offset: Tensor
    codes: Tensor
    loss: float = float("inf")
    last: Tensor | None = None
    flops: int = 0


def _codes(X: Tensor, D: Tensor, codes: Tensor | None, *, alpha: float, positive: bool) -> Solution:
    """The coding step of all modes: the minimiser, or a few proximal steps towards it.

    Where compiled loops serve, the minimiser costs less than five proximal steps, wherever
    they begin. No certificate: the next dictionary asks for other codes.

    Parameters
    ----------
    X : Tensor of shape (n, n_features)
        Rows, the offset already taken off.
    D : Tensor of shape (n_components, n_features)
    codes : Tensor of shape (n, n_components) or None
        Where proximal steps start; None: at zero, and there are more of them. Not
        written to.
    alpha : float
    positive : bool
    """
    if kernels.accelerated(D):
        return solve(
            X, D, alpha=alpha, positive=positive, solver="working_set",
            max_iter=ADDED_ATOMS, tol=None,
        )  # fmt: skip
    if codes is None:
        return solve(X, D, alpha=alpha, positive=positive, max_iter=SOLVE_STEPS)
    problem = Lasso(X, D, positive, alpha=alpha)
    return fista(problem, codes, max_iter=CODE_STEPS, tol=None)


def usual_restarts(n_components: int) -> int:
    """How many starts are worth their price: with many atoms one misses an atom or two."""
    return RESTARTS if n_components <= FEW_ATOMS else 1


def fresh_starts(
    X: Tensor, initial: Tensor, rules: Rules, n_init: int, generator: torch.Generator
) -> list[Start]:
    """``n_init`` restarts, the first at ``initial``, the others at random rows."""
    return [
        Start(D, X.new_zeros(X.shape[1]), X.new_zeros(len(X), len(D)))
        for D in dictionaries(X, initial, rules, n_init, generator)
    ]


def dictionaries(
    X: Tensor, initial: Tensor, rules: Rules, n_init: int, generator: torch.Generator
) -> Iterator[Tensor]:
    """Where restarts begin: the first at ``initial``, the others at random rows."""
    yield allowed(initial, initial, positive=rules.positive_dict)
    for _ in range(n_init - 1):
        yield initial_dictionary(X, len(initial), generator, positive=rules.positive_dict)


def resumed_start(X: Tensor, D: Tensor, offset: Tensor, rules: Rules) -> Start:
    """Go on from a dictionary that has been learned: its codes first, then its atoms."""
    answer = _codes(X - offset, D, None, alpha=rules.alpha, positive=rules.positive)
    return Start(D, offset, answer.codes, flops=answer.flops)


def annealing(X: Tensor, D: Tensor, rules: Rules, max_iter: int) -> list[float]:
    """alpha of every round, falling from a share of the median alpha_max.

    It has its value in the last fifth of the rounds, in which the atoms settle.
    """
    top = annealing_top(X, D, rules)
    falling = max(1, round(ARRIVES * max_iter))
    return [annealed(top, i, falling, rules, len(D)) for i in range(max_iter)]


def annealing_top(X: Tensor, D: Tensor, rules: Rules) -> float:
    """Where alpha starts: half the median alpha_max, but not below its value."""
    top = START_FRACTION * usual_alpha_max(X, D, positive=rules.positive)
    return max(top, rules.alpha)


def annealed(top: float, i: int, rounds: int, rules: Rules, n_components: int) -> float:
    """alpha of round ``i`` of ``rounds``, and of those after them that of the last.

    On a geometric path. Of many bad atoms a small alpha lets each row take a hundred, which is
    dear and teaches little: then most rounds go to a larger alpha, the others from there on.
    """
    if top <= 0 or rounds <= 1:
        return rules.alpha
    low = max(rules.alpha, 1e-6 * top)  # a geometric path cannot end at zero
    done, halt = min(1.0, i / (rounds - 1)), HALT * top
    if n_components <= FEW_ATOMS or low >= halt:
        return top * (low / top) ** done
    leg = FIRST_LEG / ARRIVES
    if done < leg:
        return top * HALT ** (done / leg)
    return halt * (low / halt) ** ((done - leg) / (1 - leg))


def check_squares(X: Tensor) -> None:
    """Refuse rows from whose squares nothing can be learned.

    Raises
    ------
    ValueError
        If their sum is not finite, or not a number that the type has all digits of.
    """
    total = X.square().sum()
    if total < torch.finfo(X.dtype).tiny and X.any():
        raise ValueError(
            f"X is too small to learn from: squares of entries up to {X.abs().max():.3g} vanish in "
            f"{X.dtype}. Multiply X by a constant, and alpha with it, or set precision='float64'."
        )
    if not total.isfinite():
        raise ValueError(
            f"X is too large to learn from: squares of entries up to {X.abs().max():.3g} overflow "
            f"{X.dtype}. Divide X by a constant, and alpha with it, or set precision='float64'."
        )


def learn_dictionary(
    X: Tensor,
    starts: list[Start],
    alphas: list[float],
    rules: Rules,
    report: Callable[[int, float], None] = lambda iteration, loss: None,
) -> tuple[Start, list[float]]:
    r"""Minimise :math:`\tfrac12\|X - b - SD\|^2 + \alpha\|S\|_1` over S, unit atoms D and b.

    Alternates codes with one update of the atoms, which go on by a share of their last
    move before they are coded with (the inertia of Pock & Sabach 2016, iPALM): several
    times fewer rounds; many atoms only until alpha comes near its value. alpha is annealed
    from half the median ``alpha_max`` down to its value: first only the strongest structure is
    fitted, which avoids most bad minima. Atoms that die or turn into duplicates are replaced by
    the worst explained row. All rounds but the last take a part of the rows, every time another,
    at first five or more for each atom, then ten: as by stochastic steps rare atoms are found more
    often, and it is faster.
    After 30 % and 60 % of the rounds the worse half of the starts is given up, and the
    lowest training objective wins.

    Parameters
    ----------
    X : Tensor of shape (n, n_features)
    starts : list of Start
        Changed in place.
    alphas : list of float
        Of every round; restarts are compared at the alpha of ``rules``.
    rules : Rules
    report : callable
        Called with the round and the best objective whenever restarts are compared.

    Returns
    -------
    best : Start
        Its ``flops`` are those of all starts.
    curve : list of float
        Objective, mean over rows, of the best start after each stage; of a single start
        only at the end.
    """
    max_iter = len(alphas)
    # a single start has no rivals: codes at the last alpha are dear while atoms are bad
    stages = STAGES if len(starts) > 1 else ()
    cuts = [0, *(round(stage * max_iter) for stage in stages), max_iter]
    curve, everyone = [], list(starts)
    for begin, end in itertools.pairwise(cuts):
        for start in starts:
            for iteration in range(begin, end):
                done = iteration / max_iter
                early = done < 1 - ALL_ROWS and iteration + 1 < max_iter
                rows = some_rows(X, start.D, iteration, done) if early else X
                replace = done < 1 - SETTLE and iteration % LOOK_EVERY == 0
                _move_on(start, rules, done)
                _round(rows, start, alphas[iteration], rules, replace=replace)
            start.loss = _look(X, start, rules)
        starts.sort(key=lambda start: start.loss)
        curve.append(starts[0].loss)
        report(end, starts[0].loss)
        starts = starts[: survivors(len(starts))]
    starts[0].flops = sum(start.flops for start in everyone)
    return starts[0], curve


def some_rows(X: Tensor, D: Tensor, iteration: int, done: float) -> Tensor:
    """The rows of one round, spread over all; others in the next.

    All of them where codes are a few steps from those of the round before.
    """
    rows = max(LEAST_ROWS, (FEW_ROWS if done < HALFWAY else ROWS) * len(D))
    parts = len(X) // rows if kernels.accelerated(D) else 1
    return X[iteration % parts :: parts] if parts > 1 else X


def survivors(n_starts: int) -> int:
    """How many restarts are kept when they are compared."""
    return max(1, round(KEEP * n_starts))


def _look(X: Tensor, start: Start, rules: Rules) -> float:
    """The mean objective of a restart."""
    values, flops = objective(X - start.offset, start.D, start.codes, rules)
    start.flops += flops
    return values.double().mean().item()


def objective(X: Tensor, D: Tensor, codes: Tensor | None, rules: Rules) -> tuple[Tensor, int]:
    """Of every row at its best codes, shape (n,), and what it took to find them.

    ``codes`` is where they are looked for.
    """
    fast = kernels.accelerated(D)  # and then as fast from zero, where no start has to be certified
    answer = solve(
        X, D, alpha=rules.alpha, positive=rules.positive, codes=None if fast else codes,
        max_iter=ADDED_ATOMS if fast else SOLVE_STEPS,
    )  # fmt: skip
    values = Lasso(X, D, rules.positive, alpha=rules.alpha).objective(answer.codes)
    return values, answer.flops + 2 * len(X) * D.numel()


def _round(X: Tensor, start: Start, alpha: float, rules: Rules, *, replace: bool) -> None:
    """Better codes, then better atoms, then a better offset; in place."""
    centred = X - start.offset
    answer = _codes(centred, start.D, start.codes, alpha=alpha, positive=rules.positive)
    start.codes = answer.codes
    start.flops += answer.flops + update_flops(start.codes, start.D, rules)
    gram = _update_atoms(centred, start, alpha, rules)
    if rules.learn_offset:
        start.offset = (X - start.codes @ start.D).mean(0)
    worthless = gram.diagonal() <= 0
    if replace:
        worthless |= duplicates(start.D, gram.diagonal())
    if worthless.any():
        _replace(X - start.offset, start, worthless, rules)


def _move_on(start: Start, rules: Rules, done: float) -> None:
    """Atoms go on by a share of their last move; ``done`` is the share of the rounds."""
    D = start.D
    inertia = INERTIA
    if len(D) > FEW_ATOMS:
        inertia = LESS_INERTIA if done < FIRST_LEG else 0.0
    if start.last is not None and inertia:
        ahead = D + inertia * (D - start.last)
        start.D = allowed(ahead, D, positive=rules.positive_dict)
    start.last = D


def _update_atoms(X: Tensor, start: Start, alpha: float, rules: Rules) -> Tensor:
    """Atoms that suit the codes, by the rule asked for; returns SᵀS."""
    update = ATOM_UPDATES[rules.update]
    if not update.from_moments:
        start.D, start.codes = update.run(
            start.D,
            start.codes,
            X,
            alpha=alpha,
            positive_code=rules.positive,
            positive=rules.positive_dict,
        )
    gram = start.codes.T @ start.codes
    if update.from_moments:
        cross = start.codes.T @ X
        start.D = update.run(start.D, gram, cross, positive=rules.positive_dict)
    return gram


def update_flops(codes: Tensor, D: Tensor, rules: Rules) -> int:
    """Of one update of the atoms, and of the offset if there is one."""
    (N, M), n = D.shape, len(codes)
    offset = 2 * n * N * M if rules.learn_offset else 0
    if not ATOM_UPDATES[rules.update].from_moments:  # residuals, each row's with its own codes
        return 2 * n * N * (M + N) + offset + 8 * int(codes.count_nonzero()) * M
    # moments of the rows; then each atom from its row of them, or all by one system
    atoms = 2 * N * N * M + (2 * N**3 // 3 if rules.update == "mod" else 0)
    return 2 * n * N * (N + M) + atoms + offset


def _replace(X: Tensor, start: Start, worthless: Tensor, rules: Rules) -> None:
    """Put the residuals of the worst explained rows in place of worthless atoms."""
    index = torch.nonzero(worthless).squeeze(1)[: len(X)]
    residual = X - start.codes @ start.D
    start.D = start.D.clone()
    start.D[index] = badly_explained(residual, start.D[index], rules)
    start.codes[:, index] = 0
    if start.last is not None:  # a jump is not a move to go on with
        start.last = start.last.index_copy(0, index, start.D[index])


def badly_explained(residual: Tensor, atoms: Tensor, rules: Rules) -> Tensor:
    """Directions of the largest residuals, one for each of ``atoms``; as before if all is 0."""
    worst = residual.square().sum(1).topk(len(atoms)).indices
    return allowed(residual[worst], atoms, positive=rules.positive_dict)
