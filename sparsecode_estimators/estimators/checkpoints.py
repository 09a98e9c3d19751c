"""Under which name a fit is kept: what it depends on, as text, and a digest of that."""

from __future__ import annotations

import copy
import hashlib
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..learning.checkpoint import Checkpoint
from .arrays import Rows

_DIGEST_ROWS = 1024
# parameters that change nothing of what is learned
_SAME_RUN = (
    "checkpoint", "checkpoint_seconds", "checkpoint_steps", "device", "sparse_output", "verbose",
)  # fmt: skip
# what there is of these is learned, too, or counted
_WEIGHTS = (
    "alpha_", "gate_scale_", "gate_shift_", "input_components_", "input_intercept_", "intercept_",
    "step_sizes_", "threshold_", "_silent_for",
)  # fmt: skip


def run_facts(
    estimator: Any, sources: tuple[Rows, ...], given: np.ndarray | None, *, resume: bool
) -> dict[str, str]:
    """All that a fit depends on, by name, as text that is the same in every process.

    The parameters, the shape of the rows (and codes) and some of them, a dictionary that is given,
    and the weights that a warm start goes on from. All rows are read in :func:`checkpoint_of` only:
    processes that train together should each read their part.
    """
    facts = {"estimator": type(estimator).__name__}
    for name, value in sorted(estimator.get_params(deep=False).items()):
        if name not in _SAME_RUN:
            facts[name] = _text(value)
    for name, source in zip("Xy", sources, strict=False):
        some = _text(source.sample(_DIGEST_ROWS).cpu().double())
        facts[name] = f"{len(source)} × {source.n_features} {source.dtype}, rows like {some}"
    facts["the given dictionary"] = _text(given)
    if resume:
        facts["the fit to go on from"] = " ".join(map(_text, _learned(estimator)))
    return facts


def _learned(estimator: Any) -> list[Any]:
    """All that a fit goes on from: weights, and the moments of its optimiser."""
    _, moments = estimator._optimizer_state
    return [
        estimator.components_,
        *estimator.encoder_coefs_,
        *estimator.encoder_intercepts_,
        *(getattr(estimator, name) for name in _WEIGHTS if hasattr(estimator, name)),
        *(tensor for name in sorted(moments) for tensor in moments[name]),
    ]


def checkpoint_of(estimator: Any, facts: dict[str, str], sources: tuple[Rows, ...]) -> Checkpoint:
    """The checkpoint of a fit that depends on these facts, and on all rows.

    The name of the file is a digest of them and of all rows. So candidates of a grid search can
    share the folder, and no fit takes up another.
    """
    facts = {**facts, "all rows": " ".join(map(_digest, sources))}
    lines = "\n".join(f"{name}={fact}" for name, fact in facts.items())
    digest = hashlib.sha256(lines.encode()).hexdigest()
    path = Path(estimator.checkpoint) / f"{digest[:24]}.safetensors"
    return Checkpoint(path, estimator.checkpoint_seconds, estimator.checkpoint_steps)


def _digest(rows: Rows) -> str:
    """Of every number in the rows, in whatever batches they are read."""
    digest = hashlib.sha256()
    for batch in Rows(rows.source, rows.dtype, torch.device("cpu"), rows.factor).batches(1):
        digest.update(batch.contiguous().numpy().data)
    return digest.hexdigest()


def _text(value: Any) -> str:
    """A parameter, the same in every process and for every type that means the same."""
    if value is None or isinstance(value, str | bool | np.bool_):
        return str(value)
    if isinstance(value, Real):
        return _number(value)
    if isinstance(value, np.random.RandomState):
        return copy.deepcopy(value).bytes(32).hex()  # what it would draw
    if callable(value):
        return type(value).__name__  # what it returns is in the digest by itself
    array = np.asarray(value.detach().cpu().double() if hasattr(value, "detach") else value)
    array = array.astype(np.float64, order="C", copy=False)
    return f"{array.shape} {hashlib.sha256(array.data).hexdigest()}"


def _number(value: Any) -> str:
    """1, 1.0 and NumPy's are one number, but large integers keep all digits."""
    if isinstance(value, Integral) or float(value).is_integer():
        return str(int(value))
    return repr(float(value))
