"""Write docs/methods.md, where every method comes from: `python -m scripts.methods`; a test compares the two.

A component says it in its docstring, in a section `Provenance`; presets and settings in strategies/provenance.yaml.
"""

import inspect
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import strategies
from harness.config.expand import presets
from harness.config.yaml import read_yaml
from strategies.registry import REGISTRIES, Component

PROJECT = Path(__file__).parents[1]
FILE = PROJECT / "docs" / "methods.md"
TABLE = Path(strategies.__file__).parent / "provenance.yaml"

_PLURALS = {"policy": "policies", "class policy": "class policies", "criterion": "criteria"}
_PLURALS |= {"sample policy": "sample policies"}
_KEYS = ("Place", "Code", "Deviation", "Test")
_CITED = re.compile(r"(?P<repository>[\w-]+) (?P<path>[\w./-]+\.\w+)(?::(?P<lines>[\d-]+))?(?: (?P<function>\w+))?")

_HEAD = """# Where every method comes from

Made from docstrings and `strategies/provenance.yaml` by `python -m scripts.methods`. For each method: the source, the
lines of code that were read, what is done otherwise here, and the test that would notice a change. "none known" means
that text and code, as far as they are cited, were compared and nothing was found; what a preset's parts do otherwise
stands in their rows. **Reconstructed** marks what was written from an abstract or from another paper's description, and
of which no code could be read. Where SE-KD's code and text differ,
[Grids](grids.md#where-se-kds-code-departs-from-its-text) has both readings as rows.
"""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What is known of where a method comes from.

    Attributes:
        name: what a grid calls it.
        title: what it is, in a few words.
        source: the paper, and the place in it where the source does not say it.
        code: what was read, `REPOSITORY PATH[:LINES] [FUNCTION]`, several with a semicolon between, or "none: why".
        deviation: what is done otherwise here, or "none known".
        test: FILE::FUNCTION.
    """

    name: str
    title: str
    source: str
    code: str
    deviation: str
    test: str

    @property
    def reconstructed(self) -> bool:
        """Whether the source says that its own equations were not read."""
        return "reconstructed" in self.source

    @property
    def citations(self) -> list[re.Match[str]]:
        """The lines of code that are cited.

        Raises:
            ValueError: one is not written as a citation.
        """
        if self.code.startswith("none: "):
            return []
        cited = [(each, _CITED.fullmatch(each)) for each in self.code.split("; ")]
        wrong = [each for each, match in cited if match is None]
        if wrong:
            raise ValueError(f"{self.name}: {wrong[0]!r} is neither REPOSITORY PATH[:LINES] [FUNCTION] nor none: WHY")
        return [match for _, match in cited if match is not None]


def ours() -> dict[str, list[Component]]:
    """Return this package's published components by kind; plugins and what is being tried need no provenance."""
    return {
        registry.kind: [
            each
            for each in map(registry.__getitem__, registry)
            if each.build.__module__.startswith(f"{registry.package}.") and each.source != "unpublished"
        ]
        for registry in REGISTRIES
    }


def of_component(component: Component) -> Entry:
    """Read what a component's docstring says of its provenance.

    Raises:
        ValueError: the section is missing, or a line of it.
    """
    doc = inspect.getdoc(component.build) or ""
    found: dict[str, str] = {}
    key = ""
    for line in doc.partition("\nProvenance:\n")[2].splitlines():
        started = re.fullmatch(rf"    ({'|'.join(_KEYS)}):(.*)", line)
        if started is not None:
            key, line = started.groups()
        if key:
            found[key] = f"{found.get(key, '')} {line.strip()}".strip()
    missing = [key for key in _KEYS[1:] if not found.get(key)]
    if missing:
        raise ValueError(
            f"{component.kind} {component.name!r} does not say where it comes from: its docstring ends with a section "
            f"Provenance of lines Code, Deviation and Test, as that of student_entropy; there is no {missing[0]}"
        )
    place = f"; {found['Place']}" if "Place" in found else ""
    return Entry(
        name=component.name,
        title=component.summary.rstrip("."),
        source=component.source + place,
        code=found["Code"],
        deviation=found["Deviation"],
        test=found["Test"],
    )


@cache
def table() -> dict[str, Any]:
    """Return strategies/provenance.yaml, every text on one line."""
    return {key: _on_one_line(part) for key, part in read_yaml(TABLE).items()}


def of_presets() -> list[Entry]:
    """Return the entries of presets, in their order.

    Raises:
        ValueError: a preset without an entry, or an entry without a preset.
    """
    known = presets()
    if known.keys() != table()["presets"].keys():
        odd = sorted(known.keys() ^ table()["presets"].keys())
        raise ValueError(f"{TABLE.name}: presets must be those of presets.yaml, with code, deviation and test: {odd}")
    return [
        Entry(name=name, title=preset.label, source=preset.source, **table()["presets"][name])
        for name, preset in known.items()
    ]


def of_settings() -> list[Entry]:
    """Return the entries of settings that are no component."""
    return [Entry(name=name, **fields) for name, fields in table()["settings"].items()]


def entries() -> dict[str, list[Entry]]:
    """Return every entry, below the headings of the page."""
    kinds = {
        _PLURALS.get(kind, f"{kind}s").capitalize(): [of_component(each) for each in components]
        for kind, components in ours().items()
    }
    return {**kinds, "Presets": of_presets(), "Settings": of_settings()}


def page() -> str:
    """Return the whole page."""
    repositories = [
        f"| {name} | [{where}](https://github.com/{where}/tree/{commit}) | {commit[:7]} | {each['of']} |"
        for name, each in table()["repositories"].items()
        for where, commit in [each["at"].split("@")]
    ]
    left_out = [f"| {each['what']} | {each['why']} |" for each in table()["left_out"]]
    parts = [_HEAD, "## Code that was read\n", "| name | repository | commit | of |", "| --- | --- | --- | --- |"]
    parts += [*repositories, ""]
    for heading, rows in entries().items():
        parts += [f"## {heading}\n", "| method | source | code read | done otherwise here | test |"]
        parts += ["| --- | --- | --- | --- | --- |", *map(_row, rows), ""]
    parts += ["## What could not be sourced or was not built\n", "| what | why |", "| --- | --- |", *left_out]
    return "\n".join(parts) + "\n"


def _row(entry: Entry) -> str:
    mark = " **Reconstructed.**" if entry.reconstructed else ""
    code = "<br>".join(map(_link, entry.citations)) or entry.code
    file, _, function = entry.test.partition("::")
    cells = [f"`{entry.name}`<br>{entry.title}.{mark}", entry.source, code, entry.deviation, f"[{function}](../{file})"]
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def _link(citation: re.Match[str]) -> str:
    repository, path, lines, function = citation.group("repository", "path", "lines", "function")
    where, _, commit = table()["repositories"][repository]["at"].partition("@")
    anchor = "#" + "-".join(f"L{number}" for number in lines.split("-")) if lines else ""
    place = path.rpartition("/")[2] + (f":{lines}" if lines else "") + (f" {function}" if function else "")
    return f"[{repository} {place}](https://github.com/{where}/blob/{commit}/{path}{anchor})"


def _on_one_line(part: Any) -> Any:
    if isinstance(part, dict):
        return {key: _on_one_line(each) for key, each in part.items()}
    if isinstance(part, list):
        return [_on_one_line(each) for each in part]
    return " ".join(part.split()) if isinstance(part, str) else part


if __name__ == "__main__":
    FILE.write_text(page(), encoding="utf-8")
