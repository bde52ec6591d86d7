"""Find the handlers, once, at start: which function takes which FunctionName.

Four places, in falling strength; a stronger one hides the same name of a weaker one:

    1 a drop-in directory    files of the user's, loaded under private module names
    2 import paths           modules named in the settings
    3 entry points           group ``mns_consumer.handlers`` of installed distributions
    4 the shipped package    only when asked for: it logs and keeps, nothing more

Two handlers of equal strength for one name refuse to start: which one wins would be chance. From a module only
the functions defined *in* it are taken, so importing a shipped model registers nothing.

Elsewhere: what a marked function says (``plugin.handler``).
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import pkgutil
import stat
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from importlib.machinery import ModuleSpec
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Final

from consumer.errors import HandlersError
from consumer.plugin.handler import ANY_NAME, Handler, build, notes

ENTRY_POINT_GROUP: Final = "mns_consumer.handlers"
_OURS: Final = (str(Path(__file__).resolve().parent), str(Path(importlib.__file__).resolve().parent))
_SHIPPED_DIR: Final = Path(__file__).resolve().parents[2] / "handlers"


class Strength(IntEnum):
    """Where a handler was found; the larger hides the smaller."""

    SHIPPED = 1
    ENTRY_POINT = 2
    IMPORT_PATH = 3
    DIRECTORY = 4


@dataclass(frozen=True, slots=True)
class Sources:
    """Where to look.

    Args:
        directory: A folder of drop-in files; ``None`` for none.
        modules: Import paths.
        use_entry_points: Whether installed distributions are asked.
        shipped: Whether the shipped package is used.
    """

    directory: Path | None = None
    modules: Sequence[str] = ()
    use_entry_points: bool = True
    shipped: bool = False


@dataclass(frozen=True, slots=True)
class Registry:
    """The handlers of this run, by name.

    Args:
        handlers: FunctionName, kind name or ``*`` to its handler.
        strengths: The same names to where each was found.
        empty: Places that were looked at and hold no handler; worth a warning.
    """

    handlers: Mapping[str, Handler]
    strengths: Mapping[str, Strength] = field(default_factory=dict)
    empty: Sequence[str] = ()

    def find(self, name: str) -> Handler | None:
        """The handler for a name: its own, else the one for all the rest, else none.

        The name comes from outside; it is only ever looked up among what was registered at start.
        """
        return self.handlers.get(name) or self.handlers.get(ANY_NAME)


def discover(sources: Sources) -> Registry:
    """Look at every source and settle who takes what.

    Raises:
        HandlersError: A source is missing, unsafe or broken, two handlers of equal strength share a name, or
            nothing was found at all. Every problem found is named, one line each (a broken file with its traceback).
    """
    problems: list[str] = []
    found: dict[str, tuple[Strength, Handler]] = {}
    empty: list[str] = []
    for strength, place, load in _places(sources, problems):
        try:
            handlers = [build(function, note) for function in load() for note in notes(function)]
        except HandlersError as error:
            problems.extend(error.problems)
            continue
        if not handlers:
            empty.append(place)
        for new in handlers:
            held = found.get(new.name)
            if held is None or strength > held[0]:
                found[new.name] = (strength, new)
            elif strength == held[0]:
                problems.append(
                    f"two handlers for {new.name!r}: {held[1].origin} and {new.origin}; remove or rename one of them"
                )
    if problems:
        raise HandlersError(*problems)
    if not found:
        raise HandlersError(
            "no handler found: expected a drop-in folder (handlers_dir), import paths (handler_modules), an installed "
            f"package with the entry point group {ENTRY_POINT_GROUP!r}, or shipped = true for those that only log"
        )
    return Registry(
        handlers={name: handler for name, (_, handler) in sorted(found.items())},
        strengths={name: strength for name, (strength, _) in found.items()},
        empty=tuple(empty),
    )


_Functions = Callable[[], list[Callable[..., object]]]


def _places(sources: Sources, problems: list[str]) -> Iterator[tuple[Strength, str, _Functions]]:
    """Every place to look at, each with the way to load it; problems with a source itself are noted."""
    if sources.directory is not None:
        unsafe = _unsafe(sources.directory)
        if unsafe is None:
            files = _files(sources.directory)
            if not files:
                yield Strength.DIRECTORY, str(sources.directory), list
            for path in files:
                yield Strength.DIRECTORY, str(path), _file_loader(path, _private_package(sources.directory))
        else:
            problems.append(unsafe)
    for name in sources.modules:
        yield Strength.IMPORT_PATH, name, _module_loader(name)
    if sources.use_entry_points:
        for point in entry_points(group=ENTRY_POINT_GROUP):
            yield (
                Strength.ENTRY_POINT,
                f"entry point {point.name} = {point.value}",
                _entry_point_loader(point),
            )
    if sources.shipped:
        package = _private_package(_SHIPPED_DIR)
        for path in _files(_SHIPPED_DIR):
            yield Strength.SHIPPED, str(path), _file_loader(path, package)


def _unsafe(directory: Path) -> str | None:
    """Why a drop-in folder can't be used; whoever may write there runs code as the daemon."""
    if not directory.is_dir():
        return f"handlers_dir: {directory} is not a folder; expected one that holds .py files with @handler functions"
    try:
        next(directory.iterdir(), None)
        if os.statvfs(directory).f_flag & os.ST_RDONLY:
            # Mounted read-only, as Kubernetes mounts a ConfigMap: whatever its mode says, nobody may write here.
            return None
        inside = sorted(path for path in directory.rglob("*") if path.is_dir() or path.suffix == ".py")
        for path in (directory, *inside):
            if path.stat().st_mode & stat.S_IWOTH:
                told = f"everybody may write to {path}, and so run code as this daemon; run `chmod o-w {path}`"
                return f"handlers_dir: {told}"
    except OSError as error:
        return f"handlers_dir: {directory} can't be read: {error.strerror}"
    return None


def _files(directory: Path) -> list[Path]:
    """The modules and packages of a folder; names that begin with ``_`` or ``.`` are for the others to import."""
    candidates = (
        path / "__init__.py" if path.is_dir() else path
        for path in sorted(directory.iterdir())
        if not path.name.startswith(("_", ".")) and (path.suffix == ".py" or path.is_dir())
    )
    return [path for path in candidates if path.is_file()]


def _private_package(directory: Path) -> str:
    """A package of our own whose modules are the folder's files.

    Under a private name, a user's ``cover.py`` or ``handlers/`` hides no module of anybody's, and
    ``from . import _shared`` works between the files of one folder.
    """
    name = f"_mns_consumer_handlers_{hashlib.sha256(str(directory.resolve()).encode()).hexdigest()[:12]}"
    if name not in sys.modules:
        spec = ModuleSpec(name, loader=None, is_package=True)
        spec.submodule_search_locations = [str(directory.resolve())]
        sys.modules[name] = importlib.util.module_from_spec(spec)
    return name


def _file_loader(path: Path, package: str) -> _Functions:
    stem = path.parent.name if path.name == "__init__.py" else path.stem

    def load() -> list[Callable[..., object]]:
        if not stem.isidentifier():
            raise HandlersError(f"{path}: {stem!r} can't be a module's name; expected letters, digits and underscores")
        return _marked(_imported(f"{package}.{stem}", str(path)))

    return load


def _module_loader(name: str) -> _Functions:
    def load() -> list[Callable[..., object]]:
        module = _imported(name, f"handler_modules: {name}")
        inside = pkgutil.iter_modules(getattr(module, "__path__", ()), f"{name}.")
        # Names that begin with ``_`` are for the others to import; ``__main__`` is a program, not a module.
        names = [info.name for info in inside if not info.name.rpartition(".")[2].startswith("_")]
        submodules = [_imported(each, f"handler_modules: {each}") for each in names]
        return [function for part in (module, *submodules) for function in _marked(part)]

    return load


def _entry_point_loader(point: EntryPoint) -> _Functions:
    place = f"entry point {point.name} = {point.value}"

    def load() -> list[Callable[..., object]]:
        try:
            target = point.load()
        except (Exception, SystemExit) as error:
            # The user's code runs here: whatever it raises is its own fault and is told with its traceback.
            raise _broken(place, error) from error
        if isinstance(target, ModuleType):
            return _marked(target)
        if not notes(target):
            raise HandlersError(f"{place}: expected a module or a function marked with @handler, got {target!r}")
        return [target]

    return load


def _imported(name: str, place: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        # The user's code runs here: whatever it raises is its own fault and is told with its traceback. A script that
        # ends itself would else end the daemon without a word.
        raise _broken(place, error) from error


def _broken(place: str, error: BaseException) -> HandlersError:
    """One line that names the place, then the traceback from the user's first own line on."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith(("<", *_OURS))]
    at = f"{error.filename}:{error.lineno}" if isinstance(error, SyntaxError) and error.filename else ""
    if not at and own:
        at = f"{own[-1].filename}:{own[-1].lineno}"
    told = "".join(traceback.format_exception_only(error)).strip()
    trace = "".join(traceback.format_list(own)).rstrip()
    head = f"{place}: can't be loaded: {told.splitlines()[-1]}" + (f" (at {at})" if at else "")
    return HandlersError("\n".join(part for part in (head, trace, told if "\n" in told else "") if part))


def _marked(module: ModuleType) -> list[Callable[..., object]]:
    """The functions with a note that are defined in this very module, in the order they stand."""
    seen: dict[int, Callable[..., object]] = {
        id(value): value
        for value in _values(module)
        if notes(value) and getattr(value, "__module__", None) == module.__name__
    }
    return list(seen.values())


def _values(module: ModuleType) -> Iterable[Callable[..., object]]:
    return [value for value in vars(module).values() if callable(value)]
