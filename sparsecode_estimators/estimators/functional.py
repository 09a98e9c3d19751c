"""Sparse coding as a function: arrays in, arrays out."""

from __future__ import annotations

from collections.abc import Iterator
from numbers import Real
from typing import Any

import torch

from .arrays import Rows, collect, read_codes, read_rows
from .sparse_coding import SparseCodingEncoder
from .validation import Interval, validate_parameter_constraints

_CONSTRAINTS = {
    "alpha": [Interval(Real, 0, None, closed="left"), None],
    "max_iter": SparseCodingEncoder._parameter_constraints["transform_max_iter"],
}


def sparse_encode(
    X: Any,
    dictionary: Any,
    *,
    alpha: float | None = None,
    n_nonzero_coefs: int | None = None,
    solver: str = "auto",
    positive_code: bool = True,
    init: Any = None,
    max_iter: int = 2000,
    tol: float | None = 1e-6,
    weights: Any = None,
    ridge: float = 0.0,
    debias: bool = False,
    return_info: bool = False,
    device: str = "auto",
) -> Any:
    r"""Sparse codes of X for a given dictionary.

    Solves, for every row on its own, either the lasso

    .. math:: \min_s \tfrac12\|x - sD\|^2 + \alpha\sum_j w_j|s_j| + \tfrac{\rho}{2}\|s\|^2

    or ``½‖x − sD‖²`` with at most ``n_nonzero_coefs`` non-zero codes.

    Parameters
    ----------
    X : array-like, CSR matrix, data frame, Tensor or ActivationStore
        Of shape (n_samples, n_features).
    dictionary : array-like of shape (n_components, n_features)
        Its rows are the atoms. Solvers for k-sparse codes expect unit norm.
    alpha : float >= 0 or None, default=None
        Weight of the penalty. Give either this or ``n_nonzero_coefs``.
    n_nonzero_coefs : int >= 1 or None, default=None
        Most non-zero codes of a row; no more than n_components and n_features are used.
    solver : str, default="auto"
        For the lasso "working_set", "fista", "lca", "homotopy" or "adam"; for k-sparse codes
        "omp", "omp_replacement", "stagewise", "ols", "matching_pursuit", "iht", "htp" or
        "l0"; the user guide tells them apart.
        "auto": for the lasso "working_set" where its compiled loops serve, else "fista", also
        with ``tol=None``; for k-sparse codes "omp", and with ``init``
        "omp_replacement", which goes on from there.
    positive_code : bool, default=True
        Whether codes must not be negative. (scikit-learn's default is False.)
    init : array-like of shape (n_samples, n_components) or None, default=None
        Where to start, negative entries at zero for positive codes; None: at zero.
    max_iter : int >= 1, default=2000
        Most iterations for a row.
    tol : float > 0 or None, default=1e-6
        Duality gap, as a share of ``½‖x‖²``, at which a row is done. None: take exactly
        ``max_iter`` iterations.
    weights : array-like of shape (n_components,) or None, default=None
        Factors of alpha, above 0, one for each atom; None: ones. Not for
        k-sparse codes.
    ridge : float >= 0, default=0.0
        Weight ρ of ``½‖s‖²``, which shares a code between like atoms (elastic net). Not
        for k-sparse codes.
    debias : bool, default=False
        Whether codes are refitted by least squares, non-negative for positive codes, on the
        support that was found. Takes back the shrinkage of the penalty. For "adam", whose
        codes never reach zero, the support is every atom.
    return_info : bool, default=False
    device : str, default="auto"
        "auto": where a tensor X lies, else CUDA if there is one, else the CPU.

    Returns
    -------
    codes : ndarray or Tensor of shape (n_samples, n_components)
    info : EncodeInfo
        Only if ``return_info``: ``dual_gap``, ``residual``, ``n_iter``, ``converged`` per
        sample, and ``flops``.

    Raises
    ------
    ValueError
        For parameters or data out of range or of the wrong shape.

    Warns
    -----
    ConvergenceWarning
        If rows did not reach ``tol`` and ``return_info`` is false.

    See Also
    --------
    SparseCodingEncoder : The same inference as a transformer, and the dictionary for it.
    sparsecode_estimators.metrics.amortisation_gap : How far codes that are guessed are from these.

    Examples
    --------
    >>> import numpy as np
    >>> from sparsecode_estimators import sparse_encode
    >>> D = np.eye(3)
    >>> sparse_encode(np.array([[3.0, 0.5, -2.0]]), D, alpha=1.0)
    array([[2., 0., 0.]])
    """
    if dictionary is None:
        raise ValueError(
            "dictionary=None: give the atoms, an array of shape (n_components, n_features), or "
            "learn them from X with SparseCodingEncoder."
        )
    if (alpha is None) == (n_nonzero_coefs is None):
        raise ValueError(
            f"alpha={alpha!r} and n_nonzero_coefs={n_nonzero_coefs!r}: give exactly one of them, "
            "alpha for the lasso or n_nonzero_coefs for k-sparse codes."
        )
    shared = {
        "n_nonzero_coefs": n_nonzero_coefs,
        "solver": solver,
        "positive_code": positive_code,
        "tol": tol,
        "weights": weights,
        "ridge": ridge,
        "debias": debias,
        "device": device,
    }
    validate_parameter_constraints(
        SparseCodingEncoder._parameter_constraints | _CONSTRAINTS,
        {"alpha": alpha, "max_iter": max_iter, **shared},
        caller_name="sparse_encode",
    )
    coder = SparseCodingEncoder(
        alpha=0.0 if alpha is None else alpha,
        dictionary=dictionary,
        transform_max_iter=max_iter,
        **shared,
    )
    rows = read_rows(coder, X, reset=True, device=device)
    coder._fit_known(rows)
    encode = coder._encoder(rows)
    batches = _with_starts(init, rows, coder.n_components_, loops=encode.loops)
    with torch.no_grad():
        parts = (encode(x, start) for x, start in batches)
        codes = collect(parts, X, rows, coder.n_components_)
    if return_info:
        return codes, encode.info()
    encode.warn("max_iter")
    return codes


def _with_starts(init: Any, rows: Rows, n_components: int, *, loops: bool) -> Iterator[Any]:
    """Batches of X, each with its rows of ``init``, or with nothing."""
    if init is None:
        return ((x, None) for x in rows.batches(n_components, loops=loops))
    if isinstance(init, str):
        raise ValueError(f"init={init!r}: give codes to start from, or None to start at zero.")
    codes, _ = read_codes(init, n_components, "init")
    if codes.shape[0] != len(rows):
        raise ValueError(
            f"init has {codes.shape[0]} rows but X has {len(rows)}: give a start for each row."
        )
    return rows.paired(Rows(codes, rows.dtype, rows.device), loops=loops)
