"""What a language model loses when a reconstruction takes the place of its activations."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from ..datasets.checks import check_choice, check_confidence, check_integer
from ..datasets.documents import read_documents
from ..datasets.extraction import forward_options
from ..datasets.hooks import HOOKS, Site, evaluating, find_sites, replaced, run_until, text_config
from ..datasets.language_models import input_device, of_package, resolve_model
from ..datasets.preparation import prepare
from ..datasets.windows import Windows, to_device
from ..metrics.inputs import from_tensor
from .splice_result import SpliceScores, SpliceSums

_BLOCK = 4096  # windows that are sorted by length together
_LOGITS = 2**24  # numbers that are turned into probabilities at a time


def splice_scores(
    model: Any,
    estimator: Any,
    texts: Any,
    *,
    layer: int,
    hook: str = "resid_pre",
    tokenizer: Any = None,
    text_column: str = "text",
    context_length: int = 128,
    batch_size: int = 8,
    drop_first: bool = True,
    mean: Any = None,
    device: str = "auto",
    precision: str = "auto",
    confidence: float = 0.95,
    n_resamples: int = 1000,
    random_state: Any = None,
) -> SpliceScores:
    r"""Run a model on with reconstructions in place of its activations, and score its predictions.

    Texts are read as `load_activations` reads them. What would become a row there is replaced;
    all else, position 0 of every window if `drop_first` and the padding, keeps the model's own
    activation. Scored are the predictions at the replaced positions that have a next token in
    their window. With :math:`\mathrm{CE}` the mean over these,

    .. math:: \text{loss recovered} =
        \frac{\mathrm{CE}_\text{zero} - \mathrm{CE}_\text{splice}}
             {\mathrm{CE}_\text{zero} - \mathrm{CE}_\text{original}}.

    Parameters
    ----------
    model : str, path or transformers model
        A causal language model with its head: a name or folder, "tiny", or a loaded
        ``AutoModelForCausalLM``.
    estimator : fitted transformer
        ``inverse_transform(transform(X))`` is what is spliced in: any encoder of this package,
        refined or not, or a pipeline all of whose steps can be inverted, such as a scaler
        before an encoder.
    texts : iterable or path
        As in `load_activations`; held in memory as tokens.
    layer : int
    hook : {"resid_pre", "resid_post", "attn_out", "mlp_out"}, default="resid_pre"
        Where the activations are that the estimator was fitted on.
    tokenizer, text_column, context_length, drop_first, device, precision
        As in `load_activations`.
    batch_size : int, default=8
        Windows in a forward pass. Their logits are held twice.
    mean : array-like of shape (n_features,) or None, default=None
        What mean ablation puts in. None: the mean of the replaced activations, at the price of
        another pass up to the layer.
    confidence : float in (0, 1), default=0.95
        Of the intervals.
    n_resamples : int, default=1000
        Of the bootstrap.
    random_state : int, RandomState or None, default=None
        Of the bootstrap.

    Returns
    -------
    SpliceScores

    Raises
    ------
    TypeError
        If a parameter is of the wrong kind.
    ValueError
        If a parameter is out of its range, the model has no language-modelling head, the
        estimator is a transcoder, is for another width or gives something that is no
        reconstruction, or no token has a next one.
    OSError
        If the model, the tokenizer or the texts cannot be read.
    ImportError
        If transformers is not installed.

    See Also
    --------
    sparsecode_estimators.datasets.load_activations : The activations, to fit an estimator on.
    sparsecode_estimators.metrics.explained_variance : How much of the rows comes back.

    Notes
    -----
    Every batch is run four times. Tokens of a document are alike, so the intervals come from
    resampling documents, with all of their tokens, and are percentiles.

    References
    ----------
    Bricken et al. (2023), "Towards monosemanticity"; Gao et al. (2024), arXiv 2406.04093,
    section 4.1; Karvonen et al. (2025), arXiv 2503.09532 (SAEBench), for the measures.

    Examples
    --------
    >>> from sklearn.decomposition import PCA
    >>> from sparsecode_estimators.datasets import load_activations
    >>> from sparsecode_estimators.interpret import splice_scores
    >>> texts = ["Return a copy of the list.", "Raise an error if the list is empty."] * 4
    >>> rows = load_activations(texts, model="tiny", layer=2).data
    >>> few, many = (
    ...     splice_scores("tiny", PCA(n).fit(rows), texts, layer=2, random_state=0)
    ...     for n in (1, 10)
    ... )
    >>> few.loss_recovered < many.loss_recovered
    True
    >>> few.ce_original == many.ce_original
    True
    """
    model, tokenizer = of_package(model), of_package(tokenizer)
    check_choice("hook", hook, HOOKS)
    check_integer("layer", layer, 0)
    check_integer("context_length", context_length, 2)
    check_integer("batch_size", batch_size, 1)
    check_integer("n_resamples", n_resamples, 1)
    check_confidence(confidence)
    generator = check_random_state(random_state)
    _check_estimator(estimator)
    prepared = prepare(
        model,
        tokenizer,
        [layer],
        device=device,
        precision=precision,
        context_length=context_length,
        drop_first=drop_first,
    )
    width = getattr(text_config(prepared.config), "hidden_size", None)
    mean = from_tensor(mean)
    _check_width(estimator, mean, width)
    windows = list(prepared.cutter.blocks(read_documents(texts, text_column), _BLOCK))
    if not any((block.counts() > 1).any() for block in windows):
        raise ValueError(
            "texts has no token that becomes a row and has a next one; give longer texts."
        )
    network = resolve_model(model, prepared.device, precision, with_head=True)
    site = find_sites(network, [(layer, hook)])[0]
    with evaluating(network):
        if mean is None:
            mean = _mean(network, site, windows, batch_size)
        run = _Run(network, site, estimator, torch.as_tensor(np.asarray(mean), dtype=torch.float32))
        sums = SpliceSums(int(windows[-1].document_ids[-1]) + 1)
        for batch in _batches(network, windows, batch_size):
            if len(batch.documents):
                sums.add(batch.documents, run.measures(batch))
    return sums.scores(float(confidence), int(n_resamples), generator)


class _Batch(NamedTuple):
    """What goes into the model, which of its tokens are replaced, and which predictions count."""

    inputs: dict[str, Any]
    source: Tensor  # replaced positions, of all in the batch
    scored: Tensor  # those of them whose next token is there
    targets: Tensor  # these next tokens
    documents: NDArray[np.int64]  # theirs


def _batches(model: nn.Module, blocks: list[Windows], batch_size: int) -> Iterator[_Batch]:
    options, device = forward_options(model), input_device(model)
    for windows in blocks:
        for chosen in windows.batches(batch_size):
            inputs = windows.inputs(chosen, device)
            source = windows.places(chosen).source
            documents = np.repeat(windows.document_ids[chosen], windows.counts()[chosen])
            has_next = np.ones(len(documents), dtype=bool)
            has_next[np.cumsum(windows.counts()[chosen]) - 1] = False
            scored = source[torch.from_numpy(has_next)]
            yield _Batch(
                {**inputs, **options},
                to_device(source, device),
                to_device(scored, device),
                inputs["input_ids"].reshape(-1)[to_device(scored + 1, device)],
                documents[has_next],
            )


def _mean(model: nn.Module, site: Site, blocks: list[Windows], batch_size: int) -> Tensor:
    """Of all activations that are to be replaced."""
    total, n_rows = torch.zeros(()), 0
    for batch in _batches(model, blocks, batch_size):
        take = partial(_sum_of_rows, source=batch.source)
        total = total + run_until(model, [site], batch.inputs, take)[0]
        n_rows += len(batch.source)
    return total / n_rows


def _sum_of_rows(hidden: Tensor, source: Tensor) -> Tensor:
    return hidden[source.to(hidden.device)].double().sum(0).cpu()


class _Run:
    """A batch through the model, as it is and with other activations.

    Parameters
    ----------
    model : torch.nn.Module
    site : Site
    estimator : fitted transformer
    mean : Tensor of shape (n_features,)
    """

    def __init__(self, model: nn.Module, site: Site, estimator: Any, mean: Tensor) -> None:
        self.model, self.site, self.estimator, self.mean = model, site, estimator, mean

    def measures(self, batch: _Batch) -> NDArray[np.float64]:
        """Cross-entropies and divergences, shape (n_measures, n_scored), as in `MEASURES`."""
        rows: list[Tensor] = []

        def see(hidden: Tensor) -> None:
            flat = hidden.reshape(batch.inputs["input_ids"].numel(), -1)
            rows.append(flat[batch.source.to(hidden.device)])

        original = self._logits(batch, see)
        own = rows[0]
        others = (
            reconstruction(self.estimator, own),
            torch.zeros_like(own),
            self.mean.expand(own.shape),
        )
        cross_entropies, divergences = [], []
        for number, other in enumerate(others):
            logits = self._logits(batch, partial(_put, rows=other, source=batch.source))
            before, after, kl = _compare(original, logits, batch.targets)
            if number == 0:
                cross_entropies.append(before)
            cross_entropies.append(after)
            divergences.append(kl)
        return torch.stack(cross_entropies + divergences).cpu().numpy()

    def _logits(self, batch: _Batch, replace: Any) -> Tensor:
        """At the scored positions, shape (n_scored, n_vocabulary)."""
        with torch.inference_mode(), replaced(self.site, replace):
            output = self.model(**batch.inputs)
        logits = getattr(output, "logits", None)
        if logits is None or logits.shape[:-1] != batch.inputs["input_ids"].shape:
            raise ValueError(
                f"model ({type(self.model).__name__}) gives no logits of the next token; load it "
                "with its head, by transformers.AutoModelForCausalLM."
            )
        return logits.reshape(-1, logits.shape[-1])[batch.scored.to(logits.device)]


def _put(hidden: Tensor, rows: Tensor, source: Tensor) -> Tensor:
    """A copy of the activations, some of them replaced."""
    changed = hidden.clone(memory_format=torch.contiguous_format)
    place = source.to(hidden.device)
    changed.view(-1, hidden.shape[-1])[place] = rows.to(hidden.device, hidden.dtype)
    return changed


def _compare(original: Tensor, other: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Cross-entropy before and after, and KL(before ‖ after), each of shape (n_scored,)."""
    size = max(1, _LOGITS // original.shape[1])
    parts = []
    for start in range(0, len(original), size):
        part = slice(start, start + size)
        p, q = (logits[part].float().log_softmax(1) for logits in (original, other))
        target = targets[part].to(p.device)[:, None]
        kl = (p.exp() * (p - q)).sum(1)
        parts.append(torch.stack([-p.gather(1, target)[:, 0], -q.gather(1, target)[:, 0], kl]))
    before, after, kl = torch.cat(parts, dim=1).double()
    return before, after, kl


def reconstruction(estimator: Any, rows: Tensor) -> Tensor:
    """What the estimator makes of some rows, on the CPU.

    Raises
    ------
    ValueError
        If it is of another shape, or not finite.
    """
    x = rows.float().cpu().numpy()
    found = np.asarray(estimator.inverse_transform(estimator.transform(x)))
    if found.shape != x.shape:
        raise ValueError(
            f"estimator ({type(estimator).__name__}) gives a reconstruction of shape "
            f"{found.shape} for rows of shape {x.shape}; splice in what has their shape."
        )
    if not np.isfinite(found).all():
        raise ValueError(
            f"estimator ({type(estimator).__name__}) gives a reconstruction that is not finite."
        )
    return torch.from_numpy(np.ascontiguousarray(found, dtype=np.float32))


# Checks


def _check_estimator(estimator: Any) -> None:
    for method in ("transform", "inverse_transform"):
        if not hasattr(estimator, method):
            raise TypeError(
                f"estimator ({type(estimator).__name__}) has no {method}; give a fitted encoder, "
                "or a pipeline all of whose steps can be inverted."
            )
    if hasattr(estimator, "fit"):
        check_is_fitted(estimator)
    last = estimator.steps[-1][1] if hasattr(estimator, "steps") else estimator
    if getattr(last, "objective", None) == "targets":
        raise ValueError(
            "estimator has objective='targets': it predicts other activations than those at the "
            "hook, and no reconstruction of them can be spliced in; give an encoder of these."
        )


def _check_width(estimator: Any, mean: Any, width: int | None) -> None:
    """Where the model says how wide it is; all parts of a block write into its stream."""
    fitted = getattr(estimator, "n_features_in_", None)
    if width is not None and fitted is not None and fitted != width:
        raise ValueError(
            f"estimator was fitted on {fitted} features, but the activations of the model have "
            f"{width}; give one for this model."
        )
    if mean is not None and not np.isfinite(mean).all():
        raise ValueError("mean holds NaN or infinity: leave it out, and it is measured.")
    if mean is not None and np.shape(mean) != (width or np.size(mean),):
        raise ValueError(
            f"mean has shape {np.shape(mean)}, but the activations have {width} features; give "
            "one number for each."
        )
