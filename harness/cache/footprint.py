"""How many bytes a stored token takes, measured by storing some: `python -m harness.cache.footprint`.

A Qwen3-sized vocabulary is measured on made-up rows, because no Qwen3 is at hand: Zipf-Mandelbrot ranks under a random
permutation, each row with an exponent of its own, so that entropies spread as a language model's do. Their mean is in
the table; a distribution of another entropy takes other bytes.
"""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from harness.cache.packing import Record
from strategies.classes.rs import draw
from strategies.noise import cells, streams

# N = rows, V = vocabulary

# Published: 3 bytes for each of 64 draws, and for each of the 12 distinct classes of RS-KD (arXiv:2602.01395, storage
# table; arXiv:2503.16870).
PUBLISHED = {64: 192.0, 12: 36.0}

_ROWS_AT_A_TIME = 64
# The number of distinct classes of a position, one byte.
_COUNT_BYTES = 1


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """What storing the draws of some rows took.

    Attributes:
        entropy_nats: mean entropy of the rows.
        distinct: mean number of distinct classes drawn.
        bytes_per_token: of records and counts, checksums and descriptions left out.
    """

    entropy_nats: float
    distinct: float
    bytes_per_token: float


def made_up_rows(num: int, vocab_size: int, *, seed: int) -> Float[Tensor, "N V"]:
    """Return log-probabilities of rows whose entropies spread from near 0 to several nats."""
    generator = torch.Generator().manual_seed(seed)
    exponents = 1.0 + 3.0 * torch.rand((num, 1), generator=generator)
    ranks = torch.argsort(torch.rand((num, vocab_size), generator=generator), dim=-1).float()
    return (-exponents * torch.log(ranks + 1.5)).log_softmax(dim=-1)


def measure(num: int, vocab_size: int, draws: int, *, seed: int = 0) -> Footprint:
    """Draw from made-up rows, pack the draws as the `sampled` cache does, and count bytes.

    Raises:
        AssertionError: a packed draw does not come back as it went in.
    """
    record = Record(vocab_size=vocab_size, draws=draws)
    num_bytes, distinct, entropy = 0, 0, 0.0
    for start in range(0, num, _ROWS_AT_A_TIME):
        logprobs = made_up_rows(min(_ROWS_AT_A_TIME, num - start), vocab_size, seed=seed + start)
        places = torch.arange(start, start + len(logprobs))
        ids, counts = draw(logprobs, streams(seed, cells(places, torch.zeros_like(places))), draws=draws)
        drawn = counts > 0
        packed = record.pack(ids[drawn].numpy(), counts[drawn].numpy())
        back_ids, back_counts = record.unpack(packed)
        assert (back_ids == ids[drawn].numpy()).all()
        assert (back_counts == counts[drawn].numpy()).all()
        num_bytes += packed.nbytes + _COUNT_BYTES * len(logprobs)
        distinct += int(drawn.sum())
        entropy -= float((logprobs.exp() * logprobs).sum())
    return Footprint(entropy_nats=entropy / num, distinct=distinct / num, bytes_per_token=num_bytes / num)


def table(num: int) -> pd.DataFrame:
    """Measure the vocabularies of tiny and of Qwen3 at the paper's numbers of draws."""
    rows = []
    for name, vocab_size in (("tiny", 2048), ("Qwen3", 151_936)):
        for draws in (12, 64):
            found = measure(num, vocab_size, draws)
            rows.append(
                {
                    "vocabulary": name,
                    "classes": vocab_size,
                    "draws": draws,
                    "mean_entropy_nats": round(found.entropy_nats, 3),
                    "distinct_per_token": round(found.distinct, 2),
                    "bytes_per_token": round(found.bytes_per_token, 1),
                    "published_bytes_per_token": PUBLISHED[draws],
                }
            )
    return pd.DataFrame(rows)


if __name__ == "__main__":
    made = table(1024)
    folder = Path("reports/storage")
    folder.mkdir(parents=True, exist_ok=True)
    made.to_csv(folder / "bytes_per_token.csv", index=False)
    print(made.to_string(index=False))  # noqa: T201 - run by hand
