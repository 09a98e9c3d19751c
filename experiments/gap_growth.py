"""Does the amortisation gap widen with the number of atoms, features and active latents?

    python experiments/gap_growth.py [--quick] [--jobs 2]

The paper's first open question. An SAE is trained with the true dictionary kept fixed, so that
only inference can fail, along four lines:

- size: N, M and K grow together in the paper's proportions, 16 : 8 : 3;
- atoms: N grows at M = 32, K = 3;
- features: M grows at N = 256, K = 8;
- active: K grows at N = 256, M = 128.

The gap is the objective of the SAE's codes above its certified minimum, as a share of that
minimum, both at the SAE's own alpha. Recovery is that of the SAE, and of exact codes at the alpha
of a solver, which is the ceiling; chance are random projections behind a ReLU. Beside them stand
the largest K that theorems guarantee, and Donoho and Tanner's transition for codes that are not
negative: up to there typical codes can be found. The quick run trains for 480 steps, the full one
for 3,200: what is not learned by then counts as a gap.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from methods import bounds, judged, planted
from study import Study, by_data_set, group, interval, mean, table

from sparsecode_estimators import SAEEncoder
from sparsecode_estimators.metrics import amortisation_gap
from sparsecode_estimators.plotting import mean_interval
from sparsecode_estimators.plotting.axes import bare, look
from sparsecode_estimators.theory import phase_transition, recovery_guarantee

GROWS = {"size": "N", "atoms": "N", "features": "M", "active": "K"}
# Beyond, the theorems' bounds take longer than everything else, and are 1 or 0.
MOST_ATOMS = 2048


def cells(quick: bool) -> list[dict]:
    sizes = [8, 16, 32, 64, 128, 256, 512, 1024, 2048]
    atoms = [64, 128, 256, 512, 1024, 2048, 4096, 8192]
    features = [24, 32, 48, 64, 96, 128, 192, 256]
    active = [1, 2, 4, 8, 16, 32, 64, 128]
    lines = {
        "size": [(N, N // 2, 3 * N // 16) for N in (sizes[1:6:2] if quick else sizes)],
        "atoms": [(N, 32, 3) for N in (atoms[:5:2] if quick else atoms)],
        "features": [(256, M, 8) for M in (features[::3] if quick else features)],
        "active": [(256, 128, K) for K in (active[::3] if quick else active)],
    }
    effort = {"n": 2048, "max_iter": 60} if quick else {"n": 4096, "max_iter": 200}
    return [
        {"line": line, "N": N, "M": M, "K": K, "data_set": data_set, **effort}
        for line, sizes in lines.items()
        for N, M, K in sizes
        for data_set in range(3)
    ]


def measure(cell: dict) -> dict[str, Any]:
    N, M = cell["N"], cell["M"]
    data = planted(cell["n"], M, N, cell["K"], random_state=7_200 + cell["data_set"])
    sae = SAEEncoder(
        dictionary=data.dictionary, max_iter=cell["max_iter"], random_state=cell["data_set"]
    ).fit(data.X_train)
    gap = amortisation_gap(sae, data.X_test)
    optimum = (gap.objective - gap.excess).mean()
    guarantee = recovery_guarantee(data.dictionary, positive=True) if N <= MOST_ATOMS else None
    return {
        "gap": gap.excess.mean() / optimum,
        "gap_at_most": gap.bound.mean() / (gap.objective - gap.bound).mean(),
        "of_the_support": gap.support.mean() / gap.excess.mean(),
        **judged(sae, data),
        **bounds(data),
        "guaranteed": guarantee and guarantee.n_nonzero_coefs,
        "transition": phase_transition(M / N, positive=True) * M,
    }


def report(rows: list[dict]) -> str:
    header = (
        "size",
        "gap / optimum",
        "of support",
        "MCC, SAE",
        "chance",
        "ceiling",
        "K guaranteed",
        "K typical",
    )
    text = ["Mean ± 95 % over data sets\n"]
    for line, same in group(rows, "line").items():
        lines = [_line(size, there) for size, there in group(same, "N", "M", "K").items()]
        text.append(f"{line}\n{table(header, lines)}\n")
    return "\n".join([*text, _answer(rows)])


def _line(size: tuple, rows: list[dict]) -> tuple:
    guaranteed = [row["guaranteed"] for row in rows]
    return (
        "N={} M={} K={}".format(*size),
        interval(rows, "gap"),
        mean(rows, lambda row: row["of_the_support"]),
        interval(rows, "mcc"),
        mean(rows, lambda row: row["chance"]),
        interval(rows, "ceiling"),
        None if None in guaranteed else min(guaranteed),
        f"{rows[0]['transition']:.1f}",
    )


def _answer(rows: list[dict]) -> str:
    parts = []
    for line, same in group(rows, "line").items():
        grown = group(same, GROWS[line])
        x = np.log10(list(grown))
        gaps = [mean(there, lambda row: row["gap"]) for there in grown.values()]
        slope = np.polyfit(x, np.log10(gaps), 1)[0]
        ends = [list(grown.values())[i] for i in (0, -1)]
        mcc, ceiling = (
            [mean(there, lambda row, key=key: row[key]) for there in ends]
            for key in ("mcc", "ceiling")
        )
        parts.append(
            f"Along {line} the gap goes from {gaps[0]:.2f} to {gaps[-1]:.2f} of the optimum as "
            f"{GROWS[line]} goes from {min(grown)} to {max(grown)} (a factor of {10**slope:.2f} a "
            f"decade), and the SAE's MCC as a share of the ceiling's from "
            f"{mcc[0] / ceiling[0]:.2f} to {mcc[1] / ceiling[1]:.2f}."
        )
    return "Answer. " + "\n".join(parts)


CURVES = {"mcc": "SAE", "ceiling": "exact codes", "chance": "chance"}
LATENTS = {"K": "active", "transition": "typical codes are found", "guaranteed": "all are found"}


def draw(rows: list[dict]) -> Any:
    import matplotlib.pyplot as plt

    groups = group(rows, "line")
    figure, axes = plt.subplots(
        3, len(groups), figsize=(3.4 * len(groups), 8), layout="constrained", sharex="col"
    )
    for (gap, recovery, latents), (line, same) in zip(axes.T, groups.items(), strict=True):
        grown = group(same, GROWS[line])
        _curve(gap, grown, "gap", 0)
        for i, (key, name) in enumerate(CURVES.items()):
            _curve(recovery, grown, key, i, label=name)
        for i, (key, name) in enumerate(LATENTS.items()):
            _curve(latents, grown, key, i + len(CURVES), label=name)
        gap.set(title=line, xscale="log", yscale="log")
        recovery.set(ylim=(0, 1.03))
        latents.set(yscale="log", xlabel=GROWS[line])
        latents.set_xticks(list(grown), [f"{value:,}" for value in grown], rotation=30)
        latents.minorticks_off()
        gap.margins(y=0.3)
    axes[0, 0].set_ylabel("gap, as a share of the optimum")
    axes[1, 0].set_ylabel("recovery of the true codes (MCC)")
    axes[2, 0].set_ylabel("active latents")
    for ax in axes[1:, 0]:
        ax.legend(frameon=False, fontsize="small")
    return figure


def _curve(ax: Any, grown: dict, key: str, i: int, **options: Any) -> None:
    known = {x: there for x, there in grown.items() if there[0][key] is not None}
    intervals = [
        mean_interval(by_data_set(there, lambda row: row[key])) for there in known.values()
    ]
    means, low, high = np.transpose(intervals)
    ax.errorbar(
        list(known), means, [means - low, high - means], capsize=2, ms=4, **look(i), **options
    )
    bare(ax)


STUDY = Study("gap_growth", cells, measure, report, draw)

if __name__ == "__main__":
    STUDY.main(__doc__)
