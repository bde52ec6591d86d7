"""The two clients of one queue, over one pool of connections and one set of keys.

Elsewhere: which queue, endpoint and keys (``config``), who uses them (``app``, the command line).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from consumer.cloud.credentials import CredentialsSource, DefaultChain, Keys, StaticCredentials
from consumer.cloud.limiter import RateLimiter
from consumer.cloud.mns import MnsQueue
from consumer.cloud.mps import Mps
from consumer.cloud.pool import open_pool
from consumer.config import QueueSettings


@dataclass(frozen=True, slots=True)
class Clients:
    """What reaches the cloud for one queue.

    Args:
        queue: MNS.
        mps: MPS.
        credentials: Whose keys both use.
    """

    queue: MnsQueue
    mps: Mps
    credentials: CredentialsSource


def credentials_of(lane: QueueSettings, on_keys: Callable[[Keys], None] | None = None) -> CredentialsSource:
    """The keys of the settings where they are given, else the default chain's.

    Args:
        lane: Whose settings.
        on_keys: Told of every key that the chain finds.
    """
    keys = given_keys(lane)
    return DefaultChain(on_keys=on_keys) if keys is None else StaticCredentials(keys)


def given_keys(lane: QueueSettings) -> Keys | None:
    """The keys that the settings give for a queue."""
    if lane.access_key_id is None or lane.access_key_secret is None:
        return None
    return Keys(_plain(lane.access_key_id), _plain(lane.access_key_secret), _plain(lane.security_token))


@asynccontextmanager
async def open_clients(
    lane: QueueSettings,
    *,
    ca_file: Path | None = None,
    limiter: RateLimiter | None = None,
    observe: Callable[[str, str, float], None] | None = None,
    on_keys: Callable[[Keys], None] | None = None,
) -> AsyncIterator[Clients]:
    """Open the clients of one queue; closing ends their connections.

    Args:
        lane: Which queue, with its endpoints and keys.
        ca_file: Certificates to trust in place of the system's.
        limiter: The account's pace for MPS, shared by all that ask it; default: one of its own.
        observe: Told of every request: operation, result, seconds.
        on_keys: Told of every key that the default chain finds.

    Raises:
        SettingsError: ``ca_file`` can't be read.
    """
    async with open_pool(ca_file=ca_file) as pool:
        credentials = credentials_of(lane, on_keys)
        yield Clients(
            queue=MnsQueue(
                endpoint=lane.endpoint,
                queue=lane.url.queue,
                credentials=credentials,
                pool=pool,
                observe=observe,
                signature=lane.signature,
                region=lane.url.region,
            ),
            mps=Mps(
                endpoint=lane.mps_endpoint,
                region=lane.url.region,
                credentials=credentials,
                pool=pool,
                limiter=limiter or RateLimiter(),
                observe=observe,
            ),
            credentials=credentials,
        )


@asynccontextmanager
async def open_queue(
    lane: QueueSettings,
    credentials: CredentialsSource,
    *,
    ca_file: Path | None = None,
    observe: Callable[[str, str, float], None] | None = None,
    read_margin_s: float = 10.0,
) -> AsyncIterator[MnsQueue]:
    """Open a second client of one queue, over connections of its own: for the event loop of another thread.

    Args:
        lane: Which queue.
        credentials: Those of the first client.
        ca_file: As for ``open_clients``.
        observe: As for ``open_clients``; called on that thread.
        read_margin_s: As for ``MnsQueue``.

    Raises:
        SettingsError: ``ca_file`` can't be read.
    """
    async with open_pool(ca_file=ca_file) as pool:
        yield MnsQueue(
            endpoint=lane.endpoint,
            queue=lane.url.queue,
            credentials=credentials,
            pool=pool,
            observe=observe,
            read_margin_s=read_margin_s,
        )


def _plain(secret: SecretStr | None) -> str:
    return "" if secret is None else secret.get_secret_value()
