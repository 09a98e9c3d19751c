"""A language model end to end: text, store, TopK SAE, refinement at matched L0, one table.

    python experiments/language_model.py --quick
    python experiments/language_model.py --model FOLDER [--precision bfloat16] [--texts PATH]

``--model`` is the folder of a saved model, such as SmolLM2-135M; without it the tiny GPT-2 of the
package is used. For one that does not predict the next token, such as MiniLM, there is no loss. The
text is the docstrings of installed packages, or what ``--texts`` names (a file or folder of text or
JSON lines), in pieces of a few paragraphs. Documents are held out whole, by file.

Of the SAE, of the same with its codes refined (k-sparse, at the same k, so at matched L0), and of
a random dictionary with codes by the same solver, measured on documents that were held out:
explained variance, active codes, share of latents that never fire, the amortisation gap at the
alpha whose optimum is as sparse, and what the language model loses (``splice_scores``).

In some models, SmolLM2 among them, one token of ten thousand is a hundred times as long as the
others and has most of the variance: ``--max-norm 10`` leaves such rows out (the spliced model has
them). The stores and the SAE's checkpoint are in ``--out``: a run that is killed goes on where it
was. The SAE is there, too, as ``sparsecode_estimators.formats.load`` reads it: ``judge.py`` goes on
from here.
"""

from __future__ import annotations

import argparse
import ast
import json
import platform
import sys
import time
import warnings
import zlib
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from study import count, write_atomically
from transformers import AutoConfig

from sparsecode_estimators import ITORefiner, SAEEncoder, __version__, sparse_encode
from sparsecode_estimators.datasets import ActivationStore, load_activations
from sparsecode_estimators.datasets.documents import read_documents
from sparsecode_estimators.datasets.language_models import TINY_GPT2
from sparsecode_estimators.formats import save
from sparsecode_estimators.interpret import splice_scores
from sparsecode_estimators.metrics import (
    amortisation_gap,
    dead_latent_fraction,
    explained_variance,
    l0,
)

PACKAGES = ("numpy", "sklearn", "scipy", "torch", "transformers", "pandas", "matplotlib", "sphinx")
SHORTEST = 200  # characters of a docstring
PIECE = 2000  # characters of a few paragraphs, unless one is longer
HELD_OUT = 10  # one file of so many
QUICK = {"characters": 250_000, "epochs": 4, "batch_size": 512, "rows": 1000, "documents": 12}
FULL = {"characters": 12_000_000, "epochs": 2, "batch_size": 2048, "rows": 20_000, "documents": 200}


def docstrings() -> Iterator[tuple[str, str]]:
    """Docstrings of installed packages in random order of files, each with the name of its file."""
    files, seen = [], set()
    for package in PACKAGES:
        found = find_spec(package)
        if found is None or not found.submodule_search_locations:
            continue
        root = Path(found.submodule_search_locations[0])
        for file in sorted(root.rglob("*.py")):
            files.append((f"{package}/{file.relative_to(root).as_posix()}", file))
    for number in np.random.RandomState(0).permutation(len(files)):
        name, file = files[number]
        for text in _docstrings(file):
            if len(text) >= SHORTEST and text not in seen:
                seen.add(text)
                yield name, text


def documents(path: Path) -> Iterator[tuple[str, str]]:
    """Pieces of the caller's documents in random order, each with the number of its document."""
    named = [
        (str(number), piece)
        for number, document in enumerate(read_documents(path, "text"))
        for piece in pieces(str(document))
    ]
    for i in np.random.RandomState(0).permutation(len(named)):
        yield named[i]


def pieces(document: str) -> Iterator[str]:
    """Whole paragraphs, as many as make a piece."""
    piece = ""
    for paragraph in document.split("\n\n"):
        if piece and len(piece) + len(paragraph) > PIECE:
            yield piece
            piece = ""
        piece += paragraph + "\n\n"
    if piece.strip():
        yield piece


def _docstrings(file: Path) -> Iterator[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of other people's escape sequences
        try:
            tree = ast.parse(file.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            return
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            yield ast.get_docstring(node) or ""


def split(texts: Path | None, characters: int) -> tuple[list[str], list[str]]:
    """Training and held-out documents, up to some number of characters."""
    training: list[str] = []
    held_out: list[str] = []
    for name, text in docstrings() if texts is None else documents(texts):
        is_held_out = zlib.crc32(name.encode()) % HELD_OUT == 0
        (held_out if is_held_out else training).append(text)
        characters -= len(text)
        if characters <= 0:
            break
    if not training or not held_out:
        raise SystemExit("These are too few documents to hold some out.")
    return training, held_out


def matched_alpha(X: np.ndarray, D: np.ndarray, k: float) -> float:
    """The penalty whose optimal codes have k active ones on average, by bisection."""
    largest = float(np.median((X @ D.T).max(axis=1)))
    low, high = 1e-3, 1.0
    for _ in range(10):
        middle = float(np.sqrt(low * high))
        codes = sparse_encode(X, D, alpha=middle * largest, tol=1e-4)
        low, high = (middle, high) if l0(codes) > k else (low, middle)
    return high * largest


def measure(estimator: Any, X: np.ndarray, texts: list[str], alpha: float, options: dict) -> dict:
    """One line of the table."""
    begin = time.perf_counter()
    codes = estimator.transform(X)
    seconds = time.perf_counter() - begin
    few = X[: min(len(X), 500)]
    gap = amortisation_gap(estimator, few, alpha=alpha)
    size = 0.5 * ((few - X.mean(axis=0)) ** 2).sum(axis=1).mean()
    found = {
        "explained variance": explained_variance(X, estimator.inverse_transform(codes)),
        "L0": float(l0(codes)),
        "gap, share of the variance": float(gap.excess.mean() / size),
        "alpha of the gap": alpha,
        "dead share": dead_latent_fraction(codes),
        "encoding, seconds": seconds,
    }
    return found | loss(estimator, texts, options) if predicts_tokens(options["model"]) else found


def predicts_tokens(model: str) -> bool:
    """Whether the model of a folder was saved with a head for the next token."""
    names = AutoConfig.from_pretrained(model).architectures or []
    return any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in names)


def loss(estimator: Any, texts: list[str], options: dict) -> dict:
    """What the model loses when it goes on from the reconstruction."""
    begin = time.perf_counter()
    splice = splice_scores(estimator=estimator, texts=texts, random_state=0, **options)
    return {
        "loss recovered": splice.loss_recovered,
        "loss recovered, interval": splice.intervals["loss_recovered"],
        "loss recovered against the mean": splice.loss_recovered_mean,
        "cross-entropy": {
            name: getattr(splice, f"ce_{name}") for name in ("original", "splice", "zero", "mean")
        },
        "KL": splice.kl_splice,
        "splice, seconds": time.perf_counter() - begin,
        "splice, tokens": splice.n_tokens,
    }


def random_dictionary(shape: tuple[int, int], X: np.ndarray, k: int, seed: int) -> Any:
    """Codes by the best solver for atoms that mean nothing: a floor for both."""
    atoms = np.random.RandomState(seed + 1).standard_normal(shape).astype(np.float32)
    atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
    coder = ITORefiner(dictionary=atoms, n_nonzero_coefs=k, sparse_output=True)
    return make_pipeline(StandardScaler(with_std=False), coder).fit(X)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="little text; under two minutes")
    parser.add_argument("--model", default=str(TINY_GPT2), help="folder of a saved model")
    parser.add_argument("--layer", type=int, help="default: the middle one")
    parser.add_argument("--precision", default="float32", help="that the model computes in")
    parser.add_argument("--texts", type=Path, help="a file or folder in place of docstrings")
    parser.add_argument(
        "--max-norm", type=float, help="leave out rows that are so many times as long as the median"
    )
    parser.add_argument("--characters", type=count, help="of the text, held-out documents included")
    parser.add_argument("--epochs", type=count)
    parser.add_argument("--documents", type=count, help="on which the model's loss is measured")
    parser.add_argument("--k", type=count, default=32, help="active codes of a row")
    parser.add_argument("--factor", type=count, default=8, help="latents for each feature")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("language-model-output"))
    args = parser.parse_args(arguments)
    size = {**(QUICK if args.quick else FULL)}
    asked = {name: getattr(args, name) for name in ("characters", "epochs", "documents")}
    size.update({name: value for name, value in asked.items() if value is not None})
    config = AutoConfig.from_pretrained(args.model)
    options = {
        "model": args.model,
        "layer": config.num_hidden_layers // 2 if args.layer is None else args.layer,
        "hook": "resid_pre",
        "context_length": 128,
        "precision": args.precision,
    }
    result = run(args, size, options)
    file = args.out / ("result_quick.json" if args.quick else "result.json")
    write_atomically(file, json.dumps(result, indent=1) + "\n")
    show(result)
    print(f"\n{file}")


def run(args: argparse.Namespace, size: dict, options: dict) -> dict:
    """All stages, timed."""
    seconds, begin = {}, time.perf_counter()
    training, held_out = split(args.texts, size["characters"])
    seconds["text"] = time.perf_counter() - begin

    begin = time.perf_counter()
    of_rows = {**options, "max_norm": args.max_norm}
    store, held_out_store = extracted(args.out, training, held_out, of_rows)
    seconds["store"] = time.perf_counter() - begin
    X = held_out_store[: size["rows"]]

    begin = time.perf_counter()
    sae = trained(args, size, store)
    seconds["SAE"] = time.perf_counter() - begin

    ito = ITORefiner(FrozenEstimator(sae), sparse_output=True).fit(X[:100])
    shape, offset = sae.components_.shape, X.mean(axis=0)
    floor = random_dictionary(shape, store[: size["rows"]].astype(np.float32), args.k, args.seed)
    alpha = matched_alpha(X[:100] - sae.intercept_, sae.components_, args.k)
    alphas = [alpha, alpha, matched_alpha(X[:100] - offset, floor[-1].components_, args.k)]
    texts = held_out[: size["documents"]]
    lines = {}
    names = ("SAE", "SAE + ITO", "random dictionary")
    for name, estimator, at in zip(names, (sae, ito, floor), alphas, strict=True):
        begin = time.perf_counter()
        lines[name] = measure(estimator, X, texts, at, options)
        seconds[name] = time.perf_counter() - begin
        print(f"{name}: measured in {seconds[name]:.0f} s", flush=True)
    return {
        "settings": {
            **of_rows, "model": Path(args.model).name, "n_components": sae.n_components_,
            "k": args.k, "epochs": size["epochs"], "batch_size": size["batch_size"],
            "seed": args.seed, "texts": args.texts.name if args.texts else PACKAGES,
        },
        "training documents": len(training),
        "training tokens": len(store),
        "held-out rows": len(X),
        "held-out documents": len(texts),
        "mean length of training documents": mean(map(len, training)),
        "encoders": lines,
        "seconds": seconds,
        "environment": environment(),
    }  # fmt: skip


def extracted(
    out: Path, training: list[str], held_out: list[str], options: dict
) -> tuple[ActivationStore, ActivationStore]:
    """Stores of the activations on training and on held-out documents."""
    store = load_activations(
        training, dtype="float16", store=out / "store", verbose=1, **options
    ).data
    return store, load_activations(held_out, store=out / "held_out", **options).data


def trained(args: argparse.Namespace, size: dict, store: ActivationStore) -> SAEEncoder:
    """The SAE, which is kept in the folder ``sae``."""
    sae = SAEEncoder(
        args.factor * store.shape[1], activation="topk", n_nonzero_coefs=args.k,
        max_iter=size["epochs"], batch_size=size["batch_size"], sparse_output=True,
        random_state=args.seed, checkpoint=args.out / "checkpoint", verbose=1,
    ).fit(store)  # fmt: skip
    save(sae, args.out / "sae")
    return sae


def environment() -> dict:
    """What ran."""
    packages = ("torch", "transformers", "scikit-learn", "numpy", "scipy")
    return {
        "python": sys.version.split()[0],
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "sparsecode_estimators": __version__,
        **{name: version(name) for name in packages},
    }


def show(result: dict) -> None:
    """The table."""
    lines = result["encoders"].values()
    wanted = (
        "explained variance", "L0", "loss recovered", "KL", "gap, share of the variance",
        "dead share", "encoding, seconds",
    )  # fmt: skip
    names = [name for name in wanted if all(name in line for line in lines)]
    print(f"\n{result['training tokens']} training tokens, {result['settings']}\n")
    width = max(map(len, names))
    print(" " * width, *(f"{name:>18}" for name in result["encoders"]))
    for name in names:
        print(f"{name:<{width}}", *(f"{line[name]:18.4f}" for line in lines))


if __name__ == "__main__":
    main()
