"""SAE, MLP and unrolled encoder: what training does, resumes, revives, and hands out."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import planted

from sparsecode_estimators import MLPEncoder, SAEEncoder, UnrolledEncoder
from sparsecode_estimators.learning.optimizers import rate
from sparsecode_estimators.metrics import aligned_corr_coef

X, CODES, D = planted(400, 8, 16, 3, seed=40)
TRAINED = [SAEEncoder, MLPEncoder, UnrolledEncoder]
SMALL = {"max_iter": 5, "random_state": 0}
# what may be left of the loss of the first epoch: what begins tied, or solved for, begins low
LEFT = {SAEEncoder: 0.65, MLPEncoder: 0.5, UnrolledEncoder: 0.75}


def activated(encoder, pre):
    codes, k = np.maximum(pre, 0), encoder.n_nonzero_coefs
    if encoder.activation == "topk":
        codes[codes < np.sort(codes, axis=1)[:, [-k]]] = 0
    if encoder.activation == "abs_topk":
        return np.where(np.abs(pre) < np.sort(np.abs(pre), axis=1)[:, [-k]], 0, pre)
    if encoder.activation in ("batch_topk", "jumprelu"):
        return np.where(codes < encoder.threshold_, 0, codes)
    if encoder.activation == "gated":
        size = encoder.gate_scale_ * pre + encoder.gate_shift_
        return np.where(pre > 0, np.maximum(size, 0), 0)
    return codes


def reference_codes(encoder, X):
    """The forward pass from the attributes alone, in NumPy."""
    hidden = X - encoder.intercept_
    layers = list(zip(encoder.encoder_coefs_, encoder.encoder_intercepts_, strict=True))
    if isinstance(encoder, UnrolledEncoder):
        codes = np.zeros((len(X), encoder.n_components_))
        for (weight, bias), size in zip(layers, encoder.step_sizes_, strict=True):
            residual = hidden - codes @ encoder.components_
            codes = activated(encoder, codes + size * (residual @ weight + bias))
        return codes
    for weight, bias in layers[:-1]:
        hidden = np.maximum(hidden @ weight + bias, 0)
    return activated(encoder, hidden @ layers[-1][0] + layers[-1][1])


K_SPARSE = {
    name: {"activation": name, "n_nonzero_coefs": 3} for name in ("topk", "abs_topk", "batch_topk")
}
VARIANTS = {
    "relu": {},
    "relu tanh": {"penalty": "tanh"},
    **K_SPARSE,
    "nested topk": {**K_SPARSE["topk"], "prefix_sizes": (4, 8)},
    "nested batch_topk": {**K_SPARSE["batch_topk"], "prefix_sizes": [4, 16]},
    "jumprelu": {"activation": "jumprelu"},
    "jumprelu tanh": {"activation": "jumprelu", "penalty": "tanh"},
    "gated": {"activation": "gated"},
}
ALL = [(cls, name) for cls in (SAEEncoder, MLPEncoder) for name in VARIANTS]
ALL += [(UnrolledEncoder, "relu"), (UnrolledEncoder, "topk")]


@pytest.mark.parametrize(("cls", "variant"), ALL)
def test_attributes_are_the_whole_encoder(cls, variant):
    encoder = cls(16, **VARIANTS[variant], **SMALL).fit(X)
    codes = encoder.transform(X)
    np.testing.assert_allclose(codes, reference_codes(encoder, X), atol=1e-10)
    np.testing.assert_allclose(
        encoder.inverse_transform(codes), codes @ encoder.components_ + encoder.intercept_
    )
    np.testing.assert_allclose(np.linalg.norm(encoder.components_, axis=1), 1, atol=1e-6)
    module = encoder.to_module(device="cpu")
    assert isinstance(module, torch.nn.Module)
    np.testing.assert_allclose(module.encode(torch.tensor(X)).detach().numpy(), codes, atol=1e-10)


def test_topk_keeps_the_largest_and_no_more_under_ties():
    sae = SAEEncoder(4, activation="topk", n_nonzero_coefs=2, dictionary=np.eye(4), max_iter=1)
    sae.fit(np.eye(4))
    sae.encoder_coefs_, sae.encoder_intercepts_ = [np.eye(4)], [np.zeros(4)]
    rows = np.array([[1.0, 3.0, 2.0, 0.5], [2.0, 2.0, 2.0, 2.0], [-1.0, -2.0, 4.0, -3.0]])
    codes = sae.transform(rows)
    np.testing.assert_array_equal(codes[0], [0, 3, 2, 0])
    assert (codes[1] > 0).sum() == 2
    np.testing.assert_array_equal(codes[2], [0, 0, 4, 0])


@pytest.mark.parametrize("cls", TRAINED)
def test_k_is_at_most_the_number_of_components(cls):
    encoder = cls(4, activation="topk", n_nonzero_coefs=99, **SMALL).fit(X)
    assert encoder.transform(X).shape == (400, 4)


@pytest.mark.parametrize("cls", TRAINED)
def test_training_lowers_the_objective(cls):
    encoder = cls(16, max_iter=40, random_state=0).fit(X)
    curve = encoder.loss_curve_
    assert len(curve) == encoder.n_iter_
    assert curve[-1] < LEFT[cls] * curve[0]
    assert encoder.n_steps_ == encoder.n_iter_ * 2  # 400 rows in batches of 256
    codes = encoder.transform(X)
    loss = 0.5 * ((X - encoder.inverse_transform(codes)) ** 2).sum(1) + encoder.alpha_ * codes.sum(
        1
    )
    # the curve holds the loss while the epoch ran, so it lags a little
    assert loss.mean() == pytest.approx(encoder.loss_, rel=0.05)


@pytest.mark.parametrize("cls", TRAINED)
def test_known_dictionary_is_kept_to_the_last_digit(cls):
    encoder = cls(dictionary=3 * D, **SMALL).fit(X)
    np.testing.assert_array_equal(encoder.components_, 3 * D)
    assert not encoder.intercept_.any()
    assert encoder.set_params(fit_intercept=True).fit(X).intercept_.any()


def test_known_codes():
    encoder = MLPEncoder(objective="codes", max_iter=150, random_state=0).fit(X, CODES)
    assert aligned_corr_coef(CODES, encoder.transform(X)) > 0.8
    # the dictionary is the least-squares one for the known codes, which is nearly the true one
    least = np.linalg.lstsq(CODES, X, rcond=None)[0]
    np.testing.assert_allclose(encoder.components_, least, atol=1e-5)
    np.testing.assert_allclose(encoder.components_, D, atol=0.01)


def test_targets_are_ignored_without_known_codes():
    with_y = SAEEncoder(16, **SMALL).fit(X, np.zeros(3)).transform(X)
    np.testing.assert_array_equal(with_y, SAEEncoder(16, **SMALL).fit(X).transform(X))


@pytest.mark.parametrize("cls", TRAINED)
@pytest.mark.parametrize("factor", [2.0**-10, 2.0**7])
def test_rescaling_rows_rescales_codes_and_nothing_else(cls, factor):
    base = cls(16, **SMALL).fit(X)
    scaled = cls(16, **SMALL).fit(factor * X)
    np.testing.assert_allclose(scaled.transform(factor * X), factor * base.transform(X), rtol=1e-6)
    np.testing.assert_allclose(scaled.components_, base.components_, rtol=1e-6)
    assert scaled.alpha_ == pytest.approx(factor * base.alpha_)
    assert scaled.loss_ == pytest.approx(factor**2 * base.loss_)


@pytest.mark.parametrize("cls", TRAINED)
def test_same_seed_same_result(cls):
    first, second, other = (cls(16, max_iter=5, random_state=s).fit(X) for s in (3, 3, 4))
    np.testing.assert_array_equal(first.transform(X), second.transform(X))
    assert np.abs(first.transform(X) - other.transform(X)).max() > 1e-3


@pytest.mark.parametrize("cls", TRAINED)
def test_warm_start_goes_on(cls):
    encoder = cls(16, max_iter=10, warm_start=True, random_state=0).fit(X)
    first = encoder.loss_
    encoder.fit(X)
    assert encoder.n_iter_ == 20
    assert len(encoder.loss_curve_) == 20
    assert encoder.loss_curve_[10] < 1.1 * first
    assert encoder.loss_curve_[10] < 0.9 * encoder.loss_curve_[0]


@pytest.mark.parametrize("cls", TRAINED)
def test_warm_start_with_other_settings(cls):
    encoder = cls(16, max_iter=3, warm_start=True, random_state=0).fit(X)
    encoder.set_params(activation="topk", n_nonzero_coefs=2).fit(X)
    encoder.set_params(dictionary=2 * D).fit(X)
    np.testing.assert_array_equal(encoder.components_, 2 * D)
    assert encoder.n_iter_ == 9


@pytest.mark.parametrize("cls", TRAINED)
def test_partial_fit_is_one_pass(cls):
    encoder = cls(16, random_state=0)
    for i in range(30):
        encoder.partial_fit(X)
        assert encoder.n_iter_ == i + 1
        assert encoder.n_steps_ == 2 * (i + 1)
    assert encoder.loss_curve_[-1] < LEFT[cls] * encoder.loss_curve_[0]
    before = encoder.components_.copy()
    encoder.partial_fit(X[:10])
    assert np.abs(encoder.components_ - before).max() < 0.1


@pytest.mark.parametrize("cls", TRAINED)
def test_partial_fit_equals_fit_at_a_constant_rate(cls):
    options = {"shuffle": False, "learning_rate": "constant", "dead_after": 10**9}
    whole = cls(16, max_iter=4, random_state=0, **options).fit(X)
    parts = cls(16, random_state=0, **options)
    for _ in range(4):
        parts.partial_fit(X)
    np.testing.assert_allclose(parts.transform(X), whole.transform(X), atol=1e-4)


@pytest.mark.parametrize("cls", TRAINED)
def test_dead_latents_come_back(cls):
    options = {"dictionary": D, "max_iter": 60, "random_state": 0, "aux_alpha": 0.0}
    encoder = cls(warm_start=True, **options).fit(X)
    coefs, biases = encoder.encoder_coefs_[-1], encoder.encoder_intercepts_[-1]
    coefs[:, :5], biases[:5] = 0.0, -100.0
    encoder._silent_for[:5] = 10**9
    assert (encoder.transform(X)[:, :5] == 0).all()
    assert len(encoder.fit(X).dead_latents_) == 0
    assert (encoder.activation_frequency_ > 0.01).all()
    # and without revival they would not
    encoder = cls(warm_start=True, dead_after=10**12, **options).fit(X)
    encoder.encoder_coefs_[-1][:, :5], encoder.encoder_intercepts_[-1][:5] = 0.0, -100.0
    assert set(range(5)) <= set(encoder.fit(X).dead_latents_)


@pytest.mark.parametrize("activation", ["topk", "abs_topk", "batch_topk"])
@pytest.mark.parametrize("rows", ["like each other", "far away"])
def test_more_latents_than_rows(activation, rows):
    """Revived latents are then much alike: together they must not make rows worse and worse."""
    draws = np.random.default_rng(1)
    few = draws.standard_normal((30, 4)) @ draws.standard_normal((4, 64))
    few = few if rows == "like each other" else np.exp(few)
    options = {"n_nonzero_coefs": 8, "max_iter": 40, "random_state": 0, "fit_intercept": False}
    sae = SAEEncoder(256, activation=activation, **options).fit(few)
    best = sae.history_["explained_variance"].max()
    assert sae.history_["explained_variance"][-1] > best - 0.05
    assert best > 0.8


@pytest.mark.parametrize("alpha", [5.0, 1000.0])
@pytest.mark.parametrize("activation", ["relu", "gated", "jumprelu"])
def test_an_alpha_that_no_code_is_worth(activation, alpha):
    """Latents that the penalty has ended must not come back as if they cost nothing."""
    sae = SAEEncoder(16, activation=activation, alpha=alpha, random_state=0).fit(X)
    codes = sae.transform(X)
    left = 0.5 * ((X - sae.inverse_transform(codes)) ** 2).sum(1) + alpha * codes.sum(1)
    assert left.mean() < 1.1 * 0.5 * ((X - X.mean(0)) ** 2).sum(1).mean()  # what zeros cost


def test_a_revived_batch_is_judged_as_it_is_trained():
    """And not by a threshold of the past, which lets other codes through."""
    X = np.maximum(np.random.default_rng(2).standard_normal((300, 20)), 0)
    options = {"activation": "batch_topk", "n_nonzero_coefs": 8, "max_iter": 40}
    sae = SAEEncoder(64, fit_intercept=False, random_state=0, **options).fit(X)
    assert sae.score(X) > 0.7


def test_auxiliary_loss_brings_topk_latents_back():
    def dead(aux_alpha):
        sae = SAEEncoder(
            64,
            activation="topk",
            n_nonzero_coefs=2,
            max_iter=30,
            random_state=0,
            dead_after=800,
            aux_alpha=aux_alpha,
        )
        # no re-initialisation in single passes: only the auxiliary loss can help
        for _ in range(30):
            sae.partial_fit(X)
        return len(sae.dead_latents_)

    assert dead(1.0) <= dead(0.0)


def test_early_stopping():
    stopped = SAEEncoder(16, max_iter=500, tol=0.05, n_iter_no_change=3, random_state=0).fit(X)
    assert stopped.n_iter_ < 100


def test_the_first_epoch_is_no_standstill():
    sae = SAEEncoder(16, max_iter=20, n_iter_no_change=1, random_state=0).fit(X)
    assert sae.n_iter_ > 1


@pytest.mark.parametrize("cls", [SAEEncoder, MLPEncoder])
def test_thresholds_learn_known_codes(cls):
    options = {"activation": "jumprelu", "objective": "codes", "random_state": 0}
    encoder = cls(16, max_iter=30, **options).fit(X, CODES)
    start = cls(16, max_iter=1, learning_rate_init=1e-9, **options).fit(X, CODES)
    assert (
        np.square(encoder.transform(X) - CODES).sum() < np.square(start.transform(X) - CODES).sum()
    )
    assert (encoder.threshold_ != start.threshold_).any()
    assert np.isnan(encoder.history_["explained_variance"]).all()


def test_verbose_prints_one_line_an_epoch(capsys):
    SAEEncoder(16, max_iter=3, verbose=1).fit(X)
    assert len(capsys.readouterr().out.splitlines()) == 3
    SAEEncoder(16, max_iter=3).fit(X)
    assert not capsys.readouterr().out


@pytest.mark.parametrize(("cls", "variant"), ALL)
def test_sparse_codes_are_the_dense_ones(cls, variant):
    encoder = cls(16, **VARIANTS[variant], **SMALL).fit(X)
    dense = encoder.transform(X)
    sparse = encoder.set_params(sparse_output=True).transform(X)
    assert sparse.format == "csr"
    assert sparse.has_canonical_format
    assert sparse.nnz == (dense != 0).sum()
    np.testing.assert_allclose(sparse.toarray(), dense, atol=1e-12)
    tensor = encoder.transform(torch.tensor(X))
    assert tensor.is_sparse
    np.testing.assert_allclose(tensor.to_dense(), dense, atol=1e-12)
    np.testing.assert_allclose(encoder.transform(X[:1]).toarray(), dense[:1], atol=1e-12)


@settings(max_examples=30)
@given(
    seed=st.integers(0, 10**6),
    which=st.sampled_from(ALL),
    cuts=st.lists(st.integers(1, 59), max_size=5),
)
def test_codes_are_row_wise(seed, which, cuts):
    cls, variant = which
    rows = planted(60, 5, 20, 2, seed=seed)[0]
    encoder = cls(20, max_iter=2, random_state=seed, **VARIANTS[variant]).fit(rows)
    whole = encoder.transform(rows)
    order = np.random.default_rng(seed).permutation(60)
    parts = [encoder.transform(part) for part in np.split(rows[order], sorted(set(cuts)))]
    np.testing.assert_allclose(np.concatenate(parts), whole[order], atol=1e-10)


@pytest.mark.parametrize(("cls", "variant"), ALL)
def test_every_variant_learns(cls, variant):
    options = VARIANTS[variant]
    encoder = cls(16, max_iter=60, random_state=0, **options).fit(X)
    assert encoder.score(X) > 0.75
    codes = encoder.transform(X)
    active = (codes != 0).sum(1)
    if encoder.activation in ("topk", "abs_topk"):
        assert active.max() <= 3
    if encoder.activation == "batch_topk":
        assert active.mean() == pytest.approx(3, abs=0.5)
        assert active.max() > 3
    assert (codes < 0).any() == (encoder.activation == "abs_topk")
    assert encoder.positive_code == (encoder.activation != "abs_topk")


@pytest.mark.parametrize("variant", ["batch_topk", "jumprelu", "gated"])
def test_what_activations_learn_survives_a_warm_start(variant):
    options = VARIANTS[variant] | {"shuffle": False, "learning_rate": "constant"}
    whole = SAEEncoder(16, max_iter=6, random_state=0, **options).fit(X)
    parts = SAEEncoder(16, max_iter=3, random_state=0, warm_start=True, **options).fit(X).fit(X)
    names = {"gated": ("gate_scale_", "gate_shift_")}.get(variant, ("threshold_",))
    for name in names:
        # the running mean of BatchTopK goes on with its last weight
        rtol = 0.1 if variant == "batch_topk" else 1e-4
        np.testing.assert_allclose(getattr(parts, name), getattr(whole, name), rtol=rtol, atol=1e-4)


def test_a_higher_alpha_means_fewer_codes():
    for options in (VARIANTS["jumprelu"], VARIANTS["gated"], {}, VARIANTS["relu tanh"]):
        few, many = (
            (SAEEncoder(16, alpha=a, max_iter=60, random_state=0, **options).fit_transform(X) != 0)
            for a in (0.3, 0.05)
        )
        assert few.sum() < many.sum()


def test_the_first_atoms_of_nested_dictionaries_explain_more():
    def explained(**options):
        sae = SAEEncoder(16, max_iter=60, random_state=0, **K_SPARSE["topk"], **options).fit(X)
        codes = sae.transform(X)
        codes[:, 4:] = 0
        return 1 - ((X - sae.inverse_transform(codes)) ** 2).sum() / ((X - X.mean(0)) ** 2).sum()

    assert explained(prefix_sizes=[4]) > explained() + 0.1


@pytest.mark.parametrize("schedule", ["decay", "linear", "cosine", "constant"])
def test_learning_rates_fall_as_they_should(schedule):
    shares = [rate(schedule, p, 0.0) for p in np.linspace(0, 1, 101)]
    assert shares[0] == 1
    assert (np.diff(shares) <= 0).all()
    assert shares[-1] == pytest.approx(1 if schedule == "constant" else 0)
    assert np.mean(shares) == pytest.approx(
        {"decay": 5 / 6, "linear": 0.5, "cosine": 0.5, "constant": 1}[schedule], abs=0.01
    )
    assert rate(schedule, 0.05, 0.1) == pytest.approx(0.5 * rate(schedule, 0.05, 0.0))
    sae = SAEEncoder(16, learning_rate=schedule, learning_rate_warmup=0.1, **SMALL).fit(X)
    assert sae.loss_curve_[-1] < sae.loss_curve_[0]


def test_sparsity_can_rise_slowly():
    options = {"max_iter": 200, "random_state": 0, "sparsity_warmup": 0.5}
    for more in ({}, VARIANTS["topk"], VARIANTS["batch_topk"]):
        sae = SAEEncoder(16, **options, **more).fit(X)
        active = sae.history_["l0"]
        assert active[0] > 1.15 * active[-1]
        assert (np.diff(active[100:]) < 1).all()
    assert active[-1] == pytest.approx(3, abs=0.3)


def test_clipped_gradients_move_less():
    """Adam divides by the size of gradients, so that only their changes count: few steps."""
    rows = X.copy()
    rows[0] *= 1e4  # one row has nearly all of the gradient

    def moved(**options):
        sae = SAEEncoder(
            16, max_iter=1, batch_size=20, dict_init=D, dead_after=10**9, random_state=0, **options
        )
        return np.abs(sae.fit(rows).components_ - D).max()

    assert moved(max_grad_norm=1e-9) < moved()


def test_history():
    sae = SAEEncoder(16, max_iter=30, random_state=0, warm_start=True).fit(X)
    sae.fit(X)
    assert {len(curve) for curve in sae.history_.values()} == {sae.n_iter_} == {60}
    assert sae.history_["loss"].tolist() == sae.loss_curve_
    assert sae.history_["explained_variance"][-1] == pytest.approx(sae.score(X), abs=0.02)
    codes = sae.transform(X)
    assert sae.history_["l0"][-1] == pytest.approx((codes != 0).sum(1).mean(), rel=0.05)
    assert sae.history_["n_steps"].sum() == sae.n_steps_
    assert (sae.history_["seconds"] > 0).all()


@pytest.mark.parametrize("n_epochs", [1, 10])
def test_batch_topk_keeps_as_many_codes_at_inference(n_epochs):
    """Also after so short a training that the mean over batches would lag behind."""
    X, _, _ = planted(3000, 16, 64, 4, seed=67)
    sae = SAEEncoder(64, activation="batch_topk", n_nonzero_coefs=5, max_iter=n_epochs,
                     random_state=0).fit(X[:2000])  # fmt: skip
    assert sae.threshold_.shape == ()
    assert (sae.transform(X[:2000]) != 0).sum(1).mean() == pytest.approx(5, rel=1e-3)
    assert (sae.transform(X[2000:]) != 0).sum(1).mean() == pytest.approx(5, rel=0.1)


# torch scripts its rules for derivatives
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
@pytest.mark.parametrize("activation", ["relu", "jumprelu", "gated", "topk"])
def test_modules_can_be_transformed(activation):
    """As interpretability needs Jacobians of encoders."""
    options = {"n_nonzero_coefs": 3} if activation == "topk" else {}
    sae = SAEEncoder(16, activation=activation, max_iter=3, random_state=0, **options).fit(X)
    module = sae.to_module()
    x = torch.as_tensor(X[:2], dtype=next(module.parameters()).dtype)

    def one(row):
        return module(row[None])[0]

    if activation != "topk":  # whose places are looked up row by row
        torch.testing.assert_close(torch.func.vmap(one)(x), module(x))
        by_row = torch.func.jacrev(one)(x[0])
        torch.testing.assert_close(torch.func.jvp(one, (x[0],), (x[1],))[1], by_row @ x[1])
    torch.autograd.functional.jacobian(one, x[0])


def test_no_explained_variance_where_codes_are_known(capsys):
    SAEEncoder(16, objective="codes", max_iter=1, verbose=1).fit(X, CODES)
    assert "explained" not in capsys.readouterr().out


@pytest.mark.parametrize("n", [1, 10, 100])
def test_small_chunks_do_not_decide_how_many_codes_are_active(n):
    X = planted(1200, 8, 16, 3, seed=1520)[0]
    sae = SAEEncoder(16, activation="batch_topk", n_nonzero_coefs=3, random_state=0).fit(X[:1000])
    for begin in range(1000, 1000 + min(200, 30 * n), n):
        sae.partial_fit(X[begin : begin + n])
        assert 2 < (sae.transform(X[:500]) != 0).sum(1).mean() < 4
