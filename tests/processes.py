"""Processes that train together, started for a test; what runs in them stands here, too."""

import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from problems import Callback, Interrupted, interrupt_after, planted

from sparsecode_estimators import MLPEncoder, SAEEncoder, UnrolledEncoder, fit_many
from sparsecode_estimators.learning import memory, reduction
from sparsecode_estimators.learning.distributed import Group
from sparsecode_estimators.learning.run import Run

X, CODES, D = planted(403, 8, 16, 3, seed=81)
# few rows until a latent is dead, so that some are, and are started again; uneven last batches
OPTIONS = {"max_iter": 4, "batch_size": 50, "random_state": 0, "dead_after": 150,
           "precision": "float64"}  # fmt: skip


def k_sparse(activation, k=2, **options):
    return {"activation": activation, "n_nonzero_coefs": k, **options}


CANDIDATES = {
    "relu": (SAEEncoder, {}),
    "relu tanh": (SAEEncoder, {"penalty": "tanh"}),
    "topk": (SAEEncoder, k_sparse("topk")),
    "abs_topk": (SAEEncoder, k_sparse("abs_topk")),
    "batch_topk": (SAEEncoder, k_sparse("batch_topk")),
    "nested": (SAEEncoder, k_sparse("batch_topk", prefix_sizes=(8, 16))),
    "jumprelu": (SAEEncoder, {"activation": "jumprelu"}),
    "gated": (SAEEncoder, {"activation": "gated"}),
    "MLP": (MLPEncoder, {"hidden_layer_sizes": (12, 9)}),
    "MLP topk": (MLPEncoder, k_sparse("topk", hidden_layer_sizes=(12,))),
    "unrolled": (UnrolledEncoder, {}),
    "analytic": (UnrolledEncoder, {"weights": "analytic"}),
    "sign": (SAEEncoder, k_sparse("topk", optimizer="sign", learning_rate="constant")),
    "clipped": (SAEEncoder, k_sparse("batch_topk", max_grad_norm=0.1, sparsity_warmup=0.5)),
    "known dictionary": (SAEEncoder, k_sparse("topk", n_components=16, dictionary=D)),
    "in order": (SAEEncoder, {"shuffle": False}),
    "three rows": (SAEEncoder, k_sparse("batch_topk", batch_size=3, max_iter=1)),
    "one row": (SAEEncoder, k_sparse("topk", batch_size=1, max_iter=1)),
    "many atoms": (SAEEncoder, k_sparse("topk", n_components=400, batch_size=20, aux_alpha=0)),
}


MANY = ["batch_topk", "relu", "MLP topk"]
THREE = ["clipped", "sign", "MLP"]


def candidate(name, **options):
    cls, own = CANDIDATES[name]
    return cls(**{"n_components": 48, **OPTIONS, **own, **options})


def rows_for(name):
    return X[:70] if name in ("one row", "three rows") else X


def mapped(folder):
    """The rows as a file, of which blocks are read."""
    path = Path(folder) / "rows.npy"
    if not path.exists():
        np.save(path, np.tile(X, (3, 1)))
    return np.load(path, mmap_mode="r")


def start(job, folder, *args, size=2):
    """Run ``job(rank, folder, *args)`` in some processes; what it returns, by rank."""
    folder = Path(folder)
    # one process imports torch, and all others are copies of it
    torch.multiprocessing.set_forkserver_preload(["processes"])
    torch.multiprocessing.start_processes(
        _work, (job, size, folder, args), nprocs=size, start_method="forkserver"
    )
    return [pickle.loads((folder / f"{rank}.pickle").read_bytes()) for rank in range(size)]


def _work(rank, job, size, folder, args):
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=size)
    try:
        found = job(rank, folder, *args)
    finally:
        dist.destroy_process_group()
    (folder / f"{rank}.pickle").write_bytes(pickle.dumps(found))


def attributes(estimator):
    return {name: value for name, value in vars(estimator).items() if name.endswith("_")}


def fit_all(rank, folder, common):
    """Attributes of all candidates, which have the same bits in all processes at any time.

    With ``common`` the processes have memory in common, or the answer is None.
    """
    _insist_on_same_bits()
    if not common:
        reduction.common_memory = lambda size, group: None
    elif reduction.common_memory(1, Group.present()) is None:
        return None
    found = {}
    for name in CANDIDATES:
        sent = _numbers_sent()
        found[name] = {**attributes(candidate(name).fit(rows_for(name))), "sent": max(sent)}
    codes = SAEEncoder(objective="codes", **OPTIONS).fit(X, CODES)
    found["codes"] = attributes(codes)
    found["on disk"] = attributes(candidate("batch_topk", max_iter=2).fit(mapped(folder)))
    chunks = candidate("jumprelu")
    for chunk in (X[:200], X[200:], X[:100]):
        chunks.partial_fit(chunk)
    found["chunks"] = attributes(chunks)
    warm = candidate("topk", warm_start=True)
    found["warm"] = attributes(warm.fit(X).fit(X))
    several = fit_many([candidate(name) for name in MANY], X)
    found |= {f"many: {name}": attributes(e) for name, e in zip(MANY, several, strict=True)}
    found["unseeded"] = attributes(candidate("topk", random_state=None).fit(X))
    return found


class StopsAfterTwo(Callback):
    """A callback that asks for the end of the fit."""

    def __init__(self):
        self.epochs = 0

    def on_fit_task_end(self, estimator, context):
        self.epochs += context.task_name == "epoch"
        return self.epochs == 2


def stopped(rank, folder):
    """Epochs of a fit that a callback ends, and those that it has heard of."""
    callback = StopsAfterTwo()
    sae = candidate("topk").set_callbacks(callback).fit(X)
    return sae.n_iter_, callback.epochs


_sum = Group.sum_


def _numbers_sent():
    """A list of how many there are in each sum."""
    sent = []
    Group.sum_ = lambda self, tensor: sent.append(tensor.numel()) or _sum(self, tensor)
    return sent


def _insist_on_same_bits():
    """What is copied from rank 0 once training has begun is there, but for what it started anew."""
    same, revive, anew = Group.same_, Run._revive, []

    def noted(self, progress):
        anew.append(self)
        revive(self, progress)
        anew.pop()

    def checked(self, tensors):
        tensors = list(tensors)
        before = [t.clone() for t in tensors]
        same(self, tensors)
        for old, new in zip(before, tensors, strict=True):
            assert self._heard or anew or torch.equal(old, new)

    Group.same_, Run._revive = checked, noted


def differing(rank, folder):
    """Messages of fits that cannot be."""
    rows = X.copy()
    rows[rank] += rank
    broken = np.where(rank == 1, np.nan, X)
    calls = [
        lambda: candidate("relu", alpha=0.1 + rank).fit(X),
        lambda: candidate("topk").fit(rows),
        lambda: candidate("topk").fit(X[rank:]),
        lambda: candidate("relu" if rank else "MLP").fit(X),
        lambda: candidate("topk").fit(broken),
        lambda: candidate("topk", checkpoint=Path(folder) / "meet").fit(X),
        lambda: candidate("relu", learning_rate_init=1e200).fit(X),
    ]
    return [_message(call) for call in calls]


def _message(call):
    try:
        call()
    except Exception as error:
        return type(error).__name__, str(error)
    return None


def interrupted(rank, folder, name, stop):
    """A fit that is interrupted and taken up, by processes only the first of which may write."""
    whole = attributes(candidate(name).fit(X))
    runs = Path(folder) / f"runs of {rank}"
    sae = candidate(name, checkpoint=runs, checkpoint_steps=4)
    with pytest.MonkeyPatch.context() as patch:
        interrupt_after(patch, stop)
        with pytest.raises(Interrupted):
            sae.fit(X)
    if rank == 0:
        shutil.copytree(runs, Path(folder) / "left")
    return whole, attributes(sae.fit(X))


def of_three(rank, folder):
    """Attributes of fits in which no part of anything is as large as the others."""
    return {name: attributes(candidate(name, n_components=50).fit(X)) for name in THREE}


def in_common(rank, folder):
    """What a process sees of memory in which others write; whether there is any if one has none."""
    group = Group.present()
    held = memory.common_memory(2 * memory.PAGE, group)
    if held is None:
        return None
    vector, matrix = held.like(torch.empty(3)), held.like(torch.empty(2, 2, dtype=torch.float64))
    if rank == 1:
        vector[1] = 1
    matrix[rank] = rank + 5
    group.wait()
    seen = vector.tolist(), matrix.tolist()
    refused = memory.common_memory(memory.PAGE * (rank == 0), group)
    with pytest.MonkeyPatch.context() as patch:
        if rank == 1:  # as on another host
            patch.setattr(os, "readlink", lambda path: "/dev/null")
        elsewhere = memory.common_memory(memory.PAGE, group)
    del held, vector, matrix
    open_files = [os.path.realpath(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")]
    return seen, refused, elsewhere, [file for file in open_files if "sparsecode" in file]
