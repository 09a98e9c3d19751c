"""
A report on latents
===================

What does latent 137 stand for? From the codes of a small GPT-2 to contexts: stretches of
text on which a latent fires, how strongly at each token. A few of them as a figure, all
of them as a page with a search and a list, for a sparse autoencoder (SAE) and for codes
refined by inference-time optimisation (ITO) side by side.

The model is part of the package, and trained on the Python documentation. The text is the
help that Python carries with it.
"""

# %%
# Codes
# -----
#
# As in :doc:`plot_language_model_features`: the input of the fifth block, one row a token,
# a top-k SAE, and the same number of latents chosen again for each token by a solver.

import tempfile
from pathlib import Path
from pydoc_data.topics import topics

import matplotlib.pyplot as plt
import numpy as np
from sklearn.frozen import FrozenEstimator
from sklearn.preprocessing import StandardScaler
from transformers import AutoModelForCausalLM, AutoTokenizer

from sparsecode_estimators import ITORefiner, SAEEncoder
from sparsecode_estimators.datasets import load_gpt2_activations
from sparsecode_estimators.datasets.language_models import TINY_GPT2
from sparsecode_estimators.interpret import (
    LatentReport,
    collect_contexts,
    iter_codes,
    promoted_tokens,
)

texts = [topics[name][:600] for name in sorted(topics)]
acts = load_gpt2_activations(texts, model="tiny", layer=4)
scaler = StandardScaler()
Z = scaler.fit_transform(acts.data)
sae = SAEEncoder(
    320, activation="topk", n_nonzero_coefs=8, max_iter=12, sparse_output=True, random_state=0
).fit(Z)
ito = ITORefiner(FrozenEstimator(sae), sparse_output=True).fit(Z)

# %%
# Contexts
# --------
#
# One pass over the codes, a block of rows at a time, collects statistics and contexts of
# all latents. Codes could come from a store on disk, and need not fit in memory.

contexts, refined = (
    collect_contexts(iter_codes(encoder, Z), acts.tokens, acts.document_ids, random_state=0)
    for encoder in (sae, ito)
)
print(contexts)

# %%
# Tokens that an atom makes more likely, if it acts on the output directly. The atoms are
# those of standardised activations, so their features are scaled back first.

model = AutoModelForCausalLM.from_pretrained(TINY_GPT2)
tokenizer = AutoTokenizer.from_pretrained(TINY_GPT2)
unembedding = model.get_output_embeddings().weight
vocabulary = [tokenizer.decode([token_id]) for token_id in range(len(unembedding))]
promoted = promoted_tokens(sae.components_ * scaler.scale_, unembedding, vocabulary, n=6)

# %%
# Six latents
# -----------
#
# Of those that fire on less than 1 % of the tokens, the six whose codes are largest in sum.
# For each the strongest context, one from the middle of its firings and one from the
# weakest tenth: the strongest alone make a latent look purer than it is.

energy = contexts.firing_rate * contexts.mean_activation
shown = np.argsort(-np.where(contexts.firing_rate < 0.01, energy, 0))[:6]


FONT = 9
WIDTH = 0.602 * FONT  # of a character, in points; the figure has 720


def readable(token):
    """One sign for each character of a token, in a font of one width."""
    return "".join(c if c.isprintable() and ord(c) < 0x250 else "·" for c in token)


def draw(ax, y, context, largest):
    """A context in one line, its token in the middle, shaded by the code."""
    lengths = [len(token) for token in context.tokens]
    begins = np.cumsum([0, *lengths]) - sum(lengths[: context.center])
    for begin, token, code in zip(begins, context.tokens, context.activations, strict=False):
        if begin < -58 or begin + len(token) > 46:
            continue
        style = {"family": "monospace", "fontsize": FONT, "va": "center"}
        if code:
            color = plt.get_cmap("YlOrBr")(0.1 + 0.45 * code / largest)
            style["bbox"] = {"facecolor": color, "edgecolor": "none", "pad": 1.2}
        ax.text(begin, y, readable(token), **style)


fig = plt.figure(figsize=(10, 6.4))
ax = fig.add_axes((0, 0, 1, 1))
for i, latent in enumerate(shown):
    picked = [contexts.top(latent), contexts.quantile(latent, 5), contexts.quantile(latent, 0)]
    for j, found in enumerate(picked):
        y = 4 * i + j
        draw(ax, y, found[0], contexts.max_activation[latent])
        strength = found[0].activations[found[0].center]
        ax.text(-61, y, f"{strength:.1f}", fontsize=8, color="0.45", va="center", ha="right")
    rate = contexts.firing_rate[latent]
    ax.text(-83, 4 * i, f"{latent}", fontsize=11, weight="bold", va="center")
    ax.text(-83, 4 * i + 1, f"{rate:.1%} of tokens", fontsize=8, color="0.45", va="center")
ax.set(xlim=(-85, 720 / WIDTH - 85), ylim=(4 * len(shown) - 1, -1))
ax.axis("off")
plt.show()

# %%
# The page
# --------
#
# One file that needs no network. ``/`` searches, arrows walk through the list, Enter goes to
# the latent, Escape back.

report = LatentReport(
    contexts,
    name="SAE",
    promoted=promoted,
    compare=LatentReport(refined, name="ITO"),
    n_top=6,
    n_per_quantile=1,
)
with tempfile.TemporaryDirectory() as folder:
    path = report.save(Path(folder) / "latents.html")
    print(f"{path.name}: {path.stat().st_size / 1e6:.1f} MB")
report  # noqa: B018
