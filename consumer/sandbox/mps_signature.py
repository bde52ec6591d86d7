"""Check who signed an MPS request: ACS3 in the headers, or the older HMAC-SHA1 in the query.

A nonce is taken once, as the gateway does: a client that quietly sends a request again is found out here.

Elsewhere: MNS's signatures (``signature``), which holds the types of both.
"""

import base64
import hashlib
import hmac
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final
from urllib.parse import parse_qsl, quote

from consumer.sandbox.refusal import MpsError
from consumer.sandbox.signature import WINDOW_S, Keys, Sent

_ACS3: Final = "ACS3-HMAC-SHA256"
_ACS3_PARTS: Final = re.compile(r"Credential=([^,]+),\s*SignedHeaders=([^,]+),\s*Signature=([0-9a-f]{64})")
_MOST_NONCES: Final = 20_000


class MpsVerifier:
    """Accepts a signed request once."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._nonces: dict[str, None] = {}

    def verify(self, sent: Sent, parameters: Mapping[str, str], now_s: float) -> None:
        """Accept a request, or say why not.

        Args:
            sent: The request.
            parameters: Its parameters, of the query and of a form in its body.
            now_s: Seconds since 1970, real.

        Raises:
            MpsError: MissingAuthorization, IncompleteSignature, InvalidTimeStamp.*, SignatureNonceUsed,
                InvalidAccessKeyId.NotFound, MissingSecurityToken, InvalidSecurityToken, SignatureDoesNotMatch.

        Source: facts/iproduction.md#api-signature.
        """
        headers = sent.headers
        if "signature" in {name.lower() for name in parameters}:
            access_key_id, token = parameters.get("AccessKeyId", ""), parameters.get("SecurityToken")
            date, nonce = parameters.get("Timestamp", ""), parameters.get("SignatureNonce", "")
            given = parameters.get("Signature", "")
            text = rpc_text(sent.method, parameters)
            digest = hmac.digest(f"{self._keys.access_key_secret}&".encode(), text.encode(), "sha1")
            wanted = base64.b64encode(digest).decode()
        else:
            scheme, _, rest = headers.get("authorization", "").partition(" ")
            parts = _ACS3_PARTS.fullmatch(rest)
            if scheme != _ACS3 or parts is None:
                raise MpsError(
                    "IncompleteSignature",
                    f"Expected '{_ACS3} Credential=ID,SignedHeaders=a;b,Signature=HEX' or a signed query.",
                )
            access_key_id, signed, given = parts.groups()
            token = headers.get("x-acs-security-token")
            date, nonce = headers.get("x-acs-date", ""), headers.get("x-acs-signature-nonce", "")
            text = acs3_text(sent, signed)
            wanted = hmac.digest(self._keys.access_key_secret.encode(), text.encode(), "sha256").hex()
        _check_date(date, now_s)
        if access_key_id != self._keys.access_key_id:
            raise MpsError("InvalidAccessKeyId.NotFound", "Specified access key is not found.", status=404)
        if self._keys.security_token is not None and token != self._keys.security_token:
            if not token:
                raise MpsError("MissingSecurityToken", "SecurityToken is mandatory for this action.")
            raise MpsError("InvalidSecurityToken", "Specified SecurityToken is wrong.")
        if not hmac.compare_digest(given.encode(), wanted.encode()):
            raise _no_match(text)
        self._use(nonce)

    def _use(self, nonce: str) -> None:
        if not nonce:
            raise MpsError("MissingSignatureNonce", "A signature nonce is mandatory.")
        if nonce in self._nonces:
            raise MpsError("SignatureNonceUsed", "Specified signature nonce was used already.")
        self._nonces[nonce] = None
        if len(self._nonces) > _MOST_NONCES:
            del self._nonces[next(iter(self._nonces))]


def _no_match(text: str) -> MpsError:
    # Clients look for the text behind the colon; the old Python one fails without it
    # (facts/iproduction.md#api-error-codes).
    prefix = "Specified signature is not matched with our calculation. server string to sign is:"
    return MpsError("SignatureDoesNotMatch", prefix + text)


def acs3_text(sent: Sent, signed_headers: str) -> str:
    """Give the text that an ACS3-HMAC-SHA256 signature is made of.

    Raises:
        MpsError: SignatureDoesNotMatch when the digest in the headers is not the body's.
    """
    path, _, query = sent.target.partition("?")
    digest = hashlib.sha256(sent.body).hexdigest()
    given_digest = sent.headers.get("x-acs-content-sha256", "")
    if given_digest.lower() != digest:
        raise _no_match(f"x-acs-content-sha256 {digest}")
    pairs = sorted(parse_qsl(query, keep_blank_values=True))
    names = signed_headers.split(";")
    canonical = "\n".join(
        (
            sent.method,
            path,
            "&".join(f"{_encoded(name)}={_encoded(value)}" for name, value in pairs),
            "".join(f"{name}:{sent.headers.get(name, '').strip()}\n" for name in names),
            signed_headers,
            given_digest,
        )
    )
    return f"{_ACS3}\n{hashlib.sha256(canonical.encode()).hexdigest()}"


def rpc_text(method: str, parameters: Mapping[str, str]) -> str:
    """Give the text that the older signature over all parameters is made of."""
    query = "&".join(
        f"{_encoded(name)}={_encoded(parameters[name])}" for name in sorted(parameters) if name != "Signature"
    )
    return f"{method}&%2F&{_encoded(query)}"


def _encoded(text: str) -> str:
    return quote(text, safe="~")


def _check_date(date: str, now_s: float) -> None:
    try:
        signed_at = datetime.strptime(date, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except ValueError as error:
        raise MpsError(
            "InvalidTimeStamp.Format", f"The date must be YYYY-MM-DDThh:mm:ssZ, not '{date[:64]}'."
        ) from error
    if abs(now_s - signed_at.timestamp()) > WINDOW_S:
        raise MpsError("InvalidTimeStamp.Expired", f"The date is more than {WINDOW_S} s off the server's.")
