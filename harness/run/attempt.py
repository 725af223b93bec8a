"""One attempt at a trial: its lock, its checkpoints, its memory limit, and the record of how it ended."""

import errno
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import torch

from harness.config.annotations import PreTrainedModel, PreTrainedTokenizerBase
from harness.config.arithmetic import described
from harness.config.errors import UnknownNameError, UserError
from harness.distill.group import ALONE, Group, RankLostError, joined
from harness.distill.state import Resumable
from harness.distill.train import NotFiniteError
from harness.models.devices import device_of
from harness.records import lock
from harness.records.files import written
from harness.records.layout import Results
from harness.records.mirror import MirrorError
from harness.records.record import Failure, History, Record
from harness.records.store import finished, read_record, write_record
from harness.run.limits import memory_limit
from harness.run.options import Options
from harness.trial.checkpoint import Keeper, Stopped
from harness.trial.execute import run_trial
from harness.trial.record_of import identified, now
from harness.trial.stages import OnStep, run_stages
from harness.trial.trial import Trial, core_digest, shows_enough

Reason = Literal["error", "input", "not_finite", "memory", "lost"]

_SECONDS_BETWEEN_LOOKS = 1.0
_OUT_OF_MEMORY = ("can't allocate memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")


def run_and_write(
    trial: Trial,
    results: Results,
    *,
    options: Options | None = None,
    on_step: OnStep | None = None,
    on_wait: Callable[[str], None] | None = None,
    stop: Callable[[], bool] = lambda: False,
    gather: Callable[[], AbstractContextManager[Group]] = lambda: nullcontext(ALONE),
) -> Record:
    """Run a trial, or go on with it, and write its record; also where it fails, and the failure is raised again.

    Of two processes that run the same trial one waits, and finds it finished.

    Args:
        trial: what to run.
        results: where it leaves its record and checkpoints.
        options: where and how; the defaults if None.
        on_step: called after every optimiser step.
        on_wait: called with who holds the trial, once, if somebody does.
        stop: asked after every step whether to save and stop.
        gather: starts the processes that train with this one, each in `help_run`, and ends them.

    Raises:
        Stopped: `stop` said so; there is no record, and the next attempt goes on from here.
    """
    options = options or Options()
    with _holding(results, trial, on_wait, stop) as held:
        if finished(results, trial.id):
            record = read_record(results.record(trial.id))
            if shows_enough(trial, record.diagnostics):
                return record
        earlier, started, keepers = _earlier(results, trial), now(), list[Keeper]()

        def stepped(done: int, total: int, loss_nats: float) -> None:
            held.beat()
            if on_step is not None:
                on_step(done, total, loss_nats)

        def keep(device: str, parts: Mapping[str, Resumable], group: Group) -> Keeper:
            keepers.append(_keeper(trial, results, options, device, parts, group, stop=stop))
            return keepers[-1]

        try:
            with _limited(trial, options), gather() as group:
                outcome = run_trial(
                    trial,
                    results=results,
                    on_step=stepped,
                    keep=keep,
                    keep_student=partial(save_student, results, trial.id) if options.keep_students else None,
                    group=group,
                )
        except Stopped:
            raise
        except Exception as error:
            record = failed_record(trial, started, reason_of(error), error, traceback.format_exc())
            write_record(results, record.model_copy(update={"history": _history(earlier, trial, keepers)}), {})
            raise
        record = outcome.record.model_copy(update={"history": _history(earlier, trial, keepers)})
        write_record(results, record, outcome.tables)
        for keeper in keepers:
            keeper.discard()
        return read_record(results.record(trial.id))


def help_run(trial: Trial, results: Results, *, options: Options, rank: int, meeting: Path) -> None:
    """Train a student together with the process that runs its trial; nothing is written here.

    Args:
        trial: what is run.
        results: where it leaves its record and checkpoints.
        options: where and how.
        rank: this process's number; the one that runs the trial is 0.
        meeting: the file at which the processes meet.

    Raises:
        RankLostError: another process ended.
    """
    keep = partial(_keeper, trial, results, options, stop=lambda: False)
    resources = trial.workload.resources
    meet = joined(rank, resources.data_parallel, meeting, sharded=resources.shard_student)
    with _limited(trial, options), meet as group:
        run_stages(trial, results=results, on_step=None, keep=keep, group=group)


def _keeper(
    trial: Trial,
    results: Results,
    options: Options,
    device: str,
    parts: Mapping[str, Resumable],
    group: Group,
    *,
    stop: Callable[[], bool],
) -> Keeper:
    return Keeper(
        results,
        trial=trial.id,
        conditions=conditions(trial, options) | machine_conditions(trial),
        interval=options.checkpoint_every,
        micro_batch_size=trial.workload.optimisation.micro_batch_size,
        device=device,
        parts=parts,
        stop=stop,
        group=group,
        accept=options.accept_checkpoints,
    )


@contextmanager
def _limited(trial: Trial, options: Options) -> Iterator[None]:
    """Keep to a trial's share of the memory, and to deterministic operations if asked to."""
    with memory_limit(options.memory_bytes if device_of(trial.workload) == "cpu" else None):
        torch.use_deterministic_algorithms(options.deterministic)
        yield


def save_student(results: Results, trial_id: str, student: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Write a student's weights and tokenizer, whole or not at all; those that are there already are the same.

    Raises:
        UserError: they cannot be written; names the folder and the reason.
    """
    with written(results.student(trial_id), first_stays=True) as partial_folder:
        student.save_pretrained(partial_folder)
        tokenizer.save_pretrained(partial_folder)


def lock_name(trial_id: str) -> str:
    """Return the name of a trial's lock, in `Results.locks`."""
    return f"trial-{trial_id}"


def conditions(trial: Trial, options: Options) -> dict[str, str]:
    """Return what a trial's last bits depend on besides its id and the machine."""
    resources = trial.workload.resources
    return {
        "core": core_digest(),
        "transformers": version("transformers"),
        "deterministic": str(options.deterministic),
        "diagnostics": "none" if trial.diagnostics is None else trial.diagnostics.model_dump_json(),
        **{name: str(value) for name, value in resources.model_dump(exclude={"gpus", "dtype", "arithmetic"}).items()},
    }


def machine_conditions(trial: Trial) -> dict[str, str]:
    """Return what a trial's last bits depend on of the machine that computes: this one."""
    device = device_of(trial.workload)
    kind = torch.cuda.get_device_name(device) if device.startswith("cuda") else torch.backends.cpu.get_cpu_capability()
    return {"torch": version("torch"), "device": f"{device} {kind}", "arithmetic": described(device)}


def record_lost(trial: Trial, results: Results, reason: Reason, error: BaseException) -> None:
    """Write the record of an attempt that could not write it: its process was killed, or never knew the trial.

    Args:
        trial: what was run.
        results: where it leaves its record and checkpoints.
        reason: `lost`, `memory` if the system has killed for want of it, `input` if the worker refused the trial.
        error: what the scheduler says.
    """
    record = failed_record(trial, "", reason, error, str(error))
    history = _history(_earlier(results, trial), trial, [])
    write_record(results, record.model_copy(update={"history": history}), {})


def failed_record(trial: Trial, started_at: str, reason: Reason, error: BaseException, trace: str) -> Record:
    """Build the record of a trial that did not finish, so that the report can show it."""
    return Record(
        **identified(trial),
        status="failed",
        started_at=started_at,
        failure=Failure(kind=type(error).__name__, message=str(error), traceback=trace, reason=reason),
    )


def reason_of(error: BaseException) -> Reason:
    """Tell why an attempt failed, by what it raised."""
    if isinstance(error, MirrorError):
        return "lost"  # what is here is whole, and a second attempt goes on from it
    if isinstance(error, UserError | UnknownNameError):
        return "input"
    if isinstance(error, NotFiniteError | FloatingPointError):
        return "not_finite"
    if isinstance(error, RankLostError):
        return "lost"
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return "memory"
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return "memory"
    # Not all that allocate have an exception of their own: torch's allocator for the CPU, CUDA's libraries.
    if isinstance(error, RuntimeError) and any(said in str(error) for said in _OUT_OF_MEMORY):
        return "memory"
    return "error"


@contextmanager
def _holding(
    results: Results, trial: Trial, on_wait: Callable[[str], None] | None, stop: Callable[[], bool]
) -> Iterator[lock.Held]:
    """Hold a trial's lock, after waiting for whoever holds it."""
    with ExitStack() as stack:
        announced, held = False, None
        while held is None:
            try:
                attempt = lock.held(results.locks, lock_name(trial.id), doing="run", timeout_s=_SECONDS_BETWEEN_LOOKS)
                held = stack.enter_context(attempt)
            except lock.LockedError as error:
                if on_wait is not None and not announced:
                    on_wait(str(error))
                announced = True
                if stop():
                    raise Stopped("stopped while another process ran the trial") from None
                time.sleep(_SECONDS_BETWEEN_LOOKS)
        yield held


def _earlier(results: Results, trial: Trial) -> Record | None:
    """Return the record of the attempt before this one, which failed."""
    path = results.record(trial.id)
    return read_record(path) if path.exists() else None


def _history(earlier: Record | None, trial: Trial, keepers: list[Keeper]) -> History:
    size = trial.workload.optimisation.micro_batch_size
    attempt = History(
        resumed_at=keepers[-1].resumed_at if keepers else (),
        micro_batch_sizes=keepers[-1].micro_batch_sizes if keepers else (size,) if trial.strategy.train else (),
        accepted=keepers[-1].accepted if keepers else (),
    )
    if earlier is None or earlier.failure is None:
        return attempt
    line = f"{earlier.failure.kind}: {earlier.failure.message}".splitlines()[0]
    before = earlier.history
    return attempt.model_copy(update={"attempts": before.attempts + 1, "failures": (*before.failures, line)})
