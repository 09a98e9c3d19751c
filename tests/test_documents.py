"""Documents from lists, iterators, data sets, files and folders."""

import json

import numpy as np
import pytest

from sparsecode_estimators.datasets.documents import read_documents

TEXTS = ["Return True.", "", "Größe\n日本語 ", "x"]
CHAT = [{"role": "user", "content": "Which?"}, {"role": "assistant", "content": "That."}]


def read(texts, column="text"):
    return list(read_documents(texts, column))


@pytest.mark.parametrize("make", [list, tuple, iter, np.array, lambda t: (s for s in t)])
def test_any_iterable(make):
    assert read(make(TEXTS)) == TEXTS


def test_rows_of_a_data_set_and_conversations():
    assert read([{"text": "a", "id": 1}, "b", CHAT, {"text": CHAT}]) == ["a", "b", CHAT, CHAT]
    assert read(({"body": text} for text in TEXTS), "body") == TEXTS


def test_a_data_set_of_hugging_face():
    datasets = pytest.importorskip("datasets")
    dataset = datasets.Dataset.from_dict({"text": TEXTS, "chat": [CHAT] * 4, "id": range(4)})
    assert read(dataset) == read(dataset.to_iterable_dataset()) == TEXTS
    assert read(dataset, "chat") == [CHAT] * 4
    with pytest.raises(TypeError, match=r'got DatasetDict; take one split .* data\["train"\]'):
        read(datasets.DatasetDict({"train": dataset}))
    with pytest.raises(ValueError, match=r"texts\[0\] has no column 'body', it has \['chat', 'id'"):
        read(dataset, "body")


def test_iterators_are_read_no_further_than_needed():
    taken = []
    documents = read_documents((taken.append(text) or text for text in TEXTS), "text")
    assert next(documents) == TEXTS[0]
    assert taken == TEXTS[:1]


def test_files_and_folders(tmp_path):
    (tmp_path / "b" / "deep").mkdir(parents=True)
    (tmp_path / "b" / "deep" / "one.TXT").write_text(TEXTS[2], encoding="utf-8")
    (tmp_path / "b" / "deep" / "image.png").write_bytes(b"\x89PNG\xff")
    (tmp_path / "a.md").write_text("# a", encoding="utf-8")
    (tmp_path / "c.txt").symlink_to(tmp_path / "a.md")  # the same file is read once
    rows = [{"text": "first", "n": 1}, "second", {"text": CHAT}, {"text": "日本"}]
    lines = "\n".join(json.dumps(row) for row in rows)
    (tmp_path / "d.jsonl").write_text(lines + "\n\n", encoding="utf-8")
    assert read(tmp_path) == ["# a", TEXTS[2], "first", "second", CHAT, "日本"]
    assert read(tmp_path / "c.txt") == ["# a"]
    assert read(tmp_path / "d.jsonl") == ["first", "second", CHAT, "日本"]
    (tmp_path / "log").write_text("any name", encoding="utf-8")
    assert read(tmp_path / "log") == ["any name"]


def test_a_byte_order_mark_is_no_text(tmp_path):
    (tmp_path / "a.txt").write_text("first", encoding="utf-8-sig")
    (tmp_path / "b.jsonl").write_text('"second"\n{"text": "third"}\n', encoding="utf-8-sig")
    assert read(tmp_path) == ["first", "second", "third"]


@pytest.mark.parametrize(
    ("texts", "error", "message"),
    [
        ("one", TypeError, r"got one str; .* texts=\[text\], .* texts=pathlib\.Path\(name\)"),
        (7, TypeError, "texts must be a list of str, .* got int"),
        ({"train": []}, TypeError, r'got dict; take one split .* data\["train"\]'),
        ([None], TypeError, r"texts\[0\] must be a str, got NoneType"),
        ([b"x"], TypeError, r"texts\[0\] must be a str, got bytes"),
        ([{"text": 3}], TypeError, r"texts\[0\]\['text'\] must be a str, got int"),
        ([{"body": "x"}], ValueError, r"no column 'text', it has \['body'\]; .* text_column="),
        (["x", ["y"]], TypeError, r'texts\[1\] is a list, but not of messages with "role"'),
        (["x", "a\ud800"], ValueError, r"texts\[1\] holds half .* \(character 1\), .*; replace"),
        ([[{"role": "user", "content": "\udfff"}]], ValueError, r"texts\[0\] holds half of a"),
        ([[{"role": "user"}]], TypeError, r'messages with "role" and "content"'),
    ],
)
def test_wrong_texts_are_named_at_once(texts, error, message):
    with pytest.raises(error, match=message):
        read_documents(texts, "text")


def test_a_frame_is_not_a_list_of_its_columns():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"text": TEXTS})
    with pytest.raises(TypeError, match=r'got DataFrame; .* frame\["text"\]'):
        read(frame)
    assert read(frame["text"]) == TEXTS


def test_wrong_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"texts='.*none' does not exist"):
        read_documents(tmp_path / "none", "text")
    with pytest.raises(ValueError, match=r"is a folder without files of text \(\.txt"):
        read_documents(tmp_path, "text")
    (tmp_path / "a.txt").write_bytes(b"latin \xe9")
    with pytest.raises(ValueError, match=r"a\.txt' is not UTF-8 \(.* at byte 6\)"):
        read(tmp_path)
    for line, message in (
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("3", "must be a str, got int"),
        ('"\\ud800"', "holds half of a surrogate pair"),
        ('{"body": "x"}', "has no column 'text'"),
    ):
        (tmp_path / "b.jsonl").write_text(f'"fine"\n{line}\n', encoding="utf-8")
        with pytest.raises((ValueError, TypeError), match=rf"b\.jsonl', line 2,.* {message}"):
            read(tmp_path / "b.jsonl")
