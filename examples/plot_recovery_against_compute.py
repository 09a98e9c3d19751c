"""
Recovery against compute, for every way to a code
=================================================

One matrix product, a few learned steps, a hundred steps of a solver, or the exact answer: what
does each cost, what does it find, and how far from the optimum does it stay? The data are
planted as in the paper on the amortisation gap [1]_, 16 atoms in 8 dimensions with 3 active, the
dictionary is known to all, and all minimise the same objective with the same alpha.
:doc:`plot_amortisation_gap` looks at what the gap consists of; here are its prices.
"""

# %%
# Data, chance and ceiling
# ------------------------
#
# Chance is what codes reach that know nothing: random projections of the rows behind a ReLU. The
# ceiling is the exact solution with a penalty that is small but not zero. The encoders'
# ``alpha="auto"`` is much larger, since with a small alpha guesses fire on too many latents (see
# the user guide). It costs the optimum some recovery, too.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.frozen import FrozenEstimator

from sparsecode_estimators import (
    ITORefiner,
    MLPEncoder,
    SAEEncoder,
    UnrolledEncoder,
    sparse_encode,
)
from sparsecode_estimators.datasets import make_sparse_codes
from sparsecode_estimators.metrics import amortisation_gap, chance_level, mean_corr_coef

data = make_sparse_codes(2048, 8, 16, 3, random_state=413)
X_train, X_test = data.X[:1024], data.X[1024:]
truth, D = data.codes[1024:], data.dictionary
N, M = D.shape

chance = chance_level(truth, kind="projection", X=X_test, random_state=1)
ceiling = mean_corr_coef(truth, sparse_encode(X_test, D, alpha=0.0025))
print(f"chance {chance:.3f}, ceiling {ceiling:.3f}")

# %%
# Guesses
# -------
#
# Encoders of one pass, and unrolled ones of 1 to 10 steps. Each has one start here. Their
# operations are those of their layers: a multiply-add is two, and biases and ReLUs are not
# counted. The first step of an unrolled encoder is one product, as its codes begin at zero, and
# every other step takes two.

FIXED = {"dictionary": D, "max_iter": 200, "random_state": 0}
STEPS = (1, 2, 3, 5, 10)
sae = SAEEncoder(**FIXED).fit(X_train)
mlps = {width: MLPEncoder(hidden_layer_sizes=(width,), **FIXED).fit(X_train) for width in (32, 256)}
unrolled = [UnrolledEncoder(n_steps=n, **FIXED).fit(X_train) for n in STEPS]


def judged(codes):
    """MCC of codes, and their mean distance from the lowest objective."""
    gap = amortisation_gap(None, X_test, codes=codes, dictionary=D, alpha=sae.alpha_)
    return mean_corr_coef(truth, codes), gap.excess.mean()


# operations of a row, MCC, gap
points = {"SAE": [(2 * M * N, *judged(sae.transform(X_test)))]}
for width, mlp in mlps.items():
    points[f"MLP ({width})"] = [(2 * width * (M + N), *judged(mlp.transform(X_test)))]
points["unrolled, 1 to 10 steps"] = [
    (2 * M * N * (2 * n - 1), *judged(encoder.transform(X_test)))
    for n, encoder in zip(STEPS, unrolled, strict=True)
]

# %%
# Solvers
# -------
#
# :class:`~sparsecode_estimators.ITORefiner` goes on from the SAE's codes, by FISTA. With
# ``tol=None`` it takes exactly ``max_iter`` steps. :func:`~sparsecode_estimators.sparse_encode`
# does the same from given codes or from zero, and counts operations: two products a step, two
# for each certificate, of which there is one at the start, and the refits on supports that have
# settled. So most of what a single step costs here is certificates. The exact solver is
# "working_set", which takes the atoms of a row one by one. The count is of its products; its
# search among the atoms, mere comparisons, and what it does on the few active ones are left out.

SOLVER_STEPS = (1, 3, 10, 30, 100)


def operations(**options):
    """Of a row."""
    info = sparse_encode(X_test, D, alpha=sae.alpha_, return_info=True, **options)[1]
    return info.flops / len(X_test)


guess = sae.transform(X_test)
points["ITO from the SAE"], points["FISTA from zero"] = [], []
for n in SOLVER_STEPS:
    steps = {"max_iter": n, "tol": None}
    ito = ITORefiner(FrozenEstimator(sae), **steps).fit(X_train)
    flops = 2 * M * N + operations(init=guess, **steps)
    points["ITO from the SAE"].append((flops, *judged(ito.transform(X_test))))
    codes = sparse_encode(X_test, D, alpha=sae.alpha_, **steps)
    points["FISTA from zero"].append((operations(**steps), *judged(codes)))
solved = sparse_encode(X_test, D, alpha=sae.alpha_, solver="working_set")
points["exact solver"] = [(operations(solver="working_set"), *judged(solved))]

print(f"alpha {sae.alpha_:.3f}")
for name, values in points.items():
    for flops, mcc, gap in values:
        print(f"{name:24} {flops:9,.0f} operations  MCC {mcc:.3f}  gap {gap:.1e}")

# %%
# The picture
# -----------
#
# Gaps below 1e-8 are no more than rounding, and are drawn there.

LOOKS = {
    "SAE": {"marker": "D", "color": "#D55E00", "zorder": 3},
    "MLP (32)": {"marker": "v", "color": "#66C2A5", "ms": 7},
    "MLP (256)": {"marker": "v", "color": "#009E73", "ms": 7},
    "unrolled, 1 to 10 steps": {"marker": "^", "color": "#AA4499", "ls": "-"},
    "ITO from the SAE": {"marker": "o", "color": "#0072B2", "ls": "-"},
    "FISTA from zero": {"marker": "s", "color": "#56B4E9", "ls": "--"},
    "exact solver": {"marker": "*", "color": "black", "ms": 12},
}
fig, axes = plt.subplots(1, 2, figsize=(10, 4.9), layout="constrained", sharex=True)
for name, values in points.items():
    flops, mcc, gap = np.transpose(values)
    look = {"ls": "none", "ms": 5, "label": name} | LOOKS[name]
    axes[0].plot(flops, mcc, **look)
    axes[1].plot(flops, np.maximum(gap, 1e-8), **look)
for level, name in [(chance, "chance"), (ceiling, "ceiling, alpha 0.0025")]:
    axes[0].axhline(level, color="0.5", lw=1, ls=(0, (2, 3)), zorder=0)
    axes[0].text(1.0, level + 0.006, name, transform=axes[0].get_yaxis_transform(), ha="right")
axes[0].set(ylabel="recovery of the true codes (MCC)", ylim=(0.4, 1.03))
axes[1].set(ylabel="amortisation gap (mean)", yscale="log")
for ax in axes:
    ax.set(xscale="log", xlabel="operations per row")
    ax.spines[["top", "right"]].set_visible(False)
fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
plt.show()

# %%
# What to take from it
# --------------------
#
# - For the price of one product there is little to choose: the SAE and the unrolled encoder of
#   one step are in the same place, far above chance and far from the optimum.
# - A learned step is worth several of FISTA. Up to ten of them the unrolled encoders are above
#   the MLPs, ITO and FISTA at equal operations: three steps recover what the wide MLP
#   does, at a tenth of its price. They do not come to the optimum, though, and ITO passes them
#   somewhere between 10 and 30 steps.
# - The SAE's codes save the first steps. At 30 the curve from zero has all but caught up.
# - The exact solver is cheaper by this count than either MLP and than two unrolled steps, and it is
#   at the optimum. That holds for 16 atoms of which few are active; its time for larger problems
#   is in :doc:`/user_guide/solvers`. And operations are not seconds: the products of an encoder
#   make better use of a processor than a search does.
# - Recovery is done long before the gap is: below a gap of about 1e-4 it no longer moves. What
#   is left up to the ceiling is not amortisation but the larger alpha.
#
# .. [1] O'Neill, Gumran & Klindt (2025), "Compute optimal inference and provable
#    amortisation gap in sparse autoencoders", arXiv 2411.13117.
