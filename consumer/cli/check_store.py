"""What ``check`` finds out about the store: would ``run`` open it? Nothing is made and nothing is locked."""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from anyio import to_thread

from consumer.cli.findings import Finding, bad, good, warning
from consumer.config import Settings
from consumer.errors import ConsumerError, ExitCode, StoreError
from consumer.store.ledger import Filter
from consumer.store.open import make_ledger, make_operators

_WHAT: Final = "store"
_POSTGRES: Final = ("postgres://", "postgresql://")


async def store_findings(settings: Settings) -> AsyncIterator[Finding]:
    """Check the store; a file that is missing is not made, since its owner must be the daemon's user."""
    target = settings.store_target()
    try:
        if target.lower().startswith(_POSTGRES):
            yield await _postgres(target)
            return
        operators = make_operators(target)  # refuses a wrong address
        path = _path_of(target)
        problems = await to_thread.run_sync(lambda: list(_of_file(path)))
        for problem in problems:
            yield problem
        if any(problem.code for problem in problems):
            return
        if await to_thread.run_sync(path.exists):
            letters = await operators.count_letters(Filter())
            yield good(_WHAT, f"{path} is sound, {letters} dead letter(s)")
        else:
            yield good(_WHAT, f"{path} will be made at the first start")
    except ConsumerError as error:
        code = ExitCode.SETTINGS if error.exit_code == ExitCode.SETTINGS else ExitCode.FAILURE
        yield bad(_WHAT, str(error), code=code)


async def _postgres(target: str) -> Finding:
    ledger = make_ledger(target)
    try:
        await ledger.open()
        await ledger.ping()
    finally:
        await ledger.close()
    # Its address may hold a password, so it is not repeated.
    return good(_WHAT, "PostgreSQL answers and takes writes")


def _path_of(target: str) -> Path:
    scheme = "sqlite:///"
    text = unquote(target.removeprefix(scheme)) if target.startswith(scheme) else target
    return Path(os.path.realpath(Path(text).expanduser()))


def _of_file(path: Path) -> Iterator[Finding]:
    """What is wrong with the file or its folder."""
    try:
        mode = _mode(path)
        folder = path.parent
        while (folder_mode := _mode(folder)) is None and folder != folder.parent:
            folder = folder.parent
    except StoreError as error:
        yield bad(_WHAT, str(error))
        return
    if mode is not None:
        yield from _of_existing(path, mode)
    if folder_mode is None or not stat.S_ISDIR(folder_mode):
        yield bad(_WHAT, f"{path} can't be made: {folder} is no folder; set store to another path")
    elif not os.access(folder, os.W_OK | os.X_OK):
        yield bad(
            _WHAT,
            f"{path} can't be used: the folder {folder} can't be written by this user, and the store's lock lies beside"
            " it; set store, or give the right to write there",
        )
    elif folder_mode & stat.S_IWOTH and not folder_mode & stat.S_ISVTX:
        yield bad(_WHAT, f"others may replace {path}: everybody may write to {folder}; run: chmod o-w {folder}")


def _of_existing(path: Path, mode: int) -> Iterator[Finding]:
    if stat.S_ISDIR(mode):
        yield bad(_WHAT, f"{path} is a directory; name a file in it")
    elif not stat.S_ISREG(mode):
        yield bad(_WHAT, f"{path} is no regular file; name another one")
    elif mode & stat.S_IWOTH:
        yield bad(_WHAT, f"others may write to {path}; run: chmod 600 {path}")
    elif not os.access(path, os.R_OK | os.W_OK):
        yield bad(_WHAT, f"{path} can't be written by this user; give it the right to")
    elif mode & (stat.S_IWGRP | stat.S_IRGRP | stat.S_IROTH):
        yield warning(_WHAT, f"{path} can be read or written by other users; run: chmod 600 {path}")


def _mode(path: Path) -> int | None:
    """The file's kind and rights; ``None`` when there is none.

    Raises:
        StoreError: It can't be looked at.
    """
    try:
        return path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise StoreError(f"store {path} can't be looked at: {why}; set store, or give this user the right to") from None
