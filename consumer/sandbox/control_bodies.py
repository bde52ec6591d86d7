"""Say what the control API takes and gives, as JSON.

Elsewhere: its calls (``control``).
"""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from consumer.sandbox.jobs import Job
from consumer.sandbox.message import Message
from consumer.sandbox.refusal import MnsError
from consumer.sandbox.settings import Actions, DlqPolicy

_CONTROL_CHARACTERS = "".join(chr(code) for code in range(32) if chr(code) not in "\t\n\r") + "\ufffe\uffff"


class Advance(BaseModel):
    """By how much the clock is moved."""

    model_config = ConfigDict(extra="forbid")
    advance_s: float = Field(ge=-31_536_000, le=31_536_000)


class Rights(BaseModel):
    """The RAM actions that the AccessKey has, as ``Grants.set`` takes them."""

    model_config = ConfigDict(extra="forbid")
    allow: Actions | None = None
    deny: Actions = ()


class Refuse(BaseModel):
    """For how long connections are refused."""

    model_config = ConfigDict(extra="forbid")
    seconds: float = Field(ge=0, le=3600)


class LongPolls(BaseModel):
    """How many long polls are held at once; None is no limit."""

    model_config = ConfigDict(extra="forbid")
    max: int | None = Field(ge=0)


class QueueKind(BaseModel):
    """What a queue is made as."""

    model_config = ConfigDict(extra="forbid")
    fifo: bool = False
    dlq: DlqPolicy | None = None


def readable_text(body: bytes) -> str:
    """Decode a raw message body.

    Raises:
        MnsError: InvalidArgument for what XML can't carry: a queue could never have held it.
    """
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise MnsError("InvalidArgument", f"A message body is UTF-8 text: {error}.") from error
    if any(character in text for character in _CONTROL_CHARACTERS):
        raise MnsError("InvalidArgument", "A message body holds no control characters: XML can't carry them.")
    return text


def shown_job(job: Job) -> dict[str, Any]:
    """Describe a job."""
    return {
        "job_id": job.job_id,
        "function": job.function,
        "state": job.state,
        "notify_queue": job.notify_queue,
        "user_data": job.user_data,
        "submitted_ms": job.submitted_ms,
        "ended_ms": job.ended_ms,
    }


def shown_message(message: Message) -> dict[str, Any]:
    """Describe a message with its state."""
    return {
        "message_id": message.message_id,
        "state": message.state.name.lower(),
        "body": message.body,
        "priority": message.priority,
        "group_id": message.group_id,
        "dequeue_count": message.dequeue_count,
        "enqueue_ms": message.enqueue_ms,
        "first_dequeue_ms": message.first_dequeue_ms,
        "visible_ms": message.visible_ms,
        "receipt_handle": message.handle,
        "system_properties": message.system_properties,
        "user_properties": message.user_properties,
    }
