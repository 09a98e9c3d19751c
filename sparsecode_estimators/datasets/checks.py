"""Checks of parameters: each names the parameter, its value and the remedy."""

from numbers import Integral, Real
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


def check_real(name: str, value: Any, low: float) -> None:
    """Refuse what is no number, or below `low`.

    Raises
    ------
    TypeError, ValueError
    """
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"{name}={value!r} must be a number, got {type(value).__name__}.")
    if not float(value) >= low:  # NaN is neither
        raise ValueError(f"{name}={value} must be at least {low}.")


def check_confidence(confidence: Any) -> None:
    """Refuse what is no share of 1.

    Raises
    ------
    TypeError, ValueError
    """
    check_real("confidence", confidence, 0)
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence} must be between 0 and 1.")
