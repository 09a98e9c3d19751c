"""Files that were damaged or made to do harm: one of the documented errors, and nothing else."""

import collections
import io
import json
import os
import pickle
import resource
import shutil
import struct
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from foreign import Foreign
from problems import planted

from sparsecode_estimators import ITORefiner, SAEEncoder
from sparsecode_estimators.formats import load, load_pretrained, save

DOCUMENTED = (ValueError, OSError)
SECONDS, MEGABYTES = 5, 200  # for one file
DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """A folder of each format, with what reads it."""
    root = tmp_path_factory.mktemp("originals")
    X = planted(100, 8, 16, 3, seed=90)[0]
    save(ITORefiner(SAEEncoder(16, max_iter=1)).fit(X), root / "native")
    read(root / "native")  # its loops are compiled now, and not on the clock of a mutated file
    Foreign(0, centred=False).gemma_scope(root / "gemma_scope")
    Foreign(0).gemma_scope(root / "gemma_scope_compressed", compressed=True)
    Foreign(0).sparsify(root / "sparsify")
    for kind in ("topk", "gated", "jumprelu"):
        Foreign(0).saelens(root / kind, kind)
    for path in ("saelens6/jumprelu_transcoder", "saelens6/skip_transcoder", "sparsify/transcoder"):
        shutil.copytree(DATA / path, root / path.replace("/", "_"))
        (root / path.replace("/", "_") / "expected.safetensors").unlink()
    for name in ("GatedAutoEncoder", "MatryoshkaBatchTopKSAE", "AutoEncoderTopK"):
        shutil.copytree(DATA / "dictionary_learning" / name, root / name)
        (root / name / "expected.safetensors").unlink()
    return sorted(root.iterdir())


def read(folder):
    """Load it, and use what comes."""
    estimator = load(folder) if folder.name == "native" else load_pretrained(folder)
    n_features = estimator.n_features_in_
    codes = estimator.transform(np.ones((2, n_features), np.float32))
    assert codes.shape == (2, len(estimator.components_))


def flip(data, rng):
    data = bytearray(data)
    for place in rng.randint(len(data), size=rng.choice([1, 1, 3, 30])):
        data[place] = rng.randint(256)
    return bytes(data)


def flip_in_the_header(data, rng):
    data = bytearray(data)
    for place in rng.randint(min(len(data), 400), size=rng.choice([1, 2, 4])):
        data[place] = rng.randint(256)
    return bytes(data)


def cut(data, rng):
    return data[: rng.randint(len(data))]


def cut_out(data, rng):
    start, stop = sorted(rng.randint(len(data) + 1, size=2))
    return data[:start] + data[stop:]


def double(data, rng):
    start, stop = sorted(rng.randint(len(data) + 1, size=2))
    return data[:stop] + data[start:stop] + data[stop:]


def huge_header(data, rng):
    return struct.pack("<Q", int(rng.choice([2**20, 2**40, 2**63 - 1]))) + data[8:]


def other_number(data, rng):
    """A digit somewhere in the text, if there is text, becomes other digits."""
    digits = [i for i, byte in enumerate(data[:4000]) if 48 <= byte < 58]
    if not digits:
        return flip(data, rng)
    place = digits[rng.randint(len(digits))]
    new = [b"", b"0", b"-1", b"99999999999999999999", b"1e400", b"NaN", b"1.5"][rng.randint(7)]
    return data[:place] + new + data[place + 1 :]


def other_entry(data, rng):
    """An entry of a description is dropped, or becomes something else."""
    try:
        content = json.loads(data)
    except ValueError:
        return flip(data, rng)
    where = content
    while True:
        keys = list(where) if isinstance(where, dict) else range(len(where))
        if not len(keys):
            break
        key = keys[rng.randint(len(keys))]
        inner = where[key]
        if isinstance(inner, dict | list) and inner and rng.rand() < 0.8:
            where = inner
            continue
        if rng.rand() < 0.3:
            del where[key]
        else:
            where[key] = STRANGE[rng.randint(len(STRANGE))]
        break
    return json.dumps(content).encode()


STRANGE = [
    None, True, -1, 0, 3, 10**30, 1.5, 1e300, "", "x" * 5000, "topk", [], [1, 2], {},
    {"array": "x"}, {"estimator": 0}, {"tuple": 3}, {"dict": []}, {"float": "1"}, {"names": [1]},
    [[[]]], "float64",
]  # fmt: skip
MUTATIONS = (
    flip, flip_in_the_header, cut, cut_out, double, huge_header, other_number, other_entry,
    other_entry,
)  # fmt: skip


def peak_megabytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def mutate_and_read(originals, folder, seeds):
    """How many mutated files were refused."""
    refused, start = 0, peak_megabytes()
    for seed in seeds:
        rng = np.random.RandomState(seed)
        original = originals[rng.randint(len(originals))]
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(original, folder / original.name)
        files = sorted((folder / original.name).iterdir())
        victim = files[rng.randint(len(files))]
        mutation = MUTATIONS[rng.randint(len(MUTATIONS))]
        victim.write_bytes(mutation(victim.read_bytes(), rng))
        began, message = time.process_time(), ""
        try:
            read(folder / original.name)
        except DOCUMENTED as error:
            refused, message = refused + 1, str(error)
        except Exception as error:
            raise AssertionError(f"seed {seed}: {original.name}, {mutation.__name__}") from error
        assert len(message) < 2000, seed
        assert time.process_time() - began < SECONDS, seed
        assert peak_megabytes() - start < MEGABYTES, seed
    return refused


def test_mutated_files(originals, tmp_path):
    assert mutate_and_read(originals, tmp_path / "x", range(400)) > 200


@pytest.mark.slow
def test_ten_thousand_mutated_files(originals, tmp_path):
    assert mutate_and_read(originals, tmp_path / "x", range(1000, 11_000)) > 5000


class Trap:
    """Unpickled it would leave a trace."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def refuse(folder, message="or it is damaged"):
    with pytest.raises(ValueError, match=message):
        load_pretrained(folder)


def torch_file(folder, content):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"trainer": {"dict_class": "AutoEncoder"}}))
    torch.save(content, folder / "ae.pt")
    return folder


def state(**tensors):
    good = {
        "bias": torch.zeros(4), "encoder.weight": torch.zeros(8, 4),
        "encoder.bias": torch.zeros(8), "decoder.weight": torch.zeros(4, 8),
    }  # fmt: skip
    return good | tensors


def test_pickles_do_not_run(tmp_path):
    trace = tmp_path / "trace"
    folder = torch_file(tmp_path / "dl", state(bias=Trap(trace)))
    refuse(folder)
    (folder / "ae.pt").write_bytes(pickle.dumps(Trap(trace)))
    refuse(folder)
    folder = tmp_path / "gemma"
    folder.mkdir()
    np.savez(folder / "params.npz", W_enc=np.array([Trap(trace)], dtype=object))
    refuse(folder, "has dtype object, not numbers")
    assert not trace.exists()
    pickle.loads(pickle.dumps(Trap(trace)))  # as it would have been
    assert trace.exists()


def test_what_is_no_state_dict(tmp_path):
    refuse(torch_file(tmp_path / "dl", torch.zeros(3)), "not a dict of tensors")
    refuse(torch_file(tmp_path / "dl", {3: torch.zeros(3)}), "not a tensor")
    refuse(torch_file(tmp_path / "dl", {"a": "b"}), "not a tensor")
    refuse(torch_file(tmp_path / "dl", state(bias=torch.eye(3).to_sparse())), "no plain tensor")


def test_tensors_that_claim_to_be_huge(tmp_path):
    view = torch.zeros(1).expand(10**11)
    before = peak_megabytes()
    refuse(torch_file(tmp_path / "dl", state(bias=view)), "'bias' its tensors are larger")
    matrix = torch.zeros(1000, 1000).T
    many = {f"view {i}": matrix for i in range(100)}
    content = {name: view.view_as(view) for name, view in many.items()}
    refuse(torch_file(tmp_path / "dl", content), "its tensors are larger than the file")
    assert peak_megabytes() - before < MEGABYTES


def test_compressed_pickles(tmp_path):
    folder = torch_file(tmp_path / "dl", state())
    with zipfile.ZipFile(folder / "ae.pt") as archive:
        parts = {part.filename: archive.read(part) for part in archive.infolist()}
    with zipfile.ZipFile(folder / "ae.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    refuse(folder, "compressed")


@pytest.mark.parametrize("kind", [b"\x86", b"l"])
@pytest.mark.parametrize("use", ["key", "storage"])
def test_pickles_that_repeat_themselves_without_end(kind, use, tmp_path):
    """Two to the power of 60 entries: hashing or printing them would not end."""
    folder = torch_file(tmp_path / "dl", state())
    with zipfile.ZipFile(folder / "ae.pt") as archive:
        parts = {part.filename: archive.read(part) for part in archive.infolist()}
    pickled = b"\x80\x02}K\x01\x85q\x00"
    for i in range(60):
        get, put = b"h" + bytes([i]), b"q" + bytes([i + 1])
        pickled += b"0(" + get + get + b"l" + put if kind == b"l" else get + b"\x86" + put
    pickled += b"Q." if use == "storage" else b"K\x01s."
    with zipfile.ZipFile(folder / "ae.pt", "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, pickled if name.endswith("data.pkl") else content)
    refuse(folder, "repeats more than names")


def test_parts_of_the_same_name(tmp_path):
    folder = torch_file(tmp_path / "dl", state())
    with zipfile.ZipFile(folder / "ae.pt", "a") as archive, pytest.warns(match="Duplicate name"):
        archive.writestr("ae/data.pkl", b"other")
    refuse(folder, "same name")


def test_archives_that_unpack_to_far_more(tmp_path):
    (tmp_path / "gemma").mkdir()
    before = peak_megabytes()
    np.savez_compressed(tmp_path / "gemma" / "params.npz", W_enc=np.zeros(10**7, np.float32))
    made = peak_megabytes()
    refuse(tmp_path / "gemma", "unpacked it would have more than")
    assert peak_megabytes() - max(before, made) < 20


@pytest.mark.parametrize("shape", ["(10000000000000,)", "(-1,)", "(99999999999999999999999, 5)"])
def test_arrays_that_claim_to_be_huge(shape, tmp_path):
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        content = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(64)
        archive.writestr("W_enc.npy", content)
    (tmp_path / "params.npz").write_bytes(file.getvalue())
    refuse(tmp_path)


def test_deep_json(tmp_path):
    folder = Foreign(0).saelens(tmp_path / "sae", "relu")
    for text in ("[" * 10**5, '{"a":' * 10**5, "{" + '"k": 1' + "0" * 5000 + "}", "[]", ""):
        (folder / "cfg.json").write_text(text)
        refuse(folder)
    (folder / "cfg.json").write_bytes(b"{}" + b" " * 2**24)
    refuse(folder, "it is something else")


def test_files_that_never_end(tmp_path):
    folder = Foreign(0).saelens(tmp_path / "sae", "relu")
    for name in ("cfg.json", "sae_weights.safetensors"):
        kept = (folder / name).read_bytes()
        for make in (os.mkfifo, lambda path: path.symlink_to("/dev/zero")):
            (folder / name).unlink()
            make(folder / name)
            with pytest.raises(FileNotFoundError):
                load_pretrained(folder)
        with pytest.raises(FileNotFoundError, match="no file"):
            load_pretrained(folder / name, format="gemma_scope")
        (folder / name).unlink()
        (folder / name).write_bytes(kept)


def test_descriptions_with_code_in_them_are_text(tmp_path):
    folder = Foreign(0).saelens(tmp_path / "sae", "relu")
    config = json.loads((folder / "cfg.json").read_text())
    trace = tmp_path / "trace"
    config["architecture"] = f"__import__('os').mkdir({str(trace)!r})"
    (folder / "cfg.json").write_text(json.dumps(config))
    refuse(folder, "architecture is")
    assert not trace.exists()


def test_order_of_a_state_dict_does_not_matter(tmp_path):
    """What is refused above is refused for its content: this one is read."""
    folder = torch_file(tmp_path / "dl", collections.OrderedDict(reversed(state().items())))
    assert load_pretrained(folder).components_.shape == (8, 4)
