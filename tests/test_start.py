"""How training begins: reconstructions of the right length; other rows for latents that die."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar

from sparsecode_estimators import SAEEncoder
from sparsecode_estimators.estimators.arrays import Rows
from sparsecode_estimators.learning.activations import BatchTopK, ReLU, TopK
from sparsecode_estimators.learning.batches import samples
from sparsecode_estimators.learning.encoders import SparseAutoencoder, fit_length_


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


@pytest.mark.parametrize("signed", [True, False])
def test_no_other_length_reconstructs_better(signed):
    x = alike(400, seed=221)
    model = tied(TopK(4, signed=signed), x)
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


@pytest.mark.parametrize(("activation", "sizes"), [(ReLU(), ()), (TopK(4), (30,))])
def test_other_encoders_stay_as_they_are(activation, sizes):
    x = alike(100, seed=223)
    model = tied(activation, x, sizes)
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


@pytest.mark.parametrize("activation", ["topk", "abs_topk", "batch_topk"])
def test_a_few_steps_explain_rows_that_are_alike(activation):
    """Without the factor the first reconstructions are many times too long."""
    x = alike(2000, seed=225).numpy()
    sae = SAEEncoder(
        100, activation=activation, n_nonzero_coefs=8, max_iter=1, batch_size=500,
        learning_rate_init=1e-4, random_state=0,
    ).fit(x)  # fmt: skip
    assert sae.score(x) > 0.5  # a batch has its codes where rows are long


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
