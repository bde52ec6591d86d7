"""The RPC gateway before MPS and IMS: a call's action, signature, rights and limits; responses as JSON or XML."""

import json
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import parse_qsl
from uuid import uuid4

from consumer.sandbox.access import Grants, RpcVerifier
from consumer.sandbox.protocol import JSON, UNKNOWN, XML, Call, Request, Response, RpcError, escaped
from consumer.sandbox.settings import SandboxSettings
from consumer.sandbox.tenants import Tenant, Tenants

Parameters = Mapping[str, str]
"""A call's parameters, those of its query and of a form."""
Operation = Callable[[Tenant, Parameters], Mapping[str, Any]]
"""Carries out one action for a tenant; returns the response without its RequestId."""

_FORM: Final = "application/x-www-form-urlencoded"


class RpcApi:
    """One service behind the gateway; a subclass has its actions.

    Attributes:
        version: Of the API, which a call names.
        prefix: What its actions are called by in faults, rights and logs, before their own names.
        throttling: Code and HTTP status of a call above the limit.
        status_codes: The code of an ``error`` fault without one, by HTTP status.
    """

    server = "sandbox"
    version: str
    prefix = ""
    throttling: tuple[str, int]
    status_codes: Mapping[int, str]

    def __init__(
        self,
        tenants: Tenants,
        grants: Grants,
        settings: SandboxSettings,
        *,
        host_id: str,
        operations: Mapping[str, Operation],
    ) -> None:
        self._tenants = tenants
        self._grants = grants
        self._verifier = RpcVerifier(settings.keyring) if settings.verify_signatures else None
        self._has_plain_denials = settings.plain_denials
        self._host_id = host_id
        self._operations = operations
        self._calls_per_s = settings.mps_calls_per_s
        self._limits: dict[tuple[str, str], RateLimit] = {}

    def headers(self, request_id: str) -> dict[str, str]:
        """The request id."""
        return {"x-acs-request-id": request_id} if request_id else {}

    def new_request_id(self, _now_ms: int) -> str:
        """Make a RequestId as the RPC gateway does."""
        return str(uuid4()).upper()

    def parse(self, request: Request) -> Call:
        """Find the operation of a request. Checks nothing yet."""
        parameters = parameters_of(request)
        action = _action(request, parameters)
        return Call(f"{self.prefix}{action}" if action in self._operations else UNKNOWN, "", parameters, request)

    async def answer(self, call: Call, request_id: str) -> Response:
        """Check and carry out a call; an error becomes a response too."""
        try:
            keys = None
            if self._verifier is not None:
                keys = self._verifier.verify(call.request, call.parameters, time.time())
            tenant = self._tenants.of(keys, call.request.headers.get("host", ""))
            self._check(call, tenant)
            action = call.operation.removeprefix(self.prefix)
            body = {"RequestId": request_id, **self._operations[action](tenant, call.parameters)}
            response = _written(body, 200, root=f"{action}Response", parameters=call.parameters)
        except RpcError as error:
            return self._error(request_id, call.parameters, error)
        response.is_lost = self.loses_answer(tenant, call.operation, body)
        return response

    def loses_answer(self, tenant: Tenant, operation: str, body: Mapping[str, Any]) -> bool:
        """Whether the answer of a call that had its effect is not sent."""
        raise NotImplementedError

    def error(self, request_id: str, request: Request, status: int, code: str | None, message: str) -> Response:
        """Render an error; without a code, the one that fits the status."""
        error = RpcError(code or self.status_codes.get(status, "InternalError"), message, status=status)
        return self._error(request_id, self.parse(request).parameters, error)

    def limit(self, account: str, operation: str) -> "RateLimit":
        """The limit of an account's calls of one operation, shared by everything that asks."""
        return self._limits.setdefault((account, operation), RateLimit(self._calls_per_s))

    def _error(self, request_id: str, parameters: Parameters, error: RpcError) -> Response:
        body: dict[str, Any] = {
            "RequestId": request_id,
            "HostId": self._host_id,
            "Code": error.code,
            "Message": error.message,
        }
        if error.detail is not None:
            body["AccessDeniedDetail"] = error.detail
        return _written(body, error.status, root="Error", parameters=parameters)

    def _check(self, call: Call, tenant: Tenant) -> None:
        version = _version(call.request, call.parameters)
        if call.operation == UNKNOWN or version != self.version:
            action = _action(call.request, call.parameters)[:64]
            text = f"Expected {' or '.join(self._operations)} of {self.version}, not '{action}' of '{version[:32]}'."
            raise RpcError("InvalidAction.NotFound", text, status=404)
        self._check_grant(call.operation)
        if not self.limit(tenant.account, call.operation).admits():
            code, status = self.throttling
            raise RpcError(code, "Request was denied due to user flow control.", status=status)

    def _check_grant(self, operation: str) -> None:
        action = self._grants.missing(operation)
        if action is None:
            return
        error = RpcError("Forbidden.RAM", "User not authorized to operate on the specified resource.")
        if not self._has_plain_denials:
            error.status = 403
            error.detail = {
                "AuthAction": action,
                "AuthPrincipalType": "SubUser",
                "NoPermissionType": "ExplicitDeny" if action in self._grants.deny else "ImplicitDeny",
                "PolicyType": "AccountLevelIdentityBasedPolicy",
            }
        raise error


class RateLimit:
    """At most ``limit`` calls in any second; 0 is no limit."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._now = time.monotonic
        self._calls: deque[float] = deque(maxlen=limit)

    def admits(self) -> bool:
        """Count a call, unless the limit is reached."""
        now_s = self._now()
        if self._limit and len(self._calls) == self._limit and now_s - self._calls[0] < 1:
            return False
        self._calls.append(now_s)
        return True


def is_rpc(request: Request) -> bool:
    """Whether a request is for the gateway, not for MNS: its path is the root, and it has an action."""
    if not request.target.startswith("/?") and request.target not in ("", "/"):
        return False
    return _is_form(request) or "x-acs-action" in request.headers or "Action=" in request.query


def names_version(request: Request, version: str) -> bool:
    """Whether a request of the gateway names this version of an API."""
    return _version(request, parameters_of(request)) == version


def parameters_of(request: Request) -> dict[str, str]:
    """The parameters of a request's query and form."""
    parameters = dict(parse_qsl(request.query, keep_blank_values=True))
    if _is_form(request):
        parameters |= dict(parse_qsl(request.body.decode(errors="replace"), keep_blank_values=True))
    return parameters


def required(parameters: Parameters, name: str) -> str:
    """A parameter that must be there and not empty."""
    value = parameters.get(name, "")
    if not value:
        raise RpcError(f"Missing{name}", f"{name} is mandatory for this action.")
    return value


def invalid(name: str, expected: str, value: str) -> RpcError:
    """The error for a parameter with a wrong value."""
    return RpcError("InvalidParameter", f"{name} must be {expected}, not '{value[:128]}'.")


def json_object(parameters: Parameters, name: str) -> dict[str, Any]:
    """A parameter that is a JSON object as a string; an absent one is an empty object."""
    text = parameters.get(name) or "{}"
    try:
        decoded = json.loads(text)
        # Deeply nested JSON ends in a RecursionError, which is the sender's fault as well.
    except (ValueError, RecursionError) as error:
        raise invalid(name, "a JSON object as a string", text) from error
    if not isinstance(decoded, dict):
        raise invalid(name, "a JSON object as a string", text)
    return decoded


def _is_form(request: Request) -> bool:
    return request.headers.get("content-type", "").startswith(_FORM)


def _action(request: Request, parameters: Parameters) -> str:
    return request.headers.get("x-acs-action") or parameters.get("Action", "")


def _version(request: Request, parameters: Parameters) -> str:
    return request.headers.get("x-acs-version") or parameters.get("Version", "")


def _written(body: Mapping[str, Any], status: int, *, root: str, parameters: Parameters) -> Response:
    """Write a response as JSON, or as XML with this root where ``Format=XML`` asks for it."""
    if parameters.get("Format", "").upper() == "XML":
        text = f"<?xml version='1.0' encoding='UTF-8'?><{root}>{_elements(body)}</{root}>"
        return Response(status, text.encode(), XML)
    return Response(status, json.dumps(body, ensure_ascii=False).encode(), JSON)


def _elements(body: Mapping[str, Any]) -> str:
    return "".join(
        f"<{name}>{_elements(value) if isinstance(value, Mapping) else escaped(str(value))}</{name}>"
        for name, value in body.items()
    )
