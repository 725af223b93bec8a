"""Named seeds: every use of randomness has its own, derived from the trial's seed and its purpose.

Data order does not depend on the strategy, so strategies meet the same batches in the same order and are compared in
pairs.
"""

import hashlib


def derive(seed: int, *purpose: str | int) -> int:
    """Return a seed in [0, 2^63) for one purpose.

    Args:
        seed: the trial's seed.
        purpose: what it is for, e.g. ("selection", 17).
    """
    text = "/".join([str(seed), *map(str, purpose)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
