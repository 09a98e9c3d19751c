"""Where in a transformers model an activation is taken, and how the forward pass is cut there.

Nothing here is tied to a family of models: the blocks are the module list as
long as the configuration says, and the parts of a block go by the names that
the families give them.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from operator import attrgetter
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

T = TypeVar("T")

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


class Site(NamedTuple):
    """Where an activation is taken: the input of a module for "resid_pre", else its output."""

    module: nn.Module
    hook: str


def find_sites(model: nn.Module, where: list[tuple[int, str]]) -> list[Site]:
    """The sites of some layers and hooks.

    Raises
    ------
    ValueError
        If the model has no list of blocks, or a block no such part.
    """
    blocks = find_blocks(model)
    return [Site(hooked_module(blocks[layer], hook), hook) for layer, hook in where]


def run_until(
    model: nn.Module, sites: list[Site], inputs: dict[str, Any], take: Callable[[Tensor], T]
) -> list[T]:
    """Run `model` up to the last of some sites and no further.

    Parameters
    ----------
    model : torch.nn.Module
    sites : list of Site
    inputs : dict
        Keyword arguments of the model; ``input_ids`` has shape (n, length).
    take : callable
        Called with each activation, an inference tensor of shape (n * length, n_features), after
        the user's own hooks. The model goes on after it and may write into that tensor, so it
        makes a copy of what is kept.

    Returns
    -------
    list
        What `take` made, in the order of the sites.

    Raises
    ------
    RuntimeError
        If the forward pass ends before all are reached.
    """
    found: dict[int, T] = {}

    def keep(number: int, hidden: Tensor) -> None:
        if number in found:
            return
        # Some families flatten (n, length) inside a block.
        found[number] = take(hidden.reshape(inputs["input_ids"].numel(), -1))
        if len(found) == len(sites):
            raise _Reached

    with ExitStack() as stack:
        for number, site in enumerate(sites):
            stack.enter_context(replaced(site, partial(keep, number)))
        try:
            with torch.inference_mode():
                model(**inputs)
        except _Reached:
            return [found[number] for number in range(len(sites))]
    missing = next(site for number, site in enumerate(sites) if number not in found)
    raise RuntimeError(
        f"the forward pass of {type(model).__name__} ended without running the hooked "
        f"{type(missing.module).__name__}; pass a model that runs its layers on text."
    )


@contextmanager
def replaced(site: Site, replace: Callable[[Tensor], Tensor | None]) -> Iterator[None]:
    """Inside, the model goes on with what `replace` makes of the activation at `site`.

    It gets the activation as the module has it, (n, length, n_features) or flattened, and returns
    one of the same shape, or None to leave it.
    """

    def change(hidden: Tensor) -> Tensor:
        other = replace(hidden)
        return hidden if other is None else other

    def new_input(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple:
        if args:
            return (change(args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": change(kwargs["hidden_states"])}

    def new_output(module: nn.Module, args: tuple, output: Any) -> Any:
        if isinstance(output, tuple):
            return (change(output[0]), *output[1:])
        return change(output)

    if site.hook == "resid_pre":
        handle = site.module.register_forward_pre_hook(new_input, with_kwargs=True)
    else:
        handle = site.module.register_forward_hook(new_output)
    try:
        yield
    finally:
        handle.remove()


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
