"""Load the functions of one place: a drop-in file, a module, an entry point.

Drop-in files are loaded afresh each time under private module names, so that a reload takes what they say now while
the functions of before run on. Modules that are installed keep the code that the process began with.

Elsewhere: which places there are and who wins (``plugin.registry``), what a marked function says (``plugin.handler``),
the importer of drop-in files (``plugin.source_only``).
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import itertools
import pkgutil
import sys
import traceback
from collections.abc import Callable, Iterable
from importlib.machinery import ModuleSpec
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Final, TypeAlias

from consumer.errors import HandlersError
from consumer.plugin import source_only
from consumer.plugin.handler import notes

Functions: TypeAlias = Callable[[], list[Callable[..., object]]]
"""Loads one place."""

DROP_IN: Final = "_mns_consumer_handlers_"
"""How the private names of handlers' files begin."""
_OURS: Final = (str(Path(__file__).resolve().parent), str(Path(importlib.__file__).resolve().parent))
_numbers: Final = itertools.count(1)


def files(directory: Path) -> list[Path]:
    """The modules and packages of a folder; names that begin with ``_`` or ``.`` are for the others to import."""
    candidates = (
        path / "__init__.py" if path.is_dir() else path
        for path in sorted(directory.iterdir())
        if not path.name.startswith(("_", ".")) and (path.suffix == ".py" or path.is_dir())
    )
    return [path for path in candidates if path.is_file()]


def new_package(directory: Path, *, installed: bool = False) -> str:
    """Make a package of our own whose modules will be the folder's files, loaded once more.

    Under a private name, a user's ``cover.py`` or ``handlers/`` hides no module of anybody's, and
    ``from . import _shared`` works between the files of one folder.

    Args:
        directory: The folder.
        installed: Whether an installer laid it down, with byte code that can be trusted as much as the source.

    Returns:
        Its name; ``forget`` ends it.
    """
    importlib.invalidate_caches()
    folder = str(directory.resolve())
    name = f"{DROP_IN}{hashlib.sha256(folder.encode()).hexdigest()[:12]}_{next(_numbers)}"
    spec = ModuleSpec(name, loader=None, is_package=True)
    spec.submodule_search_locations = [folder]
    sys.modules[name] = importlib.util.module_from_spec(spec)
    if not installed:
        source_only.take_over(name, Path(folder))
    return name


def forget(packages: Iterable[str]) -> None:
    """Take packages that nothing is to be imported from any more out of the interpreter's list."""
    for package in packages:
        source_only.let_go(package)
        for name in [name for name in sys.modules if name == package or name.startswith(f"{package}.")]:
            del sys.modules[name]


def file_loader(path: Path, package: str) -> Functions:
    """A drop-in file, as a module of a package that ``new_package`` made."""
    stem = path.parent.name if path.name == "__init__.py" else path.stem

    def load() -> list[Callable[..., object]]:
        if not stem.isidentifier():
            raise HandlersError(f"{path}: {stem!r} can't be a module's name; expected letters, digits and underscores")
        return _marked(_imported(f"{package}.{stem}", str(path)))

    return load


def module_loader(name: str) -> Functions:
    """An installed module, with those directly inside it where it is a package."""

    def load() -> list[Callable[..., object]]:
        module = _imported(name, f"handler_modules: {name}")
        inside = pkgutil.iter_modules(getattr(module, "__path__", ()), f"{name}.")
        # Names that begin with ``_`` are for the others to import; ``__main__`` is a program, not a module.
        names = [info.name for info in inside if not info.name.rpartition(".")[2].startswith("_")]
        submodules = [_imported(each, f"handler_modules: {each}") for each in names]
        return [function for part in (module, *submodules) for function in _marked(part)]

    return load


def entry_point_loader(point: EntryPoint) -> Functions:
    """What an entry point names: a module, or one function."""
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
