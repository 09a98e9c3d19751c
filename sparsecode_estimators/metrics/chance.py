"""What a guess that knows nothing scores: the number to print beside every MCC."""

from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.utils import check_random_state

from .correlation import dictionary_corr_coef, mean_corr_coef
from .inputs import as_codes, check_same

# Separates the guesses from every other use of the same seed: a dictionary drawn
# by RandomState(0) would otherwise be "guessed" with random_state=0.
_STREAM = 260214111


def chance_level(
    true: Any,
    pred: Any = None,
    *,
    kind: str = "shuffled",
    X: Any = None,
    centered: bool = False,
    n_repeats: int = 10,
    random_state: int | np.random.RandomState | None = None,
) -> float:
    """Mean score of an uninformed guess of the given kind.

    Matching picks the best of many correlations, so even nonsense scores above
    0, and in low dimensions far above.

    Parameters
    ----------
    true : array-like, CSR, DataFrame or tensor
        The true codes, of shape (n_samples, n_true); for ``kind="dictionary"``
        the true dictionary, of shape (n_true, n_features).
    pred : array-like, CSR, DataFrame or tensor, default=None
        What was predicted. None stands for `true`, i.e. for a perfect
        prediction. Except for ``kind="shuffled"`` only its width (the number
        of atoms of a dictionary) is used.
    kind : {"shuffled", "projection", "dictionary"}, default="shuffled"
        - "shuffled": the MCC of `pred` with its rows shuffled: right values,
          wrong samples.
        - "projection": the MCC of ``relu(X @ W)`` with random normal W: what an
          untrained encoder knows.
        - "dictionary": `dictionary_corr_coef` of random unit atoms.
    X : array-like, CSR, DataFrame or tensor of shape (n_samples, n_features), default=None
        The samples; needed for ``kind="projection"`` only.
    centered : bool, default=False
        As in `dictionary_corr_coef`; for ``kind="dictionary"`` only.
    n_repeats : int, default=10
        Guesses to average over, at least 1.
    random_state : int, RandomState or None, default=None
        An int gives the same answer every time. The guesses come from a stream
        of their own: with the seed that made the truth they are still guesses.

    Returns
    -------
    float
        Between 0 and 1.

    Raises
    ------
    ValueError
        If `kind` is unknown, `X` is missing, `n_repeats` is below 1, or shapes
        do not fit.

    See Also
    --------
    mean_corr_coef : What is compared with it.

    References
    ----------
    Random baselines for sparse autoencoders: arXiv:2602.14111, arXiv:2501.17727.

    Examples
    --------
    >>> import numpy as np
    >>> from sparsecode_estimators.metrics import chance_level
    >>> D = np.random.RandomState(0).randn(16, 8)
    >>> bool(0.5 < chance_level(D, kind="dictionary", random_state=0) < 0.7)
    True
    """
    _check_options(kind, X, n_repeats)
    rng = _stream(random_state)
    true = as_codes(true, "true")
    pred = true if pred is None else as_codes(pred, "pred")
    guess = _GUESSES[kind](true, pred, X, centered)
    return float(np.mean([guess(rng) for _ in range(n_repeats)]))


Guess = Callable[[np.random.Generator], float]


def _shuffled(true: Any, pred: Any, X: Any, centered: bool) -> Guess:
    check_same(true, pred, ("true", "pred"), axis=0, remedy="give both for the same samples.")
    return lambda rng: mean_corr_coef(true, pred[rng.permutation(pred.shape[0])])


def _projection(true: Any, pred: Any, X: Any, centered: bool) -> Guess:
    X = as_codes(X, "X")
    check_same(true, X, ("true", "X"), axis=0, remedy="give both for the same samples.")
    shape = X.shape[1], pred.shape[1]
    return lambda rng: mean_corr_coef(true, np.maximum(X @ rng.standard_normal(shape), 0))


def _dictionary(true: Any, pred: Any, X: Any, centered: bool) -> Guess:
    # Directions of normal vectors are uniform on the sphere, and both scores
    # look at directions only.
    shape = pred.shape[0], true.shape[1]
    return lambda rng: dictionary_corr_coef(true, rng.standard_normal(shape), centered=centered)


_GUESSES: dict[str, Callable[[Any, Any, Any, bool], Guess]] = {
    "shuffled": _shuffled,
    "projection": _projection,
    "dictionary": _dictionary,
}


def _stream(random_state: int | np.random.RandomState | None) -> np.random.Generator:
    entropy = check_random_state(random_state).randint(2**31 - 1, size=4)
    return np.random.default_rng(np.random.SeedSequence([_STREAM, *entropy.tolist()]))


def _check_options(kind: str, X: Any, n_repeats: int) -> None:
    if kind not in _GUESSES:
        raise ValueError(f"kind={kind!r} is unknown; choose one of {sorted(_GUESSES)}.")
    if kind == "projection" and X is None:
        raise ValueError("X=None, but kind='projection' projects the samples; pass X.")
    if n_repeats < 1:
        raise ValueError(f"n_repeats={n_repeats} must be at least 1.")
