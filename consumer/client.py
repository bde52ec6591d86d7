"""Submit jobs from any program, each recorded before it is sent, and wait for their ends.

``Client`` is async; ``SyncClient`` is the same for code that is not, such as Django or Flask. Users import them from
``mns_consumer.client``.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AsyncExitStack, ExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from anyio.from_thread import BlockingPortal, start_blocking_portal
from pydantic import JsonValue
from typing_extensions import Unpack

from consumer.cloud.clients import open_clients
from consumer.cloud.mps import JobStatus, Mps, RateLimiter
from consumer.config import QueueSettings, Settings, load
from consumer.errors import UsageError
from consumer.functions.parameters import FunctionParams
from consumer.job_state import ENDED
from consumer.plugin.submission import RequestOptions, SubmittedJob
from consumer.store.open import open_submissions
from consumer.submissions.result import EndedJob, ended_job, wait_for_end
from consumer.submissions.submitter import Submitter

_NOT_OPEN: Final = "the client is not open; use it in a block: {} as client"


class Client:
    """Submits jobs with the keys and the store of the settings, which are read as the daemon reads them.

        async with Client() as client:
            job = await client.submit(CoverParams(model="gif"), input="oss://...", output="oss://...", ref="film-7")
            end = await client.wait(job)

    Args:
        config: The settings file; default: the one that ``MNS_CONSUMER_CONFIG`` names.
        queue: Name or identity of the queue that jobs notify, where the settings have several.
        settings: Settings by name, stronger than all others: ``Client(store="postgresql://...")``.

    Raises:
        SettingsError: A setting is wrong.
        UsageError: The queue is not clear.
    """

    def __init__(self, *, config: Path | str | None = None, queue: str | None = None, **settings: Any) -> None:
        self._settings = load(settings, None if config is None else Path(config))
        self._queue = _queue_of(self._settings, queue)
        self._stack = AsyncExitStack()
        self._mps: Mps | None = None
        self._submitter: Submitter | None = None

    async def __aenter__(self) -> Self:
        """Open the connections; nothing is asked yet."""
        settings, queue = self._settings, self._queue
        limiter = RateLimiter(settings.mps_rate)
        async with AsyncExitStack() as stack:
            clients = await stack.enter_async_context(open_clients(queue, ca_file=settings.ca_file, limiter=limiter))
            submissions = await stack.enter_async_context(open_submissions(settings.store_address()))
            self._stack = stack.pop_all()
        self._mps = clients.mps
        self._submitter = Submitter(
            clients.mps,
            submissions,
            queue,
            accounts={one.url.account for one in settings.queues()},
            reconcile_after_s=settings.reconcile_after_s,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connections."""
        self._mps = self._submitter = None
        await self._stack.aclose()

    async def submit(
        self,
        params: FunctionParams | str,
        given: Mapping[str, JsonValue] | None = None,
        /,
        *,
        ref: str | None = None,
        **options: Unpack[RequestOptions],
    ) -> SubmittedJob:
        """Submit a job once.

        Args:
            params: The parameters' model, which names the function; or a FunctionName.
            given: The parameters, where ``params`` is a FunctionName.
            ref: The caller's idempotency key; ``None`` for a job of its own.

        Returns:
            The job. Where a submission with the same ``ref`` exists, that one, and nothing is sent.

        Raises:
            RequestRefusedError: The request breaks a rule; nothing was sent.
            SubmissionUnknown: No answer came, now or for the same ``ref`` before: the job may exist.
            CloudError: MPS refused it, or could not be reached: the job does not exist.
            StoreError: It could not be recorded, and was not sent; or the text names a job that was sent.
            UsageError: The ``ref`` belongs to another request.
        """
        if self._submitter is None:
            raise RuntimeError(_NOT_OPEN.format("async with Client()"))
        return await self._submitter.submit(params, given, ref=ref, **options)

    async def query(self, job: SubmittedJob | str) -> EndedJob | None:
        """The job as MPS knows it now; ``None`` while it runs.

        Raises:
            CloudError: MPS could not be asked, or does not know the job.
        """
        answer = await self._ask(_job_id(job))
        return ended_job(answer) if answer.state in ENDED else None

    async def wait(self, job: SubmittedJob | str, *, timeout_s: float = 600.0) -> EndedJob:
        """Wait for the job's end by asking MPS, at growing intervals.

        Raises:
            TimeoutError: It still runs after ``timeout_s`` seconds.
            CloudError: As for ``query``.
        """
        return ended_job(await wait_for_end(self._ask, _job_id(job), timeout_s))

    async def _ask(self, job_id: str) -> JobStatus:
        if self._mps is None:
            raise RuntimeError(_NOT_OPEN.format("async with Client()"))
        return await self._mps.query(job_id)


class SyncClient:
    """``Client`` without ``await``; any thread may use it.

        with SyncClient() as client:
            job = client.submit(CoverParams(), input="oss://...", output="oss://...")
            end = client.wait(job)

    Arguments and errors are those of ``Client``.
    """

    def __init__(self, *, config: Path | str | None = None, queue: str | None = None, **settings: Any) -> None:
        self._client = Client(config=config, queue=queue, **settings)
        self._stack = ExitStack()
        self._portal: BlockingPortal | None = None

    def __enter__(self) -> Self:
        """Start the thread and open the connections."""
        with ExitStack() as stack:
            portal = stack.enter_context(start_blocking_portal())
            stack.enter_context(portal.wrap_async_context_manager(self._client))
            self._portal, self._stack = portal, stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connections and end the thread."""
        self._portal = None
        self._stack.close()

    def submit(
        self,
        params: FunctionParams | str,
        given: Mapping[str, JsonValue] | None = None,
        /,
        *,
        ref: str | None = None,
        **options: Unpack[RequestOptions],
    ) -> SubmittedJob:
        """See ``Client.submit``."""
        return self._running.call(partial(self._client.submit, params, given, ref=ref, **options))

    def query(self, job: SubmittedJob | str) -> EndedJob | None:
        """See ``Client.query``."""
        return self._running.call(self._client.query, job)

    def wait(self, job: SubmittedJob | str, *, timeout_s: float = 600.0) -> EndedJob:
        """See ``Client.wait``."""
        return self._running.call(partial(self._client.wait, job, timeout_s=timeout_s))

    @property
    def _running(self) -> BlockingPortal:
        if self._portal is None:
            raise RuntimeError(_NOT_OPEN.format("with SyncClient()"))
        return self._portal


def _job_id(job: SubmittedJob | str) -> str:
    return job if isinstance(job, str) else job.job_id


def _queue_of(settings: Settings, name: str | None) -> QueueSettings:
    queues = settings.queues()
    named = [one for one in queues if name in {None, one.url.queue, one.url.identity}]
    if len(named) != 1:
        known = ", ".join(one.url.identity for one in queues) or "none in the settings; set notify_url"
        raise UsageError(f"queue {name or 'not given'}: expected one of {known}")
    return named[0]
