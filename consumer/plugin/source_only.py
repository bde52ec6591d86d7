"""The importer of drop-in folders: source files alone, each checked as it is read.

Python's own importer would rather take a ``.so`` than a ``.py`` of the same name, a ``.pyc`` where there is no source,
and byte code out of ``__pycache__`` that only claims to be made of the source beside it. None of that is loaded here.
No byte code is written either: it would hide a change that is made within the same second.

Elsewhere: which files are loaded (``plugin.loading``), what makes a file safe (``file_safety``).
"""

from __future__ import annotations

import importlib.machinery
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path
from types import CodeType, ModuleType
from typing import Final

from consumer.file_safety import read

_COMPILED: Final = (*importlib.machinery.EXTENSION_SUFFIXES, *importlib.machinery.BYTECODE_SUFFIXES)


def take_over(package: str, folder: Path) -> None:
    """Import all modules of a package, and of those inside it, by this importer."""
    if _importer not in sys.meta_path:
        sys.meta_path.insert(0, _importer)
    _importer.folders[package] = folder


def let_go(package: str) -> None:
    """Leave a package's names to the other importers again."""
    _importer.folders.pop(package, None)


class _Loader(SourceFileLoader):
    """Compiles the source each time; a cache of byte code is neither read nor written."""

    def __init__(self, name: str, path: str, folder: Path) -> None:
        super().__init__(name, path)
        self._folder = folder

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        code: CodeType = self.source_to_code(read(Path(path), self._folder).data, path)
        return code


class _Importer(MetaPathFinder):
    """Finds the modules of the packages that were given to it, and no others."""

    def __init__(self) -> None:
        self.folders: dict[str, Path] = {}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, _target: ModuleType | None = None, /
    ) -> ModuleSpec | None:
        folder = self.folders.get(fullname.partition(".")[0])
        if folder is None or path is None:
            return None
        name = fullname.rpartition(".")[2]
        for place in map(Path, path):
            for file in (place / name / "__init__.py", place / f"{name}.py"):
                if file.is_file():
                    inside = [str(file.parent)] if file.name == "__init__.py" else None
                    loader = _Loader(fullname, str(file), folder)
                    return spec_from_file_location(fullname, file, loader=loader, submodule_search_locations=inside)
        _refuse_compiled(fullname, name, [Path(place) for place in path])
        if spaces := [place for each in path if (place := Path(each) / name).is_dir()]:
            spec = ModuleSpec(fullname, None, is_package=True)
            spec.submodule_search_locations = [str(place) for place in spaces]
            return spec
        # To answer None would hand the name on to the importers that take compiled files.
        raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)


def _refuse_compiled(fullname: str, name: str, places: Sequence[Path]) -> None:
    for place in places:
        for stem in (place / name, place / name / "__init__"):
            for suffix in _COMPILED:
                if (file := stem.with_name(stem.name + suffix)).is_file():
                    raise ImportError(
                        f"{file} is compiled code, which is not loaded from a drop-in folder; expected {name}.py, "
                        "or a package that is installed beside the daemon",
                        name=fullname,
                        path=str(file),
                    )


_importer: Final = _Importer()
