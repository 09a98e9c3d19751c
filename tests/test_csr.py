"""CSR from batches, against SciPy's."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from sparsecode_estimators.estimators.csr import csr_of
from sparsecode_estimators.kernels import reference_sparse


def parts_of(codes, sizes, *, as_places):
    for part in torch.tensor(codes).split(sizes):
        if not as_places:
            yield part
            continue
        places = reference_sparse.above(part + 2, torch.ones(part.shape[1]))  # zeros among them
        yield places, part[places.rows, places.atoms]


@pytest.mark.parametrize("as_places", [False, True])
@pytest.mark.parametrize("density", ["rising", "falling", "none", "last row only", "all"])
def test_batches_are_put_together(density, as_places):
    n, width = 60, 13
    rng = np.random.default_rng(0)
    share = {
        "rising": np.linspace(0, 1, n),
        "falling": np.linspace(1, 0, n),
        "none": np.zeros(n),
        "last row only": np.arange(n) == n - 1,
        "all": np.ones(n),
    }[density]
    codes = (rng.random((n, width)) + 0.1) * (rng.random((n, width)) < share[:, None])
    codes = codes.astype(np.float32)
    expected = sp.csr_matrix(codes)
    for sizes in ([n], [1] * n, [7, 50, 3], [59, 1]):
        found = csr_of(parts_of(codes, sizes, as_places=as_places), n, width, np.float32)
        assert found.dtype == np.float32
        assert found.indices.dtype == found.indptr.dtype == np.int32
        for name in ("data", "indices", "indptr"):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
        assert len(found.data) == found.nnz
