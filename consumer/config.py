"""Settings: every knob with its unit, range and default, read once at start and checked together.

Four places, in rising strength: files of the service manager's credentials directory, the environment
(``MNS_CONSUMER_*``), a TOML file, command line flags. Unknown keys and bad values stop the start with one line
each that names the setting, what was expected, what came and where it stood.

Elsewhere: building the parts that the settings describe (``app``), reading the files (``config_files``), telling what
is wrong (``config_problems``).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from platformdirs import user_state_path
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SecretsSettingsSource,
    SettingsConfigDict,
)

from consumer.config_files import CredentialFiles, read_toml
from consumer.config_problems import Given, nearest
from consumer.endpoints import checked_endpoint, exposure
from consumer.errors import SettingsError
from consumer.notify_url import NotifyUrl
from consumer.policy import (
    MAX_HIDE_S,
    MAX_WAIT_S,
    LeasePolicy,
    LetterLimits,
    RetryPolicy,
    TrustPolicy,
    UnroutedPolicy,
    Verify,
)
from consumer.store_address import SqliteAddress, StoreAddress
from consumer.store_url import parse_store_address

PREFIX: Final = "MNS_CONSUMER_"
CONFIG_VARIABLE: Final = f"{PREFIX}CONFIG"
_DAY_S: Final = 86_400
# What Kubernetes puts into every pod beside a service that is called mns-consumer; nobody set it.
_KUBERNETES: Final = re.compile(r"MNS_CONSUMER_(SERVICE_(HOST|PORT(_\w+)?)|PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?)")
_HOST_NAME: Final = re.compile(r"\.?[A-Za-z0-9_]([A-Za-z0-9_.-]{0,250}[A-Za-z0-9_])?")

_YES: Final = frozenset({"true", "yes", "on", "1"})
_NO: Final = frozenset({"false", "no", "off", "0"})

Seconds = Annotated[float, Field(gt=0, le=365 * _DAY_S, allow_inf_nan=False)]
Endpoint = Annotated[str, Field(description="http(s)://HOST[:PORT]")]


class Connection(BaseModel):
    """How the services are reached and with which keys; settings of the whole daemon or of one lane."""

    endpoint: Endpoint | None = Field(
        None, description="Address of MNS in place of the NotifyUrl's own, such as http://127.0.0.1:8420."
    )
    mps_endpoint: Endpoint | None = Field(
        None, description="Address of MPS in place of the region's own; default: `endpoint` where that is set."
    )
    access_key_id: SecretStr | None = Field(
        None, description="AccessKey id; without it the default credentials chain is asked."
    )
    access_key_secret: SecretStr | None = Field(None, description="AccessKey secret.")
    security_token: SecretStr | None = Field(None, description="STS token that belongs to the AccessKey.")

    _endpoints = field_validator("endpoint", "mps_endpoint")(checked_endpoint)

    @model_validator(mode="after")
    def _keys_come_together(self) -> Self:
        if (self.access_key_id is None) != (self.access_key_secret is None):
            raise ValueError("access_key_id and access_key_secret: expected both or neither, got one of them")
        if self.security_token is not None and self.access_key_id is None:
            raise ValueError("security_token: expected access_key_id and access_key_secret beside it")
        return self


class LaneSettings(Connection):
    """One NotifyUrl with settings of its own; what it leaves out is the daemon's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    notify_url: Annotated[str, Field(description="The queue's address.")]
    slots: Annotated[
        int | None, Field(ge=1, le=4096, description="Messages of this queue that handlers work on at once.")
    ] = None
    signature: Literal["v2", "v4"] | None = Field(None, description="Version of the signature of its requests.")

    @field_validator("notify_url")
    @classmethod
    def _is_notify_url(cls, value: str) -> str:
        NotifyUrl.parse(value)
        return value


class Policy(BaseModel):
    """How messages are handled: the settings that the engine obeys. A reload replaces the whole value."""

    model_config = ConfigDict(frozen=True)

    unrouted: UnroutedPolicy = Field(
        UnroutedPolicy.SET_ASIDE, description="What becomes of a message that no handler takes."
    )
    verify: Verify = Field(
        Verify.RESULTS,
        description="Which notifications are checked against MPS: `results`: of failed jobs, and where the handler "
        "wants a result; `always`: of every IProduction job.",
    )
    trust_inline_result: bool = Field(
        default=False, description="Use a result that stands in the message itself; MPS is then not asked for it."
    )
    job_retention_s: Seconds = Field(
        14 * _DAY_S,
        description="For how long ended jobs are remembered; at least twice the queue's retention, in PostgreSQL at "
        "least 14 days.",
    )
    dead_letter_retention_s: Seconds = Field(90 * _DAY_S, description="For how long dead letters are kept.")
    dead_letters_max: int = Field(
        100_000, ge=1, le=10_000_000, description="Dead letters in the store, not replayed, at which polling pauses."
    )
    dead_letters_max_bytes: int = Field(
        1024**3, ge=100_000, le=1024**4, description="Bytes of their bodies and texts at which polling pauses."
    )
    max_polls: int = Field(4, ge=1, le=32, description="Polls at once for each queue while messages flow.")
    wait_s: int = Field(MAX_WAIT_S, ge=1, le=MAX_WAIT_S, description="Length of a long poll.")
    lease_step_s: int = Field(60, ge=10, le=MAX_HIDE_S, description="For how long each renewal hides a message.")
    max_hold_s: Seconds = Field(MAX_HIDE_S, description="The most that a message is held in one run.")
    handler_timeout_s: Seconds = Field(300, description="Time for one run of a handler.")
    cancel_grace_s: float = Field(
        5,
        ge=0,
        le=60,
        allow_inf_nan=False,
        description="Time for an async handler to clean up once it is cancelled; within `stop_deadline_s` at a stop.",
    )
    stuck_limit: int = Field(
        4,
        ge=1,
        le=256,
        description="Stuck handlers of all queues together at which `/livez` and the watchdog ask for a restart.",
    )
    max_failures: int = Field(10, ge=1, le=1_000_000, description="Failures of the handler that exhaust a message.")
    retry_base_s: Seconds = Field(30, description="Upper end of the first retry's delay; doubled for each later one.")
    retry_cap_s: Seconds = Field(3600, description="Upper end of every retry's delay.")
    result_wait_s: Seconds = Field(3600, description="For how long a result may be not ready before it is set aside.")

    @cached_property
    def retry(self) -> RetryPolicy:
        """How often and how soon a failed handler runs again."""
        return RetryPolicy(max_failures=self.max_failures, base_s=self.retry_base_s, cap_s=self.retry_cap_s)

    @cached_property
    def trust(self) -> TrustPolicy:
        """How far a notification is believed."""
        return TrustPolicy(self.verify, self.trust_inline_result)

    @cached_property
    def letter_limits(self) -> LetterLimits:
        """How many dead letters the store may hold."""
        return LetterLimits(self.dead_letters_max, self.dead_letters_max_bytes)

    @cached_property
    def lease(self) -> LeasePolicy:
        """How long a handler may keep its message."""
        return LeasePolicy(step_s=self.lease_step_s, max_s=self.max_hold_s)


class Settings(BaseSettings, Policy, Connection):
    """Everything that can be set. Durations are seconds and say so in their name."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, extra="forbid", frozen=True, env_ignore_empty=True, nested_model_default_partial_update=False
    )

    notify_url: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Queues to take messages from: the NotifyUrls that jobs are submitted with."
    )
    lanes: tuple[LaneSettings, ...] = Field(
        (),
        description="Queues with settings of their own: `notify_url`, `slots`, `signature`, endpoints, keys.",
    )
    signature: Literal["v2", "v4"] = Field(
        "v2", description="Version of the signature of requests to MNS: `v2`, the classic one, or `v4`."
    )
    allow_insecure_endpoint: bool = Field(
        default=False, description="Let requests go unencrypted (`http://`) to an endpoint that is not on this machine."
    )
    ca_file: Path | None = Field(None, description="Certificates to trust in place of the system's, a PEM file.")

    handlers_dir: Path | None = Field(None, description="Folder of drop-in handler files.")
    handler_modules: Annotated[tuple[str, ...], NoDecode] = Field((), description="Import paths that hold handlers.")
    handler_entry_points: Annotated[bool | tuple[str, ...], NoDecode] = Field(
        default=True,
        description="Take handlers of installed distributions (entry points `mns_consumer.handlers`): of all, of none, "
        "or of those listed by name.",
    )
    shipped: bool = Field(default=False, description="Use the shipped handlers, which log and keep, for the rest.")

    store: Annotated[StoreAddress | None, NoDecode] = Field(
        None,
        description="Ledger and dead letters: a file's path, or postgresql://...; default: `mns-consumer.db` in "
        "`$STATE_DIRECTORY`, else in the user's state folder.",
    )

    slots: int = Field(64, ge=1, le=4096, description="Messages that handlers work on at once, for each queue.")
    mps_rate: float = Field(
        100, gt=0, le=100, allow_inf_nan=False, description="Calls a second to MPS for one account; MPS allows 100."
    )
    stop_deadline_s: float = Field(25, ge=1, le=3600, allow_inf_nan=False, description="Time to end after SIGTERM.")

    admin: bool = Field(default=True, description="Serve /metrics, /livez and /readyz.")
    admin_host: str = Field("127.0.0.1", min_length=1, description="Address that the admin server listens on.")
    admin_port: int = Field(9464, ge=0, le=65_535, description="Its port; 0 takes a free one.")
    admin_allowed_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Names by which it may be asked, beside IP addresses, localhost and `admin_host`; `.example.com` "
        "means every name below.",
    )
    otel: bool = Field(default=False, description="Tell OpenTelemetry; needs the extra `otel`, set up by `OTEL_*`.")
    trust_trace_parent: bool = Field(
        default=False, description="Continue the trace of a message's sender and hand on its baggage; else link to it."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="The least that is logged.")
    log_format: Literal["auto", "json", "console"] = Field(
        "auto", description="`auto`: JSON lines, but readable ones on a terminal."
    )

    @field_validator("notify_url", "handler_modules", "admin_allowed_hosts", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(part for part in re.split(r"[,\s]+", value) if part) if isinstance(value, str) else value

    @field_validator("handler_entry_points", mode="before")
    @classmethod
    def _switch_or_names(cls, value: object) -> object:
        switch = str(value).strip().lower()
        if switch in {*_YES, *_NO}:
            return switch in _YES
        if not isinstance(value, str | list | tuple):
            raise ValueError("expected true, false or a list of distributions")  # noqa: TRY004 - pydantic's own kind
        return cls._split(value)

    @field_validator("notify_url")
    @classmethod
    def _are_notify_urls(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            NotifyUrl.parse(text)
        return value

    @field_validator("admin_allowed_hosts")
    @classmethod
    def _are_host_names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if wrong := [name for name in value if not _HOST_NAME.fullmatch(name)]:
            raise ValueError(f"expected names without scheme and port, such as films or .example.com; not {wrong[0]!r}")
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - as inherited; no such file is read
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read the credentials directory in our own, stricter way."""
        folder = file_secret_settings.secrets_dir if isinstance(file_secret_settings, SecretsSettingsSource) else None
        credentials = CredentialFiles(settings_cls, Path(str(folder)) if folder else None, PREFIX)
        return init_settings, env_settings, credentials

    @model_validator(mode="after")
    def _endpoints_are_encrypted(self) -> Self:
        places: dict[str, Connection] = {"": self, **{f"lanes.{at}.": lane for at, lane in enumerate(self.lanes)}}
        problems = [
            problem
            for place, one in places.items()
            for name, endpoint in (("endpoint", one.endpoint), ("mps_endpoint", one.mps_endpoint))
            if (problem := exposure(f"{place}{name}", endpoint)) is not None
        ]
        if problems and not self.allow_insecure_endpoint:
            raise ValueError("\n".join(problems))
        return self

    @field_validator("store", mode="plain")
    @classmethod
    def _is_store(cls, value: object) -> StoreAddress | None:
        if value is None or isinstance(value, StoreAddress):
            return value
        return parse_store_address(str(value) if isinstance(value, str | Path) else "")

    @model_validator(mode="after")
    def _times_agree(self) -> Self:
        queues = [lane.url.identity for lane in self.all_lanes()]
        problems = [
            f"notify_url: the queue {queue} is named {queues.count(queue)} times; name each once"
            for queue in sorted({queue for queue in queues if queues.count(queue) > 1})
        ]
        if self.retry_base_s > self.retry_cap_s:
            problems.append(
                f"retry_cap_s: expected at least retry_base_s ({self.retry_base_s:g}), got {self.retry_cap_s:g}"
            )
        if self.max_hold_s < self.handler_timeout_s:
            problems.append(
                f"max_hold_s: expected at least handler_timeout_s ({self.handler_timeout_s:g}), got {self.max_hold_s:g}"
            )
        if self.max_hold_s < self.lease_step_s:
            problems.append(
                f"max_hold_s: expected at least lease_step_s ({self.lease_step_s}), got {self.max_hold_s:g}"
            )
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def policy(self) -> Policy:
        """The part that the engine obeys, without keys and addresses."""
        return Policy.model_construct(**{name: getattr(self, name) for name in Policy.model_fields})

    def store_target(self) -> StoreAddress:
        """Where the ledger lives: as set, else a file in the state folder."""
        if self.store is not None:
            return self.store
        state = os.environ.get("STATE_DIRECTORY", "").partition(":")[0]
        return SqliteAddress((Path(state) if state else user_state_path("mns-consumer")) / "mns-consumer.db")

    def all_lanes(self) -> Sequence[QueueSettings]:
        """Every queue with the settings that hold for it, those of ``notify_url`` first."""
        plain = [LaneSettings.model_construct(notify_url=text) for text in self.notify_url]
        return [QueueSettings(settings=lane, of=self) for lane in (*plain, *self.lanes)]

    def secrets(self) -> Iterator[str]:
        """Every value that must not be shown: keys, tokens, the store's passwords."""
        for keys in (self, *self.lanes):
            for secret in (keys.access_key_secret, keys.security_token):
                if secret is not None:
                    yield secret.get_secret_value()
        yield from self.store_target().secrets


class QueueSettings:
    """One queue's settings, with the daemon's where it has none of its own.

    Args:
        settings: The lane's own.
        of: The daemon's.
    """

    def __init__(self, *, settings: LaneSettings, of: Settings) -> None:
        self.url = NotifyUrl.parse(settings.notify_url)
        self.slots = settings.slots or of.slots
        self.signature = settings.signature or of.signature
        own_endpoint = settings.endpoint or of.endpoint
        self.endpoint = own_endpoint or self.url.endpoint
        self.mps_endpoint = settings.mps_endpoint or of.mps_endpoint or own_endpoint or self.url.mps_endpoint
        # Settings are checked when they are read; an endpoint of the command line comes here alone.
        problem = exposure("endpoint", self.mps_endpoint)
        if problem is not None and not of.allow_insecure_endpoint:
            raise SettingsError(problem)
        # Keys come as a set: a lane's own id must never be paired with the daemon's secret.
        keys: Connection = settings if settings.access_key_id is not None else of
        self.access_key_id = keys.access_key_id
        self.access_key_secret = keys.access_key_secret
        self.security_token = keys.security_token


def load(flags: Mapping[str, Any], config_file: Path | None = None) -> Settings:
    """Read the settings from all four places.

    Args:
        flags: What the command line gave, by setting; strongest.
        config_file: The TOML file; default: the one that ``MNS_CONSUMER_CONFIG`` names, else none.

    Raises:
        SettingsError: With one line for each unknown key and each bad value.
    """
    named = os.environ.get(CONFIG_VARIABLE)
    path = config_file or (Path(named) if named else None)
    from_file = {} if path is None else read_toml(path)
    problems = _unknown_variables()
    # The reader's own switches (_secrets_dir and its like) are no settings, though it would take them for such.
    for name in [name for name in from_file if name not in Settings.model_fields]:
        problems.append(f"{name} ({path}): no such setting{nearest(name, set(Settings.model_fields))}")
        del from_file[name]
    given = Given(flags, from_file, path, PREFIX, set(Settings.model_fields), set(LaneSettings.model_fields))
    credentials = os.environ.get("CREDENTIALS_DIRECTORY")
    try:
        settings = Settings(_secrets_dir=credentials, **{**from_file, **flags})
    except ValidationError as error:
        problems += [line for detail in error.errors() for line in given.told(detail)]
        raise SettingsError(*problems) from None
    except ValueError as error:
        # pydantic-settings wraps a JSON value of the environment that does not parse.
        raise SettingsError(*problems, f"{error}; expected JSON") from None
    if problems:
        raise SettingsError(*problems)
    return settings


def _unknown_variables() -> list[str]:
    known = {f"{PREFIX}{name}".upper() for name in Settings.model_fields} | {CONFIG_VARIABLE}
    return [
        f"{name} (environment): no such setting{nearest(name, known)}"
        for name in sorted(os.environ)
        if name.upper().startswith(PREFIX) and name.upper() not in known and not _KUBERNETES.fullmatch(name)
    ]
