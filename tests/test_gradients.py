"""Gradients of a training step against autograd through an independent dense loss."""

import itertools

import numpy as np
import pytest
import torch

from sparsecode_estimators.learning.activations import make_activation
from sparsecode_estimators.learning.codes import Dense, Sparse, Workspace
from sparsecode_estimators.learning.dead import DeadLatents
from sparsecode_estimators.learning.encoders import SparseAutoencoder
from sparsecode_estimators.learning.gradients import factored, whole

N, M, ROWS, K, ALPHA = 24, 7, 30, 4, 0.3
ACTIVATIONS = ["relu", "relu tanh", "topk", "abs_topk", "batch_topk", "jumprelu", "jumprelu tanh",
               "gated"]  # fmt: skip


def network(name, hidden=(), seed=0):
    rng = np.random.default_rng([311, seed])

    def random(*shape):
        return torch.tensor(rng.standard_normal(shape))

    sizes = [M, *hidden, N]
    weights = [random(b, a) / a**0.5 for a, b in itertools.pairwise(sizes)]
    biases = [0.1 * random(b) for b in sizes[1:]]
    D = random(N, M)
    activation = make_activation(name.split()[0], K, D, ALPHA, bounded="tanh" in name)
    for parameter in activation.parameters():
        parameter.data += 0.2 * random(N)
    model = SparseAutoencoder(weights, biases, D, 0.1 * random(M), activation)
    return model, random(ROWS, M)


def everything_alive():
    return DeadLatents(torch.zeros(N, dtype=torch.int64), 10, 3)


def keep(v, mask):
    return torch.where(mask, v, torch.zeros_like(v))


def straight_through(value, surrogate):
    """The value of one, the derivative of the other."""
    return value.detach() + surrogate - surrogate.detach()


def dense_codes(name, model, v):
    """Codes and penalty, sums over all entries, from the definitions of the papers."""
    activation = model.activation
    kind = name.split()[0]
    penalty = v.new_zeros(())
    if kind == "relu":
        codes = v.relu()
        penalty = ALPHA * codes.sum()
    elif kind in ("topk", "abs_topk"):
        size = v if kind == "topk" else v.abs()
        kth = size.sort(dim=1, descending=True).values[:, K - 1 : K]
        codes = keep(v if kind == "abs_topk" else v.relu(), size >= kth)
    elif kind == "batch_topk":
        kth = v.flatten().sort(descending=True).values[K * ROWS - 1]
        codes = keep(v.relu(), v >= kth)
    elif kind == "jumprelu":
        theta, width = activation.log_threshold.exp(), activation.bandwidth
        near = ((v - theta).abs() < width / 2).double().detach()
        gate = straight_through((v > theta).double(), -near / width * theta)
        # s = v·[v > θ]: the paper's derivative by θ is −θ/ε in the window
        codes = straight_through(keep(v, v > theta), keep(v, v > theta)) + (
            theta.detach() * (gate - gate.detach())
        )
        penalty = ALPHA**2 / 2 * gate.sum()
    else:
        codes = keep((activation.log_scale.exp() * v + activation.shift).relu(), v > 0)
        penalty = ALPHA * v.relu().sum()
    if "tanh" in name:
        penalty = ALPHA**2 / 2 * (codes / ALPHA).tanh().sum()
    return codes, penalty


def dense_loss(name, model, x, ends=(N,)):
    hidden = x - model.offset
    for w, b in zip(model.weights[:-1], model.biases[:-1], strict=True):
        hidden = (hidden @ w.T + b).relu()
    v = hidden @ model.weights[-1].T + model.biases[-1]
    codes, penalty = dense_codes(name, model, v)
    loss = penalty / len(x)
    for end in ends:
        error = x - model.offset - codes[:, :end] @ model.dictionary[:end]
        loss = loss + 0.5 * error.square().sum() / len(x) / len(ends)
    if name == "gated":
        frozen = model.dictionary.detach(), model.offset.detach()
        error = x - frozen[1] - v.relu() @ frozen[0]
        loss = loss + 0.5 * error.square().sum() / len(x)
    return loss, codes


def parameters(model):
    return [p for p, _ in model.encoder_parameters()] + [model.dictionary, model.offset]


def assert_same(step, loss, codes, model, *, more=0.0):
    torch.testing.assert_close(step.loss, loss.detach())
    torch.testing.assert_close(step.counts.double(), (codes != 0).sum(0).double())
    wanted = torch.autograd.grad(loss + more, parameters(model))
    for parameter, gradient in zip(parameters(model), wanted, strict=True):
        torch.testing.assert_close(step.gradients[parameter], gradient, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("few", [0.0, 1.0])
@pytest.mark.parametrize("hidden", [(), (9,), (9, 5)])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_gradients_are_those_of_the_dense_loss(name, hidden, few, monkeypatch):
    """Both ways, by dense and by sparse products."""
    for module in ("codes", "topk"):
        monkeypatch.setattr(f"sparsecode_estimators.learning.{module}.SPARSE_SHARE", few)
    for seed in range(3):
        model, x = network(name, hidden, seed)
        step = factored(model, x, ALPHA, everything_alive(), 0.5, Workspace())
        assert_same(step, *dense_loss(name, model, x), model)


@pytest.mark.parametrize("name", ["topk", "batch_topk"])
@pytest.mark.parametrize("hidden", [(), (9,)])
def test_nested_dictionaries(name, hidden):
    model, x = network(name, hidden)
    ends = (3, 10, N)
    step = factored(
        model, x, ALPHA, everything_alive(), 0.5, Workspace(nested=True), torch.tensor(ends)
    )
    assert_same(step, *dense_loss(name, model, x, ends), model)


@pytest.mark.parametrize("hidden", [(), (9,)])
@pytest.mark.parametrize("n_dead", [2, 6])
@pytest.mark.parametrize("name", ["topk", "relu"])
def test_auxiliary_loss(name, n_dead, hidden):
    """Dead latents reconstruct what is left over, by their largest pre-activations."""
    model, x = network(name, hidden)
    silent = torch.zeros(N, dtype=torch.int64)
    silent[:n_dead] = 99
    dead = DeadLatents(silent, 10, 3)
    step = factored(model, x, ALPHA, dead, 0.7, Workspace())
    loss, codes = dense_loss(name, model, x)
    error = (x - model.offset - codes @ model.dictionary).detach()
    v = model.pre_activations(x)[:, :n_dead].relu()
    kth = v.sort(dim=1, descending=True).values[:, min(3, n_dead) - 1 :][:, :1]
    guess = keep(v, v >= kth) @ model.dictionary[:n_dead]
    more = 0.7 * 0.5 * (error - guess).square().sum() / len(x)
    assert_same(step, loss, codes, model, more=more)


def test_the_two_kinds_of_step_agree():
    """The one for any module, by autograd, and the one without."""
    model, x = network("relu")
    params = parameters(model)
    ours, other = (
        factored(model, x, ALPHA, everything_alive(), 0.5, Workspace()),
        whole(model, x, None, ALPHA, params),
    )
    torch.testing.assert_close(ours.loss, other.loss)
    torch.testing.assert_close(ours.energy, other.energy)
    for p in params:
        torch.testing.assert_close(ours.gradients[p], other.gradients[p])


@pytest.mark.parametrize("hidden", [(), (9,)])
def test_smooth_losses_pass_gradcheck(hidden):
    """Finite differences: where nothing jumps the gradient is that of the loss itself."""
    model, x = network("relu", hidden)
    params = parameters(model)
    step = factored(model, x, ALPHA, everything_alive(), 0.0, Workspace())
    rng = np.random.default_rng(9)
    for p in params:
        direction = torch.tensor(rng.standard_normal(p.shape))
        losses = []
        for h in (1e-6, -1e-6):
            with torch.no_grad():
                p += h * direction
                losses.append(factored(model, x, ALPHA, everything_alive(), 0.0, Workspace()).loss)
                p -= h * direction
        slope = (losses[0] - losses[1]) / 2e-6
        assert slope.item() == pytest.approx((step.gradients[p] * direction).sum().item(), rel=1e-5)


def test_few_active_codes_are_handled_as_sparse():
    work, pre = Workspace(), torch.full((10, 100), -1.0)
    pre[:, 3] = 1
    assert isinstance(work.above(pre, torch.zeros(100)), Sparse)
    dense = [isinstance(work.above(-pre, torch.zeros(100)), Dense) for _ in range(40)]
    assert all(dense)
    later = [isinstance(work.above(pre, torch.zeros(100)), Sparse) for _ in range(17)]
    assert later[-1]


def test_batch_topk_keeps_as_many_as_asked_for_and_learns_a_threshold():
    rng = np.random.default_rng(5)
    activation = make_activation("batch_topk", 3, torch.zeros(50, 4), 0.0, bounded=False)
    smallest, work = [], Workspace()
    for _ in range(200):
        pre = torch.tensor(rng.standard_normal((64, 50)))
        at = activation.places(pre, torch.zeros(50).double(), work)
        assert len(at.places.atoms) == 3 * 64
        smallest.append(at.gather(pre).min().item())
    assert activation.threshold.item() == pytest.approx(np.mean(smallest), rel=0.02)
    codes = activation(torch.tensor(rng.standard_normal((4000, 50))))
    assert (codes > 0).sum(1).double().mean().item() == pytest.approx(3, rel=0.1)


def decisions(model, work, x):
    """What pre-activations are compared with, and on which side they are."""
    v = work.product(model.hidden(x), model.weights[-1]) + model.biases[-1]
    edges = [torch.zeros(())]
    if hasattr(model.activation, "bandwidth"):
        half = model.activation.bandwidth / 2
        edges += [model.activation.threshold + shift for shift in (-half, 0, half)]
    return torch.stack([v > edge for edge in edges])


@pytest.mark.parametrize("few", [0.0, 1.0])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_rounded_products_choose_and_do_not_compute(name, few, monkeypatch):
    """By sparse products gradients are exact once the active codes are the same; by dense ones
    they have errors of bfloat16."""
    for module in ("codes", "topk"):
        monkeypatch.setattr(f"sparsecode_estimators.learning.{module}.SPARSE_SHARE", few)
    same, tol = 0, 1e-5 if few else 0.05
    for seed in range(60):
        model, x = network(name, seed=seed)
        model, x = model.float(), x[:3].float()
        works = [Workspace(in_bfloat16=rounded) for rounded in (False, True)]
        with torch.no_grad():
            exact, rounded = (decisions(model, work, x) for work in works)
        steps = [factored(model, x, ALPHA, everything_alive(), 0.5, work) for work in works]
        if not (torch.equal(exact, rounded) and torch.equal(steps[0].counts, steps[1].counts)):
            continue  # two numbers were closer than the rounding
        same += 1
        torch.testing.assert_close(steps[1].loss, steps[0].loss, rtol=tol, atol=0)
        for p in parameters(model):
            gradient, found = (step.gradients[p] for step in steps)
            assert (found - gradient).norm() <= tol * gradient.norm() + 1e-6
    assert same >= 5
