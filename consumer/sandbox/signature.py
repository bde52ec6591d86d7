"""Check who signed an MNS request: classic and V4 signatures, dates, digests, STS tokens.

Everything is taken as it came over the wire: the target is not normalised, no header is assumed.

Elsewhere: the signatures of MPS's RPC gateway (``mps_signature``).
"""

import base64
import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Final
from urllib.parse import quote, unquote

from consumer.sandbox.refusal import MnsError

WINDOW_S: Final = 15 * 60

_V4: Final = "MNS4-HMAC-SHA256"
_V4_PARTS: Final = re.compile(r"Credential=([^/,]+)/(\d{8})/([^/,]+)/mns/aliyun_v4_request,\s*Signature=([0-9a-f]{64})")
_SIGNED_V4: Final = ("content-md5", "content-type")


@dataclass(slots=True)
class Sent:
    """A request as it came.

    Attributes:
        method: In upper case.
        target: Path and query, untouched.
        headers: Names in lower case.
        body: Untouched.
    """

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Keys:
    """The only credentials that are known."""

    access_key_id: str
    access_key_secret: str
    security_token: str | None


def verify(sent: Sent, keys: Keys, now_s: float) -> None:
    """Accept a request, or say why not.

    Args:
        sent: The request.
        keys: Whom to accept.
        now_s: Seconds since 1970, real.

    Raises:
        MnsError: MissingAuthorizationHeader, InvalidAuthorizationHeader, MissingDateHeader,
            InvalidDateHeader, TimeExpired, InvalidAccessKeyId, SignatureDoesNotMatch, InvalidDigest.

    Source: facts/mns.md#request-headers.
    """
    headers = sent.headers
    authorization = headers.get("authorization")
    if not authorization:
        raise MnsError("MissingAuthorizationHeader", "Authorization header is required.")
    signed_at_s = _signed_at_s(headers)
    if abs(now_s - signed_at_s) > WINDOW_S:
        raise MnsError("TimeExpired", "The http request you sent is expired.")
    scheme, _, rest = authorization.partition(" ")
    if scheme == "MNS":
        access_key_id, _, signature = rest.partition(":")
        wanted = [classic_signature(sent, keys.access_key_secret, date) for date in _dates_to_sign(headers)]
    elif scheme == _V4:
        parts = _V4_PARTS.fullmatch(rest)
        if parts is None:
            raise _invalid_authorization()
        access_key_id, day, region, signature = parts.groups()
        wanted = [v4_signature(sent, keys.access_key_secret, signed_at_s, day, region)]
    else:
        raise _invalid_authorization()
    if not access_key_id or not signature:
        raise _invalid_authorization()
    # A wrong STS token is refused as a wrong key: the facts name no code of its own.
    if access_key_id != keys.access_key_id or (
        keys.security_token is not None and headers.get("security-token") != keys.security_token
    ):
        raise MnsError("InvalidAccessKeyId", "The access Id you provided does not exist.")
    if not any(hmac.compare_digest(signature.encode(), one.encode()) for one in wanted):
        raise MnsError(
            "SignatureDoesNotMatch",
            "The request signature we calculated does not match the signature you provided."
            " Check your key and signing method.",
        )
    _check_digest(headers, sent.body)


def classic_signature(sent: Sent, secret: str, date: str) -> str:
    """Calculate the signature of ``Authorization: MNS``.

    Source: facts/mns.md#signature-version-2.
    """
    headers = sent.headers
    own = "".join(f"{name}:{headers[name]}\n" for name in sorted(headers) if name.startswith("x-mns-"))
    digest, kind = headers.get("content-md5", ""), headers.get("content-type", "")
    text = f"{sent.method}\n{digest}\n{kind}\n{date}\n{own}{sent.target}"
    return base64.b64encode(hmac.digest(secret.encode(), text.encode(), "sha1")).decode()


def v4_signature(sent: Sent, secret: str, signed_at_s: float, day: str, region: str) -> str:
    """Calculate the signature of ``Authorization: MNS4-HMAC-SHA256``.

    Source: facts/mns.md#signature-version-4.
    """
    path, _, query = sent.target.partition("?")
    pairs = sorted(_query_pairs(query))
    headers = sent.headers
    signed = sorted(name for name in headers if name in _SIGNED_V4 or name.startswith("x-mns-"))
    canonical = "".join(
        (
            f"{sent.method}\n",
            f"{quote(unquote(path), safe='/')}\n",
            "&".join(
                # An empty value is signed as the bare key, whether an equals sign was sent or not.
                f"{quote(name, safe='')}={quote(value, safe='')}" if value else quote(name, safe="")
                for name, value in pairs
            ),
            "\n",
            *(f"{name}:{headers[name]}\n" for name in signed),
            "\n",
        )
    )
    stamp = datetime.fromtimestamp(signed_at_s, UTC).strftime("%Y%m%dT%H%M%SZ")
    text = f"{_V4}\n{stamp}\n{day}/{region}/mns/aliyun_v4_request\n{canonical}"
    key = f"aliyun_v4{secret}".encode()
    for part in (day, region, "mns", "aliyun_v4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return hmac.digest(key, text.encode(), "sha256").hex()


def _query_pairs(query: str) -> list[tuple[str, str]]:
    if not query:
        return []
    pairs = (part.partition("=") for part in query.split("&"))
    # Never unquote_plus: an unescaped receipt handle may hold a plus of its own.
    return [(unquote(name).lower(), unquote(value)) for name, _, value in pairs]


def _invalid_authorization() -> MnsError:
    return MnsError("InvalidAuthorizationHeader", "The Authorization header format is invalid.")


def _dates_to_sign(headers: Mapping[str, str]) -> tuple[str, ...]:
    date, own = headers.get("date"), headers.get("x-mns-date")
    if date is not None or own is None:
        return (date or "",)
    # "In its place" leaves open whether the Date line of the text is x-mns-date or empty: either is taken.
    return (own, "")


def _signed_at_s(headers: Mapping[str, str]) -> float:
    date = headers.get("x-mns-date") or headers.get("date")
    if not date:
        raise MnsError("MissingDateHeader", "Date header is required.")
    signed_at_s = _parsed_date_s(date)
    if signed_at_s is None:
        raise MnsError("InvalidDateHeader", "The Date header format is invalid.")
    return signed_at_s


@lru_cache(maxsize=64)
def _parsed_date_s(date: str) -> float | None:
    try:
        parsed = parsedate_to_datetime(date)
        # Another zone, or none at all, is not what RFC 1123 GMT is.
        return parsed.timestamp() if parsed.utcoffset() == timedelta(0) else None
    except (ValueError, OverflowError):
        return None


def _check_digest(headers: Mapping[str, str], body: bytes) -> None:
    given = headers.get("content-md5")
    if not given:
        return
    # Not for security: the protocol's own checksum. Clients encode the digest's bytes or its hex text.
    digest = hashlib.md5(body, usedforsecurity=False)
    raw, hexadecimal = digest.digest(), digest.hexdigest().encode()
    if given not in (base64.b64encode(hexadecimal).decode(), base64.b64encode(raw).decode()):
        raise MnsError("InvalidDigest", "The Content-MD5 you specified is not valid for the body.")
