"""The snippets of the README and of the documentation run, each page from top to bottom."""

import importlib.util
import json
import re
import textwrap
from pathlib import Path

import pytest
from chat_server import serving

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
SNIPPET = re.compile(r"^( *)\.\. code-block:: python\n\n((?:\1   .*\n|\n)+)", re.MULTILINE)
SERVER = "http://localhost:8000/v1"  # in the page on interpretation


def snippets(page):
    """What a page would have its readers run."""
    text = page.read_text()
    if page.suffix == ".md":
        return re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    return [textwrap.dedent(body) for _, body in SNIPPET.findall(text)]


TEXTS = [ROOT / "README.md", *sorted(DOCS.glob("*.rst")), *sorted(DOCS.glob("user_guide/*.rst"))]
PAGES = [page for page in TEXTS if snippets(page)]


def absent(snippet):
    """A peer that a snippet is about, if it is not installed."""
    peers = [name for name in ("sae_lens", "ray") if re.search(rf"(from|import) {name}\b", snippet)]
    return next((name for name in peers if not importlib.util.find_spec(name)), None)


def answer(body, before):
    """Explains every latent alike, and says that it fires in every second excerpt."""
    n = len(re.findall(r"^Excerpt \d+: ", body["messages"][-1]["content"], re.MULTILINE))
    return json.dumps({"fires": [i % 2 for i in range(n)]} if n else {"explanation": "a word"})


@pytest.fixture
def surroundings(monkeypatch, tmp_path, no_window):
    """An empty folder, the environment of a run of one process, and the server of the guide."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    group = {"RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 0}
    for name, value in group.items():
        monkeypatch.setenv(name, str(value))
    with serving(answer) as server:
        yield server.url


def test_the_pages_are_found():
    assert len(PAGES) > 12
    assert any("GridSearchCV" in snippet for snippet in snippets(ROOT / "README.md"))
    for page in PAGES:
        text = page.read_text()
        marks = text.count("```python") if page.suffix == ".md" else text.count("block:: python")
        assert len(snippets(page)) == marks


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_snippets_run(page, surroundings, capsys):
    for name in ("transformers", "openai", "matplotlib", "joblib"):
        pytest.importorskip(name)
    namespace: dict = {"__name__": "page"}
    for i, snippet in enumerate(snippets(page)):
        if not absent(snippet):
            snippet = snippet.replace(SERVER, surroundings)
            exec(compile(snippet, f"{page.name}, snippet {i}", "exec"), namespace)
