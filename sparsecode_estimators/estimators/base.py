"""What every estimator of sparse codes shares: codes out, reconstruction back, a score."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.frozen import FrozenEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from ..inference import usual_alpha_max
from ..kernels.shared import FLOOR
from .arrays import Rows, collect, read_codes, read_rows, resolve_device, to_shared, to_tensor

# alpha="auto" is this share of the median alpha_max of the training rows. Solvers reach the
# optimum and can afford a small penalty, which biases their codes little. An encoder of one
# pass cannot: with a small penalty it fits the rows with dense codes and loses the sources.
SOLVER_ALPHA_FRACTION = 0.01
# A penalty that does not shrink codes (or shrinks only those of a gate) can be larger.
ENCODER_ALPHA_FRACTION = 0.1
UNSHRUNK_ALPHA_FRACTION = 0.25
SAMPLE_ROWS = 16384  # rows that statistics of the start are taken from
ALPHA_WORK = 2**31  # most multiplications for "auto", if these are enough for some rows:
LEAST_ROWS = 512

Encode = Callable[[Tensor], Tensor]


def make_generator(random_state: Any) -> torch.Generator:
    """The one random source of a fit: on the CPU, so that no device changes the draws."""
    seed = check_random_state(random_state).randint(np.iinfo(np.int32).max)
    return torch.Generator().manual_seed(int(seed))


def auto_alpha(
    X: Tensor, D: Tensor, fraction: float, *, positive: bool, weights: Tensor | None = None
) -> float:
    """A share of the median ``alpha_max`` of rows that have codes: scales with X, as codes then do.

    That of fewer rows, evenly spread, where the product with all atoms would take long.

    Warns
    -----
    UserWarning
        If it is 0, as none of these rows has codes.
    """
    n = max(LEAST_ROWS, ALPHA_WORK // D.numel())
    X = X[:: -(-len(X) // n)]
    alpha = fraction * usual_alpha_max(X, D, positive=positive, weights=weights)
    if alpha == 0:
        warnings.warn(
            "alpha='auto' is 0: it is measured by the rows at hand, less the offset, and no atom "
            "explains any of them. Codes have no penalty from now on: give alpha as a number, or "
            "begin with rows that differ.",
            UserWarning,
            stacklevel=2,
        )
    return alpha


def thawed(estimator: Any) -> Any:
    """The estimator inside any ``FrozenEstimator``; anything else as it is."""
    while isinstance(estimator, FrozenEstimator):
        estimator = estimator.estimator
    return estimator


class BaseSparseCoder(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Transformer from rows to sparse codes of a dictionary.

    Subclasses set ``components_`` (n_components, n_features) and ``intercept_``
    (n_features,) in ``fit`` and say in ``_encoder`` how rows are encoded.
    """

    @abstractmethod
    def _encoder(self, rows: Rows) -> Encode:
        """Function from a batch of rows to their codes, its parameters on the rows' device."""

    def _sparse_encoder(self, rows: Rows) -> Callable[[Tensor], Any]:
        """The same for ``sparse_output``: all codes, or places and values."""
        return self._encoder(rows)

    @property
    def _sparse_width(self) -> int:
        """The numbers that ``_sparse_encoder`` holds for a row, in handfuls."""
        return self._n_features_out

    def _sparsity(self) -> int | None:
        """Most non-zero codes of a row, None if only the penalty limits them."""
        return None

    def _k_sparse(self) -> bool:
        """Whether there is such a limit; known before ``fit``."""
        return False

    @property
    def _n_features_out(self) -> int:
        return int(self.components_.shape[0])

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def transform(self, X: Any) -> Any:
        """Codes of X.

        Row-wise: no row's code depends on which rows are encoded with it. For encoders this is
        true to rounding, as products of matrices of other shapes are rounded otherwise; in
        float32 "iht" may then end at another support.

        Parameters
        ----------
        X : array-like, CSR matrix, data frame, Tensor or ActivationStore
            Of shape (n_samples, n_features). A store, a memory map or another object with
            ``shape``, ``dtype`` and slicing is read batch by batch.

        Returns
        -------
        codes : array, CSR matrix, data frame or Tensor of shape (n_samples, n_components_)
            A tensor, on the same device, if X is one. With ``sparse_output=True`` CSR,
            or for a tensor a COO tensor.

        Raises
        ------
        ValueError
            If X has NaN, infinity or another width than in fit.

        Warns
        -----
        ConvergenceWarning
            Of what solves for codes: if rows did not reach ``tol``.
        """
        check_is_fitted(self, "components_")
        rows = read_rows(self, X, reset=False, device=self.device)
        sparse = self.sparse_output
        encode = self._sparse_encoder(rows) if sparse else self._encoder(rows)
        width = self._sparse_width if sparse else self._n_features_out
        with torch.no_grad():
            loops = getattr(encode, "loops", False)  # what solves for codes says so
            parts = (encode(batch) for batch in rows.batches(width, loops=loops))
            codes = collect(parts, X, rows, self._n_features_out, sparse=sparse)
        self._after_transform(encode)
        return codes

    def _after_transform(self, encode: Encode) -> None:
        """Say what has to be said about all batches together."""

    def inverse_transform(self, X: Any) -> Any:
        """Reconstruction ``X @ components_ + intercept_``, X being codes.

        Parameters
        ----------
        X : array-like, CSR matrix, data frame or Tensor of shape (n_samples, n_components_)
            What ``transform`` gave.

        Returns
        -------
        X_hat : ndarray or Tensor of shape (n_samples, n_features)

        Raises
        ------
        ValueError
            If there are no codes, they do not have ``n_components_`` columns or are not finite.
        """
        check_is_fitted(self, "components_")
        codes, dtype = read_codes(X, self._n_features_out)
        rows = Rows(codes, dtype, resolve_device(self.device, codes))
        D, offset = to_shared(self.components_, rows), to_tensor(self.intercept_, rows)
        parts = (torch.addmm(offset, s, D) for s in rows.batches(self._n_features_out))
        return collect(parts, codes, rows, D.shape[1])

    def score(self, X: Any, y: Any = None) -> float:
        """Share of the variance of X that the reconstruction explains, 1 − FVU.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        y : ignored

        Returns
        -------
        float
            At most 1; 0 is what the mean of X would get. If all rows of X are the same it is
            1 where the reconstruction is exact up to rounding in float32, and 0 otherwise.
        """
        check_is_fitted(self, "components_")
        rows = read_rows(self, X, reset=False, device=self.device)
        return self._explained(rows, rows)

    def _explained(self, rows: Rows, targets: Rows) -> float:
        """Share of the variance of targets that codes of the rows beside them explain."""
        encode = self._encoder(rows)
        D, offset = to_shared(self.components_, rows), to_tensor(self.intercept_, rows)
        # deviations from the first row: rows that are all the same then vary by exactly 0
        first = targets.read(slice(0, 1)).double()
        left = total = energy = 0.0
        with torch.no_grad():
            mean = sum((t.double() - first).sum(0) for t in targets.batches(1)) / len(targets)
            for x, target in rows.paired(targets, self._n_features_out):
                left += (target - offset - encode(x) @ D).double().square().sum().item()
                total += (target.double() - first - mean).square().sum().item()
                energy += target.double().square().sum().item()
        if total == 0:
            return float(left <= (FLOOR * torch.finfo(torch.float32).eps) ** 2 * energy)
        return 1 - left / total
