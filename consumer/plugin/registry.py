"""Find and load the handlers, at start and at each reload: which function takes which FunctionName.

There are four kinds of sources. For the same name a stronger one wins (``Strength``):

    4  a drop-in directory    the user's files, loaded under private module names
    3  import paths           modules that the settings name
    2  entry points           group ``mns_consumer.handlers`` of installed distributions: all, or those that are named
    1  the shipped handlers   only when asked for: they log, nothing more

Two handlers of equal strength for one name are refused. The hook of dead letters (``letter_hook``) is found like a
handler for ``*``. A module counts only for the functions that are defined in it,
not for those that it imports. A handler for ``*`` takes every message that has no other; an entry point's counts only
if its distribution is named.

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
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.metadata import EntryPoint, entry_points, version
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import CodeType, ModuleType
from typing import Final, TypeAlias, TypeVar

from consumer.errors import HandlersError
from consumer.file_safety import problems_of_folder, read
from consumer.plugin.handler import ANY_NAME, Handler, Strength, build, notes
from consumer.plugin.letter_hook import LetterHook, build_letter_hook, is_letter_hook

LoadedT = TypeVar("LoadedT")
Functions: TypeAlias = list[Callable[..., object]]

ENTRY_POINT_GROUP: Final = "mns_consumer.handlers"
_PACKAGE: Final = Path(__file__).resolve().parents[1]
_IN_WHEEL: Final = _PACKAGE / "handlers"
_SHIPPED_DIR: Final = _IN_WHEEL if _IN_WHEEL.is_dir() else _PACKAGE.parent / "handlers"
"""An editable installation has them beside the package."""
_PRIVATE: Final = "_mns_consumer_handlers_"
"""How the private package names begin."""
_COMPILED: Final = (*importlib.machinery.EXTENSION_SUFFIXES, *importlib.machinery.BYTECODE_SUFFIXES)
_OURS: Final = tuple(f"{Path(file).resolve().parent}{os.sep}" for file in (__file__, importlib.__file__))
"""Folders whose frames are left out of a traceback."""
_numbers: Final = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Sources:
    """Where to look for handlers: a folder of drop-in files, import paths, and so on.

    Args:
        use_entry_points: Whether installed distributions are asked, or the names of those that are.
    """

    directory: Path | None = None
    modules: Sequence[str] = ()
    use_entry_points: bool | Sequence[str] = True
    shipped: bool = False


@dataclass(frozen=True, slots=True)
class Registry:
    """The handlers by name: FunctionName, kind name or ``*``.

    Args:
        empty: Sources without any handler; worth a warning.
        skipped: Handlers that are not used, each with the reason; worth a warning.
        packages: Private packages, to be forgotten once none of their functions runs.
        letter_hook: What is called for each dead letter.
    """

    handlers: Mapping[str, Handler]
    empty: Sequence[str] = ()
    skipped: Sequence[str] = ()
    packages: Sequence[str] = ()
    letter_hook: LetterHook | None = None

    @property
    def functions(self) -> list[Callable[..., object]]:
        """The users' functions, those of the handlers and the hook."""
        functions: list[Callable[..., object]] = [handler.function for handler in self.handlers.values()]
        return functions if self.letter_hook is None else [*functions, self.letter_hook.function]

    def find(self, name: str) -> Handler | None:
        """The handler of this name, or the one for ``*``. The name may come from outside: it is only looked up."""
        return self.handlers.get(name) or self.handlers.get(ANY_NAME)


@dataclass(frozen=True, slots=True)
class _Candidate:
    """One file, module or entry point to load. ``may_take_all``: whether its handler for ``*`` and its hook count."""

    strength: Strength
    name: str
    provider: str
    load: Callable[[], Functions]
    may_take_all: bool = True

    def built(self) -> tuple[list[Handler], list[LetterHook]]:
        """Its handlers and hooks; raises ``HandlersError`` as ``load``, and for a function that can't be one."""
        functions, strength, provider = self.load(), self.strength, self.provider
        handlers = [build(one, note, strength=strength, provider=provider) for one in functions for note in notes(one)]
        hooks = [
            build_letter_hook(one, strength=strength, provider=provider) for one in functions if is_letter_hook(one)
        ]
        return handlers, hooks


def discover(sources: Sources) -> Registry:
    """Load every source and decide which handler takes which name.

    Raises:
        HandlersError: A source is missing, unsafe or broken, two handlers of equal strength share a name, or there is
            no handler at all. It names every problem, one line each; a broken file with its traceback.
    """
    problems: list[str] = []
    found = _Found({}, None, problems, [])
    empty: list[str] = []
    packages: list[str] = []
    for candidate in _candidates(sources, problems, packages):
        try:
            handlers, hooks = candidate.built()
        except HandlersError as error:
            problems.extend(error.problems)
            continue
        if not (handlers or hooks):
            empty.append(candidate.name)
        found.add(candidate, handlers, hooks)
    if not problems and not found.handlers:
        problems.extend(found.skipped)
        problems.append(
            "no handler found: expected a drop-in folder (handlers_dir), import paths (handler_modules), an installed "
            f"package with the entry point group {ENTRY_POINT_GROUP!r}, or shipped = true for those that only log"
        )
    if problems:
        forget(packages)
        raise HandlersError(*problems)
    return Registry(
        handlers=dict(sorted(found.handlers.items())),
        empty=tuple(empty),
        skipped=tuple(found.skipped),
        packages=tuple(packages),
        letter_hook=found.hook,
    )


@dataclass(slots=True)
class _Found:
    """What the candidates so far have brought; of two for the same the stronger counts."""

    handlers: dict[str, Handler]
    hook: LetterHook | None
    problems: list[str]
    skipped: list[str]

    def add(self, candidate: _Candidate, handlers: Iterable[Handler], hooks: Iterable[LetterHook]) -> None:
        """Add what a candidate has."""
        for new in handlers:
            if new.name == ANY_NAME and not candidate.may_take_all:
                self._skip(candidate, "handler for '*'", new.origin, "message without a handler of its own")
            elif self._wins(f"handlers for {new.name!r}", new, self.handlers.get(new.name)):
                self.handlers[new.name] = new
        for hook in hooks:
            if not candidate.may_take_all:
                self._skip(candidate, "function of @on_dead_letter", hook.origin, "dead letter")
            elif self._wins("functions of @on_dead_letter", hook, self.hook):
                self.hook = hook

    def _skip(self, candidate: _Candidate, what: str, origin: str, takes: str) -> None:
        self.skipped.append(
            f"{candidate.name} of {candidate.provider} has a {what} ({origin}), which is not used: it would take every "
            f"{takes}; to allow it, list the distribution in handler_entry_points"
        )

    def _wins(self, what: str, new: Handler | LetterHook, rival: Handler | LetterHook | None) -> bool:
        if rival is not None and new.strength == rival.strength:
            self.problems.append(f"two {what}: {rival.origin} and {new.origin}; remove or rename one of them")
        return rival is None or new.strength > rival.strength


def _candidates(sources: Sources, problems: list[str], packages: list[str]) -> Iterator[_Candidate]:
    """Everything to load; problems of a source itself, and the private packages, are added to the lists."""
    if sources.directory is not None:
        unsafe = _unsafe(sources.directory)
        problems.extend(f"handlers_dir: {problem}" for problem in unsafe)
        if not unsafe:
            folder = str(sources.directory)
            paths = _files(sources.directory)
            packages.append(package := _new_package(sources.directory))
            if not paths:
                yield _Candidate(Strength.DIRECTORY, folder, folder, list)
            for path in paths:
                yield _Candidate(Strength.DIRECTORY, str(path), folder, partial(_load_file, path, package))
    for name in sources.modules:
        yield _Candidate(Strength.IMPORT_PATH, name, f"import path {name}", partial(_load_module, name))
    yield from _entry_points(sources.use_entry_points, problems)
    if sources.shipped:
        provider = f"mns-consumer {version('mns-consumer')}, shipped"
        packages.append(package := _new_package(_SHIPPED_DIR, installed=True))
        for path in _files(_SHIPPED_DIR):
            yield _Candidate(Strength.SHIPPED, str(path), provider, partial(_load_file, path, package))


def _entry_points(use: bool | Sequence[str], problems: list[str]) -> Iterator[_Candidate]:  # noqa: FBT001 - see Sources
    """The entry points of all distributions, or of those that are named; a name without any is a problem."""
    if use is False:
        return
    # ``dist`` is None only in an entry point that was made by hand.
    found = [(point, point.dist) for point in entry_points(group=ENTRY_POINT_GROUP) if point.dist is not None]
    present = {_normal(distribution.name) for _, distribution in found}
    named = None if use is True else {_normal(name): name for name in use}
    problems.extend(
        f"handler_entry_points: no installed distribution {name!r} has entry points {ENTRY_POINT_GROUP!r}; "
        f"those that have: {', '.join(sorted(present)) or 'none'}"
        for key, name in (named or {}).items()
        if key not in present
    )
    for point, distribution in found:
        if named is None or _normal(distribution.name) in named:
            yield _Candidate(
                Strength.ENTRY_POINT,
                f"entry point {point.name} = {point.value}",
                f"{distribution.name} {distribution.version}",
                partial(_load_entry_point, point),
                may_take_all=named is not None,
            )


def _normal(name: str) -> str:
    """A distribution's name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _unsafe(directory: Path) -> Sequence[str]:
    """Why a drop-in folder can't be used; anyone who may write to it could run code as the daemon."""
    try:
        if not directory.is_dir():
            return [f"{directory} is not a folder; expected one that holds .py files with @handler functions"]
        return problems_of_folder(directory)
    except OSError as error:
        return [f"{directory} can't be read: {error.strerror}"]


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


def _files(directory: Path) -> list[Path]:
    """The modules and packages of a folder; names that begin with ``_`` or ``.`` are for the others to import."""
    candidates = (
        path / "__init__.py" if path.is_dir() else path
        for path in sorted(directory.iterdir())
        if not path.name.startswith(("_", ".")) and (path.suffix == ".py" or path.is_dir())
    )
    return [path for path in candidates if path.is_file()]


def _new_package(directory: Path, *, installed: bool = False) -> str:
    """Make a private package whose modules are the folder's files, to be loaded anew; return its name, for ``forget``.

    ``installed``: the folder came with this program, so that its byte code is as trustworthy as its source.
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


def _load_file(path: Path, package: str) -> Functions:
    """Load a drop-in file as a module of a private package; ``HandlersError`` where it can't, as for the other two."""
    stem = path.parent.name if path.name == "__init__.py" else path.stem
    if not stem.isidentifier():
        raise HandlersError(f"{path}: {stem!r} can't be a module's name; expected letters, digits and underscores")
    return _marked(_imported(f"{package}.{stem}", str(path)))


def _load_module(name: str) -> Functions:
    """Load an installed module; of a package, the modules directly inside it as well."""
    module = _imported(name, f"handler_modules: {name}")
    inside = pkgutil.iter_modules(getattr(module, "__path__", ()), f"{name}.")
    # Names that begin with ``_`` are for the others to import; ``__main__`` is a program.
    names = [info.name for info in inside if not info.name.rpartition(".")[2].startswith("_")]
    modules = [module, *(_imported(each, f"handler_modules: {each}") for each in names)]
    return [function for each in modules for function in _marked(each)]


def _load_entry_point(point: EntryPoint) -> Functions:
    """Load what an entry point names: a module, or one function."""
    place = f"entry point {point.name} = {point.value}"
    target = _user_code(point.load, place)
    if isinstance(target, ModuleType):
        return _marked(target)
    if not callable(target) or not _is_marked(target):
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


def _marked(module: ModuleType) -> Functions:
    """The functions with a note that are defined in this very module, each once, in their order."""
    marked = [
        value
        for value in vars(module).values()
        if callable(value) and _is_marked(value) and getattr(value, "__module__", None) == module.__name__
    ]
    return list({id(value): value for value in marked}.values())


def _is_marked(function: object) -> bool:
    return bool(notes(function)) or is_letter_hook(function)
