"""How loops for the CPU are compiled, linked and kept."""

import gc
import json
import os
import subprocess
import sys
from typing import NamedTuple

import numpy as np
import pytest

numba = pytest.importorskip("numba")

# without numba the file is skipped before it asks for what needs it
from sparsecode_estimators.kernels.cpu_jit import compiled  # noqa: E402

LOOPS = """
import json
import sys

import numpy as np

from sparsecode_estimators.kernels import cpu_jit
from sparsecode_estimators.kernels.cpu_jit import compiled, inlined, part

cpu_jit.VERSION += int(sys.argv[1])


@inlined
def square(number):
    return number * number


@part
def squares(numbers, begin):
    total = 0.0
    for i in range(begin, len(numbers)):
        total += square(numbers[i])
    return total


@compiled
def both(numbers):
    return squares(numbers, 0) + squares(numbers, len(numbers) - 1)


answer = both(np.array([1.0, 2.0, 3.0]))
made = [len(parts.overloads) for parts in (square, squares, both)]
print(json.dumps([answer, made, sum(both.stats.cache_hits.values())]))
"""


def test_parts_are_kept_with_what_calls_them(tmp_path):
    script = tmp_path / "loops.py"
    script.write_text(LOOPS)

    def run(version):
        environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "kept")}
        done = subprocess.run(
            [sys.executable, script, str(version)],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        return json.loads(done.stdout)

    # a part is compiled once, for the constant 0 and other numbers
    assert run(0) == [14.0 + 9.0, [1, 1, 1], 0]
    assert run(0) == [14.0 + 9.0, [0, 0, 1], 1]
    # loops of some other file have changed
    assert run(1) == [14.0 + 9.0, [1, 1, 1], 0]
    assert run(1) == [14.0 + 9.0, [0, 0, 1], 1]


class Arrays(NamedTuple):
    cube: np.ndarray
    flags: np.ndarray


@compiled
def touch(rows, matrix, arrays):
    """Each way in which loops use an array."""
    total, part = matrix.dtype.type(0), arrays.cube[1]
    for row in rows:
        line = matrix[row]
        for j in range(matrix.shape[1]):
            total += line[j] * matrix[row, j]
            line[j] = j
        arrays.flags[row] = not arrays.flags[row]
        part[0, row] += arrays.cube[1, 1, row]
    return total, len(rows), matrix.itemsize, arrays.flags[0]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_loops_see_arrays_as_numpy_does(dtype):
    rng = np.random.default_rng(0)
    matrix, cube = rng.standard_normal((4, 3)).astype(dtype), rng.standard_normal((2, 3, 4))
    flags, rows = np.array([True, False, True, False]), np.array([3, 0])
    before, untouched = cube.copy(), matrix[1:3].copy()
    squares = np.square(matrix[rows], dtype=np.float64).sum()
    total, n, itemsize, flag = touch(rows, matrix, Arrays(cube, flags))
    assert total == pytest.approx(squares, rel=1e-6)
    assert (n, itemsize, flag) == (2, np.dtype(dtype).itemsize, False)
    assert flags.tolist() == [False, False, True, True]
    assert (matrix[rows] == [0, 1, 2]).all()
    assert (matrix[1:3] == untouched).all()
    before[1, 0, rows] += before[1, 1, rows]
    assert (cube == before).all()


def test_loops_take_no_array_with_gaps():
    arrays = Arrays(np.zeros((2, 3, 4)), np.zeros(4, bool))
    with pytest.raises(numba.core.errors.TypingError, match="contiguous arrays"):
        touch(np.arange(2), np.zeros((4, 6))[:, ::2], arrays)


def test_loops_go_over_one_axis():
    @compiled
    def total(matrix):
        sum_ = 0.0
        for number in matrix:
            sum_ += number
        return sum_

    assert total(np.ones(3)) == 3.0
    with pytest.raises(numba.core.errors.TypingError, match="one axis"):
        total(np.ones((2, 3)))


@pytest.mark.parametrize("collects", [True, False])
def test_the_collector_waits_until_loops_are_compiled(collects):
    @compiled
    def twice(number):
        return number + number

    runs = []

    def note(phase, info):
        runs.append(phase)

    gc.callbacks.append(note)
    try:
        if not collects:
            gc.disable()
        assert twice(2.0) == 4.0
        assert gc.isenabled() == collects
    finally:
        gc.callbacks.remove(note)
        gc.enable()
    assert len(runs) <= 6 * collects  # some at the end; dozens if it did not wait
