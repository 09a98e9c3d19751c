"""Train the small GPT-2 that ``load_gpt2_activations(..., model="tiny")`` reads.

The text is the reStructuredText source of the Python documentation (in Debian:
package ``python3.11-doc``, folder ``html/_sources``). Files are held out whole.
The held-out ones include every source of the standard library's
``pydoc_data.topics``, so that module is text the model has never seen and that
every Python can test it on.

Run: ``python experiments/train_tiny_gpt2.py --docs html/_sources --out tiny_gpt2``
Again, without training: add ``--evaluate`` to measure the folder ``--out``.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

END = "<|endoftext|>"
HELD_OUT_FOLDER = "reference"
HELD_OUT_FILES = {"library/stdtypes", "library/pdb", "library/string"}


@dataclass(frozen=True)
class Corpus:
    """Documents by name, split by file."""

    training: dict[str, str]
    held_out: dict[str, str]


def read_corpus(docs: Path) -> Corpus:
    """Read every ``.rst.txt`` below `docs` once, though links may show it several times."""
    training: dict[str, str] = {}
    held_out: dict[str, str] = {}
    seen: set[str] = set()
    for path in sorted({path.resolve() for path in docs.resolve().rglob("*.rst.txt")}):
        text = path.read_text(encoding="utf-8")
        if text in seen:
            continue
        seen.add(text)
        name = path.relative_to(docs.resolve()).as_posix().removesuffix(".rst.txt")
        kept_back = name.split("/")[0] == HELD_OUT_FOLDER or name in HELD_OUT_FILES
        (held_out if kept_back else training)[name] = text
    if not training or not held_out:
        raise SystemExit(
            f"--docs {docs} has {len(training)} training and {len(held_out)} held-out files; "
            "name the folder 'html/_sources' of the Python documentation."
        )
    return Corpus(training, held_out)


def train_tokenizer(texts: list[str], vocab_size: int, context_length: int) -> Any:
    """Byte-level BPE: any byte has a token, so any text can be written."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END,
        eos_token=END,
        pad_token=END,
        model_max_length=context_length,
    )


def encode(tokenizer: Any, texts: list[str]) -> Tensor:
    """One stream of token ids, every document between two end-of-text tokens."""
    end = tokenizer.convert_tokens_to_ids(END)
    backend = tokenizer.backend_tokenizer
    stream = [end]
    for encoding in backend.encode_batch(texts, add_special_tokens=False):
        stream.extend(encoding.ids)
        stream.append(end)
    return torch.tensor(stream)


def make_model(args: argparse.Namespace, vocab_size: int) -> Any:
    """A GPT-2 with random weights; dropout is off because the data is seen a few times only."""
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=vocab_size,
            n_positions=args.context_length,
            n_embd=args.width,
            n_layer=args.layers,
            n_head=args.heads,
            activation_function="gelu_pytorch_tanh",  # as "gelu_new", in one pass
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            bos_token_id=0,
            eos_token_id=0,
        )
    )


def epoch_batches(stream: Tensor, length: int, batch_size: int, generator: torch.Generator) -> Any:
    """Yield (batch_size, length + 1) windows that cover the stream once, in random order."""
    shift = int(torch.randint(length, (), generator=generator))
    starts = torch.arange(shift, len(stream) - length, length)
    starts = starts[torch.randperm(len(starts), generator=generator)]
    for chosen in starts.split(batch_size):
        if len(chosen) == batch_size:
            yield stream[chosen[:, None] + torch.arange(length + 1)]


def mean_loss(model: Any, windows: Tensor, *, bf16: bool) -> Tensor:
    """Mean cross-entropy in nats of each window's next tokens."""
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        logits = model(windows[:, :-1], use_cache=False).logits
    return cross_entropy(logits.float().flatten(0, 1), windows[:, 1:].flatten())


@torch.inference_mode()
def measure(model: Any, tokenizer: Any, texts: list[str]) -> dict[str, float]:
    """Nats per token and bits per character; every token but the first is predicted once."""
    model.eval()
    length = model.config.n_positions
    stream = encode(tokenizer, texts)
    full = (len(stream) - 1) // length
    windows = stream[: full * length + 1].unfold(0, length + 1, length)
    parts = [*windows.split(16), stream[full * length :][None]]
    nats = 0.0
    for part in parts:
        n_predicted = part.shape[0] * (part.shape[1] - 1)
        if n_predicted:
            nats += float(mean_loss(model, part, bf16=False)) * n_predicted
    characters = sum(map(len, texts))
    return {
        "tokens": len(stream) - 1,
        "characters": characters,
        "nats_per_token": nats / (len(stream) - 1),
        "bits_per_character": nats / math.log(2) / characters,
    }


def learning_rate(progress: float, step: int, args: argparse.Namespace) -> float:
    """Linear warm-up over steps, then a cosine over the time (or the steps) allowed."""
    warm = min(1.0, (step + 1) / args.warmup_steps)
    return args.learning_rate * warm * (0.02 + 0.98 * (1 + math.cos(math.pi * progress)) / 2)


def make_optimizer(model: Any, args: argparse.Namespace) -> torch.optim.Optimizer:
    """AdamW; vectors (biases, norms) are not decayed."""
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": args.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=args.learning_rate, betas=(0.9, 0.98), fused=True)


def save(model: Any, tokenizer: Any, out: Path) -> None:
    """Write model and tokenizer as any transformers can read them, weights in float16."""
    from transformers import GPT2LMHeadModel

    half = GPT2LMHeadModel(model.config)
    half.load_state_dict(model.state_dict())
    half.half().save_pretrained(out)
    tokenizer.save_pretrained(out)
    # Transformers 5 has another name for this class that version 4 does not know.
    file = out / "tokenizer_config.json"
    settings = json.loads(file.read_text())
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    file.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")


def load(out: Path) -> tuple[Any, Any]:
    """Read the folder back; the float16 weights are computed with in float32."""
    from transformers import AutoTokenizer, GPT2LMHeadModel

    model = GPT2LMHeadModel.from_pretrained(out, local_files_only=True).float()
    return model, AutoTokenizer.from_pretrained(out, local_files_only=True)


def update(
    model: Any, optimizer: torch.optim.Optimizer, windows: Tensor, rate: float, *, bf16: bool
) -> Tensor:
    """One step of the optimizer; returns the loss before it."""
    model.train()
    for group in optimizer.param_groups:
        group["lr"] = rate
    loss = mean_loss(model, windows, bf16=bf16)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.detach()


def train(args: argparse.Namespace, corpus: Corpus) -> dict[str, float]:
    """Train until the time (or the steps) are used up; `args.out` has the best weights so far."""
    generator = torch.Generator().manual_seed(args.seed)
    tokenizer = train_tokenizer(
        list(corpus.training.values()), args.vocab_size, args.context_length
    )
    stream = encode(tokenizer, list(corpus.training.values()))
    model = make_model(args, len(tokenizer))
    n_parameters = sum(p.numel() for p in model.parameters())
    print(f"{len(stream)} training tokens, {n_parameters} parameters", flush=True)
    optimizer = make_optimizer(model, args)
    held_out = list(corpus.held_out.values())
    best, step, epoch, progress = math.inf, 0, 0, 0.0
    begin = last_check = time.monotonic()
    while progress < 1:
        epoch += 1
        for windows in epoch_batches(stream, args.context_length, args.batch_size, generator):
            minutes = (time.monotonic() - begin) / 60
            progress = step / args.steps if args.steps else minutes / args.minutes
            if progress >= 1:
                break
            rate = learning_rate(progress, step, args)
            loss = update(model, optimizer, windows, rate, bf16=args.bf16)
            step += 1
            if step % 100 == 0:
                speed = step * windows[:, 1:].numel() / (60 * minutes)
                print(
                    f"step {step}  epoch {epoch}  {minutes:.1f} min  "
                    f"loss {loss.item():.3f}  {speed:.0f} tokens/s",
                    flush=True,
                )
            if time.monotonic() - last_check > 60 * args.check_minutes:
                best = check(model, tokenizer, held_out, args.out, best)
                last_check = time.monotonic()
    check(model, tokenizer, held_out, args.out, best)
    return {
        "steps": step,
        "tokens": step * args.batch_size * args.context_length,
        "epochs": step * args.batch_size * args.context_length / len(stream),
        "minutes": (time.monotonic() - begin) / 60,
        "parameters": n_parameters,
    }


def check(model: Any, tokenizer: Any, texts: list[str], out: Path, best: float) -> float:
    """Save the model if it is the best so far on the held-out text; return the best loss."""
    loss = measure(model, tokenizer, texts)["nats_per_token"]
    print(f"held out: {loss:.4f} nats/token", flush=True)
    if loss < best:
        save(model, tokenizer, out)
    return min(loss, best)


def evaluate(args: argparse.Namespace, corpus: Corpus) -> dict[str, Any]:
    """Measure the saved model and a random one of its shape on the two unseen texts."""
    from pydoc_data.topics import topics

    from transformers import GPT2LMHeadModel

    model, tokenizer = load(args.out)
    torch.manual_seed(args.seed)
    control = GPT2LMHeadModel(model.config)
    texts = {
        "held_out_files": list(corpus.held_out.values()),
        "pydoc_topics": list(topics.values()),
    }
    return {
        f"{who}_{name}": measure(net, tokenizer, text)
        for who, net in [("trained", model), ("random_control", control)]
        for name, text in texts.items()
    }


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--docs", type=Path, required=True, help="folder of the .rst.txt sources")
    parser.add_argument("--out", type=Path, required=True, help="folder for the model")
    parser.add_argument("--minutes", type=float, default=54.0, help="training time")
    parser.add_argument("--steps", type=int, default=0, help="train so many steps, not minutes")
    parser.add_argument("--check-minutes", type=float, default=8.0, help="time between savings")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--vocab-size", type=int, default=4096)
    parser.add_argument("--context-length", type=int, default=256)
    parser.add_argument("--width", type=int, default=160)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--heads", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--warmup-steps", type=int, default=200)
    parser.add_argument("--weight-decay", type=float, default=0.1)
    parser.add_argument("--bf16", action="store_true", help="bfloat16 matrix products")
    parser.add_argument("--evaluate", action="store_true", help="do not train, measure --out")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    corpus = read_corpus(args.docs)
    print(f"{len(corpus.training)} files to train on, {len(corpus.held_out)} held out", flush=True)
    result: dict[str, Any] = {} if args.evaluate else train(args, corpus)
    print(json.dumps({**result, **evaluate(args, corpus)}, indent=2))


if __name__ == "__main__":
    main()
