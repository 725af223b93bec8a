"""The paper's figures, and which of them belongs to a strategy of ours: by what the strategy is, never by its name."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import pandas as pd

from harness.analysis.strategies import Named, RowStrategy

SOURCE = "arXiv:2602.01395"
SEEDS = 3
SETTING: Mapping[str, str] = {
    "teacher": "Qwen3-8B",
    "student": "Qwen3-1.7B",
    "data": "FineWeb-Edu",
    "training tokens": "80,000,000",
    "sequence length": "512",
    "sequences per step": "16",
    "epochs": "1",
    "learning rate": "1e-05",
    "seeds": "3",
    "tasks": "HellaSwag, PIQA, ARC-easy, GSM8K, LAMBADA, IFEval; zero-shot but for GSM8K's five examples",
}

# Ours by theirs. Units: the factor from our stored value to the published one.
METRICS: Mapping[str, tuple[str, float]] = {
    "accuracy": ("accuracy", 100.0),
    "adherence": ("ifeval", 100.0),
    "perplexity": ("lambada_ppl", 1.0),
    "ece": ("ece", 100.0),
}
# Of students distilled on one task. The embedded task is asked alone, so that its accuracy is the suite's.
TASK_METRICS: Mapping[str, tuple[str, float]] = {"accuracy/gsm8k": ("gsm8k", 100.0), **METRICS}
ONE_TASK_METRICS: Mapping[str, tuple[str, float]] = {"accuracy": ("gsm8k", 100.0)}
TASK_SETTING: Mapping[str, str] = {**SETTING, "data": "GSM8K", "training tokens": "—"}

_QUALITY = ("importance_metrics", "selection_policies", "multi_axis")
_TASK = ("task_gsm8k",)
_RUNTIME = "runtime_rtx3090_80M"
_KEY = [
    *("signal", "policy", "position_budget", "class_policy", "class_budget"),
    *("sample_signal", "sample_budget", "criterion", "regime"),
]
# What a published row leaves unsaid of a component; any other option is another strategy.
_OPTIONS: Mapping[str, Mapping[str, object]] = {
    "gls": {"capacity": 30000},
    "curriculum": {"ramp": 0.41, "power": 1.0},
    "pos_rs": {"smoothing": 1.0, "coverage": 0.0, "skip_first": 0},
    "pos_rs_corrected": {"smoothing": 1.0, "coverage": 0.0, "skip_first": 0},
    "at_kd": {"hard_fraction": 0.5, "easy_weight": 0.2},
}
# The paper averages losses within each sequence first, except where a threshold is global (Section 5, GLS).
_NORMALISERS: Mapping[str, str] = {"gls": "batch_mean"}


@dataclass(frozen=True)
class Figures:
    """The published rows."""

    rows: pd.DataFrame  # the columns of `se_kd.csv`; empty text where a column does not apply

    def of(self, method: RowStrategy | None, *, task: bool = False, split: str = "test") -> pd.DataFrame:
        """Return the quality rows of a strategy, each metric once; empty if the paper has none like it.

        Args:
            method: the strategy.
            task: look in the task-specific table, whose students are trained on that task, and only there.
            split: what was measured on.
        """
        found = self._matching(method, _TASK if task else _QUALITY)
        # A strategy that stands in several tables is taken from the first, as listed in `_QUALITY`.
        return found[found["split"] == split].drop_duplicates("metric")

    def value(self, method: RowStrategy | None, metric: str) -> float | None:
        """Return a strategy's published cost; None if the paper has none."""
        found = self._matching(method, None)
        found = found[found["metric"] == metric]
        if method is not None and found["method"].str.contains("default flow").any():
            # The paper's default flow holds all logits at once, as ours does where it is dense.
            found = found[found["method"].str.contains("default flow") == (method.flow == "dense")]
        return None if found.empty else float(found["value"].iloc[0])

    def runtime(self, method: RowStrategy | None, *, cache_at_hand: bool = False) -> dict[str, float]:
        """Return hours and accuracy of the table of run times, by metric; empty if a strategy is not in it.

        Args:
            method: the strategy; None for Full KD.
            cache_at_hand: the row that reuses an offline cache, where there are two.
        """
        found = self.rows[self.rows["table"] == _RUNTIME]
        found = found[found["method"] == "Full KD"] if method is None else self._matching(method, (_RUNTIME,))
        found = found[found["method"].str.contains("reuse cache") == cache_at_hand]
        return {str(metric): float(value) for metric, value in zip(found["metric"], found["value"], strict=True)}

    def find(self, name: str, metric: str) -> float | None:
        """Return the published value of a method by the paper's own name for it."""
        found = self.rows[(self.rows["method"] == name) & (self.rows["metric"] == metric)]
        return None if found.empty else float(found["value"].iloc[0])

    def _matching(self, method: RowStrategy | None, tables: tuple[str, ...] | None) -> pd.DataFrame:
        rows = self.rows if tables is None else self.rows[self.rows["table"].isin(tables)]
        key = None if method is None else _key(method)
        if key is None:
            return rows.iloc[:0]
        if not key:
            wanted = "(teacher)" if method is not None and method.model == "teacher" else "(no KD)"
            return rows[rows["method"].str.contains(wanted, regex=False)]
        same = pd.Series(True, index=rows.index)
        for column, value in key.items():
            same &= rows[column] == value
        return rows[same]


@cache
def load() -> Figures:
    """Read the published figures."""
    with files(__package__).joinpath("se_kd.csv").open(encoding="utf-8") as handle:
        rows = pd.read_csv(handle, dtype=dict.fromkeys(_KEY, str) | {"method": str}).fillna(dict.fromkeys(_KEY, ""))
    rows["policy"] = rows["policy"].mask(rows["signal"] == "random", "random")
    return Figures(rows=rows)


def _key(method: RowStrategy) -> dict[str, str] | None:
    """Return what a published row must hold to be this strategy: {} for a model as it is, None where none can be."""
    if not method.trained:
        return {}
    if not method.plain or method.policy is None or method.criterion is None:
        return None
    if method.normaliser != _NORMALISERS.get(method.policy.name, "sequence_mean"):
        return None
    parts = (method.signal, method.policy, method.criterion, method.sample_signal, method.sample_policy)
    if not all(part is None or _as_published(part) for part in parts):
        return None
    if method.classes is not None and (method.classes.name != "rs" or set(dict(method.classes.options)) != {"draws"}):
        return None
    if method.sample_policy is not None and method.sample_policy.name not in ("top", "random"):
        return None
    # A signal that is noise, with the top of it kept, is what policy `random` does.
    noise = method.policy.name == "top_k" and method.signal is not None and method.signal.name == "random"
    sample = method.sample_signal.name if method.sample_signal is not None else ""
    return {
        "signal": "" if method.signal is None or noise else method.signal.name,
        "policy": "random" if noise else method.policy.name,
        "position_budget": "100" if method.policy.name == "all" else _percent(method.budget),
        "class_policy": "" if method.classes is None else "rs",
        "class_budget": "" if method.classes is None else str(dict(method.classes.options)["draws"]),
        "sample_signal": "random" if method.sample_policy is not None and not sample else sample,
        "sample_budget": _percent(method.sample_budget),
        "criterion": method.criterion.name,
        "regime": method.regime,
    }


def _as_published(part: Named) -> bool:
    unsaid = _OPTIONS.get(part.name, {})
    options = dict(part.options)
    return all(name in unsaid and options[name] == unsaid[name] for name in options) and (
        part.name not in ("gls", "curriculum", "at_kd") or set(options) == set(unsaid)
    )


def _percent(budget: float | None) -> str:
    if budget is None or math.isnan(budget):
        return ""
    return f"{100 * budget:g}"
