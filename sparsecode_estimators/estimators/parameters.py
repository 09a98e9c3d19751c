"""Parameters of the encoders that are trained: their ranges, and which go together."""

from __future__ import annotations

import itertools
import os
from numbers import Integral, Real
from typing import Any, ClassVar

import torch

from ..kernels import rounded
from ..learning.activations import K_SPARSE, PENALTIES
from ..learning.centres import CENTRES
from ..learning.optimizers import OPTIMIZERS
from ..learning.records import Settings
from .base import ENCODER_ALPHA_FRACTION, UNSHRUNK_ALPHA_FRACTION, BaseSparseCoder
from .given import given_sizes
from .validation import Interval, StrOptions

_AUTO_BATCH = 256
_MOST_ROWS = 2**63 - 1  # that a counter of 64 bits can tell


class TrainingParameters(BaseSparseCoder):
    """What SAE, MLP and unrolled encoder have in common before they are trained."""

    _parameter_constraints: ClassVar[dict] = {
        "n_components": [Interval(Integral, 1, None, closed="left"), None],
        "activation": [StrOptions({*PENALTIES, *K_SPARSE})],
        "penalty": [StrOptions({"auto", *itertools.chain(*PENALTIES.values())})],
        "prefix_sizes": ["array-like", None],
        "n_nonzero_coefs": [Interval(Integral, 1, None, closed="left"), None],
        "alpha": [StrOptions({"auto"}), Interval(Real, 0, None, closed="left")],
        "dictionary": ["array-like", callable, None],
        "dict_init": ["array-like", None],
        "objective": [StrOptions({"reconstruction", "codes", "targets"})],
        "fit_intercept": ["boolean", StrOptions({"auto"})],
        "offset_init": [StrOptions(set(CENTRES))],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "batch_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "learning_rate_init": [Interval(Real, 0, None, closed="neither")],
        "learning_rate": [StrOptions({"decay", "constant", "linear", "cosine"})],
        "learning_rate_warmup": [Interval(Real, 0, 1, closed="both")],
        "sparsity_warmup": [Interval(Real, 0, 1, closed="both")],
        "max_grad_norm": [Interval(Real, 0, None, closed="neither"), None],
        "optimizer": [StrOptions(set(OPTIMIZERS))],
        "tol": [Interval(Real, 0, None, closed="left")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
        "shuffle": ["boolean"],
        "warm_start": ["boolean"],
        "dead_after": [StrOptions({"auto"}), Interval(Integral, 1, _MOST_ROWS, closed="both")],
        "aux_alpha": [Interval(Real, 0, None, closed="left")],
        "sparse_output": ["boolean"],
        "random_state": ["random_state"],
        "device": [str, torch.device],
        "precision": [StrOptions({"float32", "float64", "bfloat16", "auto"})],
        "checkpoint": [str, os.PathLike, None],
        "checkpoint_seconds": [Interval(Real, 0, None, closed="left")],
        "checkpoint_steps": [Interval(Integral, 1, None, closed="left"), None],
        "verbose": ["verbose"],
    }

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = self.objective != "reconstruction"
        return tags

    def _check_combinations(self) -> None:
        name, k_sparse = self.activation, self.activation in K_SPARSE
        if not k_sparse and self.n_nonzero_coefs is not None:
            raise ValueError(
                f"n_nonzero_coefs={self.n_nonzero_coefs} is for activation='topk' and the like: "
                f"leave it None with activation={name!r} and set the sparsity by alpha."
            )
        if self.penalty != "auto" and self.penalty not in PENALTIES.get(name, ()):
            allowed = ", ".join(map(repr, ("auto", *PENALTIES.get(name, ()))))
            raise ValueError(
                f"penalty={self.penalty!r} does not go with activation={name!r}: choose {allowed}."
            )
        if self.prefix_sizes is not None and name not in ("topk", "batch_topk"):
            raise ValueError(
                f"prefix_sizes={self.prefix_sizes!r} nest k-sparse codes, not those of "
                f"activation={name!r}: set activation='topk' or 'batch_topk', or prefix_sizes=None."
            )
        if self.prefix_sizes is not None and self.objective == "codes":
            raise ValueError(
                f"prefix_sizes={self.prefix_sizes!r} nest reconstructions, and objective='codes' "
                "has none: set prefix_sizes=None, or objective='reconstruction'."
            )
        if self.dictionary is not None and self.dict_init is not None:
            raise ValueError(
                "dictionary is kept fixed, so dict_init would go unused: give only one of them."
            )

        if self.precision == "bfloat16" and self.objective == "codes":
            raise ValueError(
                "precision='bfloat16' rounds the choice of active codes, and objective='codes' "
                "compares all of them: set precision='float32' or 'auto'."
            )

    def _training_type(self) -> torch.dtype:
        return torch.float64 if self.precision == "float64" else torch.float32

    def _in_bfloat16(self, n_components: int, device: torch.device) -> bool:
        """Whether dense products of training are those of rounded numbers."""
        if self.precision != "auto" or self.objective == "codes":
            return bool(self.precision == "bfloat16")
        large = n_components * self.n_features_in_ >= rounded.WORTH
        return large and rounded.is_faster(device)

    def _ends(self, n_components: int) -> tuple[int, ...] | None:
        """Sizes of the nested dictionaries, the whole one last."""
        if self.prefix_sizes is None:
            return None
        ends = given_sizes("prefix_sizes", self.prefix_sizes)
        if any(b <= a for a, b in itertools.pairwise(ends)):
            raise ValueError(f"prefix_sizes={self.prefix_sizes!r} must rise: sort them.")
        return (*(n for n in ends if n < n_components), n_components)

    def _learns_offset(self) -> bool:
        if self.fit_intercept == "auto":
            return self.dictionary is None and self.objective != "codes"
        return bool(self.fit_intercept)

    def _alpha_fraction(self) -> float:
        """What "auto" takes of the median ``alpha_max``."""
        shrinks = self.activation not in ("jumprelu", "gated") and self.penalty != "tanh"
        return ENCODER_ALPHA_FRACTION if shrinks else UNSHRUNK_ALPHA_FRACTION

    @property
    def positive_code(self) -> bool:
        """Whether codes are never negative."""
        return bool(self.activation != "abs_topk")

    def _k_sparse(self) -> bool:
        return self.activation in K_SPARSE

    def _sparsity(self) -> int | None:
        if not self._k_sparse():
            return None
        # scikit-learn's rule for OMP: a tenth of the features
        return self.n_nonzero_coefs or max(1, self.n_features_in_ // 10)

    def _batch_size(self, n: float) -> float:
        """Rows of a batch, of n rows."""
        return min(_AUTO_BATCH if self.batch_size == "auto" else self.batch_size, n)

    def _settings(
        self,
        alpha: float,
        n_components: int,
        n: int,
        n_epochs: int,
        *,
        decay: bool,
        device: torch.device,
    ) -> Settings:
        return Settings(
            objective=self.objective,
            alpha=alpha,
            learn_dictionary=self.dictionary is None,
            learn_offset=self._learns_offset(),
            max_iter=n_epochs,
            batch_size=int(self._batch_size(n)),
            optimizer=self.optimizer,
            learning_rate=self.learning_rate_init,
            schedule=self.learning_rate if decay else "constant",
            warmup=self.learning_rate_warmup if decay else 0.0,
            sparsity_warmup=self.sparsity_warmup if decay else 0.0,
            max_grad_norm=self.max_grad_norm,
            prefix_sizes=self._ends(n_components),
            tol=self.tol,
            n_iter_no_change=self.n_iter_no_change,
            shuffle=self.shuffle,
            aux_alpha=self.aux_alpha,
            in_bfloat16=self._in_bfloat16(n_components, device),
            open_ended=not decay,
        )
