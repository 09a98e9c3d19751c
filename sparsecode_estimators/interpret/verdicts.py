"""Contexts judged by an explanation, some in a prompt."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .answers import Parsed
from .explain import Explanation
from .journal import Messages
from .prompts import detection_prompt, fuzzing_prompt
from .selection import Example

COUNTS = ("n_requests", "prompt_tokens", "answer_tokens")


class Task(NamedTuple):
    """A prompt about some contexts of a latent, judged by an explanation of `by`."""

    latent: int
    by: int
    examples: Sequence[Example]
    prompt: Messages

    def read(self, answer: dict[str, Any]) -> list[bool]:
        """The verdicts in an answer."""
        n, verdicts = len(self.examples), answer.get("fires")
        if set(answer) != {"fires"} or not isinstance(verdicts, list):
            raise ValueError('the object must have one entry, "fires", a list')
        if len(verdicts) != n:
            raise ValueError(f'"fires" must have {n} numbers, and has {len(verdicts)}')
        if any(type(v) not in (int, bool) or v not in (0, 1) for v in verdicts):
            raise ValueError('"fires" must hold nothing but 0 and 1')
        return [bool(v) for v in verdicts]


def make_tasks(
    latent: int, by: Explanation, examples: Sequence[Example], method: str, size: int
) -> list[Task]:
    """The contexts of a latent, some at a time."""
    tasks = []
    for start in range(0, len(examples), size):
        part = examples[start : start + size]
        texts, explanation = [example.context for example in part], by.explanation or ""
        if method == "detection":
            prompt = detection_prompt(explanation, texts)
        else:
            prompt = fuzzing_prompt(explanation, texts, [example.marked for example in part])
        tasks.append(Task(latent, by.latent, part, prompt))
    return tasks


class Verdicts(NamedTuple):
    """What was said about all contexts of a latent.

    Attributes
    ----------
    examples : list of Example
    said : list of bool or None
        None where there is no valid verdict.
    status : {"ok", "failed", "not sent"}
        Of the worst answer.
    reason : str or None
        The first one.
    n_requests, prompt_tokens, answer_tokens : int
    """

    examples: list[Example]
    said: list[bool | None]
    status: str
    reason: str | None
    n_requests: int
    prompt_tokens: int
    answer_tokens: int

    def table(self) -> tuple[tuple[int, str, bool, bool | None], ...]:
        """Row of the corpus, kind, truth and verdict of each."""
        pairs = zip(self.examples, self.said, strict=True)
        return tuple((e.context.row, e.kind, e.truth, said) for e, said in pairs)

    @property
    def n_failed(self) -> int:
        return sum(said is None for said in self.said)

    @property
    def truth(self) -> np.ndarray:
        return np.array([example.truth for example in self.examples])

    @property
    def counted(self) -> np.ndarray:
        """Verdicts as they count: none is a wrong one."""
        pairs = zip(self.truth, self.said, strict=True)
        return np.array([not true if said is None else said for true, said in pairs])


def gather(tasks: Sequence[Task], answers: Sequence[Parsed[list[bool]]]) -> Verdicts:
    """Put the answers about one latent together."""
    examples: list[Example] = []
    said: list[bool | None] = []
    for task, answer in zip(tasks, answers, strict=True):
        examples += task.examples
        said += [None] * len(task.examples) if answer.value is None else answer.value
    statuses = [answer.status for answer in answers]
    return Verdicts(
        examples,
        said,
        next((s for s in ("not sent", "failed") if s in statuses), "ok"),
        next((answer.reason for answer in answers if answer.reason), None),
        *(sum(getattr(a, n) for a in answers) for n in COUNTS),
    )
