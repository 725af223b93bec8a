"""How much memory a trial may take, and whether the system has killed for want of it."""

import os
import re
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# What is left for the driver, Ray's own processes and the page cache.
_SHARE = 0.9
_CGROUP = Path("/sys/fs/cgroup")


def available_cpus() -> int:
    """Return the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_share(num_side_by_side: int) -> int:
    """Return the bytes that one of several trials may take: what the machine, or the container, holds for each."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        limit = _number(_CGROUP / name, r"^(\d+)$")
        total = min(total, limit) if limit else total
    return int(total * _SHARE / num_side_by_side)


def count_oom_kills() -> int:
    """Return how many processes the system has killed for want of memory so far; 0 where it does not say."""
    counts = (
        _number(Path("/proc/vmstat"), r"^oom_kill (\d+)$"),
        _number(_CGROUP / "memory.events", r"^oom_kill (\d+)$"),
    )
    return sum(count or 0 for count in counts)


@contextmanager
def memory_limit(num_bytes: int | None) -> Iterator[None]:
    """Let this process grow by so many bytes at most, so that it raises instead of being killed with others.

    Counts memory of its own (heap, anonymous mappings), not mapped caches. Linux only: elsewhere nothing is limited.
    """
    if num_bytes is None or sys.platform != "linux":
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_DATA)
    now = 1024 * (_number(Path("/proc/self/status"), r"^VmData:\s+(\d+) kB$") or 0)
    hard = before[1]
    allowed = now + num_bytes if hard == resource.RLIM_INFINITY else min(now + num_bytes, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (allowed, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def _number(path: Path, pattern: str) -> int | None:
    try:
        match = re.search(pattern, path.read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        return None
    return int(match[1]) if match else None
