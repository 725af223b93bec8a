"""Runs parts of the harness in forked children, one after the other, each of which may be told when to die.

A process of its own: it imports everything once, starts no thread, and forks for every order it reads from its standard
input (one JSON object per line), so that a run costs no imports. It answers with the child's process id, and when the
child has ended with its status and what it said.

An order: {"do": [part, ...], "grid": file, "results": folder, "reports": folder, "every": steps between checkpoints,
"die": event or null, ...}. A child that is told to die kills itself with SIGKILL at the n-th event; events are the
steps of training, and the beginnings and ends of everything that makes a file lasting or visible.
"""

import hashlib
import json
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

import harness.evaluate.runner  # noqa: F401 - lm-eval takes seconds to import
from harness.analysis.report import write_report
from harness.config.errors import UnknownNameError, UserError
from harness.records.layout import Results
from harness.run.attempt import run_and_write
from harness.run.leftovers import resolve_leftovers
from harness.run.options import Options
from harness.run.plan import make_plan
from harness.run.prepare import prepare_plan
from harness.run.run import write_plan
from harness.trial import stages as training
from harness.trial.checkpoint import Interval

_TRAIN = training.train
EVENTS = ("fsync", "replace", "rename", "unlink", "rmdir")


class Fate:
    """Counts events, and kills this process at one of them."""

    def __init__(self, die: int | None) -> None:
        self.count, self._die = 0, die
        for name in EVENTS:
            setattr(os, name, self._watched(getattr(os, name)))

    def __call__(self, *_: object) -> None:
        """Count one event."""
        self.count += 1
        if self.count == self._die:
            os.kill(os.getpid(), signal.SIGKILL)

    def _watched(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*args: Any, **kwargs: Any) -> Any:
            self()
            result = function(*args, **kwargs)
            self()
            return result

        return watched


def obey(order: dict[str, Any], fate: Fate) -> None:
    """Do the parts of an order: prepare, trials, report."""
    results, reports, console = Results(Path(order["results"])), Path(order["reports"]), Console(quiet=True)
    options = Options(
        checkpoint_every=Interval(steps=order.get("every")),
        memory_bytes=order.get("memory"),
        rebuild=order.get("rebuild", False),
        fresh=order.get("fresh", False),
    )
    labels = (order["only"],) if "only" in order else ()
    plan = make_plan(Path(order["grid"]), results, labels=labels, force=options.fresh, rebuild=options.rebuild)
    resolve_leftovers(plan, results, console, options)
    if "prepare" in order["do"] and plan.todo:
        prepare_plan(plan, results, console)
    if "trials" in order["do"]:
        for trial in plan.todo:
            _keep_weights(results.root / "weights" / f"{trial.id}.sha256")
            on_step = _hog(order["hog"]) if "hog" in order else _last(order["last"]) if "last" in order else fate
            run_and_write(trial, results, options=options, on_step=on_step)
    write_plan(plan, results, "harness run")
    if "report" in order["do"]:
        write_report(results.root, plan.grid.name, reports)


def _last(step: int) -> Callable[[int, int, float], None]:
    """Return what kills this process after a step, before that step can be saved."""

    def die(done: int, _total: int, _loss: float) -> None:
        if done == step:
            os.kill(os.getpid(), signal.SIGKILL)

    return die


def _hog(num_bytes: int) -> Callable[[int, int, float], None]:
    """Return what wants so much memory after the third step, as a batch of long rows would."""

    def hog(done: int, _total: int, _loss: float) -> None:
        if done == 3:
            torch.zeros(num_bytes, dtype=torch.uint8)

    return hog


def _keep_weights(path: Path) -> None:
    """Have the trained student's weights hashed into a file."""

    def train(core: Any, *args: Any, **kwargs: Any) -> Any:
        done = _TRAIN(core, *args, **kwargs)
        digest = hashlib.sha256()
        for parameter in core.student.parameters():
            digest.update(parameter.detach().numpy().tobytes())
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(digest.hexdigest())
        return done

    training.train = train


def child(order: dict[str, Any], said: int) -> None:
    """Carry out an order and never return: 0, or 2 for an error that is the user's, 1 for any other."""
    status, text, fate = 0, "", Fate(order.get("die"))
    torch.set_num_threads(1)
    torch.compiler.set_stance("force_eager")  # torchao's kernels are compiled for a minute, to the same formulas
    if order.get("file_size"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (order["file_size"], resource.RLIM_INFINITY))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        obey(order, fate)
    except (UserError, UnknownNameError) as error:
        status, text = 2, str(error)
    except BaseException:
        status, text = 1, traceback.format_exc()
    os.write(said, json.dumps({"text": text, "events": fate.count}).encode())
    os._exit(status)


def main() -> None:
    """Serve orders until the input ends."""
    print("ready", flush=True)  # noqa: T201
    waiting: dict[int, int] = {}
    for line in sys.stdin:
        order = json.loads(line)
        if order == "wait":
            for pid, read in waiting.items():
                _, status = os.waitpid(pid, 0)
                with os.fdopen(read) as pipe:
                    told = pipe.read() or "{}"
                print(json.dumps({"status": os.waitstatus_to_exitcode(status), **json.loads(told)}), flush=True)  # noqa: T201
            waiting = {}
            continue
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(read)
            child(order, write)
        os.close(write)
        waiting[pid] = read
        print(pid, flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
