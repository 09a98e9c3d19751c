"""How far a few atoms are from orthogonal or dependent: isometry constants and spark."""

from __future__ import annotations

import itertools
import math
from typing import Any, NamedTuple

import numpy as np
from sklearn.utils import check_random_state

from .coherence import babel_function
from .inputs import MOST_SUPPORTS, all_supports, as_size, few_enough, unit_atoms

_MAX_ITER = 100  # of a power iteration that is cut to k entries; tens are usual
_NEWCOMERS = 64  # atoms that are tried in place of each atom of a set


class RestrictedIsometry(NamedTuple):
    """What is known about an isometry constant.

    Attributes
    ----------
    lower : float
        The constant is at least this: ``support`` proves it.
    upper : float
        The constant is at most this. Equal to ``lower`` where all sets have been tried.
    support : ndarray of shape (k,)
        Atoms whose Gram matrix is that far from the identity.

    See Also
    --------
    restricted_isometry : Makes it.

    Examples
    --------
    >>> from sparsecode_estimators.theory import restricted_isometry
    >>> bounds = restricted_isometry([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]], 2)
    >>> round(bounds.lower, 3), round(bounds.upper, 3), bounds.support.tolist()
    (0.8, 0.8, [1, 2])
    """

    lower: float
    upper: float
    support: np.ndarray


def restricted_isometry(
    dictionary: Any, k: int, *, n_starts: int = 200, random_state: Any = None
) -> RestrictedIsometry:
    r"""Bounds on the restricted isometry constant of order k, exact for small dictionaries.

    The constant is the smallest δ with

    .. math:: (1-\delta)\|s\|^2 \le \|sD\|^2 \le (1+\delta)\|s\|^2

    for all codes s with at most k non-zeros, unit atoms taken:
    :math:`\delta_k = \max_{|\Lambda|=k} \|G_\Lambda - I\|_2` with the Gram matrix
    :math:`G_\Lambda` of a set of atoms.

    Where there are at most 200,000 sets of k atoms, all are tried. Elsewhere nothing better
    than bounds is known (the problem is NP-hard; Bandeira et al. 2013). The lower one is
    searched for: power iterations, cut to their k largest entries in each step, for the
    largest and the smallest eigenvalue, and atoms of the best set are exchanged one by one as
    long as that helps. The upper one is the smaller of :math:`\mu_1(k-1)`, by Gershgorin, and
    :math:`\|G - I\|_2`, of which every :math:`G_\Lambda - I` is a part.

    Parameters
    ----------
    dictionary : array-like of shape (n_components, n_features)
        Atoms of any length, brought to unit length.
    k : int
        From 1 to n_components.
    n_starts : int, default=200
        Starts of the search: atoms with those most like them, at random.
    random_state : int, RandomState or None, default=None
        Which atoms these are, if there are more.

    Returns
    -------
    RestrictedIsometry
        ``(lower, upper, support)``.

    Raises
    ------
    ValueError
        If the dictionary is not a finite matrix or has an atom of zeros, or a number is out of
        range.

    See Also
    --------
    mutual_coherence : A bound that takes no search.
    recovery_guarantee : What follows from it.

    References
    ----------
    Candès & Tao (2005), "Decoding by linear programming", definition 1.1; Tropp (2004),
    "Greed is good", section 2.4 (the bound by the Babel function); Yuan & Zhang (2013),
    "Truncated power method for sparse eigenvalue problems" (the search).

    Examples
    --------
    >>> import numpy as np
    >>> from sparsecode_estimators.theory import restricted_isometry
    >>> bounds = restricted_isometry([[1.0, 0.0], [0.0, 2.0], [3.0, 4.0]], 2)
    >>> round(bounds.lower, 3), round(bounds.upper, 3), bounds.support
    (0.8, 0.8, array([1, 2]))
    """
    D = unit_atoms(dictionary)
    k = as_size(k, len(D), "k")
    n_starts = as_size(min(n_starts, len(D)), len(D), "n_starts")
    gram = D @ D.T
    np.fill_diagonal(gram, 1)
    if few_enough(len(D), k):
        lower, support = _largest(gram, all_supports(len(D), k, k * k))
        return RestrictedIsometry(lower, lower, support)
    first = check_random_state(random_state).permutation(len(D))[:n_starts]
    whole = np.linalg.eigvalsh(gram)
    lower, support = _search(gram, k, first, largest=whole[-1])
    upper = min(babel_function(D, max_size=k)[k - 1], max(whole[-1] - 1, 1 - whole[0]))
    return RestrictedIsometry(lower, max(lower, float(upper)), support)


def _distance(gram: np.ndarray, supports: np.ndarray) -> np.ndarray:
    """``‖G_Λ − I‖₂`` of sets of atoms, shape (n,)."""
    parts = gram[supports[:, :, None], supports[:, None, :]]
    eigenvalues = np.linalg.eigvalsh(parts)
    return np.maximum(eigenvalues[:, -1] - 1, 1 - eigenvalues[:, 0])


def _largest(gram: np.ndarray, blocks: Any) -> tuple[float, np.ndarray]:
    """The largest distance of all sets in some blocks, and whose it is."""
    best, winner = -np.inf, np.empty(0, dtype=np.int64)
    for supports in blocks:
        distance = _distance(gram, supports)
        place = int(distance.argmax())
        if distance[place] > best:
            best, winner = float(distance[place]), supports[place]
    return best, winner


def _search(
    gram: np.ndarray, k: int, first: np.ndarray, *, largest: float
) -> tuple[float, np.ndarray]:
    """A set that no exchange of one atom for a promising one improves."""
    blocks = [
        np.sort(_power_supports(matrix, k, first), axis=1)
        for matrix in (gram, largest * np.eye(len(gram)) - gram)
    ]
    best, support = _largest(gram, blocks)
    while True:
        trial, exchanged = _largest(gram, _exchanges(gram, support))
        if trial <= best:
            return best, support
        best, support = trial, np.sort(exchanged)


def _power_supports(matrix: np.ndarray, k: int, first: np.ndarray) -> np.ndarray:
    """Sets of k atoms on which a non-negative matrix is large, one for each start."""
    rows = np.arange(len(first))[:, None]
    codes = matrix[first]
    supports = np.empty((len(first), k), dtype=np.int64)
    for _ in range(_MAX_ITER):
        before = supports
        supports = np.sort(np.argpartition(-np.abs(codes), k - 1, axis=1)[:, :k], axis=1)
        if (supports == before).all():
            break
        kept = np.zeros_like(codes)
        kept[rows, supports] = codes[rows, supports]
        codes = kept @ matrix
        codes /= np.abs(codes).max(axis=1, keepdims=True)
    return supports


def _exchanges(gram: np.ndarray, support: np.ndarray) -> Any:
    """Sets that differ from one in one atom, those without the same atom in a block.

    With v the eigenvector of the eigenvalue furthest from 1, an atom moves that eigenvalue
    the more, the larger its products with the atoms of the set are in the direction of v.
    """
    values, vectors = np.linalg.eigh(gram[np.ix_(support, support)])
    pull = np.abs(gram[:, support] @ vectors[:, np.argmax(np.abs(values - 1))])
    pull[support] = -1
    newcomers = np.argsort(-pull)[: min(_NEWCOMERS, len(gram) - len(support))]
    for place in range(len(support) if len(newcomers) else 0):
        block = np.tile(support, (len(newcomers), 1))
        block[:, place] = newcomers
        yield block


def spark(dictionary: Any, *, tol: float = 1e-10) -> float:
    """Smallest number of atoms that are linearly dependent, by trying all sets.

    A code with fewer than ``spark/2`` non-zeros is the only one so sparse for its row: two of
    them would differ by a code in the null space. That says what could be found, by
    exhaustive search, not what a method finds.

    Parameters
    ----------
    dictionary : array-like of shape (n_components, n_features)
        Atoms of any length.
    tol : float, default=1e-10
        Atoms count as dependent if the smallest singular value of the set, of unit atoms, is
        at most this share of the largest.

    Returns
    -------
    int or inf
        At most the rank plus one; infinite if all atoms are independent.

    Raises
    ------
    ValueError
        If there are more than 200,000 sets to be tried, the dictionary is not a finite matrix
        or has an atom of zeros.

    See Also
    --------
    recovery_guarantee : What follows from it, and from other numbers.

    References
    ----------
    Donoho & Elad (2003), "Optimally sparse representation in general (nonorthogonal)
    dictionaries via l1 minimization", theorem 2 and corollary 3.

    Examples
    --------
    >>> from sparsecode_estimators.theory import spark
    >>> spark([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    3
    """
    D = unit_atoms(dictionary)
    singular = np.linalg.svd(D, compute_uv=False)
    rank = int((singular > tol * singular[0]).sum())
    if rank == len(D):
        return math.inf
    if not _any_dependent(D, rank, tol):  # then no smaller set is, either
        return rank + 1
    return next(k for k in itertools.count(2) if _any_dependent(D, k, tol))


def _any_dependent(D: np.ndarray, size: int, tol: float) -> bool:
    if not few_enough(len(D), size):
        raise ValueError(
            f"dictionary has {math.comb(len(D), size):,} sets of {size} of its {len(D)} atoms, and "
            f"spark tries at most {MOST_SUPPORTS:,}: take a smaller dictionary, or bound it from "
            "below by 1 + 1/mutual_coherence(dictionary)."
        )
    for supports in all_supports(len(D), size, size * D.shape[1]):
        singular = np.linalg.svd(D[supports], compute_uv=False)
        if (singular[:, -1] <= tol * singular[:, 0]).any():
            return True
    return False
