"""SAELens: ``cfg.json`` beside ``sae_weights.safetensors``, both ways.

Two generations of the description are read: that of versions 3 to 5, in which the model and
its hook stand beside the numbers, and that of version 6, which has them in ``metadata``.
The second is written.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..estimators.sae import SAEEncoder
from .files import read_json, read_safetensors, write_json, write_safetensors
from .parameters import Parameters, Tensors, choice, flag, integer, refuse_skip, section

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
_LAYOUT = "6.0.0"  # the first version with this description
_ACTIVATIONS = {
    "standard": "relu",
    "topk": "topk",
    "abstopk": "abs_topk",
    "jumprelu": "jumprelu",
    "gated": "gated",
    # only while they are trained; for inference they are stored as "jumprelu"
    "batchtopk": "batch_topk",
    "matryoshka_batchtopk": "batch_topk",
}
_TRANSCODERS = {
    "transcoder": "relu",
    "jumprelu_transcoder": "jumprelu",
    "skip_transcoder": "relu",
    "jumprelu_skip_transcoder": "jumprelu",
}
_OUT = "hook_name_out"  # an SAE that has it writes there in SAELens: a transcoder of other codes
_KNOWN = (*_ACTIVATIONS, *_TRANSCODERS)
_SCALED = "rescale_acts_by_decoder_norm"  # which architectures without a k do not look at
_FINETUNED = ("scaling_factor", "finetuning_scaling_factor")
_ABOUT_THE_MODEL = (
    "model_name", "hook_name", _OUT, "hook_point", "hook_layer", "hook_point_layer",
    "hook_head_index", "context_size", "dataset_path", "prepend_bos", "neuronpedia_id",
    "sae_lens_training_version",
)  # fmt: skip


def read(weights: Path) -> Parameters:
    """An SAE from its weights, and the description beside them.

    Raises
    ------
    ValueError
        If a key or a shape is wrong, or codes of this kind are none of a linear encoder.
    OSError
        If a file is missing.
    """
    path = weights.with_name(CONFIG)
    config = read_json(path)
    metadata = section(path, config, "metadata")
    tensors = Tensors(weights, read_safetensors(weights))
    architecture, k = _architecture(path, config)
    gated = architecture == "gated"
    transcoder = architecture in _TRANSCODERS
    n_features, n_components, n_targets = _sizes(path, config, tensors, architecture)
    about = metadata or {key: config[key] for key in _ABOUT_THE_MODEL if key in config}
    given = Parameters(
        encoder=tensors.matrix("W_enc", n_features, n_components),
        encoder_bias=tensors.vector("b_gate" if gated else "b_enc", n_components),
        decoder=tensors.matrix("W_dec", n_components, n_targets),
        decoder_bias=tensors.vector("b_dec", n_targets),
        centred=_centred(path, config, architecture),
        targets=transcoder or _leads_elsewhere(about),
        activation=(_TRANSCODERS if transcoder else _ACTIVATIONS)[architecture],
        k=k,
        scaled=k is not None and flag(path, config, _SCALED, default=False),
        normalised=_normalised(path, config),
        metadata=about,
    )
    if gated:
        given.log_gain = tensors.vector("r_mag", n_components)
        given.size_bias = tensors.vector("b_mag", n_components)
    if "skip" in architecture:
        refuse_skip(tensors, n_targets, n_features)
    if given.activation == "jumprelu":
        _read_thresholds(given, tensors, n_components)
        _recognise_batch_topk(given, metadata)
    if given.activation == "batch_topk" and given.threshold is None:
        given.threshold = tensors.scalar("topk_threshold")
        given.prefix_sizes = _widths(config, n_components)
    _unfold_finetuning(path, config, tensors, given)
    tensors.finish()
    return given


def _sizes(
    path: Path, config: Mapping[str, Any], tensors: Tensors, architecture: str
) -> tuple[int, int, int]:
    """Features of the rows, latents, and features of what is reconstructed."""
    n_components = tensors.length("b_gate" if architecture == "gated" else "b_enc")
    n_targets = n_features = tensors.length("b_dec")
    sizes = {"d_sae": n_components, "d_in": n_targets}
    if architecture in _TRANSCODERS:  # no vector is as long as the rows
        n_features = integer(path, config, "d_in")
        sizes = {"d_sae": n_components, "d_out": n_targets}
    for name, size in sizes.items():
        if name in config and integer(path, config, name) != size:
            raise ValueError(
                f"{str(path)!r}: {name} is {config[name]!r:.50}, but the vectors in {WEIGHTS} say "
                f"{size}."
            )
    return n_features, n_components, n_targets


def _centred(path: Path, config: Mapping[str, Any], architecture: str) -> bool:
    transcoder = architecture in _TRANSCODERS
    centred = flag(path, config, "apply_b_dec_to_input", default=not transcoder)
    if transcoder and centred:
        raise ValueError(
            f"{str(path)!r}: apply_b_dec_to_input is true, but b_dec of a {architecture} is in the "
            "space of what it predicts, and SAELens loads none with this: it must be false."
        )
    return centred


def _leads_elsewhere(about: Mapping[str, Any]) -> bool:
    """Whether SAELens puts the reconstruction in another place than the rows come from."""
    out = about.get(_OUT)
    return isinstance(out, str) and bool(out) and out != about.get("hook_name")


def _architecture(path: Path, config: Mapping[str, Any]) -> tuple[str, int | None]:
    """Its name, and the number of active codes of those that have one."""
    architecture = choice(path, config, "architecture", _KNOWN, "standard")
    k: int | None = None
    function = "activation_fn" if "activation_fn" in config else "activation_fn_str"
    if choice(path, config, function, ("relu", "topk"), "relu") == "topk":
        if architecture in _TRANSCODERS:
            raise ValueError(
                f"{str(path)!r}: {function} is 'topk', but a {architecture} of SAELens has a ReLU, "
                "whatever stands here: one of the two is wrong."
            )
        architecture = "topk"
        k = integer(path, section(path, config, "activation_fn_kwargs"), "k")
    if architecture in ("topk", "abstopk") and k is None:
        k = integer(path, config, "k")
    if "batchtopk" in architecture:
        k = _mean_number(config.get("k"))
        if k is None:
            raise ValueError(f"{str(path)!r}: k is {config.get('k')!r:.50}, but must be positive.")
    return architecture, k


def _normalised(path: Path, config: Mapping[str, Any]) -> str | None:
    value = config.get("normalize_activations")
    if isinstance(value, bool):  # before there was a choice
        value = "expected_average_only_in" if value else None
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{str(path)!r}: normalize_activations is {value!r:.50}, not a name.")
    return None if value == "none" else value


def _read_thresholds(given: Parameters, tensors: Tensors, n_components: int) -> None:
    if "log_threshold" in tensors:
        given.threshold = np.exp(tensors.vector("log_threshold", n_components))
    else:
        given.threshold = tensors.vector("threshold", n_components)


def _recognise_batch_topk(given: Parameters, metadata: Mapping[str, Any]) -> None:
    """One threshold for all, with a note that it came from BatchTopK, is that again."""
    name, details = (metadata.get(f"training_architecture{end}") for end in ("", "_details"))
    threshold = given.threshold
    if threshold is None or "batchtopk" not in str(name) or not isinstance(details, dict):
        return
    k = _mean_number(details.get("k"))
    if k is not None and (threshold == threshold[0]).all():
        given.activation, given.k, given.threshold = "batch_topk", k, threshold[0]
        given.prefix_sizes = _widths(details, len(threshold))


def _mean_number(k: Any) -> int | None:
    """Active codes of a row, which may be a fraction on average."""
    usable = isinstance(k, int | float) and not isinstance(k, bool) and 0 < k < 2**31
    return max(1, round(k)) if usable else None


def _widths(where: Mapping[str, Any], n_components: int) -> list[int] | None:
    """Sizes of nested dictionaries, if there are any that make sense."""
    widths = where.get("matryoshka_widths")
    if not isinstance(widths, list) or not widths or not all(type(n) is int for n in widths):
        return None
    rises = all(a < b for a, b in zip([0, *widths], widths, strict=False))
    return widths if rises and widths[-1] <= n_components else None


def _unfold_finetuning(
    path: Path, config: Mapping[str, Any], tensors: Tensors, given: Parameters
) -> None:
    """Factors of codes that versions before 6 applied when they decoded."""
    name = next((name for name in _FINETUNED if name in tensors), None)
    if name is None:
        return
    factors = tensors.vector(name, len(given.decoder))
    used = flag(path, config, "finetuning_scaling_factor", default=False)
    if not used and not np.allclose(factors, 1):
        raise ValueError(
            f"{str(tensors.path)!r}: {name} is not 1, but finetuning_scaling_factor is "
            f"not true in {CONFIG}: one of the two is wrong."
        )
    if used:
        given.decoder = given.decoder * factors[:, None]


def write(folder: Path, sae: SAEEncoder, metadata: Mapping[str, Any]) -> None:
    """Write a fitted SAE into a folder.

    Parameters
    ----------
    folder : Path
    sae : SAEEncoder
        A transcoder's offset of its inputs is folded into the encoder.
    metadata : dict
        What SAELens keeps of the model: "model_name", "hook_name" and so on.

    Raises
    ------
    ValueError
        If SAELens has no transcoder with its activation.
    """
    transcoder = hasattr(sae, "input_intercept_")
    architecture = _architecture_of(sae, metadata, transcoder=transcoder)
    W, c, b = sae.encoder_coefs_[0], sae.encoder_intercepts_[0], sae.intercept_
    if transcoder:
        taken_off = sae.input_intercept_.astype(np.float64) @ W.astype(np.float64)
        c = (c - taken_off).astype(c.dtype)
    tensors = {"W_enc": W, "W_dec": sae.components_, "b_dec": b}
    config: dict[str, Any] = {
        "d_in": int(sae.n_features_in_),
        "d_sae": int(sae.n_components_),
        "dtype": str(sae.components_.dtype),
        "device": "cpu",
        "apply_b_dec_to_input": not transcoder,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "architecture": architecture,
        "metadata": {**metadata, "sae_lens_version": _LAYOUT},
    }
    if transcoder:
        config["d_out"] = len(b)
    if sae.activation == "gated":
        scale = sae.gate_scale_
        tensors.update(b_gate=c, r_mag=np.log(scale), b_mag=sae.gate_shift_ + scale * c)
    else:
        tensors["b_enc"] = c
    if sae.activation in ("topk", "abs_topk"):
        config["k"] = min(sae._sparsity() or 1, sae.n_components_)
        config[_SCALED] = False
    if sae.activation == "jumprelu":
        tensors["threshold"] = sae.threshold_
    if sae.activation == "batch_topk":
        below = np.nextafter(sae.threshold_, -np.inf, dtype=c.dtype)  # theirs must not be met
        tensors["threshold"] = np.broadcast_to(below, c.shape)
        config["metadata"].update(_training_of(sae))
    write_safetensors(folder / WEIGHTS, tensors)
    write_json(folder / CONFIG, config)


def _architecture_of(sae: SAEEncoder, metadata: Mapping[str, Any], *, transcoder: bool) -> str:
    # thresholds are what SAELens stores of a BatchTopK SAE
    activation = "jumprelu" if sae.activation == "batch_topk" else sae.activation
    if transcoder and activation in _TRANSCODERS.values():
        return next(k for k, v in _TRANSCODERS.items() if v == activation)
    if transcoder and not (
        sae.n_features_in_ == len(sae.intercept_) and _leads_elsewhere(metadata)
    ):
        raise ValueError(
            f"activation={activation!r} with objective='targets': SAELens has transcoders with "
            "'relu' and 'jumprelu' alone. Between spaces of one width it takes an SAE of any kind "
            f"for one that has metadata['{_OUT}'], the place that it predicts, beside 'hook_name': "
            f"here X has {sae.n_features_in_} features, y {len(sae.intercept_)}, and {_OUT} is "
            f"{metadata.get(_OUT)!r:.50}. Keep it by save, or train with 'batch_topk', which is "
            "written with its threshold."
        )
    return next(k for k, v in _ACTIVATIONS.items() if v == activation)


def _training_of(sae: SAEEncoder) -> dict[str, Any]:
    """What SAELens says of a BatchTopK SAE, which it stores with thresholds."""
    details: dict[str, Any] = {"k": sae._sparsity()}
    if sae.prefix_sizes is None:
        return {"training_architecture": "batchtopk", "training_architecture_details": details}
    details["matryoshka_widths"] = list(sae._ends(sae.n_components_) or ())
    return {
        "training_architecture": "matryoshka_batchtopk",
        "training_architecture_details": details,
    }
