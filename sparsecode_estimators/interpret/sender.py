"""One prompt until it is answered: requests, waiting, and the record of both."""

import random
import threading
from collections.abc import Mapping
from typing import Any, NamedTuple

from .budget import Budget, answer_limit, most_tokens
from .connection import Connection
from .journal import Journal, Messages
from .replies import Fault, Reply

_SHORTEST_WAIT = 0.5  # seconds before the second try, twice as many before the third


class Answer(NamedTuple):
    """What became of a prompt.

    Attributes
    ----------
    text : str or None
        The answer; None if there is none.
    status : {"ok", "failed", "not sent"}
        "failed": asked, and no usable answer came. "not sent": the budget was spent, or the
        server told all requests to stay away.
    reason : str or None
        Why there is no answer.
    n_requests : int
        That were sent for it now; 0 if the journal had the answer.
    prompt_tokens, answer_tokens : int
        As the server counted them, also if they were paid in an earlier run; 0 if it did not.

    See Also
    --------
    ChatClient : Gives one for each prompt.
    """

    text: str | None
    status: str
    reason: str | None
    n_requests: int
    prompt_tokens: int
    answer_tokens: int

    @classmethod
    def of_record(cls, record: Mapping[str, Any], n_requests: int) -> "Answer":
        """What the journal holds."""
        status = "ok" if record["reason"] is None else "failed"
        counts = record["prompt_tokens"], record["answer_tokens"]
        return cls(record["text"], status, record["reason"], n_requests, *counts)


class Stop:
    """One reason to send nothing more, for all threads of a call."""

    def __init__(self) -> None:
        self.reason: str | None = None
        self._given = threading.Event()

    def give(self, reason: str) -> None:
        """Give the reason; the first one stays."""
        if self.reason is None:
            self.reason = reason
            self._given.set()

    def wait(self, seconds: float) -> None:
        """Sleep, or less if there is a reason to stop."""
        self._given.wait(min(seconds, threading.TIMEOUT_MAX))


class Sender:
    """Sends prompts, again where that may help, within the budget, and keeps what was paid.

    Parameters
    ----------
    model : str
    parameters : dict
    connection : Connection
    journal : Journal
    budget : Budget
    max_retries : int
    max_wait : float
    """

    def __init__(
        self,
        model: str,
        parameters: Mapping[str, Any],
        connection: Connection,
        journal: Journal,
        budget: Budget,
        max_retries: int,
        max_wait: float,
    ) -> None:
        self.model, self.parameters = model, dict(parameters)
        self.connection, self.journal, self.budget = connection, journal, budget
        self.max_retries, self.max_wait = max_retries, max_wait
        self._jitter = random.Random()  # of waiting times, which change no result

    def ask(self, key: str, messages: Messages, stop: Stop) -> Answer:
        """The answer to one prompt, or why there is none."""
        bound = most_tokens(messages, answer_limit(self.parameters))
        last: str | None = None
        for attempt in range(self.max_retries + 1):
            refused = stop.reason or self.budget.hold(bound)
            if refused:
                stop.give(refused)
                if last is None:
                    return Answer(None, "not sent", refused, 0, 0, 0)
                return Answer(
                    None, "failed", f"{last}; not sent again, as {refused}", attempt, 0, 0
                )
            try:
                return Answer.of_record(self._request(key, messages, bound), attempt + 1)
            except Fault as fault:
                last = self._weigh(fault, stop, attempt)
                if not fault.again or stop.reason == last:
                    break
        return Answer(None, "failed", last, attempt + 1, 0, 0)

    def _weigh(self, fault: Fault, stop: Stop, attempt: int) -> str:
        """Wait before the next try if there is one, or stop all; what to tell of the fault."""
        reason = fault.reason
        if fault.stop:
            stop.give(reason)
        elif fault.again and (fault.wait or 0) > self.max_wait:
            reason = (
                f"{reason}; it asks to wait {fault.wait:.0f} s, more than "
                f"max_wait={self.max_wait}: run again later, what was answered is not asked again"
            )
            stop.give(reason)
        elif fault.again and attempt < self.max_retries:
            longer = min(
                self.max_wait, _SHORTEST_WAIT * 2**attempt * self._jitter.uniform(0.5, 1.5)
            )
            stop.wait(longer if fault.wait is None else fault.wait)
        return reason

    def _request(self, key: str, messages: Messages, bound: int) -> dict[str, Any]:
        """One request. What was paid is in the journal before anything else happens.

        Raises
        ------
        Fault
            If there is no answer that is worth keeping.
        """
        spent = bound  # if nothing better is known
        try:
            self.journal.sent(key, bound)
            reply: Reply | Fault
            try:
                reply = self.connection.fetch(self.model, messages, self.parameters)
            except Fault as fault:
                reply = fault
            if reply.usage is not None:
                spent = sum(reply.usage)
            elif isinstance(reply, Fault) and not reply.billed:
                spent = 0
            if isinstance(reply, Fault) and not reply.final:
                self.journal.failed(key, reply.reason, spent)
                raise reply
            return self.journal.answered(key, **self._record(messages, reply, spent))
        finally:
            self.budget.settle(bound, spent)

    def _record(self, messages: Messages, reply: Reply | Fault, spent: int) -> dict[str, Any]:
        prompt_tokens, answer_tokens = reply.usage or (0, 0)
        record = {
            "parameters": self.parameters,
            "messages": [dict(message) for message in messages],
            "prompt_tokens": prompt_tokens,
            "answer_tokens": answer_tokens,
            "tokens": spent,
        }
        if isinstance(reply, Fault):
            return record | {"text": None, "reason": reply.reason}
        served = {"served": reply.model, "finish_reason": reply.finish_reason}
        return record | {"text": reply.text, "reason": None} | served
