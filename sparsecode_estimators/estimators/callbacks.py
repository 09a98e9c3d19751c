"""What watches a fit: scikit-learn's callbacks, and a line an epoch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ..learning.records import History

try:
    from sklearn.callback import CallbackSupportMixin
except ImportError:  # scikit-learn before 1.9 has none

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Nothing to support."""


__all__ = ["CallbackSupportMixin", "Watch"]


class Watch:
    """Tells callbacks of every epoch of a fit, and prints a line.

    Parameters
    ----------
    estimator : estimator
        With ``verbose``.
    X, y : object
        What ``fit`` was given.
    n_epochs : int
    scale : float
        What rows were divided by.
    shape : tuple of int
        Of X.
    attributes : callable
        From a history to what the estimator would have if training ended now.
    callbacks : bool
        Whether this is a ``fit``: callbacks are told of nothing else.
    """

    def __init__(
        self,
        estimator: Any,
        X: Any,
        y: Any,
        n_epochs: int,
        scale: float,
        shape: tuple[int, int],
        attributes: Callable[[History], dict[str, Any]],
        *,
        callbacks: bool,
    ) -> None:
        self.estimator, self.n_epochs = estimator, n_epochs
        self.scale = scale
        self.n_rows, self.n_features = shape
        self.given = {"X": X, "y": y}
        self.attributes = attributes
        self.root: Any = None
        self.present: Any = None
        known = ("_skl_callbacks", "_parent_callback_ctx")
        if callbacks and any(hasattr(estimator, name) for name in known):
            self.root = estimator._init_callback_context(max_subtasks=n_epochs)
            self.root.call_on_fit_task_begin(estimator=estimator, **self.given)

    def begin(self) -> None:
        """An epoch begins."""
        if self.root is not None:
            self.present = self.root.subcontext(task_name="epoch")
            self.present.call_on_fit_task_begin(estimator=self.estimator, **self.given)

    def end(self, iteration: int, history: History) -> bool:
        """An epoch has ended. Whether a callback wants it to be the last."""
        epoch = history.epochs[-1]
        if self.estimator.verbose:
            explained = 1 - 2 * epoch.energy / self.n_features
            known = "" if math.isnan(explained) else f"explained variance {explained:.4f}, "
            print(  # noqa: T201
                f"epoch {iteration + 1}/{self.n_epochs}: loss {epoch.loss * self.scale**2:.6g}, "
                f"{known}{epoch.l0:.1f} active, {epoch.n_dead} dead, "
                f"{self.n_rows / max(epoch.seconds, 1e-9):,.0f} rows/s"
            )
        if self.present is None:
            return False
        return self.present.call_on_fit_task_end(
            estimator=self.estimator,
            reconstruction_attributes=lambda: self.attributes(history),
            **self.given,
        )

    def close(self) -> None:
        """The fit has ended, and the estimator has its attributes."""
        if self.root is not None:
            fitted = dict(vars(self.estimator))
            self.root.call_on_fit_task_end(
                estimator=self.estimator, reconstruction_attributes=fitted, **self.given
            )
