"""A page to look at latents: one file, no network."""

import base64
import hashlib
import html
from collections.abc import Iterator, Mapping
from importlib.resources import files
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..datasets.store_files import write_whole
from .contexts import LatentContexts
from .promoted import PromotedTokens
from .report_pieces import PER_PIECE, EncoderPieces, Texts, listed, packed

_SCRIPTS = ("pieces.js", "text.js", "list.js", "chart.js", "detail.js", "main.js")
_SHOWN_INLINE = 2**23  # bytes of a page that a notebook shows within itself


class LatentReport:
    """An HTML page that shows what each latent responds to.

    The page is one file that needs no network and no server. It has a list of latents that can
    be searched (by number, explanation or token) and sorted; and for each latent its
    explanation and score, how often and how strongly it fires, the contexts in which it fires
    most strongly and those drawn from each quantile, with tokens shaded by the code, the
    tokens it promotes and the latents that fire with it. With `compare` it shows two encoders
    of the same latents side by side.

    Parameters
    ----------
    contexts : LatentContexts
        From `collect_contexts`.
    name : str, default="Latents"
        What the encoder is called.
    explanations : mapping of int to str, or sequence of n_latents str or None, default=None
        What each latent stands for.
    scores : mapping of int to float, or array-like of shape (n_latents,), default=None
        How good each explanation is; NaN for none. Higher is better.
    promoted : PromotedTokens, default=None
        From `promoted_tokens`.
    compare : LatentReport, default=None
        Another encoder whose latents have the same meaning one by one, for instance the same
        dictionary with refined codes.
    n_top : int, default=10
        Strongest contexts of each latent, at most.
    n_per_quantile : int, default=2
        Contexts of each quantile, at most.

    Raises
    ------
    TypeError
        If a parameter is of another type than said.
    ValueError
        If a parameter does not fit the number of latents, or is out of its range.

    See Also
    --------
    collect_contexts : Contexts of which it shows some.

    Notes
    -----
    The data lie in the page in compressed pieces of 64 latents, which the browser unpacks when
    one of them is opened. No text of the corpus, no explanation and no name is part of the
    page's HTML or script: all of it comes out of these pieces, and becomes text and nothing
    else. A Content-Security-Policy allows the page's own script alone, and no connection.

    It needs a browser from 2023 or later (Chrome 123, Firefox 120, Safari 17.5).

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> from sparsecode_estimators.interpret import LatentReport, collect_contexts
    >>> tokens = "the cat sat on the mat".split()
    >>> codes = np.array([[1.0, 0], [0, 0], [0, 2.0], [0, 0], [3.0, 0], [0, 0]])
    >>> contexts = collect_contexts(codes, tokens, [0] * 6, random_state=0)
    >>> report = LatentReport(contexts, name="SAE", explanations={0: "the article"})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = report.save(folder + "/latents.html")
    ...     path.read_text().startswith("<!doctype html>")
    True
    """

    def __init__(
        self,
        contexts: LatentContexts,
        *,
        name: str = "Latents",
        explanations: Any = None,
        scores: Any = None,
        promoted: PromotedTokens | None = None,
        compare: "LatentReport | None" = None,
        n_top: int = 10,
        n_per_quantile: int = 2,
    ) -> None:
        _check_kind("contexts", contexts, LatentContexts, "make it with collect_contexts")
        _check_kind("name", name, str, "give the encoder's name")
        self.contexts, self.name = contexts, name
        self.explanations = _explanations(explanations, contexts.n_latents)
        self.scores = _scores(scores, contexts.n_latents)
        self.promoted = _checked_promoted(promoted, contexts.n_latents)
        self.compare = _checked_other(compare, contexts.n_latents)
        for parameter, value in (("n_top", n_top), ("n_per_quantile", n_per_quantile)):
            if not isinstance(value, Integral) or value < 0:
                raise ValueError(f"{parameter}={value!r} must be an integer of at least 0.")
        self.n_top, self.n_per_quantile = int(n_top), int(n_per_quantile)

    def save(self, path: str | Path) -> Path:
        """Write the page.

        Parameters
        ----------
        path : str or Path
            It is written under another name and renamed, so a page that is there is replaced
            by a whole one or stays as it is. Its folder must exist.

        Returns
        -------
        path : Path

        Raises
        ------
        FileNotFoundError
            If there is no such folder.
        OSError
            If the file cannot be written.
        """
        path = Path(path)
        if not path.parent.is_dir():
            raise FileNotFoundError(
                f"path={str(path)!r}: there is no folder {str(path.parent)!r}; make it first."
            )
        write_whole(path, (part.encode() for part in self._page()))
        return path

    def _repr_html_(self) -> str:
        """The page within a notebook, if it is small."""
        parts, size = [], 0
        for part in self._page():
            parts.append(part)
            size += len(part)
            if size > _SHOWN_INLINE:
                name = html.escape(self.name)
                return (
                    f"<p>{name}: {self.contexts.n_latents} latents. Open them with save(path).</p>"
                )
        page = html.escape("".join(parts), quote=True)
        return (
            f'<iframe sandbox="allow-scripts" srcdoc="{page}" '
            'style="width: 100%; height: 640px; border: 1px solid #8884"></iframe>'
        )

    def __repr__(self) -> str:
        return f"LatentReport(name={self.name!r}, n_latents={self.contexts.n_latents})"

    def _page(self) -> Iterator[str]:
        """The page in parts."""
        folder = files(__package__) / "report_page"
        style = (folder / "page.css").read_text("utf-8")
        scripts = [(folder / name).read_text("utf-8") for name in _SCRIPTS]
        script = '"use strict";\n' + "\n".join(scripts)
        before, after = (folder / "page.html").read_text("utf-8").split("{{pieces}}")
        filled = before.replace("{{style_hash}}", _source_hash(style))
        filled = filled.replace("{{script_hash}}", _source_hash(script))
        yield filled.replace("{{style}}", style)
        yield from self._pieces()
        yield after.replace("{{script}}", script)

    def _pieces(self) -> Iterator[str]:
        reports = [self] if self.compare is None else [self, self.compare]
        texts = Texts()
        columns = []
        for number, report in enumerate(reports):
            encoder = EncoderPieces(
                report.contexts,
                report.promoted,
                texts,
                n_top=report.n_top,
                n_per_quantile=report.n_per_quantile,
            )
            for piece, details in enumerate(encoder.details()):
                yield _element(f"latents-{number}-{piece}", details)
            column = listed(report.contexts, report.explanations, report.scores)
            columns.append({**column, "tokens": encoder.listed_tokens})
        yield _element("texts", texts.all())
        yield _element("columns", columns)
        yield _element("head", self._head(reports))

    def _head(self, reports: list["LatentReport"]) -> dict[str, Any]:
        return {
            "n_latents": self.contexts.n_latents,
            "per_piece": PER_PIECE,
            "edges": self.contexts.histogram_edges.tolist(),
            "encoders": [
                {
                    "name": report.name,
                    "n_tokens": report.contexts.n_tokens,
                    "n_quantiles": report.contexts.n_quantiles,
                    "n_dead": int(np.sum(report.contexts.firing_rate == 0)),
                    "l0": float(report.contexts.firing_rate.sum()),
                }
                for report in reports
            ],
        }


def _element(name: str, value: Any) -> str:
    return f'<script type="application/gzip" id="{name}">{packed(value)}</script>\n'


def _source_hash(source: str) -> str:
    """How a Content-Security-Policy names what it allows."""
    return "sha256-" + base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()


# Checks: each names the parameter, its value and the remedy.


def _check_kind(name: str, value: Any, kind: type, remedy: str) -> None:
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be a {kind.__name__}, got {type(value).__name__}; {remedy}.")


def _by_latent(name: str, values: Any, n_latents: int, empty: Any) -> list[Any]:
    """One value for each latent from a mapping, a sequence or nothing."""
    if values is None:
        return [empty] * n_latents
    if isinstance(values, Mapping):
        for latent in values:
            if not isinstance(latent, Integral) or not 0 <= int(latent) < n_latents:
                raise ValueError(
                    f"{name} has the key {latent!r}, but keys must be integers from 0 to "
                    f"{n_latents - 1}."
                )
        return [values.get(latent, empty) for latent in range(n_latents)]
    if isinstance(values, str) or not hasattr(values, "__len__"):
        raise TypeError(
            f"{name} must be a dict from latents to values or a list of {n_latents}, got "
            f"{type(values).__name__}."
        )
    if len(values) != n_latents:
        raise ValueError(
            f"{name} has {len(values)} entries, but there are {n_latents} latents: give one for "
            "each, or a dict."
        )
    return list(values)


def _explanations(explanations: Any, n_latents: int) -> list[str | None]:
    texts = _by_latent("explanations", explanations, n_latents, None)
    for latent, text in enumerate(texts):
        if not (text is None or isinstance(text, str)):
            raise TypeError(
                f"explanations[{latent}] must be a str or None, got {type(text).__name__}."
            )
    return texts


def _scores(scores: Any, n_latents: int) -> NDArray[np.float64]:
    values = _by_latent("scores", scores, n_latents, np.nan)
    try:
        array = np.array([np.nan if v is None else v for v in values], dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(f"scores must be numbers, NaN or None ({error}).") from error
    if np.isinf(array).any():
        raise ValueError(
            f"scores[{int(np.flatnonzero(np.isinf(array))[0])}] is infinite; use NaN for none."
        )
    return array


def _checked_promoted(promoted: Any, n_latents: int) -> PromotedTokens | None:
    if promoted is not None:
        _check_kind("promoted", promoted, PromotedTokens, "make it with promoted_tokens")
        if len(promoted.raised) != n_latents:
            raise ValueError(
                f"promoted is for {len(promoted.raised)} atoms, but there are {n_latents} latents."
            )
    return promoted


def _checked_other(compare: Any, n_latents: int) -> "LatentReport | None":
    if compare is not None:
        _check_kind("compare", compare, LatentReport, "make one of the other encoder's contexts")
        if compare.compare is not None:
            raise ValueError("compare has another report in it; two encoders are compared.")
        if compare.contexts.n_latents != n_latents:
            raise ValueError(
                f"compare has {compare.contexts.n_latents} latents, but contexts {n_latents}: "
                "they are compared one by one."
            )
    return compare
