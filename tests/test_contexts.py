"""Contexts and statistics of latents, against all that a dense matrix says."""

import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import make_pipeline

from sparsecode_estimators import SAEEncoder
from sparsecode_estimators.datasets import ActivationStore
from sparsecode_estimators.interpret import (
    Context,
    collect_contexts,
    iter_codes,
    promoted_tokens,
    streams,
)


@st.composite
def corpora(draw):
    """Codes, tokens and documents, with repeated texts, dead latents and ties."""
    seed = draw(st.integers(0, 2**16))
    n, n_latents = draw(st.integers(1, 60)), draw(st.integers(1, 6))
    density = draw(st.sampled_from([0.0, 0.05, 0.3, 1.0]))
    rng = np.random.default_rng(seed)
    codes = np.where(rng.random((n, n_latents)) < density, rng.integers(-3, 6, (n, n_latents)), 0)
    documents = np.sort(rng.integers(0, draw(st.integers(1, 5)), n))
    tokens = [" abc"[i] for i in rng.integers(0, draw(st.integers(1, 4)), n)]
    return codes.astype(np.float32), tokens, documents


windows = st.tuples(st.integers(0, 4), st.integers(0, 3))


def stretch(row, documents, before, after):
    """Rows of the context of one row, the long way."""
    rows = [row]
    while len(rows) <= before and rows[0] > 0 and documents[rows[0] - 1] == documents[row]:
        rows.insert(0, rows[0] - 1)
    last = row
    while last - row < after and last + 1 < len(documents):
        if documents[last + 1] != documents[row]:
            break
        last += 1
        rows.append(last)
    return rows


def expected(row, latent, codes, tokens, documents, window):
    rows = stretch(row, documents, *window)
    return Context(
        tuple(tokens[i] for i in rows),
        codes[rows, latent],
        documents[row],
        row,
        rows.index(row),
    )


def assert_same(context, other):
    assert context.tokens == other.tokens
    np.testing.assert_array_equal(context.activations, other.activations)
    assert (context.document, context.row, context.center) == tuple(other[2:])


def collected(corpus, window, codes=None, **options):
    options = {"n_top": 5, "n_quantiles": 4, "n_per_quantile": 3, "random_state": 0, **options}
    dense, tokens, documents = corpus
    return collect_contexts(
        dense if codes is None else codes,
        tokens,
        documents,
        n_before=window[0],
        n_after=window[1],
        **options,
    )


@given(corpus=corpora(), window=windows)
def test_top_is_what_sorting_all_rows_gives(corpus, window):
    codes, tokens, documents = corpus
    contexts = collected(corpus, window)
    for latent, column in enumerate(codes.T):
        found = {}
        for row in sorted(np.flatnonzero(column), key=lambda i: (-abs(column[i]), i)):
            context = expected(row, latent, codes, tokens, documents, window)
            found.setdefault(context.tokens, context)
        best = contexts.top(latent)
        assert len(best) == min(5, len(found))
        for context, other in zip(best, found.values(), strict=False):
            assert_same(context, other)


@given(corpus=corpora(), window=windows)
def test_quantiles_are_parts_of_all_firings(corpus, window):
    """Exact, as no latent of these fires more often than firings are kept."""
    codes, tokens, documents = corpus
    contexts = collected(corpus, window, n_per_quantile=8)
    for latent, column in enumerate(codes.T):
        ranked = sorted(np.flatnonzero(column), key=lambda i: (abs(column[i]), i))
        for q in range(4):
            part = [row for rank, row in enumerate(ranked) if rank * 4 // len(ranked) == q]
            drawn = contexts.quantile(latent, q)
            texts = {expected(i, latent, codes, tokens, documents, window).tokens for i in part}
            assert {context.tokens for context in drawn} <= texts
            assert len(drawn) == min(len(texts), 8)
            for context in drawn:
                assert context.row in part
                assert_same(
                    context, expected(context.row, latent, codes, tokens, documents, window)
                )


@given(corpus=corpora(), window=windows)
def test_silent_contexts_are_silent(corpus, window):
    codes, tokens, documents = corpus
    contexts = collected(corpus, window)
    for latent in range(codes.shape[1]):
        silent = {
            tuple(tokens[i] for i in rows)
            for row in range(len(tokens))
            if not codes[rows := stretch(row, documents, *window), latent].any()
        }
        drawn = contexts.silent(latent, 1000, random_state=1)
        assert {context.tokens for context in drawn} == silent
        assert len(drawn) == len(silent)
        for context in drawn:
            assert_same(context, expected(context.row, latent, codes, tokens, documents, window))
        for context in contexts.silent(latent, 1000, random_state=1, near=[0]):
            assert codes[stretch(context.row, documents, *window), 0].any()


@given(corpus=corpora())
def test_statistics(corpus):
    codes = np.abs(corpus[0].astype(float))
    contexts = collected(corpus, (1, 1))
    fires = codes > 0
    np.testing.assert_allclose(contexts.firing_rate, fires.mean(0))
    np.testing.assert_array_equal(contexts.max_activation, codes.max(0))
    mean = codes.sum(0) / np.maximum(fires.sum(0), 1)
    np.testing.assert_allclose(contexts.mean_activation, mean)
    for latent, column in enumerate(codes.T):
        counts, _ = np.histogram(column[column > 0], contexts.histogram_edges)
        np.testing.assert_array_equal(contexts.histogram[latent], counts)


@given(corpus=corpora(), window=windows, cuts=st.lists(st.integers(0, 60), max_size=8))
def test_chunks_change_nothing(corpus, window, cuts):
    codes = corpus[0]
    parts = np.split(codes, sorted(min(cut, len(codes)) for cut in cuts))
    chunks = (sparse.csr_array(part) for part in parts if len(part))
    alone = collected(corpus, window)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams, "_BLOCK", 8)  # else all of it is one block
        cut = collected(corpus, window, chunks)
    assert_equal_contexts(alone, cut)


def assert_equal_contexts(a, b):
    for name in ("firing_rate", "max_activation", "histogram"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    np.testing.assert_allclose(a.mean_activation, b.mean_activation)
    for latent in range(a.n_latents):
        pairs = [(a.top(latent), b.top(latent))]
        pairs.append((a.silent(latent, 9, random_state=0), b.silent(latent, 9, random_state=0)))
        pairs += [(a.quantile(latent, q), b.quantile(latent, q)) for q in range(a.n_quantiles)]
        for left, right in pairs:
            assert len(left) == len(right)
            for context, other in zip(left, right, strict=True):
                assert_same(context, other)


def test_memory_does_not_grow_with_the_text(monkeypatch):
    """Four times the rows cost the ids of tokens and documents, and no more."""
    monkeypatch.setattr(streams, "_BLOCK", 2**13)

    def peak(n):
        rng = np.random.default_rng(0)
        chunks = (sparse.random_array((1000, 200), density=0.02, rng=rng) for _ in range(n // 1000))
        ids, documents = np.zeros(n, np.int32), np.arange(n) // 500
        tracemalloc.start()
        collect_contexts(chunks, ids, documents, decode=["a"], n_before=4, n_after=2)
        largest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return largest

    few, many = peak(20_000), peak(80_000)
    assert many - few < 16 * 60_000  # bytes, where the codes of a row have 48


@settings(max_examples=5)
@given(seed=st.integers(0, 2**16))
def test_quantiles_of_a_frequent_latent_are_near(seed):
    """A sample of 100 of 20,000 firings: within five standard deviations of its part."""
    strength = np.random.default_rng(seed).permutation(np.arange(1, 20001)).astype(np.float32)
    codes, tokens = strength[:, None], [str(i) for i in range(len(strength))]
    contexts = collect_contexts(
        codes, tokens, np.zeros(len(tokens), int), n_before=0, n_after=0, random_state=seed
    )
    for q in range(10):
        drawn = [context.activations[0] / 20000 for context in contexts.quantile(0, q)]
        assert len(drawn) == 5
        assert q / 10 - 0.25 < min(drawn)
        assert max(drawn) < (q + 1) / 10 + 0.25


def test_the_sample_is_uniform():
    """Every firing is as likely to be drawn: chi-squared over 40 firings, 2000 draws of 8."""
    tokens, documents = [str(i) for i in range(40)], np.zeros(40, int)
    counts = np.zeros(40)
    for seed in range(250):
        contexts = collect_contexts(
            np.ones((40, 1)), tokens, documents, n_quantiles=1, n_per_quantile=4, random_state=seed
        )
        counts[contexts._sample.slots.rows[0]] += 1
    assert counts.sum() == 2000
    assert ((counts - 50) ** 2 / 50).sum() < 73  # 0.999 quantile, 39 degrees of freedom


def test_similar_latents_fire_together():
    rng = np.random.default_rng(5)
    codes = np.where(rng.random((3000, 40)) < 0.05, rng.random((3000, 40)), 0)
    codes[:, 7] = 2 * codes[:, 3] + 0.3 * codes[:, 9]
    codes[:, 11] = 0
    tokens = ["a"] * 3000
    contexts = collect_contexts(codes, tokens, np.zeros(3000, int), random_state=0)
    unit = codes / np.maximum(np.linalg.norm(codes, axis=0), 1e-9)
    others, cosine = contexts.nearest(39)
    assert contexts.similar(7, 1).tolist() == [3]
    assert contexts.similar(3, 1).tolist() == [7]
    assert 11 not in contexts.similar(7, 100)
    true = np.take_along_axis(unit.T @ unit, others, 1)
    error = cosine - true
    assert abs(error.mean()) < 0.01
    assert error.std() < 0.06
    atoms = rng.standard_normal((40, 8))
    atoms[5] = -3 * atoms[2]
    assert contexts.similar(2, 1, components=atoms).tolist() == [5]


def test_ids_with_a_tokenizer_and_texts_are_the_same():
    codes = np.eye(4)
    texts = ["a", "b", "b", "c"]
    for decode in (["a", "b", "b", "c"], lambda i: texts[i]):
        contexts = collect_contexts(codes, np.arange(4), [0, 0, 1, 1], decode=decode)
        assert contexts.top(2)[0].tokens == ("b", "c")
        assert contexts.top(1)[0].tokens == ("a", "b")


@pytest.mark.parametrize("kind", [np.asarray, sparse.csr_matrix, torch.tensor, np.ndarray.tolist])
def test_kinds_of_codes(kind):
    codes = np.eye(5)[:, :3]
    contexts = collect_contexts(kind(codes), list("abcde"), [0] * 5)
    np.testing.assert_allclose(contexts.firing_rate, [0.2] * 3)


def test_from_a_store(tmp_path):
    X = np.random.default_rng(0).standard_normal((300, 6)).astype(np.float32)
    store = ActivationStore.create(tmp_path / "store", 6, dtype="float32", rows_per_shard=70)
    with store.writer() as writer:
        writer.append(X, token_ids=np.arange(300) % 7, document_ids=np.arange(300) // 50)
    sae = SAEEncoder(12, activation="topk", n_nonzero_coefs=3, max_iter=2, random_state=0).fit(X)
    sae.set_output(transform="pandas")
    contexts = collect_contexts(
        iter_codes(sae, store, n_rows=64), store.token_ids, store.document_ids, decode="abcdefg"
    )
    codes = np.asarray(sae.transform(X))
    assert not sae.sparse_output
    for fixed in (FrozenEstimator(sae), make_pipeline(FrozenEstimator(sae))):
        np.testing.assert_array_equal(next(iter_codes(fixed, X)).toarray(), codes)
    assert not sae.sparse_output
    np.testing.assert_allclose(contexts.firing_rate, (codes != 0).mean(0))
    np.testing.assert_allclose(contexts.max_activation, codes.max(0), rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"codes": np.ones((3, 2))}, "codes has 3 rows, but tokens 4"),
        ({"codes": np.ones((5, 2))}, "codes has at least 5 rows, but tokens only 4"),
        ({"codes": [np.ones((2, 2)), np.ones((2, 3))]}, "chunk 1.* has 3 columns"),
        ({"codes": iter([])}, "codes has 0 rows"),
        ({"codes": np.full((4, 2), np.nan)}, "NaN"),
        ({"codes": 3}, "codes must be an array"),
        ({"tokens": "abcd"}, "tokens is one text"),
        ({"tokens": [0, 1, 2, 3]}, "give decode"),
        ({"tokens": [0.5] * 4, "decode": str}, "array of integers"),
        ({"tokens": [0, 1, -1, 2], "decode": str}, "ids from -1 to 2"),
        ({"document_ids": [0, 1]}, "document_ids has shape"),
        ({"n_top": -1}, "n_top=-1"),
        ({"n_before": 1.5}, "n_before=1.5"),
        ({"n_quantiles": 0}, "n_quantiles=0"),
    ],
)
def test_bad_input(change, message):
    call = {"codes": np.ones((4, 2)), "tokens": list("abcd"), "document_ids": [0] * 4, **change}
    with pytest.raises((ValueError, TypeError), match=message):
        collect_contexts(call.pop("codes"), call.pop("tokens"), call.pop("document_ids"), **call)


def test_bad_questions():
    contexts = collect_contexts(np.ones((4, 2)), list("abcd"), [0] * 4)
    for latent in (2, -1, 0.5):
        with pytest.raises(ValueError, match=f"latent={latent}"):
            contexts.top(latent)
    with pytest.raises(ValueError, match="q=10"):
        contexts.quantile(0, 10)
    with pytest.raises(ValueError, match="components has shape"):
        contexts.similar(0, components=np.ones((3, 2)))


def test_promoted_tokens():
    rng = np.random.default_rng(8)
    atoms, output = rng.standard_normal((7, 5)), rng.standard_normal((30, 5))
    names = [f"t{i}" for i in range(30)]
    promoted = promoted_tokens(atoms, torch.tensor(output, requires_grad=True), names, n=4)
    for atom, best, logits, worst in zip(
        atoms, promoted.raised, promoted.raised_logits, promoted.lowered, strict=True
    ):
        change = output @ atom - (output @ atom).mean()
        order = np.argsort(change)
        assert best.tolist() == [names[i] for i in order[::-1][:4]]
        assert worst.tolist() == [names[i] for i in order[:4]]
        np.testing.assert_allclose(logits, np.sort(change)[::-1][:4], rtol=1e-4)
    for bad, message in (
        ((atoms[:, :3], output, names), "one column for each feature"),
        ((atoms, output, names[1:]), "tokens has 29"),
        ((atoms[0], output, names), "two-dimensional"),
    ):
        with pytest.raises(ValueError, match=message):
            promoted_tokens(*bad)


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int8", "uint64", "float16", "int64"])
def test_codes_of_any_type_are_numbers(dtype):
    rng = np.random.default_rng(1510)
    codes = rng.integers(1, 100, (400, 12)) * (rng.random((400, 12)) < 0.2)
    codes = (codes > 0 if dtype == "bool" else codes).astype(dtype)
    if dtype == "int8":
        codes[0, 0] = -128
    tokens, documents = [str(i % 7) for i in range(400)], np.repeat(np.arange(8), 50)
    found, plain = (
        collect_contexts(each, tokens, documents, random_state=0)
        for each in (codes, codes.astype(np.float64))
    )
    np.testing.assert_array_equal(found.max_activation, plain.max_activation)
    for ours, expected in zip(found.nearest(5), plain.nearest(5), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-5)


def test_nearest_by_atoms_of_any_length_and_only_of_latents_there_are():
    rng = np.random.default_rng(1511)
    codes, atoms = np.abs(rng.standard_normal((50, 6))), rng.standard_normal((6, 4))
    found = collect_contexts(codes, ["a"] * 50, np.zeros(50, int), random_state=0)
    near = found.similar(0, 3, components=atoms)
    np.testing.assert_array_equal(found.similar(0, 3, components=atoms * 1e-200), near)
    np.testing.assert_array_equal(found.similar(0, 3, components=torch.tensor(atoms)), near)
    for latent in (-1, 6):
        with pytest.raises(ValueError, match=f"latent={latent} is out of range"):
            found.nearest(2, latents=[latent])
