"""How loops for the CPU are compiled, linked and kept."""

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("numba")

LOOPS = """
import json

import numpy as np

from sparsecode_estimators.kernels.cpu_jit import compiled, inlined, part


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

    def run():
        environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "kept")}
        done = subprocess.run(
            [sys.executable, script], env=environment, capture_output=True, text=True, check=True
        )
        return json.loads(done.stdout)

    # a part is compiled once, for the constant 0 and other numbers
    assert run() == [14.0 + 9.0, [1, 1, 1], 0]
    assert run() == [14.0 + 9.0, [0, 0, 1], 1]
