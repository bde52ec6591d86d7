"""Where settings come from, and which of them hold secrets.

Strongest first: command line, environment, secret files, settings file. ``config.load`` merges them.

Files must be safe from changes by other users (``file_safety``). One that holds a secret must not be readable by every
user of the machine either. Its group may read it: systemd gives a service access that way. The command line takes no
secret. It is checked before anything else is loaded, so this module imports nothing heavy.
"""

from __future__ import annotations

import difflib
import itertools
import os
import re
import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

from consumer.errors import SettingsError, UsageError
from consumer.file_safety import UnsafeFileError, read
from consumer.instance import Instance

PREFIX: Final = "MNS_CONSUMER_"
CONFIG_VARIABLE: Final = f"{PREFIX}CONFIG"
RUN_SECRETS: Final = Path("/run/secrets")
"""Where Docker and Podman mount secrets."""
# Kubernetes sets these in every pod beside a Service that is called mns-consumer.
_KUBERNETES: Final = re.compile(r"MNS_CONSUMER_(SERVICE_(HOST|PORT(_\w+)?)|PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?)")
SECRETS: Final = ("access_key_secret", "security_token")
"""Settings whose whole value is a secret."""
_ADDRESSES: Final = frozenset({"store", "endpoint", "mps_endpoint"})
"""Settings whose value may hold a password."""
_PLACES: Final = frozenset(
    {
        *("store", "notify_url", "lanes", "endpoint", "mps_endpoint", "control_socket", "admin_port"),
        *("handlers_dir", "handler_modules", "handler_entry_points", "shipped", "access_key_id"),
    }
)
"""Settings that say where things are; who gives one means no installed daemon."""
_SIMILARITY: Final = 0.8
_MISSPELT: Final = 0.75
"""How like a setting's name that of a variable must be to count as misspelt."""
_PASSWORD: Final = re.compile(r"://[^/?#]*:[^/?#]*@|://[^@]*:[^@]*@|[?&](?:ssl)?password=", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Given:
    """A setting's value and its place, as errors name it."""

    value: Any
    place: str


def from_flags(flags: Mapping[str, Any]) -> dict[str, Given]:
    """The settings of the command line."""
    return {name: Given(value, "command line") for name, value in flags.items()}


def from_environment(values: Mapping[str, Any]) -> dict[str, Given]:
    """The settings of the environment, as pydantic-settings reads them."""
    return {name: Given(value, f"environment {variable(name)}") for name, value in values.items()}


def from_secret_files(names: Collection[str], credentials: Path | None = None) -> dict[str, Given]:
    """The settings that have a file of their own. An empty file counts as not set.

    Strongest first: the file that the variable ``MNS_CONSUMER_<NAME>_FILE`` names, ``mns_consumer_<name>`` or
    ``<name>`` in ``credentials`` or ``$CREDENTIALS_DIRECTORY`` (systemd), ``mns_consumer_<name>`` in ``/run/secrets``
    (Docker, Podman).

    Raises:
        SettingsError: A file can't be read, is not safe, or shows a secret to every user.
    """
    prefixed = {variable(name).lower(): name for name in names}
    files = _named_files(RUN_SECRETS, prefixed)
    folder = credentials or Path(os.environ.get("CREDENTIALS_DIRECTORY", ""))
    if folder != Path():
        try:
            files |= _named_files(folder, {**prefixed, **{name: name for name in names}}, is_required=True)
        except OSError as error:
            raise SettingsError(
                f"the folder of credentials {folder} can't be read: {error.strerror}; run this as root"
            ) from None
    variables = {each.upper(): text for each, text in os.environ.items()}
    files |= {name: Path(path) for name in names if (path := variables.get(f"{variable(name)}_FILE"))}
    return {name: Given(value, str(file)) for name, file in files.items() if (value := _secret(name, file))}


def _named_files(folder: Path, known: Mapping[str, str], *, is_required: bool = False) -> dict[str, Path]:
    """The files of a folder by the setting that their name stands for; raises ``OSError`` if it ``is_required``."""
    try:
        entries = sorted(folder.iterdir(), reverse=True)
    except OSError:
        if is_required:
            raise
        return {}
    # Of a name with and without the prefix the first counts.
    return {known[entry.name.lower()]: entry for entry in entries if entry.name.lower() in known}


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
    except RecursionError:
        raise SettingsError(f"settings file {path} is not TOML of this kind: it is nested too deeply") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"settings file {path} is not TOML: {error}") from None
    secret = [name for name, value in settings.items() if holds_secret(name, value)]
    if content.public and secret:
        raise SettingsError(
            f"settings file {path} holds {' and '.join(secret)}, and every user of this machine can read it; run "
            f"`chmod o-r {path}`, or give the secret in the environment or in a file of its own"
        )
    return {name: Given(value, str(path)) for name, value in settings.items()}


def from_instance(instance: Instance) -> dict[str, Given]:
    """What follows from where systemd keeps a daemon's state and its socket."""
    places = {"store": instance.store, "control_socket": instance.socket}
    return {name: Given(str(path), f"the folders of {instance.name}") for name, path in places.items()}


def says_where(given: Collection[str], config_file: Path | None) -> bool:
    """Whether settings that are not an installed daemon's say where things are, such as the store or the queues."""
    elsewhere = (CONFIG_VARIABLE, "CREDENTIALS_DIRECTORY", "STATE_DIRECTORY")
    return bool(config_file or _PLACES.intersection(given)) or any(os.environ.get(name) for name in elsewhere)


def is_given(flags: Mapping[str, Any], config_file: Path | None) -> bool:
    """Whether anything outside the installed daemons' files says where the settings are, or what they are."""
    elsewhere = ("CREDENTIALS_DIRECTORY", "STATE_DIRECTORY")
    return bool(flags or config_file) or any(
        name.upper().startswith(PREFIX) or name in elsewhere for name, text in os.environ.items() if text
    )


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return f"{PREFIX}{name}".upper()


def problems_of_environment(names: Collection[str]) -> Sequence[str]:
    """One line for each variable that misspells a setting, and for each setting that is given by value and by file."""
    misspelt = [
        f"{name} (environment): no such setting; did you mean {variable(close)}?"
        for name in _unknown_variables(names)
        if (close := _close(name, names))
    ]
    given = {name.upper() for name, text in os.environ.items() if text}
    both = sorted(each for each in map(variable, names) if {each, f"{each}_FILE"} <= given)
    return [*misspelt, *(f"{each} and {each}_FILE are both set; expected one of them" for each in both)]


def strays(names: Collection[str]) -> Sequence[str]:
    """The variables that look like settings of this program and are like none of them."""
    return [name for name in _unknown_variables(names) if not _close(name, names)]


def _unknown_variables(names: Collection[str]) -> Sequence[str]:
    known = {variable(name) for name in names}
    known |= {f"{each}_FILE" for each in known} | {CONFIG_VARIABLE}
    ours = [name for name in sorted(os.environ) if name.upper().startswith(PREFIX)]
    return [name for name in ours if name.upper() not in known and not _KUBERNETES.fullmatch(name)]


def _close(name: str, names: Collection[str]) -> str | None:
    """The setting that a variable's name misspells."""
    written = name.upper().removeprefix(PREFIX).removesuffix("_FILE").lower()
    return next(iter(difflib.get_close_matches(written, names, n=1, cutoff=_MISSPELT)), None)


def nearest(name: str, known: Collection[str]) -> str:
    """The end of an error about an unknown name: the most similar known one."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else "; see `mns-consumer docs settings`"


def holds_secret(name: str, value: Any) -> bool:
    """Whether a setting's value holds a secret: a key, a store's address with a password, a lane with keys."""
    if name in SECRETS:
        return True
    if name == "store":
        return isinstance(value, str) and has_password(value)
    if name == "lanes":
        if isinstance(value, str):
            return any(secret in value for secret in SECRETS)
        lanes = value if isinstance(value, list | tuple) else ()
        return any(secret in lane for lane in lanes if isinstance(lane, Mapping) for secret in SECRETS)
    return False


def has_password(address: str) -> bool:
    """Whether an address holds a password."""
    return any(_PASSWORD.search(text) is not None for text in (address, unquote(address)))


def masked(text: str) -> str:
    """A text for an error, without what stands before the ``@`` of an address."""
    # Not by a pattern: one from the first // to the last @ takes quadratic time on a text of many //.
    start, end = text.find("//"), text.rfind("@")
    return text if start < 0 or end < start else f"{text[:start]}//***@{text[end + 1 :]}"


def refuse_secrets(argv: Sequence[str]) -> None:
    """Refuse a command line that holds a secret: every user of the machine can read it there.

    Call it before the arguments are parsed, because the parser's errors repeat them.

    Raises:
        UsageError: Names the setting and the safe ways to give it, without the value.
    """
    if argv[:1] == ["sandbox"]:
        # The sandbox's keys are made up and public.
        return
    for word, following in itertools.pairwise([*argv, ""]):
        # "--store X", "--store=X", "--set store=X" and "--set=store=X" are all one.
        name, equals, value = word.removeprefix("--set=").removeprefix("--").partition("=")
        # "access_key_secret: X" is a slip that the parser would repeat whole.
        name = re.split(r"[:\s]", name.strip(), maxsplit=1)[0].lower()
        if (setting := _secret_setting(name, value if equals else following)) is not None:
            variable = f"MNS_CONSUMER_{setting.upper()}"
            raise UsageError(
                f"{setting}: a secret is not taken from the command line, where other users can read it; give it in "
                f"the environment ({variable}), in a file that {variable}_FILE names, in a file {variable.lower()} of "
                "$CREDENTIALS_DIRECTORY or /run/secrets, in a settings file that only the daemon's user can read "
                "(--config), or use a role"
            )


def _secret_setting(name: str, value: str) -> str | None:
    """The setting through which an argument gives a secret; ``None`` if it gives none."""
    setting = name.replace("-", "_")
    if setting in _ADDRESSES and has_password(value):
        return setting
    if name == "lanes" and any(_nearest_secret(word) for word in re.findall(r"\w+", value)):
        return name
    return _nearest_secret(name)


def _nearest_secret(name: str) -> str | None:
    """The secret setting that a name is or was probably meant to be."""
    found = difflib.get_close_matches(re.sub(r"[-\s]", "_", name.lower()), SECRETS, n=1, cutoff=_SIMILARITY)
    return found[0] if found else None
