"""What is counted for each latent while codes stream by."""

import numpy as np
from numpy.typing import NDArray

# Edges at quarters of an octave, from 6e-8 to 65536; what lies beyond is in the end bins.
HISTOGRAM_EDGES = 2.0 ** np.arange(-24, 16.01, 0.25)
_SKETCH = 512


class RunningStatistics:
    """Sums over the non-zero codes of each latent, in memory that no number of rows changes.

    The sketch is a count sketch over rows (Charikar, Chen & Farach-Colton 2002): every row
    adds its codes, with a random sign, to one of 512 columns. The cosine of two rows of the
    sketch estimates the cosine of the two columns of codes without bias, with a standard
    deviation of about 1/√512 = 0.04.

    Parameters
    ----------
    n_latents : int
    seed : int
        Of the rows' columns and signs.

    Attributes
    ----------
    count : int64 ndarray of shape (n_latents,)
    total, squares, largest : float64 ndarray of shape (n_latents,)
        Of absolute codes.
    histogram : int64 ndarray of shape (n_latents, n_bins)
    sketch : float32 ndarray of shape (n_latents, 512)
    """

    def __init__(self, n_latents: int, seed: int) -> None:
        self._seed = seed
        self.count = np.zeros(n_latents, np.int64)
        self.total, self.squares, self.largest = np.zeros((3, n_latents))
        self.histogram = np.zeros((n_latents, len(HISTOGRAM_EDGES) - 1), np.int64)
        self.sketch = np.zeros((n_latents, _SKETCH), np.float32)

    def add(
        self, latents: NDArray[np.int64], rows: NDArray[np.int64], codes: NDArray[np.floating]
    ) -> None:
        """Count some non-zero codes."""
        n_latents, n_bins = self.histogram.shape
        strength = np.abs(codes).astype(np.float64)
        self.count += np.bincount(latents, minlength=n_latents)
        self.total += np.bincount(latents, strength, n_latents)
        self.squares += np.bincount(latents, strength**2, n_latents)
        np.maximum.at(self.largest, latents, strength)
        octave = (np.log2(strength) - np.log2(HISTOGRAM_EDGES[0])) * 4
        bins = np.clip(octave.astype(np.int64), 0, n_bins - 1)
        np.add.at(self.histogram.reshape(-1), latents * n_bins + bins, 1)
        random = hashed(rows, self._seed)
        column = (random % np.uint64(_SKETCH)).astype(np.int64)
        signed = np.where(random >> np.uint64(63), codes, -codes)
        np.add.at(self.sketch.reshape(-1), latents * _SKETCH + column, signed)


def hashed(numbers: NDArray[np.int64], seed: int) -> NDArray[np.uint64]:
    """64 bits for each number that look random: the finaliser of SplitMix64.

    A number has the same bits wherever it comes in a stream, which no generator would give.

    References
    ----------
    G. Steele, D. Lea, C. Flood (2014), "Fast splittable pseudorandom number generators".
    """
    z = numbers.astype(np.uint64)
    with np.errstate(over="ignore"):  # arithmetic modulo 2^64
        z = (z + np.uint64(seed)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def uniform(numbers: NDArray[np.int64], seed: int) -> NDArray[np.float64]:
    """The same in [0, 1)."""
    return (hashed(numbers, seed) >> np.uint64(11)).astype(np.float64) * 2.0**-53
