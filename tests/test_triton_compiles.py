"""The training step in Triton becomes machine code for a GPU that is not here."""

import subprocess
import sys

import pytest

pytest.importorskip("triton", minversion="3.6")

AHEAD = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from sparsecode_estimators.kernels import cuda_adam, cuda_select, cuda_sparse

def build(kernel, constants, num_warps=4, number="fp32", integers=(), kinds={}):
    kinds = dict.fromkeys(integers, "*i64") | dict.fromkeys(constants, "constexpr") | kinds
    signature = {name: kinds.get(name, "*" + number) for name in kernel.arg_names}
    built = triton.compile(
        ASTSource(kernel, signature, constants), target=GPUTarget("cuda", 90, 32),
        options={"num_warps": num_warps},
    )
    assert len(built.asm["cubin"]) > 1000

wide = {"n_components": 70_000, "block": 2**15, "part": 2**12, "signed": True}
half = {"k": "i32", "pre": "*bf16"}
build(cuda_select.places_of_largest, wide, 16, integers=["atoms"], kinds=half)
small = {"n_components": 300, "block": 512, "part": 512, "signed": False}
build(cuda_select.places_of_largest, small, 4, "fp64", integers=["atoms"], kinds={"k": "i32"})
row = {"n_components": 24_576, "block": 2**12}
build(cuda_select.count_above, row, integers=["counts"], kinds={"pre": "*bf16"})
build(cuda_select.places_above, row, integers=["starts", "atoms"], kinds={"pre": "*bf16"})
tile = {"n_features": 768, "few": 16, "block": 128}
build(cuda_sparse._products, tile, integers=["starts", "atoms"])
lists = {"integers": ["starts", "rows", "order"], "kinds": {"stride": "i32", "step": "i32"}}
build(cuda_sparse._rows_by_atom, tile, **lists)
build(cuda_sparse._rows_by_atom, {"n_features": 1, "few": 16, "block": 1}, **lists)
numbers = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "n_columns": 768, "block": 1024}
for number, unit in (("fp32", True), ("fp64", False)):
    build(cuda_adam._adam, {**numbers, "unit": unit}, number=number, kinds={"skip": "*fp32"})
"""


def test_the_training_step_compiles(tmp_path, monkeypatch):
    """Machine code of Hopper GPUs; Triton brings the assembler."""
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    subprocess.run([sys.executable, "-W", "ignore", "-c", AHEAD], check=True, timeout=300)
