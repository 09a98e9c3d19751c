"""Explaining and scoring, killed at random points: what was paid is never asked again."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from chat_server import serving

pytest.importorskip("openai")

KEY = "sk-very-secret-0123456789"
AT_ONCE = 3
# Imports once, then a process for each line that it reads; it has no threads when it forks.
RUNS = """
import os, sys
import numpy as np
import openai
from sparsecode_estimators.interpret import (
    ChatClient, collect_contexts, explain_latents, score_explanations
)

rng = np.random.default_rng(7)
ids = rng.integers(0, 30, 3000)
codes = (ids[:, None] == np.arange(4)) * rng.uniform(1, 2, (len(ids), 1))
tokens, documents = [f" w{{i}}" for i in ids], np.repeat(np.arange(30), 100)
contexts = collect_contexts(codes, tokens, documents, n_before=4, n_after=2, random_state=0)

def run():
    client = ChatClient("m", base_url={url!r}, api_key={key!r}, journal={journal!r},
                        max_concurrency={at_once}, verbose=False)
    explanations = explain_latents(contexts, range(4), client, n_shown=8)
    scores = score_explanations(contexts, explanations, client)
    explanations.save({folder!r} + "/explanations.json")
    scores.save({folder!r} + "/scores.json")
    assert [row.f1 for row in scores] == [1.0] * 4
    print(client.n_requests_, flush=True)

for _ in sys.stdin:
    child = os.fork()
    if not child:
        run()
        os._exit(0)
    print(child, flush=True)
    print("killed" if os.waitpid(child, 0)[1] else "ended", flush=True)
"""


def knows(body, before):
    """Explains by the token that has a strength, judges by the token of the explanation."""
    prompt = body["messages"][-1]["content"]
    strength = re.search(r'Strengths: " (w\d+)"', prompt)
    if strength:
        return json.dumps({"explanation": strength[1]})
    word = re.search(r'Explanation: "(w\d+)"', prompt)[1]
    excerpts = re.findall(r"^Excerpt \d+: (.*)$", prompt, re.MULTILINE)
    return json.dumps({"fires": [int(word in re.findall(r"w\d+", text)) for text in excerpts]})


class Runs:
    """Processes of one script, each with the same journal."""

    def __init__(self, url, folder):
        self.journal = folder / "journal.jsonl"
        names = {"url": url, "key": KEY, "journal": str(self.journal), "folder": str(folder)}
        self._parent = subprocess.Popen(
            [sys.executable, "-c", RUNS.format(**names, at_once=AT_ONCE)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        )

    def start(self):
        self._parent.stdin.write("run\n")
        self._parent.stdin.flush()
        return int(self.line())

    def line(self):
        return self._parent.stdout.readline().strip()

    def answered(self):
        """The requests that have an answer in the journal."""
        lines = self.journal.read_bytes().split(b"\n")[:-1] if self.journal.exists() else []
        records = [json.loads(line) for line in lines]
        return {json.dumps(r["messages"]) for r in records if r["event"] == "answer"}

    def close(self):
        self._parent.communicate(timeout=60)


def test_killed_at_five_random_points_nothing_is_paid_twice(tmp_path, monkeypatch):
    """A request may come twice only if it was under way when a kill came."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    rng = np.random.default_rng(5)
    lost = 0
    with serving(knows, delay=0.05) as server:
        runs = Runs(server.url, tmp_path)

        def asked(since):
            return [json.dumps(body["messages"]) for body in server.requests[since:]]

        for _ in range(5):
            before, known = len(server.requests), runs.answered()
            process = runs.start()
            while len(server.requests) == before:
                time.sleep(0.002)
            time.sleep(rng.uniform(0, 0.2))
            os.kill(process, signal.SIGKILL)
            assert runs.line() == "killed"
            time.sleep(0.3)  # what is under way arrives
            assert len(set(asked(before))) == len(asked(before))
            assert not known & set(asked(before))
            lost += len(asked(before)) - len(runs.answered() - known)
        known, before = runs.answered(), len(server.requests)
        runs.start()
        n_requests = int(runs.line())
        assert runs.line() == "ended"
        runs.close()
        assert not known & set(asked(before))
    everything = set(asked(0))
    assert 0 < len(known) < len(everything)
    assert everything == runs.answered()
    assert len(server.requests) == len(everything) + lost
    assert lost <= 5 * AT_ONCE
    # what was about to be sent when a kill came counts as sent
    assert 0 <= n_requests - len(server.requests) <= 5 * AT_ONCE
    files = {path.name: path for path in tmp_path.rglob("*") if path.is_file()}
    assert sorted(files) == ["explanations.json", "journal.jsonl", "scores.json"]
    for path in files.values():
        assert KEY not in path.read_text()
