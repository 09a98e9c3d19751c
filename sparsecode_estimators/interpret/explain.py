"""Explanations of latents in words, by a language model that sees where they fire."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..datasets.checks import check_integer
from .answers import ask
from .checks import check_latents, warn_of_failures
from .client import ChatClient
from .latents import LatentContexts
from .prompts import explanation_prompt
from .results import Results
from .selection import Span, shown_contexts, span

_LEVELS = 10
_LONGEST = 1000  # characters
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


@dataclass(frozen=True)
class Explanation:
    """What one latent responds to, or why nobody said.

    Attributes
    ----------
    latent : int
    explanation : str or None
    status : {"ok", "failed", "not sent", "silent"}
        "failed": no usable answer came, also to a second prompt. "not sent": the budget was
        spent, or the server told the client to stay away. "silent": there is no context in
        which the latent fires.
    reason : str or None
        Why there is no explanation.
    shown : tuple of (int, int)
        Rows of the corpus that the model saw, from the first to the one after the last of each
        context. They are not used to judge the explanation.
    n_requests, prompt_tokens, answer_tokens : int
        What it took; tokens also if they were paid in an earlier run.

    See Also
    --------
    explain_latents : Makes one for each latent.
    """

    latent: int
    explanation: str | None
    status: str
    reason: str | None
    shown: tuple[Span, ...]
    n_requests: int = 0
    prompt_tokens: int = 0
    answer_tokens: int = 0


class Explanations(Results[Explanation]):
    """Explanations of latents, in the order in which they were asked for: a sequence.

    Made by :func:`explain_latents`, or by hand from explanations that come from elsewhere.

    Parameters
    ----------
    rows : iterable of Explanation
    metadata : mapping, default=None
        How they came about: model, parameters of the requests, settings.

    See Also
    --------
    explain_latents : Makes them.
    score_explanations : How good they are.

    Examples
    --------
    >>> from sparsecode_estimators.interpret import Explanation, Explanations
    >>> names = Explanations([Explanation(7, "names of cities", "ok", None, shown=())])
    >>> names.of(7).explanation
    'names of cities'
    >>> names, names.texts()
    (Explanations(1 ok), {7: 'names of cities'})
    """

    _row = Explanation

    def texts(self) -> dict[int, str]:
        """The explanations that there are, by latent, as :class:`LatentReport` takes them."""
        return {row.latent: row.explanation for row in self.rows if row.explanation is not None}


def explain_latents(
    contexts: LatentContexts,
    latents: Iterable[int],
    client: ChatClient,
    *,
    n_shown: int = 20,
    promoted: Mapping[int, Sequence[str]] | None = None,
) -> Explanations:
    """Ask a language model what each latent responds to.

    It sees contexts in which the latent fires: half of them among the strongest, the rest from
    all quantiles of its activations, with no token twice. Tokens on which it fires are marked
    and their activations given as whole numbers from 1 to 10, which is the largest activation
    of the latent. The prompt does not depend on which other latents are asked about, so a
    journal answers it in any later run.

    Parameters
    ----------
    contexts : LatentContexts
        From :func:`collect_contexts`.
    latents : iterable of int
        From 0 to ``contexts.n_latents - 1``, each once.
    client : ChatClient
    n_shown : int, default=20
        Contexts in a prompt, at least 1. What is left of ``contexts`` can be judged.
    promoted : mapping from int to sequence of str, default=None
        Tokens that a latent makes more likely, as its atom and the model's unembedding say. It
        may lack latents.

    Returns
    -------
    explanations : Explanations
        One for each latent, also for those that failed.

    Raises
    ------
    TypeError
        If ``n_shown`` is no integer.
    ValueError
        If a latent does not exist or is named twice, or the budget of the client is smaller
        than what is needed. Nothing was sent then.

    Warns
    -----
    UserWarning
        Once, if latents have no explanation, with the reasons.

    See Also
    --------
    score_explanations : How good they are.

    References
    ----------
    G. Paulo, A. Mallen, C. Juang, N. Belrose (2024), "Automatically interpreting millions of
    features in large language models", arXiv:2410.13928.

    Examples
    --------
    >>> from sparsecode_estimators.interpret import ChatClient, explain_latents
    >>> with ChatClient("gpt-5-mini", journal="answers.jsonl") as client:  # doctest: +SKIP
    ...     explanations = explain_latents(contexts, range(20), client)
    """
    latents = check_latents(latents, contexts.n_latents)
    check_integer("n_shown", n_shown, 1)
    rows: dict[int, Explanation] = {}
    prompts = {}
    for latent in latents:
        shown = shown_contexts(contexts, latent, int(n_shown))
        spans = tuple(span(context) for context in shown)
        if not shown:
            reason = "there is no context in which it fires"
            rows[latent] = Explanation(latent, None, "silent", reason, ())
            continue
        rows[latent] = Explanation(latent, None, "not sent", None, spans)
        prompts[latent] = explanation_prompt(
            shown,
            float(contexts.max_activation[latent]),
            n_levels=_LEVELS,
            promoted=(promoted or {}).get(latent),
        )
    read = [_read_explanation] * len(prompts)
    answers = ask(client, list(prompts.values()), "explanation", read)
    for latent, a in zip(prompts, answers, strict=True):
        counts = a.n_requests, a.prompt_tokens, a.answer_tokens
        rows[latent] = Explanation(latent, a.value, a.status, a.reason, rows[latent].shown, *counts)
    metadata = {"model": client.model, "parameters": client.parameters, "n_shown": int(n_shown)}
    warn_of_failures("latents have no explanation", [row.reason for row in rows.values()])
    return Explanations(rows.values(), metadata)


def _read_explanation(answer: dict[str, Any]) -> str:
    said = answer.get("explanation")
    text = _tidy(said) if isinstance(said, str) else ""
    if set(answer) != {"explanation"} or not text:
        raise ValueError('the object must have one entry, "explanation", a text')
    if len(text) > _LONGEST:
        raise ValueError(f"the explanation is longer than {_LONGEST} characters")
    return text


def _tidy(text: str) -> str:
    """One line that UTF-8 and a terminal can take, whatever escapes in the JSON stood for."""
    return " ".join(_CONTROL.sub(" ", text.encode("utf-8", "replace").decode()).split())
