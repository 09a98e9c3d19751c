"""Splicing against models whose weights or functions were changed by hand."""

import copy
import pydoc_data.topics
import warnings

import numpy as np
import pytest
import scipy.stats
import torch
from sklearn.decomposition import PCA
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from torch.nn.functional import cross_entropy, kl_div

from sparsecode_estimators import (
    ITORefiner,
    MLPEncoder,
    SAEEncoder,
    SparseCodingEncoder,
    UnrolledEncoder,
)
from sparsecode_estimators.datasets import load_activations
from sparsecode_estimators.datasets.language_models import TINY_GPT2
from sparsecode_estimators.interpret import splice_scores
from sparsecode_estimators.interpret.resampling import percentile_intervals

transformers = pytest.importorskip("transformers")

TEXTS = [text[200:900] for _, text in sorted(pydoc_data.topics.topics.items())][:4]
TEXTS = ["short", "", *TEXTS, "x", "def close(self): pass"]
CONTEXT = 24
IDENTITY = FunctionTransformer()
ZERO = FunctionTransformer(inverse_func=np.zeros_like)


@pytest.fixture
def tiny():
    return transformers.GPT2LMHeadModel.from_pretrained(TINY_GPT2).float().eval()


@pytest.fixture
def llama():
    with torch.random.fork_rng():
        torch.manual_seed(5)
        config = transformers.LlamaConfig(
            vocab_size=4096, hidden_size=32, num_hidden_layers=3, num_attention_heads=4,
            intermediate_size=48, max_position_embeddings=64, initializer_range=0.3,
        )  # fmt: skip
        return transformers.LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def rows():
    return load_activations(TEXTS, model=TINY_GPT2, layer=3, context_length=CONTEXT).data


def splice(model, estimator, texts=TEXTS, **options):
    options = {"layer": 3, "context_length": CONTEXT, "n_resamples": 50, **options}
    return splice_scores(model, estimator, texts, random_state=0, **options)


def windows(tokenizer):
    for text in TEXTS:
        ids = tokenizer(text)["input_ids"]
        for start in range(0, len(ids), CONTEXT):
            yield torch.tensor([ids[start : start + CONTEXT]])


def logits_of(model, tokenizer, first=1):
    """At the positions from `first` on, window by window, and the tokens that follow."""
    logits, targets = [], []
    for ids in windows(tokenizer):
        with torch.inference_mode():
            logits.append(model(ids).logits[0, first:-1])
        targets.append(ids[0, first + 1 :])
    return torch.cat(logits), torch.cat(targets)


def assert_scores(scores, name, model, tokenizer, changed, first=1):
    """Cross-entropy and divergence are those of a model that was changed by hand."""
    before, targets = logits_of(model, tokenizer, first)
    after, _ = logits_of(changed, tokenizer, first)
    assert scores.n_tokens == len(targets)
    assert scores.ce_original == pytest.approx(cross_entropy(before, targets).item(), rel=1e-5)
    assert getattr(scores, f"ce_{name}") == pytest.approx(
        cross_entropy(after, targets).item(), rel=1e-5
    )
    kl = kl_div(after.log_softmax(1), before.log_softmax(1), log_target=True, reduction="batchmean")
    assert getattr(scores, f"kl_{name}") == pytest.approx(kl.item(), rel=1e-4)


# What is known


@pytest.mark.parametrize("hook", ["resid_pre", "resid_post", "attn_out", "mlp_out"])
def test_the_identity_loses_nothing_and_zeros_lose_what_zeros_do(hook):
    same = splice(TINY_GPT2, IDENTITY, hook=hook)
    assert same.ce_splice == same.ce_original
    assert same.kl_splice == 0
    assert same.loss_recovered == same.loss_recovered_mean == 1
    assert same.intervals["loss_recovered"] == (1, 1)
    assert same.intervals["kl_splice"] == (0, 0)
    nothing = splice(TINY_GPT2, ZERO, hook=hook)
    assert nothing.ce_splice == nothing.ce_zero == same.ce_zero
    assert nothing.kl_splice == nothing.kl_zero > 0
    assert nothing.loss_recovered == 0
    assert nothing.intervals["loss_recovered"] == (0, 0)


def test_the_mean_is_that_of_the_replaced_rows(rows, tiny):
    mean = rows.mean(axis=0)
    always = FunctionTransformer(inverse_func=lambda x: np.broadcast_to(mean, x.shape))
    scores = splice(tiny, always)
    assert scores.ce_splice == pytest.approx(scores.ce_mean, rel=1e-6)
    assert scores.kl_splice == pytest.approx(scores.kl_mean, rel=1e-5)
    assert abs(scores.loss_recovered_mean) < 1e-5
    given = splice(tiny, IDENTITY, mean=2 * mean)
    twice = FunctionTransformer(inverse_func=lambda x: np.broadcast_to(2 * mean, x.shape))
    assert given.ce_mean == splice(tiny, twice).ce_splice


# By hand


def test_cross_entropy_is_the_loss_of_transformers(tiny, tokenizer):
    text = "Return a copy of the list, or raise an error."
    scores = splice(tiny, IDENTITY, [text], drop_first=False)
    ids = torch.tensor([tokenizer(text)["input_ids"]])
    with torch.inference_mode():
        loss = tiny(ids, labels=ids).loss.item()
    assert scores.ce_original == pytest.approx(loss, rel=1e-6)
    assert scores.n_tokens == ids.shape[1] - 1


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_a_reconstruction_of_the_residual_stream(rows, tiny, tokenizer, batch_size):
    """The blocks, run one after the other; the first position is left as it is."""
    pca = PCA(20).fit(rows)

    class ByHand(torch.nn.Module):
        def forward(self, ids):
            body = tiny.transformer
            hidden = body.wte(ids) + body.wpe(torch.arange(ids.shape[1]))
            for number, block in enumerate(body.h):
                if number == 3 and ids.shape[1] > 1:
                    new = pca.inverse_transform(pca.transform(hidden[0, 1:].numpy()))
                    hidden = torch.cat([hidden[:, :1], torch.from_numpy(new)[None].float()], dim=1)
                hidden = block(hidden)
                hidden = hidden[0] if isinstance(hidden, tuple) else hidden
            return transformers.modeling_outputs.CausalLMOutput(
                logits=tiny.lm_head(body.ln_f(hidden))
            )

    scores = splice(tiny, pca, batch_size=batch_size)
    assert_scores(scores, "splice", tiny, tokenizer, ByHand())
    assert 0.2 < scores.loss_recovered < 1
    assert scores.loss_recovered == pytest.approx(
        (scores.ce_zero - scores.ce_splice) / (scores.ce_zero - scores.ce_original)
    )


@pytest.mark.parametrize(("hook", "part"), [("attn_out", "o_proj"), ("mlp_out", "down_proj")])
def test_zeros_are_what_a_model_without_that_part_does(llama, tokenizer, hook, part):
    options = {"tokenizer": tokenizer, "drop_first": False, "layer": 1}
    scores = splice(llama, IDENTITY, hook=hook, **options)
    changed = copy.deepcopy(llama)
    block = changed.model.layers[1]
    inner = getattr(block.self_attn if hook == "attn_out" else block.mlp, part)
    torch.nn.init.zeros_(inner.weight)
    assert_scores(scores, "zero", llama, tokenizer, changed, first=0)
    assert scores.kl_zero > 0.01


# Every estimator


def estimators():
    frozen = FrozenEstimator
    sae = SAEEncoder(64, activation="topk", n_nonzero_coefs=8, max_iter=3, random_state=0)
    return {
        "sae": sae,
        "mlp": MLPEncoder(64, max_iter=3, random_state=0),
        "unrolled": UnrolledEncoder(64, max_iter=3, random_state=0),
        "sparse coding": SparseCodingEncoder(64, max_iter=2, n_init=1, random_state=0),
        "refined": ITORefiner(sae, max_iter=5),
        "with a scaler": make_pipeline(StandardScaler(), sae),
        "refined with a scaler": make_pipeline(StandardScaler(), ITORefiner(sae, max_iter=5)),
        "frozen": frozen(sae),
    }


@pytest.mark.parametrize("name", estimators())
def test_works_with_every_estimator(name, rows, tiny):
    estimator = estimators()[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if name == "frozen":
            estimator.estimator.fit(rows)
        else:
            estimator.fit(rows)
        scores = splice(tiny, estimator)

        def pass_on(x):
            return estimator.inverse_transform(estimator.transform(x))

        known = splice(tiny, FunctionTransformer(inverse_func=pass_on))
    assert scores.ce_splice == pytest.approx(known.ce_splice, rel=1e-6)
    assert np.isfinite(scores[:9]).all()
    assert scores.loss_recovered < 1


def test_output_of_any_kind(rows, tiny):
    sae = SAEEncoder(64, activation="topk", n_nonzero_coefs=8, max_iter=3, random_state=0).fit(rows)
    expected = splice(tiny, sae).ce_splice
    assert splice(tiny, sae.set_params(sparse_output=True)).ce_splice == expected
    sae.set_params(sparse_output=False)
    assert splice(tiny, sae.set_output(transform="pandas")).ce_splice == expected


# Documents


def test_documents_add_up(tiny, rows):
    pca = PCA(20, random_state=0).fit(rows)
    scores = splice(tiny, pca)
    documents = scores.per_document
    assert documents["document_ids"].tolist() == [2, 3, 4, 5, 7]  # the others have no next token
    assert documents["n_tokens"].sum() == scores.n_tokens
    for name in ("ce_original", "ce_splice", "ce_zero", "ce_mean", "kl_splice", "kl_mean"):
        total = (documents[name] * documents["n_tokens"]).sum() / scores.n_tokens
        assert total == pytest.approx(getattr(scores, name), rel=1e-12)
    alone = splice(tiny, pca, [TEXTS[3]])
    assert documents["kl_splice"][1] == pytest.approx(alone.kl_splice, rel=1e-4)
    assert np.isnan(alone.intervals["ce_splice"]).all()  # one document says nothing of others
    for name, (low, high) in scores.intervals.items():
        assert low <= getattr(scores, name) <= high
    again = splice(tiny, pca)
    assert again.intervals == scores.intervals


def test_intervals_agree_with_scipy():
    rng = np.random.default_rng(91)
    n = rng.integers(5, 50, 40)
    sums = np.column_stack([n, n * (2 + rng.standard_normal(40))]).astype(float)
    found = percentile_intervals(
        sums,
        lambda totals: totals[:, 1:] / totals[:, :1],
        confidence=0.9,
        n_resamples=20_000,
        generator=np.random.RandomState(0),
    )
    expected = scipy.stats.bootstrap(
        tuple(sums.T),
        lambda n, y, axis: y.sum(axis) / n.sum(axis),
        paired=True,
        method="percentile",
        confidence_level=0.9,
        n_resamples=20_000,
        rng=np.random.default_rng(1),
    ).confidence_interval
    width = expected.high - expected.low
    np.testing.assert_allclose(np.ravel(found), expected, atol=0.02 * width)


def test_leaves_the_model_as_it_was(tiny):
    tiny.train()
    splice(tiny, IDENTITY)
    assert tiny.training
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in tiny.modules())


# What is refused


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"estimator": 3}, TypeError, r"estimator \(int\) has no transform"),
        ({"estimator": PCA(2)}, ValueError, "not fitted"),
        ({"estimator": make_pipeline(StandardScaler(), PCA(2))}, ValueError, "not fitted"),
        ({"layer": 6}, ValueError, "layer=6 is out of range"),
        ({"layer": [1]}, TypeError, r"layer=\[1\] must be an integer"),
        ({"hook": "resid"}, ValueError, "hook='resid' is unknown"),
        ({"confidence": 95}, ValueError, "confidence=95 must be between 0 and 1"),
        ({"n_resamples": 0}, ValueError, "n_resamples=0 must be at least 1"),
        ({"context_length": 1}, ValueError, "context_length=1 must be at least 2"),
        ({"mean": [np.nan] * 160}, ValueError, "mean holds NaN or infinity"),
        ({"mean": [1.0]}, ValueError, r"mean has shape \(1,\), .* 160 features"),
        ({"texts": "one"}, TypeError, r"texts=\[text\]"),
        ({"texts": ["Return", "x"]}, ValueError, "no token that becomes a row and has a next one"),
        ({"random_state": "x"}, ValueError, "cannot be used to seed"),
    ],
)
def test_wrong_parameters_are_named_before_any_work(options, error, message, monkeypatch):
    def no_weights(*args, **kwargs):
        raise AssertionError("weights were loaded before the check")

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", no_weights)
    options = {"estimator": IDENTITY, "texts": TEXTS, "layer": 3, "context_length": 24, **options}
    with pytest.raises(error, match=message):
        splice_scores(TINY_GPT2, options.pop("estimator"), options.pop("texts"), **options)


def test_estimators_for_other_rows(tiny):
    narrow = PCA(2).fit(np.random.default_rng(0).standard_normal((20, 8)))
    with pytest.raises(ValueError, match=r"fitted on 8 features, but the activations .* have 160"):
        splice(tiny, narrow)
    with pytest.raises(ValueError, match=r"gives a reconstruction of shape \(\d+, 3\) for rows"):
        splice(tiny, FunctionTransformer(inverse_func=lambda x: x[:, :3]))
    with pytest.raises(ValueError, match="reconstruction that is not finite"):
        splice(tiny, FunctionTransformer(inverse_func=lambda x: x * np.nan))


def test_transcoders_reconstruct_other_activations():
    """Also where these are of the same width, so that nothing else would tell."""
    rows = np.random.default_rng(0).standard_normal((20, 160))
    transcoder = SAEEncoder(8, objective="targets", max_iter=1).fit(rows, rows[::-1])
    for estimator in (transcoder, make_pipeline(IDENTITY, FrozenEstimator(transcoder)).fit(rows)):
        with pytest.raises(ValueError, match="has objective='targets'"):
            splice(TINY_GPT2, estimator)


def test_a_model_without_a_head(tiny, tokenizer):
    with pytest.raises(ValueError, match=r"GPT2Model\) gives no logits .*AutoModelForCausalLM"):
        splice(tiny.transformer, IDENTITY, tokenizer=tokenizer)
