"""A user's own components: executed only when named or installed, part of a trial's identity, the same in workers."""

import io
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import typer
from rich.console import Console

from harness.cli.catalogue import print_catalogue
from harness.cli.main import app, main
from harness.config import plugins
from harness.config.errors import UserError
from harness.config.expand import load_grid
from harness.config.plugins import load_config, load_plugins
from harness.config.workloads import load_workload
from harness.trial.trial import as_config, from_config, make_trials
from strategies.digest import digest_of, modules_of
from strategies.registry import CRITERIA, POLICIES, REGISTRIES, SIGNALS

HELPER = "SCALE = 2.0\n\n\ndef twice(x):\n    return SCALE * x\n"

SIGNAL = '''"""A file of one signal."""

from strategies.registry import signal

from helper import twice


@signal("mine", source="a test")
def mine(*, kl):
    """Twice the KL."""
    return twice(kl)
'''

SEVERAL = '''"""Two components in one file."""

from dataclasses import dataclass

from strategies.base import budget_count, keep_first, rank_scores
from strategies.registry import criterion, policy


@policy("lowest", source="a test", keeps="budget")
@dataclass(frozen=True, kw_only=True)
class Lowest:
    """Keep the lowest scores."""

    def select(self, scores, valid, ctx, state):
        return keep_first(rank_scores(-scores, valid), valid, budget_count(valid, ctx.budget)), state


@criterion("squared", source="a test")
def squared(*, teacher_logprobs, student_logprobs):
    """Squared distance of log-probabilities."""
    return (teacher_logprobs - student_logprobs).square().sum(dim=-1)
'''


pytestmark = pytest.mark.usefixtures("forget_plugins")


@pytest.fixture
def my_signal(tmp_path: Path) -> Path:
    (tmp_path / "helper.py").write_text(HELPER)
    (tmp_path / "my_signal.py").write_text(SIGNAL)
    return tmp_path / "my_signal.py"


def write(folder: Path, text: str, name: str = "broken.py") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text)
    return folder / name


# ---- what a plugin can do


def test_a_grid_may_use_what_a_named_file_registers(
    my_signal: Path, tmp_path: Path, write_grid: Callable[..., Path]
) -> None:
    several = write(tmp_path, SEVERAL, "several.py")
    entry = {
        "label": "own",
        "position": {"signal": "mine", "policy": "lowest", "budget": 0.5},
        "criterion": "squared",
    }
    with pytest.raises(ValueError, match="unknown policy 'lowest'"):
        load_grid(write_grid([entry]))
    load_plugins([my_signal, several])
    (strategy,) = load_grid(write_grid([entry])).strategies
    assert strategy.criterion is not None
    assert strategy.criterion.name == "squared"
    assert {"mine"} == {name for name in SIGNALS if not SIGNALS[name].build.__module__.startswith("strategies.")}
    assert "lowest" in POLICIES
    assert "squared" in CRITERIA


def test_a_file_that_nobody_names_is_never_executed(my_signal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (my_signal.parent / "other.py").write_text("raise RuntimeError('executed')\n")
    monkeypatch.chdir(my_signal.parent)
    load_plugins()
    assert "mine" not in SIGNALS
    load_plugins([Path("my_signal.py")])
    assert "mine" in SIGNALS
    assert str(my_signal.parent) not in sys.path, "imports of other code must not find the user's files"
    assert not (my_signal.parent / "__pycache__").exists(), "stale bytecode would be executed for edited source"


def test_the_list_says_what_a_plugins_components_are_and_where_they_come_from(tmp_path: Path) -> None:
    load_plugins([write(tmp_path, SEVERAL, "several.py")])
    console = Console(width=200, file=io.StringIO())
    with console.capture() as captured:
        print_catalogue(console, "policies")
    printed = captured.get()
    assert "Keep the lowest scores." in printed, "not the file's summary, which is about two"
    assert "from several" in printed


# ---- identity


def digest(file: Path, name: str = "mine") -> str:
    load_plugins([file])
    found = SIGNALS[name].digest
    for each in ("my_signal", "helper"):
        del sys.modules[each]
    del SIGNALS._components[name]
    plugins._loaded.clear()
    digest_of.cache_clear()
    return found


@pytest.mark.parametrize(
    ("edited", "old", "new", "changes"),
    [
        ("my_signal.py", "twice(kl)", "twice(kl) + 1", True),
        ("helper.py", "SCALE = 2.0", "SCALE = 3.0", True),
        ("my_signal.py", "Twice the KL.", "In other words.", False),
        ("helper.py", "SCALE = 2.0", "SCALE = 2.0  # why", False),
    ],
)
def test_a_trial_depends_on_what_its_plugin_and_the_files_beside_it_compute(
    my_signal: Path, edited: str, old: str, new: str, changes: bool
) -> None:
    before = digest(my_signal)
    path = my_signal.parent / edited
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    assert (digest(my_signal) != before) is changes


def test_a_trial_does_not_depend_on_where_its_plugin_lies(my_signal: Path, tmp_path: Path) -> None:
    before = digest(my_signal)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for file in (my_signal, my_signal.parent / "helper.py"):
        file.rename(elsewhere / file.name)
    assert digest(elsewhere / "my_signal.py") == before


def test_what_is_installed_or_the_core_does_not_count(my_signal: Path) -> None:
    my_signal.write_text("import torch\nfrom harness.config.errors import UserError\n" + SIGNAL)
    (my_signal.parent / "torch.d").mkdir()
    load_plugins([my_signal])
    assert modules_of("my_signal") == {"my_signal", "helper"}


# ---- workers


def test_a_worker_loads_the_same_file_and_refuses_an_edited_one(
    my_signal: Path, write_grid: Callable[..., Path]
) -> None:
    load_plugins([my_signal])
    grid = load_grid(write_grid([{"preset": "se_kd", "position": {"signal": "mine"}}], seeds=[1]))
    (trial,) = make_trials(grid, load_workload("tiny"), {})
    config = as_config(trial)

    def forget() -> None:
        digest(my_signal)

    forget()
    assert "mine" not in SIGNALS
    assert from_config(config).id == trial.id
    assert "mine" in SIGNALS
    forget()
    my_signal.write_text(SIGNAL.replace("twice(kl)", "kl"))
    with pytest.raises(UserError, match=r"my_signal\.py was edited after this run had begun"):
        from_config(config)
    with pytest.raises(UserError, match="plugin packaged is not installed where this trial runs"):
        load_config([{"module": "packaged", "file": None, "digest": "0"}])


# ---- entry points


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Put a package on the path whose metadata names entry points, as an installation does."""

    def make(value: str) -> None:
        site = tmp_path / "site"
        information = site / "packaged-1.0.dist-info"
        information.mkdir(parents=True)
        (information / "METADATA").write_text("Metadata-Version: 2.1\nName: packaged\nVersion: 1.0\n")
        (information / "entry_points.txt").write_text(f"[{plugins.GROUP}]\nours = {value}\n")
        write(site / "packaged", "", "__init__.py")
        write(site / "packaged", HELPER, "helper.py")
        write(site / "packaged", SIGNAL.replace("from helper", "from .helper"), "signals.py")
        monkeypatch.syspath_prepend(site)

    return make


def test_an_installed_entry_point_is_loaded_and_counts_with_its_package(install: Callable[[str], None]) -> None:
    install("packaged.signals")
    load_plugins()
    assert SIGNALS["mine"].build.__module__ == "packaged.signals"
    assert modules_of("packaged.signals") == {"packaged.signals", "packaged.helper"}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("packaged.signals:mine", "names a module, not something in one"),
        ("packaged.nothing", "ModuleNotFoundError: No module named 'packaged.nothing'"),
        ("packaged.helper", "registers nothing"),
    ],
)
def test_a_broken_entry_point_is_named_with_its_package(
    install: Callable[[str], None], value: str, message: str
) -> None:
    install(value)
    with pytest.raises(UserError, match=message) as caught:
        load_plugins()
    assert "plugin 'ours' of packaged" in str(caught.value)


# ---- what is refused

TWICE = SIGNAL.replace("from helper import twice\n", "").replace("twice(kl)", "kl")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\n\nraise RuntimeError('out of luck')\n", r"broken\.py, line 3: RuntimeError: out of luck"),
        ("def f(:\n    pass\n", r"broken\.py, line 1: SyntaxError"),
        ("import sys\nsys.exit(0)\n", r"broken\.py, line 2: SystemExit: 0"),
        ("import nowhere_to_be_found\n", r"line 1: ModuleNotFoundError: No module named 'nowhere_to_be_found'"),
        (
            TWICE.replace('"mine"', '"kl"'),
            r"line 7: ValueError: signal 'kl' is registered twice: strategies\.signals\.kl",
        ),
        (TWICE + TWICE.replace("def mine", "def other"), r"line 17: ValueError: signal 'mine' is registered twice"),
        ("x = 1\n", r"broken\.py registers nothing: decorate"),
        ("import helper\n", r"broken\.py, helper\.py, line 2: ZeroDivisionError: division by zero"),
    ],
)
def test_a_broken_file_is_one_line_and_registers_nothing(tmp_path: Path, text: str, message: str) -> None:
    write(tmp_path, "\n1 / 0\n", "helper.py")
    names = [list(registry) for registry in REGISTRIES]
    with pytest.raises(UserError, match=message) as caught:
        load_plugins([write(tmp_path, text)])
    assert "\n" not in str(caught.value)
    assert [list(registry) for registry in REGISTRIES] == names
    load_plugins([write(tmp_path, TWICE)])  # mended, in the same process
    assert "mine" in SIGNALS


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.py", "there is no such file"),
        ("my-signal.py", "letters, digits and underscores"),
        ("signals.txt", r"end in \.py"),
        ("random.py", "there is a module 'random' already"),
        ("strategies.py", "there is a module 'strategies' already"),
    ],
)
def test_a_name_that_cannot_be_is_refused(tmp_path: Path, name: str, message: str) -> None:
    if name != "missing.py":
        write(tmp_path, TWICE, name)
    with pytest.raises(UserError, match=message):
        load_plugins([tmp_path / name])


def test_two_files_of_one_name_are_refused_and_one_file_twice_is_one(my_signal: Path, tmp_path: Path) -> None:
    load_plugins([my_signal, my_signal])
    with pytest.raises(UserError, match=r"my_signal\.py is called my_signal too"):
        load_plugins([write(tmp_path / "other", TWICE, "my_signal.py")])


def test_a_file_beside_it_that_another_module_hides_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "def shuffle(x):\n    return x\n", "random.py")
    with pytest.raises(UserError, match=r"'random' is imported and lies in .*: rename yours"):
        load_plugins([write(tmp_path, "import random\n" + TWICE)])


# ---- the command line


def commands(group: typer.core.TyperGroup, path: str = "") -> Iterator[tuple[str, typer.core.TyperCommand]]:
    for name, command in group.commands.items():
        if isinstance(command, typer.core.TyperGroup):
            yield from commands(command, f"{path}{name} ")
        else:
            yield f"{path}{name}", command


def test_every_command_that_reads_a_grid_takes_plugins() -> None:
    group = typer.main.get_command(app)
    assert isinstance(group, typer.core.TyperGroup)
    reads = {
        name: [option for each in command.params for option in each.opts]
        for name, command in commands(group)
        if any("GRID" in (each.metavar or "") for each in command.params if not each.opts[0].startswith("-"))
    }
    assert set(reads) >= {"run", "plan", "cache build", "bench grid"}
    assert [name for name, options in reads.items() if "--plugin" not in options] == []


@pytest.mark.parametrize("command", [["list"], ["plan", "g.yaml"], ["run", "g.yaml"], ["cache", "build", "tiny"]])
def test_a_broken_plugin_is_one_line_on_stderr_and_a_traceback_with_debug_only(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "raise RuntimeError('out of luck')\n")
    monkeypatch.setattr(sys, "argv", ["harness", *command, "--plugin", "broken.py"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == "harness: plugin broken.py, line 1: RuntimeError: out of luck\n"
    monkeypatch.setattr(sys, "argv", ["harness", "--debug", *command, "--plugin", "broken.py"])
    with pytest.raises(UserError) as caught:
        main()
    assert isinstance(caught.value.__cause__, RuntimeError)
