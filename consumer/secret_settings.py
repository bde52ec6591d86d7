"""Which settings hold secrets: refuse them on the command line, and mask them in errors.

Imports nothing heavy, because the command line checks its arguments before it loads anything.
"""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import unquote

from consumer.errors import UsageError

SECRETS: Final = ("access_key_secret", "security_token")
"""Settings whose whole value is a secret."""
_ADDRESSES: Final = frozenset({"store", "endpoint", "mps_endpoint"})
"""Settings whose value may hold a password."""
_SIMILARITY: Final = 0.8
_PASSWORD: Final = re.compile(r"://[^/?#]*:[^/?#]*@|://[^@]*:[^@]*@|[?&](?:ssl)?password=", re.IGNORECASE)


def holds_secret(name: str, value: Any) -> bool:
    """Whether a setting's value holds a secret: a key, a store's address with a password, a lane with keys."""
    if name in SECRETS:
        return True
    if name == "store":
        return isinstance(value, str) and has_password(value)
    if name == "lanes":
        if isinstance(value, str):
            return any(secret in value for secret in SECRETS)
        lanes = value if isinstance(value, list | tuple) else ()
        return any(secret in lane for lane in lanes if isinstance(lane, Mapping) for secret in SECRETS)
    return False


def has_password(address: str) -> bool:
    """Whether an address holds a password."""
    return any(_PASSWORD.search(text) is not None for text in (address, unquote(address)))


def masked(text: str) -> str:
    """A text for an error, without what stands before the ``@`` of an address."""
    # Not by a pattern: one from the first // to the last @ takes quadratic time on a text of many //.
    start, end = text.find("//"), text.rfind("@")
    return text if start < 0 or end < start else f"{text[:start]}//***@{text[end + 1 :]}"


def refuse_secrets(argv: Sequence[str]) -> None:
    """Refuse a command line that holds a secret: every user of the machine can read it there.

    Call it before the arguments are parsed, because the parser's errors repeat them.

    Raises:
        UsageError: Names the setting and the safe ways to give it, without the value.
    """
    if argv[:1] == ["sandbox"]:
        # The sandbox's keys are made up and public.
        return
    for word, following in itertools.pairwise([*argv, ""]):
        # "--store X", "--store=X", "--set store=X" and "--set=store=X" are all one.
        name, equals, value = word.removeprefix("--set=").removeprefix("--").partition("=")
        # "access_key_secret: X" is a slip that the parser would repeat whole.
        name = re.split(r"[:\s]", name.strip(), maxsplit=1)[0].lower()
        if (setting := _secret_setting(name, value if equals else following)) is not None:
            variable = f"MNS_CONSUMER_{setting.upper()}"
            raise UsageError(
                f"{setting}: a secret is not taken from the command line, where other users can read it; give it in "
                f"the environment ({variable}), in a file that {variable}_FILE names, in a file {variable.lower()} of "
                "$CREDENTIALS_DIRECTORY or /run/secrets, in a settings file that only the daemon's user can read "
                "(--config), or use a role"
            )


def _secret_setting(name: str, value: str) -> str | None:
    """The setting through which an argument gives a secret; ``None`` if it gives none."""
    setting = name.replace("-", "_")
    if setting in _ADDRESSES and has_password(value):
        return setting
    if name == "lanes" and any(_nearest_secret(word) for word in re.findall(r"\w+", value)):
        return name
    return _nearest_secret(name)


def _nearest_secret(name: str) -> str | None:
    """The secret setting that a name is or was probably meant to be."""
    found = difflib.get_close_matches(re.sub(r"[-\s]", "_", name.lower()), SECRETS, n=1, cutoff=_SIMILARITY)
    return found[0] if found else None
