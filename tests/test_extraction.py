"""Windows, several hooks, outliers and conversations, against transformers' own and plain NumPy."""

import pydoc_data.topics

import numpy as np
import pytest
import torch

from sparsecode_estimators.datasets import decode_tokens, load_activations
from sparsecode_estimators.datasets.language_models import TINY_GPT2

transformers = pytest.importorskip("transformers")

TEXTS = [text for _, text in sorted(pydoc_data.topics.topics.items())][:6]
TEXTS = ["short", "", *(text[:1500] for text in TEXTS), "x", "def close(self): pass"]
CONTEXT = 24
COLUMNS = ("token_ids", "tokens", "positions", "document_ids")
TEMPLATE = "{% for m in messages %}<|endoftext|>{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"


def tiny_activations(texts=TEXTS, **options):
    options = {"model": TINY_GPT2, "layer": 2, "context_length": CONTEXT, **options}
    return load_activations(texts, **options)


def assert_close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def hidden_states(model, ids, layer):
    with torch.inference_mode():
        output = model(torch.tensor([ids]), output_hidden_states=True)
    return output.hidden_states[layer][0].numpy()


# Several layers and hooks


@pytest.mark.parametrize(
    ("layer", "hook"),
    [
        ([3, 1], "resid_pre"),
        (2, ["mlp_out", "resid_pre", "attn_out", "resid_post"]),
        ([0, 4], ["resid_post", "mlp_out"]),
        ([5], ["resid_post"]),
    ],
)
def test_several_are_what_each_is_alone(layer, hook, tiny, tokenizer):
    calls = []
    handles = [
        block.register_forward_pre_hook(lambda *_, i=i: calls.append(i))
        for i, block in enumerate(tiny.h)
    ]
    both = tiny_activations(layer=layer, hook=hook, model=tiny, tokenizer=tokenizer, batch_size=100)
    for handle in handles:
        handle.remove()
    layers = layer if isinstance(layer, list) else [layer]
    hooks = hook if isinstance(hook, list) else [hook]
    one_pass = list(range(max(layers) + 1))
    assert calls == one_pass * (len(calls) // len(one_pass))
    assert list(both.data) == [(one, other) for one in layers for other in hooks]
    for (one, other), rows in both.data.items():
        alone = tiny_activations(layer=one, hook=other, batch_size=100)
        np.testing.assert_array_equal(rows, alone.data)
        for name in COLUMNS:
            np.testing.assert_array_equal(both[name], alone[name])
    assert (both.layer, both.hook) == (layer, hook)


def test_a_model_that_writes_into_its_activations(tiny):
    """What was taken from an earlier layer stays as it was."""

    class InPlace(torch.nn.Module):
        def __init__(self, block):
            super().__init__()
            self.block = block

        def forward(self, hidden_states, *args, **kwargs):
            return hidden_states.copy_(self.block(hidden_states, *args, **kwargs))

    model = transformers.GPT2Model.from_pretrained(TINY_GPT2).float().eval()
    model.h = torch.nn.ModuleList(map(InPlace, model.h))
    both = tiny_activations(layer=[1, 3], model=model)
    for key, rows in tiny_activations(layer=[1, 3], model=tiny).data.items():
        np.testing.assert_array_equal(both.data[key], rows)


# Windows


@pytest.mark.parametrize(("batch_size", "look_ahead"), [(1, 1), (2, 1), (5, 3), (32, 1000)])
def test_sorting_changes_no_row(batch_size, look_ahead):
    expected = tiny_activations()
    bunch = tiny_activations(iter(TEXTS), batch_size=batch_size, look_ahead=look_ahead)
    for name in COLUMNS:
        np.testing.assert_array_equal(bunch[name], expected[name])
    assert_close(bunch.data, expected.data)


def test_sorting_leaves_little_padding(tiny):
    sizes = []
    handle = tiny.register_forward_pre_hook(
        lambda module, args, kwargs: sizes.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    texts = ["word " * n for n in np.random.default_rng(81).integers(2, 20, 320)]
    options = {"model": tiny, "batch_size": 8, "drop_first": False}
    n_rows = len(tiny_activations(texts, **options).data)
    sorted_size = sum(sizes)
    sizes.clear()
    tiny_activations(texts, look_ahead=1, **options)
    handle.remove()
    assert n_rows <= sorted_size < 1.1 * n_rows
    assert sum(sizes) > 1.3 * n_rows


@pytest.mark.parametrize("drop_first", [True, False])
@pytest.mark.parametrize("overlap", [1, 7, 23])
def test_overlap_is_context_and_gives_no_rows_again(overlap, drop_first, tiny, tokenizer):
    bunch = tiny_activations(overlap=overlap, drop_first=drop_first)
    rows, checked, kept = [], [], []
    for document, text in enumerate(TEXTS):
        ids = tokenizer(text)["input_ids"]
        for new in range(len(ids)):
            # the first window that the token is in
            step = CONTEXT - overlap
            begin = 0 if new < CONTEXT else ((new - CONTEXT) // step + 1) * step
            if new == 0 and drop_first:
                continue
            kept.append((ids[new], new - begin, document))
            if new % 9 == 0:
                window = ids[begin : begin + CONTEXT]
                rows.append(hidden_states(tiny, window, 2)[new - begin])
                checked.append(len(kept) - 1)
    found = zip(bunch.token_ids, bunch.positions, bunch.document_ids, strict=True)
    assert [tuple(map(int, row)) for row in found] == kept
    assert_close(bunch.data[checked], np.array(rows))


def test_overlap_beside_special_tokens(words):
    model = random_bert()
    options = {"model": model, "tokenizer": words, "layer": 1, "drop_first": False}
    bunch = load_activations(["a b c d e f", "a"], context_length=5, overlap=1, **options)
    # [CLS] a b c [SEP], [CLS] c d e [SEP], [CLS] e f [SEP]
    expected = "[CLS] a b c [SEP] d e [SEP] f [SEP] [CLS] a [SEP]"
    assert " ".join(bunch.tokens) == expected
    assert bunch.positions.tolist() == [0, 1, 2, 3, 4, 2, 3, 4, 2, 3, 0, 1, 2]
    assert_close(bunch.data[5:8], hidden_states(model, [2, 6, 7, 8, 3], 1)[2:])


def test_long_texts_may_be_cut(tokenizer):
    whole = tiny_activations(drop_first=False)
    beginning = tiny_activations(drop_first=False, long_texts="cut")
    ids = [tokenizer(text)["input_ids"][:CONTEXT] for text in TEXTS]
    np.testing.assert_array_equal(beginning.token_ids, np.concatenate(ids))
    first = [
        np.flatnonzero(whole.document_ids == document)[:CONTEXT] for document in range(len(TEXTS))
    ]
    assert_close(beginning.data, whole.data[np.concatenate(first)])


# Conversations


def test_conversations_are_written_out_by_the_chat_template(tokenizer):
    tokenizer.chat_template = TEMPLATE
    chat = [{"role": "user", "content": "Sort it."}, {"role": "assistant", "content": "Done."}]
    text = "<|endoftext|>user: Sort it.\n<|endoftext|>assistant: Done.\n"
    assert tokenizer.apply_chat_template(chat, tokenize=False) == text
    mixed = tiny_activations(["plain", chat, {"text": chat}], tokenizer=tokenizer)
    expected = tiny_activations(["plain", text, text], tokenizer=tokenizer)
    assert tokenizer.eos_token_id in mixed.token_ids
    for name in ("data", *COLUMNS):
        np.testing.assert_array_equal(mixed[name], expected[name])


def test_a_template_brings_its_own_special_tokens(words):
    words.chat_template = "{% for m in messages %}[CLS] {{ m['content'] }} {% endfor %}"
    chat = [{"role": "user", "content": "a b"}, {"role": "user", "content": "c"}]
    bunch = load_activations(
        [chat, "a"], model=random_bert(), tokenizer=words, layer=1, context_length=4,
        drop_first=False,
    )  # fmt: skip
    assert " ".join(bunch.tokens) == "[CLS] a b [CLS] c [CLS] a [SEP]"
    assert bunch.positions.tolist() == [0, 1, 2, 3, 0, 0, 1, 2]


def test_conversations_that_cannot_be_written_out():
    tokenizer = transformers.AutoTokenizer.from_pretrained(TINY_GPT2)
    chat = [{"role": "user", "content": "Sort it."}]
    with pytest.raises(ValueError, match=r"texts\[1\] is a conversation, .* no chat_template"):
        tiny_activations(["x y z", chat], tokenizer=tokenizer)
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(ValueError, match=r"texts\[0\] cannot .* \(roles must alternate\)"):
        tiny_activations([chat], tokenizer=tokenizer)


def random_bert():
    with torch.random.fork_rng():
        torch.manual_seed(3)
        config = transformers.BertConfig(
            vocab_size=10, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
            intermediate_size=24, initializer_range=0.3,
        )  # fmt: skip
        return transformers.BertModel(config).eval()


# Outliers


def test_outliers_are_left_out_at_all_hooks():
    options = {"layer": [1, 4], "drop_first": False, "dtype": "float32"}
    everything = tiny_activations(**options)
    norms = np.stack([np.linalg.norm(rows, axis=1) for rows in everything.data.values()])
    factor = 1.25
    kept = (norms <= factor * np.median(norms, axis=1, keepdims=True)).all(0)
    assert 10 < (~kept).sum() < len(kept) / 4
    assert len({tuple(row > factor * np.median(row)) for row in norms}) == 2  # each has its own
    bunch = tiny_activations(max_norm=factor, **options)
    assert bunch.n_outliers == (~kept).sum()
    for name in COLUMNS:
        np.testing.assert_array_equal(bunch[name], everything[name][kept])
    for key, rows in everything.data.items():
        np.testing.assert_array_equal(bunch.data[key], rows[kept])


def test_an_outlier_that_no_float16_holds_may_be_left_out(tokenizer):
    model = transformers.GPT2Model.from_pretrained(TINY_GPT2).float()

    def enlarge(module, args):
        hidden = args[0].clone()
        hidden[0, 3] *= 1e6
        return hidden, *args[1:]

    model.h[2].register_forward_pre_hook(enlarge)
    options = {"model": model, "tokenizer": tokenizer, "dtype": "float16", "batch_size": 1000}
    with pytest.raises(ValueError, match=r'not finite; .* dtype="float32", or .* max_norm'):
        tiny_activations(**options)
    bunch = tiny_activations(max_norm=20, **options)
    assert bunch.n_outliers == 1
    assert np.isfinite(bunch.data).all()
    model.h[1].register_forward_pre_hook(lambda module, args: (args[0] * float("nan"), *args[1:]))
    with pytest.raises(ValueError, match="not finite"):
        tiny_activations(max_norm=20, **options)


def test_outliers_at_one_hook_or_another_may_be_all(tmp_path):
    options = {"layer": [0, 1, 2, 3], "hook": ["resid_pre", "mlp_out"], "drop_first": False}
    for place in ({}, {"store": tmp_path / "s"}, {"store": tmp_path / "s"}):
        with pytest.raises(ValueError, match=r"max_norm=1 leaves out every token at one layer"):
            tiny_activations(["two"], max_norm=1, **options, **place)


# Precision, and what is printed


@pytest.mark.parametrize(("precision", "error"), [("bfloat16", 0.05), ("float16", 0.01)])
def test_precision_is_that_of_the_model(precision, error):
    low = tiny_activations(precision=precision).data
    exact = tiny_activations(precision="float32").data
    np.testing.assert_array_equal(exact, tiny_activations().data)
    assert 0 < np.linalg.norm(low - exact) < error * np.linalg.norm(exact)
    # rows are what the model computed, not rounded again
    as_stored = torch.from_numpy(low).to(getattr(torch, precision)).float().numpy()
    np.testing.assert_array_equal(low, as_stored)


def test_progress_says_how_fast_it_is(capsys):
    tiny_activations(verbose=1, batch_size=4)
    lines = capsys.readouterr().out.splitlines()
    assert 5 <= len(lines) <= 10
    assert all(line.endswith("tokens/s") for line in lines)


def test_tokens_of_ids(tokenizer):
    bunch = tiny_activations()
    np.testing.assert_array_equal(decode_tokens(bunch.token_ids, TINY_GPT2), bunch.tokens)
    np.testing.assert_array_equal(decode_tokens([5, 5, 7], tokenizer)[:1], tokenizer.decode([5]))
    with pytest.raises(TypeError, match="tokenizer must be a name"):
        decode_tokens([5], 3)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"layer": []}, ValueError, r"layer=\[\] must name one or more, each once"),
        ({"layer": [1, 1]}, ValueError, r"layer=\[1, 1\] must name one or more, each once"),
        ({"layer": [1, 6]}, ValueError, "layer=6 is out of range: the model has 6 layers"),
        ({"layer": ["1"]}, TypeError, "layer='1' must be an integer"),
        ({"hook": ["mlp_out", "mlp"]}, ValueError, "hook='mlp' is unknown"),
        ({"overlap": 24}, ValueError, "overlap=24 leaves no room for new tokens in context_length"),
        ({"overlap": -1}, ValueError, "overlap=-1 must be at least 0"),
        ({"overlap": 2, "long_texts": "cut"}, ValueError, "overlap=2 is for long_texts='split'"),
        ({"long_texts": "drop"}, ValueError, "long_texts='drop' is unknown"),
        ({"look_ahead": 0}, ValueError, "look_ahead=0 must be at least 1"),
        ({"max_norm": 0.5}, ValueError, "max_norm=0.5 must be at least 1"),
        ({"max_norm": "10"}, TypeError, "max_norm='10' must be a number or None, got str"),
        ({"precision": "int8"}, ValueError, r"precision='int8' is unknown; .*'auto'"),
        ({"dtype": "bfloat16"}, ValueError, "NumPy has no such type; give store="),
        ({"rows_per_shard": 5}, ValueError, "rows_per_shard=5, but store=None"),
        ({"store": 3}, TypeError, "store must be a folder or an ActivationStore, got int"),
        ({"store": "s", "rows_per_shard": 0}, ValueError, "rows_per_shard=0 must be at least 1"),
        ({"text_column": "body"}, ValueError, r"texts\[0\] has no column 'body'"),
    ],
)
def test_wrong_parameters_are_named_before_any_work(options, error, message, monkeypatch, tmp_path):
    def no_weights(*args, **kwargs):
        raise AssertionError("weights were loaded before the check")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(transformers.AutoModel, "from_pretrained", no_weights)
    with pytest.raises(error, match=message):
        tiny_activations([{"text": text} for text in TEXTS], **options)
    assert not list(tmp_path.iterdir())


def test_a_loaded_model_of_another_precision(tiny):
    with pytest.raises(ValueError, match=r"precision='float16', .*to\(torch\.float16"):
        tiny_activations(model=tiny, precision="float16")
    tiny_activations(model=tiny, precision="float32")
