"""Which requests are answered: no web page's, those with a right signature, and the calls that the AccessKey may make.

A page in a browser can send requests to any port of the browser's machine. With DNS rebinding (its own name resolves to
127.0.0.1) it can read the answers too, but the Host header still has its name. Otherwise its requests carry an
``Origin`` or ``Sec-Fetch-Site`` that differs.

Signatures of MNS: the classic one and V4. Of MPS and IMS: ACS3 in the headers, or the older HMAC-SHA1 in the query.
Everything is checked as it was received: the target is not normalised, no header is assumed.
"""

import base64
import difflib
import hashlib
import hmac
import ipaddress
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from fnmatch import fnmatchcase
from itertools import chain
from typing import Annotated, Final
from urllib.parse import parse_qsl, quote, unquote

from pydantic import AfterValidator, BaseModel, ConfigDict

from consumer.sandbox.protocol import IMS_OPERATIONS, JOB_OPERATIONS, QUEUE_OPERATIONS, MnsError, Request, RpcError

_NAME_AND_PORT: Final = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^\[\]:/@\s]+)(?::\d{1,5})?")
_FOREIGN_SITES: Final = frozenset({"cross-site", "same-site"})
_LONGEST_SHOWN: Final = 100

_WINDOW_S: Final = 15 * 60

_V4: Final = "MNS4-HMAC-SHA256"
_V4_PARTS: Final = re.compile(r"Credential=([^/,]+)/(\d{8})/([^/,]+)/mns/aliyun_v4_request,\s*Signature=([0-9a-f]{64})")
_SIGNED_V4: Final = ("content-md5", "content-type")

_ACS3: Final = "ACS3-HMAC-SHA256"
_ACS3_PARTS: Final = re.compile(r"Credential=([^,]+),\s*SignedHeaders=([^,]+),\s*Signature=([0-9a-f]{64})")
_MOST_NONCES: Final = 20_000


class Origins:
    """The hosts and origins that are answered; ``allowed`` holds more host names, with ``*`` and ``?``."""

    def __init__(self, host: str, allowed: Iterable[str], *, scheme: str) -> None:
        self._allowed = tuple(name.lower() for name in (host, *allowed))
        self._scheme = scheme

    def refusal(self, headers: Mapping[str, str]) -> str | None:
        """Why a request with these headers (names in lower case) is refused; None when it is answered."""
        host = headers.get("host", "")
        if not self._is_here(host):
            return (
                f"The sandbox does not answer to the host '{host[:_LONGEST_SHOWN]}': expected a loopback address or"
                " name. Allow it by --allow-host NAME, or in SandboxSettings.allowed_hosts."
            )
        origin = headers.get("origin")
        if origin is not None and origin.lower() != f"{self._scheme}://{host}".lower():
            return (
                f"The sandbox does not answer web pages: the request comes from the origin '{origin[:_LONGEST_SHOWN]}'."
            )
        if headers.get("sec-fetch-site") in _FOREIGN_SITES:
            return "The sandbox does not answer web pages: the request comes from another site."
        return None

    def _is_here(self, host: str) -> bool:
        if not host:
            # HTTP/1.0 may have none; browsers always send it.
            return True
        parts = _NAME_AND_PORT.fullmatch(host)
        if parts is None:
            return False
        name = parts[1].strip("[]").rstrip(".").lower()
        if name == "localhost" or name.endswith(".localhost"):
            return True
        if any(fnmatchcase(name, pattern) for pattern in self._allowed):
            return True
        try:
            return ipaddress.ip_address(name).is_loopback
        except ValueError:
            return False


@dataclass(frozen=True, slots=True)
class Keys:
    """An AccessKey, its account, and the region of its calls whose Host names none."""

    access_key_id: str
    access_key_secret: str
    security_token: str | None
    account: str = ""
    region: str = ""


Keyring = Mapping[str, Keys]
"""The AccessKeys that are accepted, by their ids."""

_NO_KEYS: Final = Keys("", "", None)


def verify_mns(request: Request, keyring: Keyring, now_s: float) -> Keys:
    """Check an MNS request's signature, date and digest; return its keys. ``now_s`` is in seconds since 1970.

    Raises:
        MnsError: MissingAuthorizationHeader, InvalidAuthorizationHeader, MissingDateHeader, InvalidDateHeader,
            TimeExpired, InvalidAccessKeyId, SignatureDoesNotMatch, InvalidDigest.

    Source: facts/mns.md#request-headers.
    """
    headers = request.headers
    authorization = headers.get("authorization")
    if not authorization:
        raise MnsError("MissingAuthorizationHeader", "Authorization header is required.")
    signed_at_s = _signed_at_s(headers)
    if abs(now_s - signed_at_s) > _WINDOW_S:
        raise MnsError("TimeExpired", "The http request you sent is expired.")
    scheme, _, rest = authorization.partition(" ")
    access_key_id = signature = ""
    expected: list[str] = []
    keys = _NO_KEYS
    if scheme == "MNS":
        access_key_id, _, signature = rest.partition(":")
        keys = keyring.get(access_key_id, keys)
        # x-mns-date stands "in place" of Date: whether the signed text then has it or an empty line is left open.
        dates = [headers["date"]] if "date" in headers else [headers["x-mns-date"], ""]
        expected = [classic_signature(request, keys.access_key_secret, date) for date in dates]
    elif scheme == _V4 and (parts := _V4_PARTS.fullmatch(rest)) is not None:
        access_key_id, day, region, signature = parts.groups()
        keys = keyring.get(access_key_id, keys)
        expected = [v4_signature(request, keys.access_key_secret, signed_at_s, day, region)]
    if not access_key_id or not signature:
        raise MnsError("InvalidAuthorizationHeader", "The Authorization header format is invalid.")
    # A wrong STS token is refused like a wrong key: the facts name no code of its own.
    has_token = keys.security_token is None or headers.get("security-token") == keys.security_token
    if access_key_id not in keyring or not has_token:
        raise MnsError("InvalidAccessKeyId", "The access Id you provided does not exist.")
    if not any(hmac.compare_digest(signature.encode(), one.encode()) for one in expected):
        raise MnsError(
            "SignatureDoesNotMatch",
            "The request signature we calculated does not match the signature you provided."
            " Check your key and signing method.",
        )
    _check_digest(headers, request.body)
    return keys


def classic_signature(request: Request, secret: str, date: str) -> str:
    """Calculate the signature of ``Authorization: MNS`` (facts/mns.md#signature-version-2)."""
    headers = request.headers
    own = "".join(f"{name}:{headers[name]}\n" for name in sorted(headers) if name.startswith("x-mns-"))
    digest, kind = headers.get("content-md5", ""), headers.get("content-type", "")
    text = f"{request.method}\n{digest}\n{kind}\n{date}\n{own}{request.target}"
    return base64.b64encode(hmac.digest(secret.encode(), text.encode(), "sha1")).decode()


def v4_signature(request: Request, secret: str, signed_at_s: float, day: str, region: str) -> str:
    """Calculate the signature of ``Authorization: MNS4-HMAC-SHA256`` (facts/mns.md#signature-version-4)."""
    headers = request.headers
    items = [part.partition("=") for part in request.query.split("&") if part]
    # Not unquote_plus: an unescaped receipt handle may contain a plus. An empty value is signed as the bare key.
    pairs = sorted((unquote(name).lower(), unquote(value)) for name, _, value in items)
    query = "&".join(f"{_quoted(name)}={_quoted(value)}" if value else _quoted(name) for name, value in pairs)
    signed = sorted(name for name in headers if name in _SIGNED_V4 or name.startswith("x-mns-"))
    header_lines = "".join(f"{name}:{headers[name]}\n" for name in signed)
    path = quote(unquote(request.path), safe="/")
    stamp = datetime.fromtimestamp(signed_at_s, UTC).strftime("%Y%m%dT%H%M%SZ")
    scope = f"{day}/{region}/mns/aliyun_v4_request"
    text = f"{_V4}\n{stamp}\n{scope}\n{request.method}\n{path}\n{query}\n{header_lines}\n"
    key = f"aliyun_v4{secret}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    return hmac.digest(key, text.encode(), "sha256").hex()


def _quoted(text: str) -> str:
    return quote(text, safe="~")


def _signed_at_s(headers: Mapping[str, str]) -> float:
    date = headers.get("x-mns-date") or headers.get("date")
    if not date:
        raise MnsError("MissingDateHeader", "Date header is required.")
    try:
        parsed = parsedate_to_datetime(date)
    except (ValueError, OverflowError):
        parsed = None
    # RFC 1123 GMT: no other zone, and not none.
    if parsed is None or parsed.utcoffset() != timedelta(0):
        raise MnsError("InvalidDateHeader", "The Date header format is invalid.")
    return parsed.timestamp()


def _check_digest(headers: Mapping[str, str], body: bytes) -> None:
    received = headers.get("content-md5")
    if not received:
        return
    # The protocol's checksum, not for security. Clients encode the digest's bytes or its hex text.
    digest = hashlib.md5(body, usedforsecurity=False)
    accepted = (base64.b64encode(digest.hexdigest().encode()).decode(), base64.b64encode(digest.digest()).decode())
    if received not in accepted:
        raise MnsError("InvalidDigest", "The Content-MD5 you specified is not valid for the body.")


class RpcVerifier:
    """Checks signatures as the RPC gateway does. A nonce is accepted once: that reveals a client's hidden retry."""

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring
        self._nonces: dict[str, None] = {}

    def verify(self, request: Request, parameters: Mapping[str, str], now_s: float) -> Keys:
        """Check a request with its parameters of query and form; return its keys. ``now_s`` is in seconds since 1970.

        Raises:
            RpcError: IncompleteSignature, InvalidTimeStamp.*, InvalidAccessKeyId.NotFound, MissingSecurityToken,
                InvalidSecurityToken, SignatureDoesNotMatch, MissingSignatureNonce, SignatureNonceUsed.

        Source: facts/iproduction.md#api-signature.
        """
        headers = request.headers
        if "Signature" in parameters:
            access_key_id, token = parameters.get("AccessKeyId", ""), parameters.get("SecurityToken")
            date, nonce = parameters.get("Timestamp", ""), parameters.get("SignatureNonce", "")
            signature = parameters["Signature"]
            keys = self._keyring.get(access_key_id, _NO_KEYS)
            text = _rpc_text(request.method, parameters)
            digest = hmac.digest(f"{keys.access_key_secret}&".encode(), text.encode(), "sha1")
            expected = base64.b64encode(digest).decode()
        else:
            scheme, _, rest = headers.get("authorization", "").partition(" ")
            parts = _ACS3_PARTS.fullmatch(rest)
            if scheme != _ACS3 or parts is None:
                form = f"'{_ACS3} Credential=ID,SignedHeaders=a;b,Signature=HEX' or a signed query"
                raise RpcError("IncompleteSignature", f"Expected {form}.")
            access_key_id, signed_headers, signature = parts.groups()
            keys = self._keyring.get(access_key_id, _NO_KEYS)
            token = headers.get("x-acs-security-token")
            date, nonce = headers.get("x-acs-date", ""), headers.get("x-acs-signature-nonce", "")
            text = _acs3_text(request, signed_headers)
            expected = hmac.digest(keys.access_key_secret.encode(), text.encode(), "sha256").hex()
        _check_timestamp(date, now_s)
        if access_key_id not in self._keyring:
            raise RpcError("InvalidAccessKeyId.NotFound", "Specified access key is not found.", status=404)
        if keys.security_token is not None and token != keys.security_token:
            if not token:
                raise RpcError("MissingSecurityToken", "SecurityToken is mandatory for this action.")
            raise RpcError("InvalidSecurityToken", "Specified SecurityToken is wrong.")
        if not hmac.compare_digest(signature.encode(), expected.encode()):
            raise _does_not_match(text)
        self._use(nonce)
        return keys

    def _use(self, nonce: str) -> None:
        if not nonce:
            raise RpcError("MissingSignatureNonce", "A signature nonce is mandatory.")
        if nonce in self._nonces:
            raise RpcError("SignatureNonceUsed", "Specified signature nonce was used already.")
        self._nonces[nonce] = None
        if len(self._nonces) > _MOST_NONCES:
            del self._nonces[next(iter(self._nonces))]


def _does_not_match(text: str) -> RpcError:
    # Clients look for the text after the colon, and the old Python one fails without it
    # (facts/iproduction.md#api-error-codes).
    prefix = "Specified signature is not matched with our calculation. server string to sign is:"
    return RpcError("SignatureDoesNotMatch", prefix + text)


def _acs3_text(request: Request, signed_headers: str) -> str:
    digest = hashlib.sha256(request.body).hexdigest()
    received = request.headers.get("x-acs-content-sha256", "")
    if received.lower() != digest:
        raise _does_not_match(f"x-acs-content-sha256 {digest}")
    pairs = sorted(parse_qsl(request.query, keep_blank_values=True))
    query = "&".join(f"{_quoted(name)}={_quoted(value)}" for name, value in pairs)
    headers = "".join(f"{name}:{request.headers.get(name, '').strip()}\n" for name in signed_headers.split(";"))
    canonical = f"{request.method}\n{request.path}\n{query}\n{headers}\n{signed_headers}\n{received}"
    return f"{_ACS3}\n{hashlib.sha256(canonical.encode()).hexdigest()}"


def _rpc_text(method: str, parameters: Mapping[str, str]) -> str:
    names = (name for name in sorted(parameters) if name != "Signature")
    query = "&".join(f"{_quoted(name)}={_quoted(parameters[name])}" for name in names)
    return f"{method}&%2F&{_quoted(query)}"


def _check_timestamp(date: str, now_s: float) -> None:
    try:
        signed_at = datetime.strptime(date, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except ValueError as error:
        text = f"The date must be YYYY-MM-DDThh:mm:ssZ, not '{date[:64]}'."
        raise RpcError("InvalidTimeStamp.Format", text) from error
    if abs(now_s - signed_at.timestamp()) > _WINDOW_S:
        raise RpcError("InvalidTimeStamp.Expired", f"The date is more than {_WINDOW_S} s off the server's.")


# Three batch calls have an action of their own, and may need the single one too. Source: facts/mns.md#rights.
ACTIONS: Final[Mapping[str, tuple[str, ...]]] = {
    **{name: (f"mns:{name}",) for name in QUEUE_OPERATIONS},
    **{name: (f"mts:{name}",) for name in JOB_OPERATIONS},
    **{name: (name,) for name in IMS_OPERATIONS},
    **{
        f"Batch{name}": (f"mns:Batch{name}", f"mns:{name}")
        for name in ("ReceiveMessage", "PeekMessage", "DeleteMessage")
    },
}
"""Operation to the RAM actions that it needs, all of them."""

_KNOWN_ACTIONS: Final = frozenset(chain.from_iterable(ACTIONS.values()))


def check_actions(names: Collection[str]) -> Collection[str]:
    """Return the names if each is an action; else ValueError, with the nearest one."""
    for name in names:
        if name not in _KNOWN_ACTIONS:
            by_folded = {known.lower(): known for known in sorted(_KNOWN_ACTIONS)}
            near = difflib.get_close_matches(name.lower(), by_folded, n=1, cutoff=0.0)
            raise ValueError(f"unknown action '{name}'; the nearest is '{by_folded[near[0]]}'")
    return names


Actions = Annotated[tuple[str, ...], AfterValidator(check_actions)]


class Grants(BaseModel):
    """The RAM actions that are granted now: those of ``allow`` (None: all) less those of ``deny``."""

    model_config = ConfigDict(extra="forbid")

    allow: Actions | None = None
    deny: Actions = ()

    def set(self, allow: Iterable[str] | None = None, deny: Iterable[str] = ()) -> None:
        """Replace what is granted; ValueError for a name that is no action."""
        given = Grants(allow=allow, deny=deny)
        self.allow, self.deny = given.allow, given.deny

    def missing(self, operation: str) -> str | None:
        """The first action that an operation lacks; None when it is granted."""
        for action in ACTIONS[operation]:
            if action in self.deny or (self.allow is not None and action not in self.allow):
                return action
        return None
