"""Serve MNS and MPS on one port: start, stop, and the way of a request.

    read -> which operation -> faults drawn -> (latency) -> effect -> answer, as it is or spoilt

Elsewhere: the operations (``mns_api``, ``mps_api``), what can go wrong (``faults``), carrying that out on a
connection (``spoiling``), looking in from outside (``control``).
"""

import asyncio
import random
from functools import partial
from types import TracebackType
from typing import Final, Self

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestHandler

from consumer.sandbox import control, control_bodies, notify, spoiling
from consumer.sandbox.account import Account
from consumer.sandbox.answer import Answer
from consumer.sandbox.clock import Clock
from consumer.sandbox.faults import Faults
from consumer.sandbox.grants import Grants
from consumer.sandbox.jobs import GivenJob, Job, Jobs
from consumer.sandbox.log import RequestLog
from consumer.sandbox.message import Draft, Message
from consumer.sandbox.mns_api import MnsApi
from consumer.sandbox.mps_api import MpsApi
from consumer.sandbox.mps_signature import MpsVerifier
from consumer.sandbox.origins import Origins
from consumer.sandbox.service import Caller, Service
from consumer.sandbox.settings import SandboxSettings
from consumer.sandbox.signature import Keys, Sent
from consumer.sandbox.sockets import is_gone

# Sixteen bodies of 64 KB whose every character is escaped in five, and some room.
_LARGEST_BODY_BYTES: Final = 6 * 1024 * 1024
# MPS's parameters, JobParams and UserData among them, come in the request line.
_LONGEST_LINE_BYTES: Final = 256 * 1024
_LONGEST_HEADER_BYTES: Final = 16 * 1024
_MOST_HEADERS: Final = 100
_KEEP_ALIVE_S: Final = 75.0
_STOP_S: Final = 2.0
# Time for the answer that announces a refusal to leave before its own connection is dropped.
_LAST_WORD_S: Final = 0.05
# Stands where nothing is sent any more: the connection is closed.
_DROPPED: Final = Answer(503)


class Sandbox:
    """A local MNS and MPS.

    Use it as an async context manager; it listens inside the block.

    Attributes:
        settings: What it was made with.
        clock: The time messages live by; move it with ``account.advance_clock``.
        faults: What goes wrong, to be changed at any time.
        account: The queues.
        jobs: The jobs.
        grants: The RAM actions that the AccessKey has, to be changed at any time.
        log: What was asked and answered.
    """

    def __init__(self, settings: SandboxSettings | None = None) -> None:
        self.settings = settings = settings or SandboxSettings()
        self.clock = Clock()
        self.faults = Faults(settings.faults, seed=settings.seed)
        self.account = Account(settings, self.clock)
        self.log = RequestLog()
        self.jobs = Jobs(
            self.clock,
            self.faults,
            job_s=settings.job_s,
            concurrency=settings.pipeline_concurrency,
            on_end=self._notify,
        )
        for name, policy in settings.dlq_policies.items():
            self.account.set_dlq(name, policy)
        self._chance = random.Random()  # noqa: S311 - ids, no secrets; never the same twice, for a ledger outlives a sandbox
        keys = Keys(settings.access_key_id, settings.access_key_secret, settings.security_token)
        self.grants = Grants(settings.allowed_actions, settings.denied_actions)
        self._scheme = "http" if settings.tls is None else "https"
        self._origins = Origins(settings.host, settings.allowed_hosts, scheme=self._scheme)
        self._mns = MnsApi(
            self.account,
            self.faults,
            keys,
            self.grants,
            verify=settings.verify_signatures,
            chance=self._chance,
        )
        self._mps = MpsApi(
            self.jobs,
            MpsVerifier(keys) if settings.verify_signatures else None,
            self.grants,
            plain_denials=settings.plain_denials,
            calls_per_s=settings.mps_calls_per_s,
            host_id=f"mts.{settings.region}.aliyuncs.com",
            new_job_id=lambda: f"{self._chance.getrandbits(128):032x}",
        )
        self._control = control.Control(
            self.account, self.jobs, faults=self.faults, grants=self.grants, log=self.log, listener=self
        )
        self._server: web.Server | None = None
        self._runner: web.ServerRunner | None = None
        self._site: web.TCPSite | None = None
        self._port = settings.port
        self._pending: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """Where it listens, for example ``http://127.0.0.1:8420``."""
        host = self.settings.host
        return f"{self._scheme}://{f'[{host}]' if ':' in host else host}:{self._port}"

    @property
    def port(self) -> int:
        """The TCP port; the real one once it listens."""
        return self._port

    def notify_url(self, queue: str) -> str:
        """Give the NotifyUrl of one of its queues."""
        return f"mns://{self.settings.account}.mns.{self.settings.region}.aliyuncs.com/queues/{queue}"

    def put(self, queue: str, body: str, *, delay_s: int | None = None, priority: int = 8) -> Message:
        """Put a message with this very body into a queue, created where it is missing."""
        draft = Draft(control_bodies.readable_text(body.encode()), priority, delay_s)
        return self.account.ensure(queue).queue.send(draft, self.clock.now_ms())

    def messages(self, queue: str) -> list[Message]:
        """Give all messages that a queue still holds, oldest first; none where there is no such queue."""
        for mailbox in self.account.all():
            if mailbox.queue.name == queue:
                mailbox.queue.sweep(self.clock.now_ms())
                return list(mailbox.queue)
        return []

    def add_job(self, given: GivenJob) -> Job:
        """Put a job in as it ended (or as it stays), without running it; a query answers just what was given."""
        return self.jobs.put(given)

    async def __aenter__(self) -> Self:
        self._server = web.Server(
            self._handle,
            request_factory=_bounded_request,
            handler_cancellation=True,
            access_log=None,
            keepalive_timeout=_KEEP_ALIVE_S,
            max_line_size=_LONGEST_LINE_BYTES,
            max_field_size=_LONGEST_HEADER_BYTES,
            max_headers=_MOST_HEADERS,
            auto_decompress=False,
        )
        self._runner = web.ServerRunner(self._server, shutdown_timeout=_STOP_S)
        await self._runner.setup()
        try:
            await self._listen()
        except OSError:
            await self._runner.cleanup()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._pending:
            task.cancel()
        self.jobs.close()
        self._drop_connections()
        if self._runner is not None:
            await self._runner.cleanup()

    async def serve_forever(self) -> None:
        """Serve until cancelled."""
        await asyncio.get_running_loop().create_future()

    async def refuse_connections(self, seconds: float) -> None:
        """Drop every connection and refuse new ones for that long, then listen again on the same port."""
        if self._site is not None:
            await self._site.stop()
            self._site = None
            task = asyncio.create_task(self._listen_again(seconds))
            self._pending.add(task)
            task.add_done_callback(self._pending.discard)

    async def _listen_again(self, seconds: float) -> None:
        await asyncio.sleep(_LAST_WORD_S)
        self._drop_connections()
        await asyncio.sleep(max(seconds - _LAST_WORD_S, 0))
        await self._listen()

    async def _listen(self) -> None:
        if self._runner is None:
            raise RuntimeError("the sandbox is not started; use 'async with Sandbox(...)'")
        site = web.TCPSite(
            self._runner, self.settings.host, self._port, ssl_context=self.settings.tls, reuse_address=True
        )
        await site.start()
        self._site = site
        self._port = self._runner.addresses[0][1]

    def _drop_connections(self) -> None:
        for connection in self._server.connections if self._server is not None else ():
            if connection.transport is not None:
                connection.transport.abort()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        headers = {name.lower(): value for name, value in request.headers.items()}
        why_not = self._origins.why_not(headers)
        if why_not is not None:
            return self._turned_away(Sent(request.method, request.raw_path, headers, b""), why_not)
        if "expect" in headers:
            # Java clients send it with every body, and wait three seconds for this line.
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0
        body = await request.read() if request.body_exists else b""
        sent = Sent(request.method, request.raw_path, headers, body)
        if sent.target.startswith(control.PREFIX):
            answer = await self._control.answered(sent)
            return answer.response(self.clock.date_header(), None, keep_alive=request.keep_alive)
        return await self._serve(request, self._service(sent), sent)

    def _service(self, sent: Sent) -> Service:
        return self._mps if self._mps.is_for_mps(sent) else self._mns

    def _turned_away(self, sent: Sent, why_not: str) -> web.StreamResponse:
        # The body is not read: the connection ends.
        request_id = None
        if sent.target.startswith(control.PREFIX):
            answer = control.refused(why_not)
        else:
            service = self._service(sent)
            request_id = service.new_request_id(self.clock.now_ms())
            answer = service.refused(request_id, sent, 403, None, why_not)
        return answer.response(self.clock.date_header(), request_id, keep_alive=False)

    async def _serve(self, request: web.BaseRequest, service: Service, sent: Sent) -> web.StreamResponse:
        call = service.understood(sent)
        operation, queue = call.operation, call.queue
        request_id = service.new_request_id(self.clock.now_ms())
        self.log.by_operation[operation] += 1
        plan = self.faults.plan(operation, queue)
        answer: Answer | None = None
        try:
            if plan.latency_s:
                await asyncio.sleep(plan.latency_s)
            if plan.before is not None:
                answer = await spoiling.instead(request, plan.before, partial(service.refused, request_id, sent))
            else:
                answer = await service.answered(
                    call, Caller(request_id, self._scheme, lambda: is_gone(request.transport))
                )
            has_id = plan.after is None or plan.after.kind != "no_request_id"
            response = (answer or _DROPPED).response(
                self.clock.date_header(),
                request_id if has_id else None,
                keep_alive=request.keep_alive,
                server=service.server,
                headers=service.headers,
            )
            return await spoiling.delivered(request, response, plan.after)
        finally:
            # A client that leaves cancels this: its request is noted all the same.
            self.log.answered(self.clock.now_ms(), operation, queue, answer.status if answer else 0, plan.kind)

    def _notify(self, job: Job) -> None:
        if job.notify_queue is None:
            return
        body = notify.carried(
            notify.of_job(job),
            encoding=self.settings.notification_encoding,
            envelope=self.settings.envelope,
            account=self.settings.account,
            message_id=f"{self._chance.getrandbits(128):032X}",
            now_ms=self.clock.now_ms(),
        )
        queue = self.account.ensure(job.notify_queue).queue
        # Unchecked: the service's own notification is not refused for a queue's settings.
        queue.take(Draft(body, group_id=job.function if queue.fifo else ""), self.clock.now_ms())


def _bounded_request(
    message: RawRequestMessage,
    payload: StreamReader,
    protocol: RequestHandler,
    writer: AbstractStreamWriter,
    task: "asyncio.Task[None]",
) -> web.BaseRequest:
    loop = asyncio.get_running_loop()
    return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=_LARGEST_BODY_BYTES)
