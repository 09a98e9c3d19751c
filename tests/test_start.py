"""How training begins: reconstructions of the right length; other rows for latents that die."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar

from sparsecode_estimators import SAEEncoder
from sparsecode_estimators.estimators.arrays import Rows
from sparsecode_estimators.learning.activations import ReLU
from sparsecode_estimators.learning.batches import samples
from sparsecode_estimators.learning.dead import DeadLatents
from sparsecode_estimators.learning.encoders import SparseAutoencoder, fit_length_
from sparsecode_estimators.learning.jumprelu import JumpReLU
from sparsecode_estimators.learning.optimizers import Adam
from sparsecode_estimators.learning.topk import BatchTopK, TopK


def alike(n, seed):
    """Rows that have most of their variance along two directions."""
    rng = np.random.default_rng(seed)
    scales = np.r_[np.full(2, 5.0), np.full(18, 0.5)]
    return torch.tensor(scales * rng.standard_normal((n, 20)), dtype=torch.float32)


def tied(activation, x, sizes=()):
    D = torch.nn.functional.normalize(x[:50], dim=1)
    layers = [torch.randn(o, i) for i, o in zip((20, *sizes), (*sizes, 50), strict=True)]
    weights = layers if sizes else [D.clone()]
    biases = [torch.zeros(len(w)) for w in weights]
    return SparseAutoencoder(weights, biases, D, torch.full((20,), 0.1), activation)


@pytest.mark.parametrize("activation", [TopK(4), TopK(4, signed=True), ReLU()])
def test_no_other_length_reconstructs_better(activation):
    x = alike(400, seed=221)
    model = tied(activation, x)
    model.weights[0].data *= 7  # wherever it is
    fit_length_(model, x)

    @torch.no_grad()
    def energy(factor):
        parts = factor * model.encode(x) @ model.dictionary
        return (x - model.offset - parts).square().sum().item()

    best = minimize_scalar(energy, bounds=(0.01, 10), method="bounded", options={"xatol": 1e-6})
    assert best.x == pytest.approx(1, abs=1e-3)
    assert energy(1) < (x - model.offset).square().sum()


def test_of_a_batch_its_largest_codes_count():
    """Long rows have more of them than others."""
    x = alike(128, seed=222)
    model = tied(BatchTopK(4), x)
    fit_length_(model, x)
    with torch.no_grad():
        pre = model.pre_activations(x)
        codes = torch.where(pre >= pre.flatten().sort().values[-4 * 128], pre, 0.0)
        parts, left = codes @ model.dictionary, x - model.offset
    assert not torch.equal((codes != 0).sum(1), torch.full((128,), 4))
    assert ((parts * left).sum() / parts.square().sum()).item() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("factor", [0.2, 1.0, 30.0])
def test_thresholds_of_their_own_are_searched_for(factor):
    """Fewer latents fire where codes are shorter, so one quotient is not enough."""
    x = alike(400, seed=226)
    model = tied(JumpReLU(torch.full((50,), 0.5).log(), 0.1), x)
    model.weights[0].data *= factor
    fit_length_(model, x)
    with torch.no_grad():
        codes = model.encode(x)
        parts, left = codes @ model.dictionary, x - model.offset
    assert 0 < (codes != 0).sum() < codes.numel() / 2
    assert ((parts * left).sum() / parts.square().sum()).item() == pytest.approx(1, abs=0.2)


def test_encoders_with_hidden_layers_stay_as_they_are():
    x = alike(100, seed=223)
    model = tied(TopK(4), x, sizes=(30,))
    before = [w.detach().clone() for w in model.weights]
    fit_length_(model, x)
    for now, then in zip(model.weights, before, strict=True):
        assert torch.equal(now, then)


@pytest.mark.parametrize("x", [torch.zeros(100, 20), torch.full((100, 20), 0.1)])
def test_rows_that_say_nothing_change_nothing(x):
    model = tied(TopK(4), alike(100, seed=224))
    before = model.weights[0].detach().clone()
    fit_length_(model, x)
    assert model.weights[0].isfinite().all()
    assert (model.weights[0] != 0).any()
    if x[0, 0] == 0.1:  # the offset is all that there is
        assert torch.equal(model.weights[0], before)


@pytest.mark.parametrize(
    "activation", ["relu", "gated", "jumprelu", "topk", "abs_topk", "batch_topk"]
)
def test_a_few_steps_explain_rows_that_are_alike(activation):
    """Without the factor the first reconstructions are many times too long."""
    x = alike(2000, seed=225).numpy()
    sparsity = {"n_nonzero_coefs": 8} if "topk" in activation else {}
    sae = SAEEncoder(
        100, activation=activation, max_iter=1, batch_size=500, learning_rate_init=1e-4,
        random_state=0, **sparsity,
    ).fit(x)  # fmt: skip
    # few latents with thresholds of their own fire so soon; a batch has its codes in long rows
    assert sae.score(x) > (0 if activation == "jumprelu" else 0.5)


@pytest.mark.parametrize("n_dead", [1, 40, 50])
def test_latents_that_start_again_together_explain_what_is_left_once(n_dead):
    x = alike(600, seed=227)
    model = tied(ReLU(), x)
    fit_length_(model, x)
    silent = torch.zeros(50, dtype=torch.int64)
    silent[:n_dead] = 1000
    rows = Rows(x.numpy(), torch.float32, torch.device("cpu"))

    @torch.no_grad()
    def left():
        codes = model.encode(x)
        codes[:, :n_dead] = 0
        return x - codes @ model.dictionary - model.offset

    DeadLatents(silent, 1000, 1).revive(
        model, (rows,), Adam.fresh(list(model.parameters())), torch.Generator().manual_seed(0),
        learn_dictionary=True, known_codes=False, alpha=0.1,
    )  # fmt: skip
    with torch.no_grad():
        error = x - model(x)
    assert (error**2).sum() < 1.1 * (left() ** 2).sum()
    assert (model.encode(x)[:, :n_dead] > 0).any(0).all()


class OnDisk:
    dtype = np.dtype(np.float32)

    def __init__(self, n):
        self.shape = (n, 1)

    def __getitem__(self, index):
        return np.arange(self.shape[0], dtype=np.float32)[index, None]


@pytest.mark.parametrize("n", [513, 600, 5000])
@pytest.mark.parametrize("on_disk", [True, False])
def test_another_phase_is_another_sample(n, on_disk):
    source = OnDisk(n) if on_disk else np.arange(n, dtype=np.float32)[:, None]
    rows = Rows(source, torch.float32, torch.device("cpu"))
    found = [samples((rows, rows), 512, phase) for phase in (0.0, 0.3, 0.999)]
    for one, other in found:
        assert torch.equal(one, other)
        assert one.shape == (512, 1)
        assert 0 <= one.min() <= one.max() < n
        if not on_disk:
            assert len(one.unique()) > 500
    if n == 5000:
        assert not torch.equal(found[0][0], found[1][0])
