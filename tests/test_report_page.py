"""The page of a report in a real browser."""

import time

import numpy as np
import pytest
from browser import CHROMIUM, DRIVER, Browser
from scipy import sparse
from test_report import HOSTILE

from sparsecode_estimators.interpret import LatentReport, collect_contexts, promoted_tokens

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver"),
]
READY = "document.documentElement.dataset.ready"
SHOWN = "document.querySelector('.heading h1')?.textContent"
WORDS = [f" word{i}" for i in range(2000)]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    opened = Browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


def contexts_of(n_latents, n_tokens, k, seed, texts=WORDS):
    """Each latent fires on some tokens of its own and a few others."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, len(texts), n_tokens)
    latents = (ids[:, None] * 7 + rng.integers(0, 12, (n_tokens, k)) * 31) % (n_latents - 1)
    codes = sparse.csr_array(
        (rng.exponential(size=n_tokens * k), latents.ravel(), np.arange(n_tokens + 1) * k),
        shape=(n_tokens, n_latents),
    )
    codes.sum_duplicates()
    return collect_contexts(codes, ids, np.arange(n_tokens) // 300, decode=texts, random_state=0)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    rng = np.random.default_rng(4)
    contexts = contexts_of(300, 20_000, 8, 0)
    promoted = promoted_tokens(rng.standard_normal((300, 8)), rng.standard_normal((2000, 8)), WORDS)
    made = LatentReport(
        contexts,
        name="SAE",
        explanations={i: f"fires on things of kind {i % 10}, and zebras" for i in range(0, 300, 3)},
        scores={i: i / 300 for i in range(0, 300, 3)},
        promoted=promoted,
        compare=LatentReport(contexts_of(300, 20_000, 8, 1), name="ITO"),
    )
    return made.save(tmp_path_factory.mktemp("small") / "report.html"), contexts


def rows(browser):
    script = "return [...document.querySelectorAll('.row .id')].map((cell) => +cell.textContent)"
    return browser.run(script)


def type_into_search(browser, text):
    browser.press("/")
    assert browser.run("return document.activeElement.id") == "search"
    browser.run("document.activeElement.value = ''")
    browser.press(*text)


def test_opens(browser, small):
    path, contexts = small
    browser.resize(1400, 900)
    browser.open(path)
    browser.wait(READY)
    assert browser.wait(SHOWN) == "Latent 0"
    assert browser.run("return document.title") == "SAE | ITO"
    assert browser.run("return document.querySelectorAll('.encoder').length") == 2
    text = browser.run("return document.querySelector('.encoder .contexts p').textContent")
    assert text == "".join(contexts.top(0)[0].tokens).strip()
    first = "document.querySelector('.encoder .contexts p')"
    shaded = browser.run(f"return {first}.querySelectorAll('.fires').length")
    assert shaded == np.count_nonzero(contexts.top(0)[0].activations)
    assert browser.run("return document.querySelectorAll('.histogram rect').length") > 4
    assert browser.run("return document.querySelectorAll('.promoted li').length") == 20
    assert browser.complaints() == []


def test_search(browser, small):
    path, contexts = small
    browser.open(path)
    browser.wait(READY)
    type_into_search(browser, "123")
    assert rows(browser)[0] == 123
    type_into_search(browser, "zebras kind 7,")
    assert rows(browser) == [i for i in range(0, 300, 3) if i % 10 == 7]
    assert browser.run("return document.getElementById('count').textContent") == "10 of 300 latents"
    best = contexts.top(5)[0]
    type_into_search(browser, best.tokens[best.center].strip())
    assert 5 in rows(browser)
    type_into_search(browser, "nothing like it")
    assert rows(browser) == []
    browser.press("Escape")
    assert rows(browser)[:3] == [0, 1, 2]


@pytest.mark.parametrize(("by", "values"), [("rate", "firing_rate"), ("max", "max_activation")])
def test_sort(browser, small, by, values):
    path, contexts = small
    browser.open(path)
    browser.wait(READY)
    button = f"document.querySelector('#sorting [data-by={by}]')"
    column = getattr(contexts, values)
    for direction in (-1, 1):
        browser.run(f"{button}.click()")
        shown = column[rows(browser)[:8]]
        np.testing.assert_allclose(shown, direction * np.sort(direction * column)[:8], rtol=1e-3)
    browser.run("document.querySelector('#sorting [data-by=score]').click()")
    assert rows(browser)[:3] == [297, 294, 291]


def test_keys(browser, small):
    browser.open(small[0])
    browser.wait(READY)
    browser.press("/")
    browser.press("ArrowDown")
    assert browser.run("return document.activeElement.id") == "list"
    browser.press("ArrowDown", "ArrowDown", "ArrowUp", "ArrowDown")
    assert browser.wait(f"{SHOWN} === 'Latent 2'")
    active = "document.getElementById(document.activeElement.getAttribute('aria-activedescendant'))"
    assert browser.run(f"return {active}.getAttribute('aria-selected')") == "true"
    assert browser.run(f"return {active}.getAttribute('aria-posinset')") == "3"
    browser.press("End")
    assert browser.wait(f"{SHOWN} === 'Latent 299'")
    assert 299 in rows(browser)
    assert "no token" in browser.run("return document.querySelector('.facts').textContent")
    outline = "return getComputedStyle(document.activeElement).outlineStyle"
    assert browser.run(outline) == "solid"
    browser.press("Enter")
    assert browser.run("return document.activeElement.id") == "detail"
    browser.press("Escape")
    assert browser.run("return document.activeElement.id") == "list"
    assert browser.run("return location.hash") == "#299"


def test_by_address_and_neighbour(browser, small):
    path, _ = small
    browser.open(path, "#42")
    browser.wait(READY)
    assert browser.wait(SHOWN) == "Latent 42"
    assert 42 in rows(browser)
    near = browser.run("return document.querySelector('.near .id').textContent")
    browser.run("document.querySelector('.near button').click()")
    assert browser.wait(f"{SHOWN} === 'Latent {near}'")


def test_narrow(browser, small):
    browser.resize(390, 800)
    browser.open(small[0])
    browser.wait(READY)
    is_shown = "return getComputedStyle(document.getElementById('detail')).display"
    assert browser.run(is_shown) == "none"
    browser.run("document.querySelectorAll('.row')[3].click()")
    assert browser.wait(f"{SHOWN} === 'Latent 3'")
    assert browser.run(is_shown) == "block"
    overflow = "return document.documentElement.scrollWidth - innerWidth"
    assert browser.run(overflow) <= 0
    browser.run("document.getElementById('back').click()")
    assert browser.run(is_shown) == "none"
    browser.resize(1400, 900)


def test_hostile_text_stays_text(browser, tmp_path):
    contexts = contexts_of(40, 4000, 4, 2, texts=HOSTILE)
    logits = np.random.default_rng(1).standard_normal((40, 3))
    promoted = promoted_tokens(
        logits, np.random.default_rng(2).standard_normal((len(HOSTILE), 3)), HOSTILE
    )
    made = LatentReport(
        contexts,
        name=HOSTILE[0],
        explanations=[HOSTILE[i % len(HOSTILE)] for i in range(40)],
        promoted=promoted,
        compare=LatentReport(contexts, name=HOSTILE[1]),
    )
    browser.open(made.save(tmp_path / "hostile.html"))
    browser.wait(READY)
    detail = "document.getElementById('detail')"
    wide = f"{detail}.scrollWidth - {detail}.clientWidth"
    for latent in range(40):
        browser.run(f"openLatent({latent})")
        browser.wait(f"{SHOWN} === 'Latent {latent}'")
        assert browser.run("return window.hacked") is None
        assert browser.run("return document.querySelectorAll('img, iframe, a').length") == 0
        assert browser.run(f"return {wide}") <= 0
    assert browser.run("return document.querySelectorAll('script:not([type])').length") == 1
    texts = browser.run("return document.getElementById('detail').textContent")
    assert "<img src=x onerror=window.hacked=1>" in texts
    assert browser.complaints() == []
    with pytest.raises(RuntimeError, match="TrustedHTML"):
        browser.run("document.body.innerHTML = '<b>'")


def test_sixteen_thousand_latents_open_in_two_seconds(browser, tmp_path):
    n = 16_384
    contexts = contexts_of(n, 40_000, 24, 3, texts=[f" word{i}" for i in range(9000)])
    explanations = [f"explanation of latent {i}, words of some kind" for i in range(n)]
    made = LatentReport(
        contexts, name="Large", explanations=explanations, scores=np.linspace(0, 1, n)
    )
    path = made.save(tmp_path / "large.html")
    took = []
    for _ in range(3):
        browser.open(path)
        browser.wait(READY)
        browser.wait(SHOWN)
        took.append(int(browser.run(f"return {READY}")))
    print(f"{path.stat().st_size / 1e6:.0f} MB, ready after {took} ms")  # noqa: T201
    assert min(took) < 2000
    assert len(rows(browser)) < 60
    # a key, a search and a jump through the list are answered in a moment
    for action in (
        "list.select(9000)",
        "document.querySelector('#sorting [data-by=score]').click()",
        "document.getElementById('search').value = 'word12'; refresh()",
        "document.getElementById('list').scrollTop = 5e5; list.draw()",
    ):
        spent = browser.run(
            f"const begin = performance.now(); {action}; return performance.now() - begin"
        )
        assert spent < 500, action
    begin = time.monotonic()
    path.unlink()
    browser.run("openLatent(12345)")
    browser.wait(f"{SHOWN} === 'Latent 12345'")
    assert time.monotonic() - begin < 2


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours(browser, small, tmp_path, scheme):
    """Both themes, by the system's wish and by the button; text stands out from its ground."""
    browser.resize(1400, 900, scheme)
    browser.open(small[0], "#3")
    browser.wait(READY)
    browser.wait(SHOWN)
    grounds = {}
    for wanted in ("auto", "light", "dark"):
        browser.run(
            f"while (document.documentElement.dataset.theme !== '{wanted}')"
            " document.getElementById('theme').click()"
        )
        grounds[wanted] = luminance(browser, ":root", "backgroundColor")
        assert contrast(grounds[wanted], luminance(browser, ":root", "color")) > 7
        assert contrast(grounds[wanted], luminance(browser, "#summary", "color")) > 4.5
    assert grounds["auto"] == grounds[scheme]
    assert grounds["dark"] < 0.05
    assert grounds["light"] > 0.8
    browser.run("localStorage.clear()")
    assert browser.picture(tmp_path / "page.png").stat().st_size > 10_000


def luminance(browser, selector, name):
    """Relative luminance by WCAG 2.2."""
    script = f"return getComputedStyle(document.querySelector('{selector}')).{name}"
    channels = [int(part) / 255 for part in browser.run(script)[4:-1].split(",")]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


def contrast(a, b):
    return (max(a, b) + 0.05) / (min(a, b) + 0.05)
