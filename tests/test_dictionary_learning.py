"""How a dictionary is learned: rules for atoms, batches, going on, non-negative atoms."""

import numpy as np
import pytest
import torch
from problems import objective, planted
from sklearn import clone
from sklearn.decomposition import NMF, MiniBatchDictionaryLearning

from sparsecode_estimators import SAEEncoder, SparseCodingEncoder, kernels, sparse_encode
from sparsecode_estimators.estimators import arrays, learned
from sparsecode_estimators.inference import alpha_max
from sparsecode_estimators.learning import dictionary
from sparsecode_estimators.learning.atoms import ATOM_UPDATES, initial_dictionary
from sparsecode_estimators.learning.online import Moments
from sparsecode_estimators.metrics import dictionary_corr_coef, mean_corr_coef

QUICK = {"n_init": 1, "max_iter": 40, "random_state": 0}
signs = pytest.mark.parametrize("positive", [False, True])


def unit(atoms):
    return atoms / np.linalg.norm(atoms, axis=1, keepdims=True)


def coded(seed, *, positive=False):
    """Rows, and codes and atoms that do not yet suit them."""
    X, codes, D = planted(60, 8, 6, 2, seed=seed)
    rng = np.random.default_rng(seed)
    D, codes = unit(D + 0.3 * rng.standard_normal(D.shape)), codes * rng.uniform(0.5, 1.5, 6)
    return (np.abs(X), codes, np.abs(D)) if positive else (X, codes, D)


def planted_non_negative(n, n_features, n_components, k, seed):
    """Sparse sums of sparse non-negative atoms."""
    _, codes, D = planted(n, n_features, n_components, k, seed=seed)
    D = unit(np.maximum(D, 0))
    return codes @ D, codes, D


def run(rule, D, codes, X, **options):
    """The update of the table on arrays; returns atoms and codes."""
    D, codes, X = (torch.tensor(a, dtype=torch.float64) for a in (D, codes, X))
    update = ATOM_UPDATES[rule]
    if update.from_moments:
        options.pop("alpha", None), options.pop("positive_code", None)
        return update.run(D, codes.T @ codes, codes.T @ X, **options).numpy(), codes.numpy()
    return tuple(t.numpy() for t in update.run(D, codes, X, **options))


def bcd_by_hand(D, codes, X, positive):
    """Each atom in turn is the unit vector that explains best what the others leave."""
    D = D.copy()
    for j in range(len(D)):
        others = np.delete(np.arange(len(D)), j)
        direction = codes[:, j] @ (X - codes[:, others] @ D[others])
        direction = np.maximum(direction, 0) if positive else direction
        D[j] = direction / np.linalg.norm(direction)
    return D, codes


def mod_by_hand(D, codes, X, positive):
    atoms = np.linalg.lstsq(codes, X, rcond=None)[0]
    return unit(np.maximum(atoms, 0) if positive else atoms), codes


def ksvd_by_hand(D, codes, X, positive):
    D, codes = D.copy(), codes.copy()
    for j in range(len(D)):
        users = np.flatnonzero(codes[:, j])
        others = np.delete(np.arange(len(D)), j)
        E = X[users] - codes[np.ix_(users, others)] @ D[others]
        direction = E.T @ codes[users, j]
        direction = np.maximum(direction, 0) if positive else direction
        D[j] = direction / np.linalg.norm(direction)
        codes[users, j] = np.maximum(E @ D[j], 0)
    return D, codes


BY_HAND = {"bcd": bcd_by_hand, "mod": mod_by_hand, "ksvd": ksvd_by_hand}


@signs
@pytest.mark.parametrize("rule", ATOM_UPDATES)
def test_updates_against_numpy(rule, positive):
    X, codes, D = coded(1, positive=positive)
    expected = BY_HAND[rule](D, codes, X, positive)
    found = run(rule, D, codes, X, positive=positive, positive_code=True)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-8)


def test_k_svd_finds_the_leading_singular_vectors():
    """Of one atom, over and over, it is the power iteration that stands for the SVD."""
    X = np.random.default_rng(2).standard_normal((30, 5)) * np.array([3, 1, 1, 1, 1])
    D, codes = unit(np.ones((1, 5))), X @ unit(np.ones((1, 5))).T
    for _ in range(200):
        D, codes = run("ksvd", D, codes, X)
    left, values, right = np.linalg.svd(X, full_matrices=False)
    np.testing.assert_allclose(codes @ D, values[0] * np.outer(left[:, 0], right[0]), atol=1e-8)


@signs
@pytest.mark.parametrize("rule", ["bcd", "ksvd"])
def test_the_objective_never_rises(rule, positive):
    X, codes, D = coded(3, positive=positive)
    last = objective(codes, X, D, 0.1).sum()
    for _ in range(10):
        D, codes = run(rule, D, codes, X, alpha=0.1, positive_code=True, positive=positive)
        now = objective(codes, X, D, 0.1).sum()
        assert now <= last * (1 + 1e-12)
        last = now


@signs
@pytest.mark.parametrize("rule", ATOM_UPDATES)
def test_awkward_codes(rule, positive):
    """Unused atoms stay, equal codes leave unit atoms, no codes at all change nothing."""
    X, codes, D = coded(4, positive=positive)
    codes[:, 1] = codes[:, 0]
    codes[:, 2] = 0
    atoms, _ = run(rule, D, codes, X, positive=positive)
    np.testing.assert_allclose(atoms[2], D[2], atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(atoms, axis=1), 1, atol=1e-9)
    np.testing.assert_array_equal(run(rule, D, 0 * codes, X, positive=positive)[0], D)
    if positive:
        assert (atoms >= 0).all()
        # no allowed direction: the atom stays
        np.testing.assert_allclose(run(rule, D, codes, -X, positive=True)[0][2], D[2], atol=1e-12)


@pytest.mark.parametrize("rule", ATOM_UPDATES)
def test_every_rule_recovers(rule):
    X, codes, D = planted(1000, 10, 12, 2, seed=70, noise=0.0)
    coder = SparseCodingEncoder(12, dict_update=rule, n_init=8, max_iter=100, random_state=0)
    coder.fit(X[:500])
    assert dictionary_corr_coef(D, coder.components_) > 0.995
    assert mean_corr_coef(codes[500:], coder.transform(X[500:])) > 0.98
    assert coder.n_steps_ == coder.n_iter_ == 100


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("batch_size", [None, 100])
def test_every_make_of_the_codes_recovers(monkeypatch, batch_size, compiled):
    """Where compiled loops do not serve, proximal steps find the same dictionary."""
    if not compiled:
        monkeypatch.setattr(kernels, "accelerated", lambda D: False)
    X, _, D = planted(400, 10, 12, 2, seed=88, noise=0.0)
    options = {"n_init": 3, "batch_size": batch_size, "random_state": 0, "max_iter": 40}
    coder = SparseCodingEncoder(12, **options).fit(X)
    assert dictionary_corr_coef(D, coder.components_) > 0.995
    codes = coder.transform(X)
    loss = objective(codes, X, coder.components_, coder.alpha_).mean()
    assert coder.loss_ == pytest.approx(loss, rel=1e-3)
    np.testing.assert_array_equal(coder.components_, clone(coder).fit(X).components_)


@pytest.mark.parametrize("n_components", [16, 200])
@pytest.mark.parametrize("alpha", [0.0, 1e-3, 0.2, 5.0])
def test_alpha_falls_to_its_value(n_components, alpha):
    X = torch.tensor(planted(300, 8, 12, 2, seed=1420)[0])
    D = initial_dictionary(X, n_components, torch.Generator().manual_seed(0))
    rules = dictionary.Rules(alpha)
    half = 0.5 * alpha_max(X, D, positive=True).median().item()
    path = np.array(dictionary.annealing(X, D, rules, 50))
    assert len(path) == 50
    assert path[0] == pytest.approx(max(half, alpha))
    np.testing.assert_allclose(path[39:], max(alpha, 1e-6 * half), rtol=1e-9)
    assert (np.diff(path) <= 1e-12).all()
    if alpha <= 1e-3:  # many atoms are coded with a small alpha in few rounds only
        dear = (path[:40] < 0.05 * half).mean()
        assert dear < 0.2 if n_components > 128 else dear > 0.3


@pytest.mark.parametrize(("n_components", "restarts"), [(128, 16), (129, 1)])
@pytest.mark.parametrize("batch_size", [None, 50])
def test_restarts_are_for_few_atoms(n_components, restarts, batch_size):
    X, _, _ = planted(150, 8, 12, 2, seed=1421)
    options = {"max_iter": 2, "alpha": 0.3, "batch_size": batch_size, "random_state": 0}
    usual, asked, other = (
        SparseCodingEncoder(n_components, n_init=n, **options).fit(X) for n in ("auto", restarts, 3)
    )
    np.testing.assert_array_equal(usual.components_, asked.components_)
    assert usual.n_steps_ == asked.n_steps_
    assert usual._flops == asked._flops != other._flops


@pytest.mark.parametrize("positive", [False, True])
def test_inertia_saves_rounds(monkeypatch, positive):
    """At a fixed alpha, from the same start, the objective falls faster."""
    X, _, D = planted(400, 10, 12, 2, seed=89, noise=0.0, positive=positive)
    start = unit(D + 0.3 * np.random.default_rng(890).standard_normal(D.shape))
    options = {"n_init": 1, "alpha": 0.02, "positive_code": positive, "random_state": 0}
    losses = []
    for inertia in (0.0, dictionary.INERTIA):
        monkeypatch.setattr(dictionary, "INERTIA", inertia)
        monkeypatch.setattr(dictionary, "START_FRACTION", 0.0)
        coder = SparseCodingEncoder(12, dict_init=start, max_iter=25, **options).fit(X)
        losses.append(coder.loss_)
    best = SparseCodingEncoder(12, dict_init=start, max_iter=200, **options).fit(X).loss_
    assert losses[1] - best < 0.5 * (losses[0] - best)


@pytest.mark.parametrize(
    ("n_components", "done", "least"), [(40, 0, 200), (40, 0.5, 400), (4, 0.5, 160)]
)
@pytest.mark.parametrize("n", [159, 160, 400, 1003])
def test_rounds_share_the_rows(n, n_components, done, least):
    """No round has fewer than five or ten rows an atom, nor 160; together they have all."""
    X, D = torch.arange(2.0 * n).reshape(n, 2), torch.randn(n_components, 2)
    parts = max(1, n // least)
    rounds = [dictionary.some_rows(X, D, 7 + i, done) for i in range(parts)]
    assert min(len(rows) for rows in rounds) >= min(n, least)
    assert (torch.cat(rounds).sort(dim=0).values == X).all()


@pytest.mark.parametrize("rule", ATOM_UPDATES)
def test_rows_of_a_round(monkeypatch, rule):
    """Early rounds take a part of many rows; the last ones, and what is left, are of all."""
    X, codes, _ = planted(2000, 10, 20, 2, seed=83)
    sizes, whole = [], dictionary._round

    def watched(rows, *others, **options):
        sizes.append(len(rows))
        whole(rows, *others, **options)

    monkeypatch.setattr(dictionary, "_round", watched)
    coder = SparseCodingEncoder(20, dict_update=rule, **QUICK | {"n_init": 4}).fit(X[:1500])
    settling = round((1 - dictionary.ALL_ROWS) * QUICK["max_iter"])
    halfway = round(dictionary.HALFWAY * QUICK["max_iter"])
    assert set(sizes[:halfway]) <= {166, 167}
    assert set(sizes[:settling]) <= {166, 167, 214, 215}
    assert set(sizes[-(QUICK["max_iter"] - settling) :]) == {1500}
    assert mean_corr_coef(codes[1500:], coder.transform(X[1500:])) > 0.97


# -- batches ----------------------------------------------------------------------------------


def test_moments_do_not_depend_on_how_rows_are_cut():
    """Each row is weighed by (rows seen at its batch / rows seen)²; the divisor is exact."""
    X, codes, D = coded(5)
    sizes = [1, 29, 7, 23]
    moments, seen, weights = Moments.empty(torch.tensor(D)), 0, []
    for x, s in zip(*(torch.tensor(a).split(sizes) for a in (X, codes)), strict=True):
        moments.add(x, s, x[:, 0], (seen / (seen + len(x))) ** 2)
        seen += len(x)
        weights += [seen**2] * len(x)
    w = np.array(weights) / np.sum(weights)
    np.testing.assert_allclose(moments.gram, (codes * w[:, None]).T @ codes)
    np.testing.assert_allclose(moments.cross, (codes * w[:, None]).T @ X)
    np.testing.assert_allclose(moments.codes, w @ codes)
    np.testing.assert_allclose(moments.rows, w @ X)
    assert moments.loss == pytest.approx(w @ X[:, 0])
    assert moments.weight == pytest.approx(np.sum(weights) / 60**2)


@pytest.mark.parametrize(("rule", "atoms"), [("bcd", 0.99), ("mod", 0.96)])
def test_batches_recover(rule, atoms):
    X, codes, D = planted(1500, 10, 12, 2, seed=71, noise=0.0)
    options = {"dict_update": rule, "n_init": 3, "random_state": 0}
    coder = SparseCodingEncoder(12, batch_size=100, max_iter=30, **options).fit(X[:1000])
    assert dictionary_corr_coef(D, coder.components_) > atoms
    assert mean_corr_coef(codes[1000:], coder.transform(X[1000:])) > 0.95
    assert coder.n_steps_ == 10 * coder.n_iter_ == 10 * len(coder.loss_curve_)
    codes = coder.transform(X[:1000])
    loss = objective(codes, X[:1000], coder.components_, coder.alpha_).mean()
    assert coder.loss_ == pytest.approx(loss, rel=1e-3)


def test_chunks_recover_what_batches_do():
    X, _, D = planted(8000, 10, 12, 2, seed=72, noise=0.0)
    coder = SparseCodingEncoder(12, n_init=3, random_state=0)
    for begin in range(0, 8000, 25):
        coder.partial_fit(X[begin : begin + 25])
    assert dictionary_corr_coef(D, coder.components_) > 0.99
    assert coder.n_iter_ == coder.n_steps_ == len(coder.loss_curve_) == 320
    assert coder.loss_curve_[-1] < 0.2 * coder.loss_curve_[0]
    assert len(coder._online["starts"]) == 1


def test_a_chunk_is_read_once_in_batches():
    X = planted(300, 8, 16, 3, seed=73)[0]
    options = {"n_init": 2, "fit_intercept": True, "dict_init": X[:16], "alpha": 0.1}
    whole = SparseCodingEncoder(16, batch_size=70, random_state=0, **options).partial_fit(X)
    assert whole.n_iter_ == 1
    assert whole.n_steps_ == 5  # 70, 70, 70, 70 and 20 rows
    batch = SparseCodingEncoder(16, random_state=0, **options)
    # alpha and the offset begin at the first chunk: give both the same
    batch.partial_fit(X[:70])
    parts = SparseCodingEncoder(16, batch_size=70, random_state=0, **options)
    parts.partial_fit(X[:70]).partial_fit(X[70:])
    for begin in range(70, 300, 70):
        batch.partial_fit(X[begin : begin + 70])
    np.testing.assert_allclose(parts.components_, batch.components_, atol=1e-6)
    np.testing.assert_allclose(parts.intercept_, batch.intercept_, atol=1e-6)


def test_memory_does_not_grow_with_the_rows():
    def numbers(value):
        if isinstance(value, dict):
            return sum(numbers(v) for v in value.values())
        if isinstance(value, list):
            return sum(numbers(v) for v in value)
        return np.size(value)

    sizes = []
    for n in (100, 1000):
        X = planted(n, 8, 16, 3, seed=74)[0]
        coder = SparseCodingEncoder(16, n_init=2, random_state=0, batch_size=50)
        sizes.append(numbers(coder.partial_fit(X)._online))
    assert sizes[0] == sizes[1] < 2 * (16 * 16 + 3 * 16 * 8)


def test_a_file_is_never_read_whole(monkeypatch, tmp_path):
    X = planted(2000, 8, 16, 3, seed=75)[0].astype(np.float32)
    np.save(tmp_path / "X.npy", X)
    # what may be read at a time, made small enough to notice
    monkeypatch.setattr(learned, "SAMPLE_ROWS", 256)
    monkeypatch.setattr(arrays, "_FINITE_BLOCK", 8 * 256)
    monkeypatch.setattr(arrays, "_BATCH_NUMBERS", 16 * 256)
    longest = []

    class OnDisk:
        shape, dtype = X.shape, X.dtype

        def __getitem__(self, index):
            longest.append(len(X[index]))
            return X[index]

    coder = SparseCodingEncoder(16, batch_size=16, max_iter=1, n_init=1, random_state=0)
    coder.fit(OnDisk())
    assert max(longest) == 256  # the sample, and blocks of sixteen batches
    mapped = clone(coder).fit(np.load(tmp_path / "X.npy", mmap_mode="r"))
    assert mapped.loss_ == pytest.approx(coder.loss_, rel=0.3)


def test_batches_learn_the_offset():
    X = planted(1000, 8, 12, 2, seed=76, noise=0.0)[0]
    coder = SparseCodingEncoder(
        12, batch_size=100, fit_intercept=True, n_init=1, max_iter=20, random_state=0
    ).fit(X + 5)
    assert np.abs(coder.intercept_ - 5).max() < 0.7
    assert coder.score(X + 5) > 0.99


@pytest.mark.parametrize("scale", [2.0**45, 2.0**-45])
@pytest.mark.parametrize(
    ("rule", "batch_size"), [(rule, None) for rule in ATOM_UPDATES] + [("bcd", 100), ("mod", 100)]
)
def test_units_do_not_matter(rule, batch_size, scale):
    X = planted(300, 8, 16, 3, seed=41)[0].astype(np.float32)
    options = {"dict_update": rule, "batch_size": batch_size, **QUICK, "max_iter": 10}
    ordinary = SparseCodingEncoder(16, alpha=0.1, **options).fit(X)
    scaled = SparseCodingEncoder(16, alpha=0.1 * scale, **options).fit(X * np.float32(scale))
    np.testing.assert_array_equal(scaled.components_, ordinary.components_)
    np.testing.assert_allclose(scaled.loss_, ordinary.loss_ * scale**2, rtol=1e-6)


@pytest.mark.parametrize("batch_size", [None, 100])
def test_rows_whose_squares_overflow(batch_size):
    X = planted(300, 8, 16, 3, seed=42)[0].astype(np.float32) * np.float32(1e19)
    coder = SparseCodingEncoder(16, alpha=0.1, batch_size=batch_size, **QUICK)
    with pytest.raises(ValueError, match=r"X is too large.*precision=.float64"):
        coder.fit(X)
    assert not hasattr(coder, "components_")
    coder.set_params(precision="float64", alpha=1e18).fit(X)
    assert np.isfinite(coder.components_).all()


def test_a_later_chunk_whose_squares_overflow():
    X = planted(300, 8, 16, 3, seed=43)[0].astype(np.float32)
    coder = SparseCodingEncoder(16, alpha=0.1, batch_size=100, **QUICK).partial_fit(X)
    before = coder.components_.copy()
    with pytest.raises(ValueError, match="X is too large"):
        coder.partial_fit(X * np.float32(1e25))
    np.testing.assert_array_equal(coder.components_, before)


def test_k_svd_says_that_it_needs_all_codes():
    X = planted(50, 8, 16, 3, seed=77)[0]
    coder = SparseCodingEncoder(16, dict_update="ksvd", batch_size=10)
    with pytest.raises(ValueError, match="batch_size=None"):
        coder.fit(X)
    assert not hasattr(coder, "partial_fit")
    with pytest.raises(AttributeError, match="partial_fit"):
        coder.partial_fit(X)
    assert hasattr(SparseCodingEncoder(16), "partial_fit")


# -- where it begins, and going on ------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [None, 100])
def test_the_first_restart_begins_at_dict_init(batch_size):
    X, _, D = planted(400, 8, 16, 3, seed=78, noise=0.0)
    options = {"alpha": 0.02, "max_iter": 3, "batch_size": batch_size, "random_state": 0}
    given = SparseCodingEncoder(dict_init=3 * D, n_init=1, **options).fit(X)
    assert dictionary_corr_coef(D, given.components_) > 0.97
    assert given.n_components_ == 16
    among = SparseCodingEncoder(dict_init=D, n_init=4, **options).fit(X)
    assert dictionary_corr_coef(D, among.components_) > 0.97  # the best of the four


def test_an_sae_can_be_taken_over():
    X = planted(400, 8, 16, 3, seed=79)[0]
    sae = SAEEncoder(16, max_iter=20, random_state=0).fit(X)
    begun = objective(
        sparse_encode(X, sae.components_, alpha=0.05), X, sae.components_, 0.05
    ).mean()
    coder = SparseCodingEncoder(dict_init=sae.components_, alpha=0.05, **QUICK).fit(X)
    assert coder.loss_ < begun


@pytest.mark.parametrize("batch_size", [None, 100])
def test_warm_start_goes_on(batch_size):
    X = planted(400, 8, 16, 3, seed=80, noise=0.0)[0]
    options = {"alpha": 0.02, "n_init": 2, "batch_size": batch_size, "random_state": 0}
    coder = SparseCodingEncoder(16, max_iter=30, warm_start=True, **options).fit(X)
    first, steps, curve = coder.loss_, coder.n_steps_, coder.loss_curve_
    n_iter = coder.n_iter_
    coder.set_params(max_iter=5).fit(X)
    assert coder.loss_ <= first * 1.001
    assert coder.n_iter_ <= n_iter + 5
    assert coder.n_steps_ > steps
    assert coder.loss_curve_[: len(curve)] == curve
    again = SparseCodingEncoder(16, max_iter=5, **options).fit(X)
    assert again.loss_ > coder.loss_
    with pytest.raises(ValueError, match="warm_start=False"):
        coder.set_params(n_components=12).fit(X)


def test_partial_fit_goes_on_from_fit():
    """A dictionary that was learned from many rows is not given up for a few."""
    X, _, D = planted(1000, 8, 12, 2, seed=81, noise=0.0)
    coder = SparseCodingEncoder(12, n_init=4, max_iter=100, random_state=0).fit(X)
    learned = coder.components_.copy()
    before = dictionary_corr_coef(D, learned)
    coder.partial_fit(X[:10])
    assert (np.sum(coder.components_ * learned, axis=1) > 0.999).all()
    for begin in range(0, 1000, 50):
        coder.partial_fit(X[begin : begin + 50])
    assert dictionary_corr_coef(D, coder.components_) > before - 0.005
    assert coder.n_iter_ == 121


def test_partial_fit_with_a_known_dictionary():
    X, _, D = planted(100, 8, 16, 3, seed=82)
    coder = SparseCodingEncoder(dictionary=D).partial_fit(X[:50])
    alpha = coder.alpha_
    np.testing.assert_array_equal(coder.partial_fit(X[50:]).components_, D)
    assert coder.alpha_ == alpha
    with pytest.raises(ValueError, match="features"):
        coder.partial_fit(X[:, :4])


# -- non-negative atoms -----------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [None, 100])
@pytest.mark.parametrize("rule", ATOM_UPDATES)
def test_positive_dict_recovers(rule, batch_size):
    if batch_size and not ATOM_UPDATES[rule].from_moments:
        pytest.skip("needs the codes of all rows")
    X, codes, D = planted_non_negative(1500, 12, 10, 2, seed=83)
    coder = SparseCodingEncoder(
        10,
        positive_dict=True,
        dict_update=rule,
        batch_size=batch_size,
        n_init=4 if batch_size is None else 2,  # rounds on all rows are cheap
        max_iter=100 if batch_size is None else 20,
        random_state=0,
    ).fit(X[:1000])
    assert (coder.components_ >= 0).all()
    np.testing.assert_allclose(np.linalg.norm(coder.components_, axis=1), 1, atol=1e-5)
    assert dictionary_corr_coef(D, coder.components_) > 0.98
    assert mean_corr_coef(codes[1000:], coder.transform(X[1000:])) > 0.97


def test_positive_dict_on_rows_of_either_sign():
    X = planted(200, 8, 16, 3, seed=84)[0]
    coder = SparseCodingEncoder(16, positive_dict=True, fit_intercept=True, **QUICK).fit(X)
    assert (coder.components_ >= 0).all()
    D = initial_dictionary(
        torch.tensor(-np.abs(X)), 20, torch.Generator().manual_seed(0), positive=True
    ).numpy()
    assert (D >= 0).all()
    np.testing.assert_allclose(np.linalg.norm(D, axis=1), 1)
    with pytest.raises(ValueError, match="dict_init has negative"):
        SparseCodingEncoder(dict_init=X[:16], positive_dict=True).fit(X)


def test_fits_as_well_as_nmf():
    """Without a penalty both minimise ‖X − SD‖² over S, D >= 0."""
    X = planted_non_negative(400, 12, 8, 3, seed=85)[0]
    X += 0.05 * np.random.default_rng(85).random(X.shape)
    nmf = NMF(8, init="nndsvda", max_iter=2000, tol=1e-6, random_state=0).fit(X)
    ours = SparseCodingEncoder(
        8, alpha=0.0, positive_dict=True, n_init=4, max_iter=200, random_state=0
    ).fit(X)
    assert ours.loss_ <= 1.05 * 0.5 * nmf.reconstruction_err_**2 / len(X)


@pytest.mark.parametrize("batch_size", [None, 64])
def test_objective_against_scikit_learn(batch_size):
    X = planted_non_negative(512, 12, 16, 3, seed=86)[0]
    theirs = MiniBatchDictionaryLearning(
        16,
        alpha=0.05,
        fit_algorithm="cd",
        positive_code=True,
        positive_dict=True,
        batch_size=64,
        max_iter=30,
        random_state=0,
    ).fit(X)
    ours = SparseCodingEncoder(
        16,
        alpha=0.05,
        positive_dict=True,
        batch_size=batch_size,
        n_init=2,
        max_iter=60 if batch_size is None else 30,
        random_state=0,
    ).fit(X)
    D = unit(theirs.components_)
    reached = objective(sparse_encode(X, D, alpha=0.05), X, D, 0.05).mean()
    assert ours.loss_ <= 1.02 * reached
