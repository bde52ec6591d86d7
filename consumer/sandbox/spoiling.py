"""Carry out the faults that hit whole requests: on the way in, and on the way out.

Elsewhere: which fault hits (``faults``), the way of a request (``server``).
"""

import asyncio
from collections.abc import Callable
from typing import Final

from aiohttp import web

from consumer.sandbox.answer import HTML, Answer
from consumer.sandbox.faults import Fault

Refused = Callable[[int, str | None, str], Answer]
"""Makes a service's own refusal of a status, a code (None: one that fits) and a message."""

_PAGE: Final = (
    b"<html>\r\n<head><title>Bad Gateway</title></head>\r\n<body>\r\n<center><h1>Bad Gateway</h1></center>\r\n"
    b"<hr><center>A gateway in front of the service</center>\r\n</body>\r\n</html>\r\n"
)
_ELSEWHERE: Final = "http://127.0.0.1:9/elsewhere"


async def instead(request: web.BaseRequest, fault: Fault, refused: Refused) -> Answer | None:
    """Do what a fault puts in the place of the effect.

    Returns:
        The answer to send; None when the connection was dropped.
    """
    match fault.kind:
        case "error":
            await asyncio.sleep(fault.hold_s)
            answer = refused(fault.status, fault.code, fault.message)
            return answer if fault.xml else Answer(fault.status, content_type="")
        case "early_empty":
            return refused(404, "MessageNotExist", "Message not exist.")
        case "html":
            return Answer(fault.status, _PAGE, HTML)
        case "redirect":
            return Answer(302, _PAGE, HTML, headers={"Location": _ELSEWHERE})
        case _:
            if fault.kind == "hang":
                await _held(fault)
            _drop(request)
            return None


async def delivered(request: web.BaseRequest, response: web.Response, fault: Fault | None) -> web.StreamResponse:
    """Give the response as it is, or do to it what a fault after the effect does."""
    if fault is None or fault.kind == "no_request_id":
        return response
    if fault.kind == "truncate" and isinstance(response.body, bytes):
        cut = web.StreamResponse(status=response.status, headers=response.headers)
        cut.content_length = len(response.body)
        await cut.prepare(request)
        await cut.write(response.body[: len(response.body) // 2])
        if request.transport is not None:
            request.transport.close()
        return cut
    if fault.kind == "hang_after":
        await _held(fault)
    _drop(request)
    return response


async def _held(fault: Fault) -> None:
    if fault.seconds:
        await asyncio.sleep(fault.seconds)
    else:
        # Until the client leaves, or the sandbox stops: either cancels this.
        await asyncio.get_running_loop().create_future()


def _drop(request: web.BaseRequest) -> None:
    if request.transport is not None:
        request.transport.abort()
