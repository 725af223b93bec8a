"""How many bytes a stored token takes, measured by storing some, and what that makes of 100 billion tokens.

A Qwen3-sized vocabulary is measured on made-up rows, because no Qwen3 is at hand: Zipf-Mandelbrot ranks under a random
permutation, each row with an exponent of its own, so that entropies spread as a language model's do. Their mean is in
the table; a distribution of another entropy takes other bytes.
"""

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from harness.analysis import published
from harness.cost.bench.flops import SHARE
from harness.cost.shapes import Pair
from harness.teacher.kinds.bits import PairLayout
from strategies.classes.rs import draw
from strategies.noise import cells, streams

# N = rows, V = vocabulary

TOKENS = 100_000_000_000
# Of a target, as packed text holds it.
TARGET_BYTES = 4
_ROWS_AT_A_TIME = 64
# The number of distinct classes of a position, one byte.
_COUNT_BYTES = 1


def made_up_rows(num: int, vocab_size: int, *, seed: int) -> Float[Tensor, "N V"]:
    """Return log-probabilities of rows whose entropies spread from near 0 to several nats."""
    generator = torch.Generator().manual_seed(seed)
    exponents = 1.0 + 3.0 * torch.rand((num, 1), generator=generator)
    ranks = torch.argsort(torch.rand((num, vocab_size), generator=generator), dim=-1).float()
    return (-exponents * torch.log(ranks + 1.5)).log_softmax(dim=-1)


def measure(num: int, vocab_size: int, draws: int, *, seed: int = 0) -> tuple[float, float, float]:
    """Draw from made-up rows, pack the draws as the `sampled` cache does, and count bytes.

    Returns:
        Means over rows: bytes of records and counts (checksums and descriptions left out), distinct classes drawn, and
        entropy in nats.

    Raises:
        AssertionError: a packed draw does not come back as it went in.
    """
    record = PairLayout(vocab_size=vocab_size, draws=draws)
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
    return num_bytes / num, distinct / num, entropy / num


def table(num: int, pair: Pair) -> pd.DataFrame:
    """Return bytes per token and terabytes for 100 billion tokens, measured, with the published figure beside.

    Args:
        num: made-up rows to draw from, for every number of draws.
        pair: its vocabulary is stored, and its teacher's hidden states.
    """
    vocab, width, size = pair.vocab_size, int(pair.teacher.hidden_size), pair.dtype.itemsize
    target = f"1 class x {TARGET_BYTES} bytes"
    rows = [
        _row("targets alone (cross-entropy)", TARGET_BYTES, target, "Vanilla CE", "1 class x 3 bytes"),
        _row("every logit", vocab * size, f"{vocab} classes x {size} bytes", "Full KD", "100000 classes x 1 byte"),
        _row("hidden states", width * size, f"{width} numbers x {size} bytes"),
    ]
    for draws in (12, 64):
        bytes_per_token, distinct, nats = measure(num, vocab, draws)
        record = PairLayout(vocab_size=vocab, draws=draws).num_bytes
        how = f"{distinct:.2f} distinct classes x {record} bytes + {_COUNT_BYTES} at {nats:.2f} nats"
        theirs, share, kept = (
            f"{draws} classes x 3 bytes",
            SHARE * bytes_per_token,
            f"{SHARE} of the sequences x ({how})",
        )
        rows += [
            _row(f"{draws} draws", bytes_per_token, how, f"RS-KD U={draws}", theirs),
            _row(f"{draws} draws, SE-KD 3X", share, kept, f"SE-KD 3X U={draws}", f"{SHARE} x {theirs}"),
        ]
    return pd.DataFrame({"pair": pair.name, "classes": vocab, **row} for row in rows)


def _row(
    stored: str, bytes_per_token: float, arithmetic: str, row: str = "", theirs: str = ""
) -> dict[str, str | float | None]:
    return {
        "stored": stored,
        "bytes_per_token": bytes_per_token,
        "terabytes_100b_tokens": bytes_per_token * TOKENS / 1e12,
        "arithmetic": arithmetic,
        "published_terabytes": published.load().find(row, "terabytes"),
        "published_arithmetic": theirs,
    }
