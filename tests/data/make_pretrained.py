"""Small SAEs as other programs write them, and the codes that these programs give.

Run once in an environment with one of the programs; the results are kept beside this file::

    python tests/data/make_pretrained.py saelens              # sae-lens 3.22.2, 5.11.0, 6.54.12
    python tests/data/make_pretrained.py sparsify             # eai-sparsify 1.3.3
    python tests/data/make_pretrained.py dictionary_learning  # dictionary_learning 0.1.0

Every SAE has random weights, with atoms of lengths from 0.3 to 3 where the program allows
them. ``expected.safetensors`` holds rows, and the codes and reconstructions of the program.
"""

import copy
import json
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

HERE = Path(__file__).parent
D_IN, D_SAE, K = 6, 10, 3


def fill_(parameters, seed):
    """Random numbers in place of what a program starts with."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in parameters:
        if not parameter.is_floating_point() or parameter.ndim == 0:
            continue
        values = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim == 1:
            values = 0.3 * values
        if "threshold" in name:
            values = values.abs()
        if "r_mag" in name:
            values = values.clamp(-1, 1)
        parameter.data = values.to(parameter.dtype)


def lengthen_(atoms, seed):
    """Atoms of other lengths."""
    generator = torch.Generator().manual_seed(seed)
    atoms.data /= atoms.data.norm(dim=1, keepdim=True)
    atoms.data *= torch.empty(len(atoms), 1).uniform_(0.3, 3, generator=generator).to(atoms.dtype)


def keep_expected(folder, encode, decode):
    X = 2 * torch.randn(16, D_IN, generator=torch.Generator().manual_seed(99))
    with torch.no_grad():
        codes = encode(X)
        reconstruction = decode(codes)
    tensors = {"X": X, "codes": codes.float(), "reconstruction": reconstruction.float()}
    save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "expected.safetensors")


def fresh(folder):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def saelens():
    import sae_lens

    major = sae_lens.__version__.split(".")[0]
    root = HERE / f"saelens{major}"
    variants = saelens6() if major == "6" else saelens_before_6()
    for seed, (name, sae) in enumerate(variants.items()):
        folder = fresh(root / name)
        fill_(sae.state_dict(keep_vars=True).items(), seed)
        lengthen_(sae.W_dec, seed)
        if hasattr(sae, "topk_threshold"):
            sae.topk_threshold.fill_(0.7)
        if name.endswith("_for_inference"):
            sae.save_inference_model(folder)
        else:
            sae.save_model(folder)
        if hasattr(sae, "topk_threshold"):  # its codes in training depend on the batch
            inference = folder if name.endswith("_for_inference") else fresh(root / "inference")
            sae.save_inference_model(inference)
            sae = sae_lens.SAE.load_from_disk(inference)
            if inference != folder:
                shutil.rmtree(inference)
        keep_expected(folder, sae.encode, sae.decode)


def saelens6():
    import sae_lens as s

    about = s.saes.sae.SAEMetadata(model_name="gpt2", hook_name="blocks.0.hook_resid_pre")
    size = {"d_in": D_IN, "d_sae": D_SAE, "metadata": about}
    k_sparse = {**size, "k": K}
    widths = {"matryoshka_widths": [4, D_SAE]}
    uncentred = {"apply_b_dec_to_input": False}
    # a copy, for SAELens notes on the other how these were trained
    elsewhere = {**size, **uncentred, "metadata": copy.deepcopy(about), "d_out": D_IN + 3}
    return {
        "standard": s.StandardSAE(s.StandardSAEConfig(**size)),
        "standard_uncentred": s.StandardSAE(s.StandardSAEConfig(**size, **uncentred)),
        "standard_bfloat16": s.StandardSAE(s.StandardSAEConfig(**size, dtype="bfloat16")),
        "topk": s.TopKSAE(s.TopKSAEConfig(**k_sparse)),
        "topk_rescaled": s.TopKSAE(
            s.TopKSAEConfig(**k_sparse, rescale_acts_by_decoder_norm=True, **uncentred)
        ),
        "abstopk": s.AbsTopKSAE(s.AbsTopKSAEConfig(**k_sparse)),
        "jumprelu": s.JumpReLUSAE(s.JumpReLUSAEConfig(**size)),
        "jumprelu_uncentred": s.JumpReLUSAE(s.JumpReLUSAEConfig(**size, **uncentred)),
        "gated": s.GatedSAE(s.GatedSAEConfig(**size)),
        "gated_uncentred": s.GatedSAE(s.GatedSAEConfig(**size, **uncentred)),
        "batchtopk": s.BatchTopKTrainingSAE(s.BatchTopKTrainingSAEConfig(**k_sparse)),
        "batchtopk_for_inference": s.BatchTopKTrainingSAE(s.BatchTopKTrainingSAEConfig(**k_sparse)),
        "batchtopk_unscaled": s.BatchTopKTrainingSAE(
            s.BatchTopKTrainingSAEConfig(**k_sparse, rescale_acts_by_decoder_norm=False)
        ),
        "matryoshka_for_inference": s.MatryoshkaBatchTopKTrainingSAE(
            s.MatryoshkaBatchTopKTrainingSAEConfig(**k_sparse, **widths)
        ),
        "transcoder": s.Transcoder(
            s.TranscoderConfig(**size, d_out=D_IN, apply_b_dec_to_input=False)
        ),
        "jumprelu_transcoder": s.JumpReLUTranscoder(s.JumpReLUTranscoderConfig(**elsewhere)),
        "skip_transcoder": s.SkipTranscoder(s.SkipTranscoderConfig(**elsewhere)),
    }


def saelens_before_6():
    from sae_lens import SAE, SAEConfig

    def make(architecture, function="relu", *, centred=True, scaled=False, **kwargs):
        sae = SAE(
            SAEConfig(
                architecture=architecture, d_in=D_IN, d_sae=D_SAE, activation_fn_str=function,
                activation_fn_kwargs=kwargs, apply_b_dec_to_input=centred,
                finetuning_scaling_factor=scaled, context_size=8, model_name="gpt2",
                hook_name="blocks.0.hook_resid_pre", hook_layer=0, hook_head_index=None,
                prepend_bos=True, dataset_path="none", dataset_trust_remote_code=False,
                normalize_activations="none", dtype="float32", device="cpu",
                sae_lens_training_version=None,
            )
        )  # fmt: skip
        return sae

    return {
        "standard": make("standard"),
        "standard_uncentred": make("standard", centred=False),
        "standard_finetuned": make("standard", scaled=True),
        "topk": make("standard", "topk", k=K),
        "jumprelu": make("jumprelu"),
        "gated": make("gated"),
    }


def sparsify():
    from sparsify import SparseCoder, SparseCoderConfig

    for seed, (name, options) in enumerate(
        {"normalised": {}, "free": {"normalize_decoder": False}, "transcoder": {"transcode": True}}
        .items()
    ):  # fmt: skip
        folder = fresh(HERE / "sparsify" / name)
        sae = SparseCoder(D_IN, SparseCoderConfig(num_latents=D_SAE, k=K, **options))
        fill_(sae.named_parameters(), seed)
        if name == "normalised":
            sae.set_decoder_norm_to_unit_norm()
        sae.save_to_disk(folder)

        def encode(X, sae=sae):
            values, places, _ = sae.encode(X)
            return torch.zeros(len(X), D_SAE).scatter_(1, places, values)

        def decode(codes, sae=sae):
            return codes @ sae.W_dec + sae.b_dec

        keep_expected(folder, encode, decode)


def dictionary_learning():
    import dictionary_learning.dictionary as d
    from dictionary_learning.trainers.batch_top_k import BatchTopKSAE
    from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKSAE
    from dictionary_learning.trainers.top_k import AutoEncoderTopK

    for seed, sae in enumerate(
        (
            d.AutoEncoder(D_IN, D_SAE),
            d.AutoEncoderNew(D_IN, D_SAE),
            d.GatedAutoEncoder(D_IN, D_SAE),
            d.JumpReluAutoEncoder(D_IN, D_SAE),
            AutoEncoderTopK(D_IN, D_SAE, K),
            BatchTopKSAE(D_IN, D_SAE, K),
            MatryoshkaBatchTopKSAE(D_IN, D_SAE, K, [4, 6]),
        )
    ):
        name = type(sae).__name__
        folder = fresh(HERE / "dictionary_learning" / name)
        fill_(sae.named_parameters(), seed)
        if "TopK" in name:
            sae.threshold.fill_(0.7)
        torch.save(sae.state_dict(), folder / "ae.pt")
        trainer = {"dict_class": name, "activation_dim": D_IN, "dict_size": D_SAE}
        trainer |= {"k": K} if "TopK" in name else {}
        (folder / "config.json").write_text(json.dumps({"trainer": trainer, "buffer": {}}))
        keep_expected(folder, sae.encode, sae.decode)


if __name__ == "__main__":
    {each.__name__: each for each in (saelens, sparsify, dictionary_learning)}[sys.argv[1]]()
