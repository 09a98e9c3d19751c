"""What several docstrings say of one parameter they say in the same words."""

import importlib
import inspect
import re

import pytest

import sparsecode_estimators as public
from sparsecode_estimators import (
    ITORefiner,
    MLPEncoder,
    SAEEncoder,
    SparseCodingEncoder,
    UnrolledEncoder,
    datasets,
    formats,
    interpret,
    metrics,
    plotting,
    sparse_encode,
    theory,
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
    body = re.search(rf"^{title}\n-+\n(.*?)(?=^[A-Z][A-Za-z ]*\n-+\n|\Z)", text, re.M | re.S)
    entries = re.split(r"^(?=\S)", body[1] if body else "", flags=re.M)
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


ROOMS = (public, datasets, formats, interpret, metrics, plotting, theory)
PUBLIC = [(room, name) for room in ROOMS for name in room.__all__ if callable(getattr(room, name))]


@pytest.mark.parametrize(("room", "name"), PUBLIC, ids=[name for _, name in PUBLIC])
def test_whoever_reads_one_docstring_finds_the_next(room, name):
    documented = getattr(room, name)
    also = section(documented, "See Also")
    assert also or section(documented, "Examples")
    for each in also:
        package, _, last = each.rpartition(".")
        assert last in (importlib.import_module(package) if package else room).__all__
        assert last != name
