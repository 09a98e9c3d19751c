"""The paper's three scenarios: how much of the truth does each method recover?

    python experiments/scenarios.py [--quick] [--jobs 2]

With known codes, with a known dictionary, and with nothing known (arXiv 2411.13117, section 4), by
encoders of one pass, unrolled ones, inference-time optimisation and sparse coding. The paper has
one data set and five starts; here there are five of each, the paper's own data set first. Settings
are the package's defaults; ``paper_studies.py`` has the paper's own recipe.

Known codes are scored by the correlation of columns that are already in order, the others under
the best matching. Chance is that of random projections behind a ReLU (known codes: of the true
codes of other rows); the ceiling are exact codes for the true dictionary.

Operations are counted in both ways of ``theory.count_flops``: "exact" is what runs, "paper" the
paper's formulas, which know no unrolled encoder, charge decoding to inference, and the batch twice
to the training of sparse coding. Inference is of a row, training of the whole fit. ITO has the
training of its SAE.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from methods import CONVENTIONS, PAPER, bounds, fitted, judged, known_codes, operations, paper_data
from study import Study, by_data_set, group, interval, mean, table, with_interval

from sparsecode_estimators.plotting import RecoveryDisplay, mean_interval

TITLES = {
    "known_codes": "codes known (aligned correlation)",
    "known_dictionary": "dictionary known (MCC)",
    "unknown": "nothing known (MCC)",
}


def cells(quick: bool) -> list[dict]:
    data_sets, starts = (3, 1) if quick else (5, 5)
    return [
        {"scenario": scenario, "data_set": data_set, "start": start}
        for scenario in TITLES
        for data_set in range(data_sets)
        for start in range(starts)
    ]


def measure(cell: dict) -> dict[str, Any]:
    data = paper_data(cell["scenario"], cell["data_set"])
    if cell["scenario"] == "known_codes":
        return known_codes(data, cell["start"], also=_price)
    known = cell["scenario"] == "known_dictionary"
    found = fitted(data, cell["start"], known=known)
    return {
        "methods": {
            name: {**judged(encoder, data), **_price(encoder, data)}
            for name, encoder in found.items()
        },
        **bounds(data),
    }


def _price(encoder: Any, data: Any) -> dict[str, Any]:
    return {"flops": operations(encoder, data)}


def scores(rows: list[dict], key: str = "mcc") -> dict[str, list[list[float]]]:
    """For every method one list a data set, one number a start."""
    return {
        name: by_data_set(rows, lambda row, name=name: row["methods"][name][key])
        for name, values in rows[0]["methods"].items()
        if key in values
    }


def report(rows: list[dict]) -> str:
    text = [
        f"{TITLES[scenario]}, mean ± 95 % over data sets\n\n{_table(same, scenario)}\n\n"
        f"operations, mean over data sets\n\n{_operations(same)}\n"
        for scenario, same in group(rows, "scenario").items()
    ]
    return "\n".join([*text, _answer(rows)])


def _operations(rows: list[dict]) -> str:
    columns = [
        (phase, convention) for phase in ("inference", "training") for convention in CONVENTIONS
    ]
    header = ("method", *(f"{phase}, {convention}" for phase, convention in columns))
    return table(
        header,
        [
            (name, *(_count(rows, name, *column) for column in columns))
            for name in rows[0]["methods"]
        ],
    )


def _count(rows: list[dict], name: str, phase: str, convention: str) -> str | None:
    def value(row: dict) -> float | None:
        return row["methods"][name]["flops"][phase][convention]

    if value(rows[0]) is None:
        return None
    found = mean(rows, value)
    return f"{found:,.0f}" if phase == "inference" else f"{found:.2e}"


def _table(rows: list[dict], scenario: str) -> str:
    atoms = scores(rows, "dictionary") if scenario == "unknown" else {}
    lines: list[tuple] = [
        (
            name,
            with_interval(values),
            float(np.min(values)),
            PAPER[scenario].get(name),
            with_interval(atoms[name]) if atoms else None,
        )
        for name, values in scores(rows).items()
    ]
    for name in ("chance", "ceiling"):
        latent = interval(rows, name)
        random = interval(rows, "chance_dictionary") if atoms and name == "chance" else None
        lines.append((name, latent, None, None, random))
    return table(("method", "recovery", "least", "paper", "atoms, |cos|"), lines)


def _answer(rows: list[dict]) -> str:
    parts = []
    for scenario, same in group(rows, "scenario").items():
        means = {name: mean_interval(values)[0] for name, values in scores(same).items()}
        best = max(means, key=lambda name: means[name])
        parts.append(
            f"{TITLES[scenario]}: {best} recovers most, {means[best]:.3f} of a ceiling of "
            f"{mean(same, lambda row: row['ceiling']):.3f}, the SAE {means['SAE']:.3f}, the "
            f"paper's best {max(PAPER[scenario].values()):.3f}."
        )
    return "Answer. " + "\n".join(parts)


def draw(rows: list[dict]) -> Any:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(14, 3.6), layout="constrained")
    for ax, (scenario, same) in zip(axes, group(rows, "scenario").items(), strict=True):
        RecoveryDisplay.from_results(
            scores(same),
            chance=mean(same, lambda row: row["chance"]),
            ceiling=mean(same, lambda row: row["ceiling"]),
            metric=TITLES[scenario],
            ax=ax,
        )
    return figure


STUDY = Study("scenarios", cells, measure, report, draw)

if __name__ == "__main__":
    STUDY.main(__doc__)
