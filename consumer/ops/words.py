"""The fixed words that metrics and log lines use for how something ended.

The engine decides with them, the metrics count by them: a word that is not listed here (or in
``policy.Reason`` and ``errors.Fault``) never becomes a label's value.

Elsewhere: which word applies (``engine``), what is counted by it (``ops.metrics``).
"""

from __future__ import annotations

from enum import StrEnum


class Outcome(StrEnum):
    """How one delivery of a message ended."""

    DONE = "done"
    RETRY = "retry"
    DEAD = "dead"
    DUPLICATE = "duplicate"
    """Its job had ended before: deleted, no handler ran."""
    INTERMEDIATE = "intermediate"
    """A state that is no end: deleted, no handler ran."""
    DROPPED = "dropped"
    """No handler takes it and the settings say to drop such messages."""
    LEASE_LOST = "lease_lost"
    RELEASED = "released"
    """Given back unfinished: the daemon stops, or the message runs elsewhere."""


class PollResult(StrEnum):
    """What a receive brought, where it did not fail; a failed one counts under its ``Fault``'s word."""

    MESSAGES = "messages"
    EMPTY = "empty"
    SHED = "shed"
    """Empty well before its wait was over: the service sheds polls."""


class RenewalResult(StrEnum):
    """How one renewal of a lease ended."""

    RENEWED = "renewed"
    FAILED = "failed"
    """Not known to be lost: tried again."""
    LOST = "lost"


class DeleteResult(StrEnum):
    """How the deletion of one message ended."""

    DELETED = "deleted"
    GONE = "gone"
    """It was no longer there under this receipt handle, which is a success too."""
    FAILED = "failed"
    """Tried again; if that never works, the redelivery finds its job ended."""


class RetryCause(StrEnum):
    """Why a message was hidden to come back later."""

    FAILED = "failed"
    """The handler raised."""
    TIMED_OUT = "timed_out"
    """The handler passed its time limit."""
    ASKED = "asked"
    """The handler raised ``Retry``."""
    NOT_READY = "not_ready"
    """MPS says that the job goes on."""
    UNANSWERED = "unanswered"
    """MPS fails for this job, while it answers for others."""
    ELSEWHERE = "elsewhere"
    """Another delivery of the same job runs."""
    UNAVAILABLE = "unavailable"
    """A service or the store did not answer."""
    NO_ROOM = "no_room"
    """It would be set aside, and the store holds as many dead letters as it may."""


class QueryResult(StrEnum):
    """What a question for a job's result brought."""

    ENDED = "ended"
    NOT_READY = "not_ready"
    UNKNOWN = "unknown"
    """MPS does not know the job as an intelligent production job."""
    FAILED = "failed"


class ReloadResult(StrEnum):
    """How a reload of settings and handlers ended."""

    APPLIED = "applied"
    REFUSED = "refused"
    """Something in it is wrong: the old ones are kept."""
