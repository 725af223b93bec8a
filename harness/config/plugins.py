"""A user's own components: files named on the command line, and installed entry points. Nothing else is executed."""

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from harness.config.errors import UserError, first_line
from strategies.digest import digest_of, modules_of
from strategies.registry import REGISTRIES, all_or_nothing

GROUP = "selective_kd_harness.plugins"


@dataclass(frozen=True, kw_only=True)
class Plugin:
    """A module that has registered components.

    Attributes:
        module: its name; the file's stem, or what an entry point names.
        file: where it lies; None for an entry point.
        digest: of what it and the helpers it imports from beside it compute.
    """

    module: str
    file: Path | None
    digest: str


_loaded: dict[str, Plugin] = {}


def load_plugins(files: Sequence[Path] = ()) -> None:
    """Load the installed entry points, then the files named; what is loaded already is not loaded again.

    A file is executed as if it were imported from its own folder, so that it may import what lies beside it.

    Raises:
        UserError: a file that is missing, raises, registers nothing, or takes a name that is taken; nothing of it is
            registered then. The file and line are named.
    """
    for entry in sorted(entry_points(group=GROUP), key=lambda each: each.name):
        if entry.module not in _loaded:
            _loaded[entry.module] = _load_entry(entry)
    for file in files:
        path = file.expanduser().resolve()
        known = _loaded.get(path.stem)
        if known is not None and known.file == path:
            continue
        _check_file(file, path, known)
        _loaded[path.stem] = _load_file(file, path)


def as_config() -> list[dict[str, Any]]:
    """Return what is loaded as plain data, to hand it to a worker process."""
    return [
        {"module": each.module, "file": None if each.file is None else str(each.file), "digest": each.digest}
        for each in _loaded.values()
    ]


def load_config(plugins: Sequence[Mapping[str, Any]]) -> None:
    """Load in this process what `as_config` says was loaded in another.

    Raises:
        UserError: a plugin is missing here, or computes something else than it did there.
    """
    load_plugins([Path(each["file"]) for each in plugins if each["file"] is not None])
    for each in plugins:
        here, name = _loaded.get(each["module"]), each["file"] or each["module"]
        if here is None:
            raise UserError(f"plugin {name} is not installed where this trial runs")
        if here.digest != each["digest"]:
            raise UserError(
                f"plugin {name} was edited after this run had begun, or differs on this machine: run the grid again"
            )


def _load_entry(entry: EntryPoint) -> Plugin:
    package = entry.dist.name if entry.dist is not None else "an installed package"
    named = f"plugin {entry.name!r} of {package} ({entry.value})"
    if entry.attr:
        raise UserError(f"{named}: an entry point of group {GROUP} names a module, not something in one")
    with _named(named), all_or_nothing():
        importlib.import_module(entry.module)
        return _made(named, entry.module, None)


def _check_file(given: Path, path: Path, known: Plugin | None) -> None:
    if not path.is_file():
        raise UserError(f"plugin {given}: there is no such file")
    if path.suffix != ".py" or not path.stem.isidentifier():
        raise UserError(f"plugin {given}: the name must be letters, digits and underscores, and end in .py")
    if known is not None:
        raise UserError(f"plugin {given}: {known.file or 'an entry point'} is called {path.stem} too; rename one")
    module = sys.modules.get(path.stem)
    spec = importlib.util.find_spec(path.stem) if module is None else module.__spec__
    origin = None if spec is None else spec.origin
    if (module is not None or spec is not None) and (origin is None or Path(origin).resolve() != path):
        raise UserError(f"plugin {given}: there is a module {path.stem!r} already ({origin}); rename the file")


def _load_file(given: Path, path: Path) -> Plugin:
    named = f"plugin {given}"
    with _named(named, path), all_or_nothing(), _beside(path.parent):
        if path.stem not in sys.modules:
            spec = importlib.util.spec_from_file_location(path.stem, path)
            assert spec is not None, "a file that ends in .py"
            assert spec.loader is not None, "a file that ends in .py"
            module = importlib.util.module_from_spec(spec)
            sys.modules[path.stem] = module
            spec.loader.exec_module(module)
        return _made(named, path.stem, path)


def _made(named: str, module: str, file: Path | None) -> Plugin:
    own = {name for name in modules_of(module) if name.partition(".")[0] != "strategies"}
    if not any(registry[name].build.__module__ in own for registry in REGISTRIES for name in registry):
        raise UserError(
            f"{named} registers nothing: decorate a function or class, for instance with "
            '@signal("my_signal", source="unpublished") of strategies.registry'
        )
    return Plugin(module=module, file=file, digest=digest_of(module))


@contextmanager
def _beside(folder: Path) -> Iterator[None]:
    """Let imports find what lies in a folder, for as long as its plugin is loaded; leave no trace if that fails.

    No bytecode is written: of two edits within a second, it may hold the first.
    """
    before, wrote = set(sys.modules), sys.dont_write_bytecode
    sys.path.insert(0, str(folder))
    sys.dont_write_bytecode = True
    importlib.invalidate_caches()
    try:
        yield
    except BaseException:
        for name in set(sys.modules) - before:
            file = getattr(sys.modules[name], "__file__", None)
            if file is not None and Path(file).parent.resolve() == folder:
                del sys.modules[name]
        raise
    finally:
        sys.dont_write_bytecode = wrote
        sys.path.remove(str(folder))


@contextmanager
def _named(named: str, file: Path | None = None) -> Iterator[None]:
    """Say in one line which plugin an exception came from, and which line of whose files."""
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        message = first_line(error, empty="no message")
        raise UserError(f"{named}{_line(error, file)}: {type(error).__name__}: {message}") from error


def _line(error: BaseException, file: Path | None) -> str:
    """Return ", line N" of the innermost frame in a plugin's folder, with the file if that is another one."""
    if isinstance(error, SyntaxError) and error.filename is not None:
        places = [(Path(error.filename), error.lineno)]
    else:
        places = [(Path(each.filename), each.lineno) for each in traceback.extract_tb(error.__traceback__)]
    own = [(path.resolve(), number) for path, number in places if file is None or path.resolve().parent == file.parent]
    if not own or (file is None and not isinstance(error, SyntaxError)):
        return ""
    path, number = own[-1]
    return f", line {number}" if path == file else f", {path.name}, line {number}"
