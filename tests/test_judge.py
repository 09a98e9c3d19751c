"""The experiment in which a language model judges latents, with a server that answers by a rule."""

import argparse
import json
import re
from hashlib import sha256
from pydoc_data.topics import topics

import judge
import judged_latents
import language_model
import numpy as np
import pytest
from chat_server import serving

from sparsecode_estimators.datasets import ActivationStore
from sparsecode_estimators.datasets.language_models import TINY_GPT2
from sparsecode_estimators.formats import load

pytest.importorskip("openai")
K, LATENTS, CONTEXTS = 8, 3, 8
KNOWN = judged_latents.KNOWN


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """What language_model.py leaves: stores, and an SAE of 320 latents on the tiny GPT-2."""
    out = tmp_path_factory.mktemp("language-model")
    texts = [topics[name][:800] for name in sorted(topics)]
    options = {"model": str(TINY_GPT2), "layer": 3, "context_length": 128}
    store, _ = language_model.extracted(out, texts[::2], texts[1::2], options)
    args = argparse.Namespace(out=out, factor=2, k=K, seed=0)
    language_model.trained(args, {"epochs": 3, "batch_size": 512}, store)
    return out


@pytest.fixture
def folder(made, tmp_path, monkeypatch):
    """The same in a folder of its own, without answers."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for name in ("sae", "held_out"):
        (tmp_path / name).symlink_to(made / name)
    return tmp_path


@pytest.fixture(scope="module")
def latents(made):
    """Contexts and latents of all encoders, collected once."""
    sae, store = load(made / "sae"), ActivationStore(made / "held_out")
    return judged_latents.latents_of(sae, store, n=LATENTS, n_rows=10**6, seed=0)


@pytest.fixture
def collected(latents, monkeypatch):
    monkeypatch.setattr(judge, "latents_of", lambda *args, **options: latents)


def answering(verdict):
    """Explains every prompt by words of its own, and judges excerpts by a rule."""

    def answer(body, before):
        system, *others = (message["content"] for message in body["messages"])
        last = next(text for text in reversed(others) if "Excerpt 1:" in text)  # not a repair
        if "You describe" in system:
            phrase = "words like " + sha256(last.encode()).hexdigest()[:8]
            return json.dumps({"explanation": phrase})
        said = json.loads(re.search("^Explanation: (.*)$", last, re.MULTILINE)[1])
        excerpts = map(json.loads, re.findall(r"^Excerpt \d+: (.*)$", last, re.MULTILINE))
        return verdict(said, list(excerpts))

    return answer


def run(folder, url, *options):
    arguments = [str(folder), "--model", "m", "--base-url", url, "--latents", str(LATENTS)]
    judge.main([*arguments, "--contexts", str(CONTEXTS), *options])
    return json.loads((folder / "judge" / "judge.json").read_text())


def yes(said, excerpts):
    return json.dumps({"fires": [1] * len(excerpts)})


def reads(said, excerpts):
    """Finds words that are named, and says no to all else."""
    word = said.removeprefix('the word "').removesuffix('"')
    return json.dumps(
        {"fires": [int(re.search(rf"\b{word}\b", text) is not None) for text in excerpts]}
    )


def test_who_reads_passes_the_control_and_finds_nothing_by_empty_phrases(folder, collected):
    with serving(answering(reads)) as server:
        result = run(folder, server.url)
    found = result["encoders"]
    assert found[KNOWN]["f1"]["mean"] > 0.9
    assert found[KNOWN]["baseline_f1"]["mean"] < 0.5
    assert found[KNOWN]["different answers"] > 2
    difference = result["comparisons"][f"other explanation → own, {KNOWN}: f1"]
    assert difference["difference"] > 0.5
    for name in (judge.SAE, judge.REFINED, judge.RANDOM):
        assert found[name]["f1"]["mean"] == 0
        assert found[name]["balanced_accuracy"]["mean"] == 0.5


def test_who_always_says_yes_is_at_chance_and_is_paid_once(folder, capsys):
    with serving(answering(yes)) as server:
        result = run(folder, server.url)
        plan = judge.Plan.of(LATENTS, CONTEXTS)
        assert len(server.requests) == plan.total == result["spent"]["requests of all runs"]
        assert capsys.readouterr().out.startswith(f"{plan.total} requests")
        again = run(folder, server.url)
        assert len(server.requests) == plan.total
    for name in ("seconds", "environment"):
        del result[name], again[name]
    for found in (*result["encoders"].values(), *again["encoders"].values()):
        del found["requests"]  # of this run
    assert again == result
    for name, found in result["encoders"].items():
        if name != KNOWN:
            assert found["L0"] == pytest.approx(K)
        assert found["contexts"] == LATENTS * CONTEXTS
        assert found["contexts without a verdict"] == found["the same, other explanation"] == 0
        assert found["different explanations"] == LATENTS
        assert found["said to fire"] == 1
        assert found["different answers"] == len({5, CONTEXTS % 5})
        for name in ("f1", "baseline_f1"):
            assert found[name]["mean"] == pytest.approx(found["chance f1"]) == pytest.approx(2 / 3)
        assert found["balanced_accuracy"]["mean"] == 0.5
    encoders = result["encoders"]
    assert list(encoders[judge.SAE]["texts"]) == list(encoders[judge.REFINED]["texts"])
    assert encoders[judge.SAE]["texts"] != encoders[judge.REFINED]["texts"]
    compared = result["comparisons"]
    assert len(compared) == 14
    assert {c["n_latents"] for c in compared.values()} == {LATENTS}
    assert {c["p_value"] for c in compared.values()} == {1.0}
    text = (folder / "judge" / "judge.txt").read_text()
    assert "0.667 (0.667 to 0.667)" in text


def test_answers_that_cannot_be_read_are_wrong_and_counted(folder, collected):
    with serving(answering(lambda said, excerpts: "perhaps")) as server:
        result = run(folder, server.url)
    for found in result["encoders"].values():
        assert found["scores"] == {"failed": LATENTS}
        assert found["contexts without a verdict"] == LATENTS * CONTEXTS
        assert found["the same, other explanation"] == LATENTS * CONTEXTS
        assert found["f1"]["mean"] == found["balanced_accuracy"]["mean"] == 0
        assert found["said to fire"] is None
    assert len(server.requests) <= judge.Plan.of(LATENTS, CONTEXTS).limit


def test_without_explanations_there_is_nothing_to_compare(folder, collected):
    with serving(lambda body, before: "it is hard to say") as server:
        result = run(folder, server.url)
    explained = {name: found["explanations"] for name, found in result["encoders"].items()}
    assert explained.pop(KNOWN) == {"ok": LATENTS}
    assert all(found == {"failed": LATENTS} for found in explained.values())
    reasons = [c["reason"] for name, c in result["comparisons"].items() if KNOWN not in name]
    assert all("at least 2" in reason for reason in reasons)
    assert "at least 2" in (folder / "judge" / "judge.txt").read_text()


def test_plan_needs_neither_server_nor_folder(tmp_path, capsys):
    arguments = [str(tmp_path / "none"), "--model", "m", "--base-url", "http://127.0.0.1:1/v1"]
    judge.main([*arguments, "--plan"])
    assert capsys.readouterr().out.startswith(str(judge.Plan.of(20, 20).total))


def test_latents_fire_as_often_as_the_rule_says(made):
    store = ActivationStore(made / "held_out")
    latents = judged_latents.latents_of(load(made / "sae"), store, n=4, n_rows=3000, seed=0)
    chosen = {name: found.chosen for name, found in latents.items()}
    assert chosen[judge.SAE] == chosen[judge.REFINED] != chosen[judge.RANDOM]
    for name, (contexts, which, _) in latents.items():
        fewest = judged_latents.FEWEST_WORDS if name == KNOWN else judged_latents.FEWEST
        rates = contexts.firing_rate[which]
        assert len(set(which)) == 4
        assert contexts.n_tokens == 3000
        assert (rates * 3000 > fewest - 0.5).all()
        assert (rates <= judge.MOST).all()
    contexts, which, explained = latents[judged_latents.KNOWN]
    for latent in which:
        word = explained.of(latent).explanation.removeprefix('the word "').removesuffix('"')
        for context in contexts.top(latent):
            assert context.tokens[context.center].strip().lower() == word
    found = {name: latents[name].contexts for name in latents}
    with pytest.raises(SystemExit, match="latents fire as often"):
        judged_latents.chosen(found, 321, seed=0)


def test_words_are_found_whole_however_they_are_written():
    texts = np.array([" cat", "Cat", "a", " 12", "dogs", "\n"], dtype=object)
    places = np.array([0, 3, 1, 5, 1, 0, 4, 5, 4, 1])  # " cat 12Cat\nCat catdogs\ndogs", "Cat"
    documents = np.array([0] * 9 + [1])
    words, codes = judged_latents.known_words(texts, places, documents)
    assert words == ["cat", "dogs"]
    rows, columns = codes.nonzero()
    assert sorted(zip(rows.tolist(), columns.tolist(), strict=True)) == [
        (0, 0),
        (4, 0),
        (8, 1),
        (9, 0),
    ]
