"""Extraction of activations against the bare forward pass on the same batches, in turns.

    python benchmarks/extraction.py [--quick] [--threads 2] [--model FOLDER --layer 15]

"bare" is the model with its later blocks cut off, called on batches that were made before; the
others are whole calls of ``load_activations`` with a loaded model: texts, tokens, batches, pass,
rows. Medians over interleaved rounds, by processor time and by wall clock.
"""

from __future__ import annotations

import argparse
import copy
import pydoc_data.topics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
import transformers
from workloads import write

from sparsecode_estimators.datasets import load_activations
from sparsecode_estimators.datasets.hooks import find_blocks
from sparsecode_estimators.datasets.language_models import TINY_GPT2
from sparsecode_estimators.datasets.windows import Cutter

CONTEXT, BATCH, LOOK_AHEAD = 128, 32, 16


def cut_off(model: Any, layer: int) -> Any:
    """The model as if it ended before a layer."""
    short = copy.deepcopy(model)
    del find_blocks(short)[layer:]
    for name in ("ln_f", "norm"):
        if hasattr(short, name):
            setattr(short, name, torch.nn.Identity())
    return short


def batches(tokenizer: Any, texts: list[str], vocab_size: int) -> tuple[list[dict], int]:
    """What the model is called with in ``load_activations``, and how many rows there are."""
    cutter = Cutter(tokenizer, context_length=CONTEXT, vocab_size=vocab_size)
    found, n_rows = [], 0
    for windows in cutter.blocks(texts, LOOK_AHEAD * BATCH):
        n_rows += int(windows.counts().sum())
        for chosen in windows.batches(BATCH):
            found.append({**windows.inputs(chosen, torch.device("cpu")), "use_cache": False})
    return found, n_rows


def in_turns(
    methods: dict[str, Callable[[], object]], rounds: int
) -> dict[str, tuple[float, float]]:
    """Median seconds of each: of processor time, and by the clock."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in methods}
    for _ in range(rounds + 1):
        for name, run in methods.items():
            begin = time.process_time(), time.perf_counter()
            run()
            taken[name].append((time.process_time() - begin[0], time.perf_counter() - begin[1]))
    return {name: tuple(map(median, zip(*t[1:], strict=True))) for name, t in taken.items()}


def measure(folder: str, layer: int, precision: str, n_characters: int, rounds: int) -> list[dict]:
    """Tokens a second of the bare pass and of whole calls."""
    model = transformers.AutoModel.from_pretrained(folder).to(getattr(torch, precision)).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    topics = "\n".join(text for _, text in sorted(pydoc_data.topics.topics.items()))
    texts = [topics[i : i + 1500] for i in range(0, n_characters, 1500)]
    inputs, n_rows = batches(tokenizer, texts, model.config.vocab_size)
    short = cut_off(model, layer)
    options = {
        "model": model, "tokenizer": tokenizer, "layer": layer, "context_length": CONTEXT,
        "batch_size": BATCH, "look_ahead": LOOK_AHEAD,
    }  # fmt: skip

    def bare() -> None:
        with torch.inference_mode():
            for batch in inputs:
                short(**batch)

    def to_store() -> None:
        with tempfile.TemporaryDirectory() as place:
            load_activations(texts, store=place, dtype="float16", **options)

    taken = in_turns(
        {"bare": bare, "arrays": lambda: load_activations(texts, **options), "store": to_store},
        rounds,
    )
    return [
        {
            "model": Path(folder).name, "layer": layer, "precision": precision, "rows": n_rows,
            "method": name,
            "rows/s, processor": n_rows / processor, "rows/s, clock": n_rows / clock,
            "share of bare, processor": taken["bare"][0] / processor,
            "share of bare, clock": taken["bare"][1] / clock,
        }
        for name, (processor, clock) in taken.items()
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="little text, fewer rounds")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--model", help="folder of a saved model, such as SmolLM2-135M")
    parser.add_argument("--layer", type=int, default=15, help="of that model")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    size, rounds = (30_000, 2) if options.quick else (400_000, 5)
    lines = measure(str(TINY_GPT2), 4, "float32", size, rounds)
    if options.model:
        for precision in ("float32", "bfloat16"):
            lines += measure(options.model, options.layer, precision, size // 4, rounds)
    write(f"extraction{'_quick' if options.quick else ''}", lines)


if __name__ == "__main__":
    main()
