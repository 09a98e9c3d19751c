"""The very data of arXiv:2411.13117, draw for draw."""

import numpy as np
from sklearn.utils import Bunch

_SEEDS = {"known_codes": 20240625, "known_dictionary": 20240625, "unknown": 20240926}


def load_paper_data(
    scenario: str = "known_dictionary",
    *,
    n_samples: int = 2048,
    n_features: int = 8,
    n_components: int = 16,
    n_nonzero_coefs: int = 3,
    seed: int | None = None,
) -> Bunch:
    r"""Replay the synthetic data of the paper on the amortisation gap.

    Every sample has K of N latents active, uniform without replacement, with
    values :math:`|\mathcal N(0, 1)|`; the dictionary is normal with rows scaled
    to unit length; :math:`x = s D` without noise. With the defaults the numbers
    are the paper's own, so that its figures can be met on the same samples. For
    other data `make_sparse_codes` is faster and more general.

    Parameters
    ----------
    scenario : {"known_codes", "known_dictionary", "unknown"}, default="known_dictionary"
        The paper's experiment; the first two share their data.
    n_samples : int, default=2048
        Training and test samples together: the first half is for training.
    n_features, n_components, n_nonzero_coefs : int, default=8, 16, 3
        M, N and K.
    seed : int, default=None
        In [0, 2**32 - 1]; None is the paper's seed for the scenario.

    Returns
    -------
    sklearn.utils.Bunch
        ``X_train``, ``X_test`` (n_samples / 2, n_features), ``codes_train``,
        ``codes_test`` (n_samples / 2, n_components) and ``dictionary``
        (n_components, n_features), float32 as in the paper.

    Raises
    ------
    ValueError
        If `scenario` is unknown or a size is out of range.

    See Also
    --------
    make_sparse_codes : Other sizes, distributions and noise.

    Notes
    -----
    The codes come from NumPy's legacy generator: for each sample N normal
    values, then the choice of K indices. The dictionary comes from torch's CPU
    generator with the same seed. Neither global generator is touched.

    References
    ----------
    "Compute Optimal Inference and Provable Amortisation Gap in Sparse
    Autoencoders" (2025), arXiv:2411.13117.

    Examples
    --------
    >>> from sparsecode_estimators.datasets import load_paper_data
    >>> data = load_paper_data("unknown")
    >>> data.X_train.shape, data.codes_test.shape, data.dictionary.shape
    ((1024, 8), (1024, 16), (16, 8))
    """
    if scenario not in _SEEDS:
        raise ValueError(f"scenario={scenario!r} is unknown; choose one of {sorted(_SEEDS)}.")
    sizes = {"n_samples": n_samples, "n_features": n_features, "n_nonzero_coefs": n_nonzero_coefs}
    for name, size in sizes.items():
        if size < (least := 2 if name == "n_samples" else 1):
            raise ValueError(f"{name}={size} must be at least {least}.")
    if n_nonzero_coefs > n_components:
        raise ValueError(
            f"n_nonzero_coefs={n_nonzero_coefs} exceeds n_components={n_components}; lower it."
        )
    seed = _SEEDS[scenario] if seed is None else seed
    codes = _codes(seed, n_samples, n_components, n_nonzero_coefs)
    X, dictionary = _mix(seed, codes, n_features)
    n_train = n_samples // 2
    return Bunch(
        X_train=X[:n_train],
        X_test=X[n_train:],
        codes_train=codes[:n_train],
        codes_test=codes[n_train:],
        dictionary=dictionary,
    )


def _codes(seed: int, n_samples: int, n_components: int, k: int) -> np.ndarray:
    rng = np.random.RandomState(seed)
    codes = np.zeros((n_samples, n_components), dtype=np.float32)
    for code in codes:
        values = np.abs(rng.randn(n_components))
        active = rng.choice(n_components, k, replace=False)
        code[active] = values[active]
    return codes


def _mix(seed: int, codes: np.ndarray, n_features: int) -> tuple[np.ndarray, np.ndarray]:
    import torch

    generator = torch.Generator().manual_seed(seed)
    D = torch.randn(codes.shape[1], n_features, generator=generator, dtype=torch.float32)
    D = D / D.norm(dim=1, keepdim=True)
    return (torch.from_numpy(codes) @ D).numpy(), D.numpy()
