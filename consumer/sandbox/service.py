"""Say what the server needs of each of the two services that share its port."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from consumer.sandbox.answer import Answer
from consumer.sandbox.signature import Sent


@dataclass(slots=True)
class Call:
    """A request and what it asks for.

    Attributes:
        operation: One of ``operations``, or ``Unknown``.
        queue: The queue it names; None where it names none.
        parameters: Of the query (names in lower case for MNS, as sent for MPS) and of a form.
        sent: The request.
        stray: A query item that the service does not know in this spelling; "" when there is none.
    """

    operation: str
    queue: str | None
    parameters: Mapping[str, str]
    sent: Sent
    stray: str = ""


@dataclass(slots=True)
class Caller:
    """Who asked: the id of the request, the scheme it came by, and whether its client has gone."""

    request_id: str
    scheme: str
    is_gone: Callable[[], bool]


class Service(Protocol):
    """MNS or MPS."""

    server: str
    """Value of the Server header."""
    headers: Mapping[str, str]
    """Of every answer; an empty value stands for the request id."""

    def new_request_id(self, now_ms: int) -> str:
        """Make an id in the service's own form."""

    def understood(self, sent: Sent) -> Call:
        """Tell which operation a request is; checks nothing yet."""

    async def answered(self, call: Call, caller: Caller) -> Answer:
        """Check and carry out a call; a refusal is an answer too."""

    def refused(self, request_id: str, sent: Sent, status: int, code: str | None, message: str) -> Answer:
        """Write a refusal of a request; a code of None is one that fits the status."""
