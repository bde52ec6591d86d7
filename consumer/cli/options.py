"""The flags that several commands share: the settings, and which records or queues a command means.

The flags of settings are those of the fields' ``SettingInfo``, and ``--set`` for every other setting. The flags of
records are checked here, before the store is asked.
"""

from __future__ import annotations

import functools
import inspect
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Concatenate, Final, Literal, ParamSpec, Self, TypeVar, get_args, get_origin

import typer

from consumer.cli.output import note
from consumer.config import QueueSettings, Settings, info_of, load, setting_fields
from consumer.errors import ConsumerError, UsageError
from consumer.instance import Instance, find_instance, only_instance
from consumer.instance import names as instance_names
from consumer.notify_url import EXPECTED, NotifyUrl
from consumer.ops.sanitize import protect_settings
from consumer.plugin.registry import Registry, Sources, discover
from consumer.policy import Reason
from consumer.settings_sources import is_given, says_where
from consumer.store.ledger import Filter, LetterState

MOST_ID: Final = 2**63 - 1
"""The largest number that either engine gives."""
_UNITS_S: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_AGE: Final = re.compile(r"(\d{1,9})([smhdw])")
_MOST_IDS: Final = 10_000
LONGEST_JOB_ID: Final = 64
_LONGEST: Final = {"function": 64, "job_id": LONGEST_JOB_ID, "error": 500}
"""Characters of a value. MPS has no longer names and ids; a part of an error finds it, too."""
_LONGEST_QUEUE: Final = 500
_FINGERPRINT: Final = re.compile("[0-9a-f]{16}")
_IDENTITY: Final = re.compile(r"[^/\s]+/[^/\s]+/[^/\s]+")
SETTINGS_PANEL: Final = "Settings"
_ANY_OTHER: Final = "Any other setting; the flags of run work too. May be repeated."
_WHICH: Final = "Which ones"
OF_STORE: Final = ("store",)
OF_QUEUE: Final = ("notify_url", "endpoint")
OF_HANDLERS: Final = ("handlers_dir", "handler_modules", "shipped")
"""The settings that matter to a command of the store, of a queue, of handlers."""
_CONFIG: Final = "config"
_SET: Final = "assignments"
_INSTANCE: Final = "instance"
_Own = ParamSpec("_Own")
_First = TypeVar("_First")


@dataclass(frozen=True, slots=True)
class SettingsFlags:
    """The settings that the command line gives, by name, and the settings file that it names."""

    flags: Mapping[str, Any]
    config_file: Path | None
    instance: str | None = None
    """The name of an installed daemon whose settings are meant."""

    @classmethod
    def of(cls, given: dict[str, Any]) -> Self:
        """The values of ``settings_flags``, by name."""
        config_file, assignments, instance = given.pop(_CONFIG), given.pop(_SET), given.pop(_INSTANCE)
        flags = {name: value for name, value in given.items() if value not in (None, [])}
        return cls({**parse_assignments(assignments or ()), **flags}, config_file, instance)

    def load(self, *, for_run: bool = False) -> Settings:
        """Read the settings from all places, and mask their secrets from now on.

        Where nothing says what the settings are, those of the daemon that is installed here count; not so for a daemon
        that is about to run.

        Raises:
            SettingsError: One line for each problem.
        """
        settings = load(self.flags, self.config_file, self.find_instance(for_run=for_run))
        protect_settings(settings.secrets())
        for name in () if for_run else settings.strays:
            note(f"warning: {name} is set, and no setting has this name")
        if not for_run and self.instance is None:
            self._warn_of_unused(settings)
        return settings

    def _warn_of_unused(self, settings: Settings) -> None:
        """Say that an installed daemon is left aside for settings that name no other place."""
        given = settings.given
        installed = instance_names()
        if given and installed and not says_where(given, self.config_file):
            note(
                f"warning: {', '.join(sorted(given))} given, so nothing is taken from the installed daemon"
                f" {' or '.join(installed)}; say --instance {installed[0] if len(installed) == 1 else 'NAME'}"
            )

    def find_instance(self, *, for_run: bool = False) -> Instance | None:
        """The installed daemon whose settings these are; ``None`` for settings from elsewhere.

        Raises:
            SettingsError: None has this name, or there are several and none is named.
        """
        if self.instance is not None:
            return find_instance(self.instance)
        return None if for_run or is_given(self.flags, self.config_file) else only_instance()


def find_handlers(settings: Settings) -> Registry:
    """Find the handlers where the settings say.

    Raises:
        SettingsError: One line for each problem.
    """
    return discover(
        Sources(settings.handlers_dir, settings.handler_modules, settings.handler_entry_points, settings.shipped)
    )


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
        found[key] = value
    return found


def takes_settings(
    *shown: str,
) -> Callable[[Callable[Concatenate[SettingsFlags, _Own], None]], Callable[..., None]]:
    """Give a command the flags of the settings besides its own; its first argument gets their values.

    ``shown`` are the settings that matter to it: its help has their flags alone, and it takes all. None means all.
    """
    return lambda command: with_flags(command, list(settings_flags(*shown)), SettingsFlags.of)


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


def settings_flags(*shown: str) -> Iterator[inspect.Parameter]:
    """The flags of the settings, ``--config`` and ``--set``; ``shown`` as for ``takes_settings``."""
    for name, field in setting_fields().items():
        info = info_of(field)
        if info.flag is not None:
            kind = _kind(field.annotation)
            choices = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
            more = " May be repeated." if kind == list[str] else ""
            metavar, is_hidden = info.metavar or "|".join(choices), bool(shown) and name not in shown
            completion = None if kind is bool else complete_words(_values(field.annotation))
            text = f"{field.description}{more}"
            yield _parameter(name, kind, info.flag, text, metavar, is_hidden=is_hidden, completion=completion)
    text = "The installed daemon of this name; needed if several are."
    yield _parameter(_INSTANCE, str, "--instance", text, "NAME", completion=complete_instance)
    yield _parameter(_CONFIG, Path, "--config", "Settings file, TOML.", "FILE")
    yield _parameter(_SET, list[str], "--set", _ANY_OTHER, "KEY=VALUE", completion=complete_setting)


def _parameter(
    name: str,
    kind: Any,
    flag: str,
    text: str,
    metavar: str,
    *,
    is_hidden: bool = False,
    completion: Callable[[str], Sequence[str]] | None = None,
) -> inspect.Parameter:
    option = typer.Option(
        flag,
        help=text,
        metavar=metavar or None,
        rich_help_panel=SETTINGS_PANEL,
        show_default=False,
        hidden=is_hidden,
        autocompletion=completion,
    )
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option]
    )


def _kind(annotation: Any) -> Any:
    """What typer parses a flag as. The settings check the value, so that it is refused alike from every place."""
    if get_origin(annotation) is tuple:
        return list[str]
    return bool if annotation is bool else str


def complete_words(words: Sequence[str]) -> Callable[[str], Sequence[str]]:
    """What a shell offers of some fixed words."""

    def complete(begun: str) -> Sequence[str]:
        return [word for word in words if word.startswith(begun)]

    return complete


def complete_function(begun: str) -> Sequence[str]:
    """The documented FunctionNames that a shell offers."""
    from consumer.functions.catalogue import names  # noqa: PLC0415 - completion alone needs the models

    return [name for name in names() if name.startswith(begun)]


def complete_instance(begun: str) -> Sequence[str]:
    """The names of the daemons that are set up here."""
    return [name for name in instance_names() if name.startswith(begun)]


def complete_setting(begun: str) -> Sequence[str]:
    """The settings by name, with the sign that follows, and the fixed values of one that has them."""
    name, equals, value = begun.partition("=")
    if not equals:
        return [f"{each}=" for each in setting_fields() if each.startswith(name)]
    field = setting_fields().get(name)
    return [] if field is None else [f"{name}={each}" for each in _values(field.annotation) if each.startswith(value)]


def complete_queue(context: typer.Context, begun: str) -> Sequence[str]:
    """The queues that the settings name, with the flags that the command line has so far; none if they are wrong."""
    names = (*(name for name, field in setting_fields().items() if info_of(field).flag), _CONFIG, _SET, _INSTANCE)
    try:
        queues = SettingsFlags.of({name: context.params.get(name) or None for name in names}).load().queues()
    except ConsumerError:
        return []
    return [lane.url.identity for lane in queues if lane.url.identity.startswith(begun)]


def _values(annotation: Any) -> Sequence[str]:
    if annotation is bool:
        return ("true", "false")
    if isinstance(annotation, type) and issubclass(annotation, StrEnum):
        return tuple(annotation)
    return get_args(annotation) if get_origin(annotation) is Literal else ()


class Ending(StrEnum):
    """How a job ended."""

    DONE = "done"
    DEAD = "dead"


class WhichJobs(StrEnum):
    """Where a job is, as far as the store or its daemon knows."""

    RUNNING = "running"
    RETRYING = "retrying"
    ENDED = "ended"
    DEAD = "dead"


def _which(
    name: str, text: str, metavar: str | None = None, completion: Callable[..., Sequence[str]] | None = None
) -> Any:
    return typer.Option(name, help=text, metavar=metavar, rich_help_panel=_WHICH, autocompletion=completion)


_RECORD_FLAGS: Final[Mapping[str, Any]] = {
    "ids": Annotated[
        list[int] | None, typer.Argument(metavar="[ID]...", min=1, max=MOST_ID, help="Numbers, as list shows them.")
    ],
    "function": Annotated[str | None, _which("--function", "Of this FunctionName or kind.", "NAME", complete_function)],
    "reason": Annotated[
        Reason | None, _which("--reason", f"Set aside for this reason: {', '.join(Reason)}.", "REASON")
    ],
    "since": Annotated[str | None, _which("--since", "Stored since: 30m, 2h, 7d, or an ISO time (UTC).", "TIME")],
    "until": Annotated[str | None, _which("--until", "Stored before: as for --since.", "TIME")],
    "job_id": Annotated[str | None, _which("--job-id", "Of this JobId or RunId.", "ID")],
    "queue": Annotated[
        str | None,
        _which(
            "--queue",
            "Of this queue: ACCOUNT/REGION/NAME, its NotifyUrl, or the name of one in the settings.",
            "QUEUE",
            complete_queue,
        ),
    ],
    "state": Annotated[
        LetterState | None, _which("--state", f"In this state of replay: {', '.join(LetterState)}.", "STATE")
    ],
    "error": Annotated[
        str | None, _which("--error", "With this text in the error; a to z match in either case.", "TEXT")
    ],
    "error_fingerprint": Annotated[
        str | None, _which("--fingerprint", "With this fingerprint of the error, as groups shows it.", "HEX")
    ],
    "ended": Annotated[Ending | None, _which("--ended", "Ended this way: done or dead (as --state dead).", "END")],
    "job_state": Annotated[
        WhichJobs | None,
        _which(
            "--state",
            "In this state: running, retrying (it has failed and waits for its next attempt), ended or dead.",
            "STATE",
        ),
    ],
    "everything": Annotated[bool, _which("--all", "All of them, if no other flag chooses.")],
}
_DEFAULTS: Final[Mapping[str, Any]] = {"everything": False}
JOBS: Final = ("function", "since", "until", "job_id", "queue", "ended", "job_state")
LETTERS: Final = ("function", "reason", "since", "until", "job_id", "queue", "state", "error", "error_fingerprint")


@dataclass(frozen=True, slots=True)
class Selection:
    """The settings, and the records that a command line selects."""

    settings: Settings
    wanted: Filter
    ended: Ending | None = None
    job_state: WhichJobs | None = None
    everything: bool = False

    @classmethod
    def of(cls, given: dict[str, Any]) -> Selection:
        """The values of some of ``_RECORD_FLAGS`` and of the settings' flags, by name."""
        own = {name: given.pop(name) for name in _RECORD_FLAGS if name in given}
        ended, state, everything = own.pop("ended", None), own.pop("job_state", None), own.pop("everything", False)
        if ended is not None and state is not None:
            raise UsageError("expected either --state or --ended, not both")
        if state is WhichJobs.DEAD:
            ended = Ending.DEAD
        settings = SettingsFlags.of(given).load()
        return cls(settings, filter_of(settings, **own), ended, state, everything)

    def demand(self, verb: str) -> None:
        """Check that a command which changes records names them in exactly one way.

        Raises:
            UsageError: It names none, or mixes numbers, flags and ``--all``.
        """
        ways = [bool(self.wanted.ids), self.wanted != Filter(ids=self.wanted.ids), self.everything]
        if not any(ways):
            raise UsageError(f"{verb} what? Expected numbers of dead letters, a flag such as --reason, or --all")
        if sum(ways) > 1:
            raise UsageError(f"{verb} what? Expected either numbers, or flags such as --reason, or --all, not several")


def selects(
    *names: str, shown: Sequence[str] = OF_STORE
) -> Callable[[Callable[Concatenate[Selection, _Own], None]], Callable[..., None]]:
    """Give a command the settings' flags and some of ``_RECORD_FLAGS``; its first argument is the ``Selection``.

    ``shown`` as for ``takes_settings``.
    """
    kind = inspect.Parameter.KEYWORD_ONLY
    own = [inspect.Parameter(name, kind, default=_DEFAULTS.get(name), annotation=_RECORD_FLAGS[name]) for name in names]
    return lambda command: with_flags(command, [*own, *settings_flags(*shown)], Selection.of)


def filter_of(
    settings: Settings,
    *,
    ids: Sequence[int] | None = None,
    queue: str | None = None,
    since: str | None = None,
    until: str | None = None,
    **equal: Any,
) -> Filter:
    """Make a filter of the flags' values.

    Raises:
        UsageError: A value is not what is expected.
    """
    now = datetime.now(UTC)
    for name, longest in _LONGEST.items():
        if equal.get(name) is not None:
            demand_text(f"--{name.replace('_', '-')}", equal[name], longest)
    fingerprint = equal.get("error_fingerprint")
    if fingerprint is not None and not _FINGERPRINT.fullmatch(fingerprint):
        raise UsageError(
            f"--fingerprint {fingerprint[:80]!r}: expected 16 digits of 0-9 and a-f;"
            " see 'mns-consumer dead-letters groups'"
        )
    if len(ids or ()) > _MOST_IDS:
        raise UsageError(f"expected at most {_MOST_IDS:,} numbers, came {len(ids or ()):,}; use flags or several calls")
    first = None if since is None else parse_time("--since", since, now)
    end = None if until is None else parse_time("--until", until, now)
    if first is not None and end is not None and first >= end:
        raise UsageError(f"--since {since!r} is not before --until {until!r}: expected a time before it")
    return Filter(
        ids=tuple(ids or ()),
        queue=None if queue is None else queue_identity(settings, queue),
        since=first,
        until=end,
        **equal,
    )


def parse_time(flag: str, text: str, now: datetime) -> float:
    """Read an age such as ``30s``, ``30m``, ``2h``, ``7d`` or ``2w``, or an ISO time (UTC if it names no zone).

    Returns:
        UNIX seconds.

    Raises:
        UsageError: It is neither.
    """
    found = _AGE.fullmatch(text.strip())
    try:
        if found is not None:
            return (now - timedelta(seconds=int(found[1]) * _UNITS_S[found[2]])).timestamp()
        time = datetime.fromisoformat(text.strip())
        return (time if time.tzinfo is not None else time.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise UsageError(
            f"{flag} {text[:80]!r}: expected an age such as 30m, 2h or 7d, or a time such as 2026-01-31T12:00:00Z"
        ) from None


def queue_identity(settings: Settings, text: str) -> str:
    """``ACCOUNT/REGION/NAME`` of the queue that a text names; records are stored under it.

    Raises:
        UsageError: The text is no address, and names none or several of the settings' queues.
    """
    demand_text("--queue", text, _LONGEST_QUEUE)
    if text.startswith("mns:"):
        return NotifyUrl.parse(text).identity
    return text if _IDENTITY.fullmatch(text) else queue_named(settings, text).url.identity


def queue_named(settings: Settings, text: str | None) -> QueueSettings:
    """One of the settings' queues, by its name, ``ACCOUNT/REGION/NAME`` or NotifyUrl; ``None`` means the only one.

    Raises:
        UsageError: None matches, or more than one.
    """
    lanes = settings.queues()
    if text is not None and text.startswith("mns:"):
        text = NotifyUrl.parse(text).identity
    found = [lane for lane in lanes if text is None or text in (lane.url.queue, lane.url.identity)]
    if len(found) == 1:
        return found[0]
    known = ", ".join(lane.url.identity for lane in lanes) or f"none; say --notify-url {EXPECTED}"
    if text is None:
        raise UsageError(f"expected one queue; those in the settings: {known}" + ("; say --queue" if lanes else ""))
    problem = "names several of the settings' queues" if found else "is none of the settings' queues"
    raise UsageError(
        f"queue {text[:200]!r} {problem}: {known}; expected ACCOUNT/REGION/NAME, a NotifyUrl or one's name"
    )


def missing_queue(settings: Settings) -> list[str]:
    """The problem line for settings that name no queue; empty if they name one."""
    if settings.queues():
        return []
    expected = f"say --notify-url {EXPECTED} or set MNS_CONSUMER_NOTIFY_URL"
    return [f"notify_url: expected at least one queue, got none; {expected}"]


def demand_text(flag: str, text: str, longest: int) -> None:
    """Check a text that is looked for.

    Raises:
        UsageError: It is empty or too long, or has characters that no stored text has.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{flag} {text[:80]!r}: expected UTF-8") from None
    if not text.strip():
        raise UsageError(f"{flag} is empty: expected a text; leave the flag out to take any")
    if len(text) > longest:
        raise UsageError(f"{flag} has {len(text):,} characters: expected at most {longest:,}")
    if any(unicodedata.category(character) == "Cc" for character in text):
        raise UsageError(f"{flag} {text[:80]!r}: expected one line without control characters")
