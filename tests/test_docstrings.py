"""What several docstrings say of one parameter they say in the same words."""

import inspect
import re

import pytest

from sparsecode_estimators import (
    ITORefiner,
    MLPEncoder,
    SAEEncoder,
    SparseCodingEncoder,
    UnrolledEncoder,
    sparse_encode,
)

# Of each pair, the parameters that mean something else.
OWN = {
    (SAEEncoder, MLPEncoder): {"dict_init"},
    (SAEEncoder, UnrolledEncoder): {
        "activation", "alpha", "aux_alpha", "dict_init", "learning_rate_init", "n_nonzero_coefs",
        "objective", "optimizer", "precision",
    },
    (SparseCodingEncoder, ITORefiner): {
        "alpha", "dictionary", "max_iter", "n_nonzero_coefs", "positive_code", "ridge", "solver",
        "tol", "weights",
    },
}  # fmt: skip


def section(documented, title):
    """Of each entry of a section the text, its lines joined."""
    text = inspect.getdoc(documented)
    body = re.search(rf"^{title}\n-+\n(.*?)(?=^[A-Z][A-Za-z ]*\n-+\n|\Z)", text, re.M | re.S)[1]
    entries = re.split(r"^(?=\S)", body, flags=re.M)
    return {each.split(" :")[0]: " ".join(each.split()) for each in entries if each.strip()}


@pytest.mark.parametrize("pair", OWN, ids=lambda pair: " and ".join(c.__name__ for c in pair))
def test_one_parameter_is_described_in_one_way(pair):
    first, second = (section(each, "Parameters") for each in pair)
    differing = {name for name in first.keys() & second.keys() if first[name] != second[name]}
    assert differing == OWN[pair]


@pytest.mark.parametrize(
    "documented",
    [SAEEncoder, MLPEncoder, UnrolledEncoder, SparseCodingEncoder, ITORefiner, sparse_encode],
    ids=lambda documented: documented.__name__,
)
def test_parameters_are_those_of_the_signature_and_their_defaults(documented):
    described = section(documented, "Parameters")
    parameters = inspect.signature(documented).parameters
    assert list(described) == list(parameters)
    for name, parameter in parameters.items():
        stated = re.search(r"default=(\S+)", described[name])
        if parameter.default is inspect.Parameter.empty:
            assert stated is None
            continue
        default = parameter.default
        shown = {f'"{default}"'} if isinstance(default, str) else {repr(default), f"{default!r}."}
        if isinstance(default, float):
            assert float(stated[1]) == default
        else:
            assert stated[1] in shown
