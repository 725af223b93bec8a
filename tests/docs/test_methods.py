"""The ledger of methods: current, complete, and nothing cited in it that is not there."""

import ast
import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import get_args

import pytest

from harness.config.expand import presets
from harness.config.strategy import Method, Normaliser
from scripts import methods
from strategies.registry import REGISTRIES, SIGNALS

COMPONENTS = {f"{kind} {each.name}": each for kind, components in methods.ours().items() for each in components}


def entries() -> list[methods.Entry]:
    return [entry for rows in methods.entries().values() for entry in rows]


@cache
def functions(file: str) -> set[str]:
    tree = ast.parse((methods.PROJECT / file).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_the_page_is_what_docstrings_and_the_table_say() -> None:
    assert methods.FILE.read_text(encoding="utf-8") == methods.page(), "run: python -m scripts.methods"


@pytest.mark.parametrize("name", COMPONENTS)
def test_every_component_says_where_it_comes_from(name: str) -> None:
    entry = methods.of_component(COMPONENTS[name])
    assert COMPONENTS[name].source in entry.source


def test_the_test_that_holds_a_method_is_there() -> None:
    for entry in entries():
        file, _, function = entry.test.partition("::")
        assert function.startswith("test_"), entry.name
        assert function in functions(file), f"{entry.name}: {entry.test}"


def test_code_is_cited_of_repositories_at_a_commit() -> None:
    cited = set()
    for entry in entries():
        for each in entry.citations:
            cited.add(each["repository"])
            first, _, last = (each["lines"] or "1").partition("-")
            assert int(first) <= int(last or first), entry.name
    assert cited == methods.table()["repositories"].keys()
    for each in methods.table()["repositories"].values():
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", each["at"]), each["at"]


def test_only_what_nobody_published_is_reconstructed() -> None:
    reconstructed = [entry for entry in entries() if entry.reconstructed]
    assert {entry.name for entry in reconstructed} == {
        *("egad", "teacher_entropy_rank", "tilt", "feature", "stratified", "dial"),
    }
    for entry in reconstructed:
        assert not entry.citations, f"{entry.name}: code was read, so it is not reconstructed"
        assert entry.deviation != "none known", entry.name


def test_every_component_and_preset_is_on_the_page() -> None:
    names = {entry.name for entry in entries()}
    published = {name for registry in REGISTRIES for name in registry if registry[name].source != "unpublished"}
    assert published | presets().keys() <= names
    page = methods.FILE.read_text(encoding="utf-8")
    assert all(f"| `{name}`<br>" in page for name in names)


def test_settings_are_keys_of_a_strategy_and_every_normaliser_is_there() -> None:
    keys = {field.alias or name for name, field in Method.model_fields.items()}
    settings = [entry.name for entry in methods.of_settings()]
    assert {name.partition(".")[0] for name in settings} <= keys
    assert {f"normaliser.{name}" for name in get_args(Normaliser)} <= set(settings)


def test_a_preset_without_an_entry_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    shorter = {name: fields for name, fields in methods.table()["presets"].items() if name != "se_kd"}
    monkeypatch.setattr(methods, "table", lambda: {"presets": shorter})
    with pytest.raises(ValueError, match=r"presets must be those of presets\.yaml.*\['se_kd'\]"):
        methods.of_presets()


def test_a_component_without_an_entry_is_told_what_to_write_and_what_is_unpublished_needs_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plugin = replace(SIGNALS["kl"], name="of_a_plugin", build=lambda *, kl: kl)
    monkeypatch.setitem(SIGNALS._components, plugin.name, plugin)
    tried = replace(SIGNALS["kl"], name="being_tried", source="unpublished")
    monkeypatch.setitem(SIGNALS._components, tried.name, tried)
    assert not any(each in methods.ours()["signal"] for each in (plugin, tried))
    with pytest.raises(ValueError, match=r"signal 'of_a_plugin' does not say.*Provenance.*there is no Code"):
        methods.of_component(plugin)


def test_a_citation_that_cannot_be_found_again_is_refused() -> None:
    entry = methods.Entry(name="x", title="x", source="x", code="the trainer", deviation="none known", test="x")
    with pytest.raises(ValueError, match=r"x: 'the trainer' is neither"):
        assert entry.citations


def test_a_section_may_be_broken_over_lines() -> None:
    latf = methods.of_component(COMPONENTS["policy latf"])
    assert "  " not in latf.deviation
    assert latf.deviation.startswith("the rule is the code's; ")
    assert Path(latf.test.partition("::")[0]).name == "test_policies_stateful.py"
