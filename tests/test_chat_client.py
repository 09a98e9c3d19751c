"""The client: every fault over a real socket, budgets to the request, a journal, no keys."""

import contextlib
import json
import socket
import time
from email.utils import formatdate
from threading import Thread

import pytest
from chat_server import HOUR, Faulty, completion, mutated, serving
from hypothesis import given
from hypothesis import strategies as st

from sparsecode_estimators.interpret import ChatClient
from sparsecode_estimators.interpret.budget import most_tokens
from sparsecode_estimators.interpret.journal import Journal, request_key
from sparsecode_estimators.interpret.replies import Fault, asked_to_wait, read_reply
from sparsecode_estimators.interpret.sender import Stop

pytest.importorskip("openai")

KEY = "sk-very-secret-0123456789"
BAD_GATEWAY = "<html><body><h1>Sign in</h1></body></html>"


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    """Loopback is reached directly, and no key comes from outside."""
    names = ("API_KEY", "BASE_URL", "ORG_ID", "PROJECT_ID", "CUSTOM_HEADERS")
    for name in names:
        monkeypatch.delenv(f"OPENAI_{name}", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def prompt(text):
    return [{"role": "user", "content": text}]


def prompts(n):
    return [prompt(f"question {i}") for i in range(n)]


def echo(body, before):
    return "re: " + body["messages"][-1]["content"]


def client_of(server, **options):
    options = {"api_key": KEY, "verbose": False, "max_wait": 2.0, "timeout": 5.0, **options}
    return ChatClient("m", base_url=server.url, **options)


def test_answers_in_order_with_parameters_and_usage(tmp_path):
    parameters = {"temperature": 0.3, "seed": 5, "max_tokens": 17, "top_k": 4}
    with (
        serving(echo) as server,
        client_of(server, parameters=parameters, journal=tmp_path / "j") as client,
    ):
        answers = client.complete(prompts(9))
    assert [a.text for a in answers] == [f"re: question {i}" for i in range(9)]
    assert {(a.status, a.reason, a.n_requests) for a in answers} == {("ok", None, 1)}
    assert {(a.prompt_tokens, a.answer_tokens) for a in answers} == {(11, 3)}
    for request in server.requests:
        assert request.items() >= {"model": "m", **parameters}.items()
    assert {h["authorization"] for h in server.headers} == {f"Bearer {KEY}"}
    records = [json.loads(line) for line in (tmp_path / "j").read_text().splitlines()]
    assert all((r["model"], r["seed"]) == ("m", 5) for r in records)
    answered = [r for r in records if r["event"] == "answer"]
    assert all(r["parameters"] == parameters and r["served"] == "served-model" for r in answered)


@pytest.mark.parametrize("at_once", [1, 3])
def test_concurrency_is_bounded(at_once):
    with (
        serving(echo, delay=0.03) as server,
        client_of(server, max_concurrency=at_once) as client,
    ):
        client.complete(prompts(12))
    assert server.most_at_once == at_once


# Faults that pass

SHAPES = {
    "choices is null": {"id": "x", "choices": None},
    "choices is missing": {"id": "x"},
    "a list": [],
    "no message": {"choices": [{"index": 0}]},
    "an error": {"error": {"message": "overloaded"}},
    "content is a number": {"choices": [{"message": {"content": 7}}]},
}
PASSING = {
    "429": (Faulty(429, "slow down", {"Retry-After": "0.05"}), "429"),
    "500": (Faulty(500, "oh"), "500"),
    "503": (Faulty(503, BAD_GATEWAY, {"Retry-After": "0"}), "503"),
    "cut body": (Faulty(body=json.dumps(completion("x")), cut=30), "connection failed"),
    "half a JSON": (Faulty(body='{"choices": [{"mess'), "not JSON"),
    "HTML": (Faulty(body=BAD_GATEWAY, headers={"Content-Type": "text/html"}), "HTML"),
    "nested": (Faulty(body="[" * 100_000), "not JSON"),
    "timeout": (Faulty(body=json.dumps(completion("x")), hang=0.9), "timeout=0.3"),
    **{name: (Faulty(body=json.dumps(shape)), "") for name, shape in SHAPES.items()},
}
each_fault = pytest.mark.parametrize("name", PASSING)


@each_fault
def test_a_fault_is_tried_again(name, monkeypatch):
    monkeypatch.setattr("sparsecode_estimators.interpret.sender._SHORTEST_WAIT", 0.01)
    fault, _ = PASSING[name]
    with (
        serving(lambda body, before: "fine" if before else fault) as server,
        client_of(server, timeout=0.3) as client,
    ):
        (answer,) = client.complete([prompt("x")])
    assert (answer.status, answer.text, answer.n_requests) == ("ok", "fine", 2)
    assert len(server.requests) == client.n_requests_ == 2


@each_fault
def test_a_fault_that_stays_is_a_failure_with_a_reason(name, monkeypatch):
    monkeypatch.setattr("sparsecode_estimators.interpret.sender._SHORTEST_WAIT", 0.01)
    fault, why = PASSING[name]

    def answer(body, before):
        return fault if body["messages"][-1]["content"] == "question 1" else "fine"

    with serving(answer) as server, client_of(server, timeout=0.3, max_retries=2) as client:
        answers = client.complete(prompts(3))
    assert [a.status for a in answers] == ["ok", "failed", "ok"]
    assert why in answers[1].reason
    assert (answers[1].text, answers[1].n_requests, len(server.requests)) == (None, 3, 5)


CHARSETS = ("rot13", "hex", "zip", "base64", "undefined", "no-such-charset", "utf-16", "idna")


@pytest.mark.parametrize("charset", CHARSETS)
def test_charsets_that_are_none(charset):
    """A reply is JSON, which is UTF-8; an error in such a charset is a failed reply."""
    headers = {"Content-Type": f"application/json; charset={charset}"}

    def answer(body, before):
        if body["messages"][-1]["content"] == "question 0":
            return Faulty(500, "oh", headers)
        return Faulty(body=json.dumps(completion("größer")), headers=headers)

    with serving(answer) as server, client_of(server, max_retries=0) as client:
        failed, fine = client.complete(prompts(2))
    assert (failed.status, fine.text) == ("failed", "größer")
    assert failed.reason


@pytest.mark.parametrize("count", [10**9 + 1, 10**30, 10**4299])
def test_a_server_that_counts_without_end_does_not_count(count, tmp_path):
    usage = {"prompt_tokens": count, "completion_tokens": count}
    with serving(lambda body, before: completion("x", usage=usage)) as server:
        for _ in range(2):
            options = {"journal": tmp_path / "j", "parameters": {"max_tokens": 40}}
            with client_of(server, **options) as client:
                (answer,) = client.complete([prompt("x")])
                assert client.n_tokens_ == most_tokens(prompt("x"), 40)
            assert (answer.text, answer.prompt_tokens, answer.answer_tokens) == ("x", 0, 0)


def test_a_connection_that_is_reset(monkeypatch):
    monkeypatch.setattr("sparsecode_estimators.interpret.sender._SHORTEST_WAIT", 0.01)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    client = ChatClient("m", base_url=f"http://127.0.0.1:{port}/v1", verbose=False, max_retries=1)
    (answer,) = client.complete([prompt("x")])
    assert (answer.status, answer.n_requests) == ("failed", 2)
    assert "connection failed" in answer.reason
    assert client.n_tokens_ == 0  # nothing was reached, so nothing was paid


def test_the_servers_hint_is_obeyed():
    times = []

    def answer(body, before):
        times.append(time.monotonic())
        return "fine" if before else Faulty(429, "wait", {"Retry-After": "0.4"})

    with serving(answer) as server, client_of(server) as client:
        client.complete([prompt("x")])
    assert 0.4 <= times[1] - times[0] < 2


@given(seconds=st.floats(0, 1e6))
def test_hints_of_every_kind(seconds):
    assert asked_to_wait({"retry-after": str(seconds)}) == seconds
    assert asked_to_wait({"retry-after-ms": str(seconds)}) == pytest.approx(seconds / 1000)
    date = formatdate(time.time() + seconds, usegmt=True)
    assert asked_to_wait({"retry-after": date}) == pytest.approx(seconds, abs=2)


@pytest.mark.parametrize("value", ["", "soon", "-5", "nan", "inf", "Mon, 99 Foo 2020"])
def test_hints_that_say_nothing(value):
    assert asked_to_wait({"retry-after": value}) is None
    assert asked_to_wait({}) is None


# Faults that stay


def test_an_hour_is_not_slept_through():
    begin = time.monotonic()
    with (
        serving(lambda body, before: Faulty(429, "quota", {"Retry-After": HOUR})) as server,
        client_of(server, max_concurrency=1) as client,
    ):
        first, *others = client.complete(prompts(5))
    assert time.monotonic() - begin < 5
    assert len(server.requests) == 1
    assert first.status == "failed"
    assert "asks to wait 3600 s, more than max_wait=2.0" in first.reason
    assert {(a.status, a.n_requests) for a in others} == {("not sent", 0)}
    assert all("3600" in a.reason for a in others)


EMPTY = {
    "no choices": completion("x", choices=[]),
    "no content": completion(None),
    "blank": completion("  \n"),
    "filtered": completion(
        "x", choices=[{"message": {"content": None}, "finish_reason": "content_filter"}]
    ),
    "paid, but of another shape": {
        "choices": None,
        "usage": {"prompt_tokens": 11, "completion_tokens": 3},
    },
}


@pytest.mark.parametrize("name", EMPTY)
def test_a_paid_answer_without_text_is_not_paid_again(name, tmp_path):
    with serving(lambda body, before: EMPTY[name]) as server:
        for _ in range(2):
            with client_of(server, journal=tmp_path / "j") as client:
                (answer,) = client.complete([prompt("x")])
            assert (answer.status, answer.text, answer.prompt_tokens) == ("failed", None, 11)
            assert answer.reason
        assert len(server.requests) == 1


@pytest.mark.parametrize("status", [401, 403, 404])
def test_what_is_wrong_for_all_stops_all(status):
    with (
        serving(lambda body, before: Faulty(status, "no")) as server,
        client_of(server, max_concurrency=1) as client,
    ):
        answers = client.complete(prompts(4))
    assert len(server.requests) == 1
    assert [a.status for a in answers] == ["failed"] + 3 * ["not sent"]
    assert all("check api_key, model and base_url" in a.reason for a in answers)


def test_a_bad_request_is_not_repeated():
    def answer(body, before):
        bad = body["messages"][-1]["content"] == "question 0"
        return Faulty(400, "context too long") if bad else "fine"

    with serving(answer) as server, client_of(server) as client:
        answers = client.complete(prompts(2))
    assert [a.status for a in answers] == ["failed", "ok"]
    assert "context too long" in answers[0].reason
    assert len(server.requests) == 2


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["choices", "message", "content", "usage", "error", "prompt_tokens"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(value=json_values)
def test_any_reply_is_an_answer_or_a_fault(value):
    with contextlib.suppress(Fault):
        assert read_reply(json.dumps(value)).text.strip()


@given(body=st.text(max_size=30))
def test_any_text_is_an_answer_or_a_fault(body):
    with pytest.raises(Fault):
        read_reply(body)


# Budgets


@pytest.mark.parametrize("at_once", [1, 4])
def test_requests_end_with_the_budget(at_once):
    def answer(body, before):
        return "fine" if before else Faulty(500, "oh", {"Retry-After": "0"})

    with (
        serving(answer) as server,
        client_of(server, max_requests=13, max_concurrency=at_once) as client,
    ):
        answers = client.complete(prompts(10))
        assert len(server.requests) == client.n_requests_ == 13
        assert sum(a.n_requests for a in answers) == 13
        assert {a.status for a in answers} == {"ok", "failed", "not sent"}
        assert all("max_requests=13" in a.reason for a in answers if a.status != "ok")


@pytest.mark.parametrize("at_once", [1, 4])
def test_tokens_end_with_the_budget(at_once):
    """What a request can cost at most is left whenever one is sent."""
    bound = most_tokens(prompt("question 0"), 5)
    limit = 5 * 14 + bound - 1
    with (
        serving(echo, delay=0.01) as server,
        client_of(
            server, max_tokens=limit, max_concurrency=at_once, parameters={"max_tokens": 5}
        ) as client,
    ):
        with pytest.raises(ValueError, match=f"max_tokens={limit}, of which 0 are spent"):
            client.complete(prompts(19))
        answers = client.complete(prompts(9), partial=True)
    assert [a.status for a in answers].count("ok") == len(server.requests) == 5
    assert client.n_tokens_ == 5 * 14
    assert all(f"max_tokens={limit}" in a.reason for a in answers if a.status == "not sent")


def test_too_small_a_budget_sends_nothing():
    with serving(echo) as server, client_of(server, max_requests=3) as client:
        with pytest.raises(ValueError, match=r"max_requests=3, of which 0 are spent.*nothing was"):
            client.complete(prompts(4))
        assert not server.requests
        assert len(client.complete(prompts(3))) == 3
        with (
            client_of(server, max_requests=0) as dry,
            pytest.raises(ValueError, match=r"about 9 are needed .9 prompts, 0 answered before"),
        ):
            dry.complete(prompts(9))


def test_a_budget_holds_for_all_runs_of_a_journal(tmp_path):
    options = {"journal": tmp_path / "j", "max_requests": 5}
    with serving(echo) as server:
        with client_of(server, **options) as client:
            client.complete(prompts(3))
        with client_of(server, **options) as client:
            assert (client.n_requests_, client.n_tokens_) == (3, 3 * 14)
            with pytest.raises(ValueError, match="of which 3 are spent"):
                client.complete(prompts(6))
            client.complete(prompts(5))  # three of them are answered
        assert len(server.requests) == 5


def test_a_reply_without_usage_counts_with_all_it_could_cost():
    with serving(lambda body, before: completion("x", usage=None)) as server:
        client = client_of(server, parameters={"max_tokens": 40})
        client.complete([prompt("x")])
    assert client.n_tokens_ == most_tokens(prompt("x"), 40)


def test_the_estimate_is_shown_and_counts_what_is_open(capsys, tmp_path):
    with serving(echo) as server, client_of(server, journal=tmp_path / "j", verbose=True) as client:
        client.complete(prompts(2))
        capsys.readouterr()
        estimate = client.estimate(prompts(5))
        assert estimate[:3] == (5, 2, 3)
        assert estimate.answer_tokens == 3 * 512
        client.complete(prompts(5))
        shown = capsys.readouterr().err
    assert str(estimate) in shown
    assert KEY not in shown


def test_a_reply_that_is_nested_to_the_limit():
    for depth in range(100, 3000, 50):
        with pytest.raises(Fault):
            read_reply('{"choices": ' + "[" * depth + "]" * depth + "}")


@given(text=st.text(max_size=200))
def test_no_token_is_shorter_than_a_byte(text):
    assert most_tokens(prompt(text), 7) >= len(text.encode("utf-8", "replace")) + 7


# The journal


def test_the_same_prompt_is_sent_once():
    with serving(echo) as server, client_of(server) as client:
        first = client.complete([prompt("a"), prompt("b"), prompt("a")])
        again = client.complete([prompt("b")])
    assert [a.text for a in first] == ["re: a", "re: b", "re: a"]
    assert again[0].text == "re: b"
    assert again[0].n_requests == 0
    assert len(server.requests) == 2


def test_threads_that_ask_the_same_pay_once():
    with serving(echo) as server, client_of(server) as client:
        threads = [Thread(target=client.complete, args=(prompts(3),)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(server.requests) == 3


def test_repeated_prompts_are_not_answered_ones():
    with serving(echo) as server, client_of(server) as client:
        estimate = client.estimate(prompts(1) * 3)
        assert (estimate.n_prompts, estimate.n_answered, estimate.n_requests) == (3, 0, 1)
        client.complete(prompts(1))
        assert client.estimate(prompts(1) * 3).n_answered == 3


def test_keys_tell_apart_what_answers_depend_on():
    base = request_key("m", prompt("a"), {"seed": 0, "temperature": 1})
    assert request_key("m", prompt("a"), {"temperature": 1, "seed": 0}) == base
    others = [
        request_key("n", prompt("a"), {"seed": 0, "temperature": 1}),
        request_key("m", prompt("b"), {"seed": 0, "temperature": 1}),
        request_key("m", [{"role": "system", "content": "a"}], {"seed": 0, "temperature": 1}),
        request_key("m", prompt("a"), {"seed": 1, "temperature": 1}),
        request_key("m", prompt("a"), {"seed": 0}),
    ]
    assert len({base, *others}) == 6


@given(cut=st.integers(1, 400))
def test_a_line_that_was_cut_is_forgotten(cut, tmp_path_factory):
    path = tmp_path_factory.mktemp("journal") / "j"
    journal = Journal(path, {"model": "m"})
    record = {"text": "t", "reason": None, "prompt_tokens": 1, "answer_tokens": 1, "tokens": 2}
    for key in "ab":
        journal.sent(key, 100)
        journal.answered(key, **record)
    journal.close()
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    lines = whole[:-cut].count(b"\n")
    again = Journal(path, {"model": "m"})
    assert set(again.answers) == set("ab"[: lines // 2])
    assert again.n_requests == (lines + 1) // 2
    assert again.n_tokens == lines // 2 * 2 + lines % 2 * 100
    again.sent("c", 5)  # on a line of its own
    again.close()
    assert path.read_bytes().startswith(b"".join(whole.splitlines(True)[:lines]))
    last = Journal(path, {})
    last.close()
    assert last.n_requests == (lines + 1) // 2 + 1


@pytest.mark.parametrize(
    "line",
    [
        "not JSON",
        "[]",
        '{"event": "sent", "key": "k", "bound": -1}',
        '{"event": "sent", "key": "k", "bound": "1"}',
        '{"event": "what", "key": "k", "tokens": 1}',
        '{"event": "answer", "key": "k", "tokens": 1, "text": 3, "reason": null}',
        "[" * 100_000,
    ],
)
def test_a_damaged_journal_says_where(line, tmp_path):
    path = tmp_path / "j"
    path.write_text('{"event": "sent", "key": "k", "bound": 1}\n' + line + "\n")
    with pytest.raises(ValueError, match=r"line 2 of .* is no record of a journal"):
        Journal(path, {})


@pytest.mark.parametrize(
    "content",
    [
        b'{"name": "thesis", "pages": 200}',
        b'{"event": "concert", "key": "C"}',
        b"a note",
        b"\x89PNG\xff\x00",
        b"[1, 2]",
        b"3",
    ],
)
def test_a_file_of_somebody_else_stays_as_it_is(content, tmp_path):
    path = tmp_path / "theirs.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"line 1 of journal='.*' is no record of a journal"):
        Journal(path, {})
    assert path.read_bytes() == content


def test_a_mutated_journal_is_read_or_refused(tmp_path):
    path = tmp_path / "j"
    journal = Journal(path, {"model": "m"})
    record = {"text": "t", "reason": None, "prompt_tokens": 1, "answer_tokens": 1, "tokens": 2}
    journal.sent("a", 100)
    journal.answered("a", **record)
    journal.close()
    for content in mutated(path.read_bytes(), 2000):
        path.write_bytes(content)
        with contextlib.suppress(ValueError):
            again = Journal(path, {})
            again.close()
            assert again.n_requests <= 2
            assert set(map(type, again.answers)) <= {str}


def test_a_full_disk_leaves_whole_lines(tmp_path):
    class Full:
        """Writes half of a line, and then there is no more room."""

        def __init__(self, file):
            self.fileno, self.close, self._file = file.fileno, file.close, file

        def write(self, data):
            if len(data) < 30:
                raise OSError(28, "No space left on device")
            return self._file.write(data[: len(data) // 2])

    journal = Journal(tmp_path / "j", {"model": "m"})
    journal.sent("a", 1)
    journal._file = Full(journal._file)
    with pytest.raises(OSError, match="No space"):
        journal.sent("b", 1)
    journal.close()
    assert (tmp_path / "j").read_text().count("\n") == 1
    again = Journal(tmp_path / "j", {})
    again.close()
    assert again.n_requests == 1


def test_a_journal_belongs_to_one_client(tmp_path):
    with serving(echo) as server:
        with (
            client_of(server, journal=tmp_path / "j"),
            pytest.raises(RuntimeError, match="open elsewhere"),
        ):
            client_of(server, journal=tmp_path / "j")
        client_of(server, journal=tmp_path / "j").close()


# Keys


def test_a_key_is_never_written(tmp_path, capsys, caplog):
    """Not even if the server repeats it: in an error, in an answer, in the name of the model."""

    def answer(body, before):
        if body["messages"][-1]["content"] == "question 0":
            return Faulty(400, f"{'x' * 70} {KEY}")  # where a reason is cut short
        return completion(f"Bearer {KEY}", model=KEY)

    caplog.set_level(0)
    with (
        serving(answer) as server,
        client_of(server, journal=tmp_path / "j", verbose=True) as client,
    ):
        answers = client.complete(prompts(2))
        shown = f"{client!r} {client} {answers}"
    assert KEY[:8] not in shown
    captured = capsys.readouterr()
    shown += captured.out + captured.err + caplog.text
    assert "[key]" in answers[0].reason
    assert answers[1].text == "Bearer [key]"
    for text in (shown, (tmp_path / "j").read_text()):
        assert KEY not in text


@pytest.mark.parametrize("key", ["k3y", "e", "content", "EMPTY", "sk-'quote\"d\\-0123456789"])
def test_keys_of_every_form_are_masked(key, tmp_path):
    escaped = "".join(f"\\u{ord(c):04x}" for c in key)  # how JSON may write it, too

    def answer(body, before):
        if body["messages"][-1]["content"] == "question 0":
            return Faulty(400, f"no such key: {key}")
        if body["messages"][-1]["content"] == "question 1":
            return Faulty(body=json.dumps({"error": "the key"}).replace("the key", escaped))
        return Faulty(body=json.dumps(completion("say: the key")).replace("the key", escaped))

    options = {"api_key": f" {key}\n", "journal": tmp_path / "j", "max_retries": 0}
    with serving(answer) as server:
        for _ in range(2):
            with client_of(server, **options) as client:
                answers = client.complete(prompts(3))
    assert {h["authorization"] for h in server.headers} == {f"Bearer {key}"}
    assert answers[0].reason == "the server says 400: 'no such key: [key]'"
    assert "[key]" in answers[1].reason
    # a short one may be a word like others
    assert answers[2].text == ("say: [key]" if len(key) >= 8 else f"say: {key}")
    assert len(server.requests) == 2 + 2 + 1  # a key in the journal hides no answer
    records = [json.loads(line) for line in (tmp_path / "j").read_text().splitlines()]
    assert {r["event"] for r in records} == {"sent", "fault", "answer"}
    assert all(f"key: {key}" not in str(r) for r in records)
    assert len(key) < 8 or key not in (tmp_path / "j").read_text()


def test_a_server_without_a_key_may_answer_with_any_word():
    with (
        serving(lambda body, before: "none") as server,
        ChatClient("m", base_url=server.url, verbose=False) as client,
    ):
        assert client.complete([prompt("x")])[0].text == "none"


@pytest.mark.parametrize(
    "key", ["sk-0123\n456789", "sk 0123456789", "sk-0123\x00456", "sk-ключ-1234"]
)
def test_a_key_that_no_request_can_carry(key, monkeypatch):
    with pytest.raises(ValueError, match="api_key holds white space, a control") as error:
        ChatClient("m", base_url="http://127.0.0.1:9/v1", api_key=key)
    assert key[:5] not in str(error.value)
    if "\x00" not in key:
        monkeypatch.setenv("OPENAI_API_KEY", key)
        with pytest.raises(ValueError, match="OPENAI_API_KEY holds white space"):
            ChatClient("m")


def test_a_key_that_is_none():
    for key in ("", " \n"):
        with pytest.raises(ValueError, match="api_key is empty: give the key, or for a server"):
            ChatClient("m", base_url="http://127.0.0.1:9/v1", api_key=key)
    with pytest.raises(TypeError, match="api_key must be a str or None, got int"):
        ChatClient("m", api_key=7)


def test_a_password_in_the_address_is_not_shown(tmp_path):
    client = ChatClient("m", base_url="http://me:hunter2-hunter2@127.0.0.1:9/v1")
    assert repr(client) == "ChatClient('m', base_url='http://127.0.0.1:9/v1/')"


def test_the_key_of_the_environment_goes_nowhere_else(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with serving(echo) as server:
        ChatClient("m", base_url=server.url, verbose=False).complete([prompt("x")])
        assert KEY not in str(server.headers)
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        ChatClient("m", verbose=False).complete([prompt("x")])
        assert server.headers[-1]["authorization"] == f"Bearer {KEY}"


def test_headers_of_the_environment_go_nowhere_else(monkeypatch):
    monkeypatch.setenv("OPENAI_ORG_ID", "org-mine")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "project-mine")
    headers = "X-Token: token-mine\nAuthorization: Bearer mine\nuser-agent: agent-mine"
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", headers)
    with serving(echo) as server:
        with client_of(server) as client:
            client.complete([prompt("x")])
        assert "mine" not in str(server.headers)
        assert server.headers[0]["authorization"] == f"Bearer {KEY}"
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.delenv("OPENAI_CUSTOM_HEADERS")
        with ChatClient("m", api_key=KEY, verbose=False) as client:
            client.complete([prompt("x")])
        assert server.headers[1]["openai-organization"] == "org-mine"


# Bad input


def test_without_a_key():
    with pytest.raises(ValueError, match="no OPENAI_API_KEY"):
        ChatClient("m")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": ""}, "model=''"),
        ({"parameters": {"stream": True}}, r"parameters has \['stream'\]"),
        ({"max_concurrency": 0}, "max_concurrency=0 must be at least 1"),
        ({"max_retries": -1}, "max_retries=-1"),
        ({"max_requests": -1}, "max_requests=-1"),
        ({"timeout": -1}, "timeout=-1 must be at least 0"),
        ({"timeout": float("inf")}, "timeout=inf must be at most 2000000 seconds"),
        ({"max_wait": float("nan")}, "max_wait=nan"),
        ({"max_tokens": 10, "parameters": {}}, "no longest"),
    ],
)
def test_bad_parameters(options, message):
    with pytest.raises(ValueError, match=message):
        ChatClient(**{"model": "m", "base_url": "http://127.0.0.1:9/v1", **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_requests": 1.5}, "max_requests=1.5 must be an integer"),
        ({"max_tokens": True}, "max_tokens=True must be an integer"),
        ({"timeout": "1"}, "timeout='1' must be a number"),
        ({"parameters": {"max_tokens": "x"}}, r"parameters\['max_tokens'\]='x' must be an integer"),
        ({"parameters": {"max_completion_tokens": 1.5}}, r"\['max_completion_tokens'\]=1\.5"),
    ],
)
def test_parameters_of_another_type(options, message):
    with pytest.raises(TypeError, match=message):
        ChatClient(**{"model": "m", "base_url": "http://127.0.0.1:9/v1", **options})


def test_the_longest_waits():
    with serving(echo) as server, client_of(server, timeout=2e6, max_wait=1e300) as client:
        assert client.complete([prompt("x")])[0].status == "ok"
    stop = Stop()
    stop.give("enough")
    stop.wait(1e300)


def test_text_that_is_no_unicode_is_sent():
    with serving(echo) as server, client_of(server) as client:
        (answer,) = client.complete([prompt("half \ud800 pair")])
    assert answer.text == "re: half ? pair"
