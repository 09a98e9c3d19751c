"""How much may be spent: requests and tokens, held before they are sent."""

import threading
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

_TEMPLATE = 64  # tokens that a chat template puts around the messages, generously
_PER_MESSAGE = 16
_BYTES_PER_TOKEN = 4  # usual for English text


class Budget:
    """Requests and tokens that are left, for all threads of a client.

    What a request could cost at most is held while it is under way, so the budget of tokens is
    not passed. A request that does not fit beside those under way waits for them, as they may
    cost less than is held for them; so which requests are sent does not depend on their number.

    Parameters
    ----------
    max_requests, max_tokens : int or None
        None: without end.
    n_requests, n_tokens : int
        What was spent before.
    """

    def __init__(
        self, max_requests: int | None, max_tokens: int | None, n_requests: int, n_tokens: int
    ) -> None:
        self.max_requests, self.max_tokens = max_requests, max_tokens
        self.n_requests, self.n_tokens = n_requests, n_tokens
        self._held = 0
        self._changed = threading.Condition()

    def hold(self, tokens: int) -> str | None:
        """Take one request and what it can cost; or say why it cannot be sent."""
        with self._changed:
            while True:
                if self.max_requests is not None and self.n_requests >= self.max_requests:
                    return (
                        f"the budget of max_requests={self.max_requests} requests is spent: "
                        "raise it, and what was answered is not asked again"
                    )
                if self.max_tokens is None or self.n_tokens + self._held + tokens <= (
                    self.max_tokens
                ):
                    self.n_requests += 1
                    self._held += tokens
                    return None
                if not self._held:
                    return (
                        f"of the budget of max_tokens={self.max_tokens} tokens "
                        f"{self.max_tokens - self.n_tokens} are left, and the next request may "
                        f"take {tokens}: raise it, and what was answered is not asked again"
                    )
                self._changed.wait()

    def settle(self, held: int, spent: int) -> None:
        """A request that `held` tokens ended and cost `spent`."""
        with self._changed:
            self._held -= held
            self.n_tokens += spent
            self._changed.notify_all()

    def check(self, estimate: "Estimate") -> None:
        """Refuse work that will not fit, before any of it is paid.

        Raises
        ------
        ValueError
        """
        n_tokens = estimate.prompt_tokens + (estimate.answer_tokens or 0)
        for name, needed, spent, limit in (
            ("max_requests", estimate.n_requests, self.n_requests, self.max_requests),
            ("max_tokens", n_tokens, self.n_tokens, self.max_tokens),
        ):
            if limit is not None and spent + needed > limit:
                raise ValueError(
                    f"{name}={limit}, of which {spent} are spent, but about {needed} are needed "
                    f"({estimate}): nothing was sent. Raise it, or ask about fewer latents."
                )


class Estimate(NamedTuple):
    """What prompts will cost.

    Attributes
    ----------
    n_prompts : int
    n_answered : int
        Of them, answered in the journal: they cost nothing.
    n_requests : int
        To be sent, if none has to be repeated.
    prompt_tokens : int
        Of these requests, at four bytes a token.
    answer_tokens : int or None
        That the answers can have at most; None if the parameters set no limit.

    See Also
    --------
    ChatClient : Makes it, before anything is sent.
    """

    n_prompts: int
    n_answered: int
    n_requests: int
    prompt_tokens: int
    answer_tokens: int | None

    def __str__(self) -> str:
        answers = "" if self.answer_tokens is None else f", answers of at most {self.answer_tokens}"
        return (
            f"{self.n_prompts} prompts, {self.n_answered} answered before, {self.n_requests} to "
            f"send: about {self.prompt_tokens} tokens{answers}"
        )


def answer_limit(parameters: Mapping[str, Any]) -> int | None:
    """How many tokens an answer can have, by the parameters of the request."""
    limit = parameters.get("max_completion_tokens", parameters.get("max_tokens"))
    return None if limit is None else int(limit)


def usual_tokens(messages: Sequence[Mapping[str, str]]) -> int:
    """Tokens that messages are likely to have."""
    return -(-_n_bytes(messages) // _BYTES_PER_TOKEN) + 4 * len(messages)


def most_tokens(messages: Sequence[Mapping[str, str]], limit: int | None) -> int:
    """Tokens that a request can cost: no token is shorter than a byte."""
    return _n_bytes(messages) + _TEMPLATE + _PER_MESSAGE * len(messages) + (limit or 0)


def _n_bytes(messages: Sequence[Mapping[str, str]]) -> int:
    return sum(len(message["content"].encode("utf-8", "replace")) for message in messages)
