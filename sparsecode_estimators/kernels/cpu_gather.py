"""Products of one row with some of the atoms, compiled."""

from __future__ import annotations

from .cpu_jit import part
from .cpu_vectors import WIDTH, add, get, load, multiply, total, zeros


@part
def products_with(x, row, D, found, n, out):
    """Write ``x[row]·D[j]`` for the first ``n`` atoms j that were found.

    Four at a time: memory then has several requests to answer, which takes half as long.
    ``out`` has room for three more.
    """
    n_features, last = D.shape[1], n - 1
    start, whole = row * n_features, n_features // WIDTH * WIDTH
    for i in range(0, n, 4):
        a, b = found[i] * n_features, found[min(i + 1, last)] * n_features
        c, d = found[min(i + 2, last)] * n_features, found[min(i + 3, last)] * n_features
        va = vb = vc = vd = zeros(D)
        for f in range(0, whole, WIDTH):
            numbers = load(x, start + f)
            va = add(va, multiply(numbers, load(D, a + f)))
            vb = add(vb, multiply(numbers, load(D, b + f)))
            vc = add(vc, multiply(numbers, load(D, c + f)))
            vd = add(vd, multiply(numbers, load(D, d + f)))
        sa, sb, sc, sd = total(va), total(vb), total(vc), total(vd)
        for f in range(whole, n_features):
            number = get(x, start + f)
            sa += number * get(D, a + f)
            sb += number * get(D, b + f)
            sc += number * get(D, c + f)
            sd += number * get(D, d + f)
        out[i], out[i + 1], out[i + 2], out[i + 3] = sa, sb, sc, sd
