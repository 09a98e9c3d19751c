"""One clear error for each mistake: the parameter, the value, the remedy."""

import numpy as np
import pytest
import torch
from problems import planted
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator

from sparsecode_estimators import (
    ITORefiner,
    MLPEncoder,
    SAEEncoder,
    SparseCodingEncoder,
    UnrolledEncoder,
    sparse_encode,
)
from sparsecode_estimators.inference import SOLVERS

X, CODES, D = planted(40, 8, 16, 3, seed=30)
TRAINED = [SAEEncoder, MLPEncoder, UnrolledEncoder]
ENCODERS = [*TRAINED, SparseCodingEncoder]
ALL = [*ENCODERS, lambda **kw: ITORefiner(dictionary=D, **kw)]


def with_value(value):
    bad = X.copy()
    bad[3, 2] = value
    return bad


BAD_X = [
    (with_value(np.nan), "NaN"),
    (with_value(np.inf), "infinity"),
    (np.empty((0, 8)), "0 sample"),
    (np.empty((5, 0)), "0 feature"),
    (X[0], "Expected 2D array"),
    (X[None], "dim 3|3D"),
    (X.astype(complex), "Complex"),
]


@pytest.mark.parametrize(("bad", "message"), BAD_X, ids=[m for _, m in BAD_X])
@pytest.mark.parametrize("make", ALL)
def test_bad_arrays(make, bad, message):
    with pytest.raises(ValueError, match=message):
        make().fit(bad)
    with pytest.raises(ValueError, match=message):
        make().fit(torch.tensor(bad))


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_infinity_in_streams(dtype, tmp_path):
    np.save(tmp_path / "X.npy", with_value(np.inf).astype(dtype))
    with pytest.raises(ValueError, match="infinity"):
        SAEEncoder().fit(np.load(tmp_path / "X.npy", mmap_mode="r"))


@pytest.mark.parametrize("make", ALL)
def test_wrong_width(make):
    fitted = make().set_params(max_iter=2).fit(X)
    with pytest.raises(ValueError, match="8 features"):
        fitted.transform(X[:, :5])
    with pytest.raises(ValueError, match=r"codes has shape \(40, 3\)"):
        fitted.inverse_transform(X[:, :3])


BAD_CODES = [
    (np.full((2, 16), np.nan), "NaN"),
    (np.full((2, 16), -np.inf), "infinity"),
    (np.empty((0, 16)), "0 sample"),
    (CODES.astype(complex), "Complex"),
    (CODES[0], "Expected 2D array"),
]


@pytest.mark.parametrize(("bad", "message"), BAD_CODES, ids=[m for _, m in BAD_CODES])
def test_bad_codes_to_decode(bad, message):
    sae = SAEEncoder(16, max_iter=1, random_state=0).fit(X)
    for codes in (bad, torch.tensor(bad), torch.tensor(bad).to_sparse()):
        with pytest.raises(ValueError, match=message):
            sae.inverse_transform(codes)


@pytest.mark.parametrize("make", ENCODERS)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_components": 0}, "n_components"),
        ({"n_nonzero_coefs": 0}, "n_nonzero_coefs"),
        ({"n_nonzero_coefs": -1}, "n_nonzero_coefs"),
        ({"alpha": -0.1}, "alpha"),
        ({"alpha": "large"}, "alpha"),
        ({"max_iter": 0}, "max_iter"),
        ({"precision": "float8"}, "precision"),
        ({"dictionary": D.T}, r"dictionary has shape \(8, 16\).*Transpose"),
        ({"dictionary": D[:, :5]}, "dictionary has shape"),
        ({"dictionary": D[0]}, "dictionary has shape"),
        ({"dictionary": np.vstack([D, np.zeros(8)])}, "atoms that are all zero"),
        ({"dictionary": np.full((16, 8), np.nan)}, "dictionary contains NaN"),
        ({"dictionary": D, "n_components": 7}, "16 atoms but n_components=7"),
        ({"dict_init": D[:, :5]}, "dict_init has shape"),
        ({"device": "cuda:99"}, "device='cuda:99' cannot be used"),
        ({"device": "helloworld"}, "device='helloworld' cannot be used"),
    ],
    ids=lambda v: str(v)[:40],
)
def test_bad_parameters(make, options, message):
    with pytest.raises(ValueError, match=message):
        make(**options).fit(X)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_atoms_may_be_very_short_or_very_long(dtype):
    """So that their squared lengths are zero, or infinite; no others are like zeros or infinity."""
    extreme = np.float64(np.finfo(dtype).max) ** 0.6
    atoms = np.vstack([D, D[:1] / extreme, D[1:2] * extreme]).astype(dtype)
    assert (np.einsum("jm,jm->j", atoms, atoms)[16:] == [0, np.inf]).all()
    fitted = SparseCodingEncoder(dictionary=atoms, alpha=0.1).fit(X.astype(dtype))
    np.testing.assert_array_equal(fitted.components_, atoms)
    for bad, message in [(np.inf, "dictionary contains NaN or inf"), (0, r"zero \(rows \[17\]\)")]:
        broken = atoms.copy()
        broken[17] = 0
        broken[17, 3] = bad
        with pytest.raises(ValueError, match=message):
            SparseCodingEncoder(dictionary=broken, alpha=0.1).fit(X.astype(dtype))


@pytest.mark.parametrize("make", TRAINED)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"activation": "gelu"}, "activation"),
        ({"objective": "everything"}, "objective"),
        ({"optimizer": "lbfgs"}, "optimizer"),
        ({"learning_rate_init": 0.0}, "learning_rate_init"),
        ({"batch_size": 0}, "batch_size"),
        ({"n_nonzero_coefs": 3}, "is for activation='topk'"),
        ({"dictionary": D, "dict_init": D}, "give only one"),
        ({"learning_rate": "step"}, "learning_rate"),
        ({"learning_rate_warmup": 1.5}, "learning_rate_warmup"),
        ({"sparsity_warmup": -0.1}, "sparsity_warmup"),
        ({"max_grad_norm": 0.0}, "max_grad_norm"),
        ({"dead_after": 2**70}, "dead_after"),
    ],
    ids=lambda v: str(v)[:40],
)
def test_bad_training_parameters(make, options, message):
    with pytest.raises(ValueError, match=message):
        make(**options).fit(X)


@pytest.mark.parametrize("make", [SAEEncoder, MLPEncoder])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"activation": "gated", "n_nonzero_coefs": 3}, "is for activation='topk'"),
        ({"penalty": "l2"}, "penalty"),
        ({"penalty": "l0"}, "choose 'auto', 'l1', 'tanh'"),
        ({"activation": "jumprelu", "penalty": "l1"}, "choose 'auto', 'l0', 'tanh'"),
        ({"activation": "topk", "penalty": "l1"}, "choose 'auto'"),
        ({"prefix_sizes": [2]}, "set activation='topk' or 'batch_topk'"),
        ({"activation": "topk", "prefix_sizes": [4, 2]}, "must rise"),
        ({"activation": "topk", "prefix_sizes": [0, 2]}, r"prefix_sizes\[0\]=0 must"),
        ({"activation": "topk", "prefix_sizes": [2, 3.0]}, r"prefix_sizes\[1\]=3.0 must"),
        ({"activation": "topk", "prefix_sizes": [2, 2]}, "must rise"),
    ],
    ids=lambda v: str(v)[:40],
)
def test_bad_variants(make, options, message):
    with pytest.raises(ValueError, match=message):
        make(**options).fit(X)


def test_nested_dictionaries_need_a_reconstruction():
    sae = SAEEncoder(objective="codes", activation="topk", prefix_sizes=[2])
    with pytest.raises(ValueError, match="nest reconstructions"):
        sae.fit(X, np.ones((len(X), 4)))


@pytest.mark.parametrize("sizes", [(0,), (3, -1), (2.5,)])
def test_bad_hidden_layers(sizes):
    with pytest.raises(ValueError, match=r"hidden_layer_sizes\[\d\]"):
        MLPEncoder(hidden_layer_sizes=sizes).fit(X)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_steps": 0}, "n_steps"),
        ({"n_steps": -3}, "n_steps"),
        ({"n_steps": 2.5}, "n_steps"),
        ({"weights": "tied"}, "weights"),
    ],
    ids=lambda v: str(v)[:40],
)
def test_bad_steps(options, message):
    with pytest.raises(ValueError, match=message):
        UnrolledEncoder(**options).fit(X)


@pytest.mark.parametrize("make", TRAINED)
@pytest.mark.parametrize(
    ("y", "options", "message"),
    [
        (None, {}, "requires y"),
        (CODES[:7], {}, "X has 40 rows but y has 7"),
        (CODES, {"n_components": 12}, "y has 16 columns but n_components=12"),
        (CODES[:, :5], {"dictionary": D}, "y has 5 columns"),
        (np.full_like(CODES, np.nan), {}, "NaN"),
    ],
    ids=["none", "rows", "columns", "dictionary", "nan"],
)
def test_bad_codes(make, y, options, message):
    with pytest.raises(ValueError, match=message):
        make(objective="codes", **options).fit(X, y)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give exactly one"),
        ({"alpha": 0.1, "n_nonzero_coefs": 2}, "give exactly one"),
        ({"alpha": -1.0}, "alpha"),
        ({"n_nonzero_coefs": 0}, "n_nonzero_coefs"),
        ({"alpha": 0.1, "solver": "simplex"}, "solver"),
        *(
            (
                {"alpha": 0.1, "solver": name},
                "set n_nonzero_coefs, or choose solver='working_set', 'fista'",
            )
            for name, row in SOLVERS.items()
            if row.solves == "k-sparse"
        ),
        *(
            ({"n_nonzero_coefs": 2, "solver": name}, "n_nonzero_coefs=None, or choose .*'omp'")
            for name, row in SOLVERS.items()
            if row.solves == "lasso"
        ),
        ({"alpha": 0.1, "solver": "adam", "positive_code": False}, "positive_code=True"),
        ({"alpha": 0.1, "max_iter": 0}, "max_iter"),
        ({"alpha": 0.1, "tol": 0.0}, "tol"),
        ({"alpha": 0.1, "weights": np.ones(3)}, r"weights has shape \(3,\).*one weight for each"),
        ({"alpha": 0.1, "weights": ["a"] * 16}, "weights has .*real numbers"),
        ({"alpha": 0.1, "weights": np.eye(16)[0]}, r"weights must be finite and above 0.*\[1, 2"),
        ({"alpha": 0.1, "weights": np.full(16, np.nan)}, "weights must be finite"),
        ({"alpha": 0.1, "ridge": -1.0}, "ridge"),
        ({"alpha": 0.1, "debias": "yes"}, "debias"),
        ({"n_nonzero_coefs": 2, "weights": np.ones(16)}, "weights belongs to the penalty"),
        ({"n_nonzero_coefs": 2, "ridge": 0.5}, "ridge=0.5 belongs to the penalty"),
        ({"alpha": 0.1, "init": CODES[:3]}, "init has 3 rows but X has 40"),
        ({"alpha": 0.1, "init": CODES[:, :3]}, r"shape \(40, 3\)"),
    ],
    ids=lambda v: str(v)[:40],
)
def test_bad_arguments_of_sparse_encode(options, message):
    with pytest.raises(ValueError, match=message):
        sparse_encode(X, D, **options)


def test_sparse_encode_learns_no_dictionary():
    with pytest.raises(ValueError, match=r"dictionary=None.*SparseCodingEncoder"):
        sparse_encode(X, None, alpha=0.1)


def test_exhaustive_search_names_its_limit():
    wide = planted(1, 8, 64, 3, seed=31)[2]
    message = r"all 8,303,632 supports of at most 5 of 64 atoms, and its limit is 200,000"
    with pytest.raises(ValueError, match=message):
        sparse_encode(X, wide, n_nonzero_coefs=5, solver="l0")


def test_weights_need_atoms_to_belong_to():
    with pytest.raises(ValueError, match="weights are for atoms that are known"):
        SparseCodingEncoder(16, weights=np.ones(16)).fit(X)
    with pytest.raises(ValueError, match=r"weights has shape \(3,\)"):
        SparseCodingEncoder(dictionary=D, weights=np.ones(3)).fit(X)
    with pytest.raises(ValueError, match=r"weights has shape \(3,\)"):
        ITORefiner(dictionary=D, weights=np.ones(3)).fit(X)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"solver": "omp"}, "solver='omp' gives k-sparse codes"),
        ({"weights": [1, 2]}, r"weights has shape \(2,\).*\(16,\)"),
        ({"weights": np.zeros(16)}, "weights must be finite and above 0"),
        ({"dictionary": D[:5]}, "dictionary has 5 atoms but n_components=16"),
        ({"n_nonzero_coefs": 2, "ridge": 0.5}, "ridge=0.5 belongs to the penalty"),
    ],
)
def test_ito_looks_at_its_own_parameters_before_the_fit_of_its_encoder(
    options, message, monkeypatch
):
    monkeypatch.setattr(SAEEncoder, "fit", lambda *_: pytest.fail("this may have taken hours"))
    with pytest.raises(ValueError, match=message):
        ITORefiner(SAEEncoder(16), **options).fit(X)


@pytest.mark.filterwarnings("ignore:overflow encountered in cast:RuntimeWarning")
@pytest.mark.parametrize("make", TRAINED)
def test_numbers_beyond_the_type_of_training(make):
    with pytest.raises(ValueError, match=r"X has numbers beyond torch.float32.*precision="):
        make(16, max_iter=2).fit(X * 1e100)
    with pytest.raises(ValueError, match=r"y has numbers beyond torch.float32"):
        make(16, max_iter=2, objective="targets").fit(X, X * 1e100)
    assert np.isfinite(make(16, max_iter=2, precision="float64").fit(X * 1e100).loss_)


@pytest.mark.parametrize("make", [SAEEncoder, SparseCodingEncoder])
def test_rows_that_give_no_alpha_are_told_of(make):
    coder = make(16, fit_intercept=True)
    with pytest.warns(UserWarning, match="alpha='auto' is 0.*begin with rows that differ"):
        coder.partial_fit(np.full((5, 8), 3.0))
    assert coder.alpha_ == 0


@pytest.mark.parametrize("options", [{}, {"batch_size": 10}])
def test_rows_whose_squares_vanish_are_not_learned_from(options):
    coder = SparseCodingEncoder(16, n_init=1, max_iter=3, random_state=0, **options)
    with pytest.raises(ValueError, match=r"X is too small.*precision='float64'"):
        coder.fit(X * 1e-22)
    assert coder.set_params(precision="float64").fit(X * 1e-22).score(X * 1e-22) > 0.5


def test_exhaustive_search_names_its_limit_before_learning(monkeypatch):
    monkeypatch.setattr(SparseCodingEncoder, "_learn", lambda *_, **__: pytest.fail("too late"))
    with pytest.raises(ValueError, match="supports of at most 8 of 64 atoms"):
        SparseCodingEncoder(64, n_nonzero_coefs=8, solver="l0").fit(X)


def test_a_dictionary_is_known_or_where_learning_begins():
    with pytest.raises(ValueError, match="dictionary and dict_init are both given"):
        SparseCodingEncoder(dictionary=D, dict_init=D).fit(X)


def test_weights_of_atoms_that_were_given_end_where_learning_goes_on():
    coder = SparseCodingEncoder(dictionary=D, weights=np.full(16, 50.0)).fit(X)
    coder.set_params(dictionary=None, weights=None, warm_start=True, max_iter=3)
    for call in (coder.fit, coder.partial_fit):
        with pytest.raises(ValueError, match="the last fit had weights"):
            call(X)


@pytest.mark.parametrize("make", ENCODERS)
def test_an_interrupted_fit_is_none(make, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    estimator = make()
    monkeypatch.setattr(estimator, "_store", interrupted)
    with pytest.raises(KeyboardInterrupt):
        estimator.set_params(max_iter=2).fit(X)
    for call in (estimator.transform, estimator.score):
        with pytest.raises(NotFittedError):
            call(X)


def test_ito_needs_something_to_refine():
    with pytest.raises(ValueError, match="estimator=None and dictionary=None"):
        ITORefiner().fit(X)


def test_ito_needs_codes_for_its_dictionary():
    from sklearn.preprocessing import StandardScaler

    with pytest.raises(ValueError, match="no components_"):
        ITORefiner(StandardScaler()).fit(X)
    with pytest.raises(ValueError, match=r"dictionary has shape \(16, 8\)"):
        ITORefiner(SAEEncoder(max_iter=2), dictionary=D).fit(X)


def test_ito_refines_rows_of_the_width_of_its_encoder():
    sae = FrozenEstimator(SAEEncoder(4, max_iter=2).fit(X))
    with pytest.raises(ValueError, match=r"was fitted to 8 features, but X has 5"):
        ITORefiner(sae).fit(X[:, :5])


def test_warm_start_of_another_shape():
    sae = SAEEncoder(16, max_iter=2, warm_start=True).fit(X)
    with pytest.raises(ValueError, match="warm_start=False"):
        sae.set_params(n_components=12).fit(X)


@pytest.mark.parametrize("make", ENCODERS)
def test_warm_start_without_the_offset_that_was_learned(make):
    encoder = make(16, max_iter=2, warm_start=True, fit_intercept=True).fit(X + 1)
    encoder.set_params(fit_intercept=False)
    for go_on in (encoder.fit, encoder.partial_fit):
        with pytest.raises(ValueError, match=r"fit_intercept=False .*warm_start=False"):
            go_on(X + 1)
    assert not encoder.set_params(warm_start=False).fit(X + 1).intercept_.any()
    encoder.set_params(warm_start=True).fit(X + 1)


@pytest.mark.parametrize(
    ("before", "now"),
    [("relu", "batch_topk"), ("topk", "jumprelu"), ("batch_topk", "jumprelu"),
     ("jumprelu", "batch_topk"), ("jumprelu", "relu"), ("gated", "topk"), ("abs_topk", "gated")],
)  # fmt: skip
def test_warm_start_with_an_activation_that_learns_something_else(before, now):
    sae = SAEEncoder(16, activation=before, max_iter=1, warm_start=True).fit(X)
    sae.set_params(activation=now)
    message = f"activation='{now}', but this SAEEncoder was fitted with .*warm_start=False"
    for call in (sae.fit, sae.transform):
        with pytest.raises(ValueError, match=message):
            call(X)
    sae.set_params(warm_start=False).fit(X).set_params(warm_start=True).fit(X)


@pytest.mark.parametrize("options", [{"n_steps": 4}, {"weights": "analytic"}])
@pytest.mark.parametrize("n_steps", [1, 2])
def test_warm_start_of_other_steps(options, n_steps):
    encoder = UnrolledEncoder(16, n_steps=n_steps, max_iter=2, warm_start=True).fit(X)
    with pytest.raises(ValueError, match=f"has {n_steps} steps with learned.*warm_start=False"):
        encoder.set_params(**options).fit(X)


def test_a_loss_that_explodes_says_so():
    for options in ({"max_iter": 20}, {"max_iter": 5}, {"activation": "gated", "max_iter": 20}):
        sae = SAEEncoder(16, learning_rate_init=1e30, random_state=0, **options)
        with pytest.raises(FloatingPointError, match="learning_rate_init"):
            sae.fit(X)
        assert np.isnan(sae.loss_)
        assert np.isnan(sae.history_["explained_variance"][-1])


def test_absent_cuda_names_the_remedy(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    sae = SAEEncoder(16, max_iter=2).fit(X)
    if torch.cuda.device_count() == 0:
        with pytest.raises(ValueError, match="device='cpu'"):
            sae.set_params(device="cuda").transform(X)
    assert sae.set_params(device="auto").transform(X).shape == (40, 16)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 1.0, "max_iter": 0}, "'max_iter' parameter of sparse_encode"),
        ({"alpha": -1.0}, "'alpha' parameter of sparse_encode must be a float"),
        ({"alpha": "auto"}, "'alpha' parameter of sparse_encode must be a float"),
        ({"alpha": 1.0, "init": "zeros"}, "init='zeros': give codes"),
        ({"alpha": 1.0, "init": np.zeros((40, 2))}, r"init has shape \(40, 2\)"),
        ({"alpha": 1.0, "init": np.zeros((3, 16))}, "init has 3 rows but X has 40"),
        ({"alpha": 1.0, "init": np.full((40, 16), np.nan)}, "Input init contains NaN"),
    ],
)
def test_the_function_names_its_own_parameters(options, message):
    with pytest.raises(ValueError, match=message):
        sparse_encode(X, D, **options)
