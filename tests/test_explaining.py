"""Explanations of latents, by a server whose answers are known; nothing leaves the machine."""

import contextlib
import json
import re

import pytest
from chat_server import Faulty, completion, mutated
from interpreting import N_LATENTS, excerpts, explainer, named, question, user

from sparsecode_estimators.interpret import (
    Explanations,
    LatentScore,
    Scores,
    explain_latents,
)
from sparsecode_estimators.interpret.selection import shown_contexts, span


def test_explanations_are_text_that_any_file_can_hold(ask, contexts):
    said = '{"explanation": "half \\ud800 pair,\\u0000 \\u001b[31mred\\u009b\\n two\\tlines"}'
    found, _ = ask(lambda client: explain_latents(contexts, [2], client), lambda *_: said)
    assert found.of(2).explanation == "half ? pair, [31mred two lines"
    with pytest.warns(UserWarning, match="have no explanation"):
        ask(
            lambda client: explain_latents(contexts, [2], client),
            lambda *_: '{"explanation": "\\u0000 \\u001b"}',
        )


def test_explanations_say_what_was_shown(ask, contexts):
    found, server = ask(lambda client: explain_latents(contexts, [2, 0], client), explainer)
    assert [(row.latent, row.explanation) for row in found] == [
        (2, "the word w2"),
        (0, "the word w0"),
    ]
    assert repr(found) == "Explanations(2 ok)"
    assert found.metadata["model"] == "m"
    assert found.metadata["parameters"]["seed"] == 0
    assert found.of(0).shown == tuple(span(c) for c in shown_contexts(contexts, 0, 20))
    assert (found.of(0).n_requests, found.of(0).prompt_tokens) == (1, 11)
    assert len(server.requests) == 2


def test_a_prompt_does_not_depend_on_other_latents(ask, contexts, tmp_path):
    def run(latents):
        return ask(
            lambda client: explain_latents(contexts, latents, client),
            explainer,
            journal=tmp_path / "j",
        )

    first, _ = run([0, 1])
    second, server = run([3, 1])
    assert len(server.requests) == 1
    assert second.of(1).explanation == first.of(1).explanation
    assert second.of(1).n_requests == 0


def test_promoted_tokens_are_told(ask, contexts):
    promoted = {0: [" cat", "<|im_end|>"]}
    _, server = ask(
        lambda client: explain_latents(contexts, [0, 1], client, promoted=promoted, n_shown=3),
        explainer,
    )
    told = [user(body) for body in server.requests if "more likely" in user(body)]
    assert len(told) == 1
    assert '" cat", "\\u003c|im_end|>"' in told[0]
    assert all(len(excerpts(body)) == 3 for body in server.requests)


def test_one_repair_and_then_a_failure(ask, contexts):
    def answer(body, before):
        latent = re.search(r'Strengths: " w(\d+)"', question(body))[1]
        if latent == "0" or (latent == "1" and user(body) == question(body)):
            return "I would say: cats<|im_end|>"
        return json.dumps({"explanation": "  the  word\nw "})

    def run(client):
        with pytest.warns(UserWarning, match="1 of 3 latents have no explanation: 1 × .*JSON"):
            return explain_latents(contexts, [0, 1, 2], client)

    found, server = ask(run, answer)
    assert [row.status for row in found] == ["failed", "ok", "ok"]
    assert [row.explanation for row in found] == [None, "the word w", "the word w"]
    assert [row.n_requests for row in found] == [2, 2, 1]
    assert [row.prompt_tokens for row in found] == [22, 22, 11]
    repairs = [body for body in server.requests if user(body) != question(body)]
    assert len(repairs) == 2
    for body in repairs:
        roles = [message["role"] for message in body["messages"]]
        assert roles == ["system", *["user", "assistant"] * 2, "user"]
        assert body["messages"][-2]["content"] == "I would say: cats\\u003c|im_end|>"
    assert "no JSON object" in user(repairs[0])


def test_a_repair_that_the_budget_does_not_hold_ends_nothing(ask, contexts):
    def run(client):
        with pytest.warns(UserWarning, match="2 of 3 latents have no explanation"):
            return explain_latents(contexts, [0, 1, 2], client)

    def answer(body, before):
        return explainer(body, before) if ' w0"' in user(body).split("\n")[1] else "cats"

    found, server = ask(run, answer, max_requests=4)
    assert [row.status for row in found] == ["ok", "failed", "failed"]
    assert "max_requests=4 requests is spent" in found[2].reason
    assert len(server.requests) == 4


def test_faults_and_silence_are_rows(ask, contexts):
    def answer(body, before):
        if '" w1"' in user(body).split("\n")[1]:
            return Faulty(400, "too long")
        return (
            completion("", choices=[])
            if '" w2"' in user(body).split("\n")[1]
            else explainer(body, before)
        )

    def run(client):
        with pytest.warns(UserWarning, match="3 of 4 latents have no explanation"):
            return explain_latents(contexts, [0, 1, 2, N_LATENTS], client)

    found, _ = ask(run, answer)
    assert [row.status for row in found] == ["ok", "failed", "failed", "silent"]
    assert "too long" in found[1].reason
    assert "no choices" in found[2].reason


def test_saved_and_loaded(ask, contexts, tmp_path):
    found, _ = ask(lambda client: explain_latents(contexts, [1, 0], client), explainer)
    found.save(tmp_path / "e.json")
    again = Explanations.load(tmp_path / "e.json")
    assert again.to_dict() == found.to_dict()
    assert again[0] == found[0]
    assert again.to_frame().loc[1, "explanation"] == "the word w1"
    assert [path.name for path in tmp_path.iterdir()] == ["e.json"]


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c | {"format": "Scores"},
        lambda c: c | {"version": 2},
        lambda c: c | {"metadata": []},
        lambda c: c | {"rows": [{"latent": 0}]},
        lambda c: c | {"rows": [c["rows"][0] | {"latent": "0"}]},
        lambda c: c | {"rows": [c["rows"][0] | {"shown": [[1, 2, 3]]}]},
        lambda c: c | {"rows": c["rows"] * 2},
        lambda c: [],
    ],
)
def test_a_damaged_file_is_refused(change, tmp_path):
    path = tmp_path / "e.json"
    named(1, ((0, 4),)).save(path)
    assert Explanations.load(path)[0].shown == ((0, 4),)
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(ValueError, match="no file of Explanations, or it is damaged"):
        Explanations.load(path)


def test_a_mutated_file_is_read_or_refused(tmp_path):
    row = LatentScore(
        3, "ok", None, f1=0.5, f1_interval=(0.1, 0.9), judged=((7, "top", True, None),)
    )
    Scores([row], {"l0": 8.0}).save(tmp_path / "s.json")
    for content in mutated((tmp_path / "s.json").read_bytes(), 2000):
        (tmp_path / "m.json").write_bytes(content)
        with contextlib.suppress(ValueError):
            assert len(Scores.load(tmp_path / "m.json")) <= 1


@pytest.mark.parametrize(
    ("latents", "message"),
    [([0, 7], "latents holds 7"), ([1, 1], "latents holds a latent twice"), ([0.5], "holds 0.5")],
)
def test_bad_latents(contexts, latents, message):
    with pytest.raises(ValueError, match=message):
        explain_latents(contexts, latents, None)
