"""The last digits of a code, and the proof that it is good."""

from __future__ import annotations

import numpy as np

from .cpu_jit import inlined, part
from .cpu_residual import dot
from .cpu_vectors import WIDTH, absolute, bits, load, lowest, more_than, multiply, splat

NEAR = 1e-3  # relative distance to the bound within which a slope is computed exactly


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
    return 0.5 * (1.0 - c) ** 2 * max(energy, 0.0) + max(0.0, length - c * agreement)


@part
def _ratio(r, D, penalty, positive, j):
    true = dot(r, D, j) if positive else abs(dot(r, D, j))
    return true / penalty[j] if true > 0 else 0.0  # the penalty may be zero


@inlined
def worst_ratio(r, D, slope, penalty, positive):
    """Largest ``d_j·r/p_j`` that counts: exact where the rounded slopes come near 1.

    Ratios well below 1 do not limit the dual point, so they need not be known.
    """
    near, worst, n = slope.dtype.type(1 - NEAR), 0.0, slope.shape[0]
    whole = n // WIDTH * WIDTH
    for j in range(0, whole, WIDTH):
        size = load(slope, j) if positive else absolute(load(slope, j))
        some = bits(more_than(size, multiply(splat(near), load(penalty, j))))
        while some:
            worst = max(worst, _ratio(r, D, penalty, positive, j + lowest(some)))
            some &= some - 1
    for j in range(whole, n):
        if (slope[j] if positive else abs(slope[j])) > near * penalty[j]:
            worst = max(worst, _ratio(r, D, penalty, positive, j))
    return worst


@part
def conclude(
    atoms, places, exact, products, k, energy, r, D, gram, step, slope, penalty, positive, ridge,
    codes, row,
):  # fmt: skip
    """Write the codes of a row after its last step; its gap and the energy of its residual.

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
        ``d_j·r`` of all atoms, after the step and rounded; those of active atoms are lost.
    codes : array of shape (n, n_components)
        Its row number ``row``, zeros, is written to.
    """
    agreement, length, squares, ratio = 0.0, 0.0, 0.0, 0.0
    for i in range(k):
        change = 0.0
        for j in range(k):
            change += gram[places[i], places[j]] * step[j]
        # ‖r − δA‖² = ‖r‖² − δ·(2 Ar − δAAᵀ), and the ridge is in both products
        energy -= step[i] * (2 * products[i] - change + ridge * (2 * exact[i] + step[i]))
        code, size = exact[i] + step[i], np.float64(penalty[atoms[i]])
        product = products[i] - change
        codes[row, atoms[i]] = code
        slope[atoms[i]] = 0
        rounded = np.float64(codes[row, atoms[i]])
        agreement += rounded * product
        length += size * abs(rounded)
        squares += code * code
        if size > 0:
            ratio = max(ratio, (product if code > 0 else -product) / size)
    ratio = max(ratio, worst_ratio(r, D, slope, penalty, positive))
    return gap_of(energy + ridge * squares, agreement, length, ratio), 0.5 * energy
