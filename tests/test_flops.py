"""Operations: the paper's formulas to the digit, and ours against torch's own counter."""

import numpy as np
import pytest
import torch
from problems import planted
from scipy.sparse import csr_array
from sklearn.decomposition import MiniBatchDictionaryLearning
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch.utils.flop_counter import FlopCounterMode

from sparsecode_estimators import (
    ITORefiner,
    MLPEncoder,
    SAEEncoder,
    SparseCodingEncoder,
    UnrolledEncoder,
    kernels,
    sparse_encode,
)
from sparsecode_estimators.estimators import start as beginning
from sparsecode_estimators.inference import SOLVERS
from sparsecode_estimators.kernels import sparse
from sparsecode_estimators.learning.dead import DeadLatents
from sparsecode_estimators.theory import count_flops

X, CODES, D = planted(512, 8, 16, 3, seed=80)
B, N, M = 1024, 16, 8
aten = torch.ops.aten


def numbers(shape):
    return int(np.prod(shape))


# what torch does not count of itself, in the textbook's numbers
MORE = {
    aten.linalg_cholesky_ex: lambda a, *_, **__: numbers(a[:-1]) * a[-1] ** 2 // 3,
    aten.cholesky_solve: lambda b, *_, **__: 2 * numbers(b) * b[-2],
    aten.linalg_qr: lambda a, *_, **__: 4 * numbers(a) * a[-1],
    aten._linalg_solve_ex: lambda a, *_, **__: 2 * numbers(a) * a[-1] // 3,
    aten.mv: lambda a, *_, **__: 2 * numbers(a),
    aten.addmv: lambda _, a, *__, **___: 2 * numbers(a),
    aten._embedding_bag: lambda w, i, *_, **__: 2 * numbers(i) * w[1],
    aten._embedding_bag_forward_only: lambda w, i, *_, **__: 2 * numbers(i) * w[1],
}


def counted(run):
    """Operations by torch's counter."""
    with FlopCounterMode(display=False, custom_mapping=MORE) as counter:
        run()
    return counter.get_total_flops()


@pytest.fixture
def reference(monkeypatch):
    """The kernels that torch can see: compiled loops are a blank to its counter."""
    monkeypatch.setattr(kernels, "_compiled", lambda: None)
    monkeypatch.setattr(sparse, "_compiled", lambda: None)


class TestPaper:
    def test_ten_thousand_iterations(self):
        ito = ITORefiner(dictionary=D, solver="adam", max_iter=10_000, tol=None)
        assert count_flops(ito, B, convention="paper") == 7_209_107_456

    @pytest.mark.parametrize("known", [True, False])
    def test_formulas(self, known):
        """As they stand in the paper, with 500 full-batch steps."""
        T, h, learned = 500, 256, 0 if known else 1
        given = {"dictionary": D if known else None, "max_iter": T}
        MN = M * N
        F = 2 * MN + N + learned * 3 * MN
        expected = {
            SAEEncoder(N, **given): (
                B * (4 * MN + N),
                B * T * (10 * MN + 5 * N + learned * 3 * MN),
            ),
            MLPEncoder(N, hidden_layer_sizes=(h,), **given): (
                B * (2 * M * h + h + 2 * h * N + N + 2 * MN),
                B * T * (6 * M * h + 6 * h * N + 4 * MN + 5 * h + 5 * N + learned * 3 * MN),
            ),
            SparseCodingEncoder(N, transform_max_iter=T, **given): (
                B * (MN + N + T * (4 * MN + 2 * M + 11 * N)),
                B * T * (3 * F + (2 * M + N) * B + N * B + learned * MN),
            ),
        }
        for estimator, values in expected.items():
            for phase, value in zip(("inference", "training"), values, strict=True):
                found = count_flops(estimator, B, phase=phase, convention="paper", n_features=M)
                assert found == value
                assert isinstance(found, int)

    def test_digits(self):
        """Worked out by hand for N = 16, M = 8."""
        options = {"convention": "paper", "n_features": 8}
        sae, mlp = SAEEncoder(16, max_iter=1), MLPEncoder(16, max_iter=1)
        coder = SparseCodingEncoder(16, max_iter=1)
        assert count_flops(sae, 1, **options) == 528
        assert count_flops(sae, 1, phase="training", **options) == 1744
        assert count_flops(mlp, 1, **options) == 12_816
        assert count_flops(mlp, 1, phase="training", **options) == 39_120
        # 3F + (2M + N)B + NB + MN with F = 656, for one sample and for two
        assert count_flops(coder, 1, phase="training", **options) == 2144
        assert count_flops(coder, 2, phase="training", **options) == 2 * 2192

    def test_known_codes_train_no_dictionary(self):
        options = {"phase": "training", "convention": "paper", "n_features": 8}
        sae = SAEEncoder(16, objective="codes", max_iter=1)
        assert count_flops(sae, 1, **options) == 1744 - 3 * 8 * 16

    def test_iterations_that_were_taken(self):
        """Epochs of a fit that ended early; iterations of the rows that are given."""
        sae = SAEEncoder(N, max_iter=500, tol=0.5, n_iter_no_change=2, random_state=0).fit(X)
        assert sae.n_iter_ < 500
        per_step = 512 * (13 * M * N + 5 * N)
        found = count_flops(sae, 512, phase="training", convention="paper")
        assert found == sae.n_iter_ * per_step
        coder = SparseCodingEncoder(dictionary=D, alpha=0.02, solver="fista").fit(X)
        _, info = sparse_encode(X, D, alpha=0.02, solver="fista", return_info=True)
        per_row, iteration = M * N + N, 4 * M * N + 2 * M + 11 * N
        assert count_flops(coder, X, convention="paper") == (
            512 * per_row + info.n_iter.sum() * iteration
        )

    def test_training_of_a_refiner_is_that_of_its_encoder(self):
        sae = SAEEncoder(N, max_iter=7)
        for refiner in (ITORefiner(sae), ITORefiner(sae).fit(X)):
            for convention in ("paper", "exact") if hasattr(refiner, "estimator_") else ("paper",):
                options = {"phase": "training", "convention": convention, "n_features": M}
                inner = getattr(refiner, "estimator_", sae)
                assert count_flops(refiner, 512, **options) == count_flops(inner, 512, **options)
        assert count_flops(ITORefiner(dictionary=D).fit(X), B, phase="training") == 0

    @pytest.mark.parametrize("convention", ["paper", "exact"])
    def test_training_of_a_refiner_is_that_of_its_frozen_encoder(self, convention):
        sae = SAEEncoder(N, max_iter=7, random_state=0).fit(X)
        options = {"phase": "training", "convention": convention}
        refiner = ITORefiner(FrozenEstimator(sae)).fit(X)
        assert count_flops(refiner, 512, **options) == count_flops(sae, 512, **options) > 0


PLAIN = {"alpha": 0.05, "max_iter": 20, "random_state": 0, "dead_after": 10**9}
LONGER = {**PLAIN, "max_iter": 80}  # beside which the start from known codes is little
ENCODERS = {
    "relu": SAEEncoder(N, **PLAIN),
    "known dictionary": SAEEncoder(dictionary=D, **PLAIN),
    "tanh": SAEEncoder(N, penalty="tanh", **PLAIN),
    "topk": SAEEncoder(N, activation="topk", n_nonzero_coefs=3, **PLAIN),
    "abs_topk": SAEEncoder(N, activation="abs_topk", n_nonzero_coefs=3, **PLAIN),
    "batch_topk": SAEEncoder(N, activation="batch_topk", n_nonzero_coefs=3, **PLAIN),
    "jumprelu": SAEEncoder(N, activation="jumprelu", **PLAIN),
    "gated": SAEEncoder(N, activation="gated", **PLAIN),
    "nested": SAEEncoder(N, activation="topk", n_nonzero_coefs=3, prefix_sizes=(4, 8), **PLAIN),
    "many atoms": SAEEncoder(200, activation="topk", n_nonzero_coefs=3, **PLAIN),
    "known codes": SAEEncoder(objective="codes", **LONGER),
    "sign descent": SAEEncoder(N, optimizer="sign", learning_rate="constant", **PLAIN),
    "mlp": MLPEncoder(N, hidden_layer_sizes=(32, 24), **PLAIN),
    "mlp, topk": MLPEncoder(
        200, hidden_layer_sizes=(32,), activation="topk", n_nonzero_coefs=3, **PLAIN
    ),
    "mlp, known codes": MLPEncoder(hidden_layer_sizes=(32, 24), objective="codes", **LONGER),
    "mlp, gated": MLPEncoder(dictionary=D, activation="gated", **PLAIN),
    "unrolled": UnrolledEncoder(N, n_steps=3, **PLAIN),
    "one step": UnrolledEncoder(N, n_steps=1, **PLAIN),
    "unrolled, known dictionary": UnrolledEncoder(dictionary=D, **PLAIN),
    "unrolled, known codes": UnrolledEncoder(objective="codes", **PLAIN),
    "ALISTA": UnrolledEncoder(N, weights="analytic", **PLAIN),
    "ALISTA, known dictionary": UnrolledEncoder(dictionary=D, weights="analytic", **PLAIN),
}
# Rows of eight features, atoms of five
OTHER = planted(512, 5, 16, 3, seed=82)
ENCODERS |= {
    "transcoder": SAEEncoder(40, objective="targets", **LONGER),
    "transcoder, gated": SAEEncoder(40, activation="gated", objective="targets", **LONGER),
    "transcoder, topk": SAEEncoder(
        60, activation="topk", n_nonzero_coefs=3, objective="targets", **LONGER
    ),
    "transcoder, known dictionary": SAEEncoder(dictionary=OTHER[2], objective="targets", **LONGER),
    "transcoder, mlp": MLPEncoder(40, hidden_layer_sizes=(32,), objective="targets", **LONGER),
    "transcoder, unrolled": UnrolledEncoder(40, objective="targets", **LONGER),
    "transcoder, ALISTA": UnrolledEncoder(40, weights="analytic", objective="targets", **LONGER),
}


def parameters(encoder):
    """Of a fitted encoder, those that training has moved."""
    module = encoder.to_module("cpu")
    moved = [p for p, _ in module.encoder_parameters()]
    if encoder.objective != "codes" and encoder.dictionary is None:
        moved += [module.dictionary, module.offset]
    return sum(p.numel() for p in moved)


def beside(encoder):
    """What is given beside the rows."""
    return OTHER[0] if encoder.objective == "targets" else CODES


@pytest.mark.parametrize("name", ENCODERS)
class TestEncodersAgainstTorch:
    def test_training(self, name, reference, monkeypatch):
        encoder, seen = ENCODERS[name], []
        monkeypatch.setattr(
            beginning, "fit_length_", lambda model, x: None
        )  # before the first step
        products = sparse.products
        monkeypatch.setattr(
            sparse,
            "products",
            lambda at, R, A: seen.append(2 * len(at.atoms) * A.shape[1]) or products(at, R, A),
        )
        by_torch = counted(lambda: encoder.fit(X, beside(encoder))) + sum(seen)
        # what torch does not count: the optimiser, and atoms brought to unit length
        entries = 12 if encoder.optimizer == "adam" else 8
        updates = entries * parameters(encoder)
        if encoder.objective != "codes" and encoder.dictionary is None:
            updates += 3 * encoder.components_.size
        found = count_flops(encoder, 512, phase="training") - encoder.n_steps_ * updates
        assert found == pytest.approx(by_torch, rel=0.02)

    def test_inference(self, name, reference):
        encoder = ENCODERS[name]
        encoder.fit(X, beside(encoder))
        by_torch = counted(lambda: encoder.transform(X))
        assert count_flops(encoder, 512) == count_flops(encoder, X) == by_torch
        # known before it is fitted
        unfitted = type(encoder)(**encoder.get_params())
        if encoder.n_components is not None:
            assert count_flops(unfitted, 512, n_features=M) == by_torch


def test_a_frozen_encoder_is_what_is_in_it():
    sae = ENCODERS["relu"].fit(X)
    for options in ({}, {"phase": "training"}, {"convention": "paper"}):
        expected = count_flops(sae, 512, **options)
        assert count_flops(FrozenEstimator(sae), 512, **options) == expected


def test_the_paper_has_no_transcoders():
    encoder = ENCODERS["transcoder"].fit(X, OTHER[0])
    with pytest.raises(ValueError, match="SAEEncoder with objective='targets': the paper has no"):
        count_flops(encoder, 512, convention="paper")


def test_the_auxiliary_loss_of_dead_latents(reference, monkeypatch):
    """Products with the dead ones, whose number is known only for the end of each epoch."""
    monkeypatch.setattr(DeadLatents, "revive", lambda *_, **__: None)  # which is not counted
    options = {**PLAIN, "alpha": 2.0, "dead_after": 1100, "max_iter": 60, "batch_size": 128}
    encoder = SAEEncoder(64, activation="jumprelu", **options)
    by_torch = counted(lambda: encoder.fit(X))
    assert encoder.history_["dead"].mean() > 0.1
    updates = 12 * parameters(encoder) + 3 * encoder.components_.size
    found = count_flops(encoder, 512, phase="training")
    assert found - encoder.n_steps_ * updates == pytest.approx(by_torch, rel=0.1)
    encoder.aux_alpha = 0.0
    assert count_flops(encoder, 512, phase="training") < 0.8 * found


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("tol", [1e-6, None])
@pytest.mark.parametrize("positive", [True, False])
def test_solvers_count_what_torch_counts(solver, tol, positive, reference):
    row = SOLVERS[solver]
    if not positive and not row.signed:
        pytest.skip("positive codes only")
    rows, _, _ = planted(100, 8, 16, 3, seed=81, positive=positive)
    problem = {"alpha": 0.02} if row.solves == "lasso" else {"n_nonzero_coefs": 3}
    answers = []
    by_torch = counted(
        lambda: answers.append(
            sparse_encode(
                rows, D, solver=solver, tol=tol, max_iter=100, positive_code=positive,
                return_info=True, **problem,
            )
        )
    )  # fmt: skip
    info = answers[0][1]
    assert info.flops == pytest.approx(by_torch, rel=0.02)
    coder = SparseCodingEncoder(
        dictionary=D, solver=solver, tol=tol, transform_max_iter=100, positive_code=positive,
        **problem,
    ).fit(rows)  # fmt: skip
    assert count_flops(coder, rows) == info.flops


@pytest.mark.parametrize("solver", ["working_set", "omp", "ols"])
def test_solvers_with_compiled_loops(solver):
    """Torch's counter does not see them: at least the products with all atoms, and no more than
    a few for each atom added."""
    problem = {"alpha": 0.02} if SOLVERS[solver].solves == "lasso" else {"n_nonzero_coefs": 3}
    _, info = sparse_encode(X, D, solver=solver, return_info=True, **problem)
    coder = SparseCodingEncoder(dictionary=D, solver=solver, **problem).fit(X)
    assert count_flops(coder, X) == info.flops
    product = 2 * N * M
    assert info.flops >= 512 * product
    assert info.flops <= product * (512 + 20 * (info.n_iter + 1).sum())


@pytest.mark.parametrize("positive", [True, False])
def test_refits_are_counted(positive, reference):
    options = {"solver": "fista", "alpha": 0.02, "positive_code": positive, "return_info": True}
    answers = []
    by_torch = counted(lambda: answers.append(sparse_encode(X[:100], D, debias=True, **options)))
    assert answers[0][1].flops == pytest.approx(by_torch, rel=0.02)
    assert answers[0][1].flops > sparse_encode(X[:100], D, **options)[1].flops


def test_refiners_add_their_encoder():
    sae = SAEEncoder(dictionary=D, max_iter=10, random_state=0)
    ito = ITORefiner(sae, alpha=0.02, solver="fista", max_iter=7, tol=None).fit(X)
    _, info = sparse_encode(
        X, D, alpha=0.02, solver="fista", max_iter=7, tol=None, return_info=True,
        init=ito.estimator_.transform(X),
    )  # fmt: skip
    assert count_flops(ito, X) == info.flops + 512 * 2 * M * N
    for rows in (torch.tensor(X), csr_array(X), X.tolist()):
        assert count_flops(ito, rows) == count_flops(ito, X)
    ito.set_params(init="zeros")
    assert count_flops(ito, X) < info.flops + 512 * 2 * M * N
    k_sparse = ITORefiner(
        SAEEncoder(N, activation="topk", n_nonzero_coefs=3, max_iter=10, random_state=0)
    ).fit(X)
    assert count_flops(k_sparse, X) > 512 * 2 * M * N


def test_refiners_of_signed_codes_begin_at_their_positive_ones():
    sae = SAEEncoder(N, activation="abs_topk", n_nonzero_coefs=3, max_iter=10, random_state=0)
    ito = ITORefiner(sae, alpha=0.02, positive_code=True, solver="fista").fit(X)
    _, info = sparse_encode(
        X - ito.intercept_, ito.components_, alpha=0.02, solver="fista", return_info=True,
        init=np.maximum(ito.estimator_.transform(X), 0),
    )  # fmt: skip
    assert count_flops(ito, X) == info.flops + 512 * 2 * M * N


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"dict_update": "mod"},
        {"dict_update": "ksvd", "n_init": 3},
        {"fit_intercept": True, "n_init": 1},
        {"batch_size": 100, "max_iter": 4},
    ],
    ids=str,
)
def test_dictionary_learning_counts_itself(options, reference):
    coder = SparseCodingEncoder(N, random_state=0, **{"max_iter": 10, "n_init": 4, **options})
    by_torch = counted(lambda: coder.fit(X[:200]))
    assert count_flops(coder, 200, phase="training") == pytest.approx(by_torch, rel=0.02)


def test_dictionary_learning_goes_on_counting():
    coder = SparseCodingEncoder(N, random_state=0)
    spent = []
    for start in (0, 256):
        coder.partial_fit(X[start : start + 256])
        spent.append(count_flops(coder, 256, phase="training"))
    assert 0 < spent[0] < spent[1]
    known = SparseCodingEncoder(dictionary=D).fit(X)
    assert count_flops(known, 512, phase="training") == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: count_flops(SAEEncoder(4), 5, phase="test"), "phase='test'"),
        (lambda: count_flops(SAEEncoder(4), 5, convention="torch"), "convention='torch'"),
        (lambda: count_flops(SAEEncoder(4), 5), "not fitted and n_features=None"),
        (lambda: count_flops(SAEEncoder(4), 0, n_features=2), "samples=0 must be at least 1"),
        (lambda: count_flops(SAEEncoder(4), X[0], n_features=2), r"samples must be .* \(8,\)"),
        (lambda: count_flops(make_pipeline(StandardScaler()), 5), "estimator=Pipeline.*last step"),
        (
            lambda: count_flops(UnrolledEncoder(4), 5, convention="paper", n_features=2),
            "estimator=UnrolledEncoder: the paper has no formula",
        ),
        (
            lambda: count_flops(
                MLPEncoder(4, hidden_layer_sizes=(3, 3)), 5, convention="paper", n_features=2
            ),
            r"hidden_layer_sizes=\(3, 3\)",
        ),
        (
            lambda: count_flops(SparseCodingEncoder(dictionary=D).fit(X), 5),
            "SparseCodingEncoder solves for codes.*give the rows",
        ),
        (
            lambda: count_flops(
                ITORefiner(
                    MiniBatchDictionaryLearning(16, transform_algorithm="threshold"), alpha=0.1
                ).fit(X),
                X,
            ),
            "MiniBatchDictionaryLearning.*init='zeros'",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_sizes_that_none_has():
    with pytest.raises(ValueError, match=r"n_features=-3 must be at least 1"):
        count_flops(SAEEncoder(4), 3, n_features=-3)
    with pytest.raises(ValueError, match=r"samples must be a number of rows"):
        count_flops(SAEEncoder(4), True, n_features=3)


@pytest.mark.parametrize("estimator", [SAEEncoder(4), SparseCodingEncoder(4)])
def test_what_only_a_fit_can_tell(estimator):
    with pytest.raises(NotFittedError):
        count_flops(estimator, 5, phase="training")
