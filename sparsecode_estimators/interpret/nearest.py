"""Which rows of a matrix point most nearly the same way."""

import numpy as np
from numpy.typing import NDArray

_ELEMENTS = 2**24  # of a product at a time


def nearest_latents(
    vectors: NDArray[np.float32], latents: NDArray[np.integer], n: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The rows of largest absolute product with some of them, without themselves.

    Parameters
    ----------
    vectors : float32 ndarray of shape (n_latents, n_features)
    latents : integer ndarray of shape (m,)
    n : int

    Returns
    -------
    nearest : int64 ndarray of shape (m, min(n, n_latents - 1))
        The nearest first.
    product : float32 ndarray of the same shape
    """
    n = max(0, min(n, len(vectors) - 1))
    nearest = np.empty((len(latents), n), np.int64)
    product = np.empty((len(latents), n), np.float32)
    step = max(1, _ELEMENTS // len(vectors))
    for start in range(0, len(latents), step):
        some = latents[start : start + step]
        products = vectors[some] @ vectors.T
        closeness = np.abs(products)
        closeness[np.arange(len(some)), some] = -1
        best = np.argpartition(-closeness, max(n - 1, 0), axis=1)[:, :n]
        order = np.argsort(-np.take_along_axis(closeness, best, 1), axis=1, kind="stable")
        best = np.take_along_axis(best, order, 1)
        nearest[start : start + step] = best
        product[start : start + step] = np.take_along_axis(products, best, 1)
    return nearest, product
