"""Turn what an operation answers into HTTP, in the service's own spelling.

Elsewhere: the bodies (``wire`` for MNS, ``mps_api`` for MPS).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from aiohttp import web

XML: Final = "text/xml;charset=utf-8"
JSON: Final = "application/json;charset=utf-8"
HTML: Final = "text/html"


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, body and headers of an answer; ``content_type`` is left out where there is no body."""

    status: int
    body: bytes = b""
    content_type: str = XML
    headers: Mapping[str, str] = field(default_factory=dict)

    def response(self, date: str, request_id: str | None, headers: Mapping[str, str] | None = None) -> web.Response:
        """Make the HTTP answer.

        Args:
            date: Value of the Date header.
            request_id: Value of every header of ``headers`` that is empty there; None leaves those out.
            headers: The service's own.
        """
        shown = {"Server": "sandbox", "Date": date}
        for name, value in (headers or {}).items():
            if value or request_id is not None:
                shown[name] = value or request_id or ""
        if self.body:
            shown["Content-Type"] = self.content_type
        shown.update(self.headers)
        # aiohttp leaves Content-Length out of a 204 by itself.
        return web.Response(status=self.status, body=self.body or None, headers=shown)
