"""The daemons that systemd runs on this machine, so that commands find them: where the units keep each one's files.

    mns-consumer         /etc/mns-consumer/mns-consumer.toml, credentials/     /var/lib, /run: mns-consumer
    mns-consumer@NAME    /etc/mns-consumer/NAME.toml, NAME.credentials/        /var/lib, /run: mns-consumer-NAME

``systemd/*.service`` names the same places; a test compares them.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from consumer.errors import ConsumerError, SettingsError

SETTINGS_FOLDER: Final = Path("/etc/mns-consumer")
STATE_FOLDER: Final = Path("/var/lib")
RUNTIME_FOLDER: Final = Path("/run")
PLAIN: Final = "mns-consumer"
"""The instance that has no name of its own."""
STORE_FILE: Final = "mns-consumer.db"
SOCKET_FILE: Final = "control.sock"
_NAME: Final = re.compile(r"[A-Za-z0-9:_.-]{1,200}")


class DaemonUser(NamedTuple):
    """Whom a daemon runs as, by number: systemd makes up a user that has no name while the daemon is stopped."""

    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Instance:
    """One daemon's files."""

    name: str
    settings_file: Path
    credentials: Path
    """A folder with one file for each setting."""
    store: Path
    """Unless the settings name another, as for ``socket``."""
    socket: Path

    def user(self) -> DaemonUser | None:
        """The owner of the state folder, which systemd gives to the daemon's user; ``None`` before the first start."""
        try:
            found = _state_folder(self.name).stat()
        except OSError:
            return None
        return DaemonUser(found.st_uid, found.st_gid)

    def keeps(self, path: Path) -> bool:
        """Whether a file, links resolved, is in the state folder, where the unit lets the daemon write."""
        return path.is_relative_to(_state_folder(self.name).resolve())


def find_instance(name: str) -> Instance:
    """The daemon of a name.

    Raises:
        SettingsError: The name can't be one, or no daemon of this name is set up here.
    """
    instance = _instance(name)
    if not _NAME.fullmatch(name) or not instance.settings_file.exists():
        known = ", ".join(names()) or "none"
        raise SettingsError(
            f"--instance {name[:80]!r}: expected a daemon that is set up by a file {SETTINGS_FOLDER}/NAME.toml;"
            f" known: {known}"
        )
    return instance


def only_instance() -> Instance | None:
    """The one daemon that is set up here; ``None`` without any.

    Raises:
        SettingsError: There are several.
    """
    found = names()
    if len(found) > 1:
        raise SettingsError(f"several daemons are set up here: {', '.join(found)}; say which: --instance NAME")
    return _instance(found[0]) if found else None


def names() -> Sequence[str]:
    """The names of all daemons that are set up here."""
    try:
        return sorted(path.stem for path in SETTINGS_FOLDER.glob("*.toml") if _NAME.fullmatch(path.stem))
    except OSError:
        return []


def default_socket() -> Path | None:
    """Where a daemon listens for commands if its settings name no place, by its variables; ``None`` for nowhere."""
    if runtime := os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]:
        return Path(runtime) / SOCKET_FILE
    user = os.environ.get("XDG_RUNTIME_DIR", "")
    return Path(user) / PLAIN / SOCKET_FILE if user else None


def find_socket(name: str | None) -> Path:
    """Where a command's daemon listens: the one of this name, else of the variables, else the only one set up here.

    The settings file is read for its ``control_socket`` alone, so that a daemon is found whose settings are wrong now.

    Raises:
        SettingsError: No daemon of this name is set up here, or several are and none is named.
        ConsumerError: No daemon is set up here.
    """
    if name is not None:
        return _socket_of(find_instance(name))
    if named := os.environ.get("MNS_CONSUMER_CONTROL_SOCKET"):
        return Path(named)
    own = default_socket()
    if own is not None and own.exists():
        return own
    only = only_instance()
    if only is None:
        looked = f"{own} and " if own else ""
        raise ConsumerError(f"no daemon runs: looked for {looked}{SETTINGS_FOLDER}/*.toml; say --socket or --instance")
    return _socket_of(only)


def _socket_of(instance: Instance) -> Path:
    with suppress(OSError, ValueError):
        named = tomllib.loads(instance.settings_file.read_text(encoding="utf-8")).get("control_socket")
        if isinstance(named, str) and named:
            return Path(named)
    return instance.socket


def _instance(name: str) -> Instance:
    is_plain = name == PLAIN
    return Instance(
        name,
        SETTINGS_FOLDER / f"{name}.toml",
        SETTINGS_FOLDER / ("credentials" if is_plain else f"{name}.credentials"),
        _state_folder(name) / STORE_FILE,
        RUNTIME_FOLDER / _folder(name) / SOCKET_FILE,
    )


def _folder(name: str) -> str:
    return PLAIN if name == PLAIN else f"{PLAIN}-{name}"


def _state_folder(name: str) -> Path:
    return STATE_FOLDER / _folder(name)
