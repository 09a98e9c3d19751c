"""Whether any one-pass encoder at all could give some codes: a proof either way."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from scipy import sparse
from scipy.optimize import linprog

from .inputs import as_matrix

_PRECISE = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}


class EncoderCertificate(NamedTuple):
    """For each latent, an encoder that gives its codes, or a proof that there is none.

    Attributes
    ----------
    exists : ndarray of bool of shape (n_components,)
        Whether some w and b have ``relu(x·w + b)`` equal to the latent's codes.
    weights : ndarray of shape (n_features, n_components)
        w, a column for each latent; of those that have none the best compromise on the
        samples of the proof.
    intercepts : ndarray of shape (n_components,)
        b.
    error : ndarray of shape (n_components,)
        Where an encoder exists, its largest violation on all samples, rounding. Where none
        does, what every w and b violate on some sample of the proof.
    multipliers : csr_array of shape (n_samples, n_components)
        The proof, Farkas' multipliers y: of absolute sum 1, not negative where the code is 0.
        Empty columns where an encoder exists.
    radius : ndarray of shape (n_components,)
        The multipliers cancel only to rounding, so the proof excludes encoders with
        ``‖(w, b)‖₁`` up to this; infinite where an encoder exists.

    See Also
    --------
    perfect_linear_encoder_exists : Makes it.

    Examples
    --------
    >>> from sparsecode_estimators.theory import perfect_linear_encoder_exists
    >>> certificate = perfect_linear_encoder_exists([[-1.0], [0.0], [1.0]], [[0], [0], [1]])
    >>> certificate.exists, certificate.weights.round(3)
    (array([ True]), array([[1.]]))
    """

    exists: np.ndarray
    weights: np.ndarray
    intercepts: np.ndarray
    error: np.ndarray
    multipliers: sparse.csr_array
    radius: np.ndarray


def perfect_linear_encoder_exists(X: Any, codes: Any, *, tol: float = 1e-7) -> EncoderCertificate:
    r"""Decide by linear programming whether a one-pass ReLU encoder can reproduce codes.

    For each latent, :math:`\mathrm{relu}(x_n\cdot w + b) = s_n` for all samples is a linear
    system,

    .. math:: x_n\cdot w + b = s_n \ \text{ where } s_n > 0, \qquad
              x_n\cdot w + b \le 0 \ \text{ where } s_n = 0.

    The linear program minimises the largest violation t. If it is 0, w and b are the encoder.
    If not, the multipliers y of its constraints prove by Farkas' lemma that the system has no
    solution: :math:`\sum_n y_n (x_n, 1) = 0`, :math:`y_n \ge 0` where :math:`s_n = 0`, and
    :math:`\sum_n y_n s_n = -t < 0`, while a solution would make that sum at least 0.
    Both are checked here by multiplying them out, in double precision.

    Few samples are enough for a proof: the program begins with some, and those that its
    solution violates are added.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
    codes : array-like of shape (n_samples, n_components)
        Not negative.
    tol : float > 0, default=1e-7
        Violation, as a share of a latent's largest code, that counts as none.

    Returns
    -------
    EncoderCertificate
        ``(exists, weights, intercepts, error, multipliers, radius)``.

    Raises
    ------
    ValueError
        If X or codes are not finite, have different numbers of rows, or codes are negative.
    RuntimeError
        If the linear program cannot be solved, or not precisely enough for `tol`.

    See Also
    --------
    amortisation_witness : A source that a given encoder gets wrong.

    References
    ----------
    Farkas (1902); Boyd & Vandenberghe (2004), "Convex optimization", section 5.8; Huangfu &
    Hall (2018), "Parallelizing the dual revised simplex method" (HiGHS).

    Examples
    --------
    Of the two latents the first is the row itself, cut at zero. The second is active on both
    sides of a row on which it is not:

    >>> from sparsecode_estimators.theory import perfect_linear_encoder_exists
    >>> X = [[-1.0], [0.0], [1.0]]
    >>> certificate = perfect_linear_encoder_exists(X, [[0, 1], [0, 0], [1, 1]])
    >>> certificate.exists
    array([ True, False])
    >>> certificate.multipliers.toarray()[:, 1]
    array([-0.25,  0.5 , -0.25])
    """
    X, codes = as_matrix(X, "X"), as_matrix(codes, "codes")
    if len(X) != len(codes):
        raise ValueError(
            f"codes has {len(codes)} rows and X has {len(X)}; give the codes of these samples."
        )
    if (codes < 0).any():
        raise ValueError(
            "codes has negative entries, which no ReLU gives: give codes that are not negative."
        )
    if not tol > 0:
        raise ValueError(f"tol={tol!r} must be above 0.")
    centre = X.mean(axis=0)  # which b takes up; and features of any unit are of like size
    scale = np.abs(X - centre).max(axis=0)
    scale[scale == 0] = 1.0
    rows = np.column_stack([(X - centre) / scale, np.ones(len(X))])
    found = [_decide(rows, s, tol) for s in codes.T]
    z = np.array([part.z for part in found])
    weights = z[:, :-1].T / scale[:, None]
    return EncoderCertificate(
        exists=np.array([part.exists for part in found]),
        weights=weights,
        intercepts=z[:, -1] - centre @ weights,
        error=np.array([part.error for part in found]),
        multipliers=_columns(found, len(X)),
        radius=np.array([part.radius(rows, centre, scale) for part in found]),
    )


class _Verdict(NamedTuple):
    """Of one latent: ``z`` is (w, b), ``y`` the multipliers of the samples ``used``."""

    exists: bool
    z: np.ndarray
    error: float
    used: np.ndarray = np.empty(0, dtype=np.int64)
    y: np.ndarray = np.empty(0)

    def radius(self, rows: np.ndarray, centre: np.ndarray, scale: np.ndarray) -> float:
        """Below this ‖(w, b)‖₁ what is left of ``Σ y (x, 1)`` cannot make up for t."""
        if self.exists:
            return np.inf
        rounding = np.count_nonzero(self.y) * np.finfo(np.float64).eps  # entries are at most 1
        left = np.abs(self.y @ rows[self.used]) + rounding
        left[:-1] = left[:-1] * scale + left[-1] * np.abs(centre)
        return float(self.error / left.max())


def _decide(rows: np.ndarray, s: np.ndarray, tol: float) -> _Verdict:
    """Whether one latent's codes can be had from (x, 1), with few of the samples at first."""
    top = s.max()
    if top == 0:
        return _Verdict(True, np.zeros(rows.shape[1]), 0.0)
    size = 2 * rows.shape[1]
    used = np.union1d(np.argsort(-s, kind="stable")[:size], _spread(np.flatnonzero(s == 0), size))
    while True:
        z, y = _program(rows[used], s[used] / top)
        z, margin = top * z, -float(y @ s[used])
        violation = _violation(rows, s, z)
        if violation.max() <= tol * top:
            return _Verdict(True, z, float(violation.max()))
        worst = np.argsort(-violation, kind="stable")[:size]
        fresh = np.setdiff1d(worst[violation[worst] > tol * top], used)
        if margin > tol * top or not len(fresh):
            break
        used = np.union1d(used, fresh)
    if margin <= 0:
        raise RuntimeError(
            f"The linear program violates a row by {violation.max():.1e} and proves nothing: its "
            f"precision does not decide at tol={tol}. Raise tol."
        )
    return _Verdict(False, z, margin, used[y != 0], y[y != 0])


def _columns(found: list[_Verdict], n: int) -> sparse.csr_array:
    """Multipliers of all latents, shape (n, n_components)."""
    places = (
        np.concatenate([part.used for part in found]),
        np.repeat(np.arange(len(found)), [len(part.used) for part in found]),
    )
    values = np.concatenate([part.y for part in found])
    return sparse.csr_array((values, places), shape=(n, len(found)))


def _spread(places: np.ndarray, size: int) -> np.ndarray:
    return places[:: max(1, len(places) // size)]


def _violation(rows: np.ndarray, s: np.ndarray, z: np.ndarray) -> np.ndarray:
    above = rows @ z - s
    return np.where(s > 0, np.abs(above), np.maximum(above, 0))


def _program(rows: np.ndarray, s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The least largest violation: its (w, b), and multipliers of absolute sum 1."""
    n, width = rows.shape
    on = np.flatnonzero(s > 0)
    # x·z − t ≤ s everywhere, and −x·z − t ≤ −s where the latent is active
    A = np.column_stack([np.vstack([rows, -rows[on]]), -np.ones(n + len(on))])
    answer = linprog(
        np.eye(width + 1)[-1],
        A_ub=A,
        b_ub=np.concatenate([s, -s[on]]),
        bounds=[(None, None)] * width + [(0, None)],
        method="highs",
        options=_PRECISE,
    )
    if answer.x is None:
        raise RuntimeError(f"The linear program was not solved: {answer.message}")
    pull = np.maximum(-answer.ineqlin.marginals, 0)
    y = pull[:n].copy()
    y[on] -= pull[n:]
    return answer.x[:-1], y / max(np.abs(y).sum(), np.finfo(float).tiny)
