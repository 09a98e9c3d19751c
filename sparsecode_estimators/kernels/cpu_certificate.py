"""The last digits of a code, and the proof that it is good."""

from __future__ import annotations

from .cpu_jit import compiled

NEAR = 1e-3  # relative distance to the bound within which a slope is computed exactly


@compiled
def subtract(r, value, atom):
    """``r −= value·atom``, in double precision."""
    for m in range(r.shape[0]):
        r[m] -= value * atom[m]


@compiled
def dot(r, atom):
    """``r·atom``, in double precision."""
    total = 0.0
    for m in range(r.shape[0]):
        total += r[m] * atom[m]
    return total


@compiled
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


@compiled
def worst_ratio(r, D, slope, penalty, positive):
    """Largest ``d_j·r/p_j`` that counts: exact where the rounded slopes come near 1.

    Ratios well below 1 do not limit the dual point, so they need not be known.
    """
    worst, near = 0.0, slope.dtype.type(1 - NEAR)
    for j in range(slope.shape[0]):
        value = slope[j] if positive else abs(slope[j])
        if value > near * penalty[j]:
            true = dot(r, D[j])
            worst = max(worst, (true if positive else abs(true)) / penalty[j])
    return worst
