"""Measures of verdicts, encoders compared by them, and what the token alone predicts."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from interpreting import N_LATENTS
from scipy import sparse, stats
from sklearn.metrics import balanced_accuracy_score, f1_score

from sparsecode_estimators.interpret import (
    LatentScore,
    Scores,
    compare_encoders,
    score_tokens,
)
from sparsecode_estimators.interpret.measures import chance_f1, mean_interval, measures

# Measures


@given(
    truth=st.lists(st.booleans(), min_size=2, max_size=30).filter(lambda t: 0 < sum(t) < len(t)),
    seed=st.integers(0, 2**16),
)
def test_measures_are_those_of_scikit_learn(truth, seed):
    truth = np.array(truth)
    said = np.random.default_rng(seed).random(len(truth)) < 0.5
    found = measures(truth, said, n_bootstrap=20, confidence=0.9, rng=np.random.default_rng(0))
    assert found.f1 == pytest.approx(f1_score(truth, said, zero_division=0))
    assert found.balanced_accuracy == pytest.approx(balanced_accuracy_score(truth, said))


def test_intervals_are_those_of_scipy():
    truth = np.repeat([True, False], [30, 20])
    said = truth ^ (np.random.default_rng(1).random(50) < 0.25)
    found = measures(truth, said, n_bootstrap=20_000, confidence=0.9, rng=np.random.default_rng(0))

    def f1(positives, negatives):
        hits, false = positives.sum(-1), negatives.sum(-1)
        return 2 * hits / (hits + false + positives.shape[-1])

    expected = stats.bootstrap(
        (said[truth], said[~truth]),
        lambda p, n, axis: f1(p, n),
        n_resamples=20_000,
        confidence_level=0.9,
        method="percentile",
        rng=np.random.default_rng(2),
    ).confidence_interval
    np.testing.assert_allclose(found.f1_interval, expected, atol=0.015)


def test_interval_of_a_mean_is_that_of_scipy():
    values = np.random.default_rng(3).random(25)
    found = mean_interval(values, n_bootstrap=20_000, confidence=0.95, rng=np.random.default_rng(0))
    expected = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    np.testing.assert_allclose(found, expected, atol=0.01)


@given(p=st.floats(0.01, 0.99), said=st.floats(0, 1))
def test_no_blind_guess_beats_chance(p, said):
    assert 2 * p * said / (p + said) <= chance_f1(p) + 1e-12


# Comparing


def scores_of(values, **metadata):
    rows = [LatentScore(i, "ok", None, f1=v) for i, v in values.items()]
    return Scores(rows, {"method": "detection", **metadata})


def test_encoders_are_compared_in_pairs():
    rng = np.random.default_rng(4)
    a = dict(enumerate(rng.random(30)))
    b = {i: min(1.0, v + rng.normal(0.05, 0.1)) for i, v in a.items()}
    b.pop(3)
    found = compare_encoders(scores_of(a, l0=20.0), scores_of({**b, 99: 0.5}, l0=20.5))
    differences = np.array([b[i] - a[i] for i in b])
    assert found.n_latents == 29
    assert found.difference == pytest.approx(differences.mean())
    assert found.p_value == pytest.approx(stats.wilcoxon(differences, zero_method="zsplit").pvalue)
    assert found.interval[0] < found.difference < found.interval[1]
    assert (found.l0_a, found.l0_b) == (20.0, 20.5)
    swapped = compare_encoders(scores_of(b), scores_of(a))
    assert swapped.difference == pytest.approx(-found.difference)


def test_equal_encoders_do_not_differ():
    a = scores_of({0: 0.1, 1: 0.7, 2: 0.9})
    found = compare_encoders(a, a)
    assert (found.difference, found.interval, found.p_value) == (0, (0, 0), 1)


def test_latents_are_paired_as_told():
    a, b = scores_of({0: 0.1, 1: 0.2}), scores_of({5: 0.2, 6: 0.3})
    assert compare_encoders(a, b, pairs=[(0, 5), (1, 6)]).difference == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("a", "b", "options", "message"),
    [
        (scores_of({0: 1.0}), scores_of({0: 1.0}), {}, "1 pairs of latents have a 'f1'"),
        (scores_of({0: 1.0}, l0=20.0), scores_of({0: 1.0}, l0=30.0), {}, "L0 is 20 in a and 30"),
        (
            scores_of({0: 1.0}, l0=20.0),
            scores_of({0: 1.0}, l0=30.0),
            {"max_l0_ratio": np.inf},
            "1 pairs",
        ),
        (
            scores_of({0: 1.0}, method="fuzzing"),
            scores_of({0: 1.0}),
            {},
            "method='fuzzing' and b with method='detection'",
        ),
    ],
)
def test_what_cannot_be_compared(a, b, options, message):
    with pytest.raises(ValueError, match=message):
        compare_encoders(a, b, **options)


# Tokens alone


def best_set(rates, seen, n_firing):
    """The best F1 of any set of tokens, by trying all."""
    best = 0.0
    for mask in range(1, 2 ** len(seen)):
        chosen = [i for i in range(len(seen)) if mask >> i & 1]
        hits = sum(rates[i] for i in chosen)
        best = max(best, 2 * hits / (sum(seen[i] for i in chosen) + n_firing))
    return best


@given(seed=st.integers(0, 2**16), n_tokens=st.integers(1, 6))
def test_the_best_set_of_tokens_is_found(seed, n_tokens):
    """Both halves are the same, so that the score is that of the fit."""
    rng = np.random.default_rng(seed)
    ids = np.concatenate([np.arange(n_tokens), rng.integers(0, n_tokens, 30)])
    fires = rng.random(len(ids)) < rng.random(n_tokens)[ids]
    if not 0 < fires.sum() < len(fires):
        return
    tokens = [f"t{i}" for i in np.tile(ids, 2)]
    documents = np.repeat([0, 1], len(ids))
    scores = score_tokens(np.tile(fires, 2)[:, None].astype(float), tokens, documents)
    seen = np.bincount(ids, minlength=n_tokens)
    rates = np.bincount(ids[fires], minlength=n_tokens)
    assert scores.f1[0] == pytest.approx(best_set(rates, seen, fires.sum()))
    assert scores.chance_f1[0] == pytest.approx(chance_f1(fires.mean()))


def test_tokens_are_scored_on_other_documents(corpus):
    tokens, documents, codes = corpus
    rng = np.random.default_rng(0)
    noise = (rng.random((len(tokens), 1)) < 0.1).astype(np.float32)
    codes = np.hstack([codes, noise])
    dense = score_tokens(codes, tokens, documents)
    np.testing.assert_array_equal(dense.f1[:N_LATENTS], 1)
    assert dense.tokens[:N_LATENTS] == [(f" w{i}",) for i in range(N_LATENTS)]
    assert np.isnan(dense.f1[N_LATENTS])
    assert dense.tokens[N_LATENTS] == ()
    # what does not depend on the token is found no better than by chance
    assert abs(dense.f1[-1] - dense.chance_f1[-1]) < 0.05
    assert abs(dense.balanced_accuracy[-1] - 0.5) < 0.03
    assert dense.n_tokens == 3000
    chunks = (sparse.csr_array(codes[i : i + 701]) for i in range(0, len(codes), 701))
    chunked = score_tokens(chunks, tokens, documents)
    np.testing.assert_array_equal(chunked.f1, dense.f1)
    assert chunked.tokens == dense.tokens


def test_tokens_need_two_documents():
    with pytest.raises(ValueError, match=r"document_ids holds 1 document"):
        score_tokens(np.eye(2), ["a", "b"], [0, 0])


def test_a_negative_number_of_tokens_is_refused():
    with pytest.raises(ValueError, match="max_tokens=-1"):
        score_tokens(np.eye(2), ["a", "b"], [0, 1], max_tokens=-1)


def test_rows_of_numpy_s_numbers_can_be_saved(tmp_path):
    rows = [LatentScore(i, "ok", None, f1=np.float64(0.5)) for i in np.arange(3)]
    Scores(rows, {"method": "detection"}).save(tmp_path / "scores.json")
    assert [row.latent for row in Scores.load(tmp_path / "scores.json")] == [0, 1, 2]
