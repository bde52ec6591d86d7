"""Where settings come from, and how errors in them are worded.

Strongest first: command line, environment, secret files, settings file. ``config.load`` merges them.

Files must be safe from changes by other users (``file_safety``). One that holds a secret must not be readable by every
user of the machine either. Its group may read it: systemd gives a service access that way.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, EnvSettingsSource

from consumer.errors import SettingsError
from consumer.file_safety import UnsafeFileError, read
from consumer.secret_settings import holds_secret, masked

PREFIX: Final = "MNS_CONSUMER_"
CONFIG_VARIABLE: Final = f"{PREFIX}CONFIG"
RUN_SECRETS: Final = Path("/run/secrets")
"""Where Docker and Podman mount secrets."""
# Kubernetes sets these in every pod beside a Service that is called mns-consumer.
_KUBERNETES: Final = re.compile(r"MNS_CONSUMER_(SERVICE_(HOST|PORT(_\w+)?)|PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?)")
_HIDDEN: Final = re.compile(r"key|token|secret|^store\b|^lanes(\.\d+)?$")
"""Settings whose value no error shows; a text that stands for whole lanes may hold keys."""
_QUERY: Final = re.compile(r"\?.*", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Given:
    """A setting's value and its place, as errors name it."""

    value: Any
    place: str


def from_flags(flags: Mapping[str, Any]) -> dict[str, Given]:
    """The settings of the command line."""
    return {name: Given(value, "command line") for name, value in flags.items()}


def from_environment(settings: type[BaseSettings]) -> dict[str, Given]:
    """The settings of the environment. An empty variable counts as not set."""
    values = EnvSettingsSource(settings)()
    return {name: Given(value, f"environment {variable(name)}") for name, value in values.items()}


def from_secret_files(names: Collection[str]) -> dict[str, Given]:
    """The settings that have a file of their own. An empty file counts as not set.

    Strongest first: the file that the variable ``MNS_CONSUMER_<NAME>_FILE`` names, ``mns_consumer_<name>`` in
    ``$CREDENTIALS_DIRECTORY`` (systemd), the same in ``/run/secrets`` (Docker, Podman).

    Raises:
        SettingsError: A file can't be read, is not safe, or shows a secret to every user.
    """
    files: dict[str, Path] = {}
    by_file_name = {variable(name).lower(): name for name in names}
    credentials = os.environ.get("CREDENTIALS_DIRECTORY")
    folders = {RUN_SECRETS: False} | ({Path(credentials): True} if credentials else {})
    for folder, is_required in folders.items():
        try:
            entries = sorted(folder.iterdir())
        except OSError as error:
            if is_required:
                raise SettingsError(f"$CREDENTIALS_DIRECTORY {folder} can't be read: {error.strerror}") from None
            continue
        files |= {by_file_name[entry.name.lower()]: entry for entry in entries if entry.name.lower() in by_file_name}
    variables = {each.upper(): text for each, text in os.environ.items()}
    files |= {name: Path(path) for name in names if (path := variables.get(f"{variable(name)}_FILE"))}
    return {name: Given(value, str(file)) for name, file in files.items() if (value := _secret(name, file))}


def _secret(name: str, file: Path) -> str:
    try:
        content = read(file)
        value = content.data.decode("utf-8").strip()
    except UnsafeFileError as error:
        raise SettingsError(*(f"{name}: {problem}" for problem in error.problems)) from None
    except OSError as error:
        raise SettingsError(f"{name} ({file}): can't be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{name} ({file}): expected UTF-8 text") from None
    if content.public and holds_secret(name, value):
        raise SettingsError(f"{name}: every user of this machine can read {file}; run `chmod o-r {file}`")
    return value


def from_settings_file(path: Path) -> dict[str, Given]:
    """The settings of a TOML file.

    Raises:
        SettingsError: It can't be read, is not TOML, is not safe, or shows a secret to every user.
    """
    try:
        content = read(path)
        settings = tomllib.loads(content.data.decode("utf-8"))
    except UnsafeFileError as error:
        raise SettingsError(*(f"settings file {problem}" for problem in error.problems)) from None
    except OSError as error:
        raise SettingsError(f"settings file {path} can't be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"settings file {path} is not TOML: {error}") from None
    secret = [name for name, value in settings.items() if holds_secret(name, value)]
    if content.public and secret:
        raise SettingsError(
            f"settings file {path} holds {' and '.join(secret)}, and every user of this machine can read it; run "
            f"`chmod o-r {path}`, or give the secret in the environment or in a file of its own"
        )
    return {name: Given(value, str(path)) for name, value in settings.items()}


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return f"{PREFIX}{name}".upper()


def problems_of_environment(names: Collection[str]) -> Sequence[str]:
    """One line for each variable that is no setting, and for each setting that is given by value and by file."""
    known = {variable(name) for name in names}
    files = {f"{each}_FILE" for each in known}
    unknown = [
        f"{name} (environment): no such setting{nearest(name, known)}"
        for name in sorted(os.environ)
        if name.upper().startswith(PREFIX)
        and name.upper() not in known | files | {CONFIG_VARIABLE}
        and not _KUBERNETES.fullmatch(name)
    ]
    given = {name.upper() for name, text in os.environ.items() if text}
    both = sorted(each for each in known if {each, f"{each}_FILE"} <= given)
    return [*unknown, *(f"{each} and {each}_FILE are both set; expected one of them" for each in both)]


def problem_lines(
    detail: ErrorDetails, given: Mapping[str, Given], names: Collection[str], lane_names: Collection[str]
) -> Sequence[str]:
    """The lines for one of pydantic's errors: setting, place, what was expected, what came if it can't be a secret.

    Args:
        detail: The error.
        given: All settings that were given.
        names: The names of all settings.
        lane_names: The names of a lane's settings.
    """
    location = ".".join(str(part) for part in detail["loc"])
    top = str(detail["loc"][0]) if detail["loc"] else ""
    message = detail["msg"].removeprefix("Value error, ")
    if not top:
        # A check across settings: one line for each contradiction.
        return message.splitlines()
    place = given[top].place
    if detail["type"] == "extra_forbidden":
        known = lane_names if top == "lanes" else names
        return [f"{location} ({place}): no such setting{nearest(str(detail['loc'][-1]), known)}"]
    is_hidden = _HIDDEN.search(location) or isinstance(detail["input"], dict)
    shown = _QUERY.sub("?***", masked(str(detail["input"])))[:80]
    got = "" if is_hidden else f", got {shown!r}"
    expected = message[0].lower() + message[1:] if detail["type"] != "value_error" else message
    return [f"{location} ({place}): {expected.replace('input should be', 'expected')}{got}"]


def nearest(name: str, known: Collection[str]) -> str:
    """The end of an error about an unknown name: the most similar known one."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else "; see `mns-consumer docs settings`"
