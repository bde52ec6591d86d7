"""Settings of a PostgreSQL session or transaction, and how a connection pooler is recognised.

A direct connection gets its settings once, for its session. Behind a pooler in transaction mode (such as PgBouncer)
each transaction may run in another session, and other programs use the same sessions. There each unit of work is one
transaction that starts by setting what it needs for itself alone, and no statement stays prepared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

PLANS: Final[Mapping[str, str]] = {
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "jit": "off",
}
"""Look up by index, always: a plan that was made while the tables were empty is kept when they are large."""
LAZY_COMMIT: Final[Mapping[str, str]] = {"synchronous_commit": "off"}
"""For claims: one that a crash of the database undoes is a claim that ends early."""

AT_START: Final = frozenset({"application_name", "options"})
"""Settings that are sent when connecting: poolers know the first, and the second can't be set later."""

_REFUSALS: Final[Mapping[str, str]] = {
    "statement pooling mode": (
        "the pooler before it pools statements, and this program needs transactions;"
        " set pool_mode = transaction (or session) for this database in the pooler, or name the server itself"
    ),
    "unsupported startup parameter: options": (
        "the pooler before it takes no options; write each setting by its name, as in ?search_path=NAME"
    ),
}
"""What a pooler's error contains, and what to do: nothing will work before it is done."""


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """What a connection needs to be set.

    Args:
        values: By name; a later one wins.
        durable: Commits wait for the server's disk, even if the database or the user is configured otherwise.
    """

    values: Mapping[str, str] = field(default_factory=dict)
    durable: bool = False

    def for_session(self, pid: int) -> str:
        """Statements that set it all for the session, if the session is ours alone.

        Args:
            pid: The process id that the server announced when the connection was made. A pooler announces a number of
                its own, so that it differs from the session's: then nothing is set.

        Returns:
            Statements for one simple query. The last one's status is ``SELECT 1``; behind a pooler, ``SELECT 0``.
        """
        ours = f"pg_backend_pid() = {int(pid)}"
        return "; ".join([*(f"{text} {ours}" for text in self._conditional(is_local="false")), f"SELECT WHERE {ours}"])

    def for_transaction(self, more: Mapping[str, str]) -> str:
        """Statements that begin a transaction and set it all, and ``more``, until the transaction ends."""
        settings = SessionSettings({**self.values, **more}, durable=self.durable)
        return "; ".join(["BEGIN", *(f"{text} true" for text in settings._conditional(is_local="true"))])

    def _conditional(self, *, is_local: str) -> list[str]:
        """Statements without the end of their condition."""
        calls = [f"set_config({_literal(name)}, {_literal(value)}, {is_local})" for name, value in self.values.items()]
        texts = [f"SELECT {', '.join(calls)} WHERE"] if calls else []
        if self.durable:
            texts.append(
                f"SELECT set_config('synchronous_commit', 'on', {is_local})"
                " WHERE current_setting('synchronous_commit') = 'off' AND"
            )
        return texts


def pooler_refusal(text: str) -> str | None:
    """What to do about an error that shows a pooler which this program can't work through; ``None`` for any other."""
    return next((meaning for part, meaning in _REFUSALS.items() if part in text), None)


def _literal(text: str) -> str:
    """The text as an SQL literal, whatever ``standard_conforming_strings`` is."""
    return "E'" + text.replace("\\", "\\\\").replace("'", "''") + "'"
