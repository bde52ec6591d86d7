"""Send one request to MNS and tell a success from everything that only looks like one.

Elsewhere: the verbs (``mns``), the connection (``pool``), the signature (``mns_signature``), reading XML
(``answer``), what a code asks for (``faults``).

Source: facts/mns.md#answers, facts/mns.md#error-answers, facts/mns.md#reactions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from consumer.cloud.credentials import CredentialsSource
from consumer.cloud.exchange import Exchange, Observe
from consumer.cloud.faults import mns_fault
from consumer.cloud.mns_signature import MnsSigner
from consumer.cloud.plain_xml import AnswerError, has_root, root_fields
from consumer.cloud.pool import Answer, Call, Pool
from consumer.cloud.wording import cut, describe
from consumer.errors import CloudError, Fault

NO_CONTENT: Final = 204
REFUSED: Final = 400
_REDIRECT, _REFUSED, _THROTTLED, _FAILED = 300, REFUSED, 429, 500
_REQUEST_ID: Final = "x-mns-request-id"
_VERSION: Final = "x-mns-version"
_HTTP_PREFIX: Final = "Http"


@dataclass(frozen=True, slots=True)
class MnsEndpoint:
    """What every call to one endpoint needs.

    Args:
        origin: Scheme and host, without a path.
        signer: Signs for that host.
        credentials: Asked before every request.
        pool: The lane's connections.
        observe: Told of every request.
        read_margin_s: How much later than its wait an answer may come.
    """

    origin: str
    signer: MnsSigner
    credentials: CredentialsSource
    pool: Pool
    observe: Observe | None
    read_margin_s: float


class MnsCall(Exchange):
    """One request to MNS.

    Args:
        endpoint: Where to.
        operation: The API's name of the call.
        queue: The queue's name, for errors.
        limit_bytes: The most that is read of its answer.
    """

    __slots__ = ("_endpoint", "_limit_bytes")

    def __init__(self, endpoint: MnsEndpoint, operation: str, queue: str, limit_bytes: int) -> None:
        super().__init__(operation, queue, endpoint.credentials, endpoint.observe)
        self._endpoint = endpoint
        self._limit_bytes = limit_bytes

    async def send(
        self,
        method: str,
        resource: str,
        body: bytes | None = None,
        *,
        wait_s: int = 0,
        on_head: Callable[[], None] | None = None,
    ) -> Answer:
        """Sign and send.

        Args:
            method: The HTTP method.
            resource: Path and query, escaped.
            body: The body; ``None`` for none.
            wait_s: How long the service may hold the call back by our own wish.
            on_head: Called when the answer's head has come.

        Raises:
            CloudError: No keys, or no whole answer.
        """
        endpoint = self._endpoint
        keys = await endpoint.credentials.keys()
        return await endpoint.pool.ask(
            Call(
                operation=self.operation,
                target=self.target,
                method=method,
                url=endpoint.origin + resource,
                headers=endpoint.signer.headers(keys, method, resource, body),
                body=body,
                deadline_s=wait_s + endpoint.read_margin_s,
                limit_bytes=self._limit_bytes,
                on_head=on_head,
            )
        )

    def demand(self, answer: Answer, status: int, root: str = "") -> None:
        """Raise unless the answer is MNS's own success.

        Args:
            answer: What came.
            status: The only status that is this operation's success.
            root: The root element of its body; ``""`` for an operation that answers without one.

        Raises:
            CloudError: By the service's code; ``Fault.UNREADABLE`` when it is no answer of the service.
        """
        if answer.status != status or not self.is_mns(answer, root):
            raise self.refusal(answer, f"status {status}")

    @staticmethod
    def is_mns(answer: Answer, root: str = "") -> bool:
        """Whether a success is signed as MNS's: by its request id or, as good, by the body's root in its namespace.

        Where there is no body, MNS's other header will do.
        """
        if answer.headers.get(_REQUEST_ID):
            return True
        return has_root(answer.body, root) if root else bool(answer.headers.get(_VERSION))

    def error(self, answer: Answer) -> Mapping[str, str]:
        """The fields of an ``<Error>`` that is MNS's own: signed by its request id, in the header or in itself.

        No answer of MNS that was captured shows the header on a refusal, and the vendor's newest gateway reads the
        body's RequestId (facts/mns.md#error-answers). Empty for anything else.
        """
        if answer.status < _REFUSED:
            return {}
        try:
            error = root_fields(answer.body, "Error")
        except AnswerError:
            return {}
        signed = answer.headers.get(_REQUEST_ID) or error.get("RequestId")
        return error if error.get("Code") and signed else {}

    def refusal(self, answer: Answer, expected: str) -> CloudError:
        """The error that an answer stands for which is not the expected success."""
        status = answer.status
        error = self.error(answer)
        code = cut(error.get("Code", ""), 60)
        # A front end's 5xx and 429 need no more words than that; anything else must be signed by its id.
        front_end = status >= _FAILED or status == _THROTTLED
        if not front_end and not code:
            return self.unreadable(answer, _foreign(answer, expected))
        return self.failure(
            mns_fault(code, status),
            code or f"{_HTTP_PREFIX}{status}",
            cut(error.get("Message", "")) or f"expected {expected}, came {describe(answer.body)}",
            status=status,
            request_id=_request_id(answer) or cut(error.get("RequestId", ""), 60) or None,
        )

    def unreadable(self, answer: Answer, detail: str) -> CloudError:
        """The error for an answer that is not one of MNS's."""
        return self.failure(Fault.UNREADABLE, "NotMns", detail, status=answer.status, request_id=_request_id(answer))

    def error_code(self, answer: Answer) -> str:
        """The code of a refusal that MNS itself sent; ``""`` for anything else."""
        return self.error(answer).get("Code", "")

    def fields(self, answer: Answer, root: str) -> dict[str, str]:
        """The fields of an answer whose root must be ``root``.

        Raises:
            CloudError: ``Fault.UNREADABLE``: it is another, or no XML.
        """
        try:
            return root_fields(answer.body, root)
        except AnswerError as error:
            raise self.unreadable(answer, str(error)) from None


def _request_id(answer: Answer) -> str | None:
    return cut(answer.headers.get(_REQUEST_ID, ""), 60) or None


def _foreign(answer: Answer, expected: str) -> str:
    """Say what came instead of an answer of MNS."""
    expected = f"expected {expected} and the header {_REQUEST_ID} or MNS's own XML"
    if _REDIRECT <= answer.status < _REFUSED:
        host = _host(answer.headers.get("Location", ""))
        return f"{expected}, came a redirect{host}; it was not followed: is the endpoint right?"
    came = "with" if _REQUEST_ID in answer.headers else "without"
    return f"{expected}, came status {answer.status} {came} it and {describe(answer.body)}: is the endpoint MNS's?"


def _host(location: str) -> str:
    """Only the host of a redirect: the rest may carry what is nobody's business."""
    try:
        host = urlsplit(location).hostname
    except ValueError:
        host = None
    return f" to {cut(host, 80)}" if host else ""
