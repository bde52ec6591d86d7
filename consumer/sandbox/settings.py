"""Say what can be set on a sandbox, with units, ranges and defaults.

Elsewhere: faults that can be changed while it runs (``faults``), the server itself (``server``).
"""

import ssl
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from consumer.sandbox import grants
from consumer.sandbox.faults import Fault

NotificationEncoding = Literal["base64", "raw"]
Envelope = Literal["none", "json", "xml", "simplified"]
Actions = Annotated[tuple[str, ...], AfterValidator(grants.checked)]


class DlqPolicy(BaseModel):
    """Where a queue's messages go once they were received too often.

    The real service sets it through its control plane only. Source: facts/mns.md#dead-letter-queues.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    enabled: bool = True
    dead_letter_target_queue: Annotated[str, Field(min_length=1)]
    max_receive_count: Annotated[int, Field(ge=1, le=1000)] = 16


class SandboxSettings(BaseModel):
    """Everything that is fixed when a sandbox starts.

    Attributes:
        host: Address to bind; loopback, since the fault control asks for no keys.
        port: TCP port; 0 takes a free one.
        access_key_id: The only AccessKey that is known.
        access_key_secret: Its secret.
        security_token: When set, every request must carry it, as with STS credentials.
        verify_signatures: Off only to measure a client without the cost of the check.
        account: Account id of MPS notifications' topic envelope and of ``notify_url``.
        region: Region of the same.
        job_s: Seconds from a job's submission to its end when its pipeline is free; a fifth is Queuing.
        pipeline_concurrency: Jobs of one pipeline that are Analysing at once.
        mps_calls_per_s: Submits a second, and queries a second, before Throttling.User; 0 is no limit.
        notification_encoding: How a notification is carried in its message.
        envelope: The topic envelope around a notification.
        allowed_actions: The RAM actions that the AccessKey has, and no other; None is all.
        denied_actions: RAM actions that it does not have, whatever ``allowed_actions`` says.
        plain_denials: MPS refuses a missing right with 400 and without AccessDeniedDetail, not with 403 and it.
        allowed_hosts: Host names, with ``*`` and ``?``, that are answered beside loopback and ``host``.
        late_redelivery_s: A message that was hidden comes between half of these seconds and all of them late.
        small_batches: A batch receive may bring fewer messages than it asks for and the queue has.
        lenient_handles: Replaced and expired receipt handles go on working while their message lives.
        max_long_polls: Long polls held at once; one more is answered at once as empty. None is no limit.
        dlq_policies: Dead-letter policies by queue name.
        fifo_queues: Names of the queues that keep order within a MessageGroupId.
        faults: Faults that are on from the start.
        seed: Of the faults' chance. Ids are never the same twice.
        tls: Serve https with this context.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8420
    access_key_id: Annotated[str, Field(min_length=1)] = "sandbox"
    access_key_secret: Annotated[str, Field(min_length=1, repr=False)] = "sandbox"  # noqa: S105 - known to all on purpose
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
    fifo_queues: frozenset[str] = frozenset()
    faults: tuple[Fault, ...] = ()
    seed: int = 0
    tls: ssl.SSLContext | None = None
