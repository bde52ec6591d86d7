"""The flags of the settings, which most commands take, and the settings that follow from them.

The flags are those of the fields' ``SettingInfo``, and ``--set`` for every other setting.
"""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Concatenate, Final, Literal, ParamSpec, Self, TypeVar, get_args, get_origin

import typer

from consumer.config import Settings, info_of, load, setting_fields
from consumer.errors import SettingsError, UsageError
from consumer.ops.redact import protect_settings

SETTINGS_PANEL: Final = "Settings"
_CONFIG: Final = "config"
_SET: Final = "assignments"
_Own = ParamSpec("_Own")
_First = TypeVar("_First")


@dataclass(frozen=True, slots=True)
class SettingsFlags:
    """The settings that the command line gives, by name, and the settings file that it names."""

    flags: Mapping[str, Any]
    config_file: Path | None

    @classmethod
    def of(cls, given: dict[str, Any]) -> Self:
        """The values of ``settings_flags``, by name."""
        config_file, assignments = given.pop(_CONFIG), given.pop(_SET)
        flags = {name: value for name, value in given.items() if value not in (None, [])}
        return cls({**parse_assignments(assignments or ()), **flags}, config_file)

    def load(self) -> Settings:
        """Read the settings from all places, and mask their secrets from now on.

        Raises:
            SettingsError: One line for each problem.
            UsageError: The only problem is a NotifyUrl of the command line.
        """
        try:
            settings = load(self.flags, self.config_file)
        except SettingsError as error:
            # On the command line it is a slip (exit code 2), in a file a wrong setting (78).
            if all(problem.startswith("notify_url (command line)") for problem in error.problems):
                raise UsageError("; ".join(error.problems)) from None
            raise
        protect_settings(settings.secrets())
        return settings


def parse_assignments(assignments: Sequence[str]) -> dict[str, Any]:
    """Parse ``KEY=VALUE`` texts. Whether the setting exists is checked with all settings.

    Raises:
        UsageError: A text has another form. It is not repeated, because it may hold a secret.
    """
    found: dict[str, Any] = {}
    for number, text in enumerate(assignments, 1):
        key, equals, value = text.partition("=")
        key = key.strip().lower().replace("-", "_")
        # pydantic-settings takes its own options as arguments with a leading underscore.
        if not equals or not key.isidentifier() or key.startswith("_"):
            raise UsageError(f"--set number {number}: expected KEY=VALUE, such as --set retry_base_s=10")
        found[key] = _parse_json(key, value) if key == "lanes" else value
    return found


def _parse_json(key: str, value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError as error:
        raise UsageError(f"--set {key}: expected a JSON array of objects: {error}") from None


def takes_settings(command: Callable[Concatenate[SettingsFlags, _Own], None]) -> Callable[..., None]:
    """Give a command the flags of the settings besides its own; its first argument gets their values."""
    return with_flags(command, list(settings_flags()), SettingsFlags.of)


def with_flags(
    command: Callable[Concatenate[_First, _Own], None],
    flags: Sequence[inspect.Parameter],
    make: Callable[[dict[str, Any]], _First],
) -> Callable[..., None]:
    """Give a command flags besides its own; ``make`` turns their values, by name, into its first argument."""

    @functools.wraps(command)
    def flagged(*own: _Own.args, **values: _Own.kwargs) -> None:
        command(make({flag.name: values.pop(flag.name) for flag in flags}), *own, **values)

    _, *parameters = inspect.signature(command, eval_str=True).parameters.values()
    parameters = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in parameters]
    # typer makes its options from the signature.
    flagged.__dict__["__signature__"] = inspect.Signature([*parameters, *flags])
    flagged.__annotations__ = {}
    return flagged


def settings_flags() -> Iterator[inspect.Parameter]:
    """The flags of the settings, ``--config`` and ``--set``."""
    for name, field in setting_fields().items():
        info = info_of(field)
        if info.flag is not None:
            kind = _kind(field.annotation)
            choices = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
            more = " May be repeated." if kind == list[str] else ""
            yield _parameter(name, kind, info.flag, f"{field.description}{more}", info.metavar or "|".join(choices))
    yield _parameter(_CONFIG, Path, "--config", "Settings file, TOML.", "FILE")
    yield _parameter(_SET, list[str], "--set", "Any other setting. May be repeated.", "KEY=VALUE")


def _parameter(name: str, kind: Any, flag: str, text: str, metavar: str) -> inspect.Parameter:
    option = typer.Option(flag, help=text, metavar=metavar or None, rich_help_panel=SETTINGS_PANEL, show_default=False)
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option]
    )


def _kind(annotation: Any) -> Any:
    """What typer parses a flag as; the settings check the value."""
    if get_origin(annotation) is tuple:
        return list[str]
    kinds = get_args(annotation) or (annotation,)
    return next((kind for kind in (bool, int, Path) if kind in kinds), str)
