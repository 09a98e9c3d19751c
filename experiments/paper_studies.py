"""The paper's further studies: Zipf, sizes, L1 weight, bias, TopK, and its own recipe.

    python experiments/paper_studies.py [--quick] [--jobs 2]

Does what holds for the paper's one setting (16 atoms in 8 dimensions, 3 active) hold elsewhere?

- zipf: latents fire by Zipf's law; with a known dictionary and with nothing known.
- zipf codes: the same with known codes (aligned correlation).
- exact: how near to the truth exact codes for the true dictionary come, by the lasso and, with K
  active latents known, by trying all supports. The data are without noise, so that the second is
  what can be found at all.
- sizes: the paper's other sizes, nothing known.
- l1: the weight of the penalty, which the paper shares between methods.
- bias: an offset b is learned or not, on rows that have one or not.
- topk: k active latents in place of a penalty, for a k below, at and above the truth.
- recipe (full run only): Adam with all rows in a batch and the paper's alpha, on its own data set.

Data sets beside the paper's are made in the same way. Chance is that of random projections behind a
ReLU, the ceiling are exact codes for the true dictionary at the default alpha. The quick run trains
for 60 epochs in place of 200, from 4 restarts of sparse coding in place of 16.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from methods import (
    PAPER,
    PAPER_ALPHA,
    PAPER_RECIPE,
    bounds,
    fitted,
    judged,
    known_codes,
    one_pass,
    paper_data,
    planted,
)
from sklearn.frozen import FrozenEstimator
from study import Study, by_data_set, group, mean, table, with_interval

from sparsecode_estimators import ITORefiner, MLPEncoder, SAEEncoder, SparseCodingEncoder
from sparsecode_estimators.plotting import RecoveryDisplay

# Recovery that the paper reports, for a setting of a study.
REPORTED: dict[str, dict[str, float]] = {
    "zipf, dictionary known": {"SAE": 0.733, "MLP (256)": 0.843, "SAE + ITO": 0.875},
    "zipf codes, all": {"SAE": 0.591, "MLP (1024)": 0.826},
    "exact, uniform": {"lasso, alpha .0025": 0.967},
    "exact, zipf": {"lasso, alpha .0025": 0.875},
    "zipf, nothing known": {"SAE": 0.520, "MLP (256)": 0.547, "sparse coding": 0.590},
    "sizes, M=16 N=32": {"SAE": 0.577, "MLP (256)": 0.533, "sparse coding": 0.928},
    "sizes, M=32 N=64": {"SAE": 0.547, "MLP (256)": 0.409, "sparse coding": 0.918},
    "sizes, M=32 N=128": {"SAE": 0.420, "MLP (256)": 0.316, "sparse coding": 0.869},
    "sizes, M=8 N=64": {"SAE": 0.256, "MLP (256)": 0.285, "sparse coding": 0.422},
    "recipe, dictionary known": PAPER["known_dictionary"],
    "recipe, nothing known": PAPER["unknown"],
}
KNOWN = {True: "dictionary known", False: "nothing known"}
STEPS = {True: 20_000, False: 40_000}


def cells(quick: bool) -> list[dict]:
    effort = {"max_iter": 60, "n_init": 4} if quick else {"max_iter": 200, "n_init": 16}
    sizes = [(16, 32), (32, 64), (32, 128), (8, 64)]
    settings = {
        "zipf": [{"known": known} for known in KNOWN],
        "zipf codes": [{}],
        "exact": [{"law": law} for law in ("uniform", "zipf")],
        "sizes": [{"M": M, "N": N} for M, N in (sizes[:1] if quick else sizes)],
        "l1": [{"alpha": alpha} for alpha in (0.0025, 0.01, 0.04, 0.16)],
        "bias": [
            {"offset": offset, "fit_intercept": fits}
            for offset in (0.0, 0.5)
            for fits in (False, True)
        ],
        "topk": [{"k": k} for k in ((2, 3, 5) if quick else (1, 2, 3, 4, 5, 6, 8))],
    }
    found = [
        {"study": study, **setting, "data_set": data_set, **effort}
        for study, each in settings.items()
        for setting in each
        for data_set in range(3 if quick else 5)
    ]
    recipe = [
        {"study": "recipe", "known": known, "method": method, "data_set": 0, "start": start}
        for known in KNOWN
        for method in ("SAE", "MLP (32)", "MLP (256)")
        for start in range(5)
    ]
    return found if quick else found + recipe


def measure(cell: dict) -> dict[str, Any]:
    return MEASURES[cell["study"]](cell)


def _zipf_data(cell: dict) -> Any:
    return planted(1024, 8, 16, 3, distribution="zipf", random_state=7_100 + cell["data_set"])


def _zipf(cell: dict) -> dict[str, Any]:
    data = _zipf_data(cell)
    effort = {name: cell[name] for name in ("max_iter", "n_init")}
    return _judged(fitted(data, cell["data_set"], known=cell["known"], **effort), data)


def _zipf_codes(cell: dict) -> dict[str, Any]:
    return known_codes(_zipf_data(cell), cell["data_set"])


def _exact(cell: dict) -> dict[str, Any]:
    zipf = cell["law"] == "zipf"
    data = _zipf_data(cell) if zipf else paper_data("known_dictionary", cell["data_set"])
    settings: dict[str, dict[str, Any]] = {
        "lasso": {},
        "lasso, alpha .0025": {"alpha": PAPER_ALPHA},
        "K known": {"n_nonzero_coefs": 3, "solver": "l0"},
    }
    methods = {
        name: SparseCodingEncoder(dictionary=data.dictionary, **options).fit(data.X_train)
        for name, options in settings.items()
    }
    return _judged(methods, data)


def _sizes(cell: dict) -> dict[str, Any]:
    data = paper_data("unknown", cell["data_set"], n_features=cell["M"], n_components=cell["N"])
    return _judged(_three(cell, cell["N"], data), data)


def _l1(cell: dict) -> dict[str, Any]:
    data = paper_data("unknown", cell["data_set"])
    return _judged(_three(cell, 16, data, alpha=cell["alpha"]), data)


def _bias(cell: dict) -> dict[str, Any]:
    data = paper_data("unknown", cell["data_set"])
    found = bounds(data)
    data.X_train, data.X_test = (X + cell["offset"] for X in (data.X_train, data.X_test))
    methods = _three(cell, 16, data, fit_intercept=cell["fit_intercept"])
    return _judged(methods, data) | found


def _topk(cell: dict) -> dict[str, Any]:
    data, k = paper_data("unknown", cell["data_set"]), cell["k"]
    options = {"activation": "topk", "n_nonzero_coefs": k, "max_iter": cell["max_iter"]}
    seed = cell["data_set"]
    methods = {"SAE": SAEEncoder(16, random_state=seed, **options).fit(data.X_train)}
    methods["SAE + ITO"] = ITORefiner(FrozenEstimator(methods["SAE"])).fit(data.X_train)
    methods["MLP (256)"] = MLPEncoder(16, random_state=seed, **options).fit(data.X_train)
    coder = SparseCodingEncoder(16, n_nonzero_coefs=k, n_init=cell["n_init"], random_state=seed)
    methods["sparse coding"] = coder.fit(data.X_train)
    return _judged(methods, data)


def _recipe(cell: dict) -> dict[str, Any]:
    known = cell["known"]
    data = paper_data("known_dictionary" if known else "unknown", 0)
    encoder = one_pass(cell["start"], n_components=16, **PAPER_RECIPE)[cell["method"]]
    if known:
        encoder.set_params(dictionary=data.dictionary)
    else:  # the paper's decoder starts at random directions, ours at rows
        start = np.random.default_rng([77, cell["start"]]).standard_normal((16, 8))
        encoder.set_params(dict_init=start)
    encoder.set_params(max_iter=STEPS[known])
    return _judged({cell["method"]: encoder.fit(data.X_train)}, data)


MEASURES = {
    "zipf": _zipf,
    "zipf codes": _zipf_codes,
    "exact": _exact,
    "sizes": _sizes,
    "l1": _l1,
    "bias": _bias,
    "topk": _topk,
    "recipe": _recipe,
}


def _three(cell: dict, n_components: int, data: Any, **options: Any) -> dict[str, Any]:
    """SAE, MLP and sparse coding, fitted."""
    seed = cell["data_set"]
    trained = {"max_iter": cell["max_iter"], "random_state": seed, **options}
    methods = {
        "SAE": SAEEncoder(n_components, **trained),
        "MLP (256)": MLPEncoder(n_components, **trained),
        "sparse coding": SparseCodingEncoder(
            n_components, n_init=cell["n_init"], random_state=seed, **options
        ),
    }
    return {name: encoder.fit(data.X_train) for name, encoder in methods.items()}


def _judged(methods: dict[str, Any], data: Any) -> dict[str, Any]:
    found = {name: judged(encoder, data) for name, encoder in methods.items()}
    return {"methods": found, **bounds(data)}


def setting(row: dict) -> str:
    """What a line of a table is about."""
    if "known" in row:
        text = KNOWN[row["known"]]
    elif row["study"] == "zipf codes":
        text = "all"
    elif row["study"] == "exact":
        text = row["law"]
    elif row["study"] == "sizes":
        text = f"M={row['M']} N={row['N']}"
    elif row["study"] == "bias":
        text = f"rows shifted by {row['offset']:g}, b {'learned' if row['fit_intercept'] else '0'}"
    else:
        name = "alpha" if row["study"] == "l1" else "k"
        text = f"{name}={row[name]:g}"
    return f"{row['study']}, {text}"


def scores(rows: list[dict]) -> dict[str, list[list[float]]]:
    names = dict.fromkeys(name for row in rows for name in row["methods"])
    found = {}
    for name in names:
        have = [row for row in rows if name in row["methods"]]
        found[name] = by_data_set(have, lambda row, name=name: row["methods"][name]["mcc"])
    return found


def report(rows: list[dict]) -> str:
    text = ["Recovery (MCC), mean ± 95 % over data sets; in brackets what the paper reports\n"]
    for same in group(rows, "study").values():
        text.append(_table([{**row, "setting": setting(row)} for row in same]) + "\n")
    return "\n".join([*text, _answer(rows)])


def _table(rows: list[dict]) -> str:
    names = list(scores(rows))
    lines = []
    for title, same in group(rows, "setting").items():
        found, reported = scores(same), REPORTED.get(title, {})
        values = [
            with_interval(found[name]) + (f" ({reported[name]:.3f})" if name in reported else "")
            if name in found
            else None
            for name in names
        ]
        levels = [mean(same, lambda row, key=key: row[key]) for key in ("chance", "ceiling")]
        lines.append((title, *values, *levels))
    return table(("setting", *names, "chance", "ceiling"), lines)


def _answer(rows: list[dict]) -> str:
    def means(same: list[dict]) -> dict[str, float]:
        return {name: float(np.nanmean(values)) for name, values in scores(same).items()}

    parts = []
    compared = [row for row in rows if row["study"] not in ("exact", "recipe")]
    wins = group([{**row, "setting": setting(row)} for row in compared], "setting").items()
    leaders = [max(found, key=lambda name: found[name]) for found in (means(s) for _, s in wins)]
    most = max(set(leaders), key=leaders.count)
    parts.append(f"{most} recovers most in {leaders.count(most)} of {len(leaders)} settings.")
    l1 = group([row for row in rows if row["study"] == "l1"], "alpha")
    for name in ("SAE", "sparse coding"):
        best = max(l1, key=lambda alpha: means(l1[alpha])[name])
        parts.append(f"The best alpha of {name} is {best:g} ({means(l1[best])[name]:.3f}).")
    return "Answer. " + " ".join(parts)


def draw(rows: list[dict]) -> Any:
    import matplotlib.pyplot as plt

    groups = group([{**row, "setting": setting(row)} for row in rows], "setting")
    across = 4
    down = -(-len(groups) // across)
    figure, axes = plt.subplots(
        down, across, figsize=(4.6 * across, 2.3 * down), layout="constrained", squeeze=False
    )
    for ax in axes.flat[len(groups) :]:
        ax.remove()
    for ax, (title, same) in zip(axes.flat, groups.items(), strict=False):
        RecoveryDisplay.from_results(
            scores(same),
            chance=mean(same, lambda row: row["chance"]),
            ceiling=mean(same, lambda row: row["ceiling"]),
            metric=title,
            ax=ax,
        )
    return figure


STUDY = Study("paper_studies", cells, measure, report, draw)

if __name__ == "__main__":
    STUDY.main(__doc__)
