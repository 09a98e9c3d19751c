"""
Refine an SAE that somebody else has trained
============================================

Many sparse autoencoders (SAEs) can be downloaded, most of them in the format of SAELens. Here
one is read, judged, and refined by inference-time optimisation (ITO): the same dictionary, as
many active latents, but codes that are solved for.

This page has no network, so a small SAE stands for the one that was downloaded: it is trained on
the tiny GPT-2 of this package, and written in the same format.
"""

# %%
# The folder of an SAE
# --------------------
#
# Rows are tokens of the help that Python carries with it. Every fourth topic is held out.

import shutil
import tempfile
from pathlib import Path
from pydoc_data.topics import topics

import matplotlib.pyplot as plt
import numpy as np
from sklearn.frozen import FrozenEstimator

from sparsecode_estimators import ITORefiner, SAEEncoder
from sparsecode_estimators.datasets import load_gpt2_activations
from sparsecode_estimators.formats import export, load_pretrained
from sparsecode_estimators.metrics import amortisation_gap, explained_variance, l0

texts = [topics[name][:600] for name in sorted(topics)]
acts = load_gpt2_activations(texts, model="tiny", layer=4)
held_out = acts.document_ids % 4 == 0
X_train, X_test = acts.data[~held_out], acts.data[held_out]

trained = SAEEncoder(480, alpha=6.0, max_iter=10, random_state=0).fit(X_train)
folder = Path(tempfile.mkdtemp()) / "layer_4"
export(
    trained, folder, metadata={"model_name": "tiny_gpt2", "hook_name": "blocks.4.hook_resid_pre"}
)
print(*sorted(file.name for file in folder.iterdir()))

# %%
# Read it
# -------
#
# The format is told by the names of the files. What they say of the model comes along. To
# compare codes with those of the program that trained the SAE, divide them by ``code_scale_``;
# here all atoms have unit length anyway, and it is one.

sae = load_pretrained(folder)
print(sae.activation, sae.components_.shape, sae.metadata_["hook_name"])
print("code_scale_:", sae.code_scale_.min(), "to", sae.code_scale_.max())

# %%
# Refine it at matched sparsity
# -----------------------------
#
# A refiner around a frozen SAE takes over its dictionary and its offset, starts from its codes
# and solves for better ones. It needs ``alpha``, of which the files say nothing. We look for the
# one at which the refined codes have as many active latents as those of the SAE, by bisection on
# some of the held-out rows.

some = X_test[::4]
target = l0(sae.transform(some))
low, high = 1e-2, float(np.abs(X_train).max())
for _ in range(12):
    alpha = (low * high) ** 0.5
    ito = ITORefiner(FrozenEstimator(sae), alpha=alpha).fit(X_train)
    low, high = (alpha, high) if l0(ito.transform(some)) > target else (low, alpha)
print(f"alpha = {alpha:.3g}")

# %%
# The amortisation gap says how far the objective ``½‖x − b − sD‖² + α‖s‖₁`` is above its
# minimum. Here it is a share of that minimum, over the held-out tokens.

codes = {"SAE": sae.transform(X_test), "SAE + ITO": ito.transform(X_test)}
print("              L0   explained variance     gap")
for name, s in codes.items():
    gap = amortisation_gap(sae, X_test, codes=s, alpha=alpha)
    share = gap.excess.sum() / (gap.objective - gap.excess).sum()
    variance = explained_variance(X_test, sae.inverse_transform(s))
    print(f"{name:9} {l0(s):6.2f}   {variance:18.3f}   {share:6.2%}")

# %%
# Token by token
# --------------
#
# The share of every held-out token that is left unexplained, before and after. Below the
# diagonal the refined codes are better.


def unexplained(s):
    """Squared error of each token, relative to its distance from the mean."""
    rest = X_test - sae.inverse_transform(s)
    return (rest**2).sum(axis=1) / ((X_test - X_test.mean(axis=0)) ** 2).sum(axis=1)


before, after = map(unexplained, codes.values())
print(f"{(after < before).mean():.1%} of the tokens are explained better")

fig, ax = plt.subplots(figsize=(5, 5), layout="constrained")
most = 1.02 * max(before.max(), after.max())
ax.plot([0, most], [0, most], color="0.5", lw=1)
ax.plot(before, after, ".", color="#0072B2", ms=3, alpha=0.3)
ax.annotate(
    "equal", (0.8 * most, 0.8 * most), (-8, 0), textcoords="offset points", ha="right", color="0.4"
)
ax.set(
    xlim=(0, most),
    ylim=(0, most),
    aspect="equal",
    xlabel="unexplained, codes of the SAE",
    ylabel="unexplained, codes refined by ITO",
    title="Held-out tokens, as many active latents",
)
ax.spines[["top", "right"]].set_visible(False)
plt.show()

# %%
# The files are not needed any more. (Of an SAE that you downloaded, keep them.)

shutil.rmtree(folder.parent)
