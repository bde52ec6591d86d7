"""The flags that several commands share, and the settings that come of them.

``takes_settings`` gives a command the daemon's flags and hands it what was said as one ``Said``; what a flag does not
say comes from the file and the environment.

Elsewhere: the settings themselves, and what is wrong with them (``config``).
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Concatenate, Final, ParamSpec

import typer

from consumer.errors import SettingsError, UsageError

if TYPE_CHECKING:
    from consumer.config import Settings

SETTINGS_PANEL: Final = "Settings"
_Own = ParamSpec("_Own")


@dataclass(frozen=True, slots=True)
class Said:
    """What the command line says of the settings.

    Args:
        flags: Setting to value; only what was said.
        config_file: The TOML file; ``None`` leaves it to the environment.
    """

    flags: Mapping[str, Any]
    config_file: Path | None

    def settings(self) -> Settings:
        """Read the settings from everywhere.

        Raises:
            SettingsError: One line for each problem.
            UsageError: Nothing is wrong but a NotifyUrl on the command line.
        """
        from consumer.config import load  # noqa: PLC0415 - pydantic is loaded by who needs it, not by --help
        from consumer.ops.redact import protect_settings  # noqa: PLC0415 - the same

        try:
            settings = load(self.flags, self.config_file)
        except SettingsError as error:
            # A slip on the command line, so it counts as one; the same in a file is a wrong setting.
            if all(problem.startswith("notify_url (command line)") for problem in error.problems):
                raise UsageError("; ".join(error.problems)) from None
            raise
        # What is stored and shown may hold them.
        protect_settings(settings.secrets())
        return settings


def parse_assignments(assignments: Sequence[str]) -> dict[str, Any]:
    """Read ``KEY=VALUE`` texts; whether there is such a setting is told by the settings themselves.

    Raises:
        UsageError: One of them is not of that form. Its text is not repeated: it may hold a secret.
    """
    found: dict[str, Any] = {}
    for number, text in enumerate(assignments, 1):
        key, equals, value = text.partition("=")
        key = key.strip().lower().replace("-", "_")
        # A leading underscore would reach the settings reader's own switches.
        if not equals or not key.isidentifier() or key.startswith("_"):
            raise UsageError(f"--set number {number}: expected KEY=VALUE, such as --set retry_base_s=10")
        found[key] = _decoded(key, value) if key == "lanes" else value
    return found


def _decoded(key: str, value: str) -> Any:
    import json  # noqa: PLC0415 - for one setting of fifty

    try:
        return json.loads(value)
    except ValueError as error:
        raise UsageError(f"--set {key}: expected a JSON array of objects: {error}") from None


def _option(names: str, text: str, metavar: str | None = None) -> Any:
    return typer.Option(names, help=text, metavar=metavar, rich_help_panel=SETTINGS_PANEL, show_default=False)


_CONFIG: Final = "config"
_SET: Final = "assign"
_FLAGS: Final[Mapping[str, tuple[Any, Any]]] = {
    "notify_url": (list[str], _option("--notify-url", "Queue to take messages from; may be repeated.", "MNS_URL")),
    "handlers_dir": (Path, _option("--handlers", "Folder of handler files.", "DIR")),
    "handler_modules": (
        list[str],
        _option("--handler-module", "Import path that holds handlers; may be repeated.", "MODULE"),
    ),
    "shipped": (bool, _option("--shipped/--no-shipped", "Use the shipped handlers, which log and keep, for the rest.")),
    "endpoint": (str, _option("--endpoint", "Address of MNS (and MPS) in place of the NotifyUrl's own.", "URL")),
    "mps_endpoint": (str, _option("--mps-endpoint", "Address of MPS in place of the region's own.", "URL")),
    "store": (str, _option("--store", "Ledger and dead letters: a file, or postgresql://...", "TARGET")),
    "slots": (int, _option("--slots", "Messages held at once for each queue.", "N")),
    "admin_port": (int, _option("--admin-port", "Port of /metrics, /livez and /readyz; 0 takes a free one.", "PORT")),
    "log_level": (str, _option("--log-level", "debug, info, warning or error.", "LEVEL")),
    "log_format": (str, _option("--log-format", "auto, json or console.", "FORMAT")),
    _CONFIG: (Path, _option("--config", "Settings file, TOML.", "FILE")),
    _SET: (list[str], _option("--set", "Any other setting; may be repeated.", "KEY=VALUE")),
}
_KEYWORD: Final = inspect.Parameter.KEYWORD_ONLY


def takes_settings(command: Callable[Concatenate[Said, _Own], None]) -> Callable[..., None]:
    """Give a command the daemon's flags beside its own parameters.

    Args:
        command: Called with what was said, then with its own parameters.
    """

    @functools.wraps(command)
    def with_flags(*own: _Own.args, **values: _Own.kwargs) -> None:
        said: dict[str, Any] = {name: values.pop(name) for name in _FLAGS}
        config_file = said.pop(_CONFIG)
        flags = {name: value for name, value in said.items() if value not in (None, []) and name != _SET}
        command(Said({**parse_assignments(said[_SET] or ()), **flags}, config_file), *own, **values)

    parameters = [
        parameter.replace(kind=_KEYWORD)
        for parameter in list(inspect.signature(command, eval_str=True).parameters.values())[1:]
    ]
    parameters += [
        inspect.Parameter(name, _KEYWORD, default=None, annotation=Annotated[kind | None, option])
        for name, (kind, option) in _FLAGS.items()
    ]
    # typer builds its flags from the signature: this one is read, the wrapped command's own is not.
    with_flags.__dict__["__signature__"] = inspect.Signature(parameters)
    with_flags.__annotations__ = {}
    return with_flags
