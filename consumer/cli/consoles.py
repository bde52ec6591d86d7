"""Where tables are printed: a terminal as wide as it is, a file or pipe wide enough for every row.

Elsewhere: what is printed (each command).
"""

from __future__ import annotations

from typing import Final

from rich.console import Console

_LEAST_WIDTH: Final = 150


def wide_console() -> Console:
    """A console for stdout; into a file or pipe nobody's window bounds its width."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=max(console.width, _LEAST_WIDTH))
