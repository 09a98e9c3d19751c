"""The runner of the experiments, what is particular to each, and the results that are kept."""

import importlib
import json
import os
import re
import runpy
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import study
from sklearn.exceptions import ConvergenceWarning
from study import RESULTS, Study, by_data_set, group, interval, mean, table, with_interval
from threadpoolctl import threadpool_info, threadpool_limits

from sparsecode_estimators import SAEEncoder, SparseCodingEncoder, UnrolledEncoder
from sparsecode_estimators.metrics import l0
from sparsecode_estimators.plotting import mean_interval

plt = pytest.importorskip("matplotlib.pyplot")
pytestmark = pytest.mark.usefixtures("no_window")

SCRIPTS = (
    "scenarios",
    "paper_studies",
    "gap_growth",
    "variants",
    "large_scale",
    "distributions",
    "mlp_sizes",
    "wall_clock",
    "composition",
    "frontier",
)


@pytest.fixture
def load(monkeypatch):
    return lambda name: importlib.import_module(name)


def normal_mean(cell):
    """Cells of these tests: the mean of some normal numbers."""
    if "broken" in cell:
        raise RuntimeError("a cell that fails")
    draws = np.random.default_rng(cell["seed"]).standard_normal(10)
    return {"mean": draws.mean(), "many": draws[:2], "timings": {"pid": os.getpid()}}


def small_study(measure=normal_mean):
    def draw(rows):
        figure, ax = plt.subplots()
        ax.plot([row["mean"] for row in rows])
        return figure

    return Study(
        "small",
        lambda quick: [{"seed": seed} for seed in range(2 if quick else 4)],
        measure,
        lambda rows: table(("seed", "mean"), [(row["seed"], row["mean"]) for row in rows]),
        draw,
    )


def without_timings(path):
    return {key: value for key, value in json.loads(path.read_text()).items() if key != "timings"}


# the runner


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_same_seed_same_file(tmp_path, n_jobs):
    cells = [{"seed": seed} for seed in range(4)]
    first = small_study().run(tmp_path / "a.json", cells)
    second = small_study().run(tmp_path / "b.json", cells, n_jobs=n_jobs)
    assert without_timings(tmp_path / "a.json") == without_timings(tmp_path / "b.json")
    assert [row["mean"] for row in first] == [row["mean"] for row in second]
    expected = [np.random.default_rng(seed).standard_normal(10).mean() for seed in range(4)]
    assert [row["mean"] for row in first] == expected  # JSON keeps every digit
    assert first[0]["pid"] == os.getpid()
    kept = json.loads((tmp_path / "a.json").read_text())
    assert kept["complete"]
    assert set(kept["timings"][0]) == {"pid", "seconds"}
    assert kept["environment"]["numpy"] == np.__version__


def test_products_of_a_cell_use_one_thread(tmp_path):
    def measure(cell):
        return {"threads": [pool["num_threads"] for pool in threadpool_info()]}

    with threadpool_limits(2):
        (row,) = small_study(measure).run(tmp_path / "a.json", [{"seed": 0}])
    assert set(row["threads"]) == {1}


def test_finished_cells_are_not_measured_again(tmp_path):
    measured = []

    def measure(cell):
        measured.append(cell["seed"])
        return normal_mean(cell)

    path = tmp_path / "kept.json"
    cells = [{"seed": seed} for seed in range(4)]
    broken = [*cells[:2], {"seed": 2, "broken": True}, cells[3]]
    with pytest.raises(RuntimeError, match="a cell that fails"):
        small_study(measure).run(path, broken)
    assert measured == [0, 1, 2]
    assert not json.loads(path.read_text())["complete"]
    rows = small_study(measure).run(path, cells)
    assert measured == [0, 1, 2, 2, 3]
    assert [row["seed"] for row in rows] == [0, 1, 2, 3]
    uninterrupted = tmp_path / "whole.json"
    small_study().run(uninterrupted, cells)
    assert without_timings(path) == without_timings(uninterrupted)


def test_a_killed_process_loses_one_cell(tmp_path):
    script = tmp_path / "killed.py"
    script.write_text(
        "import os, signal\n"
        "from pathlib import Path\n"
        "from study import Study\n"
        "def measure(cell):\n"
        "    if cell['seed'] == 2:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return {'twice': 2 * cell['seed']}\n"
        "cells = [{'seed': seed} for seed in range(4)]\n"
        f"Study('k', None, measure, None, None).run(Path({str(tmp_path / 'k.json')!r}), cells)\n"
    )
    paths = [str(Path(study.__file__).parent), os.getcwd(), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run([sys.executable, str(script)], env=environment, check=False)
    assert done.returncode == -9
    kept = json.loads((tmp_path / "k.json").read_text())
    assert [entry["values"]["twice"] for entry in kept["cells"]] == [0, 2]
    assert {path.name for path in tmp_path.iterdir()} == {"killed.py", "k.json"}


def test_other_versions_begin_again(tmp_path, monkeypatch):
    path = tmp_path / "versions.json"
    small_study().run(path, [{"seed": 0}])
    found = study.environment()
    monkeypatch.setattr(study, "environment", lambda: {**found, "torch": "another"})
    measured = []
    small_study(lambda cell: measured.append(cell) or {"mean": 0.0}).run(path, [{"seed": 0}])
    assert measured == [{"seed": 0}]


def test_a_file_is_whole_or_as_before(tmp_path):
    path = tmp_path / "a.txt"
    study.write_atomically(path, "before")
    with pytest.raises(UnicodeEncodeError):
        study.write_atomically(path, "half\ud800")
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]
    study.write_atomically(path, "after")
    assert path.read_text() == "after"


def test_what_a_file_cannot_hold(tmp_path):
    path = tmp_path / "bad.json"
    with pytest.raises(ValueError, match="Two cells are alike"):
        small_study().run(path, [{"seed": 0}, {"seed": 0}])
    with pytest.raises(ValueError, match="JSON compliant"):
        small_study(lambda cell: {"mean": np.nan}).run(path, [{"seed": 0}])
    with pytest.raises(TypeError, match="no place in a JSON file"):
        small_study(lambda cell: {"mean": object()}).run(path, [{"seed": 0}])


def test_warnings_are_errors_in_cells(tmp_path):
    def measure(cell):
        return {"mean": np.float64(1) / np.zeros(1)[0]}

    with pytest.raises(RuntimeWarning):
        small_study(measure).run(tmp_path / "w.json", [{"seed": 0}])


def test_rows_that_stay_open_are_written_down(tmp_path):
    def measure(cell):
        warnings.warn("1 of 1024 rows did not reach tol", ConvergenceWarning, stacklevel=2)
        return {"mean": 1.0}

    (row,) = small_study(measure).run(tmp_path / "w.json", [{"seed": 0}])
    assert row["warnings"] == ["1 of 1024 rows did not reach tol"]


def test_command_line(tmp_path, capsys):
    for arguments in (["--quick"], [], ["--again"]):
        small_study().main("Small.\n", [*arguments, "--out", str(tmp_path)])
    assert {path.name for path in tmp_path.iterdir()} == {
        f"small{kind}{ending}" for kind in ("", "_quick") for ending in (".json", ".txt", ".png")
    }
    printed = capsys.readouterr().out
    assert (tmp_path / "small.txt").read_text().strip() in printed
    pictures = (tmp_path / "small.png").read_bytes()
    small_study().main("Small.\n", ["--out", str(tmp_path)])
    assert (tmp_path / "small.png").read_bytes() == pictures


@pytest.mark.parametrize("name", ["lasso", "omp", "growth", "dictionary_learning"])
def test_benchmarks_without_their_peer(name, monkeypatch, capsys):
    """They say what they are, and how to get it."""
    folder = RESULTS.parents[1] / "benchmarks"
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setitem(sys.modules, "spams", None)
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit, match="0"):
        runpy.run_path(str(folder / f"{name}.py"), run_name="__main__")
    assert "--quick" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", [name])
    with pytest.raises(SystemExit, match=r"SPAMS is missing .*: pip install spams-bin"):
        runpy.run_path(str(folder / f"{name}.py"), run_name="__main__")


def test_no_processes(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        small_study().main("Small.\n", ["--jobs", "0", "--out", str(tmp_path)])
    assert "--jobs 0: give a number of processes, or -1" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", ["", "{", "[]", '{"cells": []}', "\xff"])
def test_damaged_results_are_named(tmp_path, content):
    path = tmp_path / "small.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(ValueError, match=r"small\.json' is damaged .*: restore it, or .* --again"):
        small_study().main("Small.\n", ["--out", str(tmp_path)])
    assert path.read_bytes() == content.encode("latin-1")
    small_study().main("Small.\n", ["--again", "--out", str(tmp_path)])
    assert json.loads(path.read_text())["complete"]


@pytest.mark.parametrize("arguments", [["--k", "0"], ["--factor", "-1"], ["--epochs", "2.5"]])
def test_the_language_model_experiment_checks_its_numbers_first(arguments, tmp_path, capsys):
    pytest.importorskip("transformers")
    main = importlib.import_module("language_model").main
    with pytest.raises(SystemExit, match="2"):
        main([*arguments, "--quick", "--out", str(tmp_path)])
    assert f"{arguments[1]!r} must be an integer of at least 1" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_rows_become_tables():
    rows = [
        {"data_set": 0, "start": 0, "x": 1.0},
        {"data_set": 0, "start": 1, "x": 2.0},
        {"data_set": 1, "start": 0, "x": 4.0},
    ]
    lists = by_data_set(rows, lambda row: row["x"])
    np.testing.assert_array_equal(lists, [[1, 2], [4, np.nan]])
    assert mean(rows, lambda row: row["x"]) == 2.75
    _, low, high = mean_interval([1.5, 4.0])
    assert with_interval(lists) == f"2.750 ± {(high - low) / 2:.3f}"
    assert interval(rows, "x") == with_interval(lists)
    assert with_interval([2.0]) == "2.000"
    assert list(group(rows, "data_set", "start")) == [(0, 0), (0, 1), (1, 0)]
    lines = table(("name", "x"), [("a", 1.0), ("long", None)]).splitlines()
    assert lines == ["name      x", "-----------", "a     1.000", "long"]


# every script


@pytest.mark.parametrize("name", SCRIPTS)
def test_cells(load, name):
    module = load(name)
    assert module.STUDY.name == name
    quick, full = module.STUDY.cells(True), module.STUDY.cells(False)
    for cells in (quick, full):
        assert len({json.dumps(cell, sort_keys=True) for cell in cells}) == len(cells)
        if name != "wall_clock":
            assert len({cell["data_set"] for cell in cells}) >= 2  # intervals need them
    assert len(full) >= len(quick)
    assert "--quick" in module.__doc__


KEPT = sorted(RESULTS.glob("*.json"))


@pytest.mark.parametrize("path", KEPT, ids=[path.stem for path in KEPT])
def test_kept_results_say_what_their_text_says(load, path):
    module = load(path.stem.removesuffix("_quick"))
    kept = json.loads(path.read_text())
    assert kept["complete"]
    cells = [entry["cell"] for entry in kept["cells"]]
    rows = [
        {**entry["cell"], **entry["values"], **timings}
        for entry, timings in zip(kept["cells"], kept["timings"], strict=True)
    ]
    assert path.with_suffix(".txt").read_text() == module.STUDY.report(rows) + "\n"
    assert cells == study._plain(module.STUDY.cells(path.stem.endswith("_quick")))
    assert module.STUDY.draw(rows).axes
    assert path.with_suffix(".png").exists()


def best_kept(name):
    """The full run, where there is one."""
    return name if (RESULTS / f"{name}.json").exists() else f"{name}_quick"


def test_the_guide_shows_what_is_kept():
    guide = (RESULTS.parents[1] / "docs" / "user_guide" / "experiments.rst").read_text()
    for name in SCRIPTS:
        shown = best_kept(name)
        assert f"results/{shown}.txt" in guide
        assert f"results/{shown}.png" in guide
        assert (RESULTS / f"{name}_quick.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_quick_runs(load, name, tmp_path, capsys):
    load(name).STUDY.main("Quick.", ["--quick", "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    assert "Answer" in printed
    assert name == "wall_clock" or "chance" in printed.lower()
    again = tmp_path / "again"
    load(name).STUDY.main("Quick.", ["--quick", "--out", str(again)])
    file = f"{name}_quick.json"
    assert without_timings(tmp_path / file) == without_timings(again / file)


# what is particular to some


def test_pairs_of_the_unseen_split_were_never_seen(load):
    composition = load("composition")
    data = composition.split_by_pairs(600, 300, seed=5)
    train, seen, unseen = ((codes != 0).astype(int) for _, codes in map(data.get, _SPLITS))
    together = train.T @ train
    np.fill_diagonal(together, 0)
    for active in unseen:
        places = np.flatnonzero(active)
        assert len(places) == composition.K
        assert not together[np.ix_(places, places)].any()
    assert (train.sum(0) > 0).all()  # every latent was seen
    assert ((seen.T @ seen)[together == 0].sum() - np.trace(seen.T @ seen)) < seen.sum() / 2
    np.testing.assert_allclose(data.seen[0], data.seen[1] @ data.dictionary)


_SPLITS = ("train", "seen", "unseen")


def test_losses_add_up_to_what_is_missing(load):
    composition = load("composition")
    cell = {"data_set": 0, "n": 600, "max_iter": 5, "n_init": 1}
    row = {**cell, **composition.measure(cell)}
    for name, found in row["methods"].items():
        for split in composition.SPLITS:
            lost = composition.losses([row], name, split)
            missing = row["levels"][split]["ceiling"] - found[split]["itself"]
            assert sum(lost.values()) == pytest.approx(missing)


def test_operations_in_both_ways_of_counting(load):
    methods = load("methods")
    data = methods.planted(200, 8, 16, 3, random_state=0)
    given = {"dictionary": data.dictionary, "max_iter": 2, "random_state": 0}

    def of(encoder):
        return methods.operations(encoder.fit(data.X_train), data)

    sae, unrolled = of(SAEEncoder(tol=0, **given)), of(UnrolledEncoder(**given))
    assert sae["inference"] == {"exact": 2 * 16 * 8, "paper": 4 * 16 * 8 + 16}
    assert sae["training"]["paper"] == 2 * 200 * (10 * 16 * 8 + 5 * 16)
    assert unrolled["training"]["paper"] is unrolled["inference"]["paper"] is None
    assert unrolled["inference"]["exact"] == 10 * 16 * 8
    exact = of(SparseCodingEncoder(dictionary=data.dictionary))
    assert exact["training"] == {"exact": 0, "paper": 0}
    assert exact["inference"]["paper"] > exact["inference"]["exact"] > 2 * 16 * 8


def test_alpha_is_tuned_to_the_wanted_sparsity(load):
    variants = load("variants")
    cell = {
        "rows": "planted",
        "method": "ReLU",
        "data_set": 0,
        "n": 600,
        "N": 32,
        "M": 16,
        "k": 3,
        "max_iter": 30,
        "rates": [1e-2],
        "halvings": 5,
        "n_init": 1,
    }
    data = variants._planted(cell)
    encoder, tried = variants.tuned(cell, data)
    assert tried == 7
    assert l0(encoder.transform(data.X_validation)) == pytest.approx(3, rel=0.1)
    topk = variants.tuned({**cell, "method": "TopK"}, data)[0]
    assert l0(topk.transform(data.X_test)) <= 3
    refined = variants.tuned({**cell, "method": "TopK + ITO"}, data)[0]
    assert refined.score(data.X_test) > topk.score(data.X_test)


def test_rows_of_the_large_scale_lie_on_disk_and_share_a_dictionary(load, monkeypatch):
    large = load("large_scale")
    monkeypatch.setattr(large, "CHUNK", 150)
    sizes = {"n": 400, "n_coding": 400, "N": 24, "M": 12, "k": 3, "shares": [0.1, 1.0]}
    cell = {**sizes, "data_set": 1, "method": "truth"}
    with large.planted_store(cell) as data:
        folder, rows = data.X_train.path, data.X_train[:].astype(float)
        parts = [large.planted_rows(cell, 2 + i, n) for i, n in enumerate((150, 150, 100))]
        planted = np.concatenate([part.codes.toarray() for part in parts])
        np.testing.assert_allclose(rows, planted @ data.dictionary, atol=1e-2)  # half precision
        assert len(np.unique(planted, axis=0)) == 400  # no chunk is another's copy
        np.testing.assert_allclose(data.X_test, data.codes_test @ data.dictionary, atol=1e-5)
        truth, tried = large.fitted(cell, data)
        topk, _ = large.fitted({**cell, **FEW_STEPS, "method": "TopK"}, data)
    assert not folder.exists()
    assert tried == 1
    np.testing.assert_array_equal(truth.components_, data.dictionary)
    assert truth.score(data.X_test) > topk.score(data.X_test)
    assert topk.n_iter_ == FEW_STEPS["max_iter"]


FEW_STEPS = {"max_iter": 2, "rates": [1e-2], "halvings": 1}


def test_growth_has_the_gap_and_the_theorems_beside_it(load):
    growth = load("gap_growth")
    small = {"line": "active", "N": 8, "data_set": 0, "n": 400, "max_iter": 30}
    found = [growth.measure({**small, "M": M, "K": 2}) for M in (4, 8)]
    assert all(0 < f["gap"] <= f["gap_at_most"] for f in found)
    assert found[1]["transition"] == pytest.approx(8)  # as many features as atoms: all are found
    assert found[0]["transition"] == pytest.approx(4 * 0.5582, abs=1e-3)
    assert found[0]["guaranteed"] >= 1
    assert found[1]["mcc"] > found[0]["mcc"]


def test_frontier_counts_what_the_layers_do(load):
    frontier = load("frontier")
    cell = {
        "size": "small",
        "data_set": 0,
        "n": 300,
        "max_iter": 3,
        "unrolled": [1, 2],
        "ito": [1, 50],
        "widths": [4],
    }
    row = frontier.measure(cell)
    flops = {(p["method"], p["setting"]): p["flops"] for p in row["points"]}
    assert flops["SAE", 1] == flops["unrolled", 1] == 2 * 16 * 8
    assert flops["unrolled", 2] == 3 * flops["SAE", 1]
    assert flops["MLP", 4] == 2 * 4 * (16 + 8)
    mcc = {(p["method"], p["setting"]): p["mcc"] for p in row["points"]}
    assert mcc["SAE + ITO", 50] > mcc["SAE + ITO", 1]
    assert mcc["exact codes", 1] == row["ceiling"]
    assert len(row["timings"]["seconds_of_a_row"]) == len(row["points"])


def test_numbers_quoted_in_the_guide_are_those_of_the_results():
    page = (RESULTS.parents[1] / "docs" / "user_guide" / "claims.rst").read_text()
    n_quoted = 0
    for line in page.split("\n   * - ")[2:]:
        *_, found, where = line.split("\n     - ")
        script = re.search(r"experiments/(\w+)\.py", where)
        if script:
            kept = (RESULTS / f"{best_kept(script[1])}.txt").read_text()
            numbers = re.findall(r"\b\d\.\d{3}\b", found)
            assert numbers, line
            assert [n for n in numbers if n not in kept] == [], line
            n_quoted += len(numbers)
    assert n_quoted > 20
