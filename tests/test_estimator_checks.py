"""scikit-learn's contract, every check of it, for every estimator and variant."""

import numpy as np
import pytest
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import parametrize_with_checks

from sparsecode_estimators import (
    ITORefiner,
    MLPEncoder,
    SAEEncoder,
    SparseCodingEncoder,
    UnrolledEncoder,
)
from sparsecode_estimators.inference import SOLVERS

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


class RandomAtoms:
    """A dictionary for any width: the checks change the number of features."""

    def __call__(self, n_components, n_features):
        rng = np.random.RandomState([n_components, n_features])
        atoms = rng.standard_normal((n_components, n_features))
        return atoms / np.linalg.norm(atoms, axis=1, keepdims=True)

    def __repr__(self):
        return "random_atoms"  # without an address: workers must agree on the names of tests


random_atoms = RandomAtoms()


# Small and quick: the contract does not depend on size. The first of each class keeps its
# own number of components.
FAST = {"max_iter": 5, "random_state": 0}
LEARN = {"alpha": 0.5, "max_iter": 5, "n_init": 2, "random_state": 0}
KNOWN = {"n_components": 6, "alpha": 0.5, "dictionary": random_atoms}


SIZES = [
    (SAEEncoder, {}),
    (MLPEncoder, {"hidden_layer_sizes": (8,)}),
    (UnrolledEncoder, {"n_steps": 2}),
]


def encoders():
    for cls, size in SIZES:
        yield cls(**FAST, **size)
        yield cls(6, activation="topk", n_nonzero_coefs=3, **FAST, **size)
        yield cls(6, sparse_output=True, **FAST, **size)
        yield cls(objective="codes", **FAST, **size)
        yield cls(6, objective="targets", **FAST, **size)
        yield cls(6, dictionary=random_atoms, **FAST, **size)
        yield cls(6, fit_intercept=False, precision="float64", **FAST, **size)
    yield SAEEncoder(6, activation="abs_topk", n_nonzero_coefs=2, **FAST)
    yield SAEEncoder(
        6, activation="batch_topk", n_nonzero_coefs=2, prefix_sizes=[2], sparsity_warmup=0.5, **FAST
    )
    yield SAEEncoder(6, activation="jumprelu", max_grad_norm=1.0, **FAST)
    yield MLPEncoder(6, activation="gated", hidden_layer_sizes=(8,), **FAST)
    yield UnrolledEncoder(weights="analytic", **FAST)
    yield UnrolledEncoder(n_steps=1, weights="analytic", objective="codes", **FAST)


def coders():
    yield SparseCodingEncoder(**LEARN)
    yield SparseCodingEncoder(6, sparse_output=True, **LEARN)
    yield SparseCodingEncoder(6, n_nonzero_coefs=3, **LEARN)
    yield SparseCodingEncoder(6, positive_code=False, fit_intercept=True, **LEARN)
    for rule in ("mod", "ksvd"):
        yield SparseCodingEncoder(6, dict_update=rule, **LEARN)
    yield SparseCodingEncoder(6, batch_size=8, **LEARN)
    yield SparseCodingEncoder(6, batch_size=8, dict_update="mod", fit_intercept=True, **LEARN)
    yield SparseCodingEncoder(6, positive_dict=True, **LEARN)
    yield SparseCodingEncoder(6, positive_dict=True, batch_size=8, **LEARN)
    for solver, row in SOLVERS.items():
        k = 2 if row.solves == "k-sparse" else None
        yield SparseCodingEncoder(solver=solver, n_nonzero_coefs=k, transform_max_iter=50, **KNOWN)
    yield SparseCodingEncoder(ridge=0.1, debias=True, **KNOWN)


def refiners():
    yield ITORefiner(dictionary=random_atoms, alpha=0.5)
    for inner in (*encoders(), SparseCodingEncoder(6, **LEARN)):
        if getattr(inner, "objective", None) not in ("codes", "targets"):
            yield ITORefiner(inner)
    sae = SAEEncoder(6, **FAST)
    yield ITORefiner(sae, sparse_output=True, init="zeros")
    yield ITORefiner(sae, n_nonzero_coefs=2)
    yield ITORefiner(sae, ridge=0.1, debias=True)
    yield ITORefiner(sae, solver="lca", positive_code=False, max_iter=50)


ESTIMATORS = [*encoders(), *coders(), *refiners()]


@parametrize_with_checks(ESTIMATORS)
def test_scikit_learn_contract(estimator, check):
    check(estimator)


# these checks themselves fit on frames and transform arrays
@pytest.mark.filterwarnings("ignore:X (has|does not have valid) feature names")
@pytest.mark.parametrize("check", FURTHER_CHECKS)
@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda e: repr(e).replace("\n", ""))
def test_further_checks(estimator, check):
    getattr(estimator_checks, check)(type(estimator).__name__, estimator)
