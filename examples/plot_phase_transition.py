"""
When sparse codes can be found at all
=====================================

A sample is the sum of K out of N random atoms in M dimensions. For which K, M and N is the
code of least ℓ₁ norm the true one? Donoho and Tanner found that the answer turns from almost
always to almost never along a curve [1]_. What lies above it is found by no solver of the
ℓ₁ problem, and by no encoder that imitates one.
"""

# %%
# The curves
# ----------
#
# With δ = M/N and ρ = K/M :func:`~sparsecode_estimators.theory.phase_transition` gives the ρ of
# the transition for every δ, for codes of either sign (the polytope is the cross-polytope) and
# for codes that are not negative (the simplex).

import matplotlib.pyplot as plt
import numpy as np

from sparsecode_estimators import sparse_encode
from sparsecode_estimators.theory import phase_transition

POSITIVE = {"codes of either sign": False, "non-negative codes": True}

for name, positive in POSITIVE.items():
    print(f"{name}: K/M = {phase_transition(0.5, positive=positive):.3f} at M/N = 1/2")

# %%
# The experiment
# --------------
#
# A random dictionary for each M, and sixteen codes for each K. The penalty is tiny at the
# end, so the solution of the lasso is all but the code of least ℓ₁ norm; larger penalties
# before it give the solver a start, which is faster than from zero. A code counts as found if
# it is within 5 % of the true one.

N, TRIALS = 80, 16
DELTAS = np.linspace(0.1, 0.9, 9)
RHOS = np.linspace(0.05, 0.95, 13)


def found(delta, positive, rng):
    """Share of the codes that are found, for every K/M in RHOS."""
    M = round(delta * N)
    D = rng.standard_normal((N, M))
    D /= np.linalg.norm(D, axis=1, keepdims=True)
    K = np.repeat(np.maximum(np.round(RHOS * M), 1), TRIALS)
    active = rng.random((len(K), N)).argsort(axis=1) < K[:, None]
    codes = np.where(active, rng.uniform(1, 2, active.shape), 0)
    if not positive:
        codes *= rng.choice([-1, 1], codes.shape)
    solved = None
    for alpha in (0.1, 0.01, 0.001):
        solved = sparse_encode(
            codes @ D, D, alpha=alpha, positive_code=positive, init=solved, max_iter=5000
        )
    error = np.linalg.norm(solved - codes, axis=1) / np.linalg.norm(codes, axis=1)
    return (error < 0.05).reshape(-1, TRIALS).mean(axis=1)


rng = np.random.default_rng(0)
maps = {
    name: np.transpose([found(delta, positive, rng) for delta in DELTAS])
    for name, positive in POSITIVE.items()
}
for name, positive in POSITIVE.items():
    below = RHOS[:, None] < phase_transition(DELTAS, positive=positive)
    print(f"{name}: found {maps[name][below].mean():.0%} below the curve,", end=" ")
    print(f"{maps[name][~below].mean():.0%} above it")

# %%
# The map
# -------
#
# The star is the setting of the paper on the amortisation gap: three of 16 atoms in 8
# dimensions, and no negative codes. It is well below the curve of non-negative codes, so a
# solver can find them; were they of either sign, it would lie on the curve.

fig, axes = plt.subplots(1, 2, figsize=(9, 4.2), layout="constrained", sharey=True)
deltas = np.linspace(0.05, 0.95, 100)
for ax, (name, positive) in zip(axes, POSITIVE.items(), strict=True):
    image = ax.pcolormesh(DELTAS, RHOS, maps[name], cmap="cividis", vmin=0, vmax=1)
    curve = phase_transition(deltas, positive=positive)
    ax.plot(deltas, curve, color="white", lw=4)
    ax.plot(deltas, curve, color="#D55E00", lw=2, label="Donoho & Tanner")
    ax.plot(8 / 16, 3 / 8, "*", color="white", mec="black", ms=14, label="16 atoms, M = 8, K = 3")
    ax.set(xlabel="M/N, dimensions per atom", title=name, xlim=(0.05, 0.95))
axes[0].set_ylabel("K/M, active latents per dimension")
axes[0].legend(loc="upper left", framealpha=0.9, fontsize=9)
fig.colorbar(image, ax=axes, label="share of codes found")
plt.show()

# %%
# What to take from it
# --------------------
#
# - The curves know nothing of the solver: below them codes are found, above they are not,
#   up to the width of a transition that narrows as N grows.
# - To know that codes are not negative is worth a great deal, most where the atoms are few.
# - An amortisation gap is measured against the minimum of the objective. Only below the curve
#   does that minimum also stand for the truth.
#
# .. [1] Donoho & Tanner (2009), "Observed universality of phase transitions in
#    high-dimensional geometry, with implications for modern data analysis and signal
#    processing", Phil. Trans. R. Soc. A 367, 4273–4293; (2010), "Precise undersampling
#    theorems", Proc. IEEE 98, 913–924.
