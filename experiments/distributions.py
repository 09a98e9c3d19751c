"""Which methods are robust to how latents fire, and how strongly?

    python experiments/distributions.py [--quick] [--jobs 2]

The paper's third open question. Nothing is known; 32 atoms in 16 dimensions, 3 active. Supports are
uniform, by Zipf's law with exponents from 0 to 2, correlated in groups, or hierarchical; amplitudes
half-normal, exponential, or of power laws with exponents 3 and 1.5 (of infinite variance).
Robustness is the recovery under a distribution as a share of that under the uniform one; the
worst of them says how far a method can be relied on. Chance is that of random projections behind a
ReLU, the ceiling are exact codes for the true dictionary: what they lose no method could keep.
"""

from __future__ import annotations

from typing import Any

from methods import bounds, fitted, judged, planted
from study import Study, by_data_set, group, mean, table, with_interval

from sparsecode_estimators.plotting import RecoveryDisplay

LAWS: dict[str, dict[str, Any]] = {
    "uniform": {"distribution": "uniform"},
    "Zipf 0": {"distribution": "zipf", "exponent": 0.0},
    "Zipf 0.5": {"distribution": "zipf", "exponent": 0.5},
    "Zipf 1": {"distribution": "zipf", "exponent": 1.0},
    "Zipf 1.5": {"distribution": "zipf", "exponent": 1.5},
    "Zipf 2": {"distribution": "zipf", "exponent": 2.0},
    "correlated .5": {"distribution": "correlated", "correlation": 0.5},
    "correlated .9": {"distribution": "correlated", "correlation": 0.9},
    "hierarchical": {"distribution": "hierarchical"},
    "exponential": {"distribution": "exponential"},
    "power law 3": {"distribution": "power_law", "exponent": 3.0},
    "power law 1.5": {"distribution": "power_law", "exponent": 1.5},
}
QUICK = ("uniform", "Zipf 1", "correlated .9", "hierarchical", "power law 1.5")


def cells(quick: bool) -> list[dict]:
    effort = {"n": 1024, "max_iter": 40, "n_init": 2}
    full = {"n": 4096, "max_iter": 200, "n_init": 16}
    return [
        {"law": law, "data_set": data_set, **(effort if quick else full)}
        for law in (QUICK if quick else LAWS)
        for data_set in range(3 if quick else 5)
    ]


def measure(cell: dict) -> dict[str, Any]:
    seed = cell["data_set"]
    data = planted(cell["n"], 16, 32, 3, random_state=7_300 + seed, **LAWS[cell["law"]])
    effort = {name: cell[name] for name in ("max_iter", "n_init")}
    methods = fitted(data, seed, known=False, **effort)
    return {
        "methods": {name: judged(encoder, data) for name, encoder in methods.items()},
        **bounds(data),
    }


def scores(rows: list[dict], name: str, key: str = "mcc") -> list[list[float]]:
    return by_data_set(rows, lambda row: row["methods"][name][key])


def report(rows: list[dict]) -> str:
    names = list(rows[0]["methods"])
    groups = group(rows, "law")
    recovery = [
        (
            law,
            *(with_interval(scores(same, name)) for name in names),
            mean(same, lambda row: row["chance"]),
            with_interval(by_data_set(same, lambda row: row["ceiling"])),
        )
        for law, same in groups.items()
    ]
    shares = robustness(rows)
    robust = [(law, *(shares[name][law] for name in (*names, "ceiling"))) for law in groups]
    worst = [("worst", *(min(shares[name].values()) for name in (*names, "ceiling")))]
    return "\n".join(
        [
            "Recovery (MCC), mean ± 95 % over data sets\n",
            table(("latents", *names, "chance", "ceiling"), recovery),
            "\nAs a share of that with uniform latents\n",
            table(("latents", *names, "ceiling"), [*robust, *worst]),
            "\n" + _answer(shares),
        ]
    )


def robustness(rows: list[dict]) -> dict[str, dict[str, float]]:
    """Of every method, and of the ceiling: recovery under each law over that under the uniform."""
    groups = group(rows, "law")
    found = {}
    for name in (*rows[0]["methods"], "ceiling"):

        def value(row: dict, name: str = name) -> float:
            return row["ceiling"] if name == "ceiling" else row["methods"][name]["mcc"]

        means = {law: mean(same, value) for law, same in groups.items()}
        found[name] = {law: mcc / means["uniform"] for law, mcc in means.items()}
    return found


def _answer(shares: dict[str, dict[str, float]]) -> str:
    worst = {name: min(of.values()) for name, of in shares.items() if name != "ceiling"}
    most, least = max(worst, key=lambda n: worst[n]), min(worst, key=lambda n: worst[n])
    hardest = {name: min(of, key=lambda law, of=of: of[law]) for name, of in shares.items()}
    return (
        f"Answer. The most robust is {most}, which keeps {worst[most]:.2f} of its recovery in the "
        f"worst case ({hardest[most]}); the least is {least} with {worst[least]:.2f} "
        f"({hardest[least]}). The true dictionary keeps {min(shares['ceiling'].values()):.2f} "
        f"({hardest['ceiling']})."
    )


def draw(rows: list[dict]) -> Any:
    import matplotlib.pyplot as plt

    groups = group(rows, "law")
    across = min(4, len(groups))
    down = -(-len(groups) // across)
    figure, axes = plt.subplots(
        down, across, figsize=(4.2 * across, 2.8 * down), layout="constrained", squeeze=False
    )
    for ax in axes.flat[len(groups) :]:
        ax.remove()
    for ax, (law, same) in zip(axes.flat, groups.items(), strict=False):
        RecoveryDisplay.from_results(
            {name: scores(same, name) for name in rows[0]["methods"]},
            chance=mean(same, lambda row: row["chance"]),
            ceiling=mean(same, lambda row: row["ceiling"]),
            metric=f"{law} (MCC)",
            ax=ax,
        )
    return figure


STUDY = Study("distributions", cells, measure, report, draw)

if __name__ == "__main__":
    STUDY.main(__doc__)
