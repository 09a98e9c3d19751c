"""Fixtures and settings for every test; thread counts are set here and nowhere else."""

import os

os.environ["SCIPY_ARRAY_API"] = (
    "1"  # before scikit-learn is imported: its array API checks ask for it
)

import hypothesis
import pytest
import torch

torch.set_num_threads(1)

# Before Triton is imported: without a GPU its interpreter runs the kernels, on CPU tensors.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

# Shapes change from example to example and the first call of a torch operator
# is slow, so a deadline would measure the machine and not the code.
hypothesis.settings.register_profile(
    "default", deadline=None, derandomize=True, max_examples=25, print_blob=True
)
hypothesis.settings.load_profile("default")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request):
    """Every device that this machine has."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device on this machine")
    return request.param


@pytest.fixture(scope="session")
def paper_known():
    """The paper's data with a known dictionary."""
    from sparsecode_estimators.datasets import load_paper_data

    return load_paper_data("known_dictionary")


@pytest.fixture(scope="session")
def paper_unknown():
    """The paper's data with nothing known."""
    from sparsecode_estimators.datasets import load_paper_data

    return load_paper_data("unknown")


@pytest.fixture(params=["exact", "halves", "bytes"])
def products(request, monkeypatch):
    """Every way in which compiled loops multiply rows with very many atoms."""
    pytest.importorskip("numba")
    from sparsecode_estimators.kernels import cpu_lane_vectors, cpu_products

    if request.param == "bytes" and not cpu_lane_vectors.has("avx2"):
        pytest.skip("products of bytes are instructions of AVX2, which this processor has not")
    for kind, name in (("halves", "rounded_are_faster"), ("bytes", "bytes_are_faster")):
        monkeypatch.setattr(cpu_products, name, lambda *_, yes=request.param == kind: yes)
    return request.param


@pytest.fixture
def no_window():
    """Figures are drawn in memory, and closed."""
    plt = pytest.importorskip("matplotlib.pyplot")
    plt.switch_backend("agg")
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def tokenizer():
    """That of the small GPT-2 of the package."""
    from sparsecode_estimators.datasets.language_models import TINY_GPT2

    return pytest.importorskip("transformers").AutoTokenizer.from_pretrained(TINY_GPT2)


@pytest.fixture
def tiny():
    """The small GPT-2 of the package, for hooks of one test."""
    from sparsecode_estimators.datasets.language_models import TINY_GPT2

    transformers = pytest.importorskip("transformers")
    return transformers.GPT2Model.from_pretrained(TINY_GPT2).float().eval()


@pytest.fixture
def words():
    """A tokenizer that puts [CLS] and [SEP] around a text."""
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdef"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]")


@pytest.fixture(scope="module")
def corpus():
    """Tokens, documents and codes."""
    import interpreting

    return interpreting.corpus()


@pytest.fixture(scope="module")
def contexts(corpus):
    """Contexts of their latents."""
    import interpreting

    return interpreting.contexts(*corpus)


@pytest.fixture
def ask(monkeypatch):
    """Runs a function with a client of a server that answers as a script says."""
    pytest.importorskip("openai")
    import interpreting

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return interpreting.ask
