"""Find the handlers, at start and at each reload: which function takes which FunctionName.

There are four kinds of sources. For the same name a stronger one wins (``Strength``):

    4  a drop-in directory    the user's files, loaded under private module names
    3  import paths           modules that the settings name
    2  entry points           group ``mns_consumer.handlers`` of installed distributions: all, or those that are named
    1  the shipped handlers   only when asked for: they log, nothing more

Two handlers of equal strength for one name are refused. A module counts only for the functions that are defined in it,
not for those that it imports. A handler for ``*`` takes every message that has no other; an entry point's counts only
if its distribution is named.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Final

from consumer.errors import HandlersError
from consumer.file_safety import problems_of_folder
from consumer.plugin.handler import ANY_NAME, Handler, Strength, build, notes
from consumer.plugin.loading import files, forget, load_entry_point, load_file, load_module, new_package
from consumer.version import version

ENTRY_POINT_GROUP: Final = "mns_consumer.handlers"
_PACKAGE: Final = Path(__file__).resolve().parents[1]
_IN_WHEEL: Final = _PACKAGE / "handlers"
_SHIPPED_DIR: Final = _IN_WHEEL if _IN_WHEEL.is_dir() else _PACKAGE.parent / "handlers"
"""An editable installation has them beside the package."""


@dataclass(frozen=True, slots=True)
class Sources:
    """Where to look for handlers.

    Args:
        directory: A folder of drop-in files.
        modules: Import paths.
        use_entry_points: Whether installed distributions are asked, or the names of those that are.
        shipped: Whether the shipped handlers are used.
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
    """

    handlers: Mapping[str, Handler]
    empty: Sequence[str] = ()
    skipped: Sequence[str] = ()
    packages: Sequence[str] = ()

    def find(self, name: str) -> Handler | None:
        """The handler of this name, or the one for ``*``. The name may come from outside: it is only looked up."""
        return self.handlers.get(name) or self.handlers.get(ANY_NAME)


@dataclass(frozen=True, slots=True)
class _Candidate:
    """One file, module or entry point to load.

    Args:
        strength: For its handlers, as the provider.
        name: For warnings.
        may_take_all: Whether its handler for ``*`` counts.
    """

    strength: Strength
    name: str
    provider: str
    load: Callable[[], list[Callable[..., object]]]
    may_take_all: bool = True


def discover(sources: Sources) -> Registry:
    """Load every source and decide which handler takes which name.

    Raises:
        HandlersError: A source is missing, unsafe or broken, two handlers of equal strength share a name, or there is
            no handler at all. It names every problem, one line each; a broken file with its traceback.
    """
    problems: list[str] = []
    found: dict[str, Handler] = {}
    empty: list[str] = []
    skipped: list[str] = []
    packages: list[str] = []
    for candidate in _candidates(sources, problems, packages):
        try:
            handlers = [
                build(function, note, strength=candidate.strength, provider=candidate.provider)
                for function in candidate.load()
                for note in notes(function)
            ]
        except HandlersError as error:
            problems.extend(error.problems)
            continue
        if not handlers:
            empty.append(candidate.name)
        for new in handlers:
            if new.name == ANY_NAME and not candidate.may_take_all:
                skipped.append(
                    f"{candidate.name} of {candidate.provider} has a handler for '*' ({new.origin}), which is not used"
                    ": it would take every message without a handler of its own; to allow it, list the distribution in "
                    "handler_entry_points"
                )
                continue
            rival = found.get(new.name)
            if rival is None or new.strength > rival.strength:
                found[new.name] = new
            elif new.strength == rival.strength:
                problems.append(
                    f"two handlers for {new.name!r}: {rival.origin} and {new.origin}; remove or rename one of them"
                )
    if not problems and not found:
        problems.extend(skipped)
        problems.append(
            "no handler found: expected a drop-in folder (handlers_dir), import paths (handler_modules), an installed "
            f"package with the entry point group {ENTRY_POINT_GROUP!r}, or shipped = true for those that only log"
        )
    if problems:
        forget(packages)
        raise HandlersError(*problems)
    return Registry(
        handlers=dict(sorted(found.items())),
        empty=tuple(empty),
        skipped=tuple(skipped),
        packages=tuple(packages),
    )


def _candidates(sources: Sources, problems: list[str], packages: list[str]) -> Iterator[_Candidate]:
    """Everything to load; problems of a source itself, and the private packages, are added to the lists."""
    if sources.directory is not None:
        unsafe = _unsafe(sources.directory)
        problems.extend(f"handlers_dir: {problem}" for problem in unsafe)
        if not unsafe:
            folder = str(sources.directory)
            paths = files(sources.directory)
            packages.append(package := new_package(sources.directory))
            if not paths:
                yield _Candidate(Strength.DIRECTORY, folder, folder, list)
            for path in paths:
                yield _Candidate(Strength.DIRECTORY, str(path), folder, partial(load_file, path, package))
    for name in sources.modules:
        yield _Candidate(Strength.IMPORT_PATH, name, f"import path {name}", partial(load_module, name))
    yield from _entry_points(sources.use_entry_points, problems)
    if sources.shipped:
        provider = f"mns-consumer {version()}, shipped"
        packages.append(package := new_package(_SHIPPED_DIR, installed=True))
        for path in files(_SHIPPED_DIR):
            yield _Candidate(Strength.SHIPPED, str(path), provider, partial(load_file, path, package))


def _entry_points(use: bool | Sequence[str], problems: list[str]) -> Iterator[_Candidate]:  # noqa: FBT001 - see Sources
    """The entry points of all distributions, or of those that are named; a name without any is a problem."""
    if use is False:
        return
    points = entry_points(group=ENTRY_POINT_GROUP)
    present = {_normal(_distribution(point)) for point in points}
    named = None if use is True else {_normal(name): name for name in use}
    problems.extend(
        f"handler_entry_points: no installed distribution {name!r} has entry points {ENTRY_POINT_GROUP!r}; "
        f"those that have: {', '.join(sorted(present)) or 'none'}"
        for key, name in (named or {}).items()
        if key not in present
    )
    for point in points:
        if named is None or _normal(_distribution(point)) in named:
            yield _Candidate(
                Strength.ENTRY_POINT,
                f"entry point {point.name} = {point.value}",
                f"{_distribution(point)} {point.dist.version if point.dist else ''}".strip(),
                partial(load_entry_point, point),
                may_take_all=named is not None,
            )


def _distribution(point: EntryPoint) -> str:
    return point.dist.name if point.dist else "an unknown distribution"


def _normal(name: str) -> str:
    """A distribution's name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _unsafe(directory: Path) -> Sequence[str]:
    """Why a drop-in folder can't be used; anyone who may write to it could run code as the daemon."""
    if not directory.is_dir():
        return [f"{directory} is not a folder; expected one that holds .py files with @handler functions"]
    try:
        return problems_of_folder(directory)
    except OSError as error:
        return [f"{directory} can't be read: {error.strerror}"]
