"""Turn what an operation answers into HTTP, in the service's own spelling.

Elsewhere: the bodies (``wire`` for MNS, ``mps_api`` for MPS).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from aiohttp import web

XML: Final = "text/xml;charset=utf-8"
JSON: Final = "application/json;charset=utf-8"
HTML: Final = "text/html"

_NO_CONTENT: Final = 204
_NO_HEADERS: Final[Mapping[str, str]] = MappingProxyType({})


# Not frozen, as all that is made for each request: 2 us a request together (a loop of receives and deletes).
@dataclass(slots=True)
class Answer:
    """Status, body and headers of an answer.

    Attributes:
        content_type: Of the body, and of none as well: the service sends it with a 204. "" leaves it out.
        headers: After all others.
        closes: Close the connection after it.
    """

    status: int
    body: bytes = b""
    content_type: str = XML
    headers: Mapping[str, str] = field(default_factory=dict)
    closes: bool = False

    def response(
        self,
        date: str,
        request_id: str | None,
        *,
        keep_alive: bool,
        server: str = "sandbox",
        headers: Mapping[str, str] = _NO_HEADERS,
    ) -> web.Response:
        """Make the HTTP answer, its headers in the order of the real service's.

        Args:
            date: Value of the Date header.
            request_id: Value of every header of ``headers`` that is empty there; None leaves those out.
            keep_alive: Whether the client lets the connection go on.
            server: Value of the Server header.
            headers: The service's own.

        Source: facts/mns.md#answers.
        """
        body, status = self.body, self.status
        closes = self.closes or not keep_alive
        shown = {"Server": server, "Date": date}
        if self.content_type:
            shown["Content-Type"] = self.content_type
        if status != _NO_CONTENT:
            shown["Content-Length"] = str(len(body))
        shown["Connection"] = "close" if closes else "keep-alive"
        for name, value in headers.items():
            if value:
                shown[name] = value
            elif request_id is not None:
                shown[name] = request_id
        shown.update(self.headers)
        response = web.Response(status=status, body=body or None, headers=shown)
        if closes:
            # The header alone would leave the connection open.
            response.force_close()
        return response
