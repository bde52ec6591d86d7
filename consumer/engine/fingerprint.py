"""The fingerprint of an error: equal for dead letters of one cause, so that operators see groups.

It has the names of files and functions, but no lines, so that a small edit splits no group; and of a text only what is
the same for every message. Pure, and the same in every process.
"""

from __future__ import annotations

import hashlib
import os
import re
import sysconfig
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from consumer.policy import Reason

_PACKAGE: Final = str(Path(__file__).parents[1])
_PYTHON: Final = (sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib", "purelib", "platlib"))
_NOT_OWN: Final = tuple(f"{folder}{os.sep}" for folder in (_PACKAGE, *_PYTHON))
_LIBRARIES: Final = {"site-packages", "dist-packages"}
_PIECE: Final = re.compile(r"(?<!\w)'[^']*'(?!\w)|\"[^\"]*\"|`[^`]*`|[\w.-]+")
_MOST_CHARACTERS: Final = 2_000


def error_fingerprint(
    reason: Reason, function: str, error: str, cause: BaseException | None = None, handler_file: str | None = None
) -> str:
    """The fingerprint of why a message was set aside, 16 hex digits.

    Args:
        reason: The reason.
        function: The FunctionName, or the kind's name.
        error: The dead letter's error. Counts where no frame of the handler's own files is known.
        cause: The exception.
        handler_file: Where the handler is: files in its folder are its own, even if they are installed as a library.
    """
    parts = [reason.value, function]
    frames: Sequence[str] = ()
    if cause is not None:
        parts.append(type(cause).__name__)
        try:
            frames = _own_frames(cause, handler_file)
        except BaseException:  # noqa: BLE001 - an exception may refuse to show its traceback
            frames = ()
    parts += frames or [_PIECE.sub(_unvarying, error[:_MOST_CHARACTERS])]
    return hashlib.blake2b("\n".join(parts).encode(errors="replace"), digest_size=8).hexdigest()


def _own_frames(cause: BaseException, handler_file: str | None) -> Sequence[str]:
    """File and function of each frame in the handler's own files, each once: a recursion may have any depth."""
    home = None if handler_file is None else Path(handler_file).parent
    codes = (frame.f_code for frame, _ in traceback.walk_tb(cause.__traceback__))
    files = ((Path(code.co_filename), code.co_name) for code in codes)
    own = (f"{file.name}:{name}" for file, name in files if file.parent == home or not _is_foreign(file))
    return list(dict.fromkeys(own))


def _is_foreign(file: Path) -> bool:
    """Whether a file is Python's, a library's or this package's, or no file."""
    return str(file).startswith((*_NOT_OWN, "<")) or not _LIBRARIES.isdisjoint(file.parts)


def _unvarying(piece: re.Match[str]) -> str:
    """A word as it is; a placeholder for a quoted value, a number or an id."""
    text = piece.group()
    return "_" if text[0] in "'\"`" or any(character.isdigit() for character in text) else text
