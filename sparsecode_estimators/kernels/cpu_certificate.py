"""The last digits of a code, and the proof that it is good."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .cpu_jit import inlined, part
from .cpu_residual import dot
from .cpu_vectors import WIDTH, absolute, bits, load, lowest, more_than, plus, splat

NEAR = 1e-3  # relative distance to the bound within which a slope is computed exactly
UNITS = 8  # of the floating point type: rounding of a slope, of all that it is a sum of


class Scale(NamedTuple):
    """What counts as large and as small in a problem.

    Attributes
    ----------
    rounding : float
        ``UNITS`` of the floating point type.
    longest : float
        Length of the longest atom.
    least, largest : float
        The least penalty that is not zero, and the largest.
    """

    rounding: float
    longest: float
    least: float
    largest: float


def scale_of(lengths, penalty):
    """Of atoms of these lengths; see :class:`Scale`."""
    return Scale(
        float(UNITS * np.finfo(penalty.dtype).eps),
        float(lengths.max()),
        float(penalty[penalty > 0].min(initial=np.inf)),
        float(penalty.max()),
    )


@inlined
def off(scale, size, length):
    """By how much slopes are off at most: of a row of this size, ``Σ|s_j|`` being ``length``."""
    return scale.rounding * scale.longest * (size + scale.longest * length)


@inlined
def far(scale, size, ridge):
    """Slopes of a row of this size are no larger, while its objective falls."""
    return 2 * (scale.longest + np.sqrt(ridge)) * size


@inlined
def gap_of(energy, agreement, length, ratio):
    r"""Duality gap of codes s whose residual r, with the ridge, has this energy.

    :math:`\theta = cr` is feasible in the dual for c ≤ 1/ratio, and then the gap is
    :math:`\tfrac12(1-c)^2\|r\|^2 + \sum_j(p_j|s_j| - c\,s_j\,d_j\cdot r)`, a sum of
    terms that are not negative, of which none cancels: see ``Lasso.duality_gap``. (The
    rounding of s to its type moves r by less than it moves the gap.)

    Parameters
    ----------
    energy : float
        ``‖r‖²``, plus ``ridge·‖s‖²``.
    agreement : float
        ``Σ s_j (d_j·r − ridge·s_j)``.
    length : float
        ``Σ p_j |s_j|``.
    ratio : float
        Largest :math:`d_j\cdot r/p_j` over all atoms, if it matters.
    """
    c = 1.0
    if energy > 0:
        c = max(0.0, 1.0 + agreement / energy)
    if ratio > 0:
        c = min(c, 1.0 / ratio)
    less = 1.0 - c
    return 0.5 * less * less * max(energy, 0.0) + max(0.0, length - c * agreement)


@part
def _ratio(r, D, penalty, positive, j):
    true = dot(r, D, j) if positive else abs(dot(r, D, j))
    return true / penalty[j] if true > 0 else 0.0  # the penalty may be zero


@inlined
def worst_ratio(r, D, slope, loose, penalty, positive):
    """Largest ``d_j·r/p_j``, or ``1 − NEAR``: exact where slopes, off by ``loose``, come near 1.

    Ratios well below 1 do not limit the dual point, so they need not be known.
    """
    near, worst, n = slope.dtype.type(1 - NEAR), 1 - NEAR, slope.shape[0]
    less = slope.dtype.type(-loose)
    whole = n // WIDTH * WIDTH
    for j in range(0, whole, WIDTH):
        size = load(slope, j) if positive else absolute(load(slope, j))
        some = bits(more_than(size, plus(splat(less), near, load(penalty, j))))
        while some:
            worst = max(worst, _ratio(r, D, penalty, positive, j + lowest(some)))
            some &= some - 1
    for j in range(whole, n):
        if (slope[j] if positive else abs(slope[j])) > near * penalty[j] + less:
            worst = max(worst, _ratio(r, D, penalty, positive, j))
    return worst


@part
def conclude(
    atoms, places, exact, products, k, energy, r, D, gram, step, slope, loose, penalty, scale,
    positive, ridge, codes, row,
):  # fmt: skip
    """Write the codes of a row after its last step; its gap and the energy of its residual.

    Products with the residual move by no more than the residual does in this step, times the length
    of the atom.

    Parameters
    ----------
    atoms, places : int arrays of shape (k,)
        Active atoms, and where they are in ``gram``, products of atoms with the ridge.
    exact, products, step : arrays of shape (k,)
        Codes before the step and ``d_j·r − ridge·s_j`` there, and the step. It is so short
        that its own effect on the products is exact enough in the precision of ``gram``.
    energy : float
        ``‖r‖²`` before the step.
    r : float64 array of shape (n_features,)
        Residual before the step.
    slope : array of shape (n_components,)
        ``d_j·r`` of all atoms, off by no more than ``loose`` where it comes near the penalty; those
        of active atoms are lost.
    codes : array of shape (n, n_components)
        Its row number ``row``, zeros, is written to.
    """
    agreement, length, squares, ratio = 0.0, 0.0, 0.0, 0.0
    move, inexact = 0.0, 0.0
    for i in range(k):
        inexact += scale.rounding * scale.longest * scale.longest * abs(step[i])
    for i in range(k):
        change = 0.0
        for j in range(k):
            change += gram[places[i], places[j]] * step[j]
        # ‖r − δA‖² = ‖r‖² − δ·(2 Ar − δAAᵀ), and the ridge is in both products
        energy -= step[i] * (2 * products[i] - change + ridge * (2 * exact[i] + step[i]))
        move += step[i] * change
        code, size = exact[i] + step[i], np.float64(penalty[atoms[i]])
        product = products[i] - change
        codes[row, atoms[i]] = code
        slope[atoms[i]] = 0
        rounded = np.float64(codes[row, atoms[i]])
        agreement += rounded * product
        length += size * abs(rounded)
        squares += code * code
        if size > 0:
            ratio = max(ratio, ((product if code > 0 else -product) + inexact) / size)
    moved = scale.longest * np.sqrt(max(move, 0.0)) / scale.least
    ratio = max(ratio, worst_ratio(r, D, slope, loose, penalty, positive) + moved)
    return gap_of(energy + ridge * squares, agreement, length, ratio), 0.5 * energy
