"""A server of chat completions on loopback that answers as a script says, faults included."""

import json
import sys
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np

HOUR = "3600"


class Faulty:
    """A reply that is not a good one: a status, headers, a body, and how it is sent."""

    def __init__(self, status=200, body="", headers=(), *, cut=0, hang=0.0):
        self.status, self.body, self.headers = status, body, dict(headers)
        self.cut, self.hang = cut, hang


def completion(text, **changes):
    """A good reply, as OpenAI's protocol has it."""
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 0,
        "model": "served-model",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": text},
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 11, "completion_tokens": 3, "total_tokens": 14},
        **changes,
    }


class ChatServer:
    """What was asked, how many at a time, and the answers.

    Parameters
    ----------
    answer : callable
        From the body of a request and how often it came before to a text, a dict (a reply) or
        a `Faulty`.
    delay : float
        Seconds before every answer.
    """

    def __init__(self, answer, delay=0.0):
        self.answer, self.delay = answer, delay
        self.requests, self.headers, self.served = [], [], []
        self.most_at_once = self._at_once = 0
        self._lock = threading.Lock()

    def handle(self, handler):
        length = int(handler.headers["Content-Length"])
        content = handler.rfile.read(length)
        if len(content) < length:
            raise ConnectionResetError("the client ended while it was asking")
        body = json.loads(content)
        with self._lock:
            before = self.requests.count(body)
            self.requests.append(body)
            self.headers.append({k.lower(): v for k, v in handler.headers.items()})
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            time.sleep(self.delay)
            answer = self.answer(body, before)
        finally:
            with self._lock:
                self._at_once -= 1
        if isinstance(answer, str):
            answer = completion(answer)
        if not isinstance(answer, Faulty):
            answer = Faulty(body=json.dumps(answer))
        time.sleep(answer.hang)
        self._send(handler, answer)
        with self._lock:
            self.served.append(body)

    @staticmethod
    def _send(handler, reply):
        content = reply.body.encode()
        handler.send_response(reply.status)
        for name, value in {"Content-Type": "application/json", **reply.headers}.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content[: len(content) - reply.cut])
        if reply.cut:
            handler.close_connection = True


@contextmanager
def serving(answer, **options):
    """A `ChatServer` and its address, on a free port."""
    chat = ChatServer(answer, **options)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            try:
                chat.handle(self)
            except (BrokenPipeError, ConnectionResetError):  # the client did not wait
                self.close_connection = True

        def log_message(self, *args):
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request, client_address):
            """A client that was killed is no news."""
            if not isinstance(sys.exception(), ConnectionError):
                super().handle_error(request, client_address)

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    chat.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield chat
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def mutated(content, n):
    """`n` versions of some bytes with a piece of up to 12 replaced by something else."""
    rng = np.random.default_rng(len(content))
    pieces = [b"", b"[", b"}", b"null", b"\xff", b"1e999", b'"', b",", b"\n", b"-1", b"[" * 5000]
    for _ in range(n):
        at = rng.integers(len(content))
        until = at + rng.integers(0, 13)
        yield content[:at] + pieces[rng.integers(len(pieces))] + content[until:]
