"""How many active atoms a dictionary is sure to allow, and by which theorem."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .coherence import babel_function, mutual_coherence, recovery_values
from .inputs import all_supports, few_enough, unit_atoms
from .isometry import restricted_isometry, spark

SHARP = 1 / math.sqrt(2)  # bound on δ_2K
ROUNDING = 1e-9  # conditions are strict: a value so near to its bound counts as equal


class RecoveryGuarantee(NamedTuple):
    """The largest number of active atoms that theorems allow.

    Attributes
    ----------
    n_nonzero_coefs : int
        Every code with at most so many non-zeros is found from its row.
    theorem : str
        By which: the first key of ``by_theorem`` with the largest number.
    by_theorem : dict of int
        The same by each theorem: "coherence", "babel", "exact recovery" and "isometry". The
        last two try all sets of K, or 2K, atoms: they end where there are more than 200,000 of
        them, and are left out where this is so for pairs.
    unique : int
        A code with at most so many non-zeros is the sparsest one for its row, so that
        exhaustive search finds it: ``n_nonzero_coefs``, or more if the spark says so.

    See Also
    --------
    recovery_guarantee : Makes it.

    Examples
    --------
    >>> import numpy as np
    >>> from sparsecode_estimators.theory import recovery_guarantee
    >>> guarantee = recovery_guarantee(np.eye(3))
    >>> guarantee.n_nonzero_coefs, guarantee.theorem, guarantee.unique
    (3, 'coherence', 3)
    """

    n_nonzero_coefs: int
    theorem: str
    by_theorem: dict[str, int]
    unique: int


def recovery_guarantee(dictionary: Any, *, positive: bool = False) -> RecoveryGuarantee:
    r"""Largest number K of active atoms that is guaranteed to be found, and by which theorem.

    For rows without noise, every support and every value, by

    - "coherence": :math:`K < \tfrac12(1 + 1/\mu)`;
    - "babel": :math:`\mu_1(K-1) + \mu_1(K) < 1`, which is never worse;
    - "exact recovery": :func:`exact_recovery_condition` below 1 for all sets of K atoms,
      which is never worse than either;
    - "isometry": :math:`\delta_{2K} < 1/\sqrt2`, the sharp form of
      :math:`\delta_{2K} < \sqrt2 - 1`.

    The first three hold for basis pursuit (the lasso as alpha goes to 0) and for orthogonal
    matching pursuit, the fourth for basis pursuit. With ``positive`` "exact recovery" is the
    one-sided condition, and holds for non-negative basis pursuit only.

    They are worst cases: typical codes are found far beyond, see :func:`phase_transition`.

    Parameters
    ----------
    dictionary : array-like of shape (n_components, n_features)
        Atoms of any length.
    positive : bool, default=False
        Whether codes are known not to be negative.

    Returns
    -------
    RecoveryGuarantee
        ``(n_nonzero_coefs, theorem, by_theorem, unique)``. 0 if two atoms are parallel: then
        not even one active atom can be told.

    Raises
    ------
    ValueError
        If the dictionary is not a finite matrix, or has an atom of zeros.

    See Also
    --------
    phase_transition : What random dictionaries reach.
    spark : Up to where codes are unique.

    References
    ----------
    Donoho & Elad (2003), theorem 7, and Gribonval & Nielsen (2003) (coherence); Tropp (2004),
    "Greed is good", theorems 3.1, 3.3 and 3.5; Candès (2008), "The restricted isometry
    property and its implications for compressed sensing", and Cai & Zhang (2014), "Sparse
    representation of a polytope and recovery of sparse signals and low-rank matrices",
    theorem 1.1 (isometry).

    Examples
    --------
    >>> import numpy as np
    >>> from sparsecode_estimators.theory import recovery_guarantee
    >>> hadamard = np.array([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]) / 2
    >>> guarantee = recovery_guarantee(np.vstack([np.eye(4), hadamard]))
    >>> guarantee.n_nonzero_coefs, guarantee.theorem, guarantee.unique
    (1, 'coherence', 1)
    >>> guarantee.by_theorem
    {'coherence': 1, 'babel': 1, 'exact recovery': 1, 'isometry': 1}
    """
    D = unit_atoms(dictionary)
    N = len(D)
    # larger supports are dependent, and codes not even unique
    most = min(D.shape)
    babel = babel_function(D, max_size=N)
    by_theorem = {
        "coherence": _by_coherence(mutual_coherence(D), most),
        "babel": _largest(lambda k: bool(babel[k - 1] + babel[k] < 1 - ROUNDING), most),
    }
    if few_enough(N, min(2, N)):
        by_theorem["exact recovery"] = _largest(
            lambda k: few_enough(N, k) and _all_recovered(D, k, positive=positive),
            most,
            at_least=by_theorem["babel"],
        )
        by_theorem["isometry"] = _largest(lambda k: _is_isometric(D, min(2 * k, N)), most)
    best = max(by_theorem.values())
    theorem = next(name for name, k in by_theorem.items() if k == best)
    return RecoveryGuarantee(best, theorem, by_theorem, max(best, _unique(D)))


def _largest(holds: Callable[[int], bool], most: int, at_least: int = 0) -> int:
    """The last K before one for which it does not hold."""
    k = at_least
    while k < most and holds(k + 1):
        k += 1
    return k


def _by_coherence(coherence: float, most: int) -> int:
    """The largest integer below ``(1 + 1/μ)/2``."""
    if coherence == 0:
        return most
    bound = (1 + 1 / coherence) / 2 - ROUNDING
    return min(most, math.ceil(bound) - 1)


def _all_recovered(D: np.ndarray, k: int, *, positive: bool) -> bool:
    numbers = k * max(D.shape)
    return all(
        (recovery_values(D, supports, positive=positive) < 1 - ROUNDING).all()
        for supports in all_supports(len(D), k, numbers)
    )


def _is_isometric(D: np.ndarray, size: int) -> bool:
    return few_enough(len(D), size) and restricted_isometry(D, size).upper < SHARP - ROUNDING


def _unique(D: np.ndarray) -> int:
    """The largest K below half the spark, or below a bound on it where that is too dear."""
    if np.linalg.matrix_rank(D) == len(D):
        return len(D)
    if all(few_enough(len(D), k) for k in range(1, min(D.shape) + 1)):
        return math.ceil(spark(D) / 2) - 1
    return 0
