"""Read docstrings and functions of an installed package from its files, without importing it.

Standard library only, and nothing that differs between versions of Python: the same files give the same documents.
"""

import ast
import hashlib
import re
import textwrap
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution, distributions
from pathlib import Path

# Folders of a package that are not its own text: tests, and copies of other packages.
_LEFT_OUT = {"test", "tests", "testing", "_vendor", "vendored", "externals", "extern", "third_party"}
# Shorter texts are labels rather than documents.
MIN_CHARACTERS = 200

_Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, kw_only=True)
class Document:
    """One text of a package.

    Attributes:
        package: the distribution's name.
        name: where it stands: the file, and the qualified name in it.
        signature: of a function, `def name(parameters)` without defaults and annotations; empty for anything else.
        text: a docstring without its indentation, or a function's source without its docstring.
    """

    package: str
    name: str
    signature: str
    text: str


def installed_version(package: str) -> str | None:
    """Return a distribution's installed version, without the tag of a local build; None if it is not installed."""
    try:
        return distribution(package).version.partition("+")[0]
    except PackageNotFoundError:
        return None


def source_files(package: str, path: Sequence[str] | None = None) -> dict[str, Path]:
    """Return a distribution's Python files by name, in the order of their names.

    Args:
        package: an installed distribution.
        path: where to look for it; `sys.path` if None.

    Raises:
        PackageNotFoundError: it is not installed.
    """
    found = next(iter(distributions(name=package, path=[*path])), None) if path is not None else distribution(package)
    if found is None:
        raise PackageNotFoundError(package)
    files = {file.as_posix(): file for file in found.files or () if file.suffix == ".py"}
    return {name: Path(str(files[name].locate())) for name in sorted(files) if not _LEFT_OUT & {*files[name].parts}}


def digest_files(files: Mapping[str, Path]) -> str:
    """Hash the names and the content of files."""
    digest = hashlib.sha256()
    for name, file in files.items():
        digest.update(f"{name} {hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def read_documents(package: str, files: Mapping[str, Path], *, code: bool) -> Iterator[Document]:
    """Yield the docstrings of some files, or their functions, in the order of the files and of their lines.

    Args:
        package: whose files they are.
        files: Python files by name; what is not UTF-8 or does not parse is left out.
        code: functions and methods instead of docstrings.
    """
    for module, file in files.items():
        try:
            source = file.read_text(encoding="utf-8-sig")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of invalid escapes in other people's strings
                tree = ast.parse(source)
        except (SyntaxError, ValueError):
            continue
        lines = source.split("\n")
        for name, node in _documented(tree, module):
            text = _code(node, lines) if code else _docstring(node)
            if len(text) >= MIN_CHARACTERS:
                yield Document(package=package, name=name, signature=_signature(node), text=text)


def _documented(node: _Documented, name: str) -> Iterator[tuple[str, _Documented]]:
    """Yield a module, class or function and those directly inside it; functions inside functions are left out."""
    yield name, node
    if isinstance(node, ast.Module | ast.ClassDef):
        for child in node.body:
            if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                yield from _documented(child, f"{name}:{child.name}")


def _literal(node: _Documented) -> ast.Constant | None:
    """Return the constant that is a docstring as it is written, None where there is none."""
    first = node.body[0] if node.body else None
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        return first.value
    return None


def _docstring(node: _Documented) -> str:
    literal = _literal(node)
    return "" if literal is None else clean(str(literal.value))


def clean(text: str) -> str:
    """Remove the indentation that a docstring shares, and blanks at the ends of its lines.

    As `inspect.cleandoc`, which versions of Python do a little differently.
    """
    first, *rest = text.expandtabs().split("\n")
    margin = min((len(line) - len(line.lstrip(" ")) for line in rest if line.strip()), default=0)
    return "\n".join(line.rstrip() for line in [first.lstrip(" "), *(line[margin:] for line in rest)]).strip("\n")


def _code(node: _Documented, lines: Sequence[str]) -> str:
    """Return a function's lines without its decorators and its docstring."""
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return ""
    literal = _literal(node)
    left_out = range(0) if literal is None else range(literal.lineno, (literal.end_lineno or literal.lineno) + 1)
    if node.lineno in left_out:
        return ""
    kept = [lines[number - 1] for number in range(node.lineno, (node.end_lineno or 0) + 1) if number not in left_out]
    text = textwrap.dedent("\n".join(line.rstrip().expandtabs() for line in kept))
    return re.sub(r"\n{3,}", "\n\n", text).strip("\n")


def _signature(node: _Documented) -> str:
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return ""
    told = node.args
    names = [each.arg for each in (*told.posonlyargs, *told.args) if each.arg not in ("self", "cls")]
    names += [f"*{told.vararg.arg}"] if told.vararg else []
    names += [each.arg for each in told.kwonlyargs]
    names += [f"**{told.kwarg.arg}"] if told.kwarg else []
    return f"def {node.name}({', '.join(names)})"
