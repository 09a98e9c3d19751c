"""Can a language model tell where latents fire? A TopK SAE, its refined codes, a random encoder.

    python experiments/language_model.py --out FOLDER ...
    transformers serve MODEL --device cpu --dtype bfloat16 --port 8000
    python experiments/judge.py FOLDER --model MODEL --base-url http://127.0.0.1:8000/v1

Reads what ``language_model.py`` left in FOLDER: the SAE, and the store of documents that were held
out. Contexts are collected there for the SAE, for the same with its codes refined (k-sparse at the
same k, so at matched L0) and for a random encoder of the same shape and k. The model behind
``--base-url`` explains some latents of each, and is asked by detection in which contexts they fire.

Which latents: drawn at random among those that fire on at least 50 and at most one in twenty of
the tokens; of the SAE and its refinement the same ones, that do so in both. Of the random encoder,
whose latents have no partner, others by the same rule.

Two baselines: on the same contexts the explanation of another latent, and the random encoder. One
control of the judge: words as latents, explained by the word. Where it fails there, the rest says
nothing of encoders.
What it will cost is printed first; ``--plan`` ends there. In FOLDER/judge are all answers
(``answers.jsonl``), so that a run that was killed asks only what was not answered; explanations
and scores of every latent; and ``judge.json`` and ``judge.txt`` with what they come to.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from judged_latents import (
    FEWEST,
    FEWEST_WORDS,
    MOST,
    RANDOM,
    REFINED,
    SAE,
    Latents,
    latents_of,
)
from study import environment, table, write_atomically

from sparsecode_estimators.datasets import ActivationStore
from sparsecode_estimators.formats import load
from sparsecode_estimators.interpret import (
    ChatClient,
    Explanations,
    LatentContexts,
    Scores,
    compare_encoders,
    explain_latents,
    score_explanations,
)

N_SHOWN, PER_PROMPT = 8, 5
LONGEST = 40  # tokens of an answer: a phrase of 15 words, or five verdicts
MEASURES = ("f1", "balanced_accuracy")
CHANCE = {"balanced_accuracy": 0.5}  # that of F1 is in the scores


COPIED = (
    "The judge gave one and the same answer to every prompt: these scores are those of that "
    "answer, and say nothing of encoders."
)


class Plan(NamedTuple):
    """Requests, if every answer can be read at once."""

    explanations: int
    verdicts: int

    @classmethod
    def of(cls, n_latents: int, n_contexts: int) -> Plan:
        prompts = 2 * -(-n_contexts // PER_PROMPT)  # by its own explanation and another one
        return cls(3 * n_latents, 4 * n_latents * prompts)

    @property
    def total(self) -> int:
        return self.explanations + self.verdicts

    @property
    def limit(self) -> int:
        """With one attempt to repair every answer, and as many repeats of lost requests."""
        return 3 * self.total

    def __str__(self) -> str:
        return (
            f"{self.total} requests: {self.explanations} explanations and {self.verdicts} prompts "
            f"of up to {PER_PROMPT} contexts, half of them by the explanation of another latent; "
            f"{self.total / 30:.0f} minutes at two seconds an answer. Repairs and repeats "
            f"included, no more than {self.limit} are sent."
        )


def judged(
    latents: Latents, client: ChatClient, n_contexts: int, seed: int
) -> tuple[Explanations, Scores]:
    """Explanations and their scores. What fails is in the rows, so warnings would say it twice."""
    contexts, explained = latents.contexts, latents.explanations
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        if explained is None:
            explained = explain_latents(contexts, latents.chosen, client, n_shown=N_SHOWN)
            if not any(row.prompt_tokens or row.explanation for row in explained):
                raise SystemExit(f"The server answered nothing: {explained[0].reason}.")
        scores = score_explanations(
            contexts, explained, client,
            n_contexts=n_contexts, n_per_prompt=PER_PROMPT, random_state=seed,
        )  # fmt: skip
    return explained, scores


def by_others(scores: Scores) -> Scores:
    """The scores that the explanations of other latents got on the same contexts."""
    rows = [
        replace(
            row, f1=row.baseline_f1, balanced_accuracy=row.baseline_balanced_accuracy
        )
        for row in scores
    ]  # fmt: skip
    return Scores(rows, scores.metadata)


def summary(contexts: LatentContexts, explained: Explanations, scores: Scores) -> dict[str, Any]:
    """What one encoder comes to."""
    texts = explained.texts()
    found: dict[str, Any] = {
        "L0": float(contexts.firing_rate.sum()),
        "mean firing rate": float(np.mean(contexts.firing_rate[[row.latent for row in scores]])),
        "latents": len(scores),
        "explanations": Counter(row.status for row in explained),
        "different explanations": len(set(texts.values())),
        "scores": Counter(row.status for row in scores),
        "contexts": sum(row.n_positive + row.n_negative for row in scores),
        "contexts without a verdict": sum(row.n_failed for row in scores),
        "the same, other explanation": sum(row.baseline_n_failed for row in scores),
        **verdicts(scores),
        "chance f1": scores.summary("chance_f1")["mean"],
        "chance balanced_accuracy": CHANCE["balanced_accuracy"],
        "requests": sum(row.n_requests for row in [*explained, *scores]),
        "tokens": sum(row.prompt_tokens + row.answer_tokens for row in [*explained, *scores]),
        "texts": {str(latent): text for latent, text in texts.items()},
    }
    for measure in MEASURES:
        found[measure] = scores.summary(measure)
        found[f"baseline_{measure}"] = scores.summary(f"baseline_{measure}")
        found[f"values of {measure}"] = {str(i): v for i, v in scores.values(measure).items()}
    return found


def verdicts(scores: Scores) -> dict[str, Any]:
    """What the judge says, whether or not it is right: one that copies has one answer."""
    said = [[verdict for *_, verdict in row.judged] for row in scores]
    answers = {tuple(v[i : i + PER_PROMPT]) for v in said for i in range(0, len(v), PER_PROMPT)}
    valid = [verdict for row in said for verdict in row if verdict is not None]
    return {
        "said to fire": float(np.mean(valid)) if valid else None,
        "different answers": sum(None not in answer for answer in answers),
    }


def comparisons(scores: dict[str, Scores], latents: dict[str, Latents]) -> dict[str, Any]:
    """Paired tests: of encoders, and of explanations with those of other latents."""
    at_random = list(zip(latents[RANDOM].chosen, latents[SAE].chosen, strict=True))
    pairs = {
        f"{SAE} → {REFINED}": (scores[SAE], scores[REFINED], None),
        f"{RANDOM} → {SAE}": (scores[RANDOM], scores[SAE], at_random),
        f"{RANDOM} → {REFINED}": (scores[RANDOM], scores[REFINED], at_random),
        **{
            f"other explanation → own, {name}": (by_others(s), s, None)
            for name, s in scores.items()
        },
    }
    found: dict[str, Any] = {}
    for name, (a, b, which) in pairs.items():
        for measure in MEASURES:
            try:
                compared = compare_encoders(a, b, measure=measure, pairs=which)._asdict()
            except ValueError as error:  # fewer than two pairs have scores, or L0 differs
                compared = {"reason": str(error)}
            found[f"{name}: {measure}"] = compared
    return found


def report(result: dict[str, Any]) -> str:
    """The tables."""
    encoders, settings = result["encoders"], result["settings"]
    lines: dict[str, list[Any]] = {"L0": [found["L0"] for found in encoders.values()]}
    for measure in MEASURES:
        for name in (measure, f"baseline_{measure}"):
            lines[_said(name)] = [_interval(found[name]) for found in encoders.values()]
        lines[f"{_said(measure)}, chance"] = [f[f"chance {measure}"] for f in encoders.values()]
    lines["said to fire, share"] = [found["said to fire"] for found in encoders.values()]
    lines["latents explained"] = [found["explanations"].get("ok", 0) for found in encoders.values()]
    for name in ("different explanations", "different answers", "contexts",
                 "contexts without a verdict", "the same, other explanation"):  # fmt: skip
        lines[name] = [found[name] for found in encoders.values()]
    compared = [
        (name, c["n_latents"], c["difference"], _range(c["interval"]), c["p_value"])
        for name, c in result["comparisons"].items()
        if "reason" not in c
    ]
    missing = [
        f"{name}: {c['reason'].split(':')[0]}"  # the remedy is for callers
        for name, c in result["comparisons"].items()
        if "reason" in c
    ]
    copied = max(found["different answers"] for found in encoders.values()) == 1
    return "\n".join(
        [
            f"{settings['latents']} latents of each encoder, detection in {settings['contexts']} "
            f"contexts each, judged by {settings['judge']}; {result['tokens']} held-out tokens of "
            f"{settings['model']}. Means over latents with bootstrap intervals (95 %).",
            "",
            table(("", *encoders), [(name, *values) for name, values in lines.items()]),
            "",
            table(("paired difference", "pairs", "mean", "interval", "p"), compared),
            *missing,
            *(["", COPIED] if copied else []),
        ]
    )


def _said(name: str) -> str:
    other = name.startswith("baseline_")
    text = name.removeprefix("baseline_").replace("_", " ").replace("f1", "F1")
    return text + (", other explanation" if other else "")


def _interval(found: dict[str, Any]) -> str | None:
    if found["mean"] is None:
        return None
    return f"{found['mean']:.3f} ({_range(found['interval'])})"


def _range(interval: Sequence[float]) -> str:
    low, high = interval
    return f"{low:.3f} to {high:.3f}"


def run(args: argparse.Namespace) -> dict[str, Any] | None:
    """All stages; None after the plan if no more is wanted."""
    plan = Plan.of(args.latents, args.contexts)
    print(plan, flush=True)
    if args.plan:
        return None
    sae, store = load(args.folder / "sae"), ActivationStore(args.folder / "held_out")
    latents = latents_of(sae, store, n=args.latents, n_rows=args.rows, seed=args.seed)
    out = args.folder / "judge"
    client = ChatClient(
        args.model,
        base_url=args.base_url,
        journal=out / "answers.jsonl",
        parameters={"temperature": 0.0, "seed": args.seed, "max_tokens": LONGEST},
        max_concurrency=args.concurrency,
        max_requests=args.max_requests or plan.limit,
        timeout=600,
    )
    encoders, scores, seconds = {}, {}, {}
    with client:
        for name, found in latents.items():
            begin = time.perf_counter()
            explained, scores[name] = judged(found, client, args.contexts, args.seed)
            explained.save(out / f"{name.replace(' ', '')}-explanations.json")
            scores[name].save(out / f"{name.replace(' ', '')}-scores.json")
            encoders[name] = summary(found.contexts, explained, scores[name])
            seconds[name] = time.perf_counter() - begin
            print(f"{name}: {scores[name]} after {seconds[name]:.0f} s", flush=True)
        spent = {"requests of all runs": client.n_requests_, "tokens": client.n_tokens_}
    origin = store.metadata["extraction"]
    return {
        "settings": {
            "model": Path(origin["model"]).name,
            "layer": origin["layer"],
            "n_components": sae.n_components_,
            "k": sae.n_nonzero_coefs,
            "judge": Path(args.model).name,
            "latents": args.latents,
            "contexts": args.contexts,
            "contexts shown": N_SHOWN,
            "contexts in a prompt": PER_PROMPT,
            "fires on at least": FEWEST,
            "fires on at least, known words": FEWEST_WORDS,
            "fires on a share of at most": MOST,
            "seed": args.seed,
        },
        "tokens": min(args.rows, len(store)),
        "plan": plan._asdict(),
        "spent": spent,
        "encoders": encoders,
        "comparisons": comparisons(scores, latents),
        "seconds": seconds,
        "environment": environment(),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="the --out of language_model.py")
    parser.add_argument("--model", required=True, help="the judge, as its server calls it")
    parser.add_argument("--base-url", required=True, help="of the server; ends in /v1")
    parser.add_argument("--latents", type=int, default=20, help="of each encoder; at least 2")
    parser.add_argument("--contexts", type=int, default=20, help="judged for each latent")
    parser.add_argument("--rows", type=int, default=100_000, help="held-out tokens, at most")
    parser.add_argument("--concurrency", type=int, default=1, help="requests at a time")
    parser.add_argument("--max-requests", type=int, help="of all runs together; see the plan")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plan", action="store_true", help="say what it will cost, and end")
    args = parser.parse_args(arguments)
    result = run(args)
    if result is None:
        return
    text = report(result)
    out = args.folder / "judge"
    write_atomically(out / "judge.json", json.dumps(result, indent=1, allow_nan=False) + "\n")
    write_atomically(out / "judge.txt", text + "\n")
    print(f"\n{text}\n\n{out / 'judge.json'}")


if __name__ == "__main__":
    main()
