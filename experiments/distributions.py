"""Which methods are robust to how latents fire, and how strongly?

    python experiments/distributions.py [--quick] [--jobs 2]

The paper's third open question. Nothing is known; 32 atoms in 16 dimensions, 3 active. Supports are
uniform, by Zipf's law with exponents from 0 to 2, correlated in groups, or hierarchical; amplitudes
half-normal, exponential, or of power laws with exponents 3 and 1.5 (of infinite variance).
Chance is that of random projections behind a ReLU, the ceiling are exact codes for the true
dictionary: what they lose no method could keep. Both differ between distributions, so robustness is
measured by the share of the way from chance to ceiling; the worst says how far a method can be
relied on.
"""

from __future__ import annotations

from typing import Any

from methods import bounds, fitted, judged, planted
from study import Study, by_data_set, group, interval, mean, table, with_interval

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
            interval(same, "ceiling"),
        )
        for law, same in groups.items()
    ]
    shares = robustness(rows)
    robust = [(law, *(shares[name][law] for name in names)) for law in groups]
    worst = [("worst", *(min(shares[name].values()) for name in names))]
    return "\n".join(
        [
            "Recovery (MCC), mean ± 95 % over data sets\n",
            table(("latents", *names, "chance", "ceiling"), recovery),
            "\nShare of the way from chance to ceiling\n",
            table(("latents", *names), [*robust, *worst]),
            "\n" + _answer(shares),
        ]
    )


def robustness(rows: list[dict]) -> dict[str, dict[str, float]]:
    """For every method and law the share of the way from chance to ceiling."""
    found: dict[str, dict[str, float]] = {name: {} for name in rows[0]["methods"]}
    for law, same in group(rows, "law").items():
        chance, ceiling = (mean(same, lambda row, k=k: row[k]) for k in ("chance", "ceiling"))
        for name, shares in found.items():
            recovered = mean(same, lambda row, n=name: row["methods"][n]["mcc"])
            shares[law] = (recovered - chance) / (ceiling - chance)
    return found


def _answer(shares: dict[str, dict[str, float]]) -> str:
    worst = {name: min(of.values()) for name, of in shares.items()}
    hardest = {name: min(of, key=lambda law, of=of: of[law]) for name, of in shares.items()}
    most, least = max(worst, key=lambda n: worst[n]), min(worst, key=lambda n: worst[n])
    return (
        f"Answer. The most robust is {most}: in the worst case ({hardest[most]}) it covers "
        f"{worst[most]:.2f} of the way from chance to ceiling, {shares[most]['uniform']:.2f} with "
        f"uniform latents. The least robust is {least} with {worst[least]:.2f} ({hardest[least]}) "
        f"and {shares[least]['uniform']:.2f}."
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
