"""Numbers of one record: seconds, tokens, bytes. None where the record does not hold them."""

from harness.records.record import Record


def flops(record: Record) -> float | None:
    """Return the operations of a whole trial, with what shared caches cost."""
    return sum(record.cost.flops.values()) or None


def wall(record: Record, phase: str) -> float | None:
    """Return the seconds of a phase."""
    return record.cost.wall_s.get(phase)


def alone_seconds(record: Record) -> float | None:
    """Return the seconds of prepass, cache, training and generation, as if the trial had shared nothing with others.

    What was spent once for all trials is counted in full. None without training.
    """
    wall = record.cost.wall_s
    if "train" not in wall:
        return None
    own = sum(wall.get(phase, 0.0) for phase in ("prepass", "cache", "train", "rollout"))
    return own + sum(record.cost.shared_s.values())


def phase_seconds(record: Record, phase: str, shared: tuple[str, ...]) -> float | None:
    """Return the seconds of a phase, with what was spent once for all trials of these kinds counted in full."""
    once = [record.cost.shared_s[kind] for kind in shared if kind in record.cost.shared_s]
    wall = record.cost.wall_s.get(phase)
    return None if wall is None and not once else (wall or 0.0) + sum(once)


def bytes_per_token(record: Record, kind: str) -> float | None:
    """Return the bytes on disk per token that a cache holds."""
    total, stored = record.cost.disk_bytes.get(kind), _stored_tokens(record, kind)
    return None if total is None or not stored else total / stored


def stored_share(record: Record, kind: str) -> float | None:
    """Return the share of the training tokens that a cache holds."""
    whole, stored = _train_tokens(record), _stored_tokens(record, kind)
    return None if not whole or not stored else stored / whole


def _stored_tokens(record: Record, kind: str) -> float | None:
    """Return how many tokens a cache holds: hidden states of all sequences, targets of those the trial learned from."""
    if kind == "hidden":
        return _train_tokens(record)
    epochs = record.workload.get("optimisation", {}).get("epochs")
    return record.cost.tokens / epochs if epochs else None


def _train_tokens(record: Record) -> float | None:
    data = record.workload.get("data", {})
    if "train_tokens" not in data or "sequence_length" not in data:
        return None
    return float(data["train_tokens"] // data["sequence_length"] * data["sequence_length"])


def tokens_per_second(record: Record) -> float | None:
    """Return the training tokens seen per second of training, generating them included."""
    train = record.cost.wall_s.get("train")
    seconds = None if train is None else train + record.cost.wall_s.get("rollout", 0.0)
    return record.cost.tokens / seconds if seconds else None


def scaled(value: float | None, factor: float) -> float | None:
    """Return a number in another unit."""
    return None if value is None else value * factor


def generated_tokens(record: Record) -> float | None:
    """Return the tokens that the student wrote to be trained on; None where it wrote none."""
    return None if record.rollouts is None else float(record.rollouts.generated_tokens)
