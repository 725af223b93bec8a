"""Contract of the registries, over every component there is, and what the registry refuses."""

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import strategies
from harness.config import Strategy
from harness.config.errors import UserError
from harness.config.strategy import read_strategy
from harness.distill.probe import probe
from strategies.digest import source_digest
from strategies.names import UnknownNameError, unknown
from strategies.registry import (
    CLASSES,
    CRITERIA,
    FEATURES,
    POLICIES,
    RAW_INPUTS,
    SAMPLES,
    SIGNALS,
    TEMPERATURES,
    Component,
    Registry,
    order_signals,
    raw_inputs,
)

REGISTRIES = {
    "signals": SIGNALS,
    "policies": POLICIES,
    "classes": CLASSES,
    "criteria": CRITERIA,
    "samples": SAMPLES,
    "temperatures": TEMPERATURES,
    "features": FEATURES,
}
COMPONENTS = [(package, name) for package, registry in REGISTRIES.items() for name in registry]
PACKAGE = Path(strategies.__file__).parent


@pytest.mark.parametrize(("package", "name"), COMPONENTS)
def test_every_component_is_a_documented_file_of_its_name(package: str, name: str) -> None:
    component = REGISTRIES[package][name]
    assert component.name == name
    assert component.build.__module__ == f"strategies.{package}.{name}"
    assert (PACKAGE / package / f"{name}.py").is_file()
    assert component.build.__doc__
    assert component.summary.endswith(".")
    assert len(component.summary) <= 120
    assert component.source.strip()
    assert len(component.digest) == 16


@pytest.mark.parametrize("package", sorted(REGISTRIES))
def test_every_file_registers_a_component(package: str) -> None:
    stems = {path.stem for path in (PACKAGE / package).glob("*.py") if not path.stem.startswith("_")}
    assert stems == set(REGISTRIES[package])


@pytest.mark.parametrize(("package", "name"), COMPONENTS)
def test_every_component_is_short(package: str, name: str) -> None:
    assert len((PACKAGE / package / f"{name}.py").read_text(encoding="utf-8").splitlines()) < 80


@pytest.mark.parametrize("name", list(SIGNALS))
def test_every_signals_inputs_resolve(name: str) -> None:
    ordered = order_signals([name])
    assert ordered[-1] == name
    for place, each in enumerate(ordered):
        assert all(key in RAW_INPUTS or key in ordered[:place] for key in SIGNALS[each].inputs)
    assert raw_inputs(SIGNALS[name]) <= RAW_INPUTS
    assert raw_inputs(SIGNALS[name])


@pytest.mark.parametrize("name", list(CRITERIA))
def test_every_criterions_inputs_resolve(name: str) -> None:
    component = CRITERIA[name]
    assert order_signals(key for key in component.inputs if key not in RAW_INPUTS) is not None
    assert "student_logprobs" in component.inputs or "student_logits" in component.inputs


def test_digests_tell_components_apart() -> None:
    digests = [REGISTRIES[package][name].digest for package, name in COMPONENTS]
    assert len(set(digests)) == len(digests)


@pytest.mark.parametrize(
    ("name", "needed"),
    [
        ("student_entropy", {"student_logprobs"}),
        ("teacher_ce", {"teacher_logprobs", "targets"}),
        ("ce_ratio_plus_student_entropy", {"teacher_logprobs", "student_logprobs", "targets"}),
        ("random", {"noise"}),
    ],
)
def test_raw_inputs_follow_composition(name: str, needed: set[str]) -> None:
    assert raw_inputs(SIGNALS[name]) == needed


def test_composites_come_after_their_parts_and_nothing_twice() -> None:
    ordered = order_signals(["ce_ratio_plus_student_entropy", "student_ce"])
    assert sorted(ordered) == sorted(set(ordered))
    assert ordered.index("ce_ratio") > max(ordered.index("student_ce"), ordered.index("teacher_ce"))


# ---- what is refused


def _component(name: str, *, inputs: tuple[str, ...] = (), scope: str = "row", build: Any = None) -> Component:
    return Component(
        kind="signal",
        name=name,
        build=build or (lambda: None),
        source="a test",
        inputs=inputs,
        options={},
        traits={"scope": scope},
    )


@pytest.mark.parametrize(
    ("asked", "near"), [("student_entrpy", "student_entropy"), ("Teacher_ce", "teacher_ce"), ("rand", "random")]
)
def test_an_unknown_name_suggests_the_nearest(asked: str, near: str) -> None:
    with pytest.raises(UnknownNameError, match=f"unknown signal '{asked}'. Did you mean '{near}'?") as caught:
        SIGNALS[asked]
    assert "Known: accepted, ca_soft_or, ce_ratio, " in str(caught.value)


def test_an_unknown_name_without_a_near_one() -> None:
    assert str(unknown("policy", "zzzzz", ["all", "top_k"])) == "unknown policy 'zzzzz'. Known: all, top_k."
    assert str(unknown("option", "eps", [])) == "unknown option 'eps'. Known: none."


def test_a_name_cannot_be_registered_twice() -> None:
    registry = Registry(kind="signal", package="nowhere")
    function = type("Function", (), {"__module__": "plugin.first"})
    other = type("Function", (), {"__module__": "plugin.second"})
    registry.add(_component("mine", build=function))
    registry.add(_component("mine", build=function))  # the same file, imported again
    with pytest.raises(ValueError, match=r"'mine' is registered twice: plugin\.first, plugin\.second"):
        registry.add(_component("mine", build=other))


def test_a_name_must_be_its_files_stem() -> None:
    build = type("Function", (), {"__module__": "strategies.signals.misplaced"})
    with pytest.raises(ValueError, match=r"signal 'mine' must live in mine\.py, not misplaced\.py"):
        SIGNALS.add(_component("mine", build=build))
    assert "mine" not in SIGNALS


def test_signals_made_of_each_other_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIGNALS._components, "egg", _component("egg", inputs=("hen",)))
    monkeypatch.setitem(SIGNALS._components, "hen", _component("hen", inputs=("egg",)))
    with pytest.raises(ValueError, match="made of each other: egg -> hen -> egg"):
        order_signals(["egg"])


def test_a_row_signal_cannot_read_a_batch_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIGNALS._components, "mine", _component("mine", inputs=("teacher_uncertainty_rank",)))
    with pytest.raises(ValueError, match="declare it scope='batch'"):
        order_signals(["mine"])


def test_a_misspelt_input_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIGNALS._components, "mine", _component("mine", inputs=("student_logit",)))
    with pytest.raises(UnknownNameError, match="student_logit"):
        order_signals(["mine"])


# ---- digests


@pytest.mark.parametrize(
    "edited",
    [
        '"""Another summary."""\n\ndef f(x):\n    """Other words."""\n    return x + 1\n',
        '"""Doc."""\ndef f(x):\n    # why\n    return (x\n            + 1)\n',
        "def f(x):\n    return x + 1\n",
    ],
)
def test_words_and_layout_do_not_change_a_digest(edited: str) -> None:
    assert source_digest(edited) == source_digest('"""Doc."""\n\n\ndef f(x):\n    """Doc."""\n    return x + 1\n')


@pytest.mark.parametrize("edited", ["def f(x):\n    return x + 2\n", "def f(x, *, y=1):\n    return x + 1\n"])
def test_code_changes_a_digest(edited: str) -> None:
    assert source_digest(edited) != source_digest("def f(x):\n    return x + 1\n")


def test_a_docstring_alone_is_no_code() -> None:
    assert source_digest('def f():\n    """Nothing."""\n') == source_digest("def f():\n    pass\n")


_PRINT_DIGESTS = """
from strategies.registry import CLASSES, CRITERIA, FEATURES, POLICIES, SAMPLES, SIGNALS, TEMPERATURES
for registry in (SIGNALS, POLICIES, CLASSES, CRITERIA, SAMPLES, TEMPERATURES, FEATURES):
    for name in registry:
        print(registry.kind, name, registry[name].digest)
"""


def _digests(folder: Path) -> dict[str, str]:
    done = subprocess.run(  # the copied package must win over the installed one
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(folder)!r})\n{_PRINT_DIGESTS}"],
        capture_output=True,
        text=True,
        check=True,
        cwd=folder,
    )
    return {key: value for key, _, value in (line.rpartition(" ") for line in done.stdout.splitlines())}


class _Copy:
    """A copy of the package, with one more signal, whose files can be edited."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.package = folder / "strategies"
        shutil.copytree(PACKAGE, self.package, ignore=shutil.ignore_patterns("__pycache__"))
        (self.package / "signals" / "by_module.py").write_text(
            "from strategies import noise\nfrom strategies.registry import signal\n\n\n"
            '@signal("by_module", source="a test")\ndef by_module(*, given: object) -> object:\n    return noise.mix\n',
            encoding="utf-8",
        )
        self.before = _digests(folder)

    def changed_by(self, *edits: tuple[str, str, str]) -> set[str]:
        texts = {name: (self.package / name).read_text(encoding="utf-8") for name, _, _ in edits}
        for name, old, new in edits:
            assert old in texts[name]
            (self.package / name).write_text(texts[name].replace(old, new), encoding="utf-8")
        after = _digests(self.folder)
        for name, text in texts.items():
            (self.package / name).write_text(text, encoding="utf-8")
        return {key for key in self.before if self.before[key] != after[key]}


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> _Copy:
    return _Copy(tmp_path_factory.mktemp("copied"))


@pytest.fixture(scope="module")
def changed_by_noise(copied: _Copy) -> set[str]:
    return copied.changed_by(("noise.py", "_signed(0xBF58476D1CE4E5B9)", "_signed(0xBF58476D1CE4E5B8)"))


@pytest.mark.slow
def test_a_copy_has_the_digests_of_the_original(copied: _Copy) -> None:
    original = {f"{REGISTRIES[package].kind} {name}": REGISTRIES[package][name].digest for package, name in COMPONENTS}
    assert {key: value for key, value in copied.before.items() if key != "signal by_module"} == original


def test_editing_a_file_changes_the_digests_of_exactly_those_that_use_it(copied: _Copy) -> None:
    difference = "teacher_logprobs - student_logprobs"
    assert copied.changed_by(
        ("signals/kl.py", difference, f"2 * ({difference})"),
        ("criteria/_gold_split.py", "-torch.inf", "float('-inf')"),
    ) == {"signal kl", "criterion at_kd", "criterion dkd"}


@pytest.mark.slow
def test_editing_words_or_the_registry_changes_no_digest(copied: _Copy) -> None:
    words = ("signals/kl.py", "Forward KL(p_t || q_t)", "In other words")
    assert copied.changed_by(words, ("registry.py", "kw_only=True", "kw_only=True, repr=False")) == set()


@pytest.mark.slow
def test_editing_a_helper_changes_the_digests_of_what_imports_it(changed_by_noise: set[str]) -> None:
    assert {"policy random", "policy top_k", "criterion cross_entropy"} <= changed_by_noise


@pytest.mark.slow
def test_a_helper_imported_as_a_module_counts_too(changed_by_noise: set[str]) -> None:
    assert "signal by_module" in changed_by_noise


# ---- the dry run


@dataclass(frozen=True)
class _Broken:
    def select(self, *args: object) -> object:
        raise RuntimeError("out of luck")


def _boom(**_: Tensor) -> Tensor:
    raise RuntimeError("out of luck")


def _strategy(**changes: Any) -> Strategy:
    fields = {
        "label": "probed",
        "position": {"signal": "student_ce", "policy": "top_k", "budget": 0.5},
        "criterion": "forward_kl",
    }
    return read_strategy({**fields, **changes})


@pytest.mark.parametrize("name", list(SIGNALS))
def test_the_dry_run_passes_every_signal(name: str) -> None:
    probe(_strategy(position={"signal": name, "policy": "top_k", "budget": 0.5}))


def _replace(monkeypatch: pytest.MonkeyPatch, registry: Registry, name: str, build: Any) -> None:
    known = registry[name]
    component = Component(
        kind=known.kind, name=name, build=build, source="a test", inputs=known.inputs, options={}, traits=known.traits
    )
    monkeypatch.setitem(registry._components, name, component)


@pytest.mark.parametrize(
    ("registry", "name", "build", "strategy"),
    [
        (SIGNALS, "student_ce", _boom, {}),
        (CRITERIA, "forward_kl", _boom, {}),
        (POLICIES, "top_k", _Broken, {}),
        (
            SIGNALS,
            "teacher_uncertainty_rank",
            _boom,
            {"criterion": {"name": "at_kd", "hard_fraction": 0.5, "easy_weight": 0.2}},
        ),
    ],
)
def test_the_dry_run_names_what_raises(
    registry: Registry, name: str, build: Any, strategy: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    _replace(monkeypatch, registry, name, build)
    with pytest.raises(UserError, match="out of luck") as caught:
        probe(_strategy(**strategy))
    assert f"{registry.kind} {name!r}" in str(caught.value)


WRONG = [
    (lambda **given: given["student_logprobs"], r"shape \(10,\); it returned \(10, 7\)"),
    (lambda **given: 3.0, "it returned float"),
    (lambda **given: torch.full((10,), torch.nan), "must be finite"),
]


@pytest.mark.parametrize(("build", "message"), WRONG)
def test_the_dry_run_refuses_what_a_signal_must_not_return(
    build: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _replace(monkeypatch, SIGNALS, "student_ce", build)
    with pytest.raises(UserError, match=message) as caught:
        probe(_strategy())
    assert "signal 'student_ce'" in str(caught.value)


@pytest.mark.parametrize("build", [build for build, _ in WRONG])
def test_the_dry_run_refuses_what_a_criterion_must_not_return(build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _replace(monkeypatch, CRITERIA, "forward_kl", build)
    with pytest.raises(UserError, match="criterion 'forward_kl'"):
        probe(_strategy())
