"""Where in a transformers model an activation is taken, and how the forward pass is cut there.

Nothing here is tied to a family of models: the blocks are the module list as
long as the configuration says, and the parts of a block go by the names that
the families give them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn

HOOKS = ("resid_pre", "resid_post", "attn_out", "mlp_out")

# Tried in this order. The paths that go inside come first: in those families
# (BERT, Bloom, Falcon, MPT) the outer module already adds the residual stream.
_PARTS = {
    "attn_out": (
        "attention.output.dense",
        "self_attention.dense",
        "self_attn",
        "attn",
        "attention",
        "self_attention",
    ),
    "mlp_out": (
        "mlp.dense_4h_to_h",
        "mlp",
        "feed_forward",
        "block_sparse_moe",
        "output.dense",
        "ffn.down_proj",
        "ffn",
        "fc2",
    ),
}


class _Reached(Exception):
    """The hooked module has been reached: leave the forward pass."""


def text_config(config: Any) -> Any:
    """The part of a configuration that is about text, in models that also read other things."""
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def count_layers(config: Any) -> int:
    """Number of blocks that a model's configuration announces.

    Raises
    ------
    ValueError
        If it announces none.
    """
    n_layers = getattr(text_config(config), "num_hidden_layers", None)
    if n_layers is None:
        raise ValueError(
            f"the configuration of model ({type(config).__name__}) has no num_hidden_layers; "
            "pass a transformer language model."
        )
    return int(n_layers)


def find_blocks(model: nn.Module) -> nn.ModuleList:
    """The blocks of `model`: its largest module list of the announced length.

    Raises
    ------
    ValueError
        If there is no such list, as where layers share their weights (ALBERT).
    """
    n_layers = count_layers(model.config)
    lists = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == n_layers]
    if not lists:
        raise ValueError(
            f"model ({type(model).__name__}) has no list of {n_layers} blocks, the number that "
            "its configuration announces; pass a model whose layers are separate modules."
        )
    return max(lists, key=lambda blocks: sum(p.numel() for p in blocks.parameters()))


def hooked_module(block: nn.Module, hook: str) -> nn.Module:
    """The module of `block` whose input ("resid_pre") or output (the others) is wanted.

    Raises
    ------
    ValueError
        If the block has no part for `hook` under any of the usual names.
    """
    if hook in ("resid_pre", "resid_post"):
        return block
    for path in _PARTS[hook]:
        try:
            return attrgetter(path)(block)
        except AttributeError:
            continue
    names = [name for name, _ in block.named_children()]
    raise ValueError(
        f"hook={hook!r} finds no such part in {type(block).__name__}, which has {names}; "
        'use hook="resid_pre" or hook="resid_post".'
    )


def run_until(model: nn.Module, module: nn.Module, inputs: dict[str, Any], *, hook: str) -> Tensor:
    """Run `model` up to `module` and no further.

    Parameters
    ----------
    model : torch.nn.Module
    module : torch.nn.Module
        A part of it, from `hooked_module`.
    inputs : dict
        Keyword arguments of the model; ``input_ids`` has shape (n, length).
    hook : str
        "resid_pre" takes the input of `module`, the others its output.

    Returns
    -------
    Tensor of shape (n, length, n_features)
        The user's own hooks have been applied to it. It is an inference tensor.

    Raises
    ------
    RuntimeError
        If the forward pass ends without running `module`.
    """
    found: list[Tensor] = []

    def take_input(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        found.append(args[0] if args else kwargs["hidden_states"])
        raise _Reached

    def take_output(module: nn.Module, args: tuple, output: Any) -> None:
        found.append(output[0] if isinstance(output, tuple) else output)
        raise _Reached

    if hook == "resid_pre":
        handle = module.register_forward_pre_hook(take_input, with_kwargs=True)
    else:
        handle = module.register_forward_hook(take_output)
    try:
        with torch.inference_mode():
            model(**inputs)
    except _Reached:
        pass
    finally:
        handle.remove()
    if not found:
        raise RuntimeError(
            f"the forward pass of {type(model).__name__} ended without running the hooked "
            f"{type(module).__name__}; pass a model that runs its layers on text."
        )
    # Some families flatten (n, length) inside a block.
    return found[0].reshape(*inputs["input_ids"].shape, -1)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode (no dropout) inside, every module's own mode again outside."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
