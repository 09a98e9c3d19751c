"""The training step in Triton against its definition: on a GPU where there is one.

Elsewhere Triton's interpreter runs the kernels on CPU tensors (see ``conftest.py``).
"""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import planted

from sparsecode_estimators import SAEEncoder
from sparsecode_estimators.kernels import adam, reference_sparse, sparse
from sparsecode_estimators.kernels.cuda_probe import fused

# older interpreters know no arrays of truth values
pytest.importorskip("triton", minversion=None if torch.cuda.is_available() else "3.6")
from sparsecode_estimators.kernels import cuda_adam, cuda_sparse

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]

sizes = st.tuples(st.integers(1, 4), st.integers(1, 300), st.integers(0, 10**6))
few_examples = settings(max_examples=12)


def numbers(*shape, seed, ties=False, dtype=torch.float32):
    rng = np.random.default_rng(seed)
    drawn = rng.integers(-2, 3, shape) if ties else rng.standard_normal(shape)
    return torch.tensor(drawn, dtype=dtype, device=DEVICE)


def scores(n, n_components, seed, dtype, *, ties):
    """Scores and what goes with each column, which is never of a shorter type than float32."""
    wide = torch.promote_types(dtype, torch.float32)
    pre = numbers(n, n_components, seed=seed, ties=ties, dtype=dtype)
    return pre, numbers(n_components, seed=seed + 1, ties=ties, dtype=wide)


def first_largest(pre, bias, k, *, signed):
    """The definition, with its ties broken as ours are."""
    total = pre + bias
    order = (total.abs() if signed else total).argsort(dim=1, descending=True, stable=True)
    return order[:, :k].sort(dim=1).values.flatten()


@pytest.fixture
def short_parts(monkeypatch):
    """Rows that do not fit in registers, nor in one part, nor atoms in one sum."""
    monkeypatch.setattr(cuda_sparse, "ROW", 2**7)
    monkeypatch.setattr(cuda_sparse, "PART", 2**4)
    monkeypatch.setattr(cuda_sparse, "PLACES", 4)
    monkeypatch.setattr(cuda_sparse, "FEATURES", 8)


@pytest.mark.parametrize("dtype", TYPES)
@few_examples
@given(size=sizes, share=st.floats(0, 1), signed=st.booleans(), ties=st.booleans())
def test_the_largest_are_found(dtype, size, share, signed, ties):
    n, n_components, seed = size
    k = max(1, round(share * n_components))
    pre, bias = scores(n, n_components, seed, dtype, ties=ties)
    places = cuda_sparse.largest(pre, bias, k, signed=signed)
    assert torch.equal(places.atoms, first_largest(pre, bias, k, signed=signed))
    assert torch.equal(places.starts, reference_sparse.largest(pre, bias, k, signed=False).starts)


@pytest.mark.parametrize(("signed", "ties"), [(True, False), (False, True)])
@pytest.mark.parametrize("k", [1, 32, 149, 150])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_largest_of_rows_that_registers_do_not_hold(dtype, k, signed, ties, short_parts):
    pre, bias = scores(2, 150, 481, dtype, ties=ties)
    places = cuda_sparse.largest(pre, bias, k, signed=signed)
    assert torch.equal(places.atoms, first_largest(pre, bias, k, signed=signed))


@pytest.mark.parametrize("k", [1, 3, 9, 10])
def test_of_equal_scores_the_first_are_taken(k):
    pre = torch.zeros(3, 10, device=DEVICE)
    pre[1, 1::2] = -0.0
    pre[2] = -torch.inf
    places = cuda_sparse.largest(pre, pre.new_zeros(10), k, signed=False)
    assert torch.equal(places.atoms, torch.arange(k, device=DEVICE).repeat(3))


def test_scores_that_are_no_numbers_are_not_a_trap():
    pre = numbers(4, 21, seed=482)
    pre[0, 5] = pre[2] = torch.nan
    pre[1, 3:8] = torch.inf
    pre[3] = -torch.nan
    for k in (1, 4, 21):
        places = cuda_sparse.largest(pre, pre.new_zeros(21), k, signed=False)
        atoms = places.atoms.view(4, k)
        assert (atoms.diff(dim=1) > 0).all()
        assert 0 <= atoms.min() <= atoms.max() < 21
        assert k == 21 or (atoms[0] == 5).any()  # as in the definition


def test_scores_in_half_precision_are_those_of_the_definition():
    pre = numbers(3, 20, seed=483, dtype=torch.bfloat16)
    ours, meant = (m.largest(pre, pre[0], 4, signed=False) for m in (cuda_sparse, reference_sparse))
    assert torch.equal(ours.atoms, meant.atoms)


@pytest.mark.parametrize("dtype", TYPES)
@few_examples
@given(size=sizes, ties=st.booleans(), height=st.sampled_from([-9.0, 0.0, 2.0, 9.0]))
def test_all_above_the_floor_are_found(dtype, size, ties, height):
    pre, floor = scores(*size, dtype, ties=ties)
    floor += height  # from nearly all places to nearly none
    ours, meant = (m.above(pre, floor) for m in (cuda_sparse, reference_sparse))
    assert torch.equal(ours.starts, meant.starts)
    assert torch.equal(ours.atoms, meant.atoms)


def test_places_of_wide_rows_above_the_floor(short_parts):
    pre, floor = scores(3, 100, 484, torch.float32, ties=False)
    ours, meant = (m.above(pre, floor) for m in (cuda_sparse, reference_sparse))
    assert torch.equal(ours.starts, meant.starts)
    assert torch.equal(ours.atoms, meant.atoms)


# rows, features, atoms, share of active codes
SHAPES = [(5, 1, 1, 1.0), (9, 7, 20, 0.2), (3, 40, 17, 0.5), (70, 5, 4, 0.6), (4, 3, 6, 0.0)]


@pytest.mark.parametrize("short", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_products_agree_with_the_definition(shape, dtype, short, request):
    if short:
        request.getfixturevalue("short_parts")
    n, n_features, n_components, share = shape
    R = numbers(n, n_features, seed=485, dtype=dtype)
    D = numbers(n_components, n_features, seed=486, dtype=dtype)
    active = numbers(n, n_components, seed=487).sigmoid() < share
    active[:, n_components // 2] = share > 0  # one atom of all rows,
    active[:, n_components // 3] &= n_components < 3  # one of none,
    active[n // 2] &= n_components < 3  # and a row without any
    assert_products(active, R, D)


def assert_products(active, R, D):
    places = reference_sparse.above(active.to(R), R.new_zeros(active.shape[1]))
    values = numbers(len(places.atoms), seed=488, dtype=R.dtype)
    turned = sparse.by_atom(places, active.shape[1])
    counts = active.sum(0)
    assert torch.equal(turned.starts.diff(), counts)
    ours, meant = (
        (
            m.products(places, R, D),
            m.decode(places, values, D),
            m.rows_by_atom(turned, values, R),
            m.sums_by_atom(places, turned, values),
        )
        for m in (cuda_sparse, reference_sparse)
    )
    for found, wanted in zip(ours, meant, strict=True):
        torch.testing.assert_close(found, wanted)
    assert not ours[2][counts == 0].any()
    out = torch.full_like(ours[2].T.contiguous(), torch.nan).T  # in another order in memory
    assert cuda_sparse.rows_by_atom(turned, values, R, out) is out
    assert torch.equal(out, ours[2])


def test_what_no_place_asks_for_is_not_summed():
    R, values = numbers(3, 5, seed=498), numbers(2, seed=499)
    R[0] = torch.nan
    atoms = torch.tensor([1, 1], device=DEVICE)
    places = sparse.Places(torch.tensor([0, 0, 1, 2], device=DEVICE), atoms)
    found = cuda_sparse.rows_by_atom(sparse.by_atom(places, 2), values, R)
    torch.testing.assert_close(found[1], values @ R[1:])
    assert not found[0].any()


def test_products_of_no_rows_and_of_matrices_in_any_order():
    R, D = numbers(6, 4, seed=489), numbers(5, 4, seed=490)
    active = numbers(4, 5, seed=491) > 0
    assert_products(active, R.T.contiguous().T[:4], D.T.contiguous().T)
    none = cuda_sparse.largest(R[:0], R[0], 2, signed=False)
    assert len(none.atoms) == 0
    assert torch.equal(none.starts, torch.zeros(1, dtype=torch.int64, device=DEVICE))
    assert cuda_sparse.products(none, R[:0], D).shape == (0,)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("unit", [True, False])
@pytest.mark.parametrize(("shape", "chunk"), [((5, 33), 2**12), ((4, 70), 16), ((3, 1), 8)])
def test_adam_is_that_of_torch(shape, chunk, unit, dtype, monkeypatch):
    monkeypatch.setattr(cuda_adam, "CHUNK", chunk)
    found = []
    for make in (cuda_adam, None):
        monkeypatch.setattr(adam, "_make", lambda parameter, make=make: make)
        p = numbers(*shape, seed=492, dtype=dtype)
        p[1] = 0
        adam.to_unit_length_(p)
        mean, square = torch.zeros_like(p), torch.zeros_like(p)
        step = torch.zeros((), device=DEVICE)
        for i in range(6):
            gradient = numbers(*shape, seed=493 + i, dtype=dtype)
            gradient[1] = 0
            skip = step.new_tensor(float(i in (0, 3)))
            if skip:
                gradient *= torch.nan
            adam.adam(
                [p], [gradient], [mean], [square], [step],
                learning_rate=0.01, skip=skip, unit=p if unit else None,
            )  # fmt: skip
        found.append((p, mean, square, step))
        assert step == 4
        assert not p[1].any()
    for ours, meant in zip(*found, strict=True):
        torch.testing.assert_close(ours, meant)


@pytest.fixture
def through_triton(monkeypatch):
    """What would go to the CPU's loops goes to the kernels; the functions that were called."""
    called = set()

    def watched(module):
        class Make:
            def __getattr__(self, name):
                called.add(name)
                return getattr(module, name)

        return Make()

    def use():
        products, step = watched(cuda_sparse), watched(cuda_adam)
        monkeypatch.setattr(sparse, "_make", lambda X: products)
        monkeypatch.setattr(adam, "_make", lambda p: step if p.ndim == 2 else None)
        return called

    return use


@pytest.mark.parametrize(
    ("options", "selects"),
    [
        ({"activation": "topk", "prefix_sizes": (30, 70)}, "largest"),
        ({"activation": "abs_topk"}, "largest"),
        ({"activation": "batch_topk"}, "above"),
    ],
)
def test_training_comes_to_the_same_weights(options, selects, through_triton, monkeypatch):
    X = planted(48, 6, 12, 3, seed=494)[0]

    def fit():
        sae = SAEEncoder(
            70, n_nonzero_coefs=2, max_iter=2, batch_size=16, learning_rate_init=0.01,
            random_state=0, device=DEVICE, **options,
        )  # fmt: skip
        return sae.fit(X)

    monkeypatch.setattr(sparse, "_make", lambda X: reference_sparse)
    monkeypatch.setattr(adam, "_make", lambda parameter: None)
    meant = fit()
    called = through_triton()
    found = fit()
    assert called >= {selects, "by_atom", "products", "rows_by_atom", "sums_by_atom", "adam"}
    for ours, wanted in (
        (found.components_, meant.components_),
        (found.encoder_coefs_[0], meant.encoder_coefs_[0]),
        (found.encoder_intercepts_[0], meant.encoder_intercepts_[0]),
        (found.loss_curve_, meant.loss_curve_),
    ):
        np.testing.assert_allclose(
            ours, wanted, atol=1e-3
        )  # Adam makes rounding of small gradients large, and weights move by 0.05


@pytest.mark.parametrize(
    ("module", "broken"),
    [(cuda_sparse, "largest"), (cuda_sparse, "products"), (cuda_sparse, "above"),
     (cuda_adam, "adam")],
)  # fmt: skip
def test_kernels_serve_where_they_work(module, broken, monkeypatch):
    name, device = module.__name__.rpartition(".")[2], torch.device(DEVICE)
    assert fused.__wrapped__(name, device) is module

    def fails(*args, **options):
        raise RuntimeError("Failed to find C compiler")

    monkeypatch.setattr(module, broken, fails)
    assert fused.__wrapped__(name, device) is None
    monkeypatch.setattr(module, broken, lambda pre, *args, **options: pre)
    assert fused.__wrapped__(name, device) is None


def test_the_make_is_chosen_by_device(monkeypatch):
    for module in (sparse, adam):
        monkeypatch.setattr(module, "fused", lambda name, device: name)
    here, there = torch.zeros(2**9, 2**9), torch.empty(2**9, 2**9, device="meta")

    class OnCuda(torch.Tensor):
        device = torch.device("cuda", 0)

    cuda = there.as_subclass(OnCuda)
    assert sparse._make(cuda) == "cuda_sparse"
    assert adam._make(cuda) == "cuda_adam"
    assert sparse._make(here) not in ("cuda_sparse", None)
    assert adam._make(here) != "cuda_adam"
    assert sparse._make(there) is reference_sparse
    assert adam._make(there) is None
    assert adam._make(cuda[0]) is None
    assert adam._make(cuda.T[:, :9]) is None


@pytest.mark.cuda
@pytest.mark.skipif(DEVICE == "cpu", reason="no CUDA device on this machine")
class TestOnTheDevice:
    @pytest.mark.parametrize("dtype", TYPES)
    @pytest.mark.parametrize("n_components", [24_576, 70_001])
    def test_many_rows(self, n_components, dtype):
        pre, bias = scores(300, n_components, 495, dtype, ties=False)
        places = cuda_sparse.largest(pre, bias, 32, signed=False)
        assert torch.equal(places.atoms, first_largest(pre, bias, 32, signed=False))
        again = cuda_sparse.above(pre, 2 - bias)
        assert torch.equal(again.atoms, reference_sparse.above(pre, 2 - bias).atoms)

    def test_one_step_asks_the_device_for_nothing(self):
        assert sparse._make(torch.zeros(1, device=DEVICE)) is cuda_sparse
        R, D = numbers(2000, 96, seed=496), numbers(4096, 96, seed=497)
        mean, square, step = torch.zeros_like(D), torch.zeros_like(D), R.new_zeros(())

        def one_step():
            pre, bias = R @ D.T, D[:, 0]
            places = sparse.largest(pre, bias, 8, signed=False)
            by_codes = sparse.products(places, R, D)
            error = sparse.decode(places, by_codes, D)
            turned = sparse.by_atom(places, len(D))
            gradient = sparse.rows_by_atom(turned, by_codes, error)
            sparse.sums_by_atom(places, turned, by_codes)
            adam.adam(
                [D], [gradient], [mean], [square], [step],
                learning_rate=1e-3, skip=torch.zeros_like(step), unit=D,
            )  # fmt: skip
            return gradient

        kept = D.clone()
        first = one_step()  # compiles
        torch.cuda.set_sync_debug_mode("error")
        try:
            one_step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        D.copy_(kept)
        assert torch.equal(one_step(), first)  # to the last bit
        torch.testing.assert_close(D.norm(dim=1), torch.ones_like(step).expand(len(D)))
