"""Activations into stores: like the arrays, exactly once, the same bytes after any interruption."""

import itertools
import json
import os
import pydoc_data.topics
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from stores import contents

from sparsecode_estimators import SAEEncoder
from sparsecode_estimators.datasets import (
    ActivationStore,
    decode_tokens,
    load_activations,
    store_files,
)
from sparsecode_estimators.datasets.language_models import TINY_GPT2

transformers = pytest.importorskip("transformers")

TEXTS = [text[:600] for _, text in sorted(pydoc_data.topics.topics.items())][:12]
TEXTS = ["short", "", *TEXTS, "x", "def close(self): pass"]
COLUMNS = ("token_ids", "document_ids", "positions")
BOTH = {"layer": [3, 1], "hook": ["resid_pre", "mlp_out"]}
OPTIONS = {"layer": 2, "context_length": 24, "batch_size": 4, "look_ahead": 3, "dtype": "float16"}


def run(texts=TEXTS, **options):
    return load_activations(texts, **{"model": TINY_GPT2, **OPTIONS, **options})


def files(folder):
    """All that is below a folder, but the locks."""
    found = {".": contents(folder)} if (folder / "manifest.json").exists() else {}
    for store in sorted(p for p in folder.iterdir() if p.is_dir()):
        found[store.name] = contents(store)
    return found


# What is in a store


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_store_holds_what_the_arrays_do(tmp_path, dtype):
    bunch = run(store=tmp_path / "s", dtype=dtype, rows_per_shard=150)
    store = bunch.data
    assert isinstance(store, ActivationStore)
    assert (store.stored_dtype, store.rows_per_shard) == (dtype, 150)
    assert store.n_shards == -(-len(store) // 150)
    expected = run(dtype="float32")
    rows = torch.from_numpy(expected.data).to(getattr(torch, dtype)).float().numpy()
    np.testing.assert_array_equal(store[:].astype(np.float32), rows)
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(store, name), expected[name])
    assert (bunch.layer, bunch.hook, bunch.n_outliers) == (2, "resid_pre", 0)
    assert store.metadata["extraction"]["progress"]["complete"]
    SAEEncoder(16, max_iter=1).fit(store)


def test_each_of_several_gets_its_own(tmp_path):
    bunch = run(store=str(tmp_path / "s"), max_norm=1.2, **BOTH)
    expected = run(max_norm=1.2, **BOTH)
    assert bunch.n_outliers == expected.n_outliers > 0
    assert {p.name for p in (tmp_path / "s").iterdir()} == {
        f"layer{layer}_{hook}" for layer, hook in bunch.data
    }
    assert list(bunch.data) == list(expected.data)
    for key, store in bunch.data.items():
        np.testing.assert_array_equal(store[:], expected.data[key])
        np.testing.assert_array_equal(store.positions, expected.positions)


def test_a_store_of_the_caller(tmp_path):
    made = ActivationStore.create(tmp_path / "s", 160, rows_per_shard=64, metadata={"by": "me"})
    bunch = run(store=made)
    assert bunch.data is made
    np.testing.assert_array_equal(made[:], run().data)
    assert made.metadata["by"] == "me"
    assert made.metadata["extraction"]["layer"] == 2
    with pytest.raises(ValueError, match="store is one ActivationStore, but layer or hook is a li"):
        run(store=made, layer=[2])


def test_the_model_of_the_package_is_the_same_wherever_it_lies(tmp_path):
    """The settings in a store name no folder of a machine; those of earlier versions did."""
    store = run(store=tmp_path / "s").data
    entry = store.metadata["extraction"]
    assert (entry["model"], entry["tokenizer"]) == ("tiny", "tiny")
    tokens = decode_tokens(store.token_ids, entry["tokenizer"])
    assert "".join(tokens[store.document_ids == 0]) == "ort"  # the first one of "short" is no row
    with store.writer() as writer:
        folder = "/elsewhere/sparsecode_estimators/datasets/tiny_gpt2"
        writer.update_metadata(extraction={**entry, "model": folder, "tokenizer": folder})
    assert len(run(store=tmp_path / "s").data) == len(store)
    with store.writer() as writer:
        writer.update_metadata(extraction={**entry, "model": "/elsewhere/tiny_gpt2"})
    with pytest.raises(ValueError, match=r"model='tiny', but store=.* begun with '/elsewhere/tiny"):
        run(store=tmp_path / "s")


def test_texts_are_read_as_they_are_needed(tmp_path, tiny, tokenizer):
    taken, at_pass = [], []
    tiny.register_forward_pre_hook(lambda *_: at_pass.append(len(taken)))
    many = (taken.append(i) or f"Document number {i} is short. " * 3 for i in range(3000))
    bunch = run(many, model=tiny, tokenizer=tokenizer, store=tmp_path / "s")
    assert at_pass[0] <= 512  # texts go to the tokenizer 256 at a time, one block ahead
    assert at_pass[len(at_pass) // 2] < 2000
    assert set(bunch.data.document_ids.tolist()) == set(range(3000))


# Interruptions


def interrupted_at(number, error=KeyboardInterrupt):
    """A hook that stops a run in its forward pass of this number."""
    passes = []

    def hook(*_):
        passes.append(1)
        if len(passes) == number:
            raise error("stop")

    return hook


@pytest.mark.parametrize("options", [{}, {"max_norm": 1.2, **BOTH}], ids=["one", "several"])
def test_interrupted_anywhere_it_comes_to_the_same_bytes(tmp_path, tiny, tokenizer, options):
    options = {"model": tiny, "tokenizer": tokenizer, "rows_per_shard": 90, **options}
    passes = []
    handle = tiny.register_forward_pre_hook(lambda *_: passes.append(1))
    run(store=tmp_path / "whole", **options)
    handle.remove()
    whole = files(tmp_path / "whole")
    assert len(passes) > 12
    for number in range(1, len(passes) + 1, 3):
        place = tmp_path / f"at{number}"
        handle = tiny.register_forward_pre_hook(interrupted_at(number))
        with pytest.raises(KeyboardInterrupt):
            run(store=place, **options)
        handle.remove()
        done = [len(ActivationStore(p.parent)) for p in place.rglob("manifest.json")]
        assert all(n % 90 == 0 for n in done)  # whole files only
        if number > 10:
            assert min(done) > 0
        run(iter(TEXTS), store=place, **options)
        assert files(place) == whole


def test_it_does_not_begin_again(tmp_path, tiny, tokenizer):
    """The blocks that are done are not computed again, and a complete store needs no model."""
    options = {"model": tiny, "tokenizer": tokenizer, "rows_per_shard": 50}
    passes = []
    counter = tiny.register_forward_pre_hook(lambda *_: passes.append(1))
    run(store=tmp_path / "whole", **options)
    n_passes = len(passes)
    handle = tiny.register_forward_pre_hook(interrupted_at(n_passes - 1))
    with pytest.raises(KeyboardInterrupt):
        run(store=tmp_path / "s", **options)
    handle.remove()
    passes.clear()
    run(store=tmp_path / "s", **options)
    assert len(passes) <= 2 * OPTIONS["look_ahead"] + 2
    passes.clear()
    bunch = run(iter(TEXTS), store=tmp_path / "s", **options)
    assert not passes
    np.testing.assert_array_equal(bunch.data[:], run().data)
    counter.remove()


def test_stores_that_came_unequally_far(tmp_path, tiny, tokenizer):
    """A kill between the writing of one store and the next."""
    options = {"model": tiny, "tokenizer": tokenizer, "rows_per_shard": 90, **BOTH}
    run(store=tmp_path / "whole", **options)
    whole = files(tmp_path / "whole")
    for number in (4, 8, 11):
        place = tmp_path / str(number)
        handle = tiny.register_forward_pre_hook(interrupted_at(number))
        with pytest.raises(KeyboardInterrupt):
            run(store=place, **options)
        handle.remove()
        # one is complete, one was not begun
        for name, chosen in (("layer3_mlp_out", whole["layer3_mlp_out"]), ("layer1_mlp_out", {})):
            for file in (place / name).iterdir():
                file.unlink()
            for file, content in chosen.items():
                (place / name / file).write_bytes(content)
        run(store=place, **options)
        assert files(place) == whole


def test_a_text_that_is_wrong_may_be_mended(tmp_path):
    options = {"rows_per_shard": 40, "batch_size": 2, "look_ahead": 2}
    run(store=tmp_path / "whole", **options)
    wrong = [*TEXTS[:-1], 3]
    with pytest.raises(TypeError, match=rf"texts\[{len(TEXTS) - 1}\] must be a str"):
        run(iter(wrong), store=tmp_path / "s", **options)
    run(iter(TEXTS), store=tmp_path / "s", **options)
    assert files(tmp_path / "s") == files(tmp_path / "whole")


def test_a_full_disk(tmp_path, monkeypatch):
    options = {"rows_per_shard": 90, **BOTH}
    run(store=tmp_path / "whole", **options)
    write, shards = store_files.write_whole, []

    def full(path, content):
        if path.suffix == ".safetensors":
            shards.append(path)
            if len(shards) == 6:
                raise OSError(28, "No space left on device")
        return write(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(store_files, "write_whole", full)
        with pytest.raises(OSError, match="A shard could not be written"):
            run(store=tmp_path / "s", **options)
    run(store=tmp_path / "s", **options)
    assert files(tmp_path / "s") == files(tmp_path / "whole")


KILLED = """
import json, sys
import torch, transformers
from sparsecode_estimators.datasets import load_activations
torch.set_num_threads(1)
folder, place, options = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
model = transformers.GPT2Model.from_pretrained(folder).float()
model.register_forward_pre_hook(lambda *_: print(flush=True))
texts = (text for text in json.load(sys.stdin))
load_activations(texts, model=model, store=place, **options)
"""


def begin(place, options):
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, TINY_GPT2, place, json.dumps(options)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[1],
    )
    process.stdin.write(json.dumps(TEXTS).encode())
    process.stdin.close()
    return process


@pytest.mark.parametrize("n_kills", [1, pytest.param(8, marks=pytest.mark.slow)])
@pytest.mark.skipif(os.name != "posix", reason="needs signals")
def test_killed_it_comes_to_the_same_bytes(tmp_path, n_kills):
    options = {**OPTIONS, "batch_size": 2, "rows_per_shard": 60, "max_norm": 1.2, **BOTH}
    with begin(tmp_path / "whole", options) as process:
        n_passes = process.stdout.read().count(b"\n")
    assert process.returncode == 0
    rng, lengths = np.random.default_rng(82), [0]
    for _ in range(n_kills):
        with begin(tmp_path / "s", options) as process:
            for _ in range(rng.integers(2, max(3, 2 * n_passes // n_kills))):
                process.stdout.readline()
            time.sleep(rng.uniform(0, 0.05))
            process.send_signal(signal.SIGKILL)
        assert process.returncode in (0, -signal.SIGKILL)
        stores = [ActivationStore(p.parent) for p in (tmp_path / "s").rglob("manifest.json")]
        for store in stores:
            store.verify()
        lengths.append(sum(map(len, stores)))
    assert lengths == sorted(lengths)
    assert lengths[-1] > 0
    with begin(tmp_path / "s", options) as process:
        process.stdout.read()
    assert process.returncode == 0
    assert files(tmp_path / "s") == files(tmp_path / "whole")
    # every document once: what the arrays say
    del options["rows_per_shard"]
    expected = load_activations(TEXTS, model=TINY_GPT2, **options)
    for (layer, hook), rows in expected.data.items():
        store = ActivationStore(tmp_path / "s" / f"layer{layer}_{hook}")
        np.testing.assert_array_equal(store[:], rows)
        np.testing.assert_array_equal(store.document_ids, expected.document_ids)


# What is refused


@pytest.fixture
def begun(tmp_path, tiny, tokenizer):
    """A store that was interrupted."""
    options = {"model": tiny, "tokenizer": tokenizer, "rows_per_shard": 50}
    handle = tiny.register_forward_pre_hook(interrupted_at(9))
    with pytest.raises(KeyboardInterrupt):
        run(store=tmp_path / "s", **options)
    handle.remove()
    assert len(ActivationStore(tmp_path / "s")) > 0
    return {"store": tmp_path / "s", **options}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer": 3}, "layer=3, but store='.*' was begun with 2; give the same to go on, or"),
        ({"hook": "mlp_out"}, "hook='mlp_out', but store=.* begun with 'resid_pre'"),
        ({"context_length": 25}, "context_length=25, but store=.* begun with 24"),
        ({"batch_size": 8}, "batch_size=8, but"),
        ({"drop_first": False}, "drop_first=False, but"),
        ({"overlap": 3}, "overlap=3, but"),
        ({"max_norm": 9}, "max_norm=9.0, but"),
        ({"dtype": "float32"}, "dtype='float32', but store=.* holds float16; give dtype='float16'"),
        ({"rows_per_shard": 51}, "rows_per_shard=51, but store=.* has 50"),
    ],
)
def test_other_settings(begun, options, message):
    before = contents(begun["store"])
    with pytest.raises(ValueError, match=message):
        run(**{**begun, **options})
    assert contents(begun["store"]) == before


def test_other_texts(begun):
    before = contents(begun["store"])
    others = [TEXTS[::-1], ["another", *TEXTS], [TEXTS[0], *TEXTS[2:]], TEXTS[:3], ["x" * 5000]]
    for texts in others:
        with pytest.raises(ValueError, match=r"texts are not those that store='.*' was begun with"):
            run(texts, **begun)
        assert contents(begun["store"]) == before


OTHER_TEXTS = [
    TEXTS[::-1],
    ["another", *TEXTS],
    [*TEXTS, "one more text"],
    TEXTS[:-1],
    TEXTS[:3],
    itertools.cycle(TEXTS),
]


@pytest.mark.parametrize("texts", OTHER_TEXTS)
@pytest.mark.parametrize("options", [{}, BOTH], ids=["one", "several"])
def test_other_texts_for_a_complete_store(tmp_path, texts, options):
    run(store=tmp_path / "s", **options)
    before = files(tmp_path / "s")
    with pytest.raises(ValueError, match=r"texts are not those that store='.*' was begun with"):
        run(texts, store=tmp_path / "s", **options)
    assert files(tmp_path / "s") == before


def test_other_texts_where_one_of_several_is_complete(tmp_path):
    run(store=tmp_path / "s", **BOTH)
    for file in (tmp_path / "s" / "layer3_mlp_out").iterdir():
        file.unlink()
    with pytest.raises(ValueError, match=r"texts are not those that store='.*layer3_resid_pre'"):
        run([*TEXTS, "one more text, of some length, to make another window"],
            store=tmp_path / "s", **BOTH)  # fmt: skip


def test_what_is_there_is_something_else(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.txt").touch()
    with pytest.raises(FileExistsError, match="holds files, but no store"):
        run(store=tmp_path / "folder")
    with pytest.raises(FileExistsError, match="holds files, but no store"):
        run(store=tmp_path / "folder" / "thesis.txt")
    store = ActivationStore.create(tmp_path / "s", 160)
    with store.writer() as writer:
        writer.append(np.zeros((5, 160), np.float32))
    with pytest.raises(ValueError, match=r"has 5 rows that load_activations did not write"):
        run(store=store)
    for entry in (3, {}, {"progress": 3}, {"progress": {"at": 1}}):
        damaged = ActivationStore.create(tmp_path / str(entry), 160, metadata={"extraction": entry})
        with pytest.raises(ValueError, match=r"metadata of store=.* do not say how far it is"):
            run(store=damaged)
    other = ActivationStore.create(tmp_path / "narrow", 16)
    with pytest.raises(ValueError, match="n_features=16"):
        run(store=other)
    assert len(other) == 0


def test_no_store_inside_another(tmp_path):
    run(store=tmp_path / "one", layer=1)
    before = files(tmp_path / "one")
    with pytest.raises(ValueError, match=r"store='.*one' is the store of one layer and hook, but"):
        run(store=tmp_path / "one", layer=[1])
    assert files(tmp_path / "one") == before
    run(store=tmp_path / "several", layer=[1])
    with pytest.raises(FileExistsError, match="holds files, but no store"):
        run(store=tmp_path / "several", layer=1)


def test_one_run_at_a_time(tmp_path, begun):
    with (
        ActivationStore(begun["store"]).writer(),
        pytest.raises(RuntimeError, match="Another writer is at work"),
    ):
        run(**begun)


def test_two_runs_that_begin_one_store(tmp_path, tiny, tokenizer):
    """The second has seen no store, and the first is done before the second writes."""
    options = {"model": tiny, "tokenizer": tokenizer, "store": tmp_path / "s"}

    def first(*_):
        handle.remove()
        run(store=tmp_path / "s")

    handle = tiny.register_forward_pre_hook(first)
    with pytest.raises(RuntimeError, match=r"another process has begun store='.*s' since"):
        run(**options)
    np.testing.assert_array_equal(run(**options).data[:], run().data)


def test_texts_without_a_row_leave_nothing(tmp_path):
    with pytest.raises(ValueError, match="all are empty"):
        run(["", ""], store=tmp_path / "s")
    assert not (tmp_path / "s").exists()
