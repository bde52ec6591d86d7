"""Name every refusal that the two services document, with its HTTP status.

Raised anywhere below the server, rendered in one place: as XML by ``wire`` for MNS, as JSON by
``mps_api`` for MPS.
"""

from collections.abc import Mapping

# The statuses other than 400 (facts/mns.md#error-codes).
_STATUS = {
    "AccessDenied": 403,
    "AccessDeniedByRamPolicy": 403,
    "InternalError": 500,
    "InternalServerError": 500,
    "InvalidAccessKeyId": 403,
    "MessageNotExist": 404,
    "QueueAlreadyExist": 409,
    "QueueNotExist": 404,
    "SignatureDoesNotMatch": 403,
    "TimeExpired": 408,
    "TooManyRequests": 429,
}
_BAD_REQUEST = 400


class MnsError(Exception):
    """MNS says no: a documented code, its status and a message for people."""

    def __init__(self, code: str, message: str, *, status: int | None = None) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.status = status if status is not None else _STATUS.get(code, _BAD_REQUEST)


class MpsError(Exception):
    """MPS says no, in the way of its RPC gateway.

    Args:
        detail: AccessDeniedDetail, where a right is missing.

    Source: facts/iproduction.md#api-error-codes.
    """

    def __init__(
        self, code: str, message: str, *, status: int = _BAD_REQUEST, detail: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.status = status
        self.detail = detail


def message_not_exist() -> MnsError:
    """Make the refusal for an empty queue, and for a handle whose message is gone."""
    return MnsError("MessageNotExist", "Message not exist.")


def access_denied() -> MnsError:
    """Make the refusal for a call that lacks a right; it names none, as the service's does."""
    return MnsError(
        "AccessDenied", "The OwnerId that your Access Key Id associated to is forbidden for this operation."
    )


def queue_not_exist() -> MnsError:
    """Make the refusal for a queue that was never created, or is deleted."""
    return MnsError("QueueNotExist", "The queue name you provided is not exist.")
