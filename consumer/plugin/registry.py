"""Find the handlers, at start and at each reload: which function takes which FunctionName.

Four places, in falling strength; a stronger one hides the same name of a weaker one:

    1 a drop-in directory    files of the user's, loaded afresh under private module names
    2 import paths           modules named in the settings
    3 entry points           group ``mns_consumer.handlers`` of installed distributions: of all, or of those named
    4 the shipped package    only when asked for: it logs and keeps, nothing more

Two handlers of equal strength for one name refuse to start: which one wins would be chance. From a module only
the functions defined *in* it are taken, so importing a shipped model registers nothing. A handler for ``*`` takes
every message that has no other, so an entry point's counts only if its distribution was named.

Elsewhere: loading one place (``plugin.loading``), what a marked function says (``plugin.handler``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Final

from consumer.errors import HandlersError
from consumer.file_safety import problems_of_folder
from consumer.plugin.handler import ANY_NAME, Handler, build, notes
from consumer.plugin.loading import (
    Functions,
    entry_point_loader,
    file_loader,
    files,
    forget,
    module_loader,
    new_package,
)
from consumer.version import version

ENTRY_POINT_GROUP: Final = "mns_consumer.handlers"
_PACKAGE: Final = Path(__file__).resolve().parents[1]
_IN_WHEEL: Final = _PACKAGE / "handlers"
_SHIPPED_DIR: Final = _IN_WHEEL if _IN_WHEEL.is_dir() else _PACKAGE.parent / "handlers"
"""An editable installation has them beside the package."""


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
        use_entry_points: Whether installed distributions are asked; their names, if only some are.
        shipped: Whether the shipped package is used.
    """

    directory: Path | None = None
    modules: Sequence[str] = ()
    use_entry_points: bool | Sequence[str] = True
    shipped: bool = False


@dataclass(frozen=True, slots=True)
class Registry:
    """The handlers of this run, by name.

    Args:
        handlers: FunctionName, kind name or ``*`` to its handler.
        strengths: The same names to where each was found.
        providers: The same names to who gave each: a folder, an import path, or a distribution with its version.
        empty: Places that were looked at and hold no handler; worth a warning.
        skipped: Handlers that were found and are not used, each with the reason; worth a warning.
        packages: Private packages that were made for it; to be forgotten once nothing of it runs.
    """

    handlers: Mapping[str, Handler]
    strengths: Mapping[str, Strength] = field(default_factory=dict)
    providers: Mapping[str, str] = field(default_factory=dict)
    empty: Sequence[str] = ()
    skipped: Sequence[str] = ()
    packages: Sequence[str] = ()

    def find(self, name: str) -> Handler | None:
        """The handler for a name: its own, else the one for all the rest, else none.

        The name comes from outside; it is only ever looked up among what was registered at start.
        """
        return self.handlers.get(name) or self.handlers.get(ANY_NAME)


@dataclass(frozen=True, slots=True)
class _Place:
    """One place to look at.

    Args:
        strength: Of which kind it is.
        name: What it is called in warnings.
        provider: Who gives what is found there.
        load: Loads it.
        for_all: Whether a handler for ``*`` counts.
    """

    strength: Strength
    name: str
    provider: str
    load: Functions
    for_all: bool = True


def discover(sources: Sources) -> Registry:
    """Look at every source and settle who takes what.

    Raises:
        HandlersError: A source is missing, unsafe or broken, two handlers of equal strength share a name, or
            nothing was found at all. Every problem found is named, one line each (a broken file with its traceback).
    """
    problems: list[str] = []
    found: dict[str, tuple[_Place, Handler]] = {}
    empty: list[str] = []
    skipped: list[str] = []
    packages: list[str] = []
    for place in _places(sources, problems, packages):
        try:
            handlers = [build(function, note) for function in place.load() for note in notes(function)]
        except HandlersError as error:
            problems.extend(error.problems)
            continue
        if not handlers:
            empty.append(place.name)
        for new in handlers:
            if new.name == ANY_NAME and not place.for_all:
                skipped.append(
                    f"{place.name} of {place.provider} has a handler for '*' ({new.origin}), which is not used: it "
                    "would take every message without a handler of its own; to allow it, list the distribution in "
                    "handler_entry_points"
                )
                continue
            held = found.get(new.name)
            if held is None or place.strength > held[0].strength:
                found[new.name] = (place, new)
            elif place.strength == held[0].strength:
                problems.append(
                    f"two handlers for {new.name!r}: {held[1].origin} and {new.origin}; remove or rename one of them"
                )
    if not problems and not found:
        problems += [
            *skipped,
            (
                "no handler found: expected a drop-in folder (handlers_dir), import paths (handler_modules), an "
                f"installed package with the entry point group {ENTRY_POINT_GROUP!r}, or shipped = true for those that "
                "only log"
            ),
        ]
    if problems:
        forget(packages)
        raise HandlersError(*problems)
    return Registry(
        handlers={name: handler for name, (_, handler) in sorted(found.items())},
        strengths={name: place.strength for name, (place, _) in found.items()},
        providers={name: place.provider for name, (place, _) in found.items()},
        empty=tuple(empty),
        skipped=tuple(skipped),
        packages=tuple(packages),
    )


def _places(sources: Sources, problems: list[str], packages: list[str]) -> Iterator[_Place]:
    """Every place to look at, each with the way to load it; problems with a source itself, and packages, are noted."""
    if sources.directory is not None:
        unsafe = _unsafe(sources.directory)
        problems.extend(f"handlers_dir: {problem}" for problem in unsafe)
        if not unsafe:
            packages.append(package := new_package(sources.directory))
            folder = str(sources.directory)
            paths = files(sources.directory)
            if not paths:
                yield _Place(Strength.DIRECTORY, folder, folder, list)
            for path in paths:
                yield _Place(Strength.DIRECTORY, str(path), folder, file_loader(path, package))
    for name in sources.modules:
        yield _Place(Strength.IMPORT_PATH, name, f"import path {name}", module_loader(name))
    yield from _entry_points(sources, problems)
    if sources.shipped:
        packages.append(package := new_package(_SHIPPED_DIR, installed=True))
        for path in files(_SHIPPED_DIR):
            shipped = f"mns-consumer {version()}, shipped"
            yield _Place(Strength.SHIPPED, str(path), shipped, file_loader(path, package))


def _entry_points(sources: Sources, problems: list[str]) -> Iterator[_Place]:
    """The entry points of the distributions that are to be asked; a name that none of them has is a problem."""
    if sources.use_entry_points is False:
        return
    points = entry_points(group=ENTRY_POINT_GROUP)
    there = {_normal(_distribution(point)) for point in points}
    named = None if sources.use_entry_points is True else {_normal(name): name for name in sources.use_entry_points}
    problems.extend(
        f"handler_entry_points: no installed distribution {name!r} has entry points {ENTRY_POINT_GROUP!r}; "
        f"those that have: {', '.join(sorted(there)) or 'none'}"
        for key, name in (named or {}).items()
        if key not in there
    )
    for point in points:
        if named is None or _normal(_distribution(point)) in named:
            yield _Place(
                Strength.ENTRY_POINT,
                f"entry point {point.name} = {point.value}",
                f"{_distribution(point)} {point.dist.version if point.dist else ''}".strip(),
                entry_point_loader(point),
                for_all=named is not None,
            )


def _distribution(point: EntryPoint) -> str:
    return point.dist.name if point.dist else "an unknown distribution"


def _normal(name: str) -> str:
    """A distribution's name as the package index compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _unsafe(directory: Path) -> Sequence[str]:
    """Why a drop-in folder can't be used; whoever may write there runs code as the daemon."""
    if not directory.is_dir():
        return [f"{directory} is not a folder; expected one that holds .py files with @handler functions"]
    try:
        return problems_of_folder(directory)
    except OSError as error:
        return [f"{directory} can't be read: {error.strerror}"]
