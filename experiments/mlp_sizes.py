"""How wide and deep must an encoder be to recover a given share of the truth?

    python experiments/mlp_sizes.py [--quick] [--jobs 2]

The paper's next check: MLP encoders of one to three hidden layers over widths, with the true
dictionary kept fixed (16 atoms in 8 dimensions, 3 active), beside the SAE, which has no hidden
layer. The smallest width that reaches a given recovery (MCC) is the answer; operations of a row are
those of the layers, a multiply-add being two. Chance is that of random projections behind a ReLU;
the ceiling are exact codes, with the operations that the solver counted.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from methods import bounds, judged, paper_data
from study import Study, by_data_set, group, interval, mean, table

from sparsecode_estimators import MLPEncoder, SAEEncoder, SparseCodingEncoder
from sparsecode_estimators.plotting import FrontierDisplay
from sparsecode_estimators.theory import count_flops

TARGETS = (0.85, 0.9, 0.925, 0.95)


def cells(quick: bool) -> list[dict]:
    widths = (16, 64, 256) if quick else (8, 16, 32, 64, 128, 256, 512, 1024)
    depths = (1, 2) if quick else (1, 2, 3)
    layers = [[], *([width] * depth for depth in depths for width in widths)]
    starts = 1 if quick else 3
    return [
        {
            "layers": hidden,
            "data_set": data_set,
            "start": start,
            "max_iter": 60 if quick else 200,
        }
        for hidden in layers
        for data_set in range(3 if quick else 5)
        for start in range(starts)
    ]


def measure(cell: dict) -> dict[str, Any]:
    data = paper_data("known_dictionary", cell["data_set"])
    hidden = cell["layers"]
    options = {
        "dictionary": data.dictionary,
        "max_iter": cell["max_iter"],
        "random_state": cell["start"],
    }
    encoder = MLPEncoder(hidden_layer_sizes=hidden, **options) if hidden else SAEEncoder(**options)
    encoder.fit(data.X_train)
    exact = SparseCodingEncoder(dictionary=data.dictionary).fit(data.X_train)
    n = len(data.X_test)
    return {
        **judged(encoder, data),
        **bounds(data),
        "flops": count_flops(encoder, n) / n,
        "flops_exact": count_flops(exact, data.X_test) / n,
    }


def name_of(layers: list[int]) -> str:
    if not layers:
        return "no hidden layer (SAE)"
    return f"{len(layers)} hidden layer{'s' if len(layers) > 1 else ''}"


def report(rows: list[dict]) -> str:
    lines = []
    for same in group([{**row, "key": str(row["layers"])} for row in rows], "key").values():
        layers = same[0]["layers"]
        lines.append(
            (
                name_of(layers),
                layers[0] if layers else None,
                f"{same[0]['flops']:.0f}",
                interval(same, "mcc"),
                mean(same, lambda row: row["explained_variance"]),
                f"{mean(same, lambda row: row['l0']):.1f}",
            )
        )
    for key in ("chance", "ceiling"):
        values = interval(rows, key)
        flops = f"{mean(rows, lambda r: r['flops_exact']):.0f}" if key == "ceiling" else None
        lines.append((key, None, flops, values, None, None))
    header = ("encoder", "width", "operations", "recovery (MCC)", "expl. var.", "L0")
    depths = sorted({len(row["layers"]) for row in rows} - {0})
    smallest = [
        (f"{target:g}", *(_smallest(rows, depth, target) or "none" for depth in depths))
        for target in TARGETS
    ]
    return "\n".join(
        [
            "Mean ± 95 % over data sets\n",
            table(header, lines),
            "\nSmallest width of those tried whose mean recovery reaches\n",
            table(("MCC", *(name_of([1] * depth) for depth in depths)), smallest),
            "\n" + _answer(rows, depths),
        ]
    )


def _smallest(rows: list[dict], depth: int, target: float) -> int | None:
    widths = group(
        [{**row, "width": row["layers"][0]} for row in rows if len(row["layers"]) == depth],
        "width",
    )
    reached = [w for w, same in widths.items() if mean(same, lambda row: row["mcc"]) >= target]
    return min(reached, default=None)


def _answer(rows: list[dict], depths: list[int]) -> str:
    widest = max(max(row["layers"], default=0) for row in rows)
    best = {
        depth: max(
            mean(same, lambda row: row["mcc"])
            for same in group(
                [{**r, "key": str(r["layers"])} for r in rows if len(r["layers"]) == depth], "key"
            ).values()
        )
        for depth in (0, *depths)
    }
    deep = max(best, key=lambda depth: best[depth])
    ceiling = mean(rows, lambda row: row["ceiling"])
    reached = [target for target in TARGETS if _smallest(rows, 1, target)]
    first = (
        f"One hidden layer reaches {reached[-1]:g} from width {_smallest(rows, 1, reached[-1])} on"
        if reached
        else f"One hidden layer does not reach {TARGETS[0]:g}"
    )
    return (
        f"Answer. {first}; the best up to width {widest} has {deep} hidden layers and recovers "
        f"{best[deep]:.3f}, the SAE {best[0]:.3f}, exact codes {ceiling:.3f}."
    )


def draw(rows: list[dict]) -> Any:
    curves: dict[str, dict[str, list]] = {}
    for same in group([{**row, "key": str(row["layers"])} for row in rows], "key").values():
        curve = curves.setdefault(name_of(same[0]["layers"]), {"cost": [], "score": []})
        curve["cost"].append(same[0]["flops"])
        scores = by_data_set(same, lambda row: row["mcc"])
        curve["score"].append(np.mean(scores, axis=1))
    exact = by_data_set(rows, lambda row: row["ceiling"])
    cost = mean(rows, lambda row: row["flops_exact"])
    curves["exact codes"] = {"cost": [cost], "score": [np.mean(exact, axis=1)]}
    return FrontierDisplay.from_results(
        curves,
        chance=mean(rows, lambda row: row["chance"]),
        ceiling=mean(rows, lambda row: row["ceiling"]),
    ).figure_


STUDY = Study("mlp_sizes", cells, measure, report, draw)

if __name__ == "__main__":
    STUDY.main(__doc__)
