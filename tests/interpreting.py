"""A server that explains and judges by known rules, and the latents it is asked about."""

import json
import re

import numpy as np
from chat_server import serving
from scipy import sparse

from sparsecode_estimators.interpret import (
    ChatClient,
    Explanation,
    Explanations,
    collect_contexts,
)

WORDS = [f" w{i}" for i in range(40)]
N_LATENTS = 6


def corpus():
    """Tokens, documents and codes: latent j fires on word j, and one never fires."""
    rng = np.random.default_rng(11)
    ids = rng.integers(0, len(WORDS), 6000)
    documents = np.repeat(np.arange(60), 100)
    codes = np.zeros((len(ids), N_LATENTS + 1), np.float32)
    for latent in range(N_LATENTS):
        codes[ids == latent, latent] = rng.uniform(0.5, 3, (ids == latent).sum())
    return [WORDS[i] for i in ids], documents, codes


def contexts(tokens, documents, codes):
    options = {"n_before": 6, "n_after": 3, "random_state": 3}
    return collect_contexts(sparse.csr_array(codes), tokens, documents, **options)


def ask(function, answer, **options):
    """What a function makes of a client of a server that answers so, and the server."""
    with serving(answer) as server:
        client = ChatClient("m", base_url=server.url, verbose=False, max_retries=1, **options)
        result = function(client)
        client.close()
    return result, server


def user(body):
    return body["messages"][-1]["content"]


def question(body):
    """What was asked first; in a repair an answer and a complaint follow it."""
    repair = user(body).startswith("This could not be read")
    return body["messages"][-3 if repair else -1]["content"]


def excerpts(body):
    return re.findall(r"^Excerpt \d+: (.*)$", question(body), re.MULTILINE)


def explainer(body, before):
    """Names the token that has a strength."""
    word = re.search(r'Strengths: " (w\d+)"', user(body))[1]
    return json.dumps({"explanation": f"the word {word}"})


def judge(body, before):
    """Finds the word of the explanation, between marks if there are any."""
    word = re.search(r'Explanation: "the word (w\d+)"', user(body))[1]
    found = [re.findall(r"w\d+", text) for text in excerpts(body)]
    if "are marked" in body["messages"][0]["content"]:
        found = [re.findall(r"w\d+", " ".join(re.findall(r"{{(.*?)}}", t))) for t in excerpts(body)]
        return json.dumps({"fires": [int(set(words) == {word}) for words in found]})
    return json.dumps({"fires": [int(word in words) for words in found]})


def named(n=N_LATENTS, shown=()):
    return Explanations(Explanation(i, f"the word w{i}", "ok", None, shown) for i in range(n))
