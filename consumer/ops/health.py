"""What a health check is: the words between those who know (``engine``) and those who ask (``ops.admin``).

Elsewhere: the checks themselves (``engine.vitals``), serving their answers (``ops.admin``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at.

    Args:
        name: What was looked at, a constant word or phrase.
        ok: Whether it is well.
        detail: What was seen, in one line; never a secret.
    """

    name: str
    ok: bool
    detail: str


class Checks(Protocol):
    """The three questions that a supervisor asks. Each is answered from memory, within microseconds."""

    def live(self) -> Sequence[Check]:
        """Whether the daemon gets anywhere; if not, only a restart helps."""

    def ready(self) -> Sequence[Check]:
        """Whether messages are being handled now."""

    def started(self) -> Sequence[Check]:
        """Whether the start is over."""
