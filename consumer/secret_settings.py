"""Which settings hold secrets, the safe ways to give them, and how a text that may hold one is shown.

Imports nothing heavy: the command line asks here before it loads anything.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import unquote

SECRETS: Final = ("access_key_secret", "security_token")
"""Settings that are secrets as a whole."""
_SAFE_WAYS: Final = (
    "give it in the environment (MNS_CONSUMER_{name}), in a file of $CREDENTIALS_DIRECTORY (mns_consumer_{lower}), "
    "in a settings file that only the daemon's user can read (--config), or use a role"
)
_ALIKE: Final = 0.8
_PASSWORD: Final = re.compile(r"://[^/?#]*:[^/?#]*@|://[^@]*:[^@]*@|[?&](?:ssl)?password=", re.IGNORECASE)


def secret_like(name: str) -> str | None:
    """The secret setting that a name is, or that it was probably meant to be."""
    found = difflib.get_close_matches(re.sub(r"[-\s]", "_", name.lower()), SECRETS, n=1, cutoff=_ALIKE)
    return found[0] if found else None


def holds_secret(name: str, value: Any) -> bool:
    """Whether a setting's value holds a secret: a key, a store's address with a password, a lane with keys."""
    if name in SECRETS:
        return True
    if name == "store":
        return isinstance(value, str) and has_password(value)
    if name == "lanes":
        lanes = value if isinstance(value, list | tuple) else ()
        return any(secret in lane for lane in lanes if isinstance(lane, Mapping) for secret in SECRETS)
    return False


def has_password(address: str) -> bool:
    """Whether an address holds a password."""
    return any(_PASSWORD.search(text) is not None for text in (address, unquote(address)))


def safe_ways(name: str) -> str:
    """How to give a secret setting instead of on the command line."""
    return _SAFE_WAYS.format(name=name.upper(), lower=name)


def masked(text: str) -> str:
    """A text for an error, without what stands before the ``@`` of an address."""
    # Not by a pattern: one from the first // to the last @ takes quadratic time on a text of many //.
    start, end = text.find("//"), text.rfind("@")
    return text if start < 0 or end < start else f"{text[:start]}//***@{text[end + 1 :]}"
