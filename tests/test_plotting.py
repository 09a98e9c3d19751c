"""Displays: what is in the figures, by the numbers that went in."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse, stats

from sparsecode_estimators import SAEEncoder, SparseCodingEncoder
from sparsecode_estimators.datasets import make_sparse_codes
from sparsecode_estimators.metrics import (
    AmortisationGap,
    amortisation_gap,
    chance_level,
    dictionary_corr_coef,
    mean_corr_coef,
)
from sparsecode_estimators.plotting import (
    DictionaryDisplay,
    FrontierDisplay,
    GapDisplay,
    RecoveryDisplay,
    TrainingDisplay,
    mean_interval,
)

plt = pytest.importorskip("matplotlib.pyplot")
pytestmark = pytest.mark.usefixtures("no_window")


@pytest.fixture(scope="module")
def data():
    return make_sparse_codes(700, 8, 16, 3, random_state=5100)


@pytest.fixture(scope="module")
def sae(data):
    return SAEEncoder(dictionary=data.dictionary, max_iter=15, random_state=0).fit(data.X[:500])


def test_matplotlib_comes_with_the_first_picture():
    code = (
        "import sys, sparsecode_estimators.plotting; "
        "assert not any(name.startswith('matplotlib') for name in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# intervals


def test_interval_agrees_with_scipy():
    values = np.random.default_rng(1).normal(0.7, 0.1, 6)
    ours = mean_interval(values, confidence=0.9)
    theirs = stats.ttest_1samp(values, 0).confidence_interval(0.9)
    np.testing.assert_allclose(ours, [values.mean(), theirs.low, theirs.high])


def test_starts_do_not_narrow_an_interval():
    values = np.array([0.6, 0.7, 0.8])
    repeated = np.repeat(values[:, None], 50, axis=1)
    np.testing.assert_allclose(mean_interval(repeated), mean_interval(values))
    ragged = np.array([[0.5, 0.7], [0.7, np.nan], [0.8, 0.8]])
    np.testing.assert_allclose(mean_interval(ragged), mean_interval(values))


def test_one_data_set_has_no_interval():
    mean, low, high = mean_interval([[0.5, 0.7]])
    assert mean == pytest.approx(0.6)
    assert np.isnan(low)
    assert np.isnan(high)


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        ([], {}, "no finite number"),
        ([np.nan], {}, "no finite number"),
        ([0.5, np.inf, -np.inf, np.nan], {}, "values has 2 that are infinite; give NaN"),
        (np.zeros((2, 2, 2)), {}, "shape"),
        ([1.0, 2.0], {"confidence": 1.0}, "confidence=1.0"),
    ],
)
def test_bad_intervals(values, options, message):
    with pytest.raises(ValueError, match=message):
        mean_interval(values, **options)


# recovery


def test_recovery_draws_means_intervals_and_levels():
    scores = {"a": [0.5, 0.6, 0.7], "b": [[0.9, 0.8]]}
    display = RecoveryDisplay.from_results(scores, chance=0.4, ceiling=0.95)
    assert [label.get_text() for label in display.ax_.get_yticklabels()] == ["a", "b"]
    np.testing.assert_allclose(display.bars_["a"].lines[0].get_xydata(), [[0.6, 0]])
    segment = display.bars_["a"].lines[2][0].get_segments()[0]
    np.testing.assert_allclose(segment[:, 0].astype(float), mean_interval(scores["a"])[1:])
    assert display.bars_["b"].lines[2] == ()  # one data set
    np.testing.assert_allclose(display.points_["b"].get_offsets()[:, 0], [0.9, 0.8])
    labels = [text.get_text() for text in display.ax_.get_legend().get_texts()]
    assert labels == ["chance 0.40", "ceiling 0.95"]
    assert display.figure_ is display.ax_.figure


def test_recovery_hides_no_score():
    scores = {"a": [-0.5, 0.6], "b": [0.9, 4.0, np.nan]}
    left, right = RecoveryDisplay.from_results(scores).ax_.get_xlim()
    assert left < -0.5
    assert right > 4
    # of scores between 0 and 1 the interval leaves the axis
    left, right = RecoveryDisplay.from_results({"a": [0.1, 0.9]}).ax_.get_xlim()
    assert (left, right) == (-0.02, 1.02)
    levels = RecoveryDisplay.from_results({"a": [0.2, 0.4]}, chance=-0.5, ceiling=1.3)
    left, right = levels.ax_.get_xlim()
    assert left < -0.5
    assert right > 1.3


def test_recovery_measures(data, sae):
    X, codes = data.X[500:], data.codes[500:]
    display = RecoveryDisplay.from_estimators(
        {"SAE": sae, "twice": [sae, sae]}, X, codes, dictionary=data.dictionary, random_state=3
    )
    expected = mean_corr_coef(codes, sae.transform(X))
    np.testing.assert_allclose(display.points_["SAE"].get_offsets()[:, 0], expected)
    assert display.points_["twice"].get_offsets().shape == (2, 2)
    assert display.chance == chance_level(codes, kind="projection", X=X, random_state=3)
    assert display.chance < expected < display.ceiling


def test_recovery_needs_methods():
    with pytest.raises(ValueError, match="scores is empty"):
        RecoveryDisplay({}).plot()
    with pytest.raises(ValueError, match="no finite number"):
        RecoveryDisplay({"a": []}).plot()
    assert not plt.get_fignums()


# frontier


@given(
    st.lists(
        st.tuples(st.integers(1, 8), st.integers(0, 8)),
        min_size=1,
        max_size=12,
    )
)
def test_front_is_what_nothing_dominates(points):
    cost, score = np.transpose(points).astype(float)
    half = len(points) // 2
    curves = {"a": (cost[:half], score[:half]), "b": (cost[half:], score[half:])}
    curves = {name: {"cost": c, "score": s} for name, (c, s) in curves.items() if len(c)}
    front = FrontierDisplay.from_results(curves).front_
    plt.close("all")
    on_it = {(curves[name]["cost"][i], curves[name]["score"][i]) for name, i in front}
    pairs = list(zip(cost, score, strict=True))
    expected = {
        (c, s)
        for c, s in pairs
        if not any(a <= c and b >= s and (a, b) != (c, s) for a, b in pairs)
    }
    assert on_it == expected


def test_frontier_draws_curves_in_order_of_cost():
    curves = {
        "solver": {"cost": [1000, 10], "score": [[0.9, 1.0], [0.5, 0.7]]},
        "guess": {"cost": [20], "score": [0.65]},
    }
    display = FrontierDisplay.from_results(curves, chance=0.3, cost_name="FLOP")
    line = display.lines_["solver"].lines[0]
    np.testing.assert_allclose(line.get_xydata(), [[10, 0.6], [1000, 0.95]])
    segments = display.lines_["solver"].lines[2][0].get_segments()
    np.testing.assert_allclose(segments[0][:, 1], mean_interval([0.5, 0.7])[1:])
    np.testing.assert_allclose(
        display.front_line_.get_xydata(), [[10, 0.6], [20, 0.65], [1000, 0.95], [1000, 0.95]]
    )
    assert display.ax_.get_xscale() == "log"
    assert display.ax_.get_xlabel() == "FLOP"
    labels = [text.get_text() for text in display.ax_.get_legend().get_texts()]
    assert set(labels) == {"solver", "guess", "best for the price", "chance 0.30"}


def test_frontier_measures(data, sae):
    X, codes = data.X[500:], data.codes[500:]
    exact = SparseCodingEncoder(dictionary=data.dictionary).fit(X)
    methods = {"SAE": sae, "exact": [exact]}
    display = FrontierDisplay.from_estimators(methods, X, codes, random_state=0)
    (point,) = display.lines_["SAE"].lines[0].get_xydata()
    assert point[0] == 2 * 16 * 8
    assert point[1] == pytest.approx(mean_corr_coef(codes, sae.transform(X)))
    with pytest.raises(ValueError, match="cost='watts'"):
        FrontierDisplay.from_estimators(methods, X, codes, cost="watts")
    unlabelled = FrontierDisplay.from_estimators(methods, X, cost="seconds", n_repeats=1)
    assert unlabelled.ax_.get_xlabel() == "seconds per row"
    assert (unlabelled.lines_["SAE"].lines[0].get_xdata() > 0).all()
    assert unlabelled.ax_.get_ylabel() == "explained variance"
    assert unlabelled.chance is None
    assert unlabelled.lines_["SAE"].lines[0].get_ydata()[0] == pytest.approx(sae.score(X))


@pytest.mark.parametrize(
    ("curves", "message"),
    [
        ({}, "curves is empty"),
        ({"a": {"cost": [1, 2], "score": [0.5]}}, "'a' has costs of shape"),
        ({"a": {"cost": [0], "score": [0.5]}}, "not above 0"),
        ({"a": {"cost": [1], "score": [np.nan]}}, "not finite"),
    ],
)
def test_bad_frontiers(curves, message):
    with pytest.raises(ValueError, match=message):
        FrontierDisplay.from_results(curves)
    assert not plt.get_fignums()


# gap


def test_gap_counts_every_row_once_in_every_part(data, sae):
    gap = amortisation_gap(sae, data.X[500:])
    display = GapDisplay.from_estimator(sae, data.X[500:])
    floor = 1e-9 * gap.objective.mean()
    for part in ("excess", "magnitude", "support"):
        counted = GapDisplay.from_results(gap).patches_[part]
        seen = int((getattr(gap, part) > floor).sum())
        if part == "excess":  # drawn as one outline
            values, _ = np.histogram(gap.excess[gap.excess > floor], display.bins_)
            assert values.sum() in (seen, seen - 1)  # the largest may be a rounding outside
            assert counted[0].get_xy()[:, 1].max() == pytest.approx(values.max(), abs=1)
        else:
            assert sum(patch.get_height() for patch in counted) == seen
    assert display.mean_.get_xdata()[0] == pytest.approx(gap.excess.mean())
    assert display.ax_.get_xscale() == "log"
    assert display.ax_.get_title(loc="left") == "SAEEncoder"
    labels = [text.get_text() for text in display.ax_.get_legend().get_texts()]
    none = np.mean(gap.support <= floor)
    assert any(label.endswith(f"none: {none:.0%}") and "support" in label for label in labels)


def test_no_gap_at_all():
    zero = np.zeros(5)
    gap = AmortisationGap(zero, zero, np.ones(5), zero, zero, zero)
    display = GapDisplay.from_results(gap, name="exact")
    assert not sum(patch.get_height() for patch in display.patches_["support"])
    assert "none: 100%" in display.ax_.get_legend().get_texts()[0].get_text()


def test_gap_needs_rows():
    none = np.zeros(0)
    with pytest.raises(ValueError, match="no rows"):
        GapDisplay(AmortisationGap(*[none] * 6)).plot()


# dictionary


def test_dictionary_is_put_in_order():
    rng = np.random.default_rng(51)
    D = rng.standard_normal((6, 5))
    learned = np.vstack([rng.standard_normal((2, 5)), -2 * D[::-1] + 0.1])
    display = DictionaryDisplay.from_results(D, learned, name="made")
    diagonal = np.diag(display.image_.get_array())
    assert (np.diff(diagonal) <= 1e-12).all()
    assert display.score_ == pytest.approx(dictionary_corr_coef(D, learned))
    assert diagonal.mean() == pytest.approx(display.score_)
    np.testing.assert_array_equal(np.sort(display.rows_), np.arange(6))
    np.testing.assert_array_equal(np.sort(display.columns_), np.arange(8))
    np.testing.assert_array_equal(display.columns_[:6], 7 - display.rows_)
    assert f"{display.score_:.3f}" in display.ax_.get_title()


def test_dictionary_of_an_estimator_with_fewer_atoms(data):
    small = SAEEncoder(10, max_iter=5, random_state=0).fit(data.X)
    display = DictionaryDisplay.from_estimator(small, data.dictionary)
    assert display.image_.get_array().shape == (16, 10)
    assert len(set(display.rows_)) == 16
    assert display.score_ == pytest.approx(
        dictionary_corr_coef(data.dictionary, small.components_), abs=1e-6
    )
    with pytest.raises(ValueError, match="8 features and dictionary_learned has 7"):
        DictionaryDisplay.from_results(data.dictionary, np.ones((3, 7)))


# training


def test_training_draws_the_history(sae):
    display = TrainingDisplay.from_estimator(sae, against="n_steps")
    assert display.axes_.shape == (4,)
    for curve, line in display.lines_["SAEEncoder"].items():
        np.testing.assert_allclose(line.get_ydata(), sae.history_[curve])
        np.testing.assert_allclose(line.get_xdata(), sae.history_["n_steps"])
    assert [ax.get_ylabel() for ax in display.axes_][1] == "explained variance"
    assert display.ax_.get_legend() is None


def test_training_of_several_runs_into_given_axes(sae):
    figure, axes = plt.subplots(1, 2)
    runs = {"a": sae.history_, "b": {"loss": [3.0, 2.0], "l0": [5, 4]}}
    display = TrainingDisplay.from_results(runs, curves=("loss", "l0"), ax=axes)
    assert display.figure_ is figure
    assert [text.get_text() for text in axes[0].get_legend().get_texts()] == ["a", "b"]
    np.testing.assert_allclose(axes[1].lines[1].get_xydata(), [[1, 5], [2, 4]])


@pytest.mark.parametrize("shape", [(1, 4), (4, 1), (2, 2)])
def test_training_labels_all_axes_that_are_given(sae, shape):
    axes = plt.subplots(*shape, squeeze=False)[1]
    TrainingDisplay.from_estimator(sae, ax=axes)
    assert {ax.get_xlabel() for ax in axes.flat} == {"epoch"}
    own = TrainingDisplay.from_estimator(sae).axes_
    assert [ax.get_xlabel() for ax in own] == ["", "", "epoch", "epoch"]


@pytest.mark.parametrize(
    ("histories", "options", "message"),
    [
        ({}, {}, "histories is empty"),
        ({"a": {"loss": [1.0]}}, {"curves": ("l0",)}, "'a' has no 'l0'"),
        ({"a": {"loss": [1.0]}}, {"curves": ("loss",), "against": "days"}, "against='days'"),
        ({"a": {"loss": [1.0]}}, {"curves": ()}, "curves is empty"),
        ({"a": {"loss": [1.0]}}, {"curves": ("loss", "loss")}, "names a curve twice"),
        ({"a": {"loss": [[1.0, 2.0]]}}, {"curves": ("loss",)}, r"'loss' of shape \(1, 2\)"),
        ({"a": {"loss": ["low"]}}, {"curves": ("loss",)}, "low"),
        (
            {"a": {"loss": [1.0, 0.5], "n_steps": [10]}},
            {"curves": ("loss",), "against": "n_steps"},
            r"shape \(2,\) against n_steps of shape \(1,\)",
        ),
    ],
)
def test_bad_histories(histories, options, message):
    with pytest.raises(ValueError, match=message):
        TrainingDisplay.from_results(histories, **options)
    assert not plt.get_fignums()


def test_training_wants_an_axis_for_each_curve(sae):
    axes = plt.subplots(1, 3)[1]
    with pytest.raises(ValueError, match="ax has 3 axes, but there are 4 curves"):
        TrainingDisplay.from_estimator(sae, ax=axes)


def test_dictionaries_of_any_kind_have_the_score_of_the_metric(no_window):
    rng = np.random.default_rng(1515)
    A, B = rng.standard_normal((2, 6, 4))
    expected = dictionary_corr_coef(A, B)
    for true, learned in ((A * 1e-200, B * 1e200), (sparse.csr_array(A), torch.tensor(B))):
        display = DictionaryDisplay.from_results(true, learned)
        assert display.score_ == pytest.approx(expected)
