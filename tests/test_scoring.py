"""Scores of explanations, by judges whose verdicts are known; nothing leaves the machine."""

import json

import numpy as np
import pytest
from chat_server import Faulty, serving
from interpreting import N_LATENTS, excerpts, explainer, judge, named, user
from sklearn.metrics import balanced_accuracy_score, f1_score

from sparsecode_estimators.interpret import (
    ChatClient,
    Explanation,
    Explanations,
    Scores,
    collect_contexts,
    explain_latents,
    score_explanations,
)
from sparsecode_estimators.interpret.selection import span


@pytest.mark.parametrize("method", ["detection", "fuzzing"])
def test_a_judge_that_knows(ask, contexts, method):
    def run(client):
        explanations = explain_latents(contexts, range(N_LATENTS), client, n_shown=10)
        return score_explanations(contexts, explanations, client, method=method)

    def answer(body, before):
        return explainer(body, before) if "Strengths" in user(body) else judge(body, before)

    scores, _ = ask(run, answer)
    assert [row.status for row in scores] == ["ok"] * N_LATENTS
    for row in scores:
        assert row.n_positive == row.n_negative
        assert row.chance_f1 == pytest.approx(2 / 3)
        assert row.baseline_latent != row.latent
        assert row.baseline_f1 < 0.5
        truth = [true for _, _, true, _ in row.judged]
        said = [verdict for *_, verdict in row.judged]
        assert row.f1 == pytest.approx(f1_score(truth, said))
        assert row.balanced_accuracy == pytest.approx(balanced_accuracy_score(truth, said))
        if method == "detection":  # a random mark may be right by accident
            assert row.f1 == 1
            assert row.f1_interval == (1, 1)
    assert scores.summary("f1")["mean"] > 0.95
    assert scores.metadata["l0"] == pytest.approx(np.sum(contexts.firing_rate))


def test_saying_yes_to_all_is_chance(ask, contexts):
    def answer(body, before):
        return json.dumps({"fires": [1] * len(excerpts(body))})

    scores, _ = ask(lambda client: score_explanations(contexts, named(), client), answer)
    for row in scores:
        assert row.f1 == row.chance_f1 == row.baseline_f1 == pytest.approx(2 / 3)
        assert row.balanced_accuracy == row.baseline_balanced_accuracy == 0.5


def test_a_judge_that_draws(ask, contexts):
    rng = np.random.default_rng(2)

    def answer(body, before):
        return json.dumps({"fires": rng.integers(0, 2, len(excerpts(body))).tolist()})

    scores, _ = ask(
        lambda client: score_explanations(contexts, named(), client, baseline=False),
        answer,
        max_concurrency=1,
    )
    low, high = scores.summary("balanced_accuracy")["interval"]
    assert low < 0.5 < high
    assert low > 0.3
    assert high < 0.7
    for row in scores:
        assert row.f1_interval[0] < row.f1 < row.f1_interval[1]
        assert row.baseline_f1 is None


def test_failures_count_as_wrong_and_are_told(ask, contexts):
    """The first prompt about each latent is never answered."""

    def answer(body, before):
        first = excerpts(body) in firsts.values()
        return "no idea" if first else judge(body, before)

    firsts = {}

    def run(client):
        explanations = named(3)

        def note(body, before):
            firsts.setdefault(user(body).split("\n")[0], excerpts(body))
            return judge(body, before)

        with serving(note) as server:
            quiet = ChatClient("m", base_url=server.url, verbose=False, max_concurrency=1)
            whole = score_explanations(contexts, explanations, quiet, baseline=False)
            quiet.close()
        with pytest.warns(UserWarning, match="3 of 3 latents were not judged as they should"):
            return whole, score_explanations(contexts, explanations, client, baseline=False)

    (whole, scores), _ = ask(run, answer)
    for row, complete in zip(scores, whole, strict=True):
        assert complete.f1 == 1
        assert (row.status, row.n_failed) == ("failed", 5)
        assert [verdict for *_, verdict in row.judged].count(None) == 5
        truth = [true for _, _, true, _ in row.judged]
        counted = [not t if v is None else v for _, _, t, v in row.judged]
        assert row.f1 == pytest.approx(f1_score(truth, counted))
        assert row.f1 < 1
        assert "5 of 40 contexts have no verdict" in row.reason


@pytest.mark.parametrize(
    "reply",
    [
        {"fires": [1, 0, 1]},
        {"fires": [1, 0, 1, 0, 2]},
        {"fires": [1, 0, 1, 0, "1"]},
        {"fires": [1.0] * 5},
        {"fires": "10101"},
        {"fires": [1] * 5, "note": ""},
        {"verdicts": [1] * 5},
    ],
)
def test_verdicts_are_read_strictly(ask, contexts, reply):
    def run(client):
        with pytest.warns(UserWarning, match="were not judged"):
            return score_explanations(contexts, named(2), client, n_contexts=10)

    scores, server = ask(run, lambda body, before: json.dumps(reply))
    for row in scores:
        assert (row.status, row.f1, row.n_failed) == ("failed", 0, 10)
        assert (row.baseline_f1, row.baseline_n_failed) == (0, 10)
    assert len(server.requests) == 16  # two prompts of four kinds, and a repair of each


def test_what_was_not_sent_has_no_score(ask, contexts):
    def run(client):
        with pytest.warns(UserWarning, match="max_wait"):
            return score_explanations(contexts, named(2), client)

    hour = Faulty(429, "later", {"Retry-After": "3600"})
    scores, server = ask(run, lambda body, before: hour, max_concurrency=1)
    assert len(server.requests) == 1
    assert [(row.status, row.f1) for row in scores] == [("not sent", None)] * 2
    assert scores.summary() == {"mean": None, "interval": None, "n_latents": 2, "n_scored": 0}


def test_latents_without_explanation_or_contexts_are_rows(ask, corpus):
    tokens, documents, codes = corpus
    few = codes.copy()
    few[np.flatnonzero(few[:, 0])[2:], 0] = 0
    contexts = collect_contexts(few, tokens, documents, n_before=2, n_after=2, random_state=0)
    shown = tuple(span(context) for context in contexts.top(0))
    rows = [
        Explanation(0, "the word w0", "ok", None, shown),
        Explanation(1, None, "failed", "no JSON", ()),
        Explanation(2, "the word w2", "ok", None, ()),
    ]

    def run(client):
        with pytest.warns(UserWarning, match="2 of 3 latents"):
            return score_explanations(contexts, Explanations(rows), client)

    scores, _ = ask(run, judge)
    assert [row.status for row in scores] == ["too few contexts", "no explanation", "ok"]
    assert scores.to_frame().loc[1, "reason"] == "no JSON"


def test_scores_are_saved_and_loaded(ask, contexts, tmp_path):
    scores, _ = ask(lambda client: score_explanations(contexts, named(2), client), judge)
    scores.save(tmp_path / "s.json")
    again = Scores.load(tmp_path / "s.json")
    assert list(again) == list(scores)
    assert again.metadata == scores.metadata


def test_a_second_run_pays_nothing(ask, contexts, tmp_path):
    def run():
        return ask(
            lambda client: score_explanations(contexts, named(3), client),
            judge,
            journal=tmp_path / "j",
        )

    first, server = run()
    second, again = run()
    assert len(server.requests) == 3 * 2 * 8
    assert not again.requests
    assert [row.judged for row in second] == [row.judged for row in first]
    assert [row.f1_interval for row in second] == [row.f1_interval for row in first]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "guessing"}, "method='guessing' is unknown"),
        ({"n_contexts": 1}, "n_contexts=1 must be at least 2"),
        ({"n_per_prompt": 0}, "n_per_prompt=0"),
        ({"confidence": 1}, "confidence=1 must be between 0 and 1"),
    ],
)
def test_bad_parameters_of_scoring(contexts, options, message):
    with pytest.raises(ValueError, match=message):
        score_explanations(contexts, named(1), None, **options)
