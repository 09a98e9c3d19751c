"""What comes back from a server: an answer, or a fault with a reason."""

import json
import math
import time
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple

_SHOWN = 80  # characters of what is wrong that a reason repeats
_MOST_TOKENS = 10**9  # a server that counts more of them does not count


class Reply(NamedTuple):
    """An answer, as a server that speaks the protocol of chat completions sends it.

    Attributes
    ----------
    text : str
    usage : tuple of int, or None
        Tokens of prompt and answer, if the server counted them, up to 10⁹ of each.
    model : str or None
        What the server calls the model.
    finish_reason : str or None
    """

    text: str
    usage: tuple[int, int] | None
    model: str | None
    finish_reason: str | None


class Fault(Exception):
    """A request without an answer.

    Parameters
    ----------
    reason : str
    again : bool
        Whether the same request may succeed later.
    stop : bool
        Whether all others would fail in the same way.
    wait : float or None
        Seconds after which the server says to come again.
    billed : bool
        Whether it may have cost tokens.
    usage : tuple of int or None
        Tokens of prompt and answer, if the server counted them.
    final : bool
        Whether this is the server's answer, paid, and would be again.
    """

    def __init__(
        self,
        reason: str,
        *,
        again: bool = False,
        stop: bool = False,
        wait: float | None = None,
        billed: bool = False,
        usage: tuple[int, int] | None = None,
        final: bool = False,
    ) -> None:
        super().__init__(reason)
        self.reason, self.again, self.stop, self.wait = reason, again, stop, wait
        self.billed, self.usage, self.final = billed, usage, final


def read_reply(
    body: str, clean: Callable[[str], str] = str, clean_reason: Callable[[str], str] = str
) -> Reply:
    """The answer in the body of a reply with status 200.

    Parameters
    ----------
    body : str
    clean, clean_reason : callable
        Take out of an answer, and of what is wrong with one, what must not be repeated. Texts
        are cleaned when JSON has been decoded, which can write one text in many ways, and before
        they are cut short.

    Raises
    ------
    Fault
        If it is not JSON, has another shape or holds no text. A page of HTML or half a reply
        comes from something between the server and here, so it is worth another try; an empty
        answer is what the model said.
    """

    def short(value: Any) -> str:
        return _short(value, clean_reason)

    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:
        kind = "a page of HTML" if body.lstrip()[:1] == "<" else "not JSON"
        raise Fault(f"the reply is {kind}: {short(body)}", again=True, billed=True) from error
    usage = _usage(content)
    try:
        if content.get("choices") is None and content.get("error"):
            raise _malformed(f"the reply is an error: {short(content['error'])}", usage)
        choices = content["choices"]
        if isinstance(choices, list) and not choices:
            raise _empty("the reply has no choices", usage)
        choice = choices[0]
        message, finish = choice["message"], choice.get("finish_reason")
        text, refusal = message["content"], message.get("refusal")
    except (TypeError, KeyError, IndexError, AttributeError) as error:
        reason = f"the reply has another shape than a chat completion: {short(content)}"
        raise _malformed(reason, usage) from error
    if text is None or (isinstance(text, str) and not text.strip()):
        why = f"refusal {short(refusal)}" if refusal else f"finish_reason {short(finish)}"
        raise _empty(f"the answer is empty ({why})", usage)
    if not isinstance(text, str):
        raise _malformed(f"the answer is not text: {short(text)}", usage)
    return Reply(clean(text), usage, _text(content.get("model"), clean), _text(finish, clean))


def read_status(status: int, headers: Mapping[str, str], body: str) -> Fault:
    """The fault that a status other than 200 stands for."""
    reason = f"the server says {status}: {_short(body)}"
    if status in (401, 403, 404):
        # the key, the model or the address is wrong, for every request
        return Fault(f"{reason}; check api_key, model and base_url", stop=True)
    if status in (408, 409, 429) or status >= 500:
        return Fault(reason, again=True, wait=asked_to_wait(headers))
    return Fault(reason)


def asked_to_wait(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait, as the headers retry-after-ms and retry-after (RFC 9110, 10.2.3) say."""
    try:
        return _count(float(headers["retry-after-ms"]) / 1000)
    except (KeyError, ValueError):
        pass
    value = headers.get("retry-after", "")
    try:
        return _count(float(value))
    except ValueError:
        pass
    try:
        return _count(max(0.0, parsedate_to_datetime(value).timestamp() - time.time()))
    except (ValueError, TypeError, OverflowError):
        return None


def _count(seconds: float) -> float | None:
    return seconds if math.isfinite(seconds) and seconds >= 0 else None


def _malformed(reason: str, usage: tuple[int, int] | None) -> Fault:
    # a reply that counts tokens was paid, and is not paid again
    paid = usage is not None
    return Fault(reason, again=not paid, billed=True, usage=usage, final=paid)


def _empty(reason: str, usage: tuple[int, int] | None) -> Fault:
    return Fault(reason, billed=True, usage=usage, final=True)


def _usage(content: Any) -> tuple[int, int] | None:
    try:
        counts = content["usage"]["prompt_tokens"], content["usage"]["completion_tokens"]
    except (TypeError, KeyError):
        return None
    return counts if all(type(n) is int and 0 <= n <= _MOST_TOKENS for n in counts) else None


def _text(value: Any, clean: Callable[[str], str]) -> str | None:
    return clean(value) if isinstance(value, str) else None


def _short(value: Any, clean: Callable[[str], str] = str) -> str:
    try:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    except RecursionError:
        text = "too deeply nested"
    text = clean(text)
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "…")
