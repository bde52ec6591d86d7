"""Decide by which names the admin server may be asked, against DNS rebinding.

A page in a browser on this machine may ask a name of its own that resolves to 127.0.0.1, and read the answer. Its
requests carry that name as their ``Host``. So a name must be localhost or one that the settings know. An IP address
needs no DNS, so it always passes: Kubernetes' probes and Prometheus ask a pod by its address. A request without a Host
comes from no browser.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Sequence
from typing import Final

_HOST: Final = re.compile(r"(\[(?P<ipv6>[^\]]*)\]|(?P<name>[^:\[\]]*))(:\d{0,5})?")
_LOCALHOST: Final = "localhost"


def is_allowed(hosts: Sequence[str], names: Collection[str]) -> bool:
    """Whether a request may be answered.

    Args:
        hosts: Its ``Host`` headers, as they came.
        names: What is allowed beside IP addresses and localhost, in lower case; ``.example.com`` stands for every name
            below ``example.com``.
    """
    if not hosts:
        return True
    found = _HOST.fullmatch(hosts[0].strip().lower())
    if len(hosts) > 1 or found is None:
        return False
    if found["ipv6"] is not None:
        return _is_address(found["ipv6"])
    name: str = found["name"].removesuffix(".")
    if name in {"", _LOCALHOST} or name in names or _is_address(name):
        return True
    return any(known.startswith(".") and name.endswith(known) for known in names)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
