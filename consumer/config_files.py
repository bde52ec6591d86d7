"""The two places of settings that are files: the settings file and the service manager's credentials directory.

Each file must be safe from other users' changes (``strict_modes``). One that holds a secret must not be readable by
every user of the machine either. Its group may read it: systemd gives its service access that way.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from consumer.errors import SettingsError
from consumer.secret_settings import holds_secret
from consumer.strict_modes import UnsafeFileError, read

_JSON = frozenset({"lanes"})
"""Settings whose file holds JSON, as their environment variable does."""


def read_toml(path: Path) -> dict[str, Any]:
    """Read the settings file.

    Raises:
        SettingsError: It can't be read, is no TOML, is not safe, or shows a secret to everybody.
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
            f"`chmod o-r {path}`, or give the secret in the environment or in $CREDENTIALS_DIRECTORY"
        )
    return settings


class CredentialFiles(PydanticBaseSettingsSource):
    """One file for each setting, named like its environment variable in lower case; an empty one says nothing.

    Args:
        settings_cls: The settings.
        folder: Where the files are; ``None`` for none.
        prefix: What their names begin with.
    """

    def __init__(self, settings_cls: type[BaseSettings], folder: Path | None, prefix: str) -> None:
        super().__init__(settings_cls)
        self._folder = folder
        self._prefix = prefix.lower()

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002 - as inherited
        """Unused: all values are read at once."""
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        """Read every file that is named like a setting.

        Raises:
            SettingsError: One of them can't be read, is not safe, or shows a secret to everybody.
        """
        if self._folder is None:
            return {}
        try:
            files = sorted(self._folder.iterdir())
        except OSError as error:
            raise SettingsError(f"$CREDENTIALS_DIRECTORY {self._folder} can't be read: {error.strerror}") from None
        names: Mapping[str, str] = {f"{self._prefix}{name}": name for name in self.settings_cls.model_fields}
        known = {names[file.name.lower()]: file for file in files if file.name.lower() in names}
        return {name: value for name, file in known.items() if (value := _credential(name, file))}


def _credential(name: str, file: Path) -> Any:
    try:
        content = read(file)
        text = content.data.decode("utf-8").strip()
        value = json.loads(text) if text and name in _JSON else text
    except UnsafeFileError as error:
        raise SettingsError(*(f"{name}: {problem}" for problem in error.problems)) from None
    except OSError as error:
        raise SettingsError(f"{name} ({file}): can't be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{name} ({file}): expected UTF-8 text") from None
    except ValueError:
        raise SettingsError(f"{name} ({file}): expected JSON") from None
    if content.public and holds_secret(name, value):
        raise SettingsError(f"{name}: every user of this machine can read {file}; run `chmod o-r {file}`")
    return cast("object", value)
