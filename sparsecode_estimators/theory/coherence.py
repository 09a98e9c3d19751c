"""How alike atoms are, and what that guarantees for a set of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from .inputs import BLOCK, as_size, unit_atoms


def mutual_coherence(dictionary: Any) -> float:
    r"""Largest absolute cosine of two atoms, :math:`\mu = \max_{i\ne j}|d_i\cdot d_j|`.

    Parameters
    ----------
    dictionary : array-like of shape (n_components, n_features)
        Its rows are the atoms, of any length.

    Returns
    -------
    float
        From 0 (orthogonal atoms) to 1 (two of them parallel). At least
        :math:`\sqrt{(N-M)/(M(N-1))}` for N atoms in M < N dimensions (Welch 1974).

    Raises
    ------
    ValueError
        If the dictionary is not a finite matrix, or has an atom of zeros.

    See Also
    --------
    babel_function : The same for groups of atoms.
    recovery_guarantee : What follows from it.

    References
    ----------
    Donoho & Huo (2001), "Uncertainty principles and ideal atomic decomposition".

    Examples
    --------
    >>> from sparsecode_estimators.theory import mutual_coherence
    >>> mutual_coherence([[1.0, 0.0], [0.0, 2.0], [3.0, 4.0]])
    0.8
    """
    D = unit_atoms(dictionary)
    return float(max(cosines.max() for cosines in _cosines(D)))


def babel_function(dictionary: Any, *, max_size: int | None = None) -> np.ndarray:
    r"""How much of an atom a number of other atoms can have in common, in the worst case.

    .. math:: \mu_1(m) = \max_{|\Lambda| = m}\ \max_{i\notin\Lambda}
              \sum_{j\in\Lambda} |d_i\cdot d_j|

    Parameters
    ----------
    dictionary : array-like of shape (n_components, n_features)
        Atoms of any length.
    max_size : int or None, default=None
        Largest m, at most the number of atoms; None: all that there can be.

    Returns
    -------
    ndarray of shape (max_size + 1,)
        :math:`\mu_1(0) = 0`, :math:`\mu_1(1) = \mu` and so on, never more than
        :math:`m\mu`. Beyond ``n_components − 1``, where there are no more atoms, it stays.

    Raises
    ------
    ValueError
        If the dictionary is not a finite matrix or has an atom of zeros, or `max_size` is out
        of range.

    See Also
    --------
    mutual_coherence : Its value at one.
    recovery_guarantee : What follows from it.

    References
    ----------
    Tropp (2004), "Greed is good: algorithmic results for sparse approximation", section 2.4.

    Examples
    --------
    >>> from sparsecode_estimators.theory import babel_function
    >>> babel_function([[1.0, 0.0], [0.0, 2.0], [3.0, 4.0]])
    array([0. , 0.8, 1.4])
    """
    D = unit_atoms(dictionary)
    last = len(D) - 1 if max_size is None else as_size(max_size, len(D), "max_size")
    babel = np.zeros(last + 1)
    for cosines in _cosines(D):
        largest = -np.sort(-cosines, axis=1)[:, :last]  # an atom's own place holds a zero
        np.maximum(babel[1:], np.cumsum(largest, axis=1).max(axis=0), out=babel[1:])
    return babel


def _cosines(D: np.ndarray) -> Any:
    """Absolute cosines of atoms with all others, a block of rows at a time."""
    step = max(1, BLOCK // len(D))
    for start in range(0, len(D), step):
        cosines = np.minimum(np.abs(D[start : start + step] @ D.T), 1)
        rows = np.arange(len(cosines))
        cosines[rows, start + rows] = 0
        yield cosines


def exact_recovery_condition(
    dictionary: Any, supports: Any, *, positive: bool = False
) -> np.ndarray:
    r"""Tropp's condition for given sets of atoms: codes on them are found if it is below 1.

    With the atoms :math:`A_\Lambda` of a set Λ and :math:`A_\Lambda^+` its pseudoinverse,

    .. math:: \mathrm{ERC}(\Lambda) = \max_{j\notin\Lambda} \|d_j A_\Lambda^+\|_1, \qquad
              \mathrm{ERC}_{+}(\Lambda) = \max_{j\notin\Lambda} \sum_{i\in\Lambda}
              (d_j A_\Lambda^+)_i.

    Below 1 the first one says that orthogonal matching pursuit and basis pursuit find every
    code on Λ, whatever its signs, from rows without noise. Where it is not, matching pursuit
    fails for some code on Λ.

    The second one is for codes that are known not to be negative. Then
    :math:`y = \sum_i (A_\Lambda^+)_i` has :math:`d_i\cdot y = 1` on Λ and less elsewhere, which
    proves that the code is the only minimiser of :math:`\sum_i s_i` with :math:`sD = x`,
    :math:`s \ge 0` (Fuchs' condition, one-sided). So non-negative basis pursuit finds
    it, and so does the non-negative lasso as alpha goes to 0. It says nothing about matching
    pursuit.

    Parameters
    ----------
    dictionary : array-like of shape (n_components, n_features)
        Unit length is not needed: atoms are brought to it.
    supports : array-like of int of shape (n_supports, k)
        A set of k different atoms in each row.
    positive : bool, default=False
        Whether codes are known not to be negative.

    Returns
    -------
    ndarray of shape (n_supports,)
        The condition's left side; infinite where the atoms of a set are dependent, minus
        infinity where a set has all atoms.

    Raises
    ------
    ValueError
        If the dictionary is not a finite matrix or has an atom of zeros, or `supports` are not
        sets of its atoms.

    See Also
    --------
    recovery_guarantee : All guarantees at once.

    References
    ----------
    Tropp (2004), "Greed is good", theorems 3.1 and 3.3; Fuchs (2004), "On sparse
    representations in arbitrary redundant bases", theorem 4; Donoho & Tanner (2005), "Sparse
    nonnegative solution of underdetermined linear equations by linear programming".

    Examples
    --------
    >>> import numpy as np
    >>> from sparsecode_estimators.theory import exact_recovery_condition
    >>> D = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.6, 0.0, 0.8], [0.6, -0.6, 0.5]])
    >>> exact_recovery_condition(D, [[0, 1]]).round(2)
    array([1.22])
    >>> exact_recovery_condition(D, [[0, 1]], positive=True)
    array([0.6])
    """
    D = unit_atoms(dictionary)
    supports = _as_supports(supports, len(D))
    step = max(1, BLOCK // (supports.shape[1] * max(D.shape)))
    parts = [
        recovery_values(D, supports[start : start + step], positive=positive)
        for start in range(0, len(supports), step)
    ]
    return np.concatenate(parts)


def recovery_values(D: np.ndarray, supports: np.ndarray, *, positive: bool) -> np.ndarray:
    """As :func:`exact_recovery_condition`, for unit atoms and a block of sets."""
    atoms = D[supports]
    left, length, right = np.linalg.svd(atoms, full_matrices=False)
    tiny = length[:, -1] <= max(D.shape) * np.finfo(np.float64).eps * length[:, 0]
    tiny |= supports.shape[1] > D.shape[1]
    inverse = right.mT @ (left.mT / np.where(tiny[:, None], 1, length)[:, :, None])
    coefs = D @ inverse  # (n, n_components, k)
    values = (coefs if positive else np.abs(coefs)).sum(axis=2)
    np.put_along_axis(values, supports, -np.inf, axis=1)
    return np.where(tiny, np.inf, values.max(axis=1))


def _as_supports(supports: Any, n_components: int) -> np.ndarray:
    sets = np.asarray(supports)
    if sets.ndim != 2 or sets.dtype.kind not in "iu" or 0 in sets.shape:
        raise ValueError(
            f"supports has shape {sets.shape} and dtype {sets.dtype}, but must be "
            "(n_supports, k) integers: the atoms of one set in each row."
        )
    if sets.min() < 0 or sets.max() >= n_components:
        raise ValueError(
            f"supports has entries from {sets.min()} to {sets.max()}, but atoms are numbered "
            f"from 0 to {n_components - 1}."
        )
    if (np.diff(np.sort(sets, axis=1), axis=1) == 0).any():
        raise ValueError("supports has a set with the same atom twice: name each atom once.")
    return sets
