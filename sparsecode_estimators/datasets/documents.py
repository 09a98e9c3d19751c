"""Documents from wherever they are: lists, iterators, data sets, files and folders."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

Document = str | list[Mapping[str, Any]]  # a text, or the messages of a conversation

_LINES = (".jsonl", ".ndjson")
_SUFFIXES = (".txt", ".md", ".rst", *_LINES)
_ENCODING = "utf-8-sig"  # editors of Windows begin a file with a mark
_WANTED = "a list of str, another iterable of them, or a pathlib.Path"


def read_documents(texts: Any, column: str) -> Iterator[Document]:
    """Documents one after the other, each checked.

    Parameters
    ----------
    texts : iterable or path
        Of str, of conversations (lists of messages with "role" and "content"), or of mappings
        that hold one of these under `column`, as the rows of a data set do. A path is a file:
        of JSON lines, each a document, or else of one text; or a folder of such files, which
        are read in the order of their names.
    column : str

    Returns
    -------
    iterator of str or list of dict
        Lists are checked at once, all else as it is read.

    Raises
    ------
    TypeError
        If `texts` is something else, or one of its items is.
    ValueError
        If a row has no such column, a text holds half of a surrogate pair, a file is not UTF-8
        or has a line that is not JSON, or a folder has no file of text.
    FileNotFoundError
        If there is nothing at the path.
    """
    if isinstance(texts, (str, bytes)):
        raise TypeError(
            f"texts must be {_WANTED}, got one {type(texts).__name__}; for a single text "
            "write texts=[text], for a file or a folder texts=pathlib.Path(name)."
        )
    if isinstance(texts, os.PathLike):
        return _from_files(_files(Path(texts)), column)
    if isinstance(texts, Mapping) or hasattr(texts, "columns"):
        raise TypeError(
            f"texts must be {_WANTED}, got {type(texts).__name__}; take one split of a data set, "
            'as in data["train"], or one column of a frame, as in frame["text"].'
        )
    if not isinstance(texts, Iterable):
        raise TypeError(f"texts must be {_WANTED}, got {type(texts).__name__}.")
    checked = (_checked(item, column, f"texts[{i}]") for i, item in enumerate(texts))
    return iter(list(checked)) if isinstance(texts, (list, tuple, np.ndarray)) else checked


def _checked(item: Any, column: str, name: str) -> Document:
    """A document, taken out of its row."""
    if isinstance(item, Mapping):
        if column not in item:
            raise ValueError(
                f"{name} has no column {column!r}, it has {sorted(map(str, item))}; name the one "
                "with the text by text_column=."
            )
        return _checked_entry(item[column], f"{name}[{column!r}]")
    return _checked_entry(item, name)


def _checked_entry(item: Any, name: str) -> Document:
    if isinstance(item, str):
        _check_characters(item, name)
        return item
    if isinstance(item, list):
        for message in item:
            if not (isinstance(message, Mapping) and {"role", "content"} <= set(message)):
                raise TypeError(
                    f'{name} is a list, but not of messages with "role" and "content"; give a '
                    "str or a conversation."
                )
            if isinstance(message["content"], str):
                _check_characters(message["content"], name)
        return item
    raise TypeError(f"{name} must be a str, got {type(item).__name__}; decode or drop it.")


def _check_characters(text: str, name: str) -> None:
    """Refuse halves of surrogate pairs: they are no characters, and no tokenizer takes them."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{name} holds half of a surrogate pair (character {error.start}), which is no text; "
            'replace it, as in text.encode("utf-8", "replace").decode(), or drop the document.'
        ) from error


def _files(path: Path) -> list[Path]:
    """The file, or those of the folder; each once, though links may show it several times."""
    if not path.exists():
        raise FileNotFoundError(f"texts={str(path)!r} does not exist; check the path.")
    if path.is_file():
        return [path]
    found: dict[Path, Path] = {}
    for file in sorted(path.rglob("*"), key=lambda file: file.relative_to(path).as_posix()):
        if file.suffix.lower() in _SUFFIXES and file.is_file():
            found.setdefault(file.resolve(), file)
    if not found:
        raise ValueError(
            f"texts={str(path)!r} is a folder without files of text ({', '.join(_SUFFIXES)}); "
            "name another folder, or one file."
        )
    return list(found.values())


def _from_files(files: list[Path], column: str) -> Iterator[Document]:
    for file in files:
        try:
            if file.suffix.lower() in _LINES:
                yield from _from_lines(file, column)
            else:
                yield file.read_text(encoding=_ENCODING)
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{str(file)!r} is not UTF-8 ({error.reason} at byte {error.start}); convert it."
            ) from error


def _from_lines(file: Path, column: str) -> Iterator[Document]:
    with file.open(encoding=_ENCODING) as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            name = f"{str(file)!r}, line {number},"
            try:
                item = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{name} is not JSON ({error}); mend or drop it.") from error
            yield _checked(item, column, name)
