"""How much rounding to four bits costs: copies of a model whose weights are off by as much again, to be evaluated.

`python -m scripts.smol.rounding MODEL FOLDER` writes them; `harness evaluate FOLDER/COPY --suite arc_easy` asks each.
Q4_1 rounds a block of 32 weights to 16 steps between its smallest and its largest, which stay exact. A copy has uniform
noise of one step's width on the others: an error of the size of the first one, independent of it, so that what it costs
is, to first order, what the first one cost.
"""

import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

BLOCK, STEPS = 32, 15
# Variances of the added error, in units of the first one's, and seeds.
COPIES = {1: (4, 5, 6), 4: (1, 2), 8: (3,)}


def noisy(weight: torch.Tensor, variance: float, generator: torch.Generator) -> torch.Tensor:
    """Return a dequantised matrix, (rows, columns) with columns a multiple of 32, with that much error added."""
    blocks = weight.reshape(-1, BLOCK)
    step = (blocks.amax(dim=1, keepdim=True) - blocks.amin(dim=1, keepdim=True)) / STEPS
    noise = (torch.rand(blocks.shape, generator=generator) - 0.5) * step
    rows = torch.arange(len(blocks))
    noise[rows, blocks.argmax(dim=1)] = 0
    noise[rows, blocks.argmin(dim=1)] = 0
    return torch.add(blocks, noise, alpha=variance**0.5).reshape(weight.shape)


def write(source: str, folder: Path) -> None:
    """Write the copies; embeddings, which are stored in eight bits, stay as they are."""
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(source)
    exact = {name: value.clone() for name, value in model.state_dict().items()}
    for variance, seeds in COPIES.items():
        for seed in seeds:
            generator = torch.Generator().manual_seed(seed)
            for name, value in model.named_parameters():
                if value.dim() == 2 and "embed" not in name and "lm_head" not in name:
                    value.data.copy_(noisy(exact[name], variance, generator))
            place = folder / f"variance{variance}-seed{seed}"
            model.save_pretrained(place)
            tokenizer.save_pretrained(place)


if __name__ == "__main__":
    write(sys.argv[1], Path(sys.argv[2]))
