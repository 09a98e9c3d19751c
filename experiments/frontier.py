"""Which way to a code recovers most for its price?

    python experiments/frontier.py [--quick] [--jobs 2]

The compute-optimal frontier: an SAE, MLPs, unrolled encoders of 1 to 20 steps, inference-time
optimisation (ITO) of 1 to 200 iterations from the SAE's codes, and the exact codes. All have the
true dictionary and otherwise the package's defaults, which are a larger alpha for what guesses than
for what solves. The price are operations and seconds of a row. Operations are those that run, from
rows to codes; for solvers they are counted in the run, certificates included. By the paper's
formulas, which stand beside them, decoding is part of the price. Seconds belong to one machine, one
thread, 1,000 rows at a time. Chance is that of random projections behind a ReLU, the ceiling are
exact codes.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from methods import bounds, planted
from sklearn.frozen import FrozenEstimator
from study import Study, by_data_set, interval, mean, table, with_interval

from sparsecode_estimators import (
    ITORefiner,
    MLPEncoder,
    SAEEncoder,
    SparseCodingEncoder,
    UnrolledEncoder,
)
from sparsecode_estimators.metrics import mean_corr_coef
from sparsecode_estimators.plotting import FrontierDisplay
from sparsecode_estimators.theory import count_flops

SIZES = {"small": (16, 8, 3), "large": (256, 64, 8)}


def cells(quick: bool) -> list[dict]:
    steps = {"unrolled": [1, 2, 5], "ito": [1, 3, 10, 30, 100], "widths": [32, 256]}
    if not quick:
        steps = {
            "unrolled": [1, 2, 3, 5, 10, 20],
            "ito": [1, 2, 3, 5, 10, 20, 50, 100, 200],
            "widths": [32, 256, 1024],
        }
    return [
        {
            "size": size,
            "data_set": data_set,
            "n": 1024 if size == "small" else 4096,
            "max_iter": 60 if quick else 200,
            **steps,
        }
        for size in (["small"] if quick else SIZES)
        for data_set in range(3 if quick else 5)
    ]


def measure(cell: dict) -> dict[str, Any]:
    N, M, K = SIZES[cell["size"]]
    data = planted(cell["n"], M, N, K, random_state=7_400 + cell["data_set"])
    X = data.X_test
    points, seconds = [], []
    for method, setting, encoder in _encoders(cell, data):
        points.append(
            {
                "method": method,
                "setting": setting,
                "flops": count_flops(encoder, X) / len(X),
                # their formulas know no unrolled encoder
                "paper_flops": None
                if method == "unrolled"
                else count_flops(encoder, X, convention="paper") / len(X),
                "mcc": mean_corr_coef(data.codes_test, encoder.transform(X)),
            }
        )
        seconds.append(_seconds(encoder, X))
    return {"points": points, **bounds(data), "timings": {"seconds_of_a_row": seconds}}


def _encoders(cell: dict, data: Any) -> Any:
    """Method, its setting, and the fitted encoder."""
    D = data.dictionary
    options = {"dictionary": D, "max_iter": cell["max_iter"], "random_state": cell["data_set"]}
    sae = SAEEncoder(**options).fit(data.X_train)
    yield "SAE", 1, sae
    for width in cell["widths"]:
        yield "MLP", width, MLPEncoder(hidden_layer_sizes=(width,), **options).fit(data.X_train)
    for steps in cell["unrolled"]:
        yield "unrolled", steps, UnrolledEncoder(n_steps=steps, **options).fit(data.X_train)
    for steps in cell["ito"]:
        solver = {"solver": "fista", "max_iter": steps, "tol": None}
        ito = ITORefiner(FrozenEstimator(sae), alpha="auto", **solver)
        yield "SAE + ITO", steps, ito.fit(data.X_train)
    yield "exact codes", 1, SparseCodingEncoder(dictionary=D).fit(data.X_train)


def _seconds(encoder: Any, X: np.ndarray, n_repeats: int = 5) -> float:
    """Of a row, processor time, the least of several."""
    taken = []
    for _ in range(n_repeats):
        begin = time.process_time()
        encoder.transform(X)
        taken.append(time.process_time() - begin)
    return min(taken) / len(X)


def points_of(rows: list[dict]) -> dict[tuple[str, int], dict[str, Any]]:
    """For each method and setting its price, and its recovery on each data set."""
    found = {}
    for i, point in enumerate(rows[0]["points"]):
        found[point["method"], point["setting"]] = {
            "flops": mean(rows, lambda row, i=i: row["points"][i]["flops"]),
            "paper_flops": point["paper_flops"]
            and mean(rows, lambda row, i=i: row["points"][i]["paper_flops"]),
            "seconds": mean(rows, lambda row, i=i: row["seconds_of_a_row"][i]),
            "mcc": by_data_set(rows, lambda row, i=i: row["points"][i]["mcc"]),
        }
    return found


def display(rows: list[dict], cost: str, ax: Any = None) -> FrontierDisplay:
    curves: dict[str, dict[str, list]] = {}
    for (method, _), point in points_of(rows).items():
        curve = curves.setdefault(method, {"cost": [], "score": []})
        curve["cost"].append(point[cost])
        curve["score"].append(np.mean(point["mcc"], axis=1))
    names = {"flops": "operations of a row", "seconds": "seconds of a row"}
    return FrontierDisplay.from_results(
        curves,
        cost_name=names[cost],
        chance=mean(rows, lambda row: row["chance"]),
        ceiling=mean(rows, lambda row: row["ceiling"]),
        ax=ax,
    )


def report(rows: list[dict]) -> str:
    import matplotlib.pyplot as plt

    text = []
    for size, (N, M, K) in SIZES.items():
        same = [row for row in rows if row["size"] == size]
        if not same:
            continue
        front = {cost: display(same, cost).front_ for cost in ("flops", "seconds")}
        plt.close("all")
        text += [f"N={N} M={M} K={K}, mean ± 95 % over data sets\n", _table(same, front)]
        text += ["\n" + _answer(same, front, size) + "\n"]
    return "\n".join(text).rstrip()


def _table(rows: list[dict], front: dict[str, list]) -> str:
    on = {cost: _settings(rows, places) for cost, places in front.items()}
    lines = [
        (
            method,
            setting,
            f"{point['flops']:,.0f}",
            point["paper_flops"] and f"{point['paper_flops']:,.0f}",
            f"{1e6 * point['seconds']:.2f}",
            with_interval(point["mcc"]),
            ", ".join(cost for cost in on if (method, setting) in on[cost]) or None,
        )
        for (method, setting), point in points_of(rows).items()
    ]
    for key in ("chance", "ceiling"):
        lines.append((key, None, None, None, None, interval(rows, key), None))
    header = (
        "method",
        "width or steps",
        "operations",
        "the paper's",
        "µs",
        "recovery (MCC)",
        "on the front of",
    )
    return table(header, lines)


def _settings(rows: list[dict], places: list[tuple[str, int]]) -> list[tuple[str, int]]:
    """From places on curves to methods and their settings."""
    settings: dict[str, list[int]] = {}
    for method, setting in points_of(rows):
        settings.setdefault(method, []).append(setting)
    return [(method, settings[method][i]) for method, i in places]


def _answer(rows: list[dict], front: dict[str, list], size: str) -> str:
    parts = []
    for cost, name in (("flops", "operations"), ("seconds", "seconds on this machine")):
        path = _settings(rows, front[cost])
        shown = ", ".join(
            method if method in ("SAE", "exact codes") else f"{method} {setting}"
            for method, setting in path
        )
        parts.append(f"Counted in {name} the front is, from cheap to dear: {shown}.")
    return f"Answer ({size}). " + " ".join(parts)


def draw(rows: list[dict]) -> Any:
    import matplotlib.pyplot as plt

    sizes = [size for size in SIZES if any(row["size"] == size for row in rows)]
    figure, axes = plt.subplots(
        len(sizes), 2, figsize=(12.5, 4.2 * len(sizes)), layout="constrained", squeeze=False
    )
    for line, size in zip(axes, sizes, strict=True):
        same = [row for row in rows if row["size"] == size]
        for ax, cost in zip(line, ("flops", "seconds"), strict=True):
            display(same, cost, ax)
            ax.set_title("N={} M={} K={}".format(*SIZES[size]), loc="left")
        line[0].get_legend().remove()
    return figure


STUDY = Study("frontier", cells, measure, report, draw)

if __name__ == "__main__":
    STUDY.main(__doc__)
