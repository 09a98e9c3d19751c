"""
A source that a given encoder must get wrong
============================================

Codes of 16 latents, rows of 8 features: a one-pass encoder ``σ(xW + c)`` cannot be exact, since
DW has rank 8 and would have to be the identity of 16 [1]_. The theorem can be executed: for any
such encoder it names a source with two active latents, and how wrong the encoder is at least.
"""

# %%
# Encoders
# --------
#
# Six activations, trained with the true dictionary to reconstruct, and one encoder that is
# taught: it sees rows and true codes of exactly the family of sources that the theorem speaks
# of, two latents at the values 0.5 or 2 (or one of them alone), and of no others.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.frozen import FrozenEstimator

from sparsecode_estimators import ITORefiner, SAEEncoder, sparse_encode
from sparsecode_estimators.datasets import load_paper_data
from sparsecode_estimators.theory import (
    amortisation_witness,
    perfect_linear_encoder_exists,
    recovery_guarantee,
)

LO, HI = 0.5, 2.0
data = load_paper_data("known_dictionary")
D = data.dictionary.astype(float)
n_components, n_features = D.shape

latents = np.eye(n_components)
family = [a * latents[i] for i in range(n_components) for a in (LO, HI)]
family += [
    a * latents[i] + b * latents[j]
    for i in range(n_components)
    for j in range(i)
    for a in (LO, HI)
    for b in (LO, HI)
]
family = np.array(family)

FIXED = {"dictionary": D, "random_state": 0}
encoders = {
    "ReLU": SAEEncoder(**FIXED),
    "TopK": SAEEncoder(activation="topk", n_nonzero_coefs=3, **FIXED),
    "AbsTopK": SAEEncoder(activation="abs_topk", n_nonzero_coefs=3, **FIXED),
    "BatchTopK": SAEEncoder(activation="batch_topk", n_nonzero_coefs=3, **FIXED),
    "JumpReLU": SAEEncoder(activation="jumprelu", **FIXED),
    "Gated": SAEEncoder(activation="gated", **FIXED),
}
for encoder in encoders.values():
    encoder.fit(data.X_train)
taught = SAEEncoder(objective="codes", max_iter=2000, **FIXED)
encoders["ReLU, taught these\nsources' true codes"] = taught.fit(family @ D, family)

# %%
# Witnesses
# ---------
#
# For each encoder the source, its error there, and on the same row the errors of two methods
# that are not one-pass: ITO, which starts from the encoder's own codes, and exhaustive search.

errors, refined, searched = [], [], []
for name, encoder in encoders.items():
    codes, error, bound = amortisation_witness(encoder, D, lo=LO, hi=HI)
    row = codes[None] @ D
    ito = ITORefiner(FrozenEstimator(encoder), alpha=1e-4, tol=1e-9).fit(data.X_train)
    errors.append(error)
    refined.append(np.abs(ito.transform(row)[0] - codes).max())
    best = sparse_encode(row, D, n_nonzero_coefs=2, solver="l0")
    searched.append(np.abs(best[0] - codes).max())
    source = " + ".join(f"{codes[j]:g} of latent {j}" for j in np.flatnonzero(codes))
    print(f"{name.splitlines()[0]}: {source}. Error {error:.2f}, ITO {refined[-1]:.1e}")
print(f"bound {bound:.3f}; exhaustive search, at most {max(searched):.1e}")

# %%
# The figure
# ----------

BLUE, ORANGE = "#0072B2", "#D55E00"
fig, ax = plt.subplots(figsize=(8, 4.2), layout="constrained")
places = np.arange(len(encoders))[::-1]
ax.hlines(places, refined, errors, color="0.85", lw=2, zorder=1)
ax.plot(errors, places, "D", color=ORANGE, ms=8, label="encoder, one pass")
ax.plot(refined, places, "o", color=BLUE, ms=8, label="ITO from its codes, same row")
ax.axvline(bound, color="black", lw=1)
ax.axvspan(1e-6, bound, color="0.95", zorder=0)
ax.text(
    bound * 0.85, len(places) - 0.45, "no one-pass encoder can be here", ha="right", va="center"
)
ax.set(
    xscale="log",
    xlim=(2e-5, 6),
    ylim=(-0.6, len(places) - 0.1),
    yticks=places,
    yticklabels=list(encoders),
    xlabel=f"largest error of a code on the encoder's witness (latents at {LO:g} or {HI:g})",
    title="16 latents, 8 features: every trained encoder has a source that it gets wrong",
)
ax.spines[["top", "right"]].set_visible(False)
fig.legend(frameon=False, loc="outside lower right", ncols=2)
plt.show()

# %%
# No encoder at all
# -----------------
#
# The witness is about one encoder. For codes that are given, linear programming decides whether
# any ReLU encoder could give them: latent by latent it finds one, or multipliers that prove that
# there is none. Of the paper's codes no latent has one, and few rows prove it.

certificate = perfect_linear_encoder_exists(data.X_train, data.codes_train)
rows = np.diff(certificate.multipliers.tocsc().indptr)
print(f"latents with a perfect encoder: {certificate.exists.sum()} of {n_components}")
print(f"rows of a proof: {rows.min()} to {rows.max()} of {len(data.X_train)}")

# %%
# Nor is there a classical guarantee for solvers with three active latents and this dictionary.
# That two different codes cannot have the same row is sure for up to four.

print(recovery_guarantee(D, positive=True))

# %%
# What to take from it
# --------------------
#
# - The bound is about values in the worst case. It does not say how large the error is on
#   average, and the latents may be the right ones.
# - Training moves the witness, and cannot remove it: not even training on the witnesses.
# - Encoders of several layers, a few unrolled steps and solvers are exempt.
#
# .. [1] O'Neill, Gumran & Klindt (2025), "Compute optimal inference and provable
#    amortisation gap in sparse autoencoders", arXiv 2411.13117, theorem 3.1.
