"""The daemons that systemd runs on this machine, so that commands find them: where the units keep each one's files.

    mns-consumer         /etc/mns-consumer/mns-consumer.toml, credentials/     /var/lib/mns-consumer
    mns-consumer@NAME    /etc/mns-consumer/NAME.toml, NAME.credentials/        /var/lib/mns-consumer-NAME

``systemd/*.service`` names the same places; a test compares them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from consumer.errors import SettingsError

SETTINGS_FOLDER: Final = Path("/etc/mns-consumer")
STATE_FOLDER: Final = Path("/var/lib")
PLAIN: Final = "mns-consumer"
"""The instance that has no name of its own."""
STORE_FILE: Final = "mns-consumer.db"
_NAME: Final = re.compile(r"[A-Za-z0-9:_.-]{1,200}")


@dataclass(frozen=True, slots=True)
class Instance:
    """One daemon's files."""

    name: str
    settings_file: Path
    credentials: Path
    """A folder with one file for each setting."""
    store: Path
    """Unless the settings name another."""


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


def _instance(name: str) -> Instance:
    is_plain = name == PLAIN
    return Instance(
        name,
        SETTINGS_FOLDER / f"{name}.toml",
        SETTINGS_FOLDER / ("credentials" if is_plain else f"{name}.credentials"),
        STATE_FOLDER / (PLAIN if is_plain else f"{PLAIN}-{name}") / STORE_FILE,
    )
