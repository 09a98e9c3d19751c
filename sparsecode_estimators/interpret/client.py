"""Questions to a language model behind an OpenAI-compatible server, paid once each."""

import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any

from ..datasets.checks import check_integer, check_real
from .budget import Budget, Estimate, answer_limit, usual_tokens
from .connection import Connection
from .journal import Journal, Messages, request_key
from .sender import Answer, Sender, Stop

_DEFAULTS = {"temperature": 0.0, "seed": 0, "max_tokens": 512}
_LONGEST_TIMEOUT = 2_000_000  # seconds, 23 days
_OURS = ("model", "messages", "stream", "n")  # what the client itself decides


class ChatClient:
    """A language model behind any server that speaks OpenAI's protocol of chat completions.

    Nothing is paid twice: every answer is on the disk before it is used, in a journal that is
    the cache, too. A process that is killed and started again with the same journal sends only
    what was not answered. Nothing that a server sends ends the run: what is not an answer
    becomes an :class:`Answer` with a reason.

    Parameters
    ----------
    model : str
        As the server calls it.
    base_url : str, default=None
        Of the server, such as ``"http://localhost:8000/v1"``. None: what the environment says
        (``OPENAI_BASE_URL``), or OpenAI. Key, organisation, project and headers of the
        environment go there only.
    api_key : str, default=None
        Never written to the journal, a log or a ``repr``: where an answer or an error repeats
        it, "[key]" stands instead. One of fewer than 8 characters may be a word like others: it
        stays in answers, and is looked for as a word of its own in errors. White space around it
        is not part of it. None: from the environment
        (``OPENAI_API_KEY``), but only if `base_url` is None, too: no key goes to a server that
        it was not meant for.
    journal : str or Path, default=None
        A file of JSON lines: every request and every answer, with model, parameters and
        prompt. It is made if it does not exist, and belongs to one process at a time. None:
        answers are kept as long as the client lives.
    parameters : dict, default=None
        Sent with every request, under the names that the server knows: temperature, top_p,
        seed, max_tokens or max_completion_tokens, and others. None:
        ``{"temperature": 0.0, "seed": 0, "max_tokens": 512}``.
    max_concurrency : int, default=4
        Requests under way at a time.
    max_retries : int, default=4
        How often a request is repeated after a fault that may pass: 408, 409, 429, 5xx, no
        reply in time, a connection that broke, half a reply, a page of HTML, another shape.
    timeout : float, default=120.0
        Seconds without a byte after which a request has failed, at most 2,000,000.
    max_wait : float, default=60.0
        Seconds that a server may ask to wait. If it asks for more, the request fails with a
        reason that says so, and nothing more is sent in this call.
    max_requests : int, default=None
        Budget. Repeated requests count. With a journal it holds for all runs together. 0 sends
        nothing: the error says what would be needed.
    max_tokens : int, default=None
        Budget of prompts and answers together, for all runs of the journal. A request is sent
        only if what it can cost at most is left: a token for each byte of the prompt, and the
        longest answer, which `parameters` must limit. What it did cost, as the server counts,
        is taken off. A request whose cost is not known, as its reply was cut or the process
        killed, counts with all that it could have cost.
    verbose : bool, default=True
        Whether what prompts will cost is printed to stderr before they are sent.

    Attributes
    ----------
    n_requests_ : int
        Sent so far, in all runs of the journal.
    n_tokens_ : int
        That they cost.

    Raises
    ------
    ImportError
        Without openai.
    ValueError, TypeError
        For parameters out of range, and for a damaged journal.
    RuntimeError
        If the journal is open elsewhere.

    See Also
    --------
    explain_latents : Asks it for explanations.
    score_explanations : Asks it for verdicts.

    Notes
    -----
    The key of a request is a hash of the model's name, the messages and `parameters`. Give
    another journal for another server with a model of the same name.

    A request whose reply was lost on the way, or that was under way in a process that was
    killed, is sent again; whether the server bills both is not known here.

    Examples
    --------
    >>> from sparsecode_estimators.interpret import ChatClient
    >>> client = ChatClient(
    ...     "smollm2", base_url="http://127.0.0.1:8000/v1", journal="answers.jsonl"
    ... )  # doctest: +SKIP
    >>> client.complete([[{"role": "user", "content": "Say yes."}]])[0].text  # doctest: +SKIP
    'yes'
    """

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        journal: str | Path | None = None,
        parameters: Mapping[str, Any] | None = None,
        max_concurrency: int = 4,
        max_retries: int = 4,
        timeout: float = 120.0,
        max_wait: float = 60.0,
        max_requests: int | None = None,
        max_tokens: int | None = None,
        verbose: bool = True,
    ) -> None:
        self.model = model
        self.parameters = dict(_DEFAULTS if parameters is None else parameters)
        self.max_concurrency, self.max_retries = max_concurrency, max_retries
        self.timeout, self.max_wait = timeout, max_wait
        self.max_requests, self.max_tokens = max_requests, max_tokens
        self.verbose = verbose
        self._check()
        self._connection = Connection(base_url, api_key, timeout)
        common = {"model": model, "seed": self.parameters.get("seed")}
        self._journal = Journal(journal, common, self._connection.clean)
        self._asking = Lock()
        self._budget = Budget(
            max_requests, max_tokens, self._journal.n_requests, self._journal.n_tokens
        )
        self._sender = Sender(
            model,
            self.parameters,
            self._connection,
            self._journal,
            self._budget,
            max_retries,
            max_wait,
        )

    def __repr__(self) -> str:
        return f"ChatClient({self.model!r}, base_url={self._connection.address!r})"

    def __enter__(self) -> "ChatClient":
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()

    @property
    def n_requests_(self) -> int:
        return self._budget.n_requests

    @property
    def n_tokens_(self) -> int:
        return self._budget.n_tokens

    def close(self) -> None:
        """Let go of the journal and the connections."""
        self._journal.close()
        self._connection.close()

    def estimate(self, prompts: Sequence[Messages]) -> Estimate:
        """What prompts would cost now; nothing is sent.

        Parameters
        ----------
        prompts : sequence of lists of messages
            A message is a dict with "role" and "content".

        Returns
        -------
        estimate : Estimate
        """
        cleaned = [_cleaned(messages) for messages in prompts]
        return self._estimate(cleaned, self._open(cleaned))

    def complete(self, prompts: Sequence[Messages], *, partial: bool = False) -> list[Answer]:
        """Ask, and wait for all answers.

        Parameters
        ----------
        prompts : sequence of lists of messages
            A message is a dict with "role" and "content". The same prompt is sent once.
        partial : bool, default=False
            Whether to begin if the budget is too small for all.

        Returns
        -------
        answers : list of Answer
            One for each prompt, in their order.

        Raises
        ------
        ValueError
            If the budget is smaller than what is needed: nothing was sent then.
        """
        prompts = [_cleaned(messages) for messages in prompts]
        with self._asking:  # what other threads ask for may be the same
            return self._complete(prompts, partial=partial)

    def _complete(self, prompts: list[Messages], *, partial: bool) -> list[Answer]:
        wanted = self._open(prompts)
        estimate = self._estimate(prompts, wanted)
        if not partial:
            self._budget.check(estimate)
        if self.verbose and wanted:
            print(f"{self!r}: {estimate}", file=sys.stderr)  # noqa: T201
        fresh = self._send_all(wanted)
        answers = []
        for messages in prompts:
            key = self._key(messages)
            answers.append(fresh.get(key) or Answer.of_record(self._journal.answers[key], 0))
        return answers

    def _check(self) -> None:
        if not isinstance(self.model, str) or not self.model:
            raise ValueError(f"model={self.model!r}: give the name that the server knows.")
        taken = sorted(set(self.parameters) & set(_OURS))
        if taken:
            raise ValueError(f"parameters has {taken}, which the client sets: leave them out.")
        for name, least in (("max_concurrency", 1), ("max_retries", 0)):
            check_integer(name, getattr(self, name), least)
        for name in ("max_requests", "max_tokens"):
            if getattr(self, name) is not None:
                check_integer(name, getattr(self, name), 0)
        for name in ("timeout", "max_wait"):
            check_real(name, getattr(self, name), 0)
        if self.timeout > _LONGEST_TIMEOUT:
            raise ValueError(
                f"timeout={self.timeout!r} must be at most {_LONGEST_TIMEOUT} seconds, which a "
                "socket can count."
            )
        for name in ("max_completion_tokens", "max_tokens"):
            if self.parameters.get(name) is not None:
                check_integer(f"parameters[{name!r}]", self.parameters[name], 0)
        limit = answer_limit(self.parameters)
        if self.max_tokens is not None and limit is None:
            raise ValueError(
                f"max_tokens={self.max_tokens} cannot be kept, as parameters set no longest "
                'answer: give parameters["max_tokens"], too.'
            )

    def _key(self, messages: Messages) -> str:
        return request_key(self.model, messages, self.parameters)

    def _open(self, prompts: Sequence[Messages]) -> dict[str, Messages]:
        """The prompts that are not answered yet, each once."""
        keyed = {self._key(messages): messages for messages in prompts}
        return {key: m for key, m in keyed.items() if key not in self._journal.answers}

    def _estimate(self, prompts: Sequence[Messages], wanted: Mapping[str, Messages]) -> Estimate:
        limit = answer_limit(self.parameters)
        return Estimate(
            len(prompts),
            sum(self._key(messages) not in wanted for messages in prompts),
            len(wanted),
            sum(usual_tokens(messages) for messages in wanted.values()),
            None if limit is None else limit * len(wanted),
        )

    def _send_all(self, wanted: Mapping[str, Messages]) -> dict[str, Answer]:
        if not wanted:
            return {}
        stop = Stop()
        with ThreadPoolExecutor(min(self.max_concurrency, len(wanted))) as pool:
            under_way = {
                key: pool.submit(self._sender.ask, key, messages, stop)
                for key, messages in wanted.items()
            }
            try:
                return {key: future.result() for key, future in under_way.items()}
            except BaseException:
                stop.give("the run was interrupted")
                raise


def _cleaned(messages: Messages) -> list[dict[str, str]]:
    """Messages that UTF-8 can hold: half a surrogate pair is no character."""
    return [
        {name: value.encode("utf-8", "replace").decode() for name, value in message.items()}
        for message in messages
    ]
