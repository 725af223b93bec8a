"""Build the embedded workload: a tokenizer, a teacher and a student, all trained on the embedded corpus.

The recipes below are what the shipped files were made from. The teacher reads a fresh stream of the pretrain split; the
student reads the first part of the same split three times and stops before its rate decays, as base models are
published before they are tuned, so that it is at a loss where the teacher knows and has something to gain. Neither
reads the train split, which is kept for distillation.
"""

import copy
import hashlib
import json
import math
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import tokenizers
import torch
import transformers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from harness.data.corpus import CORPUS_SEED
from scripts.tiny.scores import score_tasks
from scripts.tiny.text import END, LENGTH, NUM_TOKENS, end_id, make_tokenizer, take_windows, windows

# B = sequences in a batch, L = tokens in a sequence

TOKENIZER_DOCUMENTS = 40_000
VALIDATION_WINDOWS = 256
CURVE_WINDOWS = 96
NUM_ITEMS = 200
LOG_EVERY_TOKENS = 150_000
OVERLAP_SHARES = (0.1, 0.2, 0.3)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything a model's weights depend on, apart from the corpus, the tokenizer and the machine.

    Attributes:
        corpus_tokens: tokens of the pretrain split that are read, again and again; None reads a fresh stream.
        steps: optimiser steps of `batch` sequences of `LENGTH` tokens.
        learning_rate: peak, reached after `warmup_steps`, held, then brought to zero linearly.
        decay_share: share of the steps, at the end, over which the learning rate falls.
        seed: of the initial weights and of the order of the student's windows.
    """

    name: str
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    corpus_tokens: int | None
    steps: int
    batch: int
    learning_rate: float
    warmup_steps: int
    decay_share: float
    weight_decay: float
    seed: int


TEACHER = Recipe(
    name="teacher", hidden_size=128, num_layers=5, num_heads=4, num_kv_heads=4, head_dim=32, intermediate_size=384,
    corpus_tokens=None, steps=7000, batch=8, learning_rate=2e-3, warmup_steps=200, decay_share=0.4, weight_decay=0.05,
    seed=1,
)  # fmt: skip
STUDENT = Recipe(
    name="student", hidden_size=64, num_layers=3, num_heads=4, num_kv_heads=4, head_dim=16, intermediate_size=192,
    corpus_tokens=1_000_000, steps=3000, batch=8, learning_rate=3e-3, warmup_steps=100, decay_share=0.001,
    weight_decay=0.05, seed=2,
)  # fmt: skip


def batches(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> Iterator[torch.Tensor]:
    """Yield endless batches, (B, L) token ids; a fixed corpus comes in a new order every epoch."""
    if recipe.corpus_tokens is None:
        source = windows(tokenizer, "pretrain")
        while True:
            yield torch.tensor([next(source) for _ in range(recipe.batch)])
    corpus = take_windows(tokenizer, "pretrain", recipe.corpus_tokens // LENGTH)
    generator = torch.Generator().manual_seed(recipe.seed)
    while True:
        order = torch.randperm(len(corpus), generator=generator)
        for rows in torch.split(order[: len(order) // recipe.batch * recipe.batch], recipe.batch):
            yield corpus[rows]


def make_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    """Return an untrained model with the recipe's shape and seed, in float32."""
    torch.manual_seed(recipe.seed)
    end = end_id(tokenizer)
    config = Qwen3Config(
        vocab_size=NUM_TOKENS, hidden_size=recipe.hidden_size, intermediate_size=recipe.intermediate_size,
        num_hidden_layers=recipe.num_layers, num_attention_heads=recipe.num_heads, head_dim=recipe.head_dim,
        num_key_value_heads=recipe.num_kv_heads, max_position_embeddings=512, tie_word_embeddings=True,
        bos_token_id=None, eos_token_id=end, pad_token_id=end, initializer_range=recipe.hidden_size**-0.5 / 2,
    )  # fmt: skip
    return Qwen3ForCausalLM(config)


def next_token_loss(model: Qwen3ForCausalLM, ids: torch.Tensor) -> torch.Tensor:
    """Return the mean loss in nats over every next token of (B, L) ids."""
    logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())


@torch.no_grad()
def validation_loss(model: Qwen3ForCausalLM, ids: torch.Tensor) -> float:
    """Return the mean loss in nats per token over (B, L) validation ids, a few rows at a time."""
    model.train(False)
    total = 0.0
    for rows in torch.split(ids, 32):
        total += float(next_token_loss(model, rows)) * len(rows)
    model.train()
    return total / len(ids)


def rate(recipe: Recipe, step: int) -> float:
    """Return the learning rate of a step: warm up, hold, decay linearly to zero."""
    decay_steps = recipe.decay_share * recipe.steps
    return recipe.learning_rate * min(1.0, (step + 1) / recipe.warmup_steps, (recipe.steps - step) / decay_steps)


def save_model(model: Qwen3ForCausalLM, folder: Path) -> None:
    """Write bfloat16 weights and the configuration, leaving the model as it is."""
    saved = copy.deepcopy(model).bfloat16()
    scratch = folder.with_name(f".{folder.name}")
    saved.save_pretrained(scratch)
    folder.mkdir(exist_ok=True)
    for path in scratch.iterdir():
        # A rename is atomic: whoever reads the folder meanwhile finds whole files.
        path.replace(folder / path.name)
    scratch.rmdir()


def train(recipe: Recipe, destination: Path, *, threads: int, num_items: int) -> dict[str, object]:
    """Train one model on the tokenizer in `destination` and leave its best weights there.

    The weights that had the lowest validation loss are the ones kept; they are written at every improvement, so a
    usable model exists long before the end.

    Returns:
        The recipe, the loss curve (nats), tokens seen, seconds and scores.
    """
    torch.set_num_threads(threads)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(destination / "tokenizer")
    model = make_model(recipe, tokenizer)
    decayed = [value for value in model.parameters() if value.dim() > 1]
    others = [value for value in model.parameters() if value.dim() < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}],
        betas=(0.9, 0.98),
    )
    held_out = take_windows(tokenizer, "validation", CURVE_WINDOWS)
    source = batches(recipe, tokenizer)
    curve: list[dict[str, float]] = []
    log_every = max(1, LOG_EVERY_TOKENS // (recipe.batch * LENGTH))
    best, recent, started = math.inf, 0.0, time.monotonic()
    model.train()
    for step in range(recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = rate(recipe, step)
        loss = next_token_loss(model, next(source))
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        recent += loss.item()
        if (step + 1) % log_every == 0 or step + 1 == recipe.steps:
            since = (step % log_every) + 1
            held_out_loss = validation_loss(model, held_out)
            row = {
                "step": step + 1, "tokens": (step + 1) * recipe.batch * LENGTH, "train_loss_nats": recent / since,
                "validation_loss_nats": held_out_loss, "wall_s": time.monotonic() - started,
            }  # fmt: skip
            curve.append({key: round(value, 4) for key, value in row.items()})
            sys.stderr.write(f"{recipe.name} {json.dumps(curve[-1])}\n")
            recent = 0.0
            if held_out_loss < best:
                best = held_out_loss
                save_model(model, destination / recipe.name)
    wall_s = time.monotonic() - started
    return {
        "recipe": asdict(recipe),
        "num_parameters": sum(value.numel() for value in model.parameters()),
        "tokens": recipe.steps * recipe.batch * LENGTH,
        "wall_s": round(wall_s, 1),
        "threads": threads,
        "curve": curve,
        **measure(destination, recipe.name, num_items=num_items),
    }


def measure(destination: Path, name: str, *, num_items: int) -> dict[str, object]:
    """Return the validation losses and the task accuracies of the weights as written."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(destination / "tokenizer")
    model = Qwen3ForCausalLM.from_pretrained(destination / name, dtype=torch.float32)
    held_out = take_windows(tokenizer, "validation", VALIDATION_WINDOWS)
    loss_nats = validation_loss(model, held_out)
    # In a byte-level vocabulary a token has as many characters as bytes; the end-of-text mark counts none.
    pieces = tokenizer.convert_ids_to_tokens(held_out[:, 1:].flatten().tolist())
    num_bytes = sum(len(piece) for piece in pieces if piece != END)
    scores = {split: score_tasks(model, tokenizer, split, num_items) for split in ("validation", "test")}
    return {
        "validation_loss_nats": round(loss_nats, 4),
        "validation_bits_per_byte": round(loss_nats * len(pieces) / math.log(2) / num_bytes, 4),
        "scores": scores,
    }


@torch.no_grad()
def entropy_overlap(destination: Path) -> dict[str, float]:
    """Return, by share, the Jaccard index of the positions where the teacher and where the student is most uncertain.

    Whether the workload can tell one signal from the other: at 1 both select the same. Over the first windows of the
    train split, each window's share by itself.
    """
    ids = take_windows(PreTrainedTokenizerFast.from_pretrained(destination / "tokenizer"), "train", CURVE_WINDOWS)
    entropies = []
    for name in ("teacher", "student"):
        model = Qwen3ForCausalLM.from_pretrained(destination / name, dtype=torch.float32)
        logs = [model(input_ids=rows).logits[:, :-1].log_softmax(dim=-1) for rows in torch.split(ids, 16)]
        entropies.append(torch.cat([-(each.exp() * each).sum(dim=-1) for each in logs]))
    found = {}
    for share in OVERLAP_SHARES:
        num = round(share * entropies[0].shape[1])
        tops = [torch.zeros_like(each).scatter(1, each.topk(num).indices, 1.0).bool() for each in entropies]
        found[str(share)] = round(float((tops[0] & tops[1]).sum() / (tops[0] | tops[1]).sum()), 4)
    return found


def scaled(recipe: Recipe, scale: float) -> Recipe:
    """Return a recipe with its steps and its fixed corpus shortened by a factor in (0, 1]."""
    corpus_tokens = recipe.corpus_tokens
    return replace(
        recipe,
        steps=max(2, round(recipe.steps * scale)),
        warmup_steps=max(1, round(recipe.warmup_steps * scale)),
        corpus_tokens=None if corpus_tokens is None else max(recipe.batch * LENGTH, round(corpus_tokens * scale)),
    )


def file_hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file below a folder, by relative path."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def build(destination: Path, *, steps_scale: float = 1.0, threads: int = 1) -> None:
    """Make the tokenizer, the teacher and the student, and write `build_log.json` beside them.

    The two models are trained side by side, each in a process of its own. The same machine and thread count give the
    same files.

    Args:
        destination: folder to fill; what it holds under the same names is replaced.
        steps_scale: factor in (0, 1] on the length of both trainings, the tokenizer's text and the number of scored
            items, for trials of the script itself; the shipped files were made with 1.
        threads: of each of the two processes.

    Raises:
        ValueError: `steps_scale` is outside (0, 1] or `threads` is below 1.
    """
    if not 0 < steps_scale <= 1:
        raise ValueError(f"steps_scale {steps_scale} is outside (0, 1]")
    if threads < 1:
        raise ValueError(f"threads {threads} is below 1")
    destination.mkdir(parents=True, exist_ok=True)
    tokenizer = make_tokenizer(num_documents=max(4000, round(TOKENIZER_DOCUMENTS * steps_scale)))
    # Each model folder is complete on its own: AutoTokenizer loads from any of the three.
    for folder in ("tokenizer", "teacher", "student"):
        tokenizer.save_pretrained(destination / folder)
    recipes = [scaled(recipe, steps_scale) for recipe in (TEACHER, STUDENT)]
    num_items = max(2, round(NUM_ITEMS * steps_scale))
    with ProcessPoolExecutor(len(recipes), mp_context=get_context("spawn")) as pool:
        jobs = [pool.submit(train, recipe, destination, threads=threads, num_items=num_items) for recipe in recipes]
        trained = {recipe.name: job.result() for recipe, job in zip(recipes, jobs, strict=True)}
    log = {
        "corpus_seed": CORPUS_SEED,
        "steps_scale": steps_scale,
        "num_items": num_items,
        "versions": {
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "tokenizers": tokenizers.__version__,
        },
        **trained,
        "entropy_overlap": entropy_overlap(destination),
        "sha256": {
            f"{part}/{name}": value
            for part in ("tokenizer", "teacher", "student")
            for name, value in file_hashes(destination / part).items()
        },
    }
    (destination / "build_log.json").write_text(json.dumps(log, indent=2) + "\n")


if __name__ == "__main__":
    build(Path(sys.argv[1]))
