"""Frame one request: count it once, name its failure, and forget keys that the service refused.

Elsewhere: what is asked and what an answer means (``mns_call``, ``mps``), the connection (``pool``).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from consumer.cloud.credentials import CredentialsSource
from consumer.cloud.faults import advice, lacks_a_right
from consumer.errors import CloudError, Fault

Observe = Callable[[str, str, float], None]
"""Called once a request that ended: the API's name, ``ok``, ``empty`` or the ``Fault``'s word, seconds."""

OK: Final = "ok"
EMPTY: Final = "empty"


class Exchange:
    """One request from its signing to the end of its reading, as an ``async with`` block.

    Leaving the block tells ``observe`` how it ended; a call that was cancelled did not end and is not told.

    Args:
        operation: The API's name of the call.
        target: The queue, or MPS's host.
        credentials: Told to forget its keys when the service refused them.
        observe: Told how the call ended.
    """

    __slots__ = ("_began", "_observe", "credentials", "operation", "result", "target")

    def __init__(self, operation: str, target: str, credentials: CredentialsSource, observe: Observe | None) -> None:
        self.operation = operation
        self.target = target
        self.credentials = credentials
        self.result = OK
        self._observe = observe
        self._began = 0.0

    async def __aenter__(self) -> Self:
        self._began = time.monotonic()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._tell(self.result)
        elif isinstance(error, CloudError):
            self._tell(error.fault.value)
            # With a status it is the service that refused; without one there were no keys to refuse.
            if error.fault is Fault.CREDENTIALS and error.status is not None:
                await self.credentials.refresh(denied=lacks_a_right(error.code))

    def failure(
        self,
        fault: Fault,
        code: str,
        detail: str,
        *,
        status: int | None = None,
        request_id: str | None = None,
        denied: str = "",
    ) -> CloudError:
        """The error of this call, with what to do where the code says it (``faults.advice``).

        Args:
            fault: The class of the failure.
            code: The service's error code, or ours where none came.
            detail: What came, in the service's words or ours.
            status: The HTTP status; ``None`` when no answer came.
            request_id: The service's id of the call.
            denied: The RAM action that the service names as missing.
        """
        to_do = advice(self.operation, fault, code, denied)
        if to_do:
            detail = f"{detail.rstrip(' .;')}; {to_do}"
        return CloudError(
            fault,
            operation=self.operation,
            target=self.target,
            code=code,
            detail=detail,
            status=status,
            request_id=request_id,
        )

    def _tell(self, result: str) -> None:
        if self._observe is not None:
            self._observe(self.operation, result, time.monotonic() - self._began)
