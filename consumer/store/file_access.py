"""Make the store's file and folder for their owner alone, and refuse those that others may write.

Whoever may write the folder can put a file of his own in the store's place, or a write-ahead log beside it that
SQLite would play into it. Modes count, not rights: root may write everything.

Elsewhere: opening the file (``store.sqlite_file``), its lock (``store.owner``).
"""

from __future__ import annotations

import grp
import os
import pwd
import shlex
import stat
from pathlib import Path
from typing import Final

_COMPANIONS: Final = ("-wal", "-shm", "-journal", ".lock")


def make_folder(path: Path) -> None:
    """Make a folder and those above it where they are missing, each 0700 whatever the umask.

    Raises:
        OSError: One can't be made.
    """
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    for folder in reversed(missing):
        folder.mkdir(mode=0o700, exist_ok=True)
        folder.chmod(0o700)


def make_file(path: Path) -> None:
    """Make a file, 0600 whatever the umask, or see that the one that is there can be opened for writing.

    Raises:
        OSError: It can't be.
    """
    os.close(take_file(path))


def take_file(path: Path) -> int:
    """Open a file for reading and writing; made when missing, 0600 whatever the umask.

    Returns:
        Its descriptor; the caller closes it.

    Raises:
        OSError: It can't be made or opened.
    """
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return os.open(path, flags)
    os.fchmod(descriptor, 0o600)
    return descriptor


def other_names(path: Path) -> str | None:
    """Why a store with further hard links is refused; ``None`` when it has none.

    SQLite's write-ahead log goes by the database's name: under another one, what it holds is missing, and what is
    written there damages the file.
    """
    try:
        names = path.stat().st_nlink
    except OSError:
        return None
    if names == 1:
        return None
    return (
        f"store {path}: the file has {names} names (hard links), and SQLite's write-ahead log belongs to one of them;"
        f" keep the one that the daemon used and remove the others (find / -xdev -samefile {shlex.quote(str(path))})"
    )


def refusal(path: Path, *, by_owner: bool) -> str | None:
    """Why a store in this file is refused, with what to do; ``None`` when it is not.

    Args:
        path: The file, links resolved; it need not exist yet, nor its folder.
        by_owner: Whether file and folder must also be ours or root's: so for the daemon, while root runs the operators'
            commands on another user's store.
    """
    places = [path.parent, path, *(path.with_name(path.name + ending) for ending in _COMPANIONS)]
    for place in places:
        try:
            found = place.lstat()
        except OSError:
            # It is not there yet, or opening it will tell more.
            continue
        if problem := _problem(place, found, by_owner=by_owner, folder=place is places[0]):
            return f"store {path}: {problem}"
    return None


def _problem(place: Path, found: os.stat_result, *, by_owner: bool, folder: bool) -> str | None:
    mode = stat.S_IMODE(found.st_mode)
    if not folder and not stat.S_ISREG(found.st_mode):
        return f"{place} is not a regular file; remove it, or name another store"
    if by_owner and found.st_uid not in {0, os.geteuid()}:
        return (
            f"{place} belongs to the user {found.st_uid}, who may change it, and the daemon runs as {os.geteuid()};"
            " run it as that user, or name a file in a folder of its own"
        )
    everybody = mode & stat.S_IWOTH
    if everybody or (mode & stat.S_IWGRP and not _is_ours_alone(found.st_gid)):
        return (
            f"{place} may be written by {'everybody' if everybody else f'the group {found.st_gid}'} (mode {mode:04o});"
            f" run chmod go-w {shlex.quote(str(place))}, or name a file in a folder of its own"
        )
    return None


def _is_ours_alone(gid: int) -> bool:
    """Whether a group is the user's private one, as many systems make one for each user, with nobody else in it."""
    try:
        user, group = pwd.getpwuid(os.geteuid()), grp.getgrgid(gid)
    except KeyError:
        return False
    return user.pw_gid == gid and group.gr_name == user.pw_name and set(group.gr_mem) <= {user.pw_name}
