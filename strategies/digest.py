"""What a component computes, as a hash of source text: its own file and the helpers it imports, words aside."""

import ast
import functools
import hashlib
import importlib
import importlib.util
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

# How components are found is no part of what they compute.
_NOT_COUNTED = frozenset({"strategies", "strategies.registry", "strategies.digest"})
# The core has a number of its own, `harness.distill.NUMERICS`.
_CORE = "harness"


@functools.cache
def digest_of(module: str) -> str:
    """Hash what a module and the helpers it imports compute.

    Args:
        module: the module's name. Helpers are what it imports of its own package, of `strategies`, and, for a file
            outside any package, of what lies beside it; and what those import in turn.

    Raises:
        ValueError: an imported name could mean a file beside the module, but another module of that name is loaded.
    """
    digests = _digests(module)
    return hashlib.sha256("".join(f"{name}{digests[name]}" for name in sorted(digests)).encode()).hexdigest()[:16]


def modules_of(module: str) -> frozenset[str]:
    """Return the names of the modules that `digest_of` counts."""
    return frozenset(_digests(module))


def source_digest(text: str) -> str:
    """Hash Python source by what it computes: docstrings, comments and formatting do not count."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(
            node
        ):
            node.body = node.body[1:] or [ast.Pass()]
    return hashlib.sha256(ast.unparse(tree).encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class _Home:
    """Where a component comes from, which says what else is its author's.

    Attributes:
        top: its top-level package or module.
        folder: where its neighbours lie; None for what has none: this package, and what is installed.
    """

    top: str
    folder: Path | None

    def owns(self, name: str) -> bool:
        """Tell whether an imported module counts."""
        top = name.partition(".")[0]
        if top in ("strategies", self.top):
            return True
        if self.folder is None or top == _CORE:
            return False
        is_file = any(path.is_file() for path in (self.folder / f"{top}.py", self.folder / top / "__init__.py"))
        if not is_file and not (self.folder / top).is_dir():
            return False
        try:
            found = importlib.import_module(top)
        except ImportError:
            return False  # an optional import, which the component does without
        if _folder_of(found) == self.folder:
            return True
        if is_file:
            raise ValueError(
                f"{top!r} is imported and lies in {self.folder}, but the module of that name is {_place(found)}: "
                "rename yours"
            )
        return False


def _home_of(module: str) -> _Home:
    top = module.partition(".")[0]
    folder = _folder_of(importlib.import_module(top))
    shared = {Path(path).resolve() for path in sysconfig.get_paths().values()}
    return _Home(top=top, folder=None if top == "strategies" or folder in shared else folder)


def _folder_of(module: ModuleType) -> Path | None:
    """Return the folder in which a top-level module or package lies; None for one without a file."""
    place = _place(module)
    return None if place is None else place.parent


def _place(module: ModuleType) -> Path | None:
    if hasattr(module, "__path__"):
        return next((Path(path).resolve() for path in module.__path__), None)
    file = getattr(module, "__file__", None)
    return None if file is None else Path(file).resolve()


def _digests(module: str) -> dict[str, str]:
    digests: dict[str, str] = {}
    _visit(module, _home_of(module), digests)
    return digests


def _visit(name: str, home: _Home, digests: dict[str, str]) -> None:
    if name in digests or name in _NOT_COUNTED:
        return
    module = importlib.import_module(name)
    text = _text_of(module)
    if text is None:
        place = _place(module)
        if place is not None and place.is_file():  # compiled
            digests[name] = hashlib.sha256(place.read_bytes()).hexdigest()[:16]
        return
    digests[name] = source_digest(text)
    for imported in _imports(ast.parse(text), module.__package__ or ""):
        if home.owns(imported) and _is_module(imported):
            _visit(imported, home, digests)


def _imports(tree: ast.Module, package: str) -> Iterator[str]:
    """Yield every name that an import statement could mean a module by."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = importlib.util.resolve_name("." * node.level + base, package)
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):  # its parent is no package, or has no specification
        return False


def _text_of(module: ModuleType) -> str | None:
    loader = module.__spec__.loader if module.__spec__ is not None else getattr(module, "__loader__", None)
    get_source = getattr(loader, "get_source", None)
    text = None if get_source is None else get_source(module.__name__)
    return text if isinstance(text, str) else None
