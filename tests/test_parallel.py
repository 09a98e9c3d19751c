"""The examples of the user guide: grid searches by every backend, one fit by two processes."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sparsecode_estimators import SAEEncoder, fit_many
from sparsecode_estimators.datasets import make_sparse_codes

ROOT = Path(__file__).parents[1]
GUIDE = (ROOT / "docs/user_guide/parallel.rst").read_text()
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def example(title):
    """The first Python program below a title of the guide."""
    below = GUIDE[re.search(rf"^{re.escape(title)}\n[-~]+$", GUIDE, re.MULTILINE).end() :]
    block = re.search(r"\.\. code-block:: python\n\n((?:   .*\n|\n)+)", below)[1]
    return re.sub(r"^   ", "", block, flags=re.MULTILINE)


def run(folder, code, *command, **variables):
    """What a program prints, in which torch may use all cores unless it says otherwise."""
    (folder / "script.py").write_text(code)
    env = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")}
    env |= {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]), **variables}
    done = subprocess.run(
        [sys.executable, *command, folder / "script.py"],
        env=env, cwd=folder, capture_output=True, text=True, check=False, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


WATCHED = """
from seen import Seeing, n_threads, reconstruction
search.set_params(estimator=Seeing(**sae.get_params()), refit="reconstruction",
                  scoring={"threads": n_threads, "reconstruction": reconstruction})
"""
TOLD = """
if __name__ == "__main__":
    import json, os, torch
    folds = [search.cv_results_[f"split{i}_test_reconstruction"].tolist() for i in range(3)]
    print("told:" + json.dumps({
        "threads": [search.cv_results_[f"split{i}_test_threads"].tolist() for i in range(3)],
        "scores": folds, "here": search.best_estimator_.n_threads_}))
"""


def needs(module):
    missing = importlib.util.find_spec(module) is None
    return [pytest.mark.slow, pytest.mark.skipif(missing, reason=f"needs {module}")]


@pytest.mark.parametrize("title", [
    "Processes of one machine: loky",
    "Threads",
    pytest.param("Several machines: Dask", marks=needs("distributed")),
    pytest.param("Several machines: Ray", marks=needs("ray")),
])  # fmt: skip
def test_a_search_gives_the_same_scores_with_one_thread_a_worker(title, tmp_path):
    code = example("A grid search") + WATCHED + example(title) + TOLD
    told = json.loads(re.search("^told:(.*)$", run(tmp_path, code), re.MULTILINE)[1])
    assert np.array(told["threads"]).shape == (3, 2)
    assert np.all(np.array(told["threads"]) == 1)
    if title != "Threads":  # the refit runs here, where nobody has said anything
        assert told["here"] == CORES
    names: dict = {}
    exec(example("A grid search"), names)
    names["search"].fit(names["data"].X)
    alone = [names["search"].cv_results_[f"split{i}_test_score"] for i in range(3)]
    np.testing.assert_allclose(told["scores"], alone, atol=1e-4)


def test_one_fit_by_two_processes(tmp_path):
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    out = run(tmp_path, example("One model in several processes"), *torchrun, OMP_NUM_THREADS="1")
    assert re.findall(r"epoch (\d)/5", out) == list("12345")  # only rank 0 prints
    losses = dict(re.findall(r"rank (\d): (\S+)", out))
    assert losses.keys() == {"0", "1"}
    assert losses["0"] == losses["1"]
    X = make_sparse_codes(4000, 32, 128, 4, random_state=0).X
    sae = SAEEncoder(128, activation="topk", n_nonzero_coefs=4, max_iter=5, random_state=0)
    assert float(losses["0"]) == pytest.approx(sae.fit(X).loss_, rel=1e-4)


def test_several_candidates_on_one_pass(capsys):
    names: dict = {}
    exec(example("Several candidates on one pass"), names)
    scores = json.loads(capsys.readouterr().out)
    assert len(scores) == 4
    assert names["fit_many"] is fit_many
    assert all(0 < score < 1 for score in scores)
