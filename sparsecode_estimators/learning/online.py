"""Dictionary learning from batches: what is kept does not grow with the number of rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..inference import Lasso
from .atoms import ATOM_UPDATES, duplicates
from .batches import Rows, epoch
from .dictionary import (
    LOOK_EVERY,
    SETTLE,
    STAGES,
    Rules,
    _codes,
    annealed,
    annealing_top,
    badly_explained,
    check_squares,
    dictionaries,
    objective,
    survivors,
    update_flops,
)

# Chosen on planted data drawn from other seeds than any test uses; see benchmarks/NOTES.md.
FORGET = 2.0  # the weight of a row falls as this power of the rows seen since
ANNEAL_STEPS = 300  # updates of the atoms over which alpha falls
DEAD = 1e-3  # share of the mean energy of codes below which an atom counts as unused
SETTLED = 1e-3  # a pass that lowers the objective by a smaller share is the last


@dataclass
class Moments:
    r"""Weighted means over the rows seen so far, all that an update of the atoms needs.

    The sufficient statistics :math:`A = \sum_i w_i s_i^\top s_i` and
    :math:`B = \sum_i w_i s_i^\top x_i` of Mairal et al. (2010), divided by
    :math:`\sum_i w_i`, with the first moments that the offset needs and the objective.

    Attributes
    ----------
    gram : Tensor of shape (n_components, n_components)
    cross : Tensor of shape (n_components, n_features)
        Of codes with rows, the offset not taken off.
    codes : Tensor of shape (n_components,)
    rows : Tensor of shape (n_features,)
    loss : float
        Objective of the rows, each at the dictionary before it was learned from: held out.
    weight : float
        Of all rows together.
    """

    gram: Tensor
    cross: Tensor
    codes: Tensor
    rows: Tensor
    loss: float = 0.0
    weight: float = 0.0

    @classmethod
    def empty(cls, D: Tensor) -> Moments:
        n_components, n_features = D.shape
        return cls(
            gram=D.new_zeros(n_components, n_components),
            cross=D.new_zeros(n_components, n_features),
            codes=D.new_zeros(n_components),
            rows=D.new_zeros(n_features),
        )

    @classmethod
    def remembering(
        cls, D: Tensor, offset: Tensor, energy: Tensor, loss: float, weight: float
    ) -> Moments:
        """Stand-in for rows that are gone: they pull every atom to where it is.

        Mairal et al. (2010), section 3.4: A = diag(energy), B = A D.
        """
        return cls(
            gram=energy.diag(),
            cross=energy[:, None] * D,
            codes=torch.zeros_like(energy),
            rows=offset.clone(),
            loss=loss,
            weight=weight,
        )

    def add(self, x: Tensor, codes: Tensor, losses: Tensor, keep: float) -> None:
        """Take in a batch; what was known before counts ``keep`` times."""
        self.weight = keep * self.weight + len(x)
        share = len(x) / self.weight
        self.gram = self.gram + share * (codes.T @ codes / len(x) - self.gram)
        self.cross = self.cross + share * (codes.T @ x / len(x) - self.cross)
        self.codes = self.codes + share * (codes.mean(0) - self.codes)
        self.rows = self.rows + share * (x.mean(0) - self.rows)
        self.loss += share * (losses.double().mean().item() - self.loss)

    def centred_cross(self, offset: Tensor) -> Tensor:
        """``cross`` of the rows less an offset."""
        return self.cross - torch.outer(self.codes, offset)

    def drop(self, atoms: Tensor) -> None:
        """Forget that some atoms were ever used."""
        self.gram[atoms] = 0
        self.gram[:, atoms] = 0
        self.cross[atoms] = 0
        self.codes[atoms] = 0


@dataclass
class OnlineStart:
    """One restart: its dictionary, its offset, and what it remembers of the rows."""

    D: Tensor
    offset: Tensor
    moments: Moments


@dataclass
class Online:
    """Dictionary learning that can stop and go on: restarts side by side, and the schedule.

    Every restart sees every batch and keeps moments of its own. When 30 %, 60 % and all
    of the schedule are over, the worse half is given up, at last all but one, by the
    mean objective of rows at the dictionary before it was learned from them.

    Attributes
    ----------
    starts : list of OnlineStart
        The best first.
    top : float
        Where alpha starts.
    steps, rows : int
        Batches and rows seen.
    anneal_steps : int
        Batches until alpha has arrived.
    flops : int
        What all restarts have cost in this run.
    """

    starts: list[OnlineStart]
    top: float
    steps: int = 0
    rows: int = 0
    anneal_steps: int = ANNEAL_STEPS
    flops: int = 0

    @property
    def best(self) -> OnlineStart:
        return self.starts[0]

    @property
    def arrived(self) -> bool:
        """Whether alpha has its value and one restart is left."""
        return self.steps >= self.anneal_steps

    def learn(self, x: Tensor, rules: Rules, memory: float = math.inf) -> None:
        r"""Take in a batch: code it, remember it, update the atoms once.

        Before, all moments are multiplied by :math:`(T/(T+n))^2`, n being the size of the
        batch and T the number of rows seen, at most ``memory``. So a row that was seen
        when there were t weighs :math:`(t/T)^2`, in however many batches the rest came.

        Parameters
        ----------
        x : Tensor of shape (n, n_features)
        rules : Rules
        memory : float
            Rows to which the past is limited: those of one pass, where they come again.
        """
        check_squares(x)
        past = min(self.rows, memory)
        keep = (past / (past + len(x))) ** FORGET
        alpha = annealed(self.top, self.steps, self.anneal_steps, rules, len(self.best.D))
        look = self.steps % LOOK_EVERY == LOOK_EVERY - 1
        settling = self.steps >= (1 - SETTLE) * self.anneal_steps
        for start in self.starts:
            residual, flops = _step(x, start, alpha, keep, rules)
            self.flops += flops
            if look:
                _replace(residual, start, rules, also_duplicates=not settling)
        self.steps += 1
        self.rows += len(x)
        self._compare()

    def _compare(self) -> None:
        self.starts.sort(key=lambda start: start.moments.loss)
        if self.steps in [round(stage * self.anneal_steps) for stage in STAGES]:
            self.starts = self.starts[: survivors(len(self.starts))]
        elif self.arrived:
            self.starts = self.starts[:1]


def begin(
    X: Tensor,
    initial: Tensor,
    offset: Tensor,
    rules: Rules,
    n_init: int,
    generator: torch.Generator,
) -> Online:
    """Restarts before any row is learned from, the first at ``initial``.

    Parameters
    ----------
    X : Tensor of shape (n, n_features)
        Rows less ``offset``, from which the other restarts and alpha begin.
    initial : Tensor of shape (n_components, n_features)
    offset : Tensor of shape (n_features,)
    rules : Rules
    n_init : int
    generator : torch.Generator
    """
    starts = [
        OnlineStart(D, offset.clone(), Moments.empty(D))
        for D in dictionaries(X, initial, rules, n_init, generator)
    ]
    return Online(starts, top=annealing_top(X, starts[0].D, rules))


def carry_on(D: Tensor, offset: Tensor, energy: Tensor, loss: float, rows: int) -> Online:
    """Go on from a dictionary whose rows are gone; ``energy`` is the mean of their s².

    alpha has arrived, and the dictionary weighs as much as its rows did.
    """
    moments = Moments.remembering(D, offset, energy, loss, float(rows))
    return Online([OnlineStart(D, offset, moments)], top=0.0, rows=rows, anneal_steps=0)


def learn_in_passes(
    online: Online,
    X: Rows,
    rules: Rules,
    *,
    batch_size: int,
    max_iter: int,
    generator: torch.Generator,
    report: Callable[[int, float], None],
) -> list[float]:
    """Read X batch by batch, at most ``max_iter`` times, in another order each time.

    Ends early when alpha has arrived and a pass lowers the mean objective of its rows by
    less than a thousandth.

    Returns
    -------
    curve : list of float
        The best restart's objective after each pass.
    """
    curve: list[float] = []
    for iteration in range(1, max_iter + 1):
        whole_pass_at_end = online.arrived
        for (x,) in epoch((X,), batch_size, generator, shuffle=True):
            online.learn(x, rules, memory=len(X))
        curve.append(online.best.moments.loss)
        report(iteration, curve[-1])
        if whole_pass_at_end and len(curve) > 1 and curve[-1] > (1 - SETTLED) * curve[-2]:
            break
    return curve


def mean_objective(batches: Iterable[Tensor], online: Online, rules: Rules) -> float:
    """Objective of rows at their best codes, batch by batch, by the best restart."""
    start, total, n = online.best, 0.0, 0
    for x in batches:
        values, flops = objective(x - start.offset, start.D, None, rules)
        online.flops += flops
        total += values.double().sum().item()
        n += len(x)
    return total / n


def _step(
    x: Tensor, start: OnlineStart, alpha: float, keep: float, rules: Rules
) -> tuple[Tensor, int]:
    """Codes, moments, atoms, offset; returns what the codes leave of the rows, and flops."""
    centred = x - start.offset
    answer = _codes(centred, start.D, None, alpha=alpha, positive=rules.positive)
    codes = answer.codes
    flops = answer.flops + update_flops(codes, start.D, rules)
    flops += 4 * len(x) * start.D.numel()  # of the residual, and the objective
    problem = Lasso(centred, start.D, rules.positive, alpha=alpha)
    residual = problem.residual(codes)
    moments = start.moments
    moments.add(x, codes, problem.objective(codes), keep)
    cross = moments.centred_cross(start.offset)
    update = ATOM_UPDATES[rules.update].run
    start.D = update(start.D, moments.gram, cross, positive=rules.positive_dict)
    if rules.learn_offset:
        start.offset = moments.rows - moments.codes @ start.D
    return residual, flops


def _replace(residual: Tensor, start: OnlineStart, rules: Rules, *, also_duplicates: bool) -> None:
    """Badly explained rows of the batch in place of atoms that nothing goes through."""
    energy = start.moments.gram.diagonal()
    worthless = energy <= DEAD * energy.mean()
    if also_duplicates:
        worthless |= duplicates(start.D, energy)
    index = torch.nonzero(worthless).squeeze(1)[: len(residual)]
    if len(index):
        start.D = start.D.clone()
        start.D[index] = badly_explained(residual, start.D[index], rules)
        start.moments.drop(index)
