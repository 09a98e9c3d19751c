"""
Features of a language model
============================

From text to the activations of a small GPT-2, to sparse codes of them: by a sparse
autoencoder (SAE), and refined by inference-time optimisation (ITO) with as many active
latents. Then a look at what some latents stand for.

The model is part of the package: 6 layers of 160 features, trained on the Python
documentation. The text is the help that Python carries with it, which was held out of
the training.
"""

# %%
# Text to activations
# -------------------
#
# One row a token: the input of the fifth block, for the first 600 characters of every
# topic. Every fourth topic is held out, "for" being one of them.

from collections import Counter
from pydoc_data.topics import topics

import matplotlib.pyplot as plt
import numpy as np
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sparsecode_estimators import ITORefiner, SAEEncoder
from sparsecode_estimators.datasets import load_gpt2_activations
from sparsecode_estimators.metrics import dead_latent_fraction, l0

names = sorted(topics)
texts = [topics[name][:600] for name in names]
acts = load_gpt2_activations(texts, model="tiny", layer=4)
held_out = acts.document_ids % 4 == names.index("for") % 4
X_train, X_test = acts.data[~held_out], acts.data[held_out]
print(f"{len(texts)} topics; {len(X_train)} tokens to train on, {len(X_test)} held out")

# %%
# Codes at matched sparsity
# -------------------------
#
# ``activation="topk"`` fixes the number of active latents. A refiner around a fitted
# top-k encoder takes over that number, its dictionary and its offset: only the choice of
# latents and their values change. ``score`` is the explained variance of held-out tokens.

N_ACTIVE = (4, 8, 16)
N_COMPONENTS = 480
scores = {"SAE": [], "ITO": []}
for k in N_ACTIVE:
    sae = SAEEncoder(
        N_COMPONENTS, activation="topk", n_nonzero_coefs=k, max_iter=12, random_state=0
    )
    pipeline = make_pipeline(StandardScaler(), sae).fit(X_train)
    scaler, sae = pipeline
    Z_train, Z_test = scaler.transform(X_train), scaler.transform(X_test)
    ito = ITORefiner(FrozenEstimator(sae)).fit(Z_train)
    codes, refined = sae.transform(Z_test), ito.transform(Z_test)
    scores["SAE"].append(sae.score(Z_test))
    scores["ITO"].append(ito.score(Z_test))
    print(
        f"k={k:<2}  SAE {scores['SAE'][-1]:.3f} (L0 {l0(codes):.1f}, "
        f"dead {dead_latent_fraction(codes):.1%})  "
        f"ITO {scores['ITO'][-1]:.3f} (L0 {l0(refined):.1f})"
    )
    if k == 8:
        chosen = refined

# %%

BLUE, ORANGE = "#0072B2", "#D55E00"
fig, ax = plt.subplots(figsize=(6, 4), layout="constrained")
for (name, values), color, marker in zip(scores.items(), (ORANGE, BLUE), "Do", strict=True):
    ax.plot(N_ACTIVE, values, marker + "-", color=color)
    ax.annotate(name, (16, values[-1]), (8, -4), textcoords="offset points", color=color)
ax.set(
    xticks=N_ACTIVE,
    xlim=(3, 18),
    ylim=(0.6, 1),
    xlabel="active latents per token (L0)",
    ylabel="explained variance, held-out tokens",
    title="The same dictionary, guessed and refined codes",
)
ax.spines[["top", "right"]].set_visible(False)
plt.show()

# %%
# In this run 8 refined codes explain more than 16 guessed ones. The price is a solver's
# work for every token.
#
# What latents stand for
# ----------------------
#
# Of the latents that fire on less than 2 % of the held-out tokens, the six that carry
# most of the reconstruction. For each, three contexts in which it fires most strongly,
# from different topics, and two drawn at random from all in which it fires: the strongest
# alone make a latent look purer than it is.

tokens = acts.tokens[held_out]
documents = acts.document_ids[held_out]
rng = np.random.RandomState(0)


def readable(text):
    """Line breaks as a sign, and parts of characters too."""
    return text.replace("\n", "↵").replace("\ufffd", "·")


def context(i, before=6, after=3):
    """The token in brackets, between its neighbours in the same topic."""
    near = np.arange(max(0, i - before), min(len(tokens), i + after + 1))
    near = near[documents[near] == documents[i]]
    return readable("".join(f"[{tokens[j]}]" if j == i else tokens[j] for j in near))


def strongest(code, n):
    """Tokens with the largest codes, one from a topic."""
    order = np.argsort(-code)
    order = order[code[order] > 0]
    _, first = np.unique(documents[order], return_index=True)
    return order[np.sort(first)[:n]]


def label(latent):
    """Number of a latent, and the tokens at which it fires most strongly."""
    common = Counter(
        readable(tokens[i].strip())[:8] for i in strongest(chosen[:, latent], 10)
    ).most_common(2)
    return f"{latent}: " + ", ".join(repr(token) for token, _ in common)


frequency = (chosen > 0).mean(axis=0)
energy = np.where(frequency < 0.02, (chosen**2).sum(axis=0), 0)
latents = np.argsort(-energy)[:6]
for latent in latents:
    code = chosen[:, latent]
    print(f"\nlatent {latent}, fires on {frequency[latent]:.1%} of the tokens")
    for i in strongest(code, 3):
        print(f"  {code[i]:5.1f}  {context(i)}")
    for i in rng.choice(np.flatnonzero(code), 2, replace=False):
        print(f"  {code[i]:5.1f}  {context(i)}   (random)")

# %%
# A passage and its codes
# -----------------------
#
# The first 32 tokens of the topic "for", and the ten latents that carry most of them
# (of those that fire on less than 5 % of the tokens). Each is named by the tokens at
# which it fires most strongly in other places.

passage = np.flatnonzero(documents == names.index("for"))[:32]
codes = np.where(frequency < 0.05, chosen[passage], 0)
shown = np.argsort(-(codes**2).sum(axis=0))[:10]
shown = shown[np.argsort(codes[:, shown].argmax(axis=0))]

fig, ax = plt.subplots(figsize=(10, 4), layout="constrained")
image = ax.imshow(codes[:, shown].T, aspect="auto", cmap="Blues")
ax.set_xticks(
    range(len(passage)),
    [readable(token.strip(" "))[:10] for token in tokens[passage]],
    rotation=60,
    ha="right",
    rotation_mode="anchor",
    fontsize=9,
)
ax.set_yticks(range(len(shown)), [label(latent) for latent in shown])
ax.set_xticks(np.arange(len(passage)) - 0.5, minor=True)
ax.set_yticks(np.arange(len(shown)) - 0.5, minor=True)
ax.grid(which="minor", color="0.9", lw=0.5)
ax.tick_params(which="minor", length=0)
ax.set(xlabel="tokens of the passage", ylabel="latent: its strongest tokens")
fig.colorbar(image, ax=ax, label="code", pad=0.01)
plt.show()
