"""Documents of installed packages: what is read, how it is cut, the same everywhere, and the items made of it."""

import hashlib
import itertools
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from conftest import PROJECT
from rich.console import Console

from harness.config import Data, Evaluation, ModelSource
from harness.config.errors import UserError
from harness.config.workloads import ASSETS, built_in, read_workload
from harness.config.yaml import parse
from harness.data import text
from harness.data.documents import corpus, items, splits
from harness.data.documents.corpus import DOCSTRINGS, Documents, load_documents, other_versions
from harness.data.documents.read import Document, clean, read_documents, source_files
from harness.data.documents.splits import split_documents
from harness.evaluate.evaluation import check_evaluation, evaluate, prepare_items
from harness.evaluate.evaluation import fingerprint as evaluation_fingerprint
from harness.evaluate.scores import verified
from harness.models import load_model, load_tokenizer
from harness.records.layout import Results
from harness.run.plan import make_plan, print_plan
from harness.run.reproduce import _check_workload
from harness.trial.execute import run_trial

DATA = {"generator": "docstrings", "sequence_length": 8, "train_tokens": 8, "heldout_tokens": 8,
        "cross_document_targets": False}  # fmt: skip

# Run under another Python, with nothing but the standard library: the two modules alone, found as files.
ELSEWHERE = """
import hashlib, json, sys, types
from importlib.util import module_from_spec, spec_from_file_location
for package in ("harness", "harness.data", "harness.data.documents"):
    sys.modules[package] = types.ModuleType(package)
def load(name):
    spec = spec_from_file_location(f"harness.data.documents.{name}", f"{sys.argv[1]}/harness/data/documents/{name}.py")
    module = sys.modules[spec.name] = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
read, splits = load("read"), load("splits")
digests = []
for code in (False, True):
    files = {name: read.source_files(name, [sys.argv[2]]) for name in sys.argv[3:]}
    documents = [each for name in files for each in read.read_documents(name, files[name], code=code)]
    parts = splits.split_documents(documents, seed=20261)
    plain = {split: [[each.package, each.name, each.signature, each.text] for each in kept]
             for split, kept in parts.items()}
    digests.append([len(documents), hashlib.sha256(json.dumps(plain).encode()).hexdigest()])
print(json.dumps(digests))
"""


def words(number: int, num: int = 40) -> str:
    """Return words that no other number has."""
    return " ".join(f"w{number}x{place}" for place in range(num))


def made(number: int, told: str | None = None, package: str = "made") -> Document:
    return Document(
        package=package, name=f"made/file.py:f{number}", signature=f"def f{number}(x)", text=told or words(number)
    )


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """Install small packages, of files given by name, and forget what was read of them."""
    site = tmp_path / "site"
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setattr(corpus, "_KNOWN", {})

    def install(name: str = "shelf", version: str = "1.0", **files: str) -> str:
        about = site / f"{name}-{version}.dist-info"
        shutil.rmtree(site / name, ignore_errors=True)
        for other in site.glob(f"{name}-*.dist-info"):
            shutil.rmtree(other)
        about.mkdir(parents=True)
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}+local\n")
        paths = {f"{name}/{path.replace('__', '/')}.py": content for path, content in files.items()}
        for path, content in paths.items():
            (site / path).parent.mkdir(parents=True, exist_ok=True)
            (site / path).write_text(content, encoding="utf-8")
        (about / "RECORD").write_text("".join(f"{path},,\n" for path in paths))
        corpus._KNOWN.clear()
        return name

    return install  # type: ignore[return-value]


def module(start: int, num: int) -> str:
    """Return a module of functions with docstrings of their own."""
    return "\n".join(
        f'def shelf{number}(a{number}, *, b=1):\n    """Put the book {name(number)} upon the {name(number)} shelf.\n\n'
        f"    Readers who borrow the {name(number)} volume return it before the {name(number)} winter comes.\n"
        f"    Nobody has ever counted the {name(number)} pages and nobody can count the {name(number)} pages.\n\n"
        f'    {words(number, 20)}\n    """\n    {words(number, 60).replace(" ", " = ")} = a{number}\n'
        for number in range(start, start + num)
    )


def name(number: int) -> str:
    """Return a word of letters for a number."""
    return "".join(chr(ord("a") + (number // 26**place) % 26) for place in range(6))


def test_docstrings_functions_and_signatures_are_read_as_they_stand(package: Callable[..., str]) -> None:
    source = (
        f'"""{words(1)}"""\n\nclass Shelf:\n    """First line.\n\n        Indented {words(2)}   \n    end\n    """\n\n'
        f"    @property\n    def put(self, book, /, *rest, at: int = 3, **more) -> None:\n"
        f'        """{words(3)}"""\n        # kept\n        return {words(4).replace(" ", " + ")}\n\n'
        f'def short():\n    """Too short."""\n\nasync def plain(a=1):\n    {words(5).replace(" ", " + ")}\n'
    )
    package(stock=source, broken="def (", tests__stock=source)
    files = source_files("shelf")
    assert [*files] == ["shelf/broken.py", "shelf/stock.py"]
    documented = {each.name: each for each in read_documents("shelf", files, code=False)}
    assert [*documented] == ["shelf/stock.py", "shelf/stock.py:Shelf", "shelf/stock.py:Shelf:put"]
    assert documented["shelf/stock.py:Shelf"].text == f"First line.\n\n    Indented {words(2)}\nend"
    assert documented["shelf/stock.py:Shelf:put"].signature == "def put(book, *rest, at, **more)"
    functions = {each.name: each.text for each in read_documents("shelf", files, code=True)}
    assert [*functions] == ["shelf/stock.py:Shelf:put", "shelf/stock.py:plain"]
    put = functions["shelf/stock.py:Shelf:put"]
    assert put.startswith("def put(self, book, /, *rest, at: int = 3, **more) -> None:\n    # kept\n    return w4x0")
    assert "w3x0" not in put
    assert clean("a\n\tb\n\t\tc") == "a\nb\n        c"


def test_splits_share_no_thirteen_words_and_repeat_nothing() -> None:
    originals = [made(number) for number in range(300)]
    shared = [made(1000 + number, f"{words(2000 + number)} {words(number, 13)}") for number in range(300)]
    twelve = [made(3000 + number, f"{words(4000 + number)} {words(number, 12)}") for number in range(300)]
    near = [made(5000 + number, words(number).replace("x39", "y")) for number in range(300)]
    parts = split_documents([*originals, *shared, *twelve, *near], seed=1)
    grams = {split: {gram for each in kept for gram in grams_of(each.text)} for split, kept in parts.items()}
    for first, second in itertools.combinations(grams, 2):
        assert not grams[first] & grams[second]
    kept = {each.name for part in parts.values() for each in part}
    assert {each.name for each in twelve} <= kept  # twelve words that follow one another are no repetition
    for original, repeated in zip(originals, near, strict=True):
        assert len({original.name, repeated.name} & kept) <= 1
    sizes = {split: len(kept) for split, kept in parts.items()}
    assert sizes["train"] > sizes["validation"] > 0
    assert parts == split_documents([*near, *twelve, *shared, *originals], seed=1)  # in whatever order they are read
    assert parts != split_documents([*originals, *shared, *twelve, *near], seed=2)


def grams_of(told: str) -> list[tuple[str, ...]]:
    listed = told.split()
    return [tuple(listed[at : at + splits.GRAM]) for at in range(len(listed) - splits.GRAM + 1)]


def test_documents_are_identified_by_version_and_content_and_kept(package: Callable[..., str], tmp_path: Path) -> None:
    package(a=module(0, 40))
    data = parse(Data, {**DATA, "packages": ["shelf==1.0"]}, where="data")
    digests = [text.fingerprint(data, Path(), tmp_path / "kept")]
    (kept,) = (tmp_path / "kept").iterdir()
    before = [*text.texts(data, Path(), "train")]
    corpus._KNOWN.clear()
    kept.write_text(kept.read_text().replace("borrow", "steal"))  # damaged: its checksum is wrong
    assert text.fingerprint(data, Path(), tmp_path / "kept") == digests[0]
    assert [*text.texts(data, Path(), "train")] == before
    package(a=module(1, 40))
    digests.append(text.fingerprint(data, Path()))
    package(a=module(1, 40), version="1.1")
    digests.append(text.fingerprint(data, Path()))
    code = data.model_copy(update={"generator": "code"})
    digests.append(text.fingerprint(code, Path()))
    assert len({*digests}) == 4
    assert other_versions(["shelf==1.0", "shelf"]) == ["shelf 1.1 instead of 1.0"]
    assert next(iter(text.texts(code, Path(), "train"))).startswith("def shelf")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"packages": []}, "generators docstrings and code read `packages`"),
        ({"generator": "tiny", "packages": ["numpy"]}, "generators docstrings and code read `packages`"),
        ({"packages": ["numpy", "numpy==2"]}, "names numpy twice"),
        ({"packages": ["../numpy"]}, "packages.0"),
        ({"packages": ["numpy>=2"]}, "packages.0"),
    ],
)
def test_packages_that_mean_nothing_are_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        parse(Data, {**DATA, **changes}, where="data")


def test_a_package_that_is_missing_is_named(package: Callable[..., str]) -> None:
    with pytest.raises(UserError, match=r"package 'absent-one' .* pip install absent-one"):
        load_documents(DOCSTRINGS, ["absent-one==1.0"])
    with pytest.raises(PackageNotFoundError):
        source_files("absent-one", [])


def test_items_are_prose_of_their_split_with_one_right_answer(package: Callable[..., str]) -> None:
    package(a=module(0, 400))
    documents = load_documents(DOCSTRINGS, ["shelf"])
    training = "\n".join(each.text for each in documents.splits["train"])
    for task in items.TASKS:
        for split in ("validation", "test"):
            whole = items.items(task, documents, split, None)
            assert len(whole) > 20
            assert items.items(task, documents, split, 7) == whole[:7]
            of_split = "\n".join(" ".join(each.text.split()) for each in documents.splits[split])
            for item in whole:
                if task in ("docs_lastword", "docs_continuation"):
                    right = item["target"] if task == "docs_lastword" else item["choices"][item["gold"]]
                    assert f"{item['context']}{right}" in of_split
                    assert task == "docs_continuation" or item["target"].strip() in item["context"].lower().split()
                    assert f"{item['context']}{right}" not in training
                if "choices" in item:
                    assert len({*item["choices"]}) == 4
    golds = [item["gold"] for item in items.items("docs_signature", documents, "test", None)]
    assert {golds.count(place) for place in range(4)} <= {len(golds) // 4, len(golds) // 4 + 1}
    signature = items.items("docs_signature", documents, "test", 1)[0]
    assert signature["context"].startswith("def shelf")
    assert signature["choices"][signature["gold"]].startswith("Put the book")


def test_instructions_are_judged_by_the_verifiers_of_ifeval(package: Callable[..., str]) -> None:
    package(a=module(0, 400))
    asked = items.items("docs_instructions", load_documents(DOCSTRINGS, ["shelf"]), "test", None)
    by_verifier = {item["instruction_id_list"][0]: item for item in asked}
    assert len(by_verifier) == 5
    for verifier, item in by_verifier.items():
        summary = item["prompt"].split("\n")[-2].removeprefix("Text: ")
        right = {
            "change_case:english_capital": summary.upper(),
            "startend:quotation": f'"{summary}"',
            "keywords:existence": f"It has {' and '.join(item['kwargs'][0]['keywords'] or ())}.",
            "detectable_format:title": f"<<{summary}>>",
            "startend:end_checker": f"{summary} {items.END_PHRASE}",
        }[verifier]
        assert verified(item, [right])["prompt_level_strict_acc"], verifier
        assert not verified(item, ["Nothing of the kind"])["prompt_level_strict_acc"], verifier


def test_a_model_is_asked_every_task(package: Callable[..., str], tmp_path: Path) -> None:
    package(a=module(0, 400))
    asked = Evaluation(suite="docs", num_items=8, batch_size=8, packages=("shelf",))
    source = ModelSource(path="student")
    model = load_model(source, ASSETS, dtype=torch.float32)
    results = Results(tmp_path / "results")
    scores = evaluate(model, load_tokenizer(source, ASSETS), asked, folder=tmp_path, split="test", results=results)
    assert {name: task.num_items for name, task in scores.tasks.items()} == dict.fromkeys(items.TASKS, 8)
    assert all(task.note.endswith("documentation of shelf") for task in scores.tasks.values())
    wanted = {"perplexity", "adherence", "accuracy", "ece", *(f"accuracy/{task}" for task in items.TASKS[:3])}
    assert wanted <= scores.metrics.keys()


def test_tasks_are_made_of_the_data_s_packages_and_too_few_are_refused(
    package: Callable[..., str], write_workload: Callable[..., Path], tmp_path: Path
) -> None:
    package(a=module(0, 400))
    data = {**DATA, "sequence_length": 16, "train_tokens": 64, "heldout_tokens": 32, "packages": ["shelf==0.9"]}
    asked = {"suite": ["docs_lastword", "docs_signature"], "num_items": 20, "batch_size": 4}
    workload = read_workload(str(write_workload(data=data, evaluation=asked)))
    assert workload.evaluation.packages == ("shelf==0.9",)
    check_evaluation(workload.evaluation, Path())
    before = evaluation_fingerprint(workload.evaluation, Path())
    results = Results(tmp_path / "results")
    files = prepare_items(workload.evaluation, Path(), "test", results)
    assert [len(file.read_text().splitlines()) for file in files.values()] == [20, 20]
    many = workload.evaluation.model_copy(update={"num_items": 5000})
    with pytest.raises(UserError, match=r"docs_lastword has \d+ validation items, and 5000 are asked for"):
        check_evaluation(many, Path())
    with pytest.raises(UserError, match=r"name the packages in evaluation\.packages"):
        check_evaluation(many.model_copy(update={"packages": ()}), Path())
    package(a=module(1, 400))
    assert evaluation_fingerprint(workload.evaluation, Path()) != before
    assert prepare_items(workload.evaluation, Path(), "test", results) != files


def test_a_record_names_the_versions_and_is_not_reproduced_on_others(
    package: Callable[..., str],
    write_workload: Callable[..., Path],
    write_grid: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    package(a=module(0, 400))
    data = {**DATA, "sequence_length": 16, "train_tokens": 192, "heldout_tokens": 32, "packages": ["shelf==0.9"]}
    asked = {"suite": ["docs_lastword"], "num_items": 4, "batch_size": 4}
    grid = write_grid(["full_kd"], workload=str(write_workload(data=data, evaluation=asked)), seeds=[1])
    results = Results(tmp_path / "results")
    plan = make_plan(grid, results)
    print_plan(Console(width=200), plan, results)
    assert "other versions than expected: shelf 1.0 instead of 0.9." in capsys.readouterr().out
    record = run_trial(plan.trials[0], results=results).record
    assert record.environment["documents"] == "shelf 1.0"
    assert record.environment["other_documents"] == "shelf 1.0 instead of 0.9"
    original = SimpleNamespace(folder=Path("reports/one"))
    _check_workload(original, record, plan.workload)
    package(a=module(0, 400), version="1.1")
    with pytest.raises(UserError, match=r"its documents are of shelf 1\.0, and 1\.1 is installed"):
        _check_workload(original, record, plan.workload)


def test_the_workload_reads_the_versions_that_the_project_pins() -> None:
    pinned = (PROJECT / "constraints.txt").read_text().splitlines()
    smol = [name for name in built_in() if name.startswith("smol")]
    assert len(smol) == 4
    for name in smol:
        assert {*read_workload(name).data.packages} <= {*pinned}


def test_another_python_reads_the_same_documents(tmp_path: Path) -> None:
    found = [Path(path) for minor in (11, 12, 13) if (path := shutil.which(f"python3.{minor}"))]
    found += Path.home().glob(".pyenv/versions/3.1[123].*/bin/python3")
    others = [str(python) for python in found if runs(python) not in ("", f"{sys.version_info.minor}")]
    if not others:
        pytest.skip("no other Python is here")
    site = Path(yaml.__file__).parents[1]
    (tmp_path / "elsewhere.py").write_text(ELSEWHERE)
    command = [str(tmp_path / "elsewhere.py"), str(PROJECT), str(site), "jinja2", "networkx", "datasets"]
    outputs = {python: subprocess.run([python, *command], capture_output=True, text=True, check=True).stdout
               for python in (sys.executable, *others)}  # fmt: skip
    assert len({*outputs.values()}) == 1, outputs
    assert json.loads(outputs[sys.executable])[0][0] > 500


def runs(python: Path) -> str:
    """Return the minor version of an interpreter that starts, nothing for a shim without one behind it."""
    told = subprocess.run([python, "-c", "import sys; print(sys.version_info.minor)"], capture_output=True, text=True)
    return told.stdout.strip()


def test_documents_and_items_are_those_of_this_version() -> None:
    """Whoever changes what is generated on purpose raises DOCUMENTS, and writes the new hash here."""
    number = itertools.count()
    told = [made(next(number), package=package) for package in ("a", "b") for _ in range(200)]
    parts = split_documents(told, seed=corpus.DOCUMENTS_SEED)
    digest = hashlib.sha256(json.dumps({name: [each.name for each in kept] for name, kept in parts.items()}).encode())
    assert (corpus.DOCUMENTS, digest.hexdigest()[:16]) == (1, "7ea789984e76c8f6")
    prose = Documents(splits={"test": [summarised(number) for number in range(60)]}, versions={}, digest="")
    rows = [items.items(task, prose, "test", None) for task in items.TASKS]
    assert hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16] == "b67911b493d02437"


def summarised(number: int) -> Document:
    return made(number, f"Put the book {name(number)} upon the wooden {name(number + 7)} book.\n\n{words(number)}")
