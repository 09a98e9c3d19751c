"""SAEs in the files of other programs, and their codes by formulas of the papers in NumPy."""

import json

import numpy as np
from safetensors.numpy import save_file

N_FEATURES, N_COMPONENTS, K = 12, 30, 4


def relu(v):
    return np.maximum(v, 0)


def largest(v, k, size=None):
    """All but the k largest of each row set to zero."""
    size = v if size is None else size
    kept = np.zeros_like(v, dtype=bool)
    np.put_along_axis(kept, np.argsort(-size, axis=1)[:, :k], True, axis=1)
    return np.where(kept, v, 0)


class Foreign:
    """Random weights, with atoms of lengths from 0.2 to 4."""

    def __init__(self, seed, *, centred=True, lengths=True):
        rng = np.random.RandomState(seed)
        self.W = rng.randn(N_FEATURES, N_COMPONENTS).astype(np.float32)
        self.D = rng.randn(N_COMPONENTS, N_FEATURES).astype(np.float32)
        self.D /= np.linalg.norm(self.D, axis=1, keepdims=True)
        if lengths:
            self.D *= rng.uniform(0.2, 4, (N_COMPONENTS, 1)).astype(np.float32)
        self.c, self.c2, self.r = (
            (0.4 * rng.randn(N_COMPONENTS)).astype(np.float32) for _ in range(3)
        )
        self.b = rng.randn(N_FEATURES).astype(np.float32)
        self.theta = rng.uniform(0, 2, N_COMPONENTS).astype(np.float32)
        self.X = 2 * rng.randn(50, N_FEATURES).astype(np.float32)
        self.centred = centred

    @property
    def v(self):
        return (self.X - self.b * self.centred) @ self.W + self.c

    def codes(self, kind):
        """Rajamanoharan et al. (2024) for jumprelu and gated, Gao et al. (2024) for topk."""
        v, lengths = self.v, np.linalg.norm(self.D, axis=1)
        if kind == "relu":
            return relu(v)
        if kind == "topk":
            return relu(largest(v, K))
        if kind == "topk_rescaled":
            return relu(largest(v * lengths, K))
        if kind == "abs_topk":
            return largest(v, K, np.abs(v))
        if kind == "jumprelu":
            return v * (v > self.theta)
        if kind == "batch_topk":
            return v * (v > self.theta[0])
        assert kind == "gated"
        return (v > 0) * relu((v - self.c) * np.exp(self.r) + self.c2)

    def reconstruction(self, kind):
        D = self.D
        if kind == "topk_rescaled":
            D = D / np.linalg.norm(D, axis=1, keepdims=True)
        return self.codes(kind) @ D + self.b

    def saelens(self, folder, kind, *, transposed=False, **config):
        architectures = {"relu": "standard", "abs_topk": "abstopk", "topk_rescaled": "topk"}
        tensors = {"W_enc": self.W.T if transposed else self.W, "W_dec": self.D, "b_dec": self.b}
        config = {
            "architecture": architectures.get(kind, kind),
            "d_in": N_FEATURES,
            "d_sae": N_COMPONENTS,
            "dtype": "float32",
            "apply_b_dec_to_input": self.centred,
            "metadata": {"sae_lens_version": "6.54.12", "model_name": "gpt2"},
            **config,
        }
        if "topk" in kind:
            config["k"] = K
            config["rescale_acts_by_decoder_norm"] = kind == "topk_rescaled"
        if kind == "gated":
            tensors |= {"b_gate": self.c, "b_mag": self.c2, "r_mag": self.r}
        else:
            tensors["b_enc"] = self.c
        if kind == "jumprelu":
            tensors["threshold"] = self.theta
        return write(folder, "sae_weights.safetensors", tensors, "cfg.json", config)

    def sparsify(self, folder, kind="topk", **config):
        tensors = {"encoder.weight": self.W.T, "encoder.bias": self.c, "W_dec": self.D}
        config = {"d_in": N_FEATURES, "num_latents": N_COMPONENTS, "k": K, **config}
        config |= {"signed": True} if kind == "abs_topk" else {}
        return write(folder, "sae.safetensors", {**tensors, "b_dec": self.b}, "cfg.json", config)

    def gemma_scope(self, folder, *, compressed=False):
        folder.mkdir(exist_ok=True)
        arrays = {
            "W_enc": self.W, "W_dec": self.D, "b_enc": self.c, "b_dec": self.b,
            "threshold": self.theta,
        }  # fmt: skip
        (np.savez_compressed if compressed else np.savez)(folder / "params.npz", **arrays)
        return folder

    def linear(self, bias="encoder.bias", offset="b_dec"):
        """In the layout of ``torch.nn.Linear``."""
        return {
            "encoder.weight": self.W.T, "decoder.weight": self.D.T, bias: self.c, offset: self.b,
        }  # fmt: skip


def write(folder, weights, tensors, description, config):
    folder.mkdir(exist_ok=True)
    save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, folder / weights)
    (folder / description).write_text(json.dumps(config))
    return folder
