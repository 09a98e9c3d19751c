"""Where basis pursuit turns from almost always finding codes to almost never."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.optimize import brentq
from scipy.special import erfcx

_FLATTEST = 40.0  # z at which delta is below the smallest number


def phase_transition(delta: Any, *, positive: bool = False) -> Any:
    r"""Donoho and Tanner's weak transition: the largest K/M at which typical codes are found.

    N random atoms in M dimensions, K of them active, δ = M/N and ρ = K/M. As N grows,
    the share of the codes that basis pursuit finds tends to 1 below the curve and to 0 above

    .. math::
       \rho(\delta) = \max_{z \ge 0}
       \frac{1 - (\kappa/\delta)\,[(1+z^2)\,\Phi(-z) - z\,\varphi(z)]}
       {1 + z^2 - \kappa\,[(1+z^2)\,\Phi(-z) - z\,\varphi(z)]},

    where φ and Φ are the normal density and distribution; κ = 2 for codes of either sign (the
    polytope is the cross-polytope) and κ = 1 for codes that are not negative (the simplex).
    Where the derivative vanishes,

    .. math::
       \delta = \frac{\kappa\,\varphi(z)}{z + \kappa\,[\varphi(z) - z\,\Phi(-z)]}, \qquad
       \rho = 1 - \frac{z\,\Phi(-z)}{\varphi(z)},

    so one root, of the first equation, gives the maximum.

    Parameters
    ----------
    delta : float or array-like in (0, 1]
        M/N.
    positive : bool, default=False
        Whether codes are known not to be negative.

    Returns
    -------
    float or ndarray of the shape of `delta`
        K/M, from 0 to 1, rising with delta.

    Raises
    ------
    ValueError
        If an entry of `delta` is not above 0 and at most 1.

    See Also
    --------
    recovery_guarantee : What holds for one dictionary, not on average.

    References
    ----------
    Donoho & Tanner (2005), "Neighborliness of randomly projected simplices in high
    dimensions", PNAS 102, 9452–9457; Donoho (2006), "High-dimensional centrally symmetric
    polytopes with neighborliness proportional to dimension"; Donoho, Maleki & Montanari
    (2009), "Message-passing algorithms for compressed sensing", PNAS 106, 18914–18919, for
    the closed form.

    Examples
    --------
    >>> from sparsecode_estimators.theory import phase_transition
    >>> round(phase_transition(0.5), 4), round(phase_transition(0.5, positive=True), 4)
    (0.3857, 0.5582)
    """
    deltas = np.asarray(delta, dtype=np.float64)
    wrong = deltas[~((deltas > 0) & (deltas <= 1))]
    if wrong.size:
        raise ValueError(
            f"delta={float(wrong.flat[0])} must be above 0 and at most 1: it is the number of "
            "features over the number of atoms."
        )
    rho = np.array([_transition(d, 1 if positive else 2) for d in deltas.flat])
    return float(rho[0]) if deltas.ndim == 0 else rho.reshape(deltas.shape)


def _transition(delta: float, kappa: int) -> float:
    def excess(z: float) -> float:
        density = np.exp(-z * z / 2) / np.sqrt(2 * np.pi)
        return kappa * density / (z + kappa * density * (1 - z * _mills(z))) - delta

    if delta == 1:
        return 1.0
    z = brentq(excess, 0, _FLATTEST, xtol=1e-14)
    return float(1 - z * _mills(z))


def _mills(z: float) -> float:
    """``Φ(−z)/φ(z)``, also where both are too small for a float."""
    return float(np.sqrt(np.pi / 2) * erfcx(z / np.sqrt(2)))
