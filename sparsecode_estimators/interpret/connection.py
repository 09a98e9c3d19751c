"""One request to a server through the openai library, and nothing but an answer or a fault."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from .journal import Messages
from .replies import Fault, Reply, read_reply, read_status

_SHORTEST_SECRET = 8  # servers without keys are given words such as "EMPTY"


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
        self._openai, self._timeout = _connect(base_url, api_key, timeout), timeout
        parts = urlsplit(str(self._openai.base_url))
        self.address = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        secrets = self._openai.api_key, parts.password or ""
        self._secrets = [secret for secret in secrets if len(secret) >= _SHORTEST_SECRET]

    def close(self) -> None:
        self._openai.close()

    def clean(self, text: str) -> str:
        """The text without the key, which a server may repeat, and as UTF-8 can hold it."""
        for secret in self._secrets:
            text = text.replace(secret, "[key]")
        return text.encode("utf-8", "replace").decode()

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
            body = self.clean(raw.http_response.text)
        except openai.APITimeoutError as error:
            raise Fault(
                f"no reply within timeout={self._timeout} s", again=True, billed=True
            ) from error
        except openai.APIStatusError as error:
            response, body = error.response, self.clean(error.response.text)
            raise read_status(response.status_code, response.headers, body) from error
        except openai.APIConnectionError as error:
            cause = error.__cause__ or error
            reason = self.clean(f"the connection failed ({type(cause).__name__}: {cause})")
            raise Fault(reason, again=True, billed=_was_open(cause)) from error
        except (openai.OpenAIError, ValueError) as error:
            reason = self.clean(f"the reply cannot be read ({type(error).__name__}: {error})")
            raise Fault(reason, again=True, billed=True) from error
        return read_reply(body)


def _connect(base_url: str | None, api_key: str | None, timeout: float) -> Any:
    try:
        import openai
    except ImportError as error:
        raise ImportError(
            "questions to language models need openai: "
            'pip install "sparsecode_estimators[interpret]"'
        ) from error
    options: dict[str, Any] = {}
    if base_url is not None:
        options = {"base_url": base_url, "api_key": "none"}
    if api_key is not None:
        options["api_key"] = api_key
    try:
        return openai.OpenAI(timeout=timeout, max_retries=0, **options)
    except openai.OpenAIError as error:
        raise ValueError(
            "api_key=None, and the environment has no OPENAI_API_KEY: give one, or the base_url "
            "of a server that needs none."
        ) from error


def _was_open(cause: BaseException) -> bool:
    """Whether the request may have reached the server before the connection broke."""
    return type(cause).__name__ not in ("ConnectError", "ConnectTimeout")
