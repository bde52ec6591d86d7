"""What can be set on a sandbox, with units, ranges and defaults."""

import ssl
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from consumer.sandbox.access import Actions, Keyring, Keys
from consumer.sandbox.faults import Fault
from consumer.sandbox.pipelines import PipelineSettings
from consumer.sandbox.queue import DlqPolicy

NotificationEncoding = Literal["base64", "raw"]
Envelope = Literal["none", "json", "xml", "simplified"]


class AccountKeys(BaseModel):
    """A further AccessKey; ``region`` is that of calls whose Host names none, by default the sandbox's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    access_key_id: Annotated[str, Field(min_length=1)]
    access_key_secret: Annotated[str, Field(min_length=1, repr=False)]
    security_token: Annotated[str | None, Field(repr=False)] = None
    account: Annotated[str, Field(pattern=r"^[A-Za-z0-9]+$")]
    region: Annotated[str | None, Field(pattern=r"^[a-z0-9-]+$")] = None


class SandboxSettings(BaseModel):
    """Everything that is fixed when a sandbox starts.

    Attributes:
        host: Address to bind; loopback, because the control API asks for no keys.
        port: TCP port; 0 takes a free one.
        access_key_id: The only AccessKey that is accepted.
        security_token: When set, every request must carry it, as with STS credentials.
        verify_signatures: False only to measure a client without the cost of the check.
        account: The account of that AccessKey; its id is in ``notify_url`` and in a notification's topic envelope.
        region: The region of calls whose Host names none, as the account.
        more_keys: Further AccessKeys. Each account has its own queues, jobs and pipelines in each region.
        job_s: Seconds from a job's submission to its end when its pipeline is free; a fifth is Queuing.
        pipeline_concurrency: Jobs of one pipeline that are Analysing at once, where ``pipelines`` says nothing else.
        pipelines: Those that exist, by PipelineId; a job for any other is refused. None accepts every PipelineId.
        mps_calls_per_s: Submits, and queries, per second before Throttling.User; 0 is no limit.
        ims_event_type: EventType of the events of IMS: what it is for these jobs is not known.
        allowed_actions: The RAM actions that are granted; None grants all.
        denied_actions: RAM actions that are not granted, even if allowed.
        plain_denials: MPS refuses a missing right with 400 and no AccessDeniedDetail, not with 403 and the detail.
        allowed_hosts: Host names, with ``*`` and ``?``, that are answered in addition to loopback and ``host``.
        late_redelivery_s: A hidden message becomes visible between half of these seconds and all of them late.
        small_batches: A batch receive may bring fewer messages than it asks for and the queue has.
        lenient: MPS takes requests that are known to be wrong, such as an Output in another region.
        lenient_handles: Replaced and expired receipt handles keep working while their message exists.
        max_long_polls: Long polls held at once; one more is answered at once as empty. None is no limit.
        create_queues: Create the queue that a job's NotifyUrl names where it is missing; else the notification is lost,
            as in the cloud.
        fifo_queues: Queues that keep order within a MessageGroupId.
        lose: Share of the jobs whose notification is dropped. With one seed and one order of submissions it is the same
            jobs; what else goes wrong does not change that.
        seed: Of the faults' chance. Ids never repeat, as a ledger outlives a sandbox.
        tls: Serve https with this context.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8420
    access_key_id: Annotated[str, Field(min_length=1)] = "sandbox"
    access_key_secret: Annotated[str, Field(min_length=1, repr=False)] = "sandbox"  # noqa: S105 - public on purpose
    security_token: Annotated[str | None, Field(repr=False)] = None
    verify_signatures: bool = True
    account: Annotated[str, Field(pattern=r"^[A-Za-z0-9]+$")] = "1234567890123456"
    region: Annotated[str, Field(pattern=r"^[a-z0-9-]+$")] = "cn-hangzhou"
    more_keys: tuple[AccountKeys, ...] = ()
    job_s: Annotated[float, Field(ge=0, le=86_400)] = 1.0
    pipeline_concurrency: Annotated[int, Field(ge=1, le=10_000)] = 10
    pipelines: dict[str, PipelineSettings] | None = None
    mps_calls_per_s: Annotated[int, Field(ge=0, le=100_000)] = 100
    notification_encoding: NotificationEncoding = "base64"
    envelope: Envelope = "none"
    ims_event_type: Annotated[str, Field(min_length=1)] = "SandboxIProduction"
    allowed_actions: Actions | None = None
    denied_actions: Actions = ()
    plain_denials: bool = False
    allowed_hosts: tuple[str, ...] = ()
    late_redelivery_s: Annotated[float, Field(ge=0, le=3600)] = 0.0
    small_batches: bool = False
    lenient: bool = False
    lenient_handles: bool = False
    max_long_polls: Annotated[int | None, Field(ge=0)] = None
    dlq_policies: dict[str, DlqPolicy] = Field(default_factory=dict)
    create_queues: bool = False
    fifo_queues: frozenset[str] = frozenset()
    faults: tuple[Fault, ...] = ()
    lose: Annotated[float, Field(ge=0, le=1)] = 0.0
    seed: int = 0
    tls: ssl.SSLContext | None = None

    @model_validator(mode="after")
    def _each_key_is_given_once(self) -> Self:
        ids = [self.access_key_id, *(keys.access_key_id for keys in self.more_keys)]
        twice = {one for one in ids if ids.count(one) > 1}
        if twice:
            raise ValueError(f"each AccessKey is given once; twice came {', '.join(sorted(twice))}")
        return self

    @property
    def keyring(self) -> Keyring:
        """Every AccessKey that is accepted, by its id."""
        own = Keys(self.access_key_id, self.access_key_secret, self.security_token, self.account, self.region)
        more = (
            Keys(one.access_key_id, one.access_key_secret, one.security_token, one.account, one.region or self.region)
            for one in self.more_keys
        )
        return {keys.access_key_id: keys for keys in (own, *more)}
