"""How good explanations are: a language model has to find the latent by them."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from sklearn.utils import check_random_state

from ..datasets.checks import check_confidence, check_integer
from .answers import ask
from .checks import check_latents, warn_of_failures
from .client import ChatClient
from .explain import Explanation, Explanations
from .latents import LatentContexts
from .measures import Measures, chance_f1, measures
from .scores import LatentScore, Scores, stream
from .selection import judged_contexts
from .verdicts import COUNTS, Task, Verdicts, gather, make_tasks

METHODS = ("detection", "fuzzing")


def score_explanations(
    contexts: LatentContexts,
    explanations: Explanations,
    client: ChatClient,
    *,
    method: str = "detection",
    n_contexts: int = 40,
    n_per_prompt: int = 5,
    n_similar: int = 5,
    baseline: bool = True,
    n_bootstrap: int = 2000,
    confidence: float = 0.95,
    random_state: Any = 0,
) -> Scores:
    """Judge explanations by whether a language model finds the latent by them.

    The model gets an explanation and contexts that the explanation was not made from, as many
    that should be found as not, in random order. It does not see how many there are of each.

    - "detection": in which contexts does the latent fire? Contexts in which it does come from
      the strongest and from all quantiles of its activations.
    - "fuzzing": in which contexts are the marked tokens those on which the latent fires? In
      the others as many tokens on which it is silent are marked.

    In half of the contexts that should not be found a similar latent fires and this one does
    not, or (fuzzing) this one fires and other tokens are marked; the other half is from
    anywhere, as far as `contexts` has enough of each.

    Parameters
    ----------
    contexts : LatentContexts
        From :func:`collect_contexts`, of the codes that were explained.
    explanations : Explanations
    client : ChatClient
    method : {"detection", "fuzzing"}, default="detection"
    n_contexts : int, default=40
        Judged for each latent, at most; at least 2. Fewer if `contexts` has fewer.
    n_per_prompt : int, default=5
        Contexts in a prompt, at least 1.
    n_similar : int, default=5
        Latents that hard contexts come from. 0: none are hard.
    baseline : bool, default=True
        Whether the same contexts are judged by the explanation of another latent, too, drawn
        at random. It costs as much again.
    n_bootstrap : int, default=2000
        Samples for an interval, at least 1.
    confidence : float, default=0.95
        Of intervals, between 0 and 1.
    random_state : int, RandomState or None, default=0
        Which contexts are judged, in which order. With another one, or None, the prompts are
        others, so a journal does not answer them.

    Returns
    -------
    scores : Scores
        One row for each explanation, also for those that failed.

    Raises
    ------
    TypeError, ValueError
        For a parameter out of range, or if the budget of the client is smaller than what is
        needed. Nothing was sent then.

    Warns
    -----
    UserWarning
        Once, if latents were not judged or verdicts are missing, with the reasons.

    See Also
    --------
    explain_latents : Makes the explanations.
    score_tokens : How far single tokens explain a latent.

    Notes
    -----
    A context without a valid verdict, after one attempt to repair the answer, counts as a
    wrong verdict: a judge that fails does not look better for it.

    A score says little without a second baseline: do the same with codes of a
    :func:`random_encoder`, and compare with :func:`compare_encoders`. The user guide shows it.

    References
    ----------
    G. Paulo, A. Mallen, C. Juang, N. Belrose (2024), "Automatically interpreting millions of
    features in large language models", arXiv:2410.13928.

    Examples
    --------
    >>> from sparsecode_estimators.interpret import score_explanations
    >>> scores = score_explanations(contexts, explanations, client)  # doctest: +SKIP
    >>> scores.summary("f1")  # doctest: +SKIP
    """
    _check(method, n_contexts, n_per_prompt, n_similar, n_bootstrap, confidence)
    check_latents([row.latent for row in explanations], contexts.n_latents)
    seed = int(check_random_state(random_state).randint(2**31 - 1))
    named = [row for row in explanations if row.explanation is not None]
    others = _others(named, seed) if baseline else {}
    tasks: list[Task] = []
    for row in named:
        examples = judged_contexts(
            contexts,
            row.latent,
            row.shown,
            n_contexts=n_contexts,
            n_similar=n_similar,
            method=method,
            rng=stream(seed, row.latent),
        )
        for by in filter(None, [row, others.get(row.latent)]):
            tasks += make_tasks(row.latent, by, examples, method, n_per_prompt)
    verdicts = _judged(client, tasks)
    rows = []
    for row in explanations:
        own = verdicts.get((row.latent, row.latent))
        if own is None:
            rows.append(_unjudged(row))
            continue
        other = others.get(row.latent)
        by_other = verdicts[row.latent, other.latent] if other else None
        score = partial(
            measures, n_bootstrap=n_bootstrap, confidence=confidence, rng=stream(seed, row.latent)
        )
        rows.append(_scored(row.latent, own, other, by_other, score))
    warn_of_failures("latents were not judged as they should be", [row.reason for row in rows])
    metadata = {
        "model": client.model,
        "parameters": client.parameters,
        "method": method,
        "random_state": random_state if isinstance(random_state, int) else None,
        "n_contexts": int(n_contexts),
        "n_per_prompt": int(n_per_prompt),
        "n_similar": int(n_similar),
        "confidence": float(confidence),
        "l0": float(np.sum(contexts.firing_rate)),
    }
    return Scores(rows, metadata)


def _judged(client: ChatClient, tasks: Sequence[Task]) -> dict[tuple[int, int], Verdicts]:
    """Verdicts on each latent by each explanation."""
    answers = ask(client, [task.prompt for task in tasks], "fires", [task.read for task in tasks])
    found: dict[tuple[int, int], list[int]] = {}
    for i, task in enumerate(tasks):
        found.setdefault((task.latent, task.by), []).append(i)
    return {
        pair: gather([tasks[i] for i in places], [answers[i] for i in places])
        for pair, places in found.items()
    }


def _unjudged(row: Explanation) -> LatentScore:
    if row.explanation is None:
        return LatentScore(row.latent, "no explanation", row.reason)
    reason = "too few contexts are left that were not shown"
    return LatentScore(row.latent, "too few contexts", reason)


def _scored(
    latent: int,
    own: Verdicts,
    other: Explanation | None,
    by_other: Verdicts | None,
    score: Callable[[np.ndarray, np.ndarray], Measures],
) -> LatentScore:
    """The row of a latent from the verdicts by its explanation, and by that of another."""
    both = [own] if by_other is None else [own, by_other]
    counts = {name: sum(getattr(v, name) for v in both) for name in COUNTS}
    truth = own.truth
    reason = own.reason and (
        f"{own.n_failed} of {len(truth)} contexts have no verdict ({own.reason})"
    )
    row = LatentScore(
        latent,
        own.status,
        reason,
        chance_f1=float(chance_f1(truth.mean())),
        n_positive=int(truth.sum()),
        n_negative=int((~truth).sum()),
        n_failed=own.n_failed,
        judged=own.table(),
        **counts,
    )
    if own.status != "not sent":
        row = replace(row, **score(truth, own.counted)._asdict())
    if other is not None and by_other is not None and by_other.status != "not sent":
        base = score(truth, by_other.counted)
        row = replace(
            row,
            baseline_f1=base.f1,
            baseline_balanced_accuracy=base.balanced_accuracy,
            baseline_latent=other.latent,
            baseline_n_failed=by_other.n_failed,
        )
    return row


def _others(explained: Sequence[Explanation], seed: int) -> dict[int, Explanation]:
    """For each latent the explanation of another one: one random cycle through all."""
    if len(explained) < 2:
        return {}
    order = stream(seed).permutation(len(explained))
    return {
        explained[a].latent: explained[b] for a, b in zip(order, np.roll(order, 1), strict=True)
    }


def _check(
    method: str,
    n_contexts: Any,
    n_per_prompt: Any,
    n_similar: Any,
    n_bootstrap: Any,
    confidence: Any,
) -> None:
    if method not in METHODS:
        raise ValueError(f"method={method!r} is unknown; choose one of {sorted(METHODS)}.")
    for name, value, least in (
        ("n_contexts", n_contexts, 2),
        ("n_per_prompt", n_per_prompt, 1),
        ("n_similar", n_similar, 0),
        ("n_bootstrap", n_bootstrap, 1),
    ):
        check_integer(name, value, least)
    check_confidence(confidence)
