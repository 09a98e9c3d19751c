"""The lasso on supports that are given, one for each row."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .inputs import slices

# Gathered atoms and their Gram matrices: 32 MiB of float64.
_GATHERED = 2**22
# Duality gap, as a share of ½‖x‖², at which a row is done: a digit above the rounding
# of double precision at alpha = α_max/1000.
_TOL = 1e-11
# Rounding of correlations and objectives, as a share of their largest possible values.
_ROUNDING = 1e-14
# Atoms that a row works with at first, beside twice the number of its non-zeros.
_SPARE = 32
_MAX_ROUNDS = 1000


def minimise_on_supports(
    X: np.ndarray,
    D: np.ndarray,
    allowed: np.ndarray,
    start: np.ndarray,
    alpha: float,
    *,
    positive: bool,
) -> tuple[np.ndarray, np.ndarray]:
    r"""Minimise the lasso's objective over codes that are zero where they are not allowed.

    .. math:: \min_u \tfrac12\|x - uA\|^2 + \alpha\|u\|_1,

    where the rows of A are the atoms that the row may use. Of a large support few atoms
    matter: a row works with the most correlated ones, and with more of them until its
    duality gap on all that it may use is at most 1e-11 of ½‖x‖² (a working set, as in
    Massias, Gramfort & Salmon 2018).

    Parameters
    ----------
    X : ndarray of shape (n, n_features)
        Rows, the offset taken off.
    D : ndarray of shape (n_components, n_features)
        Atoms of any length.
    allowed : ndarray of bool of shape (n, n_components)
    start : ndarray of shape (n, n_components)
        Where to start, not written to; zero where codes are not allowed, and of the
        sign that they may have.
    alpha : float >= 0
    positive : bool
        Whether codes must not be negative.

    Returns
    -------
    codes : ndarray of shape (n, n_components)
    gap : ndarray of shape (n,)
        Duality gap of the restricted problem: the objective is at most this much above
        its minimum on the support. (At alpha 0 only a perfect fit is certified: the gap is
        then up to the whole residual.)
    """
    codes, gap = start.copy(), np.zeros(len(start))
    size = np.count_nonzero(allowed, axis=1)
    width = np.zeros_like(size)
    rows = np.flatnonzero(size)
    while True:
        residual = X[rows] - codes[rows] @ D
        correlations = np.where(allowed[rows], residual @ D.T, 0)
        gap[rows] = duality_gap(residual, codes[rows], correlations, alpha, positive)
        still = (gap[rows] > _TOL * 0.5 * (X[rows] ** 2).sum(axis=1)) & (width[rows] < size[rows])
        if not still.any():
            return codes, gap
        rows, correlations = rows[still], correlations[still]
        active = codes[rows] != 0
        width[rows] = _wider(width[rows], active.sum(axis=1), size[rows])
        order = _by_importance(correlations, active, allowed[rows], positive)
        for part, n_atoms in _alike(width[rows], D.shape[1]):
            atoms = order[part, :n_atoms]
            # padding, at most as many places again, becomes atoms of zeros
            used = np.arange(atoms.shape[1]) < width[rows[part], None]
            where = rows[part][:, None], atoms
            chunk = _ActiveSet(
                X[rows[part]], D[atoms] * used[:, :, None], codes[where], alpha, positive
            )
            codes[where] = chunk.run()


def _wider(width: np.ndarray, active: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Atoms to work with next: room for as many again, and more than last time."""
    return np.minimum(size, np.maximum(2 * active + _SPARE, 5 * width // 4))


def _by_importance(
    correlations: np.ndarray, active: np.ndarray, allowed: np.ndarray, positive: bool
) -> np.ndarray:
    """Atoms of each row: active ones, others that may be used by correlation, the rest."""
    importance = correlations if positive else np.abs(correlations)
    importance = np.where(active, np.inf, np.where(allowed, importance, -np.inf))
    return np.argsort(-importance, axis=1)


def _alike(width: np.ndarray, n_features: int) -> Iterator[tuple[np.ndarray, int]]:
    """Rows that work with about as many atoms, and the next power of two above that number."""
    powers = 2 ** np.ceil(np.log2(width)).astype(int)
    for power in np.unique(powers):
        rows = np.flatnonzero(powers == power)
        for part in slices(len(rows), max(1, _GATHERED // (power * max(power, n_features)))):
            yield rows[part], int(power)


class _ActiveSet:
    """Rows of one chunk, each with its own atoms: an exact search for the signs of its codes.

    Feature-sign search (Lee, Battle, Raina & Ng 2007, algorithm 1), all rows at once. A face
    is a set of atoms with a sign each. Newton's step finds the minimum on the face; codes
    that would change their sign on the way leave it. At the minimum, atoms that violate
    optimality join. The objective falls from face to face, so that none comes twice.
    """

    def __init__(
        self, X: np.ndarray, atoms: np.ndarray, values: np.ndarray, alpha: float, positive: bool
    ) -> None:
        self.X, self.atoms, self.values = X, atoms, values
        self.alpha, self.positive = alpha, positive
        self.gram = atoms @ atoms.swapaxes(1, 2)
        energy, longest = (X**2).sum(axis=1), np.einsum("nii->ni", self.gram).max(axis=1)
        self.enough, self.least_fall = 0.05 * _TOL * energy, _ROUNDING * energy
        self.least_violation = _ROUNDING * np.sqrt(longest * energy)
        self.signs = np.sign(values)
        self.correlations = np.zeros_like(values)
        # at the minimum on its face, and how far the objective fell in the last step
        self.settled, self.fall = ~self.signs.any(axis=1), np.zeros(len(X))

    def run(self) -> np.ndarray:
        """Codes at the minimum, of shape (n, n_atoms)."""
        values, rows = self.values.copy(), np.arange(len(self.X))
        for _ in range(_MAX_ROUNDS):
            still = ~self._look()
            values[rows] = self.values
            if not still.any():
                break
            if not still.all():
                rows = rows[still]
                self._keep(still)
            self._step()
        return values

    def _keep(self, rows: np.ndarray) -> None:
        for name, array in vars(self).items():
            if isinstance(array, np.ndarray):
                setattr(self, name, array[rows])

    def _look(self) -> np.ndarray:
        """Let atoms join the faces of rows at their minimum; rows that are done."""
        residual = self.X - (self.values[:, None] @ self.atoms)[:, 0]
        self.correlations = (self.atoms @ residual[:, :, None])[:, :, 0]
        gap = duality_gap(residual, self.values, self.correlations, self.alpha, self.positive)
        pull = self.correlations if self.positive else np.abs(self.correlations)
        violation = np.where(self.signs == 0, pull - self.alpha, 0)
        worst = violation.max(axis=1)
        # not the worst alone: rounds are dear, and what joins in vain soon leaves
        joins = violation >= 0.5 * worst[:, None]
        joins &= (self.settled & (worst > self.least_violation))[:, None]
        self.signs = np.where(joins, np.sign(self.correlations), self.signs)
        rests = self.settled & (self.fall <= self.least_fall) & ~joins.any(axis=1)
        return rests | (gap <= self.enough)

    def _step(self) -> None:
        """Newton's step on the face of every row, or as far as pays."""
        face = _first(self.signs != 0)
        row = np.arange(len(face))[:, None]
        gram = self.gram[row[:, :, None], face[:, :, None], face[:, None, :]]
        values, signs = self.values[row, face], self.signs[row, face]
        slope = self.correlations[row, face] - self.alpha * signs
        target = values + _solve(gram, slope, signs != 0)
        crosses = (signs != 0) & (target * signs <= 0)
        # the bold way drops all that cross, the careful one stops where the first is zero
        ways = np.stack([np.where(crosses, 0, target), _towards(values, target, crosses)])
        steps = ways - values
        falls = ((slope - 0.5 * (steps[:, :, None] @ gram)[:, :, 0]) * steps).sum(axis=2)
        new, fall = ways[falls.argmax(axis=0), row[:, 0]], falls.max(axis=0)
        # what joined but would leave at once does so before the others move
        vain = crosses & (values == 0)
        stuck = fall < 0  # rounding, where atoms nearly coincide
        stays = vain.any(axis=1) | stuck
        self.values[row, face] = np.where(stays[:, None], values, new)
        self.signs[row, face] = np.where(stays[:, None], np.where(vain, 0, signs), np.sign(new))
        self.settled = ~crosses.any(axis=1) | stuck | ~self.signs.any(axis=1)
        self.fall = np.where(stays, 0, fall)


def duality_gap(
    residual: np.ndarray,
    codes: np.ndarray,
    correlations: np.ndarray,
    alpha: float,
    positive: bool,
) -> np.ndarray:
    r"""How far the objective can at most be above its minimum, shape (n,).

    With the dual point θ = c·r, c the best that keeps :math:`|d_j\cdot\theta| \le \alpha`
    (one-sided for positive codes) for every atom that may be used, it is

    .. math:: \tfrac12\|r-\theta\|^2 + \sum_j(\alpha|s_j| - s_j\,d_j\cdot\theta).

    Parameters
    ----------
    residual : ndarray of shape (n, n_features)
        :math:`r = x - sD`.
    codes : ndarray of shape (n, n_atoms)
    correlations : ndarray of shape (n, n_atoms)
        :math:`d_j\cdot r`, zero for atoms that may not be used.
    alpha : float
    positive : bool
    """
    energy = (residual**2).sum(axis=1)
    agreement = (codes * correlations).sum(axis=1)
    largest = (correlations if positive else np.abs(correlations)).max(axis=1)
    best = 1 + np.divide(agreement, energy, out=np.zeros_like(energy), where=energy > 0)
    feasible = np.full_like(best, np.inf)
    np.divide(alpha, largest, out=feasible, where=largest > 0)
    c = np.minimum(np.maximum(best, 0), feasible)
    slack = alpha * np.abs(codes).sum(axis=1) - c * agreement
    return 0.5 * (1 - c) ** 2 * energy + np.maximum(slack, 0)


def _first(mask: np.ndarray) -> np.ndarray:
    """Columns of the true entries of each row, then of some false ones, all rows as long."""
    width = np.count_nonzero(mask, axis=1).max()
    return np.argsort(~mask, axis=1, kind="stable")[:, :width]


def _solve(gram: np.ndarray, slope: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Newton's direction; atoms that depend on each other are kept solvable by a damping.

    It is tiny: where atoms are independent it changes nothing, where they are not the
    direction still descends, and along it some code reaches zero.
    """
    gram = gram * (valid[:, :, None] & valid[:, None, :])
    diagonal = np.einsum("nii->ni", gram)
    size = np.maximum(diagonal.max(axis=1, keepdims=True), np.finfo(float).tiny)
    damping = np.where(valid, np.finfo(float).eps ** 0.7 * size, size)
    system = gram + damping[:, :, None] * np.eye(gram.shape[1])
    return np.linalg.solve(system, (slope * valid)[:, :, None])[:, :, 0]


def _towards(values: np.ndarray, target: np.ndarray, crosses: np.ndarray) -> np.ndarray:
    """From ``values`` to ``target`` until the first code that crosses is exactly zero."""
    ratio = np.full_like(values, np.inf)
    np.divide(values, values - target, out=ratio, where=crosses & (values != 0))
    step = np.minimum(ratio.min(axis=1, keepdims=True), 1)
    return np.where(crosses & (ratio <= step), 0.0, values + step * (target - values))
