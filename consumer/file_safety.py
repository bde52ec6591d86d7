"""Check that no other user can change a file or folder, as sshd does with ``StrictModes``.

A path is safe when only root and the user of this process can change what is read from it:

* The file and every folder on its path, from ``/`` on, belong to one of the two.
* None of them is writable by group or others. A folder on the path may be if its sticky bit is set, as for ``/tmp``:
  there, only an entry's owner can replace it, and the owner is checked.

Links are followed one by one, so a link's folder is checked as well as its target's.

Exception: a file or folder that is itself a read-only mount, such as Docker's ``:ro`` or a Kubernetes ConfigMap. The
host's user ids mean nothing there, so its owner is trusted instead of ours. Its top folder may have any mode if root
owns it, because Kubernetes makes it 0777. A file system that is read-only as a whole is no exception:
``ProtectSystem=strict`` shows every folder so, while others go on writing to it.
"""

from __future__ import annotations

import errno
import functools
import importlib.machinery
import os
import pwd
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from consumer.errors import SettingsError

_MOUNTS: Final = Path("/proc/self/mountinfo")
_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH
_MAX_LINKS: Final = 40
_MAX_ENTRIES: Final = 10_000
_MAX_PROBLEMS: Final = 20
_IMPORTABLE: Final = (*importlib.machinery.all_suffixes(), ".pth", ".zip", ".egg")
"""What Python can import from a folder, also through ``sys.path`` and ``site``."""


class UnsafeFileError(SettingsError):
    """Other users can change a file or a folder on its path."""


@dataclass(frozen=True, slots=True)
class Content:
    """The bytes of a safe file, and whether every user of the machine can read them."""

    data: bytes
    public: bool


def read(path: Path, folder: Path | None = None) -> Content:
    """Read a file after checking that it is safe; the open file is checked, so it can't be replaced in between.

    Its ``folder``, by default the file's own, may be a read-only mount. A pipe of this process's user, such as
    ``/dev/fd/63`` of the shell's ``<(...)``, counts as safe.

    Raises:
        UnsafeFileError: It is not safe, or not a file.
        OSError: It can't be read.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        opened = os.fstat(descriptor)
        if stat.S_ISFIFO(opened.st_mode) and opened.st_uid == os.geteuid() and not opened.st_mode & _OTHERS_WRITE:
            os.set_blocking(descriptor, True)
            return Content(file.read(), public=False)
        if not stat.S_ISREG(opened.st_mode):
            raise UnsafeFileError(f"{path} is not a file")
        checker = _Checker(path, folder or path.parent)
        public = checker.check(path, opened)
        if checker.problems:
            raise UnsafeFileError(*checker.problems.values())
        return Content(file.read(), public)


def problems_of_folder(folder: Path) -> Sequence[str]:
    """Why a folder of code can't be trusted: its path, itself, or anything in it that Python could import.

    Subfolders and links are followed.

    Returns:
        One line for each unsafe file or folder, the first 20; empty when all is safe.

    Raises:
        OSError: A part of it can't be read.
    """
    checker = _Checker(folder)
    seen: set[tuple[int, int]] = set()
    todo = [folder]
    while todo and len(checker.problems) < _MAX_PROBLEMS:
        current = todo.pop()
        # Check before skipping a known folder: this way to it may lead through a folder that others can change.
        checker.check(current)
        found = current.stat()
        if (found.st_dev, found.st_ino) in seen:
            continue
        seen.add((found.st_dev, found.st_ino))
        for entry in sorted(current.iterdir()):
            try:
                is_folder = entry.is_dir()
                is_code = not is_folder and entry.is_file() and entry.name.endswith(_IMPORTABLE)
            except PermissionError:
                continue
            if is_folder:
                todo.append(entry)
            elif is_code:
                checker.check(entry)
            if checker.checked > _MAX_ENTRIES:
                return [f"{folder} holds more than {_MAX_ENTRIES:,} folders and files of code; expected handlers only"]
    return list(checker.problems.values())[:_MAX_PROBLEMS]


class _Checker:
    """Checks paths and collects one problem for each unsafe file or folder; ``mounted`` may be read-only mounts."""

    def __init__(self, *mounted: Path) -> None:
        self.checked = 0
        self.problems: dict[Path, str] = {}
        self._mounted = {Path(os.path.realpath(each)) for each in mounted}
        self._owners = {0, os.geteuid()}

    def check(self, path: Path, opened: os.stat_result | None = None) -> bool:
        """Check a path from ``/`` on, which must still lead to the ``opened`` file.

        Returns:
            Whether every user of the machine can read it.

        Raises:
            UnsafeFileError: The path leads to another file by now.
        """
        self.checked += 1
        steps = list(_steps(path))
        end, last = steps[-1]
        if opened is not None and (last.st_dev, last.st_ino) != (opened.st_dev, opened.st_ino):
            raise UnsafeFileError(f"{path} was replaced while it was read; try again")
        shared_folders: set[Path] = set()
        public = not self._mount_of(end)
        for step, found in steps:
            if stat.S_ISLNK(found.st_mode):
                # A link's owner can replace it only in a shared folder.
                if step.parent in shared_folders:
                    self._check_step(step, found, may_be_shared=True)
                continue
            is_folder = stat.S_ISDIR(found.st_mode)
            on_the_way = is_folder and step != end
            self._check_step(step, found, may_be_shared=on_the_way and bool(found.st_mode & stat.S_ISVTX))
            if on_the_way and found.st_mode & _OTHERS_WRITE:
                shared_folders.add(step)
            public = public and bool(found.st_mode & (stat.S_IXOTH if is_folder else stat.S_IROTH))
        return public

    def _check_step(self, step: Path, found: os.stat_result, *, may_be_shared: bool) -> None:
        owned = found.st_uid in self._owners
        closed = may_be_shared or not found.st_mode & _OTHERS_WRITE
        if owned and closed:
            return
        if (mount := self._mount_of(step)) is not None:
            owned = owned or found.st_uid == mount.stat().st_uid
            if owned and (closed or (step == mount and found.st_uid == 0)):
                return
        me = _user_name(os.geteuid())
        fault, remedy = (
            ("group or others may write to it", f"chmod go-w {step}")
            if owned
            else (f"it belongs to user {_user_name(found.st_uid)}", f"chown {me} {step}")
        )
        self.problems[step] = (
            f"{step}: expected that only root and user {me} can change it, but {fault}; run `{remedy}`"
        )

    def _mount_of(self, step: Path) -> Path | None:
        """The read-only mount, among the given ones, that a path without links is on."""
        above = [place for place in (step, *step.parents) if place in self._mounted]
        if not above:
            return None
        nearest = next((place for place in (step, *step.parents) if place in self._mounts), None)
        return nearest if nearest in above and self._mounts[nearest] else None

    @functools.cached_property
    def _mounts(self) -> Mapping[Path, bool]:
        """Every mount point of this process, and whether it is read-only; empty where there is no ``/proc``."""
        try:
            lines = _MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
        except OSError:
            return {}
        # proc(5): id, parent, device, root, mount point, options; blanks are octal escapes.
        fields = [line.split(" ") for line in lines]
        return {Path(_unescaped(each[4])): "ro" in each[5].split(",") for each in fields}


def _steps(path: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Each folder, link and file that a look-up of the path passes, from ``/`` on."""
    here = Path("/")
    todo = list(reversed((Path.cwd() / path).parts[1:]))
    links = 0
    yield here, here.lstat()
    while todo:
        part = todo.pop()
        if part == "..":
            here = here.parent
            yield here, here.lstat()
            continue
        step = here / part
        found = step.lstat()
        yield step, found
        if not stat.S_ISLNK(found.st_mode):
            here = step
            continue
        links += 1
        if links > _MAX_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
        target = step.readlink()
        here = Path("/") if target.is_absolute() else here
        todo.extend(reversed(target.parts[1:] if target.is_absolute() else target.parts))


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)


def _user_name(user: int) -> str:
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return str(user)


def sync_folder(folder: Path) -> None:
    """Write the names in a folder to disk; raises ``OSError``."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
