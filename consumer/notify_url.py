"""Service addresses: a queue's NotifyUrl, and the endpoints of MNS and MPS that follow from it or stand in a setting.

    mns://ACCOUNT.mns.REGION[-internal|-internal-vpc].aliyuncs.com/queues/NAME

MPS accepts no other form of NotifyUrl. The endpoints are https; a setting may replace them by ``http(s)://HOST[:PORT]``.
"""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from consumer.errors import UsageError
from consumer.settings_sources import masked

EXPECTED: Final = "mns://ACCOUNT.mns.REGION.aliyuncs.com/queues/NAME"

_NOTIFY_URL: Final = re.compile(
    r"mns://(?P<account>[0-9A-Za-z-]{1,64})\.mns\.(?P<region>[a-z0-9-]{2,40}?)(?P<network>-internal(?:-vpc)?)?"
    r"\.aliyuncs\.com/queues/(?P<queue>[A-Za-z0-9][A-Za-z0-9-]{0,255})/?",
)
_ENDPOINT: Final = re.compile(r"https?://(\[[0-9a-fA-F:]+\]|[^/\s:@?#\[\]]+)(:\d{1,5})?/?")
_MAX_PORT: Final = 65_535

# As the vendor's own client has it (facts/iproduction.md#api-endpoints). Like that client, expect every other region,
# also one that opens later, to have an MPS endpoint of its own.
_CENTRAL_MPS: Final = "https://mts.aliyuncs.com"
_WITHOUT_OWN_MPS: Final = frozenset(
    {
        *("cn-chengdu", "cn-wulanchabu", "ap-southeast-2", "ap-southeast-3", "us-east-1", "me-east-1"),
        *("cn-hangzhou-finance", "cn-shanghai-finance-1", "cn-shenzhen-finance-1", "cn-beijing-finance-1"),
        *("cn-hongkong-finance-pop", "cn-beijing-finance-pop", "cn-north-2-gov-1", "cn-beijing-gov-1"),
    }
)


class NotifyUrlError(UsageError, ValueError):
    """The text is not a NotifyUrl; a ``ValueError`` too, so that pydantic reports it."""


@dataclass(frozen=True, slots=True)
class NotifyUrl:
    """A queue's address; ``network`` is ``""`` (public), ``"-internal"`` or ``"-internal-vpc"``."""

    account: str
    region: str
    network: str
    queue: str

    @classmethod
    def parse(cls, text: str) -> NotifyUrl:
        """Parse a NotifyUrl.

        Raises:
            NotifyUrlError: The text has another form.

        Source: facts/iproduction.md#submit-a-job, facts/mns.md#endpoints.
        """
        match = _NOTIFY_URL.fullmatch(text.strip())
        if match is None:
            # A query may hold a secret.
            address, mark, _ = masked(text).partition("?")
            shown = f"{address}?..." if mark else address
            raise NotifyUrlError(f"expected a NotifyUrl, {EXPECTED}, got {shown!r}")
        return cls(match["account"], match["region"], match["network"] or "", match["queue"])

    @property
    def endpoint(self) -> str:
        """The endpoint of MNS for this account and network, without a path."""
        return f"https://{self.account}.mns.{self.region}{self.network}.aliyuncs.com"

    @property
    def mps_endpoint(self) -> str:
        """The endpoint of MPS that the same network reaches (facts/iproduction.md#api-endpoints).

        The central endpoint serves regions without one of their own; it has no form inside a VPC.
        """
        if self.region in _WITHOUT_OWN_MPS:
            return _CENTRAL_MPS
        inside_vpc = "-vpc" if self.network else ""
        return f"https://mts{inside_vpc}.{self.region}.aliyuncs.com"

    @property
    def identity(self) -> str:
        """The queue's name across networks; every ledger key begins with it."""
        return f"{self.account}/{self.region}/{self.queue}"

    def __str__(self) -> str:
        return f"mns://{self.account}.mns.{self.region}{self.network}.aliyuncs.com/queues/{self.queue}"


def queue_names(identities: AbstractSet[str]) -> dict[str, str]:
    """The name of each queue in logs and metrics: its own name, or its identity where two queues have one name."""
    own = {identity: identity.rpartition("/")[2] for identity in identities}
    uses = Counter(own.values())
    return {identity: name if uses[name] == 1 else identity for identity, name in own.items()}


def parse_endpoint(text: str) -> str:
    """An endpoint of the settings, without its final slash.

    Raises:
        ValueError: It is not ``http(s)://HOST[:PORT]``.
    """
    found = _ENDPOINT.fullmatch(text)
    if found is None or not text.isprintable() or not 0 < int((found[2] or ":1")[1:]) <= _MAX_PORT:
        raise ValueError("expected http://HOST:PORT or https://HOST[:PORT] without a path")
    return text.rstrip("/")


def exposure(setting: str, endpoint: str | None) -> str | None:
    """The problem with an endpoint that requests would reach unencrypted over a network; ``None`` for any other."""
    if endpoint is None or not endpoint.startswith("http://") or is_loopback(urlsplit(endpoint).hostname or ""):
        return None
    return (
        f"{setting}: expected https://, got {masked(endpoint)}, by which messages and tokens would cross the network "
        "unencrypted; set allow_insecure_endpoint = true if that is what you want"
    )


def is_loopback(host: str) -> bool:
    """Whether a host is this machine: ``localhost``, 127.0.0.0/8, ``::1``, or one of these mapped into IPv6."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host.lower().removesuffix(".") == "localhost"
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback
