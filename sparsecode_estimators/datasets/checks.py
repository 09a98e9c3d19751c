"""Checks of parameters: each names the parameter, its value and the remedy."""

from numbers import Integral
from typing import Any


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Refuse what is not among the choices.

    Raises
    ------
    ValueError
    """
    if value not in choices:
        raise ValueError(f"{name}={value!r} is unknown; choose one of {list(choices)}.")


def check_integer(name: str, value: Any, low: int) -> None:
    """Refuse what is no integer, or below `low`.

    Raises
    ------
    TypeError, ValueError
    """
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(f"{name}={value!r} must be an integer, got {type(value).__name__}.")
    if value < low:
        raise ValueError(f"{name}={value} must be at least {low}.")
