"""Our own format: everything comes back, nothing is half-written, and what is refused."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from problems import planted
from safetensors.numpy import load_file, save_file
from sklearn import clone
from sklearn.decomposition import DictionaryLearning
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import make_pipeline

from sparsecode_estimators import (
    ITORefiner,
    MLPEncoder,
    SAEEncoder,
    SparseCodingEncoder,
    UnrolledEncoder,
)
from sparsecode_estimators.formats import load, save

X, CODES, D = planted(200, 8, 16, 3, seed=60)
ROOT = Path(__file__).parents[1]
K = {"n_nonzero_coefs": 3}
ESTIMATORS = {
    "sae": SAEEncoder(16, max_iter=3, random_state=0),
    "sae topk": SAEEncoder(16, activation="topk", **K, max_iter=3, random_state=0),
    "sae abs_topk": SAEEncoder(16, activation="abs_topk", **K, max_iter=3, random_state=0),
    "sae batch_topk": SAEEncoder(
        16, activation="batch_topk", **K, prefix_sizes=(4, 8), max_iter=3, random_state=0
    ),
    "sae jumprelu": SAEEncoder(16, activation="jumprelu", max_iter=3, random_state=0),
    "sae gated": SAEEncoder(16, activation="gated", max_iter=3, random_state=0),
    "sae sign": SAEEncoder(
        16, optimizer="sign", learning_rate="constant", max_iter=3, random_state=0
    ),
    "mlp": MLPEncoder(16, hidden_layer_sizes=(12, 10), max_iter=3, random_state=0),
    "unrolled": UnrolledEncoder(16, max_iter=3, random_state=0),
    "alista": UnrolledEncoder(16, weights="analytic", max_iter=3, random_state=0),
    "sparse coding": SparseCodingEncoder(16, max_iter=6, n_init=2, random_state=0),
    "in batches": SparseCodingEncoder(16, max_iter=2, n_init=3, batch_size=50, random_state=0),
    "known": SparseCodingEncoder(dictionary=D, weights=np.linspace(1, 2, 16), ridge=0.1),
    "ito": ITORefiner(SAEEncoder(16, max_iter=3, random_state=0)),
    "ito known": ITORefiner(dictionary=D, alpha=0.1, solver="fista", tol=None, max_iter=20),
}
each_estimator = pytest.mark.parametrize("name", ESTIMATORS)


def assert_equal(a, b):
    """Two values of an attribute are the same, in type too."""
    assert type(a) is type(b), (a, b)
    if isinstance(a, np.ndarray):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for one, other in zip(a, b, strict=True):
            assert_equal(one, other)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_equal(a[key], b[key])
    elif hasattr(a, "get_params"):
        assert_equal(vars(a), vars(b))
    else:
        assert a == b or (a != a and b != b)


@each_estimator
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_everything_comes_back(name, dtype, tmp_path):
    rows = X.astype(dtype)
    fitted = clone(ESTIMATORS[name]).fit(rows)
    save(fitted, tmp_path / "estimator")
    again = load(tmp_path / "estimator")
    assert_equal(vars(again), vars(fitted))
    codes = again.transform(rows)
    assert codes.dtype == dtype
    np.testing.assert_array_equal(codes, fitted.transform(rows))
    assert sorted(os.listdir(tmp_path)) == ["estimator"]


@pytest.mark.parametrize("name", ["sae", "sae sign", "mlp", "alista", "in batches"])
def test_training_goes_on_as_if_nothing_had_happened(name, tmp_path):
    straight = clone(ESTIMATORS[name]).fit(X)
    save(straight, tmp_path / "estimator")
    again = load(tmp_path / "estimator")
    for estimator in (straight, again):
        estimator.partial_fit(X)
    np.testing.assert_array_equal(again.components_, straight.components_)
    np.testing.assert_array_equal(again.transform(X), straight.transform(X))


@pytest.mark.parametrize("cls", [SAEEncoder, MLPEncoder, UnrolledEncoder])
def test_transcoders_come_back(cls, tmp_path):
    """Rows and atoms are of different widths."""
    rng = np.random.RandomState(4)
    X, Y = rng.randn(100, 6), rng.randn(100, 9)
    encoder = cls(12, objective="targets", max_iter=2, random_state=0).fit(X, Y)
    save(encoder, tmp_path / "it")
    again = load(tmp_path / "it")
    np.testing.assert_array_equal(again.transform(X), encoder.transform(X))
    assert again.score(X, Y) == encoder.score(X, Y)
    encoder.set_params(warm_start=True).fit(X, Y)
    np.testing.assert_array_equal(
        again.set_params(warm_start=True).fit(X, Y).transform(X), encoder.transform(X)
    )


def test_what_is_shared_stays_shared(tmp_path):
    sae = SAEEncoder(16, max_iter=3, random_state=0).fit(X)
    ito = ITORefiner(FrozenEstimator(sae)).fit(X)
    save(ito, tmp_path / "ito")
    again = load(tmp_path / "ito")
    assert again.estimator_ is again.estimator
    assert isinstance(again.estimator, FrozenEstimator)
    np.testing.assert_array_equal(again.transform(X), ito.transform(X))
    twice = load_file(tmp_path / "ito" / "tensors.safetensors")
    assert len([n for n in twice if "encoder_coefs_" in n]) == 1


def test_names_and_output_of_data_frames(tmp_path):
    frame = pd.DataFrame(X, columns=[f"unit {i}" for i in range(X.shape[1])])
    sae = SAEEncoder(16, max_iter=3, random_state=0).set_output(transform="pandas").fit(frame)
    save(sae, tmp_path / "sae")
    again = load(tmp_path / "sae")
    pd.testing.assert_frame_equal(again.transform(frame), sae.transform(frame))
    with pytest.raises(ValueError, match="feature names"):
        again.transform(frame.rename(columns=str.upper))


def test_tensors_paths_and_devices_among_the_parameters(tmp_path):
    sae = SAEEncoder(
        dictionary=torch.tensor(D), max_iter=np.int64(2), device=torch.device("cpu"), random_state=0
    ).fit(X)
    sae.set_params(checkpoint=tmp_path, alpha=np.float64(0.5))
    save(sae, tmp_path / "sae")
    again = load(tmp_path / "sae")
    np.testing.assert_array_equal(again.dictionary, D)
    assert (again.max_iter, again.device, again.alpha) == (2, "cpu", 0.5)
    assert again.checkpoint == str(tmp_path)
    np.testing.assert_array_equal(again.transform(X), sae.transform(X))


def test_callbacks_stay_behind(tmp_path):
    callback = pytest.importorskip("sklearn.callback")
    sae = SAEEncoder(16, max_iter=3, random_state=0)
    sae.set_callbacks(callback.ProgressBar()).fit(X)
    save(sae, tmp_path / "sae")
    np.testing.assert_array_equal(load(tmp_path / "sae").transform(X), sae.transform(X))


def test_versions_are_on_record(tmp_path):
    save(SAEEncoder(16, max_iter=1).fit(X), tmp_path / "sae")
    config = json.loads((tmp_path / "sae" / "estimator.json").read_text())
    assert config["format_version"] == 1
    assert config["versions"]["torch"] == torch.__version__
    assert set(config["versions"]) == {
        "sparsecode_estimators", "python", "numpy", "scikit-learn", "torch",
    }  # fmt: skip


def test_a_newer_version_is_refused(tmp_path):
    save(SAEEncoder(16, max_iter=1).fit(X), tmp_path / "sae")
    path = tmp_path / "sae" / "estimator.json"
    config = json.loads(path.read_text())
    for version, message in ((2, "update sparsecode_estimators"), ("1", "is not of the format")):
        path.write_text(json.dumps({**config, "format_version": version}))
        with pytest.raises(ValueError, match=message):
            load(tmp_path / "sae")


def test_tensors_of_another_estimator_are_refused(tmp_path):
    for seed, name in enumerate(("one", "other")):
        save(SAEEncoder(16, max_iter=1, random_state=seed).fit(X), tmp_path / name)
    file = "tensors.safetensors"
    (tmp_path / "one" / file).write_bytes((tmp_path / "other" / file).read_bytes())
    with pytest.raises(ValueError, match="is not the file that"):
        load(tmp_path / "one")


@pytest.mark.parametrize(
    "change",
    [
        lambda e: e.update({"class": "Pipeline"}),
        lambda e: e.update({"class": "os.system"}),
        lambda e: e.update({"class": ["SAEEncoder"]}),
        lambda e: e["params"].update(depth=3),
        lambda e: e["params"].update(activation="sigmoid"),
        lambda e: e["attributes"].pop("components_"),
        lambda e: e["attributes"].pop("encoder_coefs_"),
        lambda e: e["attributes"].update(n_components_=17),
        lambda e: e["attributes"].update(transform=None),
        lambda e: e["attributes"].update(__class__=None),
        lambda e: e["attributes"].update(n_iter_={"array": "nowhere"}),
        lambda e: e["attributes"].update(n_iter_={"estimator": 0}),
        lambda e: e["attributes"].update(n_iter_={"call": "print"}),
        lambda e: e["attributes"].update(intercept_=e["attributes"]["components_"]),
    ],
)
def test_descriptions_that_save_never_wrote(change, tmp_path):
    save(SAEEncoder(16, max_iter=1).fit(X), tmp_path / "sae")
    path = tmp_path / "sae" / "estimator.json"
    config = json.loads(path.read_text())
    change(config["estimators"][0])
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match="describes no fitted estimator"):
        load(tmp_path / "sae")


def test_what_cannot_be_written(tmp_path):
    path = tmp_path / "new"
    with pytest.raises(NotFittedError):
        save(SAEEncoder(16), path)
    with pytest.raises(TypeError, match=r"DictionaryLearning: only SAEEncoder"):
        save(ITORefiner(DictionaryLearning(16, max_iter=1)).fit(X), path)
    sae = SAEEncoder(16, max_iter=1)
    with pytest.raises(TypeError, match=r"is a sklearn\.pipeline\.Pipeline"):
        save(make_pipeline(sae).fit(X), path)
    called = SAEEncoder(16, dictionary=lambda n, m: D, max_iter=1).fit(X)
    with pytest.raises(TypeError, match=r"SAEEncoder\.dictionary is a function"):
        save(called, path)
    drawn = SAEEncoder(16, random_state=np.random.RandomState(0), max_iter=1).fit(X)
    with pytest.raises(TypeError, match=r"SAEEncoder\.random_state is a RandomState"):
        save(drawn, path)
    sae.fit(X).notes = "mine"
    with pytest.raises(TypeError, match=r"SAEEncoder\.notes is no .*del estimator\.notes"):
        save(sae, path)
    assert not os.listdir(tmp_path)


def test_subclasses_are_not_taken_for_ours(tmp_path):
    class SAEEncoder(ESTIMATORS["sae"].__class__):
        def transform(self, X):
            return 2 * super().transform(X)

    with pytest.raises(TypeError, match="only SAEEncoder"):
        save(SAEEncoder(16, max_iter=1).fit(X), tmp_path / "new")


def test_an_older_one_is_replaced_and_other_folders_are_not(tmp_path):
    first, second = (SAEEncoder(16, max_iter=1, random_state=s).fit(X) for s in (0, 1))
    save(first, tmp_path / "deep" / "sae")
    save(second, tmp_path / "deep" / "sae")
    np.testing.assert_array_equal(load(tmp_path / "deep" / "sae").components_, second.components_)
    (tmp_path / "deep" / "sae" / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"holds other files \(notes.txt\)"):
        save(first, tmp_path / "deep" / "sae")
    with pytest.raises(FileExistsError, match="no folder"):
        save(first, tmp_path / "deep" / "sae" / "notes.txt")
    (tmp_path / "link").symlink_to(tmp_path / "deep")
    with pytest.raises(FileExistsError, match="no folder"):
        save(first, tmp_path / "link")
    assert (tmp_path / "deep" / "sae" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("fails", ["save_file", "fsync", "replace"])
def test_a_full_disk_leaves_the_old_one(fails, tmp_path, monkeypatch):
    first, second = (SAEEncoder(16, max_iter=1, random_state=s).fit(X) for s in (0, 1))
    save(first, tmp_path / "sae")

    def full(*args):
        raise OSError(28, "No space left on device")

    if fails == "save_file":
        monkeypatch.setattr("safetensors.numpy.save_file", full)
    else:
        monkeypatch.setattr(os, fails, full)
    with pytest.raises(OSError, match="No space left"):
        save(second, tmp_path / "sae")
    monkeypatch.undo()
    assert os.listdir(tmp_path) == ["sae"]
    np.testing.assert_array_equal(load(tmp_path / "sae").components_, first.components_)


def test_a_file_that_grows_too_large(tmp_path):
    """The library of safetensors has errors of its own."""
    code = (
        "import resource, signal, numpy as np\n"
        "from sparsecode_estimators import SAEEncoder\n"
        "from sparsecode_estimators.formats import save\n"
        "X = np.random.RandomState(0).randn(50, 8)\n"
        "sae = SAEEncoder(16, max_iter=1).fit(X)\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try:\n"
        f"    save(sae, {str(tmp_path / 'sae')!r})\n"
        "except OSError as error:\n"
        "    print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "could not be written" in done.stdout
    assert not os.listdir(tmp_path)


def test_nothing_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no estimator\.json in it"):
        load(tmp_path / "nowhere")
    save(SAEEncoder(16, max_iter=1).fit(X), tmp_path / "sae")
    (tmp_path / "sae" / "tensors.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"tensors\.safetensors"):
        load(tmp_path / "sae")


def test_loads_in_another_process_without_importing_more(tmp_path):
    sae = SAEEncoder(16, max_iter=2, random_state=0).fit(X)
    save(sae, tmp_path / "sae")
    np.save(tmp_path / "X.npy", X)
    code = (
        "import sys, numpy as np\n"
        "from sparsecode_estimators.formats import load\n"
        f"codes = load({str(tmp_path / 'sae')!r}).transform(np.load({str(tmp_path / 'X.npy')!r}))\n"
        f"np.save({str(tmp_path / 'codes.npy')!r}, codes)\n"
        "print([m for m in ('transformers', 'matplotlib', 'openai') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
    np.testing.assert_array_equal(np.load(tmp_path / "codes.npy"), sae.transform(X))


def test_without_safetensors(tmp_path, monkeypatch):
    sae = SAEEncoder(16, max_iter=1).fit(X)
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(ImportError, match="pip install safetensors"):
        save(sae, tmp_path / "sae")
    assert not os.listdir(tmp_path)


def test_a_repaired_digest_does_not_let_nan_shapes_through(tmp_path):
    """The checksum only tells accidents: shapes are checked for themselves."""
    import hashlib

    save(SAEEncoder(16, max_iter=1).fit(X), tmp_path / "sae")
    weights, path = tmp_path / "sae" / "tensors.safetensors", tmp_path / "sae" / "estimator.json"
    tensors = load_file(weights)
    name = next(n for n in tensors if "encoder_coefs_" in n)
    save_file({**tensors, name: np.zeros((3, 16), np.float32)}, weights)
    config = json.loads(path.read_text())
    config["sha256"] = hashlib.sha256(weights.read_bytes()).hexdigest()
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match="describes no fitted estimator"):
        load(tmp_path / "sae")
