"""What the driver is told about TLS, by the address and libpq's own variables and files.

    no mode written, host on loopback or a socket    the driver's default: PGSSLMODE, else TLS where the server has it
    no mode written, any other host                  verify-full; PGSSLMODE does not weaken it
    sslmode=MODE                                     that mode

CAs come from ``sslrootcert``, ``PGSSLROOTCERT`` or ``~/.postgresql/root.crt``; ``verify-full`` takes the system's where
there is none of them, or ``sslrootcert=system``.
"""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from typing import Final

from consumer.errors import SettingsError
from consumer.store_address import WEAK, PostgresAddress, SslMode

_SYSTEM: Final = "system"


def tls_of(address: PostgresAddress) -> ssl.SSLContext | str | None:
    """The driver's argument ``ssl``; ``None`` leaves it to the driver.

    Raises:
        SettingsError: A file can't be used, or the mode lacks one.
    """
    mode = address.tls_mode
    if mode is None or mode in WEAK:
        return mode
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = mode is SslMode.VERIFY_FULL
    context.minimum_version = _version(address, "ssl_min_protocol_version", ssl.TLSVersion.TLSv1_2)
    context.maximum_version = _version(address, "ssl_max_protocol_version", ssl.TLSVersion.MAXIMUM_SUPPORTED)
    context.set_alpn_protocols(["postgresql"])
    _trust(context, address, mode)
    if crl := _file(address, "sslcrl", "PGSSLCRL", "root.crl"):
        _load(address, "sslcrl", crl, context)
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_CHAIN
    if certificate := _file(address, "sslcert", "PGSSLCERT", "postgresql.crt"):
        key = _file(address, "sslkey", "PGSSLKEY", "postgresql.key")
        try:
            # A text, not None: nobody is there to be asked for it.
            context.load_cert_chain(certificate, key, password=address.sslpassword or "")
        except (OSError, ValueError) as error:
            raise _unusable(address, "sslcert", certificate, error) from None
    return context


def _trust(context: ssl.SSLContext, address: PostgresAddress, mode: SslMode) -> None:
    root = _file(address, "sslrootcert", "PGSSLROOTCERT", "root.crt")
    if root == _SYSTEM and mode is not SslMode.VERIFY_FULL:
        # Anyone gets a certificate of a public CA, for a name of his own.
        raise SettingsError(f"store {address}: sslrootcert=system needs sslmode=verify-full")
    if root not in {None, _SYSTEM}:
        _load(address, "sslrootcert", str(root), context)
    elif mode is SslMode.VERIFY_FULL:
        context.load_default_certs()
    elif mode is SslMode.VERIFY_CA:
        raise SettingsError(f"store {address}: sslmode=verify-ca needs sslrootcert=FILE, the certificate of the CA")
    else:
        # Require without a CA: encrypted, and the server is not looked at.
        context.verify_mode = ssl.CERT_NONE


def _file(address: PostgresAddress, option: str, variable: str, name: str) -> str | None:
    """A file as written, as in the environment, or where libpq looks for it."""
    if given := address.tls.get(option) or os.environ.get(variable):
        return given
    try:
        usual = Path.home() / ".postgresql" / name
        return str(usual) if usual.exists() else None
    except (RuntimeError, OSError):
        return None


def _load(address: PostgresAddress, option: str, path: str, context: ssl.SSLContext) -> None:
    try:
        context.load_verify_locations(cafile=path)
    except (OSError, ValueError) as error:
        raise _unusable(address, option, path, error) from None


def _unusable(address: PostgresAddress, option: str, path: str, error: OSError | ValueError) -> SettingsError:
    # OpenSSL's errors are OSErrors whose text names a line of its own source.
    told = "it holds no such certificate or key" if isinstance(error, ssl.SSLError) else None
    told = told or getattr(error, "strerror", None) or str(error)
    return SettingsError(f"store {address}: {option} {path} can't be used: {told}; expected a PEM file")


def _version(address: PostgresAddress, option: str, default: ssl.TLSVersion) -> ssl.TLSVersion:
    written = address.tls.get(option)
    return default if written is None else ssl.TLSVersion[written.replace(".", "_")]
