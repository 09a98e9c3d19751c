"""One step of training of each trainer, through what it offers in public.

Every maker takes (n_features, n_components, k or alpha, learning rate, number of rows in all) and
returns ``step(batch)`` and ``network()``, which gives a function from rows to reconstructions and
codes. A peer that cannot be imported is left out, and the reason is kept.
"""

from __future__ import annotations

import contextlib
import io
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparsecode_estimators.learning.activations import make_activation
from sparsecode_estimators.learning.atoms import unit
from sparsecode_estimators.learning.batches import Batch
from sparsecode_estimators.learning.dead import DeadLatents
from sparsecode_estimators.learning.distributed import Group
from sparsecode_estimators.learning.encoders import SparseAutoencoder
from sparsecode_estimators.learning.optimizers import OPTIMIZERS
from sparsecode_estimators.learning.records import Settings
from sparsecode_estimators.learning.run import Run, trained

Trainer = tuple[Callable[[Tensor], Any], Callable[[], Callable[[Tensor], tuple[Tensor, Tensor]]]]


@contextlib.contextmanager
def without_this_folder():
    """A benchmark here has the name of a peer."""
    here = str(Path(__file__).parent)
    before = list(sys.path)
    sys.path[:] = [p for p in sys.path if str(Path(p).resolve()) != here]
    try:
        yield
    finally:
        sys.path[:] = before


class _Batch:
    """Rows that are one batch."""

    contiguous = False

    def __init__(self, x: Tensor) -> None:
        self.x = x

    def __len__(self) -> int:
        return len(self.x)

    def read(self, index: Any) -> Tensor:
        return self.x[index]


def ours(
    d: int,
    N: int,
    k: int | None,
    alpha: float,
    lr: float,
    total: int,
    seed: int = 1,
    *,
    optimizer: str = "adam",
    schedule: str = "constant",
    in_bfloat16: bool = False,
    device: str = "cpu",
) -> Trainer:
    """The loop of the estimators, a step at a time; ``in_bfloat16``: ``precision="bfloat16"``."""
    generator = torch.Generator().manual_seed(9_000_011 + seed)
    D = unit(torch.randn(N, d, generator=generator)).to(device)
    activation = make_activation("topk" if k else "relu", k, D, alpha, bounded=False)
    biases, offset = [D.new_zeros(N)], D.new_zeros(d)
    model = SparseAutoencoder([D.clone()], biases, D, offset, activation)
    silent_for = torch.zeros(N, dtype=torch.int64, device=device)
    dead = DeadLatents(silent_for, max(total // 20, 4 * N), d // 2)
    settings = Settings(
        objective="reconstruction", alpha=alpha, learn_dictionary=True, learn_offset=True,
        max_iter=10**9, batch_size=10**9, optimizer=optimizer, learning_rate=lr,
        schedule=schedule, warmup=0.0,
        sparsity_warmup=0.0, max_grad_norm=None, prefix_sizes=None, tol=0.0,
        n_iter_no_change=10**9, shuffle=False, aux_alpha=1.0, in_bfloat16=in_bfloat16,
    )  # fmt: skip
    optimizer_ = OPTIMIZERS[optimizer].fresh(trained(model, settings))
    rows = _Batch(D.new_zeros(1, d))
    run = Run(model, (rows,), settings, seed, optimizer_, dead, Group())
    seen = [0]

    def step(x: Tensor) -> None:
        rows.x = x  # where dead latents find their places
        run.step(Batch((x,), len(x), 1), min(seen[0] / total, 1.0))
        seen[0] += len(x)

    def network():
        run.finish()
        return lambda x: (model(x), model.encode(x))

    return step, network


def saelens(d, N, k, alpha, lr, total, seed=1, *, autocast=False) -> Trainer:
    """SAELens, ``SAETrainer.step``."""
    from sae_lens.config import LoggingConfig, SAETrainerConfig
    from sae_lens.saes.standard_sae import StandardTrainingSAE, StandardTrainingSAEConfig
    from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig
    from sae_lens.training.sae_trainer import SAETrainer

    torch.manual_seed(9_000_011 + seed)
    shape = {"d_in": d, "d_sae": N, "device": "cpu", "dtype": "float32"}
    if k:
        sae = TopKTrainingSAE(TopKTrainingSAEConfig(k=k, **shape))
    else:
        sae = StandardTrainingSAE(StandardTrainingSAEConfig(l1_coefficient=2 * alpha, **shape))
    config = SAETrainerConfig(
        total_training_samples=total, train_batch_size_samples=total, lr=lr, lr_end=lr,
        autocast=autocast, dead_feature_window=1000, logger=LoggingConfig(log_to_wandb=False),
    )  # fmt: skip
    trainer = SAETrainer(config, sae, iter(()))

    def step(x):
        trainer.step(x)
        trainer.n_training_steps += 1

    def network():
        return lambda x: (sae(x), sae.encode(x))

    return step, network


def dictionary_learning(d, N, k, alpha, lr, total, seed=1) -> Trainer:
    """dictionary_learning, ``TopKTrainer.update`` and ``StandardTrainer.update``."""
    with without_this_folder():
        from dictionary_learning.trainers.standard import StandardTrainer
        from dictionary_learning.trainers.top_k import TopKTrainer

    common = {
        "steps": 10**9, "activation_dim": d, "dict_size": N, "lr": lr, "device": "cpu",
        "layer": 0, "lm_name": "none", "warmup_steps": 0, "seed": 9_000_011 + seed,
    }  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        if k:
            trainer = TopKTrainer(k=k, **common)
        else:
            trainer = StandardTrainer(l1_penalty=2 * alpha, sparsity_warmup_steps=0, **common)
    steps = iter(range(10**9))

    def step(x):
        trainer.update(next(steps), x)

    def network():
        return lambda x: (trainer.ae(x), trainer.ae.encode(x))

    return step, network


def sparsify(d, N, k, alpha, lr, total, seed=1, *, signum=False) -> Trainer:
    """sparsify: its trainer takes a language model only, so its step is re-enacted in order.

    With ``signum`` the learning rate is its own rule, and not ``lr``.
    """
    from sparsify import SparseCoder, SparseCoderConfig

    torch.manual_seed(9_000_011 + seed)
    sae = SparseCoder(d, SparseCoderConfig(num_latents=N, k=k))
    if signum:
        from schedulefree import ScheduleFreeWrapper
        from sparsify.sign_sgd import SignSGD

        lr = 5e-3 / math.sqrt(N / 2**14)
        optimizer = ScheduleFreeWrapper(SignSGD(sae.parameters(), lr=lr), momentum=0.95)
        optimizer.train()
    else:
        optimizer = torch.optim.Adam(sae.parameters(), lr=lr)
    first = [True]

    def step(x):
        if first[0]:
            sae.b_dec.data = x.mean(0)
            first[0] = False
        sae.set_decoder_norm_to_unit_norm()
        out = sae(x)
        fired = torch.zeros(N, dtype=torch.bool)
        fired[out.latent_indices.flatten()] = True
        out.fvu.backward()
        sae.remove_gradient_parallel_to_decoder_directions()
        optimizer.step()
        optimizer.zero_grad()

    def network():
        if signum:
            optimizer.eval()

        def codes(x):
            out = sae(x)
            dense = torch.zeros(len(x), N)
            return out.sae_out, dense.scatter(1, out.latent_indices, out.latent_acts)

        return codes

    return step, network
