"""Which contexts of a latent are shown to explain it, and which are judged afterwards."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from typing import Any, NamedTuple

import numpy as np

from .latents import Context, LatentContexts

Span = tuple[int, int]


class Example(NamedTuple):
    """A context to be judged.

    Attributes
    ----------
    context : Context
    truth : bool
        Detection: whether the latent fires in it. Fuzzing: whether the marked tokens are those
        on which it fires.
    kind : str
        "top" or "quantile 3", say; "random", "similar" or "moved marks".
    marked : bool ndarray of shape (n_tokens,)
        Tokens that fuzzing marks.
    """

    context: Context
    truth: bool
    kind: str
    marked: np.ndarray


def span(context: Context) -> Span:
    """The rows of the corpus that a context covers, the last one not included."""
    first = context.row - context.center
    return first, first + len(context.tokens)


def shown_contexts(contexts: LatentContexts, latent: int, n_shown: int) -> list[Context]:
    """Every second of the strongest contexts for one half, and one of each quantile in turn.

    No two share a token. The others are left to judge the explanation by.
    """
    top = contexts.top(latent)[::2]
    spread = [context for _, context in _rounds(_quantiles(contexts, latent))]
    ordered = [*top[: n_shown - n_shown // 2], *spread, *top[n_shown - n_shown // 2 :]]
    return [context for _, context in _distinct((("", c) for c in ordered), ())][:n_shown]


def judged_contexts(
    contexts: LatentContexts,
    latent: int,
    shown: Sequence[Span],
    *,
    n_contexts: int,
    n_similar: int,
    method: str,
    rng: np.random.Generator,
) -> list[Example]:
    """Held-out contexts of a latent, as many that should be found as not, in random order.

    Parameters
    ----------
    contexts : LatentContexts
    latent : int
    shown : sequence of spans
        What the explanation was made from. No context that shares a token with one is judged.
    n_contexts : int
        At most, together.
    n_similar : int
        How many similar latents hard negatives come from.
    method : {"detection", "fuzzing"}
    rng : Generator
    """
    wanted = n_contexts if method == "fuzzing" else n_contexts // 2
    firing = _firing(contexts, latent, shown, rng)[:wanted]
    taken = [*shown, *(span(example.context) for example in firing)]
    hard, easy = _silent(contexts, latent, taken, n_contexts, n_similar, rng)
    if method == "fuzzing":
        # right marks on some of the contexts, marks on other tokens on the rest of them
        firing, rest = firing[::2], firing[1::2]
        if firing:
            counts = [int(example.marked.sum()) for example in firing]
            hard, easy = ([_marked(e, counts, rng) for e in group] for group in (hard, easy))
        hard = [example for _, example in _rounds([("", _moved(rest, rng)), ("", hard)])]
    negatives = [example for _, example in _rounds([("", hard), ("", easy)])]
    n = min(n_contexts // 2, len(firing), len(negatives))
    examples = firing[:n] + negatives[:n]
    return [examples[i] for i in rng.permutation(len(examples))]


def _firing(
    contexts: LatentContexts, latent: int, shown: Sequence[Span], rng: np.random.Generator
) -> list[Example]:
    """Held-out contexts in which the latent fires: top and all quantiles in turn."""
    groups = [("top", contexts.top(latent)), *_quantiles(contexts, latent)]
    shuffled = [(name, [group[i] for i in rng.permutation(len(group))]) for name, group in groups]
    return [
        Example(context, True, name, context.activations != 0)
        for name, context in _distinct(_rounds(shuffled), shown)
    ]


def _silent(
    contexts: LatentContexts,
    latent: int,
    taken: Sequence[Span],
    n: int,
    n_similar: int,
    rng: np.random.Generator,
) -> tuple[list[Example], list[Example]]:
    """Contexts in which the latent is silent: a similar one fires in some, any in the others."""
    seeds = rng.integers(2**31 - 1, size=2).tolist()
    near = contexts.similar(latent, n_similar).tolist() if n_similar else []
    hard = contexts.silent(latent, n, seeds[0], near=near) if near else []
    easy = contexts.silent(latent, n, seeds[1])
    named = _distinct(_rounds([("similar", hard), ("random", easy)]), taken)
    examples = [
        Example(context, False, name, np.zeros(len(context.tokens), bool))
        for name, context in named
    ]
    hard_ones = [example for example in examples if example.kind == "similar"]
    return hard_ones, [example for example in examples if example.kind == "random"]


def _moved(examples: Sequence[Example], rng: np.random.Generator) -> list[Example]:
    """The same contexts with as many marks, on tokens on which the latent is silent."""
    moved = []
    for example in examples:
        silent = np.flatnonzero(~example.marked)
        n = min(int(example.marked.sum()), len(silent))
        if n:
            marked = np.zeros(len(example.marked), bool)
            marked[rng.choice(silent, n, replace=False)] = True
            moved.append(example._replace(truth=False, kind="moved marks", marked=marked))
    return moved


def _marked(example: Example, counts: Sequence[int], rng: np.random.Generator) -> Example:
    """As many marks as one of the right contexts has, anywhere."""
    n, size = counts[int(rng.integers(len(counts)))], len(example.marked)
    marked = np.zeros(size, bool)
    marked[rng.choice(size, min(n, size), replace=False)] = True
    return example._replace(marked=marked)


def _quantiles(contexts: LatentContexts, latent: int) -> list[tuple[str, list[Context]]]:
    """Contexts of each quantile, that of the strongest firings first."""
    numbers = range(contexts.n_quantiles - 1, -1, -1)
    return [(f"quantile {q}", contexts.quantile(latent, q)) for q in numbers]


def _rounds(groups: Iterable[tuple[str, Sequence[Any]]]) -> Iterator[tuple[str, Any]]:
    """One of each group in turn, until all are empty."""
    groups = list(groups)
    missing = object()
    for row in zip_longest(*(members for _, members in groups), fillvalue=missing):
        for (name, _), member in zip(groups, row, strict=True):
            if member is not missing:
                yield name, member


def _distinct(
    named: Iterable[tuple[str, Context]], taken: Sequence[Span]
) -> Iterator[tuple[str, Context]]:
    """Leave out contexts that overlap one that was taken, or have the text of one before."""
    spans, texts = list(taken), set()
    for name, context in named:
        first, stop = span(context)
        text = "".join(context.tokens)
        if text in texts or any(first < b and a < stop for a, b in spans):
            continue
        spans.append((first, stop))
        texts.add(text)
        yield name, context
