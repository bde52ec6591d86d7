"""Find the handlers, at start and at each reload: which function takes which FunctionName.

Four places, in falling strength; a stronger one hides the same name of a weaker one:

    1 a drop-in directory    files of the user's, loaded afresh under private module names
    2 import paths           modules named in the settings
    3 entry points           group ``mns_consumer.handlers`` of installed distributions
    4 the shipped package    only when asked for: it logs and keeps, nothing more

Two handlers of equal strength for one name refuse to start: which one wins would be chance. From a module only
the functions defined *in* it are taken, so importing a shipped model registers nothing.

Elsewhere: loading one place (``plugin.loading``), what a marked function says (``plugin.handler``).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from importlib.metadata import entry_points
from pathlib import Path
from typing import Final

from consumer.errors import HandlersError
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

ENTRY_POINT_GROUP: Final = "mns_consumer.handlers"
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
        packages: Private packages that were made for it; to be forgotten once nothing of it runs.
    """

    handlers: Mapping[str, Handler]
    strengths: Mapping[str, Strength] = field(default_factory=dict)
    empty: Sequence[str] = ()
    packages: Sequence[str] = ()

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
    packages: list[str] = []
    for strength, place, load in _places(sources, problems, packages):
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
    if not problems and not found:
        problems.append(
            "no handler found: expected a drop-in folder (handlers_dir), import paths (handler_modules), an installed "
            f"package with the entry point group {ENTRY_POINT_GROUP!r}, or shipped = true for those that only log"
        )
    if problems:
        forget(packages)
        raise HandlersError(*problems)
    return Registry(
        handlers={name: handler for name, (_, handler) in sorted(found.items())},
        strengths={name: strength for name, (strength, _) in found.items()},
        empty=tuple(empty),
        packages=tuple(packages),
    )


def _places(sources: Sources, problems: list[str], packages: list[str]) -> Iterator[tuple[Strength, str, Functions]]:
    """Every place to look at, each with the way to load it; problems with a source itself, and packages, are noted."""
    if sources.directory is not None:
        unsafe = _unsafe(sources.directory)
        if unsafe is None:
            packages.append(package := new_package(sources.directory))
            paths = files(sources.directory)
            if not paths:
                yield Strength.DIRECTORY, str(sources.directory), list
            for path in paths:
                yield Strength.DIRECTORY, str(path), file_loader(path, package)
        else:
            problems.append(unsafe)
    for name in sources.modules:
        yield Strength.IMPORT_PATH, name, module_loader(name)
    if sources.use_entry_points:
        for point in entry_points(group=ENTRY_POINT_GROUP):
            yield (
                Strength.ENTRY_POINT,
                f"entry point {point.name} = {point.value}",
                entry_point_loader(point),
            )
    if sources.shipped:
        packages.append(package := new_package(_SHIPPED_DIR))
        for path in files(_SHIPPED_DIR):
            yield Strength.SHIPPED, str(path), file_loader(path, package)


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
