"""Sparse codes with a known dictionary: the only data on which the truth can be scored.

Every distribution of supports is one race: each latent of a sample gets an
arrival time, and the first K to arrive are the ones that fire. The
distributions differ in how the times are drawn.
"""

from collections.abc import Callable, Iterator
from numbers import Integral, Real
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse
from sklearn.utils import Bunch, check_random_state

# Separates the data from every other use of the same seed: an estimator with
# `random_state=0` must not begin from the dictionary it is to find.
_STREAM = 241113117
_BLOCK_ELEMENTS = 2**18
_GROUP_SIZE = 4
_BRANCHING = 3
_RAREST = 1e-300  # as a share of the commonest latent; times of rarer ones are infinite


def make_sparse_codes(
    n_samples: int,
    n_features: int,
    n_components: int,
    n_nonzero_coefs: int,
    *,
    distribution: str = "uniform",
    noise: float = 0.0,
    exponent: float | None = None,
    correlation: float = 0.8,
    dictionary: Any = None,
    sparse_output: bool = False,
    dtype: Any = np.float64,
    random_state: int | np.random.RandomState | None = None,
) -> Bunch:
    r"""Generate ``X = codes @ dictionary + noise`` with exactly K active latents a sample.

    Parameters
    ----------
    n_samples : int
    n_features : int
        M, the width of `X`.
    n_components : int
        N, the number of latents and atoms.
    n_nonzero_coefs : int
        K, between 1 and `n_components`: every sample has exactly K non-zero codes.
    distribution : str, default="uniform"
        Which latents fire, and how strongly:

        - "uniform": every set of K latents is equally likely, the values are
          :math:`|\mathcal N(0, 1)|`.
        - "zipf": K draws without replacement with probabilities
          :math:`p_i \propto i^{-\text{exponent}}`, i = 1..N; values
          :math:`|\mathcal N(0, 1)| \cdot (p_i + 0.1)`. The paper's form.
        - "power_law": uniform sets, heavy-tailed values (Lomax):
          :math:`P(s > t) = (1 + t)^{-\text{exponent}}`.
        - "exponential": uniform sets, values from Exp(1).
        - "correlated": latents 4i to 4i + 3 form a group that tends to fire
          together. The K largest of N normal variables fire, whose correlation
          is `correlation` within a group and 0 otherwise (a Gaussian copula);
          values as "uniform".
        - "hierarchical": a forest in which a latent fires only when its parent
          does. The first :math:`\lceil\sqrt N\rceil` latents are roots, each
          latent has up to 3 children, and the set grows from nothing by K
          draws, uniform over the latents whose parent has fired; values as
          "uniform".
    noise : float, default=0.0
        Standard deviation of the normal noise added to `X`.
    exponent : float, default=None
        For "zipf", where it is at least 0 and None means 1, and for
        "power_law", where it is positive and None means 3 (second moment 1, as
        for the half-normal values; infinite at 2 and below). Others ignore it.
    correlation : float, default=0.8
        For "correlated" only, in [0, 1]; 0 gives "uniform".
    dictionary : array-like of shape (n_components, n_features), default=None
        Atoms to use as they are. None draws them from N(0, 1) and scales each
        to unit length.
    sparse_output : bool, default=False
        Return `codes` as a `scipy.sparse.csr_array`. A million samples of a
        thousand latents are 8 GB dense, and 240 MB so with K = 20.
    dtype : {np.float32, np.float64}, default=np.float64
        Of `X`, `codes` and `dictionary`.
    random_state : int, RandomState or None, default=None
        An int gives the same data every time, and more samples of it continue
        the same data. Dictionary, supports, values and noise come from streams
        of their own: changing `noise` changes none of the others. The
        streams are unrelated to those of ``RandomState(random_state)``, so an
        estimator may safely be given the same int.

    Returns
    -------
    sklearn.utils.Bunch
        ``X`` (n_samples, n_features), ``codes`` (n_samples, n_components),
        ``dictionary`` (n_components, n_features). For "correlated" also
        ``groups``, for "hierarchical" ``parents`` (-1 for a root), each of
        shape (n_components,).

    Raises
    ------
    ValueError
        If a size is not a positive integer, `n_nonzero_coefs` exceeds
        `n_components`, another parameter is out of its range, or with it a result is not finite
        in `dtype`.

    See Also
    --------
    load_paper_data : The data sets of O'Neill, Gumran & Klindt (2025).
    sparsecode_estimators.metrics.mean_corr_coef : How well codes were recovered.

    Notes
    -----
    Supports take :math:`O(n N)` time; the memory beside the result is bounded.
    "zipf" uses that K draws without replacement with weights w are the K
    smallest of independent exponential times with rates w (Efraimidis &
    Spirakis, 2006); "hierarchical" adds to each latent's time that of its parent.

    References
    ----------
    arXiv:2411.13117, sections on synthetic data, for "uniform" and "zipf".

    Examples
    --------
    >>> from sparsecode_estimators.datasets import make_sparse_codes
    >>> data = make_sparse_codes(100, 8, 16, 3, random_state=0)
    >>> data.X.shape, data.codes.shape, data.dictionary.shape
    ((100, 8), (100, 16), (16, 8))
    >>> int((data.codes[0] != 0).sum())
    3
    """
    law = _check_distribution(distribution)
    _check_sizes(n_samples, n_features, n_components, n_nonzero_coefs)
    _check_range("noise", noise, 0.0, np.inf)
    _check_range("correlation", correlation, 0.0, 1.0)
    dtype = _check_dtype(dtype)
    latents = _Latents(n_components, law.check_exponent(exponent), correlation)
    atoms, firing, values, disturbance = _streams(random_state)

    D = _dictionary(dictionary, atoms, (n_components, n_features), dtype)
    supports = _supports(law, firing, latents, n_samples, n_nonzero_coefs)
    with np.errstate(all="ignore"):  # what it would warn of is refused
        amplitudes = law.values(values, supports, latents).astype(dtype)
    _check_amplitudes(amplitudes, latents.exponent)
    rows = np.arange(0, supports.size + 1, n_nonzero_coefs)
    shape = (n_samples, n_components)
    codes = sparse.csr_array((amplitudes.ravel(), supports.ravel(), rows), shape=shape)
    with np.errstate(all="ignore"):
        X = codes @ D
        _add_noise(X, noise, disturbance)
    _check_rows(X, noise)
    return Bunch(
        X=X,
        codes=codes if sparse_output else codes.toarray(),
        dictionary=D,
        **law.structure(n_components),
    )


class _Latents(NamedTuple):
    """What the draws need to know about the latents."""

    n_components: int
    exponent: float
    correlation: float

    def probabilities(self) -> np.ndarray:
        """Zipf's law over the latents."""
        weights = np.arange(1, self.n_components + 1, dtype=float) ** -self.exponent
        if weights[-1] < _RAREST:
            raise ValueError(
                f"exponent={self.exponent:g} makes the last of n_components={self.n_components} "
                "latents so rare that its probability is zero: lower it."
            )
        return weights / weights.sum()


# Arrival times of the latents, shape (n_rows, n_components).


def _uniform_times(rng: np.random.Generator, n_rows: int, latents: _Latents) -> np.ndarray:
    return rng.random((n_rows, latents.n_components))  # only their order matters


def _zipf_times(rng: np.random.Generator, n_rows: int, latents: _Latents) -> np.ndarray:
    return rng.standard_exponential((n_rows, latents.n_components)) / latents.probabilities()


def _group_times(rng: np.random.Generator, n_rows: int, latents: _Latents) -> np.ndarray:
    groups = _groups(latents.n_components)
    normal = rng.standard_normal((n_rows, latents.n_components + groups[-1] + 1))
    own, shared = normal[:, : latents.n_components], normal[:, latents.n_components :]
    rho = latents.correlation
    # a little of their own even at 1, so that no latent of a group always comes last
    return max(np.sqrt(1 - rho), 1e-9) * own + np.sqrt(rho) * shared[:, groups]


def _forest_times(rng: np.random.Generator, n_rows: int, latents: _Latents) -> np.ndarray:
    # A child waits for its parent and then an exponential time of its own. As
    # that has no memory, the next to arrive is uniform over all that wait.
    times = rng.standard_exponential((n_rows, latents.n_components))
    parents = _parents(latents.n_components)
    level = slice(0, int(np.sum(parents < 0)))
    while level.stop < latents.n_components:
        width = _BRANCHING * (level.stop - level.start)
        level = slice(level.stop, min(level.stop + width, latents.n_components))
        times[:, level] += times[:, parents[level]]
    return times


def _groups(n_components: int) -> np.ndarray:
    return np.arange(n_components) // _GROUP_SIZE


def _parents(n_components: int) -> np.ndarray:
    n_roots = int(np.ceil(np.sqrt(n_components)))
    return np.maximum((np.arange(n_components) - n_roots) // _BRANCHING, -1)


# Values of the latents that fire, shape (n_samples, n_nonzero_coefs).


def _half_normal(rng: np.random.Generator, supports: np.ndarray, latents: _Latents) -> np.ndarray:
    return abs(rng.standard_normal(supports.shape))


def _zipf_values(rng: np.random.Generator, supports: np.ndarray, latents: _Latents) -> np.ndarray:
    return _half_normal(rng, supports, latents) * (latents.probabilities()[supports] + 0.1)


def _lomax(rng: np.random.Generator, supports: np.ndarray, latents: _Latents) -> np.ndarray:
    return rng.pareto(latents.exponent, supports.shape)


def _exponential(rng: np.random.Generator, supports: np.ndarray, latents: _Latents) -> np.ndarray:
    return rng.standard_exponential(supports.shape)


Draw = Callable[[np.random.Generator, Any, _Latents], np.ndarray]


class _Law(NamedTuple):
    """When latents arrive, what value they take, and what the caller is told about them."""

    times: Draw = _uniform_times
    values: Draw = _half_normal
    structure: Callable[[int], dict[str, np.ndarray]] = lambda n_components: {}
    exponent: float = 1.0
    exponent_may_be_zero: bool = True

    def check_exponent(self, exponent: float | None) -> float:
        if exponent is None:
            return self.exponent
        lowest = 0.0 if self.exponent_may_be_zero else np.finfo(float).tiny
        _check_range("exponent", exponent, lowest, np.inf)
        return float(exponent)


DISTRIBUTIONS = {
    "uniform": _Law(),
    "zipf": _Law(_zipf_times, _zipf_values),
    "power_law": _Law(values=_lomax, exponent=3.0, exponent_may_be_zero=False),
    "exponential": _Law(values=_exponential),
    "correlated": _Law(_group_times, structure=lambda n: {"groups": _groups(n)}),
    "hierarchical": _Law(_forest_times, structure=lambda n: {"parents": _parents(n)}),
}


def _streams(random_state: Any) -> list[np.random.Generator]:
    """For dictionary, supports, values and noise."""
    entropy = check_random_state(random_state).randint(2**31 - 1, size=4)
    children = np.random.SeedSequence([_STREAM, *entropy.tolist()]).spawn(4)
    return [np.random.default_rng(child) for child in children]


def _dictionary(
    given: Any, rng: np.random.Generator, shape: tuple[int, int], dtype: np.dtype
) -> np.ndarray:
    if given is None:
        D = rng.standard_normal(shape)
        return (D / np.linalg.norm(D, axis=1, keepdims=True)).astype(dtype)
    D = np.array(given, dtype=np.float64)
    if D.shape != shape:
        raise ValueError(
            f"dictionary has shape {D.shape}, but n_components and n_features ask for {shape}; "
            f"give one atom per row."
        )
    if not np.isfinite(D).all():
        raise ValueError("dictionary contains NaN or infinity; give finite atoms.")
    with np.errstate(over="ignore"):
        D = D.astype(dtype)
    if not np.isfinite(D).all():
        raise ValueError(
            f"dictionary contains values that dtype={dtype} cannot hold; scale it, or give "
            "dtype=np.float64."
        )
    return D


def _supports(
    law: _Law, rng: np.random.Generator, latents: _Latents, n_samples: int, k: int
) -> np.ndarray:
    """Indices of the first k arrivals of every sample, ascending."""
    supports = np.empty((n_samples, k), dtype=np.int32)
    for rows in _row_blocks(n_samples, latents.n_components):
        times = law.times(rng, rows.stop - rows.start, latents)
        supports[rows] = np.sort(np.argpartition(times, k - 1, axis=1)[:, :k], axis=1)
    return supports


def _add_noise(X: np.ndarray, noise: float, rng: np.random.Generator) -> None:
    if noise:
        for rows in _row_blocks(*X.shape):
            X[rows] += noise * rng.standard_normal(X[rows].shape)


def _row_blocks(n_rows: int, n_columns: int) -> Iterator[slice]:
    step = max(1, _BLOCK_ELEMENTS // n_columns)
    for start in range(0, n_rows, step):
        yield slice(start, min(start + step, n_rows))


def _check_distribution(distribution: str) -> _Law:
    if distribution not in DISTRIBUTIONS:
        raise ValueError(
            f"distribution={distribution!r} is unknown; choose one of {sorted(DISTRIBUTIONS)}."
        )
    return DISTRIBUTIONS[distribution]


def _check_sizes(n_samples: int, n_features: int, n_components: int, k: int) -> None:
    sizes = {
        "n_samples": n_samples,
        "n_features": n_features,
        "n_components": n_components,
        "n_nonzero_coefs": k,
    }
    for name, size in sizes.items():
        if not isinstance(size, Integral) or isinstance(size, bool) or size < 1:
            raise ValueError(f"{name}={size!r} must be an integer of at least 1.")
    if k > n_components:
        raise ValueError(
            f"n_nonzero_coefs={k} exceeds n_components={n_components}, and exactly "
            f"n_nonzero_coefs latents fire: lower it or raise n_components."
        )


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if not isinstance(value, Real) or not low <= value <= high or not np.isfinite(value):
        raise ValueError(f"{name}={value!r} must be a finite number in [{low:g}, {high:g}].")


def _check_amplitudes(amplitudes: np.ndarray, exponent: float) -> None:
    """Exactly K codes are not zero, and all are finite."""
    if not (np.isfinite(amplitudes).all() and amplitudes.all()):
        raise ValueError(
            f"exponent={exponent:g} gives codes that are zero or infinite in "
            f"dtype={amplitudes.dtype}: give one nearer to 3, or dtype=np.float64."
        )


def _check_rows(X: np.ndarray, noise: float) -> None:
    # both ends are NaN if anything is; no second array is made
    if not (np.isfinite(X.min()) and np.isfinite(X.max())):
        raise ValueError(
            f"X is not finite in dtype={X.dtype}: lower noise={noise!r} or the atoms of dictionary."
        )


def _check_dtype(dtype: Any) -> np.dtype:
    dtype = np.dtype(dtype)
    if dtype not in (np.float32, np.float64):
        raise ValueError(f"dtype={dtype} is not supported; use np.float32 or np.float64.")
    return dtype
