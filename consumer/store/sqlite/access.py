"""Who may write the store's file and its folder.

Both are refused when others may write them. Who may write the folder can put another file in the store's place, or a
write-ahead log beside it that SQLite would apply. Modes count, not rights: root may write everything.
"""

from __future__ import annotations

import grp
import os
import pwd
import shlex
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

from consumer.instance import DaemonUser

_COMPANIONS: Final = ("-wal", "-shm", "-journal", ".lock")
_TOP: Final = 2
"""Parts of a path such as ``/tmp``."""
_ALL_BELOW: Final = 1_000
_SYSTEM: Final = {
    **dict.fromkeys(("bin", "boot", "dev", "etc", "lib", "lib64", "proc", "run", "sbin", "sys", "usr"), _ALL_BELOW),
    "var": 3,
}
"""The system's own folders, to this number of parts of the path: ``/var/lib``, not ``/var/lib/mns-consumer``."""


def access_refusal(path: Path, *, by_owner: bool, user: DaemonUser | None = None) -> str | None:
    """Why a store in this file is refused, with what to do; ``None`` when it is safe.

    Args:
        path: The file, links resolved; neither it nor its folder need exist.
        by_owner: File and folder must belong to this user or root. So for the daemon; but root runs the operators'
            commands on another user's store.
        user: Judge as the daemon of this user finds it, who must also have the right to write; default is this process.
    """
    places = [path.parent, path, *(path.with_name(path.name + ending) for ending in _COMPANIONS)]
    for place in places:
        with suppress(OSError):  # missing, or opening it will say more
            if problem := _access_problem(place, user, by_owner=by_owner, folder=place is places[0]):
                return f"store {path}: {problem}"
    return None


def _access_problem(place: Path, user: DaemonUser | None, *, by_owner: bool, folder: bool) -> str | None:
    uid = os.geteuid() if user is None else user.uid
    found = place.lstat()
    mode = stat.S_IMODE(found.st_mode)
    if not folder and not stat.S_ISREG(found.st_mode):
        if stat.S_ISDIR(found.st_mode):
            return f"{place} is a folder, not a regular file; name a file in a folder of its own"
        return f"{place} is not a regular file; remove it, or name another store"
    if by_owner and found.st_uid not in {0, uid}:
        to_do = "run it as that user" if user is None else f"run chown {uid}:{user.gid} {shlex.quote(str(place))}"
        return (
            f"{place} belongs to the user {found.st_uid}, who may change it, and the daemon runs as {uid};"
            f" {to_do}, or name a file in a folder of its own"
        )
    by_all = mode & stat.S_IWOTH
    if by_all or (mode & stat.S_IWGRP and not _is_private_group(found.st_gid, uid)):
        may_tighten = not (folder and _is_shared(place, mode))
        to_do = f"run chmod go-w {shlex.quote(str(place))}, or name" if may_tighten else "name"
        return (
            f"{place} may be written by {'every user' if by_all else f'the group {found.st_gid}'} (mode {mode:04o});"
            f" {to_do} a file in a folder of its own"
        )
    if user is not None and not _may_write(found, user, folder=folder):
        return (
            f"{place} can't be written by the daemon's user {uid} (owner {found.st_uid}, mode {mode:04o});"
            f" run chown {uid}:{user.gid} {shlex.quote(str(place))} and chmod u+rw{'x' if folder else ''} on it"
        )
    return None


def _is_shared(folder: Path, mode: int) -> bool:
    """Whether a folder is also other programs', so that changing its mode would break them."""
    of_system = _SYSTEM.get(folder.parts[1], 0) if len(folder.parts) > 1 else 0
    return bool(mode & stat.S_ISVTX) or len(folder.parts) <= max(_TOP, of_system)


def _may_write(found: os.stat_result, user: DaemonUser, *, folder: bool) -> bool:
    """Whether a user may read and write a file, or make files in a folder, as the kernel decides by its mode."""
    if user.uid == 0:
        return True
    shift = 6 if found.st_uid == user.uid else 3 if found.st_gid == user.gid else 0
    needed = 0o7 if folder else 0o6
    return found.st_mode >> shift & needed == needed


def _is_private_group(gid: int, uid: int) -> bool:
    """Whether a group is the user's own, as many systems make one for each user, without another member."""
    try:
        user, group = pwd.getpwuid(uid), grp.getgrgid(gid)
    except KeyError:
        return False
    return user.pw_gid == gid and group.gr_name == user.pw_name and set(group.gr_mem) <= {user.pw_name}
