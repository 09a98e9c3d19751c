r"""Loss of a batch of rows and its gradients, by which a step of training moves.

:func:`factored` needs one dense product a step where codes are sparse, that of the rows with
the last layer of the encoder, which finds the active codes. With residuals :math:`r = sD+b-x`
all other gradients are products with sparse codes, or with sparse derivatives
:math:`g = \partial L/\partial v` by the pre-activations,

.. math:: \nabla_D = S^\top R, \quad \partial L/\partial s = R D^\top \text{ at the active
          places}, \quad \nabla_W = G^\top H, \quad \nabla_c = G^\top 1,

and the one of the offset that an encoder of one layer takes off its rows is a product of a
matrix with a vector, :math:`\sum_i r_i - W^\top\nabla_c` (Gao et al. 2024, appendix).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .codes import Codes, Sparse, Workspace
from .dead import DeadLatents
from .distributed import Group
from .encoders import SparseAutoencoder

GUARD = 5  # longest error of a row that counts in full, in medians


class Step(NamedTuple):
    """What a batch says.

    Attributes
    ----------
    loss : Tensor
        Mean over its rows, without the auxiliary loss.
    energy : Tensor
        ``½‖x − x̂‖²``, or that of codes, mean over its rows.
    counts : Tensor of shape (n_components,)
        On how many rows each latent fired.
    gradients : dict
        Of everything that may be trained, by parameter.
    """

    loss: Tensor
    energy: Tensor
    counts: Tensor
    gradients: dict[Tensor, Tensor]


class _Active(NamedTuple):
    """Codes at some places, with what autograd needs to go back to ``v``, if it is needed."""

    at: Codes
    v: Tensor | None
    codes: Tensor
    guess: Tensor | None
    penalty: Tensor | None


def factored(
    model: SparseAutoencoder,
    x: Tensor,
    alpha: float,
    dead: DeadLatents,
    aux_alpha: float,
    work: Workspace,
    ends: Tensor | None = None,
    *,
    guarded: bool = False,
    target: Tensor | None = None,
) -> Step:
    r"""Reconstruction loss of an encoder whose last layer is linear.

    With ``ends`` the mean of the losses of nested dictionaries, the first ``ends[0]`` atoms,
    the first ``ends[1]``, and so on (Bussmann et al. 2025, "Learning multi-level features with
    Matryoshka sparse autoencoders", arXiv 2503.17547).

    Parameters
    ----------
    model : SparseAutoencoder
    x : Tensor of shape (n, n_features)
    alpha : float
    dead : DeadLatents
    aux_alpha : float
        Weight of the auxiliary loss.
    work : Workspace
        Of the run.
    ends : Tensor of shape (n_prefixes,) or None
        Ascending, the last one the number of atoms.
    guarded : bool
        Whether rows that are far worse than the others have no more weight than ``GUARD`` times
        the median row. Signs of gradients do not tell that one row makes all of it.
    target : Tensor of shape (n, n_targets) or None
        What is reconstructed; None: the rows themselves.
    """
    target = x if target is None else target
    deep = len(model.weights) > 1
    with torch.set_grad_enabled(deep):
        hidden = model.hidden(x)
    with torch.no_grad():
        h, weight = hidden.detach(), model.weights[-1]
        pre = work.product(h, weight)
        active = _activate(model, pre, alpha, work)
        at, codes = active.at, active.codes.detach()
        parts = at
        if ends is not None:
            assert isinstance(at, Sparse), "only k-sparse codes are nested"
            parts = at.split(ends)
        n_prefixes = 1 if ends is None else len(ends)
        error = _errors(model, target, parts, codes, n_prefixes)
        upstream, last = error / (len(x) * n_prefixes), error[:, -1]
        if guarded:
            upstream = upstream * _limited(last, work.group)[:, None, None]
        if n_prefixes > 1:  # an atom is in all dictionaries from the first one that has it
            upstream = upstream.flip(1).cumsum(1).flip(1)
        flat = upstream.flatten(0, 1)
        energy = 0.5 * last.square().sum() / len(x)
        loss = energy if n_prefixes == 1 else 0.5 * error.square().sum() / (len(x) * n_prefixes)
        by_codes = parts.products(flat, model.dictionary, work.like("by codes", codes))
        price = model.activation.price(alpha) / len(x)
        if price:
            by_codes += price
            loss = loss + price * codes.sum(dtype=loss.dtype)
        by_v, by_activation, more = _backward(model, target, active, by_codes)
        gradients = {
            model.dictionary: parts.rows_by_atom(codes, flat, work.gradient(model.dictionary)),
            model.offset: upstream[:, 0].sum(0),
            weight: at.rows_by_atom(by_v, h, work.gradient(weight)),
            model.biases[-1]: at.per_atom(by_v),
            **by_activation,
        }
        by_hidden = at.decode(by_v, weight) if deep else None
        auxiliary = dead.auxiliary(model, pre, last, aux_alpha)
        if auxiliary is not None:
            _add(gradients, model, h, auxiliary)
            if by_hidden is not None:
                by_hidden += auxiliary.by_pre @ weight[auxiliary.latents]
        if by_hidden is None and model.input_offset is None:
            gradients[model.offset] -= gradients[model.biases[-1]] @ weight
        counts = at.counts(codes)
    if by_hidden is not None:
        below: list[Tensor] = [*[*model.weights][:-1], *[*model.biases][:-1]]
        if model.input_offset is None:
            below.append(model.offset)
        for p, g in zip(below, torch.autograd.grad(hidden, below, by_hidden), strict=True):
            gradients[p] = gradients[p] + g if p in gradients else g
    return Step(loss + more, energy, counts, gradients)


def _limited(error: Tensor, group: Group) -> Tensor:
    """Factors that bring long errors down to ``GUARD`` times the median length, shape (n,)."""
    length = error.norm(dim=1)
    return (GUARD * group.gather(length).median() / length).nan_to_num(1.0).clamp(max=1.0)


def _activate(model: SparseAutoencoder, pre: Tensor, alpha: float, work: Workspace) -> _Active:
    activation, bias = model.activation, model.biases[-1].detach()
    at = activation.places(pre, bias, work)
    if activation.rectifies:
        return _Active(at, None, work.rectified(at, pre, bias), None, None)
    with torch.enable_grad():
        v = (work.at(at, pre) + at.spread(bias)).requires_grad_()
        codes = activation.codes(v, at)
        guess, penalty = activation.guess(v), activation.penalty(v, codes, at, alpha)
    return _Active(at, v, codes, guess, penalty)


def _errors(
    model: SparseAutoencoder, target: Tensor, parts: Codes, codes: Tensor, n_prefixes: int
) -> Tensor:
    """``x̂ − x`` of every nested dictionary, shape (n, n_prefixes, n_features)."""
    sums = parts.decode(codes, model.dictionary).view(len(target), n_prefixes, -1)
    if n_prefixes > 1:
        sums = sums.cumsum(1)
    return sums.add_((model.offset - target).unsqueeze(1))


def _backward(
    model: SparseAutoencoder, target: Tensor, active: _Active, by_codes: Tensor
) -> tuple[Tensor, dict[Tensor, Tensor], Tensor]:
    """Derivatives by v and by the activation's parameters; what is added to the loss."""
    at, n = active.at, len(target)
    if active.v is None:  # codes are max(v, 0)
        backward = torch.ops.aten.threshold_backward.grad_input
        return backward(by_codes, active.codes, 0, grad_input=by_codes), {}, target.new_zeros(())
    results, upstream, more = [active.codes], [by_codes], target.new_zeros(())
    if active.guess is not None:  # dictionary and offset are held fixed here
        error = at.decode(active.guess.detach(), model.dictionary) + (model.offset - target)
        results.append(active.guess)
        upstream.append(at.products(error / n, model.dictionary))
        more = more + 0.5 * error.square().sum() / n
    if active.penalty is not None:
        results.append(active.penalty)
        upstream.append(active.penalty.new_tensor(1 / n))
        more = more + active.penalty.detach() / n
    own = model.activation.per_latent
    by_v, *by_own = torch.autograd.grad(results, [active.v, *own], upstream)
    return by_v, dict(zip(own, by_own, strict=True)), more


def _add(
    gradients: dict[Tensor, Tensor], model: SparseAutoencoder, hidden: Tensor, auxiliary
) -> None:
    latents, by_pre = auxiliary.latents, auxiliary.by_pre
    for parameter, gradient in (
        (model.dictionary, auxiliary.by_atoms),
        (model.weights[-1], by_pre.T @ hidden),
        (model.biases[-1], by_pre.sum(0)),
    ):
        gradients[parameter].index_add_(0, latents, gradient)


def whole(
    model: SparseAutoencoder,
    x: Tensor,
    true: Tensor | None,
    alpha: float,
    params: list[Tensor],
    *,
    target: Tensor | None = None,
) -> Step:
    """Any module, by autograd through all codes.

    Parameters
    ----------
    model : SparseAutoencoder
    x : Tensor of shape (n, n_features)
    true : Tensor of shape (n, n_components) or None
        Known codes, in place of the rows to reconstruct: the loss is ``½‖s_true − s‖²``.
    alpha : float
    params : list of Tensor
        What gradients are wanted of.
    target : Tensor of shape (n, n_targets) or None
        What is reconstructed; None: the rows themselves.
    """
    codes = model.activation.of_batch(model.pre_activations(x))
    target = x if target is None else target
    error = model.decode(codes) - target if true is None else codes - true
    energy = loss = 0.5 * error.square().sum() / len(x)
    if true is None and model.activation.penalised:
        loss = loss + alpha * codes.sum() / len(x)
    gradients = dict(zip(params, torch.autograd.grad(loss, params), strict=True))
    counts = (codes.detach() != 0).sum(0).to(codes)
    return Step(loss.detach(), energy.detach(), counts, gradients)
