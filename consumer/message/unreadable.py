"""The one way in which a layer of a message says that it can't be read.

An exception inside this package only: every public function of it catches it and gives a value, since
a fault of a message is something to hand on, never something that stops the daemon.

Elsewhere: the value that the rest of the program sees (``notification.Undecodable``).
"""

from __future__ import annotations

_SHOWN_CHARACTERS = 40


class Unreadable(ValueError):  # noqa: N818 - it never leaves this package; "Error" is kept for what does
    """One layer is not what it should be.

    Args:
        layer: Which one: ``body``, ``json``, ``xml``, ``envelope``, ``keys``, ``state``; what lies inside a
            topic's envelope has ``envelope.`` before it.
        reason: One sentence: what was expected and what came.
        position: Character (``body``, ``xml``: byte) offset within that layer; ``None`` where it has none.
    """

    def __init__(self, layer: str, reason: str, position: int | None = None) -> None:
        super().__init__(reason)
        self.layer = layer
        self.reason = reason
        self.position = position

    def within(self, outer: str, note: str = "") -> Unreadable:
        """The same fault, seen from one layer further out."""
        return Unreadable(f"{outer}{self.layer}", f"{self.reason}{note}", self.position)


def shown(text: str) -> str:
    """Quote text from outside for a reason: printable, and cut, since a reason ends in a log line."""
    cut = text[:_SHOWN_CHARACTERS]
    return repr(cut) if cut == text else f"{cut!r} (and {len(text) - len(cut)} more characters)"
