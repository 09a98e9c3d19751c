"""k-sparse codes against SPAMS and scikit-learn: same rows, same process, one thread, in turns.

    pip install spams-bin
    OMP_NUM_THREADS=1 python benchmarks/omp.py [--quick | --long]

Codes are signed, as those of the peers are. Our solver is "ols", whose rule is that of
``spams.omp``, and for many atoms "stagewise", too; scikit-learn's rule is "omp". Times are
processor time, medians of several turns, and include everything from rows to codes, the Gram matrix
too. Quality is the share of rows with exactly the planted support, and the share of planted atoms
that were found. scikit-learn codes one row and some rows, and the difference is taken for the price
of the others, so that its Gram matrix counts once.
"""

from __future__ import annotations

import argparse
import warnings

import numpy as np
import torch
from sklearn.decomposition import sparse_encode as sklearn_encode
from workloads import WORKLOADS, interleaved, make_rows, spams, write

from sparsecode_estimators import sparse_encode

SKLEARN_ROWS = {"W1": 2000, "W2": 100, "W3": 40}


def quality(found, true) -> dict[str, float]:
    """How much of the planted supports was found."""
    found = (found.toarray() if hasattr(found, "toarray") else found) != 0
    true = true[: len(found)] != 0
    return {
        "exact": float((found == true).all(1).mean()),
        "hit": float((found & true).sum() / true.sum()),
        "atoms": float(found.sum(1).mean()),
    }


def measure(name: str, n: int, rounds: int, solver: str = "ols") -> dict:
    """One line of the table."""
    work = WORKLOADS[name]
    X, D, true = make_rows(work, n, positive=False)
    few = min(n, SKLEARN_ROWS[name])
    columns, atoms = np.asfortranarray(X.T), np.asfortranarray(D.T)
    found = {}

    def ours():
        found["ours"] = sparse_encode(
            X, D, n_nonzero_coefs=work.k, solver=solver, positive_code=False
        )

    def theirs():
        # without eps it returned zeros in some processes
        found["spams"] = spams().omp(columns, D=atoms, L=work.k, eps=1e-12, numThreads=1).T

    def sklearn(rows=few):
        found["scikit-learn"] = sklearn_encode(X[:rows], D, algorithm="omp", n_nonzero_coefs=work.k)

    ours()  # loops are compiled
    seconds = interleaved({"ours": ours, "spams": theirs, "product": lambda: X @ D.T}, rounds)
    alone = interleaved({"one": lambda: sklearn(1), "some": sklearn}, 1)
    each = (alone["some"] - alone["one"]) / (few - 1)
    seconds["scikit-learn"] = alone["one"] + each * (n - 1)
    line = {
        "workload": name,
        "solver": solver,
        "rows": n,
        "spams rows/s": n / seconds["spams"],
        "scikit-learn rows/s": n / seconds["scikit-learn"],
        "ours rows/s": n / seconds["ours"],
        "over spams": seconds["spams"] / seconds["ours"],
        "over scikit-learn": seconds["scikit-learn"] / seconds["ours"],
        "roofline": seconds["product"] / seconds["ours"],
    }
    for method in ("ours", "spams", "scikit-learn"):
        line |= {f"{what}, {method}": v for what, v in quality(found[method], true).items()}
    assert line["atoms, spams"] > 0.9 * work.k, "the peer returned zeros"
    return line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rows and turns")
    parser.add_argument("--long", action="store_true", help="4,096 rows of W3, too")
    options = parser.parse_args()
    quick = options.quick
    spams()  # or say that it is missing, before any work
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    share = 10 if quick else 1
    n = {name: work.n // share for name, work in WORKLOADS.items()}
    lines = [measure("W1", n["W1"], 3 if quick else 5)]
    for solver in ("ols", "stagewise"):
        lines += [
            measure("W2", n["W2"], 3 if quick else 5, solver),
            measure("W3", WORKLOADS["W3"].n // 8, 1, solver),
            *([measure("W3", WORKLOADS["W3"].n, 1, solver)] if options.long else []),
        ]
    write("omp_quick" if quick else "omp", lines)


if __name__ == "__main__":
    main()
