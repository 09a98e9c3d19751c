"""What was asked and answered, one JSON object a line, on a disk that survives a kill."""

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

Messages = Sequence[Mapping[str, str]]

_BEGIN = b'{"event": "sent", "key": "'  # of a file that this class has begun
_KEPT = ("text", "reason", "prompt_tokens", "answer_tokens")  # of an answer, in memory


def request_key(model: str, messages: Messages, parameters: Mapping[str, Any]) -> str:
    """What a request is known by: the SHA-256 of all that its answer depends on."""
    content = [model, [dict(message) for message in messages], dict(parameters)]
    text = json.dumps(content, sort_keys=True, ensure_ascii=True, allow_nan=False)
    return sha256(text.encode()).hexdigest()


class Journal:
    """An append-only file of requests and answers, which is the cache of answers, too.

    A line is written before every request ("sent") and after it ("answer" or "fault"). So what
    was spent is known after a kill: a request without an outcome counts with all that it could
    have cost. A line that a kill cut short is removed when the file is opened again.

    Parameters
    ----------
    path : str, Path or None
        Made if it does not exist, with the folders above it. None: in memory only.
    common : mapping
        What every record has: the model, the seed.
    clean : callable, default=None
        Takes out of a text what must not be written; every text of a record goes through it.

    Attributes
    ----------
    answers : dict
        From the key of a request to what became of it: "text", "reason", "prompt_tokens" and
        "answer_tokens".
    n_requests : int
        Requests that were sent, in all runs.
    n_tokens : int
        Tokens that they cost, in all runs.

    Raises
    ------
    ValueError
        If a line is not a record.
    RuntimeError
        If another process writes to the file.
    """

    def __init__(
        self,
        path: str | Path | None,
        common: Mapping[str, Any],
        clean: Callable[[str], str] | None = None,
    ) -> None:
        self.answers: dict[str, dict[str, Any]] = {}
        self.n_requests = self.n_tokens = 0
        self._open_bounds: dict[str, int] = {}  # of requests that have no outcome yet
        self._common = dict(common)
        self._clean = clean or str
        self._writing = threading.Lock()
        self._file = None
        self.path = None if path is None else Path(path).absolute()
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("ab", buffering=0)
            try:
                self._lock_file()
                self._replay()
            except BaseException:
                self.close()
                raise
        self.n_tokens += sum(self._open_bounds.values())
        self._open_bounds.clear()

    def sent(self, key: str, bound: int) -> None:
        """A request leaves that can cost at most `bound` tokens."""
        self._append({"event": "sent", "key": key, "bound": bound})

    def answered(self, key: str, **record: Any) -> dict[str, Any]:
        """The answer to a request, on the disk when this returns. What was written."""
        return self._append({"event": "answer", "key": key, **record}, to_disk=True)

    def failed(self, key: str, reason: str, tokens: int) -> None:
        """A request without an answer that could be used again."""
        self._append({"event": "fault", "key": key, "reason": reason, "tokens": tokens})

    def close(self) -> None:
        """Let go of the file; closing twice is no error."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _append(self, record: dict[str, Any], to_disk: bool = False) -> dict[str, Any]:
        own = {name: record[name] for name in ("event", "key")}  # a short secret may be in these
        record = {**self._cleaned(record), **own, **self._common, "time": round(time.time(), 3)}
        line = json.dumps(record, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        with self._writing:
            if self._file is not None:
                self._write(self._file, line)
                if to_disk:
                    os.fsync(self._file.fileno())
            self._count(record)
        return record

    @staticmethod
    def _write(file: Any, line: bytes) -> None:
        """All of a line, or nothing if the disk is full."""
        end, rest = os.fstat(file.fileno()).st_size, memoryview(line)
        try:
            while rest:
                rest = rest[file.write(rest) :]
        except OSError:
            os.ftruncate(file.fileno(), end)
            raise

    def _cleaned(self, value: Any) -> Any:
        if isinstance(value, str):
            return self._clean(value)
        if isinstance(value, Mapping):
            return {key: self._cleaned(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self._cleaned(item) for item in value]
        return value

    def _count(self, record: dict[str, Any]) -> None:
        """Take a record into the sums and the cache."""
        event, key = record["event"], record["key"]
        if event == "sent":
            self.n_requests += 1
            self.n_tokens += self._open_bounds.get(key, 0)  # of a process that was killed
            self._open_bounds[key] = record["bound"]
        elif event in ("answer", "fault"):
            self._open_bounds.pop(key, None)
            self.n_tokens += record["tokens"]
            if event == "answer":
                self.answers[key] = {name: record[name] for name in _KEPT}
        else:
            raise ValueError(f"unknown event {event!r}")

    def _replay(self) -> None:
        """Read what earlier runs wrote."""
        assert self.path is not None
        end = 0
        with self.path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n") and (number > 1 or _begins_like_ours(line)):
                    os.truncate(self.path, end)  # a kill came while it was written
                    break
                end += len(line)
                try:
                    self._count(_checked(json.loads(line)))
                except (ValueError, TypeError, KeyError, RecursionError) as error:
                    raise ValueError(
                        f"line {number} of journal={str(self.path)!r} is no record of a journal "
                        f"({type(error).__name__}: {error}): give the path of another file, or "
                        "remove the line."
                    ) from error

    def _lock_file(self) -> None:
        """One process at a time; the lock ends with it, however it ends."""
        assert self._file is not None
        with contextlib.suppress(ImportError):  # other systems than POSIX have none
            import fcntl

            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise RuntimeError(
                    f"the journal {str(self.path)!r} is open elsewhere: close that client, wait "
                    "until its process ends, or give this one a journal of its own."
                ) from error


def _begins_like_ours(line: bytes) -> bool:
    """Whether the only line of a file, which was cut, may be one of a journal."""
    return line.startswith(_BEGIN) or _BEGIN.startswith(line)


def _checked(record: Any) -> dict[str, Any]:
    """A record whose fields are what the client will rely on."""
    if not isinstance(record, dict) or not isinstance(record["key"], str):
        raise ValueError("not an object with a key")
    count = record["bound" if record["event"] == "sent" else "tokens"]
    if type(count) is not int or count < 0:
        raise ValueError("a number of tokens is not a count")
    if record["event"] == "answer":
        text, reason = record["text"], record["reason"]
        if not (isinstance(text, str) if reason is None else isinstance(reason, str)):
            raise ValueError("an answer has neither a text nor a reason")
        counts = record["prompt_tokens"], record["answer_tokens"]
        if any(type(n) is not int or n < 0 for n in counts):
            raise ValueError("a number of tokens is not a count")
    return record
