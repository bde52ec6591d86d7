"""Keep the credentials chain's own requests away from the environment's proxies.

The vendor's HTTP takes ``HTTP_PROXY`` for every request and does not know ``NO_PROXY``: a proxy would read the keys
that the metadata server or a server on this machine answers with, and could give others in their place. So the
metadata server, the credentials URI and whatever is asked without TLS are reached directly. The calls to STS and the
like use TLS and may pass a proxy (``HTTPS_PROXY``), which sees the server's name and encrypted bytes (``CONNECT``).

Elsewhere: the chain (``credentials_chain``).
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any, Final
from urllib.parse import urlsplit

from consumer.notify_url import is_loopback

_PROVIDERS: Final = "alibabacloud_credentials.provider."
_ALWAYS: Final = (f"{_PROVIDERS}ecs_ram_role", f"{_PROVIDERS}uri")
"""Whose server is this machine's or its network's own, whatever the scheme."""
_DEFAULT_MS: Final = 5_000


def go_direct() -> None:
    """Give the vendor's providers, once they are imported, an HTTP call that takes no proxy of the environment."""
    for name, module in list(sys.modules.items()):
        if name.startswith(_PROVIDERS) and hasattr(module, "TeaCore"):
            _replace(module, always=name in _ALWAYS)


def _replace(module: ModuleType, *, always: bool) -> None:
    from Tea.core import TeaCore  # noqa: PLC0415 - 0.3 s, only for who needs it

    class DirectCore(TeaCore):  # type: ignore[misc]  # the vendor ships no types
        """The vendor's calls, but for those that must not pass a proxy."""

        @staticmethod
        def do_action(request: Any, runtime_option: Any = None) -> Any:
            """Send one request, as the vendor's own does."""
            address = urlsplit(TeaCore.compose_url(request))
            if always or address.scheme == "http" or is_loopback(address.hostname or ""):
                return _sent(request, runtime_option or {})
            return TeaCore.do_action(request, runtime_option)

    module.__dict__["TeaCore"] = DirectCore


def _sent(request: Any, options: Any) -> Any:
    from requests import Session  # noqa: PLC0415 - loaded by the SDK anyhow
    from Tea.core import TeaCore  # noqa: PLC0415 - the same
    from Tea.exceptions import RetryError  # noqa: PLC0415 - the same
    from Tea.response import TeaResponse  # noqa: PLC0415 - the same

    limits = [options.get(name) or options.get("timeout") or _DEFAULT_MS for name in ("connectTimeout", "readTimeout")]
    with Session() as session:
        session.trust_env = False
        try:
            answer = session.request(
                request.method.upper(),
                TeaCore.compose_url(request),
                headers=request.headers,
                data=request.body,
                timeout=(limits[0] / 1000, limits[1] / 1000),
            )
        except OSError as error:
            raise RetryError(str(error)) from error
    response = TeaResponse()
    response.status_code = answer.status_code
    response.status_message = answer.reason
    response.headers = {name.lower(): value for name, value in answer.headers.items()}
    response.body = answer.content
    return response
