"""The private names of scikit-learn that the estimators need, from one place."""

from sklearn.base import _fit_context
from sklearn.utils._param_validation import Interval, StrOptions, validate_parameter_constraints

__all__ = ["Interval", "StrOptions", "_fit_context", "validate_parameter_constraints"]
