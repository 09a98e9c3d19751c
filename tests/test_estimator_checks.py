"""scikit-learn's contract, every check of it, for every estimator and variant."""

import numpy as np
import pytest
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import parametrize_with_checks

from sparsecode_estimators import ITORefiner, MLPEncoder, SAEEncoder, SparseCodingEncoder

# Checks that scikit-learn runs on itself but not on third parties.
FURTHER_CHECKS = [
    "check_param_validation",
    "check_get_feature_names_out_error",
    "check_transformer_get_feature_names_out",
    "check_transformer_get_feature_names_out_pandas",
    "check_set_output_transform",
    "check_set_output_transform_pandas",
    "check_global_output_transform_pandas",
    "check_set_output_transform_polars",
    "check_global_set_output_transform_polars",
    "check_inplace_ensure_writeable",
    "check_dataframe_column_names_consistency",
]


def random_atoms(n_components, n_features):
    """A dictionary for any width: the checks change the number of features."""
    rng = np.random.RandomState([n_components, n_features])
    atoms = rng.standard_normal((n_components, n_features))
    return atoms / np.linalg.norm(atoms, axis=1, keepdims=True)


FAST = {"max_iter": 5, "random_state": 0}
LEARN = {"max_iter": 10, "n_init": 2, "random_state": 0}


def encoders():
    for cls in (SAEEncoder, MLPEncoder):
        yield cls(**FAST)
        yield cls(activation="topk", n_nonzero_coefs=3, **FAST)
        yield cls(sparse_output=True, **FAST)
        yield cls(objective="codes", **FAST)
        yield cls(dictionary=random_atoms, **FAST)
        yield cls(fit_intercept=False, precision="float64", **FAST)


def coders():
    yield SparseCodingEncoder(**LEARN)
    yield SparseCodingEncoder(sparse_output=True, **LEARN)
    yield SparseCodingEncoder(n_nonzero_coefs=3, **LEARN)
    yield SparseCodingEncoder(positive_code=False, fit_intercept=True, **LEARN)
    for solver in ("fista", "lca", "adam"):
        yield SparseCodingEncoder(solver=solver, dictionary=random_atoms, transform_max_iter=200)
    for solver in ("omp", "omp_replacement"):
        yield SparseCodingEncoder(solver=solver, dictionary=random_atoms, n_nonzero_coefs=2)


def refiners():
    yield ITORefiner(dictionary=random_atoms)
    for inner in (*encoders(), SparseCodingEncoder(**LEARN)):
        if getattr(inner, "objective", None) != "codes":
            yield ITORefiner(inner)
    yield ITORefiner(SAEEncoder(**FAST), sparse_output=True, init="zeros")
    yield ITORefiner(SAEEncoder(**FAST), n_nonzero_coefs=2)
    yield ITORefiner(SAEEncoder(**FAST), solver="lca", positive_code=False, max_iter=50)


ESTIMATORS = [*encoders(), *coders(), *refiners()]


@parametrize_with_checks(ESTIMATORS)
def test_scikit_learn_contract(estimator, check):
    check(estimator)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("check", FURTHER_CHECKS)
@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda e: repr(e).replace("\n", ""))
def test_further_checks(estimator, check):
    getattr(estimator_checks, check)(type(estimator).__name__, estimator)
