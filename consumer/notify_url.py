"""Read a NotifyUrl: which queue, of which account, in which region, behind which endpoint.

    mns://ACCOUNT.mns.REGION[-internal|-internal-vpc].aliyuncs.com/queues/NAME

MPS takes nothing else, so neither do we: anything else is an error that says what was expected. The
endpoint is https; ``http://HOST:PORT`` of a local server stands in for it where a setting says so.

Elsewhere: talking to the endpoint (``cloud.mns``), one lane for each NotifyUrl (``config``, ``app``).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from consumer.errors import UsageError
from consumer.secret_settings import masked

EXPECTED: Final = "mns://ACCOUNT.mns.REGION.aliyuncs.com/queues/NAME"

_SHAPE = re.compile(
    r"mns://(?P<account>[0-9A-Za-z-]{1,64})\.mns\.(?P<region>[a-z0-9-]{2,40}?)(?P<network>-internal(?:-vpc)?)?"
    r"\.aliyuncs\.com/queues/(?P<queue>[A-Za-z0-9][A-Za-z0-9-]{0,255})/?",
)

# The vendor's own client finds them here (facts/iproduction.md#api-endpoints). Any region that isn't named is taken to
# have an endpoint of its own, as that client takes it: a region that MPS opens later will have one.
_CENTRAL_MPS: Final = "https://mts.aliyuncs.com"
_WITHOUT_OWN_MPS: Final = frozenset(
    {
        *("cn-chengdu", "cn-wulanchabu", "ap-southeast-2", "ap-southeast-3", "us-east-1", "me-east-1"),
        *("cn-hangzhou-finance", "cn-shanghai-finance-1", "cn-shenzhen-finance-1", "cn-beijing-finance-1"),
        *("cn-hongkong-finance-pop", "cn-beijing-finance-pop", "cn-north-2-gov-1", "cn-beijing-gov-1"),
    }
)


class NotifyUrlError(UsageError, ValueError):
    """The text is not an MNS queue's address; a ``ValueError`` too, so that settings report it."""


@dataclass(frozen=True, slots=True)
class NotifyUrl:
    """One queue's address, taken apart.

    Args:
        account: The account's id, such as ``1234567890123456``.
        region: The region's id, such as ``cn-hangzhou``.
        network: ``""``, ``"-internal"`` or ``"-internal-vpc"``: which of the region's endpoints.
        queue: The queue's name.
    """

    account: str
    region: str
    network: str
    queue: str

    @classmethod
    def parse(cls, text: str) -> NotifyUrl:
        """Take a NotifyUrl apart.

        Raises:
            NotifyUrlError: The text has another form; says which one was expected.

        Source: facts/iproduction.md#submit-a-job, facts/mns.md#endpoints.
        """
        match = _SHAPE.fullmatch(text.strip())
        if match is None:
            # What stands in a query may be a secret.
            address, mark, _ = masked(text).partition("?")
            shown = f"{address}?..." if mark else address
            raise NotifyUrlError(f"NotifyUrl {shown!r} is not an MNS queue address; expected {EXPECTED}")
        return cls(
            account=match["account"],
            region=match["region"],
            network=match["network"] or "",
            queue=match["queue"],
        )

    @property
    def endpoint(self) -> str:
        """The address of MNS for this account and network, without a path."""
        return f"https://{self.account}.mns.{self.region}{self.network}.aliyuncs.com"

    @property
    def mps_endpoint(self) -> str:
        """The address of MPS that the same network reaches (facts/iproduction.md#api-endpoints).

        A region without an endpoint of its own is served by the central one, which has no form inside a VPC.
        """
        if self.region in _WITHOUT_OWN_MPS:
            return _CENTRAL_MPS
        inside_vpc = "-vpc" if self.network else ""
        return f"https://mts{inside_vpc}.{self.region}.aliyuncs.com"

    @property
    def identity(self) -> str:
        """Names the queue whatever network it is reached by; the first part of every ledger key."""
        return f"{self.account}/{self.region}/{self.queue}"

    def __str__(self) -> str:
        return f"mns://{self.account}.mns.{self.region}{self.network}.aliyuncs.com/queues/{self.queue}"
