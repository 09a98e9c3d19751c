"""The boundary: every kind of X gives the same codes, as the caller's own kind."""

import numpy as np
import pandas as pd
import polars as pl
import pytest
import scipy.sparse as sp
import torch
from problems import planted
from sklearn import config_context

from sparsecode_estimators import (
    ITORefiner,
    MLPEncoder,
    SAEEncoder,
    SparseCodingEncoder,
    UnrolledEncoder,
)

X, _, D = planted(300, 8, 16, 3, seed=20)
ESTIMATORS = [
    SAEEncoder(16, max_iter=5, random_state=0),
    MLPEncoder(
        16,
        hidden_layer_sizes=(12,),
        activation="topk",
        n_nonzero_coefs=3,
        max_iter=5,
        random_state=0,
    ),
    UnrolledEncoder(16, weights="analytic", max_iter=5, random_state=0),
    SparseCodingEncoder(16, max_iter=10, n_init=1, random_state=0),
    ITORefiner(dictionary=D),
]
each_estimator = pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda e: type(e).__name__)


def memmap(tmp_path, dtype, mode="r"):
    path = tmp_path / "X.bin"
    X.astype(dtype).tofile(path)
    return np.memmap(path, dtype=dtype, mode=mode, shape=X.shape)


class OnDisk:
    """As h5py and zarr: a shape, a dtype and slices, and no other way in."""

    def __init__(self, data):
        self.data, self.shape, self.dtype = data, data.shape, data.dtype
        self.longest_read = 0

    def __getitem__(self, index):
        assert isinstance(index, slice), "only slices are cheap on a disk"
        part = self.data[index]
        self.longest_read = max(self.longest_read, len(part))
        return part


@each_estimator
def test_every_kind_of_input_gives_the_same_codes(estimator, tmp_path):
    expected = estimator.fit(X).transform(X)
    kinds = [
        X.tolist(),
        np.asfortranarray(X),
        pd.DataFrame(X),
        pl.DataFrame(X, schema=[f"x{i}" for i in range(8)]),
        sp.csr_matrix(X),
        sp.csr_array(X),
        memmap(tmp_path, np.float64),
        OnDisk(X),
        torch.tensor(X, requires_grad=True),
    ]
    for kind in kinds:
        with pytest.MonkeyPatch.context() as patch:
            patch.delattr(estimator, "feature_names_in_", raising=False)
            codes = estimator.transform(
                kind if not isinstance(kind, (pd.DataFrame, pl.DataFrame)) else kind.to_numpy()
            )
        np.testing.assert_allclose(np.asarray(torch.as_tensor(codes).detach()), expected, atol=1e-9)


@each_estimator
@pytest.mark.parametrize("frame", [pd.DataFrame, pl.DataFrame])
def test_data_frames(estimator, frame):
    table = frame({f"x{i}": X[:, i] for i in range(8)})
    codes = estimator.fit(table).transform(table)
    np.testing.assert_allclose(codes, estimator.fit(X).transform(X), atol=1e-9)
    estimator.fit(table)
    assert list(estimator.feature_names_in_) == list(table.columns)


@each_estimator
@pytest.mark.parametrize(
    ("given", "returned"),
    [
        (torch.float64, torch.float64),
        (torch.float32, torch.float32),
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.int64, torch.float64),
    ],
)
def test_tensor_in_tensor_out(estimator, given, returned, device):
    T = (
        torch.tensor(X, device=device)
        .mul(10)
        .round()
        .div(1 if given == torch.int64 else 10)
        .to(given)
    )
    codes = estimator.fit(T).transform(T)
    assert isinstance(codes, torch.Tensor)
    assert codes.dtype == returned
    assert codes.device == T.device
    assert not codes.requires_grad
    back = estimator.inverse_transform(codes)
    assert isinstance(back, torch.Tensor)
    assert back.dtype == returned
    assert back.shape == T.shape
    # the state is NumPy whatever came in
    assert all(not isinstance(v, torch.Tensor) for v in vars(estimator).values())


@each_estimator
@pytest.mark.parametrize(
    ("given", "returned"),
    [
        (np.float64, np.float64),
        (np.float32, np.float32),
        (np.float16, np.float32),
        (np.int32, np.float64),
    ],
)
def test_array_types(estimator, given, returned):
    A = (X * 10).astype(given)
    codes = estimator.fit(A).transform(A)
    assert codes.dtype == returned
    assert estimator.components_.dtype == returned
    assert estimator.inverse_transform(codes).dtype == returned


@each_estimator
def test_half_precision_on_disk_is_read_in_parts(estimator, tmp_path, monkeypatch):
    from sparsecode_estimators.estimators import arrays

    half = memmap(tmp_path, np.float16)
    expected = estimator.fit(np.asarray(half)).transform(np.asarray(half))
    for name in ("_BATCH_NUMBERS", "_LOOP_NUMBERS"):
        monkeypatch.setattr(arrays, name, 40 * 16)
    monkeypatch.setattr(arrays, "_FINITE_BLOCK", 40 * 8)
    disk = OnDisk(np.asarray(half))
    codes = estimator.transform(disk)
    assert disk.longest_read <= 40
    np.testing.assert_allclose(codes, expected, atol=1e-5)
    np.testing.assert_allclose(estimator.transform(half), expected, atol=1e-5)


def test_training_from_disk_reads_every_row_once_an_epoch():
    class Counting(OnDisk):
        rows = 0

        def __getitem__(self, index):
            part = super().__getitem__(index)
            self.rows += len(part)
            return part

    disk = Counting(X)
    SAEEncoder(16, max_iter=1, batch_size=10, random_state=0).fit(disk)
    one = disk.rows
    disk.rows = 0
    SAEEncoder(16, max_iter=4, batch_size=10, random_state=0, dead_after=10**6).fit(disk)
    assert disk.rows - one == 3 * len(X)
    assert disk.longest_read <= len(X)


@each_estimator
@pytest.mark.parametrize("mode", ["r", "c"])
def test_memory_of_the_caller_is_never_written_to(estimator, mode, tmp_path):
    mapped = memmap(tmp_path, np.float32, mode)
    before = np.array(mapped)
    estimator.fit(mapped).transform(mapped)
    frozen = X.copy()
    frozen.flags.writeable = False
    estimator.fit(frozen).transform(frozen)
    T = torch.tensor(X)
    estimator.fit(T).transform(T)
    np.testing.assert_array_equal(mapped, before)
    np.testing.assert_array_equal(frozen, X)
    np.testing.assert_array_equal(T.numpy(), X)


@each_estimator
def test_sparse_output(estimator):
    dense = estimator.fit(X).transform(X)
    estimator.set_params(sparse_output=True)
    try:
        codes = estimator.transform(X)
        assert sp.issparse(codes)
        assert codes.format == "csr"
        # a product with its bias added at once, or after, may be rounded differently
        np.testing.assert_allclose(codes.toarray(), dense, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(
            estimator.inverse_transform(codes), estimator.inverse_transform(dense), atol=1e-12
        )
        tensor = estimator.transform(torch.tensor(X))
        assert tensor.layout == torch.sparse_coo
        np.testing.assert_allclose(tensor.to_dense().numpy(), dense, atol=1e-9)
        np.testing.assert_allclose(
            estimator.inverse_transform(tensor), estimator.inverse_transform(dense), atol=1e-9
        )
        with config_context(sparse_interface="sparray"):
            assert isinstance(estimator.transform(X), sp.csr_array)
    finally:
        estimator.set_params(sparse_output=False)


@each_estimator
def test_global_state_is_left_alone(estimator):
    def state():
        return (
            torch.random.get_rng_state().tolist(),
            np.random.get_state()[1].tolist(),
            torch.get_default_dtype(),
            torch.get_num_threads(),
            torch.is_grad_enabled(),
        )

    before = state()
    estimator.fit(X).transform(X)
    estimator.score(X)
    assert state() == before


@each_estimator
@pytest.mark.parametrize(
    "config",
    [
        {"array_api_dispatch": True},
        {"enable_metadata_routing": True},
        {"assume_finite": True},
        {"transform_output": "pandas"},
    ],
    ids=lambda c: next(iter(c)),
)
def test_configurations_of_scikit_learn(estimator, config):
    expected = estimator.fit(X).transform(X)
    with config_context(**config):
        np.testing.assert_allclose(np.asarray(estimator.fit(X).transform(X)), expected, atol=1e-9)
        np.testing.assert_allclose(
            np.asarray(estimator.transform(torch.tensor(X))), expected, atol=1e-9
        )


@pytest.mark.filterwarnings("ignore:alpha=.auto. is 0")
@pytest.mark.parametrize("n", [3, 7, 10, 11])  # the mean of so many .1 is not always .1
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_score_of_rows_that_are_all_the_same_is_one_or_zero(dtype, n):
    rows = np.full((n, 3), 0.1, dtype)
    precision = np.dtype(dtype).name
    sae = SAEEncoder(4, max_iter=3, precision=precision, random_state=0).fit(rows)
    assert (sae.score(rows), sae.score(rows + dtype(0.01))) == (1, 0)
