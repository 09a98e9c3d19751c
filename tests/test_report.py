"""The page of a report: what is in it, and what is not."""

import base64
import gzip
import hashlib
import html
import json
import random
import re
from itertools import chain

import numpy as np
import pytest

from sparsecode_estimators.interpret import (
    LatentReport,
    PromotedTokens,
    collect_contexts,
    report,
)

HOSTILE = [
    "</script><script>window.hacked=1</script>",
    "<img src=x onerror=window.hacked=1>",
    "<svg/onload=window.hacked=1>",
    "]]><!--",
    "<!--<script>",
    "\"'`&quot;&#x3C;",
    "javascript:window.hacked=1",
    "{{pieces}}{{script}}",
    "\u2028\u2029\ufeff\u202e",
    "\ud800",
    "\udc00 a \ud83d",
    "\x00\x01\x7f",
    "\r\n\t",
    "",
    " ",
    "é漢字🙂",
    "\\u003cscript\\u003e",
]


def contexts_of(tokens, n_latents=3, seed=0, **options):
    codes = np.random.default_rng(seed).random((len(tokens), n_latents))
    codes[:, -1] = 0
    documents = np.arange(len(tokens)) // 40
    return collect_contexts(codes, tokens, documents, random_state=0, **options)


def page_of(made, tmp_path):
    return made.save(tmp_path / "page.html").read_text("utf-8")


def unpacked(page):
    """What the page's script gets to see."""
    pieces = re.findall(r'<script type="application/gzip" id="([\w-]+)">([^<]*)</script>', page)
    return {name: json.loads(gzip.decompress(base64.b64decode(text))) for name, text in pieces}


def without_pieces(page):
    return re.sub(r'(application/gzip" id="[\w-]+">)[A-Za-z0-9+/=]+', r"\1", page)


def test_the_page_holds_what_the_contexts_say(tmp_path):
    rng = np.random.default_rng(3)
    tokens = [f"w{i}" for i in rng.integers(0, 30, 400)]
    codes = np.where(rng.random((400, 130)) < 0.1, rng.standard_normal((400, 130)), 0)
    contexts = collect_contexts(codes, tokens, np.arange(400) // 100, random_state=0)
    names = np.array([[f"t{i}", f"u{i}"] for i in range(130)], dtype=object)
    promoted = PromotedTokens(names, np.ones((130, 2)), names, -np.ones((130, 2)))
    made = LatentReport(
        contexts,
        name="One",
        explanations={5: "five"},
        scores={5: 0.25, 6: np.nan},
        promoted=promoted,
        n_top=4,
    )
    data = unpacked(page_of(made, tmp_path))
    texts, (columns,) = data["texts"], data["columns"]
    assert data["head"]["n_latents"] == 130
    assert [encoder["name"] for encoder in data["head"]["encoders"]] == ["One"]
    assert columns["explanation"][5] == "five"
    assert columns["score"][4:7] == [None, 0.25, None]
    np.testing.assert_allclose(columns["rate"], contexts.firing_rate, rtol=1e-3)
    np.testing.assert_allclose(columns["max"], contexts.max_activation, rtol=1e-3)
    for latent in range(130):
        detail = data[f"latents-0-{latent // 64}"][latent % 64]
        written = [*detail["top"], *chain.from_iterable(detail["quantiles"])]
        drawn = (contexts.quantile(latent, q, 2) for q in range(10))
        expected = [*contexts.top(latent, 4), *chain.from_iterable(drawn)]
        assert len(written) == len(expected)
        for (ids, firing, center, document, row), context in zip(written, expected, strict=True):
            assert tuple(texts[i] for i in ids) == context.tokens
            dense = np.zeros(len(ids))
            dense[firing[::2]] = firing[1::2]
            np.testing.assert_allclose(dense, context.activations, rtol=1e-3)
            assert (center, document, row) == (context.center, context.document, context.row)
        first, counts = detail["histogram"]
        assert sum(counts) == contexts.histogram[latent].sum()
        assert contexts.histogram[latent, first] == counts[0]
        assert [texts[i] for i, _ in detail["raised"]] == [f"t{latent}", f"u{latent}"]
        assert [logit for _, logit in detail["lowered"]] == [-1, -1]
        centers = [context.tokens[context.center] for context in expected[:4]]
        assert {texts[i] for i in columns["tokens"][latent]} == set(centers)


def test_two_encoders(tmp_path):
    tokens = list("abcdefgh" * 10)
    other = LatentReport(contexts_of(tokens, seed=1), name="ITO", scores=[0.5, 0.25, 0])
    made = LatentReport(contexts_of(tokens), name="SAE", compare=other)
    data = unpacked(page_of(made, tmp_path))
    assert [encoder["name"] for encoder in data["head"]["encoders"]] == ["SAE", "ITO"]
    assert data["columns"][1]["score"] == [0.5, 0.25, 0]
    assert {"latents-0-0", "latents-1-0"} <= set(data)


def test_nothing_of_the_corpus_is_part_of_the_page(tmp_path):
    """The page is the same, whatever its tokens, explanations and names, but for its data."""
    plain = page_of(LatentReport(contexts_of(["a"] * 60)), tmp_path)
    contexts = contexts_of(HOSTILE * 4)
    promoted = np.array([HOSTILE[:2]] * 3, dtype=object)
    made = LatentReport(
        contexts,
        name=HOSTILE[0],
        explanations=HOSTILE[:3],
        promoted=PromotedTokens(promoted, np.ones((3, 2)), promoted, np.ones((3, 2))),
    )
    page = page_of(made, tmp_path)
    assert without_pieces(page) == without_pieces(plain)
    data = unpacked(page)
    assert set(HOSTILE) <= set(data["texts"])
    assert data["columns"][0]["explanation"] == HOSTILE[:3]
    assert data["head"]["encoders"][0]["name"] == HOSTILE[0]


def test_ten_thousand_mutated_tokens(tmp_path):
    """Cut, joined, doubled and turned at random: each comes back as it was, and as data."""
    rng = random.Random(7)
    tokens = []
    for _ in range(10_000):
        text = "".join(rng.choices(HOSTILE, k=rng.randint(1, 3)))
        for _ in range(rng.randint(0, 4)):
            place = rng.randint(0, len(text))
            character = chr(rng.choice([rng.randrange(128), rng.randrange(0x110000), 60, 34, 0]))
            text = rng.choice(
                [text[:place] + character + text[place:], text[:place], text[place:], text[::-1]]
            )
        tokens.append(text)
    codes = np.zeros((10_000, 64))
    codes[np.arange(10_000), np.arange(10_000) % 64] = 1 + np.arange(10_000)
    contexts = collect_contexts(
        codes, tokens, np.arange(10_000), n_top=200, n_before=0, n_after=0, random_state=0
    )
    page = page_of(LatentReport(contexts, n_top=200), tmp_path)
    plain = page_of(LatentReport(contexts_of(["a"] * 60)), tmp_path)
    assert without_pieces(page) == without_pieces(plain)
    assert {in_utf16(token) for token in tokens} <= set(unpacked(page)["texts"])


def in_utf16(text):
    """As JavaScript has it: two halves of a character that come to stand side by side are one."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")


def test_the_security_policy_allows_the_script_and_nothing_else(tmp_path):
    page = page_of(LatentReport(contexts_of(["a"] * 60)), tmp_path)
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    (style,) = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    for name, source in (("script-src", script), ("style-src", style)):
        digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
        assert rules[name] == f"'sha256-{digest}'"
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|fetch\(", page)
    assert "http:" not in page.replace("http://www.w3.org/2000/svg", "")
    assert "https:" not in page


def test_saved_whole_or_not_at_all(tmp_path, monkeypatch):
    made = LatentReport(contexts_of(["a"] * 60))
    path = tmp_path / "page.html"
    path.write_text("before")

    def breaks(value):
        raise OSError("no space left")

    monkeypatch.setattr(report, "packed", breaks)
    with pytest.raises(OSError, match="no space"):
        made.save(path)
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]
    monkeypatch.undo()
    assert made.save(str(path)) == path
    assert path.read_bytes() == made.save(tmp_path / "again.html").read_bytes()
    with pytest.raises(FileNotFoundError, match="make it first"):
        made.save(tmp_path / "missing" / "page.html")


def test_in_a_notebook(monkeypatch):
    made = LatentReport(contexts_of(HOSTILE * 4), name="<b>")
    shown = made._repr_html_()
    (page,) = re.findall(r'srcdoc="([^"]*)"', shown)
    assert html.unescape(page) == "".join(made._page())
    assert 'sandbox="allow-scripts"' in shown
    monkeypatch.setattr(report, "_SHOWN_INLINE", 10)
    assert made._repr_html_().startswith("<p>&lt;b&gt;: 3 latents")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"contexts": 3}, "contexts must be a LatentContexts"),
        ({"name": None}, "name must be a str"),
        ({"explanations": ["a"]}, "explanations has 1 entries"),
        ({"explanations": "abc"}, "explanations must be a dict"),
        ({"explanations": {3: "a"}}, "explanations has the key 3"),
        ({"explanations": [1, 2, 3]}, r"explanations\[0\] must be a str"),
        ({"scores": {"a": 1}}, "scores has the key 'a'"),
        ({"scores": [1, 2, np.inf]}, r"scores\[2\] is infinite"),
        ({"scores": ["a", 0, 0]}, "scores must be numbers"),
        ({"promoted": 1}, "promoted must be a PromotedTokens"),
        ({"compare": 1}, "compare must be a LatentReport"),
        ({"n_top": -1}, "n_top=-1"),
    ],
)
def test_bad_input(change, message):
    call = {"contexts": contexts_of(["a"] * 60), **change}
    with pytest.raises((ValueError, TypeError), match=message):
        LatentReport(call.pop("contexts"), **call)


def test_reports_that_cannot_be_compared():
    one = LatentReport(contexts_of(["a"] * 60))
    with pytest.raises(ValueError, match="compare has 4 latents"):
        LatentReport(one.contexts, compare=LatentReport(contexts_of(["a"] * 60, 4)))
    with pytest.raises(ValueError, match="two encoders"):
        LatentReport(one.contexts, compare=LatentReport(one.contexts, compare=one))
    empty = np.empty((4, 1), dtype=object)
    with pytest.raises(ValueError, match="promoted is for 4 atoms"):
        LatentReport(one.contexts, promoted=PromotedTokens(empty, empty, empty, empty))
