"""Tell whether a client is still there, to the moment.

The event loop learns of a closed socket only on its next turn; between the two, a message could be dequeued
for nobody. So the kernel is asked. Where it can't be (no POLLRDHUP outside Linux), what the loop knows must do.
"""

import asyncio
import select

_HUNG_UP = getattr(select, "POLLRDHUP", 0)


def is_gone(transport: asyncio.BaseTransport | None) -> bool:
    """Whether the peer of this connection has closed it, or its own side has."""
    if transport is None or transport.is_closing():
        return True
    sock = transport.get_extra_info("socket")
    if sock is None or not _HUNG_UP:
        return False
    asked = select.poll()
    asked.register(sock.fileno(), _HUNG_UP)
    # HUP, ERR and NVAL are reported unasked.
    return bool(asked.poll(0))
