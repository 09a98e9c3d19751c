"""First light: the paper's tables recomputed, and features of a language model.

Run by ``make demo``; takes under three minutes on two cores.

(a) The data of O'Neill, Gumran & Klindt (2025), arXiv 2411.13117: codes and
    dictionaries recovered by the four estimators, with chance and ceiling.
(b) Text -> activations of a tiny GPT-2 -> sparse codes, and the same refined by
    inference-time optimisation at equal sparsity.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from methods import PAPER, PAPER_ALPHA, language_model_activations
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from study import table

from sparsecode_estimators import ITORefiner, MLPEncoder, SAEEncoder, SparseCodingEncoder
from sparsecode_estimators.datasets import load_paper_data
from sparsecode_estimators.metrics import (
    chance_level,
    dictionary_corr_coef,
    explained_variance,
    l0,
    mean_corr_coef,
)

HEADER = ("method", "latent MCC", "paper", "dict. MCC", "expl. var.", "L0", "seconds")


def measure(name: str, estimator: Any, data: Any, scenario: str) -> tuple:
    """Fit on the training half, measure on the test half."""
    begin = time.perf_counter()
    codes = estimator.fit(data.X_train).transform(data.X_test)
    seconds = time.perf_counter() - begin
    return (
        name,
        mean_corr_coef(data.codes_test, codes),
        PAPER[scenario].get(name),
        dictionary_corr_coef(data.dictionary, estimator.components_),
        estimator.score(data.X_test),
        f"{l0(codes):.1f}",
        f"{seconds:.1f}",
    )


def chance_row(data: Any, *, known: bool) -> tuple:
    """What MCC is without any knowledge: random projections, random atoms."""
    latent = chance_level(data.codes_test, kind="projection", X=data.X_test, random_state=0)
    atoms = None if known else chance_level(data.dictionary, kind="dictionary", random_state=0)
    return ("chance", latent, None, atoms, None, "", "")


def recovery(scenario: str) -> list[tuple]:
    """One of the paper's tables."""
    data = load_paper_data(scenario)
    known = scenario == "known_dictionary"
    given = {"dictionary": data.dictionary} if known else {}
    sae = SAEEncoder(16, random_state=0, **given)
    truth = SparseCodingEncoder(dictionary=data.dictionary, alpha=PAPER_ALPHA)
    rows = [
        measure("SAE", sae, data, scenario),
        measure("MLP (256)", MLPEncoder(16, random_state=0, **given), data, scenario),
        measure("SAE + ITO", ITORefiner(FrozenEstimator(sae), alpha=PAPER_ALPHA), data, scenario),
    ]
    if not known:
        rows.append(
            measure("sparse coding", SparseCodingEncoder(16, random_state=0), data, scenario)
        )
    ceiling = measure("true dictionary", truth, data, scenario)
    return [*rows, ceiling, chance_row(data, known=known)]


def language_model() -> tuple[list[tuple], list[tuple[int, list[str]]]]:
    """Codes of a tiny GPT-2's residual stream, before and after refinement."""
    acts = language_model_activations()
    held_out = acts.document_ids % 5 == 0
    train, test = acts.data[~held_out], acts.data[held_out]
    k = 16
    sae = SAEEncoder(activation="topk", n_nonzero_coefs=k, max_iter=8, random_state=0)
    pipeline = Pipeline(
        [
            ("scale", StandardScaler()),
            ("codes", sae),
        ]
    )
    begin = time.perf_counter()
    pipeline.fit(train)
    seconds = time.perf_counter() - begin
    refined = Pipeline(
        [("scale", pipeline["scale"]), ("codes", ITORefiner(FrozenEstimator(pipeline["codes"])))]
    )
    refined["codes"].fit(pipeline["scale"].transform(train[:100]))
    rows = []
    for name, encoder in (("SAE, topk", pipeline), ("the same + ITO", refined)):
        begin = time.perf_counter()
        codes = encoder.transform(test)
        spent = time.perf_counter() - begin
        variance = explained_variance(test, encoder.inverse_transform(codes))
        rows.append((name, variance, f"{l0(codes):.1f}", f"{seconds:.1f}", f"{spent:.1f}"))
    return rows, top_contexts(pipeline.transform(test), acts, np.flatnonzero(held_out))


def top_contexts(codes: np.ndarray, acts: Any, rows: np.ndarray, n_latents: int = 3) -> list:
    """The strongest of the rare latents that fire on more than one word, and where they do."""
    frequency = (codes > 0).mean(axis=0)
    strength = np.where((frequency > 5e-4) & (frequency < 0.02), codes.max(axis=0), 0.0)
    found: list = []
    for latent in np.argsort(-strength):
        best = {}
        for i in np.argsort(-codes[:, latent])[:50]:
            best.setdefault(context(acts, rows[i]), str(acts.tokens[rows[i]]).strip().lower())
        top = list(best)[:5]
        if len({best[text] for text in top if best[text].isalpha()}) > 1:
            found.append((int(latent), top))
        if len(found) == n_latents:
            break
    return found


def context(acts: Any, row: int, before: int = 8, after: int = 2) -> str:
    """Tokens around a row of the same document; the one it belongs to in brackets."""
    same = np.flatnonzero(acts.document_ids == acts.document_ids[row])
    here = int(np.searchsorted(same, row))
    pieces = [
        f"[{acts.tokens[i]}]" if i == row else str(acts.tokens[i])
        for i in same[max(0, here - before) : here + after + 1]
    ]
    return " ".join("".join(pieces).split())


def draw(tables: dict[str, list[tuple]], path: Path) -> None:
    """Latent MCC of every method beside the paper's, with chance and ceiling."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for ax, (scenario, rows) in zip(axes, tables.items(), strict=True):
        methods, ceiling, chance = rows[:-2], rows[-2], rows[-1]
        x = np.arange(len(methods))
        ax.bar(x - 0.2, [row[2] or 0 for row in methods], 0.4, label="paper", color="#b0b0b0")
        ax.bar(x + 0.2, [row[1] for row in methods], 0.4, label="here", color="#1f77b4")
        ax.axhline(ceiling[1], color="#2ca02c", lw=1.2, label="true dictionary, exact codes")
        ax.axhline(chance[1], color="#d62728", lw=1.2, ls="--", label="chance (random projections)")
        ax.set_xticks(x, [row[0] for row in methods])
        ax.set_title({"known_dictionary": "known dictionary", "unknown": "nothing known"}[scenario])
    axes[0].set_ylabel("latent MCC on test rows")
    axes[0].set_ylim(0, 1.05)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out", type=Path, default=Path("demo-output"), help="folder of the figure"
    )
    args = parser.parse_args()
    warnings.filterwarnings("error")
    begin = time.perf_counter()
    tables = {}
    for scenario, title in (
        ("known_dictionary", "known dictionary (N=16, M=8, K=3)"),
        ("unknown", "neither codes nor dictionary known"),
    ):
        tables[scenario] = recovery(scenario)
        print(f"\nPaper's data, {title}: recovery on 1,024 test rows\n")
        print(table(HEADER, tables[scenario]), flush=True)
    draw(tables, args.out / "recovery.png")
    print(f"\nFigure: {args.out / 'recovery.png'}")
    print("\nTiny GPT-2, residual stream before layer 4, held-out documents\n")
    rows, contexts = language_model()
    print(table(("encoder", "expl. var.", "L0", "fit s", "encode s"), rows))
    for latent, texts in contexts:
        print(f"\nlatent {latent}, one that fires on several words; the token is in brackets:")
        print("\n".join(f"  {text}" for text in texts))
    print(f"\n{time.perf_counter() - begin:.0f} s in all")


if __name__ == "__main__":
    main()
