"""Load the marked functions of one drop-in file, one module, or one entry point.

Drop-in files are loaded anew by each reload, under private module names: a user's ``cover.py`` hides no other module,
``from . import _shared`` works between the files of one folder, and the functions of before the reload keep theirs.

Only their source is loaded, checked as it is read (``file_safety``). Python's own importer would prefer a ``.so`` to a
``.py`` of the same name, take a ``.pyc`` without source, and believe byte code that claims to be made of the source
beside it. No byte code is written: it would hide a change within the same second.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.machinery
import itertools
import os
import pkgutil
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.metadata import EntryPoint
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import CodeType, ModuleType
from typing import Final, TypeVar

from consumer.errors import HandlersError
from consumer.file_safety import read
from consumer.plugin.handler import notes

LoadedT = TypeVar("LoadedT")

_PRIVATE: Final = "_mns_consumer_handlers_"
"""How the private package names begin."""
_COMPILED: Final = (*importlib.machinery.EXTENSION_SUFFIXES, *importlib.machinery.BYTECODE_SUFFIXES)
_OURS: Final = tuple(f"{Path(file).resolve().parent}{os.sep}" for file in (__file__, importlib.__file__))
"""Folders whose frames are left out of a traceback."""
_numbers: Final = itertools.count(1)


class _SourceLoader(SourceFileLoader):
    """Checks and compiles the source each time."""

    def __init__(self, name: str, path: str, folder: Path) -> None:
        super().__init__(name, path)
        self._folder = folder

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        code: CodeType = self.source_to_code(read(Path(path), self._folder).data, path)
        return code


class _SourceFinder(MetaPathFinder):
    """Finds the modules of the private packages in ``folders``, and no others."""

    def __init__(self) -> None:
        self.folders: dict[str, Path] = {}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, _target: ModuleType | None = None, /
    ) -> ModuleSpec | None:
        folder = self.folders.get(fullname.partition(".")[0])
        if folder is None or path is None:
            return None
        stems = [Path(place) / fullname.rpartition(".")[2] for place in path]
        for stem in stems:
            for file in (stem / "__init__.py", stem.with_name(f"{stem.name}.py")):
                if file.is_file():
                    inside = [str(stem)] if file.name == "__init__.py" else None
                    loader = _SourceLoader(fullname, str(file), folder)
                    return spec_from_file_location(fullname, file, loader=loader, submodule_search_locations=inside)
        _refuse_compiled(fullname, stems)
        if spaces := [str(stem) for stem in stems if stem.is_dir()]:
            return _namespace(fullname, spaces)
        # With None the other importers would be asked, which take compiled files.
        raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)


_finder: Final = _SourceFinder()


def _refuse_compiled(fullname: str, stems: Iterable[Path]) -> None:
    for stem in stems:
        for file in (path.with_name(path.name + suffix) for path in (stem, stem / "__init__") for suffix in _COMPILED):
            if file.is_file():
                raise ImportError(
                    f"{file} is compiled code, which is not loaded from a drop-in folder; expected {stem.name}.py, "
                    "or a package that is installed beside the daemon",
                    name=fullname,
                    path=str(file),
                )


def _namespace(name: str, folders: list[str]) -> ModuleSpec:
    spec = ModuleSpec(name, loader=None, is_package=True)
    spec.submodule_search_locations = folders
    return spec


def files(directory: Path) -> list[Path]:
    """The modules and packages of a folder; names that begin with ``_`` or ``.`` are for the others to import."""
    candidates = (
        path / "__init__.py" if path.is_dir() else path
        for path in sorted(directory.iterdir())
        if not path.name.startswith(("_", ".")) and (path.suffix == ".py" or path.is_dir())
    )
    return [path for path in candidates if path.is_file()]


def new_package(directory: Path, *, installed: bool = False) -> str:
    """Make a private package whose modules are the folder's files, to be loaded anew.

    Args:
        directory: The folder.
        installed: The folder was installed as a part of this program: its byte code is as trustworthy as its source.

    Returns:
        The package's name, for ``forget``.
    """
    importlib.invalidate_caches()
    folder = str(directory.resolve())
    name = f"{_PRIVATE}{hashlib.sha256(folder.encode()).hexdigest()[:12]}_{next(_numbers)}"
    sys.modules[name] = module_from_spec(_namespace(name, [folder]))
    if not installed:
        if _finder not in sys.meta_path:
            sys.meta_path.insert(0, _finder)
        _finder.folders[name] = Path(folder)
    return name


def forget(packages: Iterable[str]) -> None:
    """Drop private packages from which nothing will be imported any more."""
    for package in packages:
        _finder.folders.pop(package, None)
        for name in [name for name in sys.modules if name == package or name.startswith(f"{package}.")]:
            del sys.modules[name]


def load_file(path: Path, package: str) -> list[Callable[..., object]]:
    """Load a drop-in file as a module of a private package.

    Raises:
        HandlersError: It can't be loaded, as for the other two.
    """
    stem = path.parent.name if path.name == "__init__.py" else path.stem
    if not stem.isidentifier():
        raise HandlersError(f"{path}: {stem!r} can't be a module's name; expected letters, digits and underscores")
    return _marked(_imported(f"{package}.{stem}", str(path)))


def load_module(name: str) -> list[Callable[..., object]]:
    """Load an installed module; of a package, the modules directly inside it as well."""
    module = _imported(name, f"handler_modules: {name}")
    inside = pkgutil.iter_modules(getattr(module, "__path__", ()), f"{name}.")
    # Names that begin with ``_`` are for the others to import; ``__main__`` is a program.
    names = [info.name for info in inside if not info.name.rpartition(".")[2].startswith("_")]
    modules = [module, *(_imported(each, f"handler_modules: {each}") for each in names)]
    return [function for each in modules for function in _marked(each)]


def load_entry_point(point: EntryPoint) -> list[Callable[..., object]]:
    """Load what an entry point names: a module, or one function."""
    place = f"entry point {point.name} = {point.value}"
    target = _user_code(point.load, place)
    if isinstance(target, ModuleType):
        return _marked(target)
    if not callable(target) or not notes(target):
        raise HandlersError(f"{place}: expected a module or a function marked with @handler, got {target!r}")
    return [target]


def _imported(name: str, place: str) -> ModuleType:
    return _user_code(lambda: importlib.import_module(name), place)


def _user_code(load: Callable[[], LoadedT], place: str) -> LoadedT:
    try:
        return load()
    except (Exception, SystemExit) as error:
        # SystemExit too: a script that ends itself would end the daemon without a word.
        raise _broken(place, error) from error


def _broken(place: str, error: BaseException) -> HandlersError:
    """One line that names the place, then the traceback from the user's first line on."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith(("<", *_OURS))]
    at = f"{error.filename}:{error.lineno}" if isinstance(error, SyntaxError) and error.filename else ""
    if not at and own:
        at = f"{own[-1].filename}:{own[-1].lineno}"
    text = "".join(traceback.format_exception_only(error)).strip()
    trace = "".join(traceback.format_list(own)).rstrip()
    head = f"{place}: can't be loaded: {text.splitlines()[-1]}" + (f" (at {at})" if at else "")
    return HandlersError("\n".join(part for part in (head, trace, text if "\n" in text else "") if part))


def _marked(module: ModuleType) -> list[Callable[..., object]]:
    """The functions with a note that are defined in this very module, each once, in their order."""
    marked = [
        value
        for value in vars(module).values()
        if callable(value) and notes(value) and getattr(value, "__module__", None) == module.__name__
    ]
    return list({id(value): value for value in marked}.values())
