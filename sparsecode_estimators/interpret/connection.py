"""One request to a server through the openai library, and nothing but an answer or a fault."""

import json
import os
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

from .journal import Messages
from .replies import Fault, Reply, read_reply, read_status

_NO_KEY = "none"  # for servers that need none; it is no secret
# What decoding raises, also for a charset such as "rot13", which makes no text of bytes.
_UNREADABLE = (ValueError, TypeError, AssertionError, LookupError)
_WORD = 8  # characters; a shorter secret is looked for as a word of its own only


class Connection:
    """A server that speaks the protocol of chat completions.

    The library repeats nothing and its own reading of replies is left out: what was sent and
    what came back is known here.

    Parameters
    ----------
    base_url, api_key : str or None
    timeout : float

    Attributes
    ----------
    address : str
        Of the server, without a password.
    """

    def __init__(self, base_url: str | None, api_key: str | None, timeout: float) -> None:
        key = _checked_key(base_url, api_key)
        self._openai, self._timeout = _connect(base_url, key, timeout), timeout
        parts = urlsplit(str(self._openai.base_url))
        self.address = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        password = parts.password or ""
        secrets = {"" if key == _NO_KEY else key, password, unquote(password)}
        self._secrets = _pattern(secrets)
        self._long = _pattern({secret for secret in secrets if len(secret) >= _WORD})

    def close(self) -> None:
        self._openai.close()

    def clean(self, text: str) -> str:
        """The text without the key, which a server may repeat, and as UTF-8 can hold it.

        A short key may be a word like others, such as "token", and stays.
        """
        return _without(self._long, text)

    def clean_reason(self, text: str) -> str:
        """The same for what went wrong, without short keys either."""
        return _without(self._secrets, text)

    def fetch(self, model: str, messages: Messages, parameters: Mapping[str, Any]) -> Reply:
        """Send one request, once, and read the reply.

        Raises
        ------
        Fault
            For whatever is no answer.
        """
        import openai

        try:
            raw = self._openai.chat.completions.with_raw_response.create(
                model=model, messages=messages, extra_body=dict(parameters)
            )
            # JSON is UTF-8 whatever the header says (RFC 8259, 8.1)
            body = raw.http_response.content.decode("utf-8-sig", "replace")
        except openai.APITimeoutError as error:
            reason = f"no reply within timeout={self._timeout} s"
            billed = _was_open(error.__cause__ or error)
            raise Fault(reason, again=True, billed=billed) from error
        except openai.APIStatusError as error:
            response, body = error.response, self.clean_reason(error.response.text)
            raise read_status(response.status_code, response.headers, body) from error
        except openai.APIConnectionError as error:
            cause = error.__cause__ or error
            reason = self.clean_reason(f"the connection failed ({type(cause).__name__}: {cause})")
            raise Fault(reason, again=True, billed=_was_open(cause)) from error
        except (openai.OpenAIError, *_UNREADABLE) as error:
            reason = f"the reply cannot be read ({type(error).__name__}: {error})"
            raise Fault(self.clean_reason(reason), again=True, billed=True) from error
        return read_reply(body, self.clean, self.clean_reason)


def _checked_key(base_url: str | None, api_key: str | None) -> str:
    """The key that is sent: the caller's, that of the environment, or none."""
    name, key = "api_key", api_key
    if key is None and base_url is not None:
        return _NO_KEY
    if key is None:
        name, key = "OPENAI_API_KEY", os.environ.get("OPENAI_API_KEY")
    if key is None:
        raise ValueError(
            "api_key=None, and the environment has no OPENAI_API_KEY: give one, or the base_url "
            "of a server that needs none."
        )
    if not isinstance(key, str):
        raise TypeError(f"api_key must be a str or None, got {type(key).__name__}.")
    key = key.strip()  # a file of one line ends with a newline
    if not key:
        raise ValueError(
            f"{name} is empty: give the key, or for a server that needs none its base_url and "
            "api_key=None."
        )
    # what it is stays unsaid
    if not all("!" <= character <= "~" for character in key):
        raise ValueError(
            f"{name} holds white space, a control character or one beyond ASCII, and no request "
            "can carry these: copy the key again."
        )
    return key


def _pattern(secrets: set[str]) -> re.Pattern[str] | None:
    """Finds secrets in a text, also as JSON or a repr write them."""
    found = []
    for secret in filter(None, secrets):
        for written in {secret, repr(secret)[1:-1], json.dumps(secret)[1:-1]}:
            is_word = len(secret) < _WORD
            text = re.escape(written)
            found.append((len(written), rf"(?<!\w){text}(?!\w)" if is_word else text))
    if not found:
        return None
    # the longest first, as one may be a part of another
    return re.compile("|".join(text for _, text in sorted(found, reverse=True)))


def _without(secrets: re.Pattern[str] | None, text: str) -> str:
    text = text if secrets is None else secrets.sub("[key]", text)
    return text.encode("utf-8", "replace").decode()


def _connect(base_url: str | None, key: str, timeout: float) -> Any:
    try:
        import openai
    except ImportError as error:
        raise ImportError(
            "questions to language models need openai: "
            'pip install "sparsecode_estimators[interpret]"'
        ) from error
    options: dict[str, Any] = {"api_key": key, "timeout": timeout, "max_retries": 0}
    if base_url is None:
        return openai.OpenAI(**options)
    client = openai.OpenAI(base_url=base_url, default_headers=_own_headers(key), **options)
    client.organization = client.project = None  # the library took them from the environment
    return client


def _own_headers(key: str) -> dict[str, Any]:
    """Headers that undo those of the environment, which are for another server."""
    import openai

    lines = os.environ.get("OPENAI_CUSTOM_HEADERS", "").split("\n")
    names = {line.partition(":")[0].strip() for line in lines if ":" in line}
    names = {name for name in names if name.lower() != "authorization"}
    # an openai that has no Omit does not know the variable either
    unsent = {name: openai.Omit() for name in names} if hasattr(openai, "Omit") else {}
    return {**unsent, "Authorization": f"Bearer {key}"}


def _was_open(cause: BaseException) -> bool:
    """Whether the request may have reached the server before the connection broke."""
    return type(cause).__name__ not in ("ConnectError", "ConnectTimeout", "LocalProtocolError")
