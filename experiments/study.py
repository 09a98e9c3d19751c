"""What all experiments share: cells that are measured once and kept, tables, and the JSON file.

An experiment is a list of cells, plain parameters from which everything in them follows, seeds
included. Each is measured on its own, on one thread, and written down as soon as it is done, so
that a run that was killed goes on from the finished ones. What a clock or the memory says differs
from run to run: it is kept apart in the file, under "timings", and the rest is the same for the
same seed, versions and machine.

    results/NAME.json, .txt, .png             the full run
    results/NAME_quick.json, .txt, .png       the quick one
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits

import sparsecode_estimators
from sparsecode_estimators.plotting import mean_interval

RESULTS = Path(__file__).parent / "results"
Cell = dict[str, Any]


@dataclass(frozen=True)
class Study:
    """One experiment.

    Attributes
    ----------
    name : str
        Of its files.
    cells : callable
        ``cells(quick)``: a list of dicts that JSON can hold, no two alike.
    measure : callable
        ``measure(cell)``: a dict that JSON can hold. What may differ from run to run is under
        "timings", a dict. It must be importable, or defined in the script that runs. Warnings that
        rows did not converge are kept beside it, others end the run.
    report : callable
        ``report(rows)``: tables and an answer, as text. A row is a cell, what was measured and
        its timings in one dict.
    draw : callable
        ``draw(rows)``: the figure.
    """

    name: str
    cells: Callable[[bool], list[Cell]]
    measure: Callable[[Cell], dict[str, Any]]
    report: Callable[[list[Cell]], str]
    draw: Callable[[list[Cell]], Any]

    def main(self, doc: str, arguments: Sequence[str] | None = None) -> None:
        """Run from the command line: measure what is missing, print, draw."""
        parser = argparse.ArgumentParser(description=doc.splitlines()[0])
        parser.add_argument("--quick", action="store_true", help="small, in a minute or two")
        parser.add_argument("--jobs", type=int, default=1, help="processes")
        parser.add_argument("--again", action="store_true", help="forget cells that are finished")
        parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
        args = parser.parse_args(arguments)
        if args.jobs == 0:
            parser.error("--jobs 0: give a number of processes, or -1 for all processors")
        path = args.out / f"{self.name}{'_quick' if args.quick else ''}.json"
        if args.again:
            path.unlink(missing_ok=True)
        begin = time.perf_counter()
        rows = self.run(path, self.cells(args.quick), n_jobs=args.jobs)
        text = self.report(rows)
        print(f"{text}\n\n{len(rows)} cells, {time.perf_counter() - begin:.0f} s in this run")
        write_atomically(path.with_suffix(".txt"), text + "\n")
        figure = self.draw(rows)
        with atomically(path.with_suffix(".png")) as temporary:
            # neither a date nor a version, so that the same numbers are the same file
            figure.savefig(temporary, format="png", dpi=80, metadata={"Software": None})
        print(f"Numbers and figure: {path}, {path.with_suffix('.png').name}")

    def run(self, path: Path, cells: list[Cell], *, n_jobs: int = 1) -> list[Cell]:
        """Rows of all cells: those that the file has, and the others measured now."""
        results = Results(path, cells)
        missing = [i for i, found in enumerate(results.measured) if found is None]
        tasks = (delayed(_on_one_thread)(self.measure, i, cells[i]) for i in missing)
        for i, found in Parallel(n_jobs=n_jobs, return_as="generator_unordered")(tasks):
            results.keep(i, found)
        results.write()
        return results.rows()


class Results:
    """The cells of a file, in their order, and what has been measured of them."""

    def __init__(self, path: Path, cells: list[Cell]):
        self.path = path
        self.cells = _plain(cells)
        if len({_key(cell) for cell in self.cells}) < len(cells):
            raise ValueError("Two cells are alike: give each parameters of its own.")
        self.environment = environment()
        known = self._read()
        self.measured = [known.get(_key(cell)) for cell in self.cells]

    def _read(self) -> dict[str, dict]:
        """What the file knows, if the same versions have written it."""
        if not self.path.exists():
            return {}
        try:
            kept = json.loads(self.path.read_text(encoding="utf-8"))
            if kept["environment"] != self.environment:
                return {}
            pairs = zip(kept["cells"], kept["timings"], strict=True)
            return {
                _key(entry["cell"]): {**entry["values"], "timings": timings}
                for entry, timings in pairs
            }
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"{str(self.path)!r} is damaged ({type(error).__name__}: {error}): restore it, or "
                "measure all cells --again."
            ) from error

    def keep(self, i: int, found: dict[str, Any]) -> None:
        """Write down one cell at once."""
        self.measured[i] = _plain(found)
        self.write()

    def write(self) -> None:
        done = [
            (cell, dict(found))
            for cell, found in zip(self.cells, self.measured, strict=True)
            if found is not None
        ]
        timings = [found.pop("timings", {}) for _, found in done]
        content = {
            "environment": self.environment,
            "complete": len(done) == len(self.cells),
            "cells": [{"cell": cell, "values": found} for cell, found in done],
            "timings": timings,
        }
        write_atomically(self.path, json.dumps(content, indent=1, allow_nan=False) + "\n")

    def rows(self) -> list[Cell]:
        found = [dict(measured) for measured in self.measured if measured is not None]
        return [
            {**cell, **values, **values.pop("timings", {})}
            for cell, values in zip(self.cells, found, strict=True)
        ]


def count(text: str) -> int:
    """A number on the command line, at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be an integer of at least 1")
    return int(text)


def _on_one_thread(measure: Callable, i: int, cell: Cell) -> tuple[int, dict[str, Any]]:
    """Measure one cell, in the same arithmetic however many run beside it."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        # NumPy's products have threads of their own, and a last digit that depends on them
        with threadpool_limits(1), warnings.catch_warnings(record=True) as open_rows:
            warnings.simplefilter("error")
            warnings.simplefilter("always", ConvergenceWarning)  # a few rows of many may stay open
            begin = time.perf_counter()
            found = measure(cell)
            timings = {**found.pop("timings", {}), "seconds": time.perf_counter() - begin}
        if open_rows:
            found["warnings"] = [str(warning.message) for warning in open_rows]
        return i, {**found, "timings": timings}
    finally:
        torch.set_num_threads(threads)


def environment() -> dict[str, str]:
    """Versions on which the numbers may depend."""
    packages = ("numpy", "scipy", "scikit-learn", "torch")
    return {
        "sparsecode_estimators": sparsecode_estimators.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        **{package: version(package) for package in packages},
    }


def _plain(value: Any) -> Any:
    """What JSON gives back: tuples as lists, NumPy's numbers as Python's."""
    return json.loads(json.dumps(value, default=_number, allow_nan=False))


def _number(value: Any) -> Any:
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    raise TypeError(f"{value!r} of {type(value)} has no place in a JSON file.")


def _key(cell: Cell) -> str:
    return json.dumps(cell, sort_keys=True)


@contextlib.contextmanager
def atomically(path: Path):
    """A file of another name in the same folder, which takes the place of ``path`` at the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        yield Path(name)
        os.chmod(name, 0o644)  # mkstemp makes it private
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def write_atomically(path: Path, text: str) -> None:
    """The whole text, or what was there before."""
    with atomically(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def table(header: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """Columns as wide as they need to be, numbers to three digits."""
    text = [[_cell(value) for value in row] for row in (header, *rows)]
    widths = [max(len(row[i]) for row in text) for i in range(len(text[0]))]
    lines = [
        "  ".join(
            c.ljust(w) if i == 0 else c.rjust(w)
            for i, (c, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in text
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.3f}" if isinstance(value, (float, np.floating)) else str(value)


def with_interval(values: Any) -> str:
    """Mean and half the width of its interval over data sets."""
    mean, low, high = mean_interval(values)
    return f"{mean:.3f}" if np.isnan(low) else f"{mean:.3f} ± {(high - low) / 2:.3f}"


def group(rows: Iterable[Cell], *keys: str) -> dict[Any, list[Cell]]:
    """Rows by the values of their keys, in the order of their first appearance."""
    groups: dict[Any, list[Cell]] = {}
    for row in rows:
        value = row[keys[0]] if len(keys) == 1 else tuple(row[key] for key in keys)
        groups.setdefault(value, []).append(row)
    return groups


def by_data_set(rows: Iterable[Cell], value: Callable[[Cell], float]) -> list[list[float]]:
    """One list a data set, one number a start: what `mean_interval` takes."""
    lists = [[value(row) for row in same] for same in group(rows, "data_set").values()]
    longest = max(len(row) for row in lists)
    return [row + [np.nan] * (longest - len(row)) for row in lists]


def mean(rows: Iterable[Cell], value: Callable[[Cell], float]) -> float:
    """Over data sets, starts averaged before."""
    return mean_interval(by_data_set(rows, value))[0]


def interval(rows: Iterable[Cell], key: str) -> str:
    """Mean of what is under a key and half the width of its interval over data sets."""
    return with_interval(by_data_set(rows, lambda row: row[key]))
