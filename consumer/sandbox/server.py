"""The server of MNS, MPS and IMS on one port.

For each request: find its operation, draw faults, wait for latency, carry it out, send the response intact or spoilt.
"""

import asyncio
import logging
import random
from functools import partial
from types import TracebackType
from typing import Any, Final, Self

from aiohttp import web

from consumer.sandbox import control
from consumer.sandbox.access import Grants, Origins
from consumer.sandbox.account import Clock
from consumer.sandbox.faults import Fault, Faults, replace_effect, spoil_response
from consumer.sandbox.ims_api import ImsApi
from consumer.sandbox.ims_jobs import ImsJob, event
from consumer.sandbox.jobs import SandboxJob, message_body, notification
from consumer.sandbox.mns_api import MnsApi
from consumer.sandbox.mps_api import MpsApi
from consumer.sandbox.protocol import Request, Response
from consumer.sandbox.queue import Message
from consumer.sandbox.rpc import RpcApi, is_rpc, names_version
from consumer.sandbox.settings import SandboxSettings
from consumer.sandbox.tenants import Tenant, Tenants

# Sixteen bodies of 64 KB with every character escaped as five, and some room.
_LARGEST_BODY_BYTES: Final = 6 * 1024 * 1024
# MPS's parameters, JobParams and UserData among them, come in the request line.
_LONGEST_LINE_BYTES: Final = 256 * 1024
_LONGEST_HEADER_BYTES: Final = 16 * 1024
_MOST_HEADERS: Final = 100
_KEEP_ALIVE_S: Final = 75.0
_STOP_S: Final = 2.0
# Lets the response of ``refuse_connections`` leave before its own connection is dropped.
_LAST_RESPONSE_S: Final = 0.05
_log: Final = logging.getLogger(__name__)
# Returned where nothing can be sent any more: the connection is closed.
_DROPPED: Final = Response(503)
_ANSWER_LOST: Final = Fault(kind="submit_answer_lost")


class Sandbox:
    """A local MNS, MPS and IMS. Use it as an async context manager; it listens inside the block.

        async with Sandbox.on_free_port(job_s=0) as sandbox:
            sandbox.put("jobs", body)

    Attributes:
        tenants: Every account in every region.
        account: The queues of its own account and region; ``account.advance_clock`` moves the clock of all messages.
        jobs: The jobs of its own account and region.
        faults: What goes wrong; may be changed at any time.
        grants: The RAM actions that the AccessKey has; may be changed at any time.
        log: What was asked and answered.
    """

    def __init__(self, settings: SandboxSettings | None = None) -> None:
        self.settings = settings = settings or SandboxSettings()
        self._chance = random.Random()  # noqa: S311 - ids, no secrets; they never repeat, as a ledger outlives a sandbox
        self.clock = Clock()
        self.faults = Faults(settings.faults, lose=settings.lose, seed=settings.seed)
        self.tenants = Tenants(settings, self.clock, self.faults, self._chance, self._notify)
        self.account = self.tenants.own.queues
        self.jobs = self.tenants.own.jobs
        self.grants = Grants(allow=settings.allowed_actions, deny=settings.denied_actions)
        self.log = control.RequestLog()
        self._mns = MnsApi(
            self.tenants,
            self.clock,
            self.faults,
            self.grants,
            keyring=settings.keyring if settings.verify_signatures else None,
            chance=self._chance,
        )
        self._mps = MpsApi(self.tenants, self.grants, settings, chance=self._chance)
        self._ims = ImsApi(self.tenants, self.grants, settings, chance=self._chance)
        self._control = control.Control(self.tenants, self.faults, self.grants, self.log)
        self._scheme = "http" if settings.tls is None else "https"
        self._origins = Origins(settings.host, settings.allowed_hosts, scheme=self._scheme)
        self._site: web.TCPSite | None = None
        self._port = settings.port
        self._relisten: asyncio.Task[None] | None = None

    @classmethod
    def on_free_port(cls, **values: Any) -> Self:
        """A sandbox on a free port, as tests start it; ``values`` are fields of ``SandboxSettings``."""
        return cls(SandboxSettings(port=0, **values))

    @property
    def url(self) -> str:
        """Where it listens, for example ``http://127.0.0.1:8420``."""
        host = self.settings.host
        return f"{self._scheme}://{f'[{host}]' if ':' in host else host}:{self._port}"

    @property
    def port(self) -> int:
        """The TCP port; the actual one once it listens."""
        return self._port

    def notify_url(self, queue: str) -> str:
        """The NotifyUrl of one of its queues."""
        return f"mns://{self.settings.account}.mns.{self.settings.region}.aliyuncs.com/queues/{queue}"

    def put(self, queue: str, body: str, *, delay_s: int | None = None, priority: int = 8) -> Message:
        """Put a message with exactly this body into a queue; create the queue where it is missing."""
        message = Message(control.readable_text(body.encode()), priority, delay_s)
        return self.account.ensure(queue).queue.send(message, self.clock.now_ms())

    def messages(self, queue: str) -> list[Message]:
        """The messages that a queue still holds, oldest first; none where there is no such queue."""
        held = next((mailbox.queue for mailbox in self.account.all() if mailbox.queue.name == queue), None)
        if held is None:
            return []
        held.sweep(self.clock.now_ms())
        return list(held)

    def add_job(self, job: SandboxJob) -> None:
        """Add a job in its final form, without running it."""
        self.jobs.add(job)

    def notify(self, job: SandboxJob) -> None:
        """Put the notification of a job of ``jobs`` into its queue, if it names one.

        It is lost where that queue does not exist, unless ``settings.create_queues``.
        """
        self._notify(self.tenants.own, job)

    def _notify(self, tenant: Tenant, job: SandboxJob) -> None:
        if job.notify_queue is None:
            return
        owner = self.tenants.find(job.notify_account, job.notify_region) or tenant
        if not (self.settings.create_queues or owner.queues.has(job.notify_queue)):
            self.log.without_queue += 1
            place = "" if owner is self.tenants.own else f"?account={owner.account}&region={owner.region}"
            _log.warning(
                "notification of job %s lost: queue '%s' of %s does not exist;"
                " create it before the next job: curl -X PUT '%s%s/queues/%s%s'",
                *(job.job_id, job.notify_queue, owner, self.url, control.PREFIX, job.notify_queue, place),
            )
            return
        now_ms, message_id = self.clock.now_ms(), f"{self._chance.getrandbits(128):032X}"
        text = notification(job)
        if isinstance(job, ImsJob):
            text = event(job, owner.account, self.settings.ims_event_type)
        body = message_body(text, owner.settings, message_id=message_id, now_ms=now_ms)
        queue = owner.queues.ensure(job.notify_queue).queue
        # Unchecked: the service's own notification is not refused for a queue's settings.
        queue.enqueue(Message(body, group_id=job.function if queue.fifo else ""), now_ms)

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
        if self._relisten is not None:
            self._relisten.cancel()
        self.tenants.close()
        self._drop_connections()
        await self._runner.cleanup()

    async def refuse_connections(self, seconds: float) -> None:
        """Drop every connection and refuse new ones for that long, then listen again on the same port."""
        if self._site is not None:
            await self._site.stop()
            self._site = None
            self._relisten = asyncio.create_task(self._listen_again(seconds))

    async def listening(self) -> None:
        """Wait until ``refuse_connections`` is over."""
        if self._relisten is not None:
            await self._relisten

    async def _listen_again(self, seconds: float) -> None:
        await asyncio.sleep(_LAST_RESPONSE_S)
        self._drop_connections()
        await asyncio.sleep(max(seconds - _LAST_RESPONSE_S, 0))
        await self._listen()

    async def _listen(self) -> None:
        site = web.TCPSite(
            self._runner, self.settings.host, self._port, ssl_context=self.settings.tls, reuse_address=True
        )
        await site.start()
        self._site = site
        self._port = self._runner.addresses[0][1]

    def _drop_connections(self) -> None:
        for connection in self._server.connections:
            if connection.transport is not None:
                connection.transport.abort()

    async def _handle(self, http: web.BaseRequest) -> web.StreamResponse:
        headers = {name.lower(): value for name, value in http.headers.items()}
        request = Request(http.method, http.raw_path, headers, b"", self._scheme, http.transport)
        reason = self._origins.refusal(headers)
        if reason is not None:
            return self._refuse(request, reason)
        if "expect" in headers:
            # Java clients send it with every body, and wait three seconds for this line.
            await http.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            http.writer.output_size = 0
        if http.body_exists:
            request.body = await http.read()
        if request.target.startswith(control.PREFIX):
            response = await self._control.answer(request, self.refuse_connections)
            return response.to_web(self.clock.date_header(), keep_alive=http.keep_alive)
        return await self._serve(http, self._service(request), request)

    def _service(self, request: Request) -> MnsApi | RpcApi:
        if not is_rpc(request):
            return self._mns
        return self._ims if names_version(request, ImsApi.version) else self._mps

    def _refuse(self, request: Request, reason: str) -> web.StreamResponse:
        # The body is not read, so the connection can't be used again.
        if request.target.startswith(control.PREFIX):
            return control.forbidden(reason).to_web(self.clock.date_header(), keep_alive=False)
        service = self._service(request)
        request_id = service.new_request_id(self.clock.now_ms())
        response = service.error(request_id, request, 403, None, reason)
        headers = service.headers(request_id)
        return response.to_web(self.clock.date_header(), keep_alive=False, headers=headers)

    async def _serve(self, http: web.BaseRequest, service: MnsApi | RpcApi, request: Request) -> web.StreamResponse:
        call = service.parse(request)
        request_id = service.new_request_id(self.clock.now_ms())
        self.log.by_operation[call.operation] += 1
        plan = self.faults.plan(call.operation, call.queue)
        response: Response | None = None
        try:
            if plan.latency_s:
                await asyncio.sleep(plan.latency_s)
            if plan.before is not None:
                response = await replace_effect(http, plan.before, partial(service.error, request_id, request))
            else:
                response = await service.answer(call, request_id)
            after = _ANSWER_LOST if response is not None and response.is_lost else plan.after
            is_without_id = after is not None and after.kind == "no_request_id"
            sent = (response or _DROPPED).to_web(
                self.clock.date_header(),
                keep_alive=http.keep_alive,
                server=service.server,
                headers=service.headers("" if is_without_id else request_id),
            )
            return sent if after is None else await spoil_response(http, sent, after)
        finally:
            # A client that leaves cancels this; its request is logged all the same.
            status = response.status if response else 0
            kind = _ANSWER_LOST.kind if response and response.is_lost else plan.kind
            self.log.add(self.clock.now_ms(), call.operation, call.queue or None, status, kind)


def _bounded_request(message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.BaseRequest:
    loop = asyncio.get_running_loop()
    return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=_LARGEST_BODY_BYTES)
