"""What can be set on a sandbox, with units, ranges and defaults."""

import ssl
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from consumer.sandbox.access import Actions
from consumer.sandbox.faults import Fault
from consumer.sandbox.queue import DlqPolicy

NotificationEncoding = Literal["base64", "raw"]
Envelope = Literal["none", "json", "xml", "simplified"]


class SandboxSettings(BaseModel):
    """Everything that is fixed when a sandbox starts.

    Attributes:
        host: Address to bind; loopback, because the control API asks for no keys.
        port: TCP port; 0 takes a free one.
        access_key_id: The only AccessKey that is accepted.
        security_token: When set, every request must carry it, as with STS credentials.
        verify_signatures: False only to measure a client without the cost of the check.
        account: Account id in ``notify_url`` and in a notification's topic envelope, as the region.
        job_s: Seconds from a job's submission to its end when its pipeline is free; a fifth is Queuing.
        pipeline_concurrency: Jobs of one pipeline that are Analysing at once.
        mps_calls_per_s: Submits, and queries, per second before Throttling.User; 0 is no limit.
        allowed_actions: The RAM actions that are granted; None grants all.
        denied_actions: RAM actions that are not granted, even if allowed.
        plain_denials: MPS refuses a missing right with 400 and no AccessDeniedDetail, not with 403 and the detail.
        allowed_hosts: Host names, with ``*`` and ``?``, that are answered in addition to loopback and ``host``.
        late_redelivery_s: A hidden message becomes visible between half of these seconds and all of them late.
        small_batches: A batch receive may bring fewer messages than it asks for and the queue has.
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
    job_s: Annotated[float, Field(ge=0, le=86_400)] = 1.0
    pipeline_concurrency: Annotated[int, Field(ge=1, le=10_000)] = 10
    mps_calls_per_s: Annotated[int, Field(ge=0, le=100_000)] = 100
    notification_encoding: NotificationEncoding = "base64"
    envelope: Envelope = "none"
    allowed_actions: Actions | None = None
    denied_actions: Actions = ()
    plain_denials: bool = False
    allowed_hosts: tuple[str, ...] = ()
    late_redelivery_s: Annotated[float, Field(ge=0, le=3600)] = 0.0
    small_batches: bool = False
    lenient_handles: bool = False
    max_long_polls: Annotated[int | None, Field(ge=0)] = None
    dlq_policies: dict[str, DlqPolicy] = Field(default_factory=dict)
    create_queues: bool = False
    fifo_queues: frozenset[str] = frozenset()
    faults: tuple[Fault, ...] = ()
    lose: Annotated[float, Field(ge=0, le=1)] = 0.0
    seed: int = 0
    tls: ssl.SSLContext | None = None
