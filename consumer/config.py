"""Settings: every one with its unit, range, default and flag, read at start and at a reload.

What a field's type, default and description don't say stands in its ``SettingInfo``. The documentation's table, the
flags of the command line and the reload's check are derived from these fields; no other list of settings exists.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from platformdirs import user_state_path
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    PrivateAttr,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, EnvSettingsSource, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from consumer.errors import SettingsError
from consumer.instance import STORE_FILE, Instance, default_socket
from consumer.notify_url import NotifyUrl, exposure
from consumer.policy import (
    MAX_HIDE_S,
    MAX_WAIT_S,
    RetryPolicy,
    UnroutedPolicy,
    Verify,
)
from consumer.setting_problems import problem_lines
from consumer.setting_values import (
    DAY_S,
    FROM_TEXT,
    HOST_NAMES,
    LANES,
    LEVELS,
    LOWER,
    NO_SWITCH,
    QUEUE_URLS,
    SWITCH_OR_WORDS,
    WORDS,
    Endpoint,
    FilePath,
    Level,
    LogFormat,
    Number,
    QueueUrl,
    parse_store,
)
from consumer.settings_sources import (
    CONFIG_VARIABLE,
    PREFIX,
    from_environment,
    from_flags,
    from_instance,
    from_secret_files,
    from_settings_file,
    nearest,
    problems_of_environment,
    strays,
)
from consumer.store_address import SqliteAddress, StoreAddress


@dataclass(frozen=True, slots=True)
class SettingInfo:
    """What a setting's field does not say of itself.

    A setting that is not ``reloadable`` takes a restart. One without a ``flag`` is given by ``--set``. ``metavar``
    stands for the flag's value in the help, which else shows the choices or the type.
    """

    unit: str = ""
    reloadable: bool = False
    flag: str | None = None
    metavar: str | None = None


_RELOADABLE: Final = SettingInfo(reloadable=True)
_SECONDS: Final = SettingInfo(unit="s", reloadable=True)
_BYTES: Final = SettingInfo(unit="bytes", reloadable=True)
_Seconds = Annotated[float, FROM_TEXT, Field(gt=0, le=365 * DAY_S, allow_inf_nan=False), _SECONDS]


def info_of(field: FieldInfo) -> SettingInfo:
    """A field's ``SettingInfo``; the default one where it has none."""
    return next((each for each in field.metadata if isinstance(each, SettingInfo)), SettingInfo())


_Words = Annotated[tuple[str, ...], NoDecode, WORDS]


class Connection(BaseModel):
    """How the services are reached and with which keys: for the daemon or for one lane."""

    endpoint: Annotated[Endpoint | None, SettingInfo(flag="--endpoint", metavar="URL")] = Field(
        None, description="Address of MNS in place of the NotifyUrl's own, such as the sandbox's."
    )
    mps_endpoint: Annotated[Endpoint | None, SettingInfo(flag="--mps-endpoint", metavar="URL")] = Field(
        None, description="Address of MPS in place of the region's own; default: `endpoint` where that is set."
    )
    access_key_id: Annotated[SecretStr | None, _RELOADABLE] = Field(
        None, description="AccessKey id; without it the default credentials chain applies."
    )
    access_key_secret: Annotated[SecretStr | None, _RELOADABLE] = Field(None, description="AccessKey secret.")
    security_token: Annotated[SecretStr | None, _RELOADABLE] = Field(
        None, description="STS token that belongs to the AccessKey."
    )

    @model_validator(mode="after")
    def _check_keys(self) -> Self:
        if (self.access_key_id is None) != (self.access_key_secret is None):
            raise ValueError("access_key_id and access_key_secret: expected both or neither, got one of them")
        if self.security_token is not None and self.access_key_id is None:
            raise ValueError("security_token: expected access_key_id and access_key_secret beside it")
        return self


class LaneSettings(Connection):
    """An entry of ``lanes``: a queue with settings of its own. What it leaves out is the daemon's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    notify_url: QueueUrl = Field(description="The queue's address.")
    slots: Number | None = Field(
        None, ge=1, le=4096, description="Messages of this queue that handlers work on at once."
    )
    signature: Literal["v2", "v4"] | None = Field(None, description="Version of the signature of its requests.")


class Policy(BaseModel):
    """How messages are handled: the settings that the engine obeys. A reload replaces the whole value."""

    model_config = ConfigDict(frozen=True)

    unrouted: Annotated[UnroutedPolicy, _RELOADABLE] = Field(
        UnroutedPolicy.SET_ASIDE, description="What happens to a message that no handler takes."
    )
    verify: Annotated[Verify, _RELOADABLE] = Field(
        Verify.RESULTS,
        description="Which notifications are checked against MPS: `results`: of failed jobs, and where the handler "
        "wants a result; `always`: of every IProduction job.",
    )
    trust_inline_result: Annotated[bool, _RELOADABLE] = Field(
        default=False, description="Use a result that is in the message itself; MPS is then not queried for it."
    )
    job_retention_s: _Seconds = Field(
        14 * DAY_S,
        description="How long ended jobs are remembered; at least twice the queue's retention, in PostgreSQL at "
        "least 14 days.",
    )
    dead_letter_retention_s: _Seconds = Field(90 * DAY_S, description="How long dead letters are kept.")
    dead_letters_max: Annotated[Number, _RELOADABLE] = Field(
        100_000, ge=1, le=10_000_000, description="Dead letters in the store, not replayed, at which polling pauses."
    )
    dead_letters_max_bytes: Annotated[Number, _BYTES] = Field(
        1024**3, ge=100_000, le=1024**4, description="Size of their bodies and texts at which polling pauses."
    )
    max_polls: Annotated[Number, _RELOADABLE] = Field(
        4, ge=1, le=32, description="Polls at once for each queue while messages flow."
    )
    wait_s: Annotated[int, FROM_TEXT, _SECONDS] = Field(
        MAX_WAIT_S, ge=1, le=MAX_WAIT_S, description="Length of a long poll."
    )
    lease_step_s: Annotated[int, FROM_TEXT, _SECONDS] = Field(
        60, ge=10, le=MAX_HIDE_S, description="How long each renewal of the lease hides a message."
    )
    max_hold_s: _Seconds = Field(MAX_HIDE_S, description="Longest time for which the lease of one run is renewed.")
    handler_timeout_s: _Seconds = Field(300, description="Time for one run of a handler.")
    cancel_grace_s: Annotated[float, FROM_TEXT, _SECONDS] = Field(
        5,
        ge=0,
        le=60,
        allow_inf_nan=False,
        description="Time for an async handler to clean up once it is cancelled; within `stop_deadline_s` at a stop.",
    )
    stuck_limit: Annotated[Number, _RELOADABLE] = Field(
        4,
        ge=1,
        le=256,
        description="Stuck handlers of all queues together at which `/livez` and the watchdog ask for a restart.",
    )
    max_failures: Annotated[Number, _RELOADABLE] = Field(
        10, ge=1, le=1_000_000, description="Failures of the handler after which a message is set aside."
    )
    retry_base_s: _Seconds = Field(30, description="Upper end of the first retry's delay; doubled for each later one.")
    retry_cap_s: _Seconds = Field(3600, description="Upper end of every retry's delay.")
    result_wait_s: _Seconds = Field(
        3600, description="How long MPS may say that a result is not ready before the message is set aside."
    )
    reconcile_after_s: _Seconds = Field(
        900, description="Time after which MPS is asked for a recorded submission whose end was not reported."
    )

    @cached_property
    def retry(self) -> RetryPolicy:
        """How often and how soon a failed handler runs again."""
        return RetryPolicy(max_failures=self.max_failures, base_s=self.retry_base_s, cap_s=self.retry_cap_s)


class Settings(BaseSettings, Policy, Connection):
    """All settings, from the arguments alone; ``load`` reads them from their places."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True, env_ignore_empty=True)

    notify_url: Annotated[_Words, QUEUE_URLS, SettingInfo(flag="--notify-url", metavar="MNS_URL")] = Field(
        (), description="Queues to take messages from: the NotifyUrls that jobs are submitted with."
    )
    lanes: Annotated[tuple[LaneSettings, ...], NoDecode, LANES] = Field(
        (), description="Queues with settings of their own: `notify_url`, `slots`, `signature`, endpoints, keys."
    )
    signature: Literal["v2", "v4"] = Field(
        "v2", description="Version of the signature of requests to MNS: `v2`, the classic one, or `v4`."
    )
    allow_insecure_endpoint: bool = Field(
        default=False, description="Let requests go unencrypted (`http://`) to an endpoint that is not on this machine."
    )
    ca_file: FilePath | None = Field(None, description="Certificates to trust in place of the system's, a PEM file.")

    handlers_dir: Annotated[FilePath | None, SettingInfo(reloadable=True, flag="--handlers", metavar="DIR")] = Field(
        None, description="Folder of drop-in handler files."
    )
    handler_modules: Annotated[_Words, SettingInfo(reloadable=True, flag="--handler-module", metavar="MODULE")] = Field(
        (), description="Import paths that hold handlers."
    )
    handler_entry_points: Annotated[bool | tuple[str, ...], NoDecode, SWITCH_OR_WORDS, _RELOADABLE] = Field(
        default=True,
        description="Take handlers of installed distributions (entry points `mns_consumer.handlers`): of all, of none, "
        "or of those listed by name.",
    )
    shipped: Annotated[bool, SettingInfo(reloadable=True, flag="--shipped/--no-shipped")] = Field(
        default=False, description="Use the shipped handlers, which only log, for functions without another handler."
    )

    store: Annotated[
        StoreAddress | None, NoDecode, PlainValidator(parse_store), SettingInfo(flag="--store", metavar="TARGET")
    ] = Field(
        None,
        description="Ledger and dead letters: a file's path, or postgresql://...; default: `mns-consumer.db` in "
        "`$STATE_DIRECTORY`, else in the user's state folder.",
    )

    slots: Annotated[Number, SettingInfo(flag="--slots", metavar="N")] = Field(
        64, ge=1, le=4096, description="Messages that handlers work on at once, for each queue."
    )
    mps_rate: Annotated[float, NO_SWITCH, SettingInfo(unit="1/s")] = Field(
        100, gt=0, le=100, allow_inf_nan=False, description="Calls to MPS for one account; MPS allows 100."
    )
    stop_deadline_s: Annotated[float, FROM_TEXT, SettingInfo(unit="s")] = Field(
        25, ge=1, le=3600, allow_inf_nan=False, description="Time to stop after SIGTERM."
    )

    admin: bool = Field(default=True, description="Serve /metrics, /livez, /readyz and /startupz.")
    admin_host: str = Field("127.0.0.1", min_length=1, description="Address that the admin server listens on.")
    admin_port: Annotated[Number, SettingInfo(flag="--admin-port", metavar="PORT")] = Field(
        9464, ge=0, le=65_535, description="Port of the admin server; 0 takes a free one."
    )
    admin_allowed_hosts: Annotated[_Words, HOST_NAMES] = Field(
        (),
        description="Host names that requests to the admin server may use, beside IP addresses, localhost and "
        "`admin_host`; `.example.com` means every name below.",
    )
    control_socket: FilePath | None = Field(
        None,
        description="Socket by which commands ask the running daemon; default: `control.sock` in `$RUNTIME_DIRECTORY`, "
        "else in `$XDG_RUNTIME_DIR/mns-consumer`, else none.",
    )
    otel: bool = Field(
        default=False, description="Send traces to OpenTelemetry; needs the extra `otel`, set up by `OTEL_*`."
    )
    trust_trace_parent: bool = Field(
        default=False, description="Continue the trace of a message's sender and hand on its baggage; else link to it."
    )
    log_level: Annotated[
        Level,
        LOWER,
        SettingInfo(reloadable=True, flag="--log-level"),
    ] = Field("info", description="The lowest level that is logged.")
    log_levels: Annotated[Mapping[str, Level], NoDecode, LEVELS, SettingInfo(reloadable=True)] = Field(
        {}, description="Levels of loggers of the standard library, children included, such as `myapp` = `debug`."
    )
    log_format: Annotated[LogFormat, LOWER, SettingInfo(reloadable=True, flag="--log-format")] = Field(
        "auto", description="`auto`: JSON lines, but readable ones on a terminal."
    )

    _strays: Sequence[str] = PrivateAttr(())
    _places: Mapping[str, str] = PrivateAttr({})

    @property
    def strays(self) -> Sequence[str]:
        """Variables of the environment that look like settings and are none."""
        return self._strays

    @property
    def given(self) -> Collection[str]:
        """The settings that some place gives, so that their defaults do not count."""
        return self._places.keys()

    def shown(self) -> Mapping[str, Mapping[str, Any]]:
        """Each setting's ``value`` as JSON, keys hidden, and where it is ``from``."""
        values = self.model_dump(mode="json", exclude={"store"}) | {"store": str(self.store_address())}
        values["control_socket"] = str(self.socket_path() or "")
        return {name: {"value": values[name], "from": self._places.get(name, "default")} for name in setting_fields()}

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - the signature is pydantic's
        init_settings: PydanticBaseSettingsSource,
        *_: PydanticBaseSettingsSource,
        **__: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take the arguments alone."""
        return (init_settings,)

    @model_validator(mode="after")
    def _check_endpoints(self) -> Self:
        places: dict[str, Connection] = {"": self, **{f"lanes.{at}.": lane for at, lane in enumerate(self.lanes)}}
        problems = [
            problem
            for place, each in places.items()
            for name, endpoint in (("endpoint", each.endpoint), ("mps_endpoint", each.mps_endpoint))
            if (problem := exposure(f"{place}{name}", endpoint)) is not None
        ]
        if problems and not self.allow_insecure_endpoint:
            raise ValueError("\n".join(problems))
        return self

    @model_validator(mode="after")
    def _check_consistency(self) -> Self:
        queues = [queue.url.identity for queue in self.queues()]
        problems = [
            f"notify_url: the queue {queue} is named {queues.count(queue)} times; name each once"
            for queue in sorted({queue for queue in queues if queues.count(queue) > 1})
        ]
        for least, most in (
            ("retry_base_s", "retry_cap_s"),
            ("handler_timeout_s", "max_hold_s"),
            ("lease_step_s", "max_hold_s"),
        ):
            least_s, most_s = getattr(self, least), getattr(self, most)
            if most_s < least_s:
                problems.append(f"{most}: expected at least {least} ({least_s:g}), got {most_s:g}")
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def policy(self) -> Policy:
        """The part that the engine obeys, without keys and addresses."""
        return Policy.model_construct(**{name: getattr(self, name) for name in Policy.model_fields})

    def store_address(self) -> StoreAddress:
        """The store's address: as set, else a file in the state folder."""
        if self.store is not None:
            return self.store
        state = os.environ.get("STATE_DIRECTORY", "").partition(":")[0]
        return SqliteAddress((Path(state) if state else user_state_path("mns-consumer")) / STORE_FILE)

    def store_name(self) -> str:
        """The store's address without a secret; the same for each way to write a file's path."""
        address = self.store_address()
        return str(address.path.resolve() if isinstance(address, SqliteAddress) else address)

    def socket_path(self) -> Path | None:
        """Where commands ask the daemon: as set, else in the runtime folder; ``None`` for nowhere."""
        return self.control_socket or default_socket()

    def queues(self) -> Sequence[QueueSettings]:
        """The effective settings of every queue, those of ``notify_url`` first."""
        plain = [LaneSettings.model_construct(notify_url=text) for text in self.notify_url]
        return [QueueSettings(settings=lane, of=self) for lane in (*plain, *self.lanes)]

    def secrets(self) -> Iterator[str]:
        """Every value that must not be shown: keys, tokens, the store's passwords."""
        for keys in (self, *self.lanes):
            for secret in (keys.access_key_secret, keys.security_token):
                if secret is not None:
                    yield secret.get_secret_value()
        yield from self.store_address().secrets


def setting_fields() -> Mapping[str, FieldInfo]:
    """The fields of all settings by name: ``Settings``' own first, then those of its base classes."""
    own_first = sorted(Settings.model_fields.items(), key=lambda item: item[0] not in Settings.__annotations__)
    return dict(own_first)


class QueueSettings:
    """One queue's effective settings: its own, else the daemon's.

    Raises:
        SettingsError: Requests to MPS would be unencrypted.
    """

    def __init__(self, *, settings: LaneSettings, of: Settings) -> None:
        self.url = NotifyUrl.parse(settings.notify_url)
        self.slots = settings.slots or of.slots
        self.signature = settings.signature or of.signature
        own_endpoint = settings.endpoint or of.endpoint
        self.endpoint = own_endpoint or self.url.endpoint
        self.mps_endpoint = settings.mps_endpoint or of.mps_endpoint or own_endpoint or self.url.mps_endpoint
        # Loaded settings are checked already; an endpoint that a command gives for itself is checked only here.
        problem = exposure("endpoint", self.mps_endpoint)
        if problem is not None and not of.allow_insecure_endpoint:
            raise SettingsError(problem)
        # Keys come as a set: never pair a lane's id with the daemon's secret.
        keys: Connection = settings if settings.access_key_id is not None else of
        self.access_key_id = keys.access_key_id
        self.access_key_secret = keys.access_key_secret
        self.security_token = keys.security_token


def load(flags: Mapping[str, Any], config_file: Path | None = None, instance: Instance | None = None) -> Settings:
    """Read the settings. Strongest first: flags, environment, secret files, settings file, default.

    Without ``config_file`` the settings file is that of the instance, or the one that ``MNS_CONSUMER_CONFIG`` names.
    With an instance the secret files are its own, and the store is the one in its state folder.

    Raises:
        SettingsError: One line for each unknown name and each bad value.
    """
    names = Settings.model_fields.keys()
    named = os.environ.get(CONFIG_VARIABLE)
    path = config_file or (instance.settings_file if instance else Path(named) if named else None)
    given = (
        (from_instance(instance) if instance else {})
        | (from_settings_file(path) if path is not None else {})
        | from_secret_files(names, instance.credentials if instance else None)
        | from_environment(EnvSettingsSource(Settings)())
        | from_flags(flags)
    )
    unknown = [name for name in given if name not in names]
    problems = [
        *problems_of_environment(names),
        *(f"{name} ({given[name].place}): no such setting{nearest(name, names)}" for name in unknown),
    ]
    try:
        settings = Settings(**{name: each.value for name, each in given.items() if name in names})
    except ValidationError as error:
        lane_names = LaneSettings.model_fields.keys()
        for detail in error.errors():
            problems += problem_lines(detail, given, names, lane_names)
        raise SettingsError(*problems) from None
    if problems:
        raise SettingsError(*problems)
    settings._strays = strays(names)  # noqa: SLF001 - as above
    settings._places = {name: each.place for name, each in given.items()}  # noqa: SLF001 - as above
    return settings
