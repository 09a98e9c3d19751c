"""Parameters and attributes of estimators as JSON and arrays, and back.

What JSON has no word for is an object with one key that says what it is: an array by the name
that it has among the tensors, an estimator by its place in a list. Nothing is looked up but
names in the table of classes.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.frozen import FrozenEstimator
from torch import Tensor

from ..estimators.ito import ITORefiner
from ..estimators.mlp import MLPEncoder
from ..estimators.sae import SAEEncoder
from ..estimators.sparse_coding import SparseCodingEncoder
from ..estimators.unrolled import UnrolledEncoder
from .files import as_array

CLASSES: dict[str, type[BaseEstimator]] = {
    each.__name__: each
    for each in (
        SAEEncoder, MLPEncoder, UnrolledEncoder, SparseCodingEncoder, ITORefiner, FrozenEstimator,
    )
}  # fmt: skip
# What estimators keep besides the attributes that end in "_". Callbacks are not kept: code.
PRIVATE = {
    "_bandwidth", "_energy", "_flops", "_input_scale", "_n_rows", "_online",
    "_optimizer_state", "_scale", "_silent_for", "_sklearn_output_config",
}  # fmt: skip
_CALLBACKS = {"_skl_callbacks", "_parent_callback_ctx"}
_NUMBERS = "fiub"


class Packer:
    """Takes estimators apart.

    Attributes
    ----------
    arrays : dict of str to ndarray
    estimators : list of dict
        Those inside others come first.
    """

    def __init__(self) -> None:
        self.arrays: dict[str, np.ndarray] = {}
        self.estimators: list[dict[str, Any]] = []
        self._places: dict[int, int] = {}

    def estimator(self, estimator: Any) -> int:
        """Its place in the list.

        Raises
        ------
        TypeError
            If its class, or something that it holds, is none that can be written and read.
        """
        if id(estimator) in self._places:
            return self._places[id(estimator)]
        name = type(estimator).__name__
        if CLASSES.get(name) is not type(estimator):
            raise TypeError(
                f"estimator is a {type(estimator).__module__}.{name}: only {', '.join(CLASSES)} "
                "can be written; use joblib or skops for others."
            )
        params = estimator.get_params(deep=False)
        attributes = {
            key: value
            for key, value in vars(estimator).items()
            if key not in params and key not in _CALLBACKS
        }
        for key in attributes:
            if not _is_fitted(type(estimator), key):
                raise TypeError(
                    f"{name}.{key} is no attribute of a fitted {name}, so load would refuse it: "
                    f"delete it (del estimator.{key}) and keep it elsewhere."
                )
        packed = {
            "class": name,
            "params": {key: self.value(v, f"{name}.{key}") for key, v in params.items()},
            "attributes": {key: self.value(v, f"{name}.{key}") for key, v in attributes.items()},
        }
        self.estimators.append(packed)
        self._places[id(estimator)] = len(self.estimators) - 1
        return self._places[id(estimator)]

    def value(self, value: Any, where: str) -> Any:
        """As JSON has it; ``where`` is for messages."""
        if value is None or isinstance(value, bool | str):
            return value
        if isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, int):
            return value
        if isinstance(value, float):
            return value if math.isfinite(value) else {"float": str(value)}
        if isinstance(value, Tensor):
            value = as_array(value)
        if isinstance(value, np.ndarray):
            return self._array(value, where)
        if isinstance(value, list | tuple):
            items = [self.value(item, where) for item in value]
            return items if isinstance(value, list) else {"tuple": items}
        if isinstance(value, dict) and all(isinstance(key, str) for key in value):
            return {"dict": {key: self.value(v, f"{where}.{key}") for key, v in value.items()}}
        if isinstance(value, os.PathLike | torch.device):
            return str(value)
        if isinstance(value, BaseEstimator):
            return {"estimator": self.estimator(value)}
        raise TypeError(
            f"{where} is a {type(value).__name__}, which cannot be written as data: set it to "
            "None, a number or an array before."
        )

    def _array(self, array: np.ndarray, where: str) -> dict[str, Any]:
        if array.dtype.kind == "O" and all(isinstance(item, str) for item in array.flat):
            return {"names": array.tolist()}
        if array.dtype.kind not in _NUMBERS:
            raise TypeError(
                f"{where} is an array of dtype {array.dtype}, which cannot be written as data: "
                "make it one of numbers."
            )
        name = f"{len(self.arrays)}:{where}"
        self.arrays[name] = array
        return {"array": name}


def unpack(estimators: list[Any], arrays: Mapping[str, np.ndarray]) -> Any:
    """The last estimator of a list, put together.

    Raises
    ------
    ValueError, TypeError, KeyError, IndexError, RecursionError
        If the list is none that :class:`Packer` makes.
    """
    made: list[Any] = []
    for packed in estimators:
        name = packed["class"]
        if name not in CLASSES:
            raise ValueError(f"its class is {name!r:.50}, but must be one of {', '.join(CLASSES)}")
        made.append(_estimator(CLASSES[name], packed, arrays, made))
    return made[-1]


def _estimator(
    kind: type[BaseEstimator], packed: Mapping[str, Any], arrays: Mapping, made: list[Any]
) -> Any:
    """One of them; those that it holds are made already."""
    params = {key: _value(value, arrays, made) for key, value in packed["params"].items()}
    unknown = set(params) - set(kind._get_param_names())
    if unknown:
        raise ValueError(f"{kind.__name__} has no parameters {sorted(unknown)}")
    estimator = kind(**params)
    if not isinstance(estimator, FrozenEstimator):  # it would hand the question on
        estimator._validate_params()
    for key, value in packed["attributes"].items():
        if not _is_fitted(kind, key):
            raise ValueError(f"{key!r:.50} is no attribute of a fitted {kind.__name__}")
        setattr(estimator, key, _value(value, arrays, made))
    return estimator


def _is_fitted(kind: type[BaseEstimator], key: str) -> bool:
    """Whether it names something that ``fit`` leaves, and nothing that the class has itself."""
    public = key.isidentifier() and key.endswith("_") and not key.startswith("_")
    return (public or key in PRIVATE) and not hasattr(kind, key)


def _value(value: Any, arrays: Mapping[str, np.ndarray], made: list[Any]) -> Any:
    if isinstance(value, list):
        return [_value(item, arrays, made) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) != 1:
        raise ValueError(f"{value!r:.80} stands for nothing")
    ((kind, content),) = value.items()
    if kind == "array":
        return arrays[content]
    if kind == "estimator":
        if type(content) is not int or not 0 <= content < len(made):
            raise ValueError(f"there is no estimator {content!r:.50} before this one")
        return made[content]
    if kind == "tuple":
        return tuple(_value(item, arrays, made) for item in content)
    if kind == "dict":
        return {key: _value(item, arrays, made) for key, item in content.items()}
    if kind == "float":
        if content not in ("nan", "inf", "-inf"):
            raise ValueError(f"{content!r:.50} is no number")
        return float(content)
    if kind == "names":
        if not all(isinstance(item, str) for item in content):
            raise ValueError("names are not all text")
        return np.array(content, dtype=object)
    raise ValueError(f"{kind!r:.50} stands for nothing")
