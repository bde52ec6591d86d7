"""Decide which calls the one AccessKey may make, by the RAM actions that each call needs.

The actions of the daemon's own calls stand in ``consumer.rights``, the one table of the project. Any other call needs
the action of its own name.
"""

import difflib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from types import MappingProxyType
from typing import Final

from consumer.rights import RIGHTS
from consumer.sandbox.operations import JOB_OPERATIONS, QUEUE_OPERATIONS


def _actions() -> dict[str, tuple[str, ...]]:
    own = {name: (f"mns:{name}",) for name in QUEUE_OPERATIONS} | {name: (f"mts:{name}",) for name in JOB_OPERATIONS}
    return own | {name: right.actions for name, right in RIGHTS.items() if name in own}


ACTIONS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(_actions())
"""Operation to the actions that it needs, all of them."""

_KNOWN: Final = frozenset(chain.from_iterable(ACTIONS.values()))


@dataclass(frozen=True, slots=True)
class Denial:
    """Why a call is refused: the action that is missing, and whether it was denied in so many words."""

    action: str
    is_explicit: bool


class Grants:
    """What is granted now; may be changed at any time.

    Args:
        allow: The only actions that are granted; None grants all.
        deny: Actions that are not granted whatever ``allow`` says.
    """

    def __init__(self, allow: Iterable[str] | None = None, deny: Iterable[str] = ()) -> None:
        self.allow: tuple[str, ...] | None = None
        self.deny: tuple[str, ...] = ()
        self._denials: dict[str, Denial] = {}
        self.set(allow, deny)

    def set(self, allow: Iterable[str] | None = None, deny: Iterable[str] = ()) -> None:
        """Replace what is granted.

        Raises:
            ValueError: For a name that is no action, with the nearest one.
        """
        self.allow = None if allow is None else tuple(checked(tuple(allow)))
        self.deny = tuple(checked(tuple(deny)))
        allowed = _KNOWN if self.allow is None else frozenset(self.allow)
        denied = frozenset(self.deny)
        self._denials = {}
        for operation, actions in ACTIONS.items():
            for action in actions:
                if action in denied or action not in allowed:
                    self._denials.setdefault(operation, Denial(action, action in denied))

    def denial(self, operation: str) -> Denial | None:
        """Say what a call lacks; None when it may be made."""
        return self._denials.get(operation) if self._denials else None


def checked(names: Collection[str]) -> Collection[str]:
    """Give the names back if each is an action.

    Raises:
        ValueError: For one that is none, with the nearest one.
    """
    for name in names:
        if name not in _KNOWN:
            by_folded = {known.lower(): known for known in sorted(_KNOWN)}
            near = difflib.get_close_matches(name.lower(), by_folded, n=1, cutoff=0.0)
            raise ValueError(f"unknown action '{name}'; the nearest is '{by_folded[near[0]]}'")
    return names
