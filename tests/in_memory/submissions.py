"""A store without submissions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

from consumer.policy import SubmissionState
from consumer.store.submissions import Submission


class NoSubmissions:
    """Answers the daemon's calls of ``Submissions``: there is none."""

    async def lose_intents(self, queue: str) -> int:  # noqa: ARG002 - the signature of ``Submissions``
        return 0

    async def open_queues(self) -> frozenset[str]:
        return frozenset()

    async def newest_end(self) -> float:
        return 0.0

    async def take_due(self, queue: str, *, limit: int, lease_s: float) -> Sequence[Submission]:  # noqa: ARG002 - as above
        return ()

    async def count(self, queue: str) -> Mapping[SubmissionState, int]:  # noqa: ARG002 - as above
        return {}

    async def prune(self, *, older_than_s: float, limit: int) -> int:  # noqa: ARG002 - as above
        return 0


@asynccontextmanager
async def no_submissions(*_: object, **__: object) -> AsyncIterator[NoSubmissions]:
    """In place of ``open_submissions``."""
    yield NoSubmissions()
