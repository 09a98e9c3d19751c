"""Structured answers: strict JSON of one shape, one attempt to repair, then a failure."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from .client import ChatClient
from .journal import Messages
from .prompts import without_control
from .sender import Answer

Value = TypeVar("Value")


class Parsed(NamedTuple, Generic[Value]):
    """A structured answer, or why there is none.

    Attributes
    ----------
    value : object or None
    status : {"ok", "failed", "not sent"}
    reason : str or None
    n_requests, prompt_tokens, answer_tokens : int
        With those of the repair.
    """

    value: Value | None
    status: str
    reason: str | None
    n_requests: int
    prompt_tokens: int
    answer_tokens: int


def ask(
    client: ChatClient,
    prompts: Sequence[Messages],
    key: str,
    read: Sequence[Callable[[Any], Value]],
) -> list[Parsed[Value]]:
    """Ask for JSON objects, and once more where the answer is none.

    Parameters
    ----------
    client : ChatClient
    prompts : sequence of lists of messages
    key : str
        Of the objects that are asked for.
    read : sequence of callables
        From the object to the value, for each prompt. Raises ValueError, with what is wrong
        as text for the model, if the object has another shape.

    Returns
    -------
    parsed : list of Parsed
    """
    answers = client.complete(prompts)
    parsed = [_parse(answer, key, r) for answer, r in zip(answers, read, strict=True)]
    broken = [i for i, a in enumerate(answers) if a.text is not None and parsed[i].reason]
    repairs = [_repair(prompts[i], answers[i].text or "", parsed[i].reason) for i in broken]
    for i, answer in zip(broken, client.complete(repairs, partial=True), strict=True):
        first, second = parsed[i], _parse(answer, key, read[i])
        parsed[i] = second._replace(
            status="ok" if second.status == "ok" else "failed",
            reason=None if second.status == "ok" else f"{first.reason}; then: {second.reason}",
            n_requests=first.n_requests + second.n_requests,
            prompt_tokens=first.prompt_tokens + second.prompt_tokens,
            answer_tokens=first.answer_tokens + second.answer_tokens,
        )
    return parsed


def read_object(text: str, key: str | None = None) -> dict[str, Any]:
    """The one JSON object in a text; words, braces and a code fence around it are allowed.

    Parameters
    ----------
    text : str
    key : str or None
        That the object has. Others do not count, unless there is no such one.

    Raises
    ------
    ValueError
        If there is none, more than one, a key stands twice or a number is NaN.
    """
    objects = list(_objects(text))
    wanted = [value for value in objects if key in value] or objects
    if len(wanted) > 1:
        raise ValueError("there is more than one JSON object in it")
    return wanted[0]


_BEGINS = re.compile(r'\{\s*"(?:[^"\\]|\\.)*"\s*:')  # as a brace among words does not


def _objects(text: str) -> Iterator[dict[str, Any]]:
    """All valid JSON objects, at least one; those inside others are parts of these."""
    decoder = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)
    problem, found = "there is no JSON object in it", 0
    start = text.find("{")
    while start >= 0:
        try:
            value, end = decoder.raw_decode(text, start)
        except RecursionError as error:
            raise ValueError("the JSON object is nested too deeply") from error
        except json.JSONDecodeError as error:
            problem, end = f"the JSON object is not valid: {error.msg}", start + 1
            if _BEGINS.match(text, start):  # and is broken, or cut: what is in it is no answer
                raise ValueError(problem) from error
        else:
            found += 1
            yield value
        start = text.find("{", end)
    if not found:
        raise ValueError(problem)


def _parse(answer: Answer, key: str, read: Callable[[Any], Value]) -> Parsed[Value]:
    status, reason, value = answer.status, answer.reason, None
    if answer.text is not None:
        try:
            value = read(read_object(answer.text, key))
        except ValueError as error:
            status, reason = "failed", f"the answer cannot be used: {error}"
    counts = answer.n_requests, answer.prompt_tokens, answer.answer_tokens
    return Parsed(value, status, reason, *counts)


def _repair(messages: Messages, text: str, reason: str | None) -> list[dict[str, str]]:
    request = (
        f"This could not be read: {reason}. Answer again, briefly, only with the one JSON object "
        "that was asked for."
    )
    return [
        *(dict(message) for message in messages),
        {"role": "assistant", "content": without_control(text)},
        {"role": "user", "content": request},
    ]


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key of the JSON object stands twice")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")
