"""The two clients of one queue, over one pool of connections and one source of keys."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from consumer.cloud.credentials import CredentialsSource, DefaultChain, Keys, StaticCredentials
from consumer.cloud.mns import MnsQueue
from consumer.cloud.mps import Mps, RateLimiter
from consumer.cloud.pool import Observe, Pool, TraceCall, open_pool
from consumer.config import QueueSettings


@dataclass(frozen=True, slots=True)
class Clients:
    """The clients of one queue, and the source of the keys that both use."""

    queue: MnsQueue
    mps: Mps
    credentials: CredentialsSource


def given_keys(settings: QueueSettings) -> Keys | None:
    """The keys in the settings of a queue."""
    if settings.access_key_id is None or settings.access_key_secret is None:
        return None
    token = settings.security_token
    return Keys(
        settings.access_key_id.get_secret_value(),
        settings.access_key_secret.get_secret_value(),
        "" if token is None else token.get_secret_value(),
    )


@asynccontextmanager
async def open_clients(
    settings: QueueSettings,
    *,
    ca_file: Path | None = None,
    limiter: RateLimiter | None = None,
    observe: Observe | None = None,
    trace: TraceCall | None = None,
    on_keys: Callable[[Keys], None] | None = None,
) -> AsyncIterator[Clients]:
    """Open the clients of one queue; closing ends their connections.

    The keys are those of the settings if they have some, else those of the default chain, which ``on_keys`` receives.
    ``ca_file`` replaces the system's certificates. ``limiter`` is the account's. ``trace`` is put around calls of MPS.

    Raises:
        SettingsError: ``ca_file`` can't be read.
    """
    async with open_pool(ca_file=ca_file) as pool:
        keys = given_keys(settings)
        credentials = DefaultChain(on_keys=on_keys) if keys is None else StaticCredentials(keys)
        mps = Mps(
            endpoint=settings.mps_endpoint,
            credentials=credentials,
            pool=pool,
            limiter=limiter or RateLimiter(),
            observe=observe,
            trace=trace,
        )
        yield Clients(_queue(settings, credentials, pool, observe), mps, credentials)


@asynccontextmanager
async def open_queue(
    settings: QueueSettings,
    credentials: CredentialsSource,
    *,
    ca_file: Path | None = None,
    observe: Observe | None = None,
    read_margin_s: float = 10.0,
) -> AsyncIterator[MnsQueue]:
    """Open a second client of one queue, over connections of its own: for the event loop of another thread."""
    async with open_pool(ca_file=ca_file) as pool:
        yield _queue(settings, credentials, pool, observe, read_margin_s)


def _queue(
    settings: QueueSettings,
    credentials: CredentialsSource,
    pool: Pool,
    observe: Observe | None,
    read_margin_s: float = 10.0,
) -> MnsQueue:
    return MnsQueue(
        endpoint=settings.endpoint,
        queue=settings.url.queue,
        credentials=credentials,
        pool=pool,
        observe=observe,
        read_margin_s=read_margin_s,
        signature=settings.signature,
        region=settings.url.region,
    )
