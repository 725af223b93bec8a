"""Trial records: what one trial measured, written once, atomically, and read back by the analysis layer.

A record is the only thing the analysis layer sees of a trial. It lies in `<results>/trials/<trial id>/`:

- `record.json`        this schema; written last and by rename, so it exists only if the trial ended;
- `<table>.parquet`    the tables that lie beside it, those of `TABLES` that the trial has:
  - `items`            one row per evaluated item and measure (task, item, metric, value, confidence, correct, weight);
                       under the task "heldout", one per sequence of held-out text and mean over its tokens;
  - `reliability`      one row per bin of confidence (source, bin, low, high, num, confidence, accuracy) of each
                       multiple-choice task, and of next tokens on held-out text under the source "tokens";
  - `curve`            one row per step (step, loss_nats, realised_fraction, learning_rate, grad_norm);
  - `samples`          one row per training sequence (index, score, kept), where the sample axis is used; score is
                       missing where the policy reads none;
  - where the grid asks for diagnostics, of the steps that were looked at:
    - `overlap`        one row per step and two selections (step, first, second, jaccard), each unordered pair once:
                       what signals would have kept as `top_k`, and what the trial `selected`. Intersection over union,
                       mean over the batch's sequences. `random` is drawn anew: what chance gives;
    - `shown`          one row per step and position of a few fixed held-out sequences (step, sequence, position, token,
                       student_entropy, teacher_entropy, weight, kept_<signal> ...). `token` is the one the position
                       predicts; entropies in nats, missing where it is no target; `weight` is what the trial's policy
                       gives these sequences as a batch of their own;
    - `kept_tokens`    one row per step and token (step, token, num_seen, num_kept): how often it was a target and
                       selected, in all looks so far. Rare tokens are left out, of many those between the extremes too;
    - `profile`        one row per step, quantity and key (step, quantity, key, value), of the step's batch:
                       `realised_fraction` and `effective_positions` ((sum w)^2 / sum w^2, mean over sequences), key 0;
                       `position_profile`, share of valid positions selected by tenth of the sequence, key where it
                       begins; `student_entropy_hist`, `teacher_entropy_hist` and both with `selected_` before, shares
                       of positions, key the bin's left edge in nats; `teacher_top_mass`, mean mass of the teacher's
                       likeliest classes, key how many.

A grid's folder `<results>/<grid>/manifest.json` lists the trials it consists of; several grids may share a trial.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from harness.config import Slug
from harness.config.claims import Claim

SCHEMA = 1

# Of a trial's seconds of training, what its thread computes at least where nothing else wants its core.
_QUIET_SHARE = 0.9

TABLES = ("items", "reliability", "curve", "samples", "overlap", "shown", "kept_tokens", "profile")


class _Frozen(BaseModel):
    # A diverged perplexity is a number too: as null it could not be read back.
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class Metric(_Frozen):
    """One measured number.

    Attributes:
        value: the estimate, in the metric's own unit (see `harness.analysis.metrics`).
        stderr: its standard error over the evaluated items, None where it has none.
        num: how many items (or tokens) it was estimated from.
    """

    value: float
    stderr: float | None = None
    num: int


class Supervision(_Frozen):
    """What the strategy really supervised, summed over training.

    Attributes:
        valid_positions: positions that had a next-token target.
        supervised_positions: positions with a non-zero weight.
        realised_fraction: their ratio, in [0, 1]; not always the budget asked for.
        classes_per_position: distinct classes with a weight in the target, mean over the rows compared; None where rows
            are compared whole. Fewer than the draws asked for, where classes are drawn with replacement.
    """

    valid_positions: int
    supervised_positions: int
    realised_fraction: float
    classes_per_position: float | None = None


class SampleSummary(_Frozen):
    """What the sample axis kept; which sequences and their scores lie in table `samples`.

    Attributes:
        num_samples: training sequences there are.
        kept_samples: training sequences the trial learned from.
        prepass: whether this trial scored the sequences or found them scored; None where nothing is scored.
    """

    num_samples: int
    kept_samples: int
    prepass: Literal["built", "reused"] | None


class Rollouts(_Frozen):
    """What the student wrote to be trained on; the seconds are phase `rollout` of `Cost.wall_s`.

    Attributes:
        sequences: how many.
        generated_tokens: tokens of them, prompts not counted, end-of-text tokens counted.
        ended: sequences that the student ended itself, before its room was used up.
    """

    sequences: int
    generated_tokens: int
    ended: int


class Cost(_Frozen):
    """What the trial cost.

    Attributes:
        wall_s: seconds by phase (load, prepass, cache, train, rollout, diagnostics, eval).
        cpu_s: processor seconds of the process by phase, of all its threads; records of earlier versions have none.
        thread_s: those of the thread that runs the trial, which takes part in all its work: with the processor to
            itself, as many as `wall_s`.
        peak_gib: peak memory, GiB. `step`: tensors that the first step's loss and gradients bring to life, exact and
            the same on every machine; `cuda`: allocated on the GPU over the whole training; `process`: the worker's
            resident set, which also holds the libraries and what the allocator keeps. Diagnostics are left out of
            `step`; the other two hold what they take, a chunk of logits and one hidden state per position. Of several
            processes it is the first one's; `step` is missing where they share the student out.
        flops: floating-point operations by part of the step (student_trunk, student_head, ...), and of the prepass
            (prepass_...) whether this trial ran it or found its result; of generating (rollout_...).
        tokens: training tokens seen.
        disk_bytes: bytes the trial read from a cache or wrote for one, by cache kind.
        shared_s: seconds spent once for all trials of the workload, by cache kind; not part of `wall_s`.
    """

    wall_s: dict[str, float] = Field(default_factory=dict)
    cpu_s: dict[str, float] = Field(default_factory=dict, exclude_if=lambda value: not value)
    thread_s: dict[str, float] = Field(default_factory=dict, exclude_if=lambda value: not value)
    peak_gib: dict[str, float] = Field(default_factory=dict)
    flops: dict[str, float] = Field(default_factory=dict)
    tokens: int = 0
    disk_bytes: dict[str, int] = Field(default_factory=dict)
    shared_s: dict[str, float] = Field(default_factory=dict)


class TaskEvaluation(_Frozen):
    """How one evaluation task was asked.

    Attributes:
        num_items: items asked.
        wall_s: seconds, part of the phase `eval` of `Cost.wall_s`; the rest of it is held-out text.
        source: whether the items were made by the project, read from a local file or loaded from the hub.
        split: the split of that source; "all" for a file without splits.
        half: which items of that split: those of even or of odd index, where one split serves as validation and test;
            None for all.
        note: what else a reader of the score must know.
        shots: examples before each question.
        max_new_tokens: of an answer at most; None where lm-eval's definition of the task says it.
        chat_template: whether it was put as turns of the tokenizer's chat template.
    """

    num_items: int
    wall_s: float
    source: Literal["generated", "file", "hub"]
    split: str
    half: Literal["even", "odd"] | None = None
    note: str = ""
    shots: int = Field(default=0, exclude_if=lambda value: not value)
    max_new_tokens: int | None = Field(default=None, exclude_if=lambda value: not value)
    chat_template: bool = Field(default=False, exclude_if=lambda value: not value)


class Failure(_Frozen):
    """Why a trial did not finish.

    Attributes:
        reason: `error` raised by the code; `input` that is the user's to mend; `not_finite` loss; out of `memory`; a
            `lost` worker, killed from outside.
    """

    kind: str
    message: str
    traceback: str
    reason: Literal["error", "input", "not_finite", "memory", "lost"] = "error"


class History(_Frozen):
    """What a trial went through; nothing in it changes what the trial computes, but for the last bits where said.

    Attributes:
        attempts: how often it was begun after a failure, the last one included.
        failures: one line for each attempt that failed before this one.
        resumed_at: steps after which training went on from a checkpoint, in order.
        micro_batch_sizes: sequences per forward pass, in the order used. More than one, or one below the workload's,
            after running out of memory: sums are then rounded in another order, in the last bits.
        accepted: what differed where training went on from another machine's checkpoint, as the user allowed.
    """

    attempts: int = 1
    failures: tuple[str, ...] = ()
    resumed_at: tuple[int, ...] = ()
    micro_batch_sizes: tuple[int, ...] = ()
    accepted: tuple[str, ...] = ()


class Record(_Frozen):
    """Everything one trial leaves behind.

    Attributes:
        trial_id: hash of what the trial computes.
        label: the row name in tables, e.g. "SE-KD".
        strategy: the fully resolved strategy.
        workload: the fully resolved workload.
        seed: None for a strategy that involves no randomness (no KD, teacher).
        sources: digest of the source of every registered function used, by kind and name.
        core: digest of the distillation core's source, to notice tables that mix versions.
        teacher_in_training: what of the teacher was in memory while the student trained: nothing (stored draws, or a
            strategy that reads none), its head (cached hidden states) or all of it.
        samples: None for a trial that uses every training sequence.
        rollouts: None for a trial that trains on the data alone.
        diagnostics: how the tables of diagnostics were taken (every, sequences); None where there are none.
        evaluation: how each task was asked, by its name.
        tables: checksum of every table beside it, by name.
    """

    schema_version: int = SCHEMA
    trial_id: Slug
    label: str
    strategy: dict[str, Any]
    workload: dict[str, Any]
    seed: int | None
    sources: dict[str, str]
    core: str
    status: Literal["finished", "failed"]
    teacher_in_training: Literal["none", "head", "model"] = "none"
    metrics: dict[str, Metric] = Field(default_factory=dict)
    selection: Supervision | None = None
    samples: SampleSummary | None = None
    rollouts: Rollouts | None = None
    diagnostics: dict[str, int] | None = None
    evaluation: dict[str, TaskEvaluation] = Field(default_factory=dict)
    cost: Cost = Field(default_factory=Cost)
    environment: dict[str, str] = Field(default_factory=dict)
    seeds: dict[str, int] = Field(default_factory=dict)
    started_at: str
    finished_at: str
    failure: Failure | None = None
    history: History = Field(default_factory=History)
    tables: dict[str, str] = Field(default_factory=dict)

    @property
    def busy(self) -> bool:
        """Whether the trial had its core for less than 90% of training, so that its seconds are other work's too.

        Judged by its own thread: how long the others are idle depends on what can be done side by side. False where it
        is not known, and on a GPU, for which the processor waits.
        """
        wall, own = self.cost.wall_s.get("train"), self.cost.thread_s.get("train")
        if wall is None or own is None or self.environment.get("device") != "cpu":
            return False
        return own < _QUIET_SHARE * wall


class ManifestEntry(_Frozen):
    """One trial of a grid, in the order the grid lists it."""

    trial_id: Slug
    label: str
    seed: int | None


class SecondLook(_Frozen):
    """What `harness run --decide` ran after it had looked at the verdicts of the grid's own seeds.

    Attributes:
        seeds: those beyond the grid's.
        labels: the rows that got them: undecided ones, and the baseline beside them.
    """

    seeds: tuple[int, ...]
    labels: tuple[str, ...] = ()


class TuningTrial(_Frozen):
    """One tuning trial: which row's, at which draw of the settings."""

    label: str
    draw: int
    settings: dict[str, float]
    trial_id: Slug
    seed: int


class Tuning(_Frozen):
    """The trials by which `harness run --tune` chose each row's own settings.

    Attributes:
        metric: by whose mean over seeds a draw was chosen.
        split: that they were evaluated on.
        seeds: theirs, none of which is reported.
        trials: the same draws for each row.
        chosen: by row, its settings by dotted path; none where every trial diverged.
        common: the trials of all rows at the workload's own settings, on the seeds that are reported.
    """

    metric: str
    split: str
    seeds: tuple[int, ...]
    trials: tuple[TuningTrial, ...]
    chosen: dict[str, dict[str, float]]
    common: tuple[ManifestEntry, ...]


class Manifest(_Frozen):
    """The trials one grid consists of.

    Attributes:
        grid: the grid's name, also its folder's name.
        hypothesis: the grid file's first comment.
        baseline: label of the row that others are compared with.
        split: the evaluation split, validation or test.
        command: how to produce this again.
        margin: by metric, how much worse than the baseline is still not worse, where the grid says so.
        claims: what the report is to judge.
        second_look: more seeds where the grid's own did not decide; None where nobody looked in between.
        tuning: how each row's own settings were chosen; None where all have the workload's.
    """

    schema_version: int = SCHEMA
    grid: Slug
    hypothesis: str
    workload: str
    baseline: str | None
    split: str
    command: str
    margin: dict[str, float] = Field(default_factory=dict)
    claims: tuple[Claim, ...] = ()
    second_look: SecondLook | None = Field(default=None, exclude_if=lambda value: value is None)
    tuning: Tuning | None = Field(default=None, exclude_if=lambda value: value is None)
    trials: tuple[ManifestEntry, ...]

    @property
    def trial_ids(self) -> list[str]:
        """Every trial that the report reads, each once: the rows', and those that tuned them."""
        ids = [entry.trial_id for entry in self.trials]
        if self.tuning is not None:
            ids += [entry.trial_id for entry in self.tuning.common] + [trial.trial_id for trial in self.tuning.trials]
        return list(dict.fromkeys(ids))
