"""Accounts and regions: each account in a region is a tenant with its own queues, jobs and pipelines.

The account of a request is that of its AccessKey. The region is the one that the request's Host names, as in
``mts.cn-beijing.aliyuncs.com`` or ``mts.cn-beijing.localhost:8420``; where it names none, the key's.
"""

import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Final

from consumer.sandbox.access import Keys
from consumer.sandbox.account import Account, Clock
from consumer.sandbox.faults import Faults
from consumer.sandbox.ims_jobs import ImsJob
from consumer.sandbox.jobs import Jobs, SandboxJob
from consumer.sandbox.settings import SandboxSettings

# facts/mns.md#endpoints, facts/iproduction.md#api-endpoints, facts/iproduction.md#sister-service-ims
_HOST: Final = re.compile(
    r"(?:(?:mts|ice)(?:-vpc)?\.([a-z0-9-]+)|[a-z0-9]+\.mns\.([a-z0-9-]+?)(?:-internal(?:-vpc)?)?)"
    r"\.(?:aliyuncs\.com|localhost)(?::\d+)?",
    re.ASCII | re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class EventCallback:
    """Where IMS sends its events. ``event_types`` filters nothing: the type of these jobs' events is unknown."""

    queue: str
    event_types: str


class Tenant:
    """One account in one region.

    Attributes:
        settings: Those of the sandbox, with this account and region.
        queues: Its queues.
        jobs: Its jobs of MPS, and their pipelines.
        ims_jobs: Its jobs of IMS, and their pipelines.
        callback: The queue that gets the events of IMS; None until one is set.
    """

    def __init__(
        self,
        settings: SandboxSettings,
        clock: Clock,
        faults: Faults,
        chance: random.Random,
        on_end: "Callable[[Tenant, SandboxJob], None]",
    ) -> None:
        self.account = settings.account
        self.region = settings.region
        self.settings = settings
        self.queues = Account(settings, clock, chance)
        self.callback: EventCallback | None = None
        self.jobs: Jobs[SandboxJob] = Jobs(clock, faults, settings, on_end=partial(on_end, self))
        self.ims_jobs: Jobs[ImsJob] = Jobs(
            clock, faults, settings, on_end=partial(on_end, self), event_queue=self._event_queue
        )

    def _event_queue(self) -> str | None:
        return self.callback.queue if self.callback else None

    def close(self) -> None:
        """Stop all jobs."""
        self.jobs.close()
        self.ims_jobs.close()

    def __str__(self) -> str:
        return f"{self.account}/{self.region}"


class Tenants:
    """All tenants; one is made when its first request comes, or when a key names it.

    Args:
        on_end: Called with an ended job and its tenant, once for each notification that is due.

    Attributes:
        own: The tenant of the sandbox's settings.
    """

    def __init__(
        self,
        settings: SandboxSettings,
        clock: Clock,
        faults: Faults,
        chance: random.Random,
        on_end: Callable[[Tenant, SandboxJob], None],
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._faults = faults
        self._chance = chance
        self._on_end = on_end
        self._by_place: dict[tuple[str, str], Tenant] = {}
        self.own = self.get(settings.account, settings.region)
        for keys in settings.keyring.values():
            self.get(keys.account, keys.region)

    def __iter__(self) -> Iterator[Tenant]:
        return iter(list(self._by_place.values()))

    def get(self, account: str, region: str) -> Tenant:
        """Look a tenant up; it is made where it is missing."""
        known = self.find(account, region)
        if known is not None:
            return known
        changed: dict[str, Any] = {"account": account, "region": region}
        if self._by_place:
            # What the settings name belongs to the sandbox's own account and region.
            changed |= {"dlq_policies": {}, "fifo_queues": frozenset()}
            changed |= {} if self._settings.pipelines is None else {"pipelines": {}}
        settings = self._settings.model_copy(update=changed)
        tenant = Tenant(settings, self._clock, self._faults, self._chance, self._on_end)
        self._by_place[account, region] = tenant
        return tenant

    def find(self, account: str, region: str) -> Tenant | None:
        """Look a tenant up; None where no key and no request has named it."""
        return self._by_place.get((account, region))

    def of(self, keys: Keys | None, host: str) -> Tenant:
        """The tenant of a request with these keys (None: unsigned) and this Host header."""
        if keys is None:
            account, region = self.own.account, self.own.region
        else:
            account, region = keys.account, keys.region
        return self.get(account, _region_in(host) or region)

    def close(self) -> None:
        """Stop all jobs."""
        for tenant in self:
            tenant.close()


@lru_cache(maxsize=64)
def _region_in(host: str) -> str | None:
    """The region that a Host header names."""
    match = _HOST.fullmatch(host)
    return (match[1] or match[2]).lower() if match else None
