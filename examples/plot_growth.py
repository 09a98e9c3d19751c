"""
How the time of a row grows
===========================

The lasso at alpha .1 with non-negative codes, on one thread, beside SPAMS: what a row takes when
there are more rows, atoms, features or active atoms. Nothing is timed here. The numbers are those
that ``benchmarks/growth.py`` has written, on a machine that is shared with others.
"""

# %%
# One number is changed at a time, from 1,000 atoms of length 200, twenty of them active, and 2,000
# rows. Times are processor time from rows to codes, Gram matrix and certificates included (SPAMS
# has none of the latter).

import json
from pathlib import Path

import matplotlib.pyplot as plt

import sparsecode_estimators

# in a checkout the benchmarks lie beside the package
checkout = Path(sparsecode_estimators.__file__).parents[1]
rows = json.loads((checkout / "benchmarks" / "results" / "growth.json").read_text())["rows"]
AXES = {
    "n": "rows",
    "n_components": "atoms",
    "n_features": "features",
    "k": "active atoms",
}
fig, axes = plt.subplots(1, 4, figsize=(11, 3.6), layout="constrained", sharey=True)
for ax, (changed, name) in zip(axes, AXES.items(), strict=True):
    curve = [row for row in rows if row["changed"] == changed]
    values = [row[changed] for row in curve]
    for who, style, color in [("spams", "s--", "#D55E00"), ("ours", "o-", "#0072B2")]:
        ax.plot(values, [row[f"{who}, µs a row"] for row in curve], style, color=color, ms=5)
    ax.set(xscale="log", yscale="log", xlabel=name)
    ax.margins(x=0.1)
    ax.set_xticks(values, [f"{value:,}" for value in values], fontsize=8, rotation=30)
    ax.minorticks_off()
    ax.spines[["top", "right"]].set_visible(False)
axes[0].set_ylabel("µs a row")
axes[0].legend(["SPAMS", "ours"], frameon=False)
plt.show()

# %%
# - Rows: both have a price that is paid once, such as that of the Gram matrix.
#   Few rows bear more of it.
# - Atoms: SPAMS is closest at 64. From there the time of ours grows more slowly, also beyond
#   4,096 atoms, where no Gram matrix is made.
# - Features: few of them are dear for both. The lead is largest in the middle.
# - Active atoms: forty take about three times as long as twenty, for both. The lead grows.
