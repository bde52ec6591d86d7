"""What ``check`` finds out about the store: would ``run`` open it? Nothing is made and nothing is locked."""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

from anyio import to_thread

from consumer.cli.findings import Finding, bad, good
from consumer.config import Settings
from consumer.errors import ConsumerError, ExitCode, StoreError
from consumer.store.ledger import Filter
from consumer.store.open import make_ledger, make_operators, refusal
from consumer.store_address import PostgresAddress, SqliteAddress

_WHAT: Final = "store"


async def store_findings(settings: Settings) -> AsyncIterator[Finding]:
    """Check the store; a file that is missing is not made, since its owner must be the daemon's user."""
    target = settings.store_target()
    try:
        if isinstance(target, PostgresAddress):
            yield await _postgres(target)
            return
        path = target.path.expanduser().resolve()
        problems = await to_thread.run_sync(lambda: list(_of_file(path)))
        for problem in problems:
            yield problem
        if problems:
            return
        if await to_thread.run_sync(path.exists):
            letters = await make_operators(target).count_letters(Filter())
            yield good(_WHAT, f"{path} is sound, {letters} dead letter(s)")
        else:
            yield good(_WHAT, f"{path} will be made at the first start")
    except ConsumerError as error:
        code = ExitCode.SETTINGS if error.exit_code == ExitCode.SETTINGS else ExitCode.FAILURE
        yield bad(_WHAT, str(error), code=code)


async def _postgres(target: PostgresAddress) -> Finding:
    ledger = make_ledger(target)
    try:
        await ledger.open()
        await ledger.ping()
    finally:
        await ledger.close()
    # Its address may hold a password, so it is not repeated.
    return good(_WHAT, "PostgreSQL answers and takes writes")


def _of_file(path: Path) -> Iterator[Finding]:
    """What is wrong with the file or its folder: at most one finding, the first that ``run`` would meet."""
    try:
        mode = _mode(path)
        folder = path.parent
        while (folder_mode := _mode(folder)) is None and folder != folder.parent:
            folder = folder.parent
    except StoreError as error:
        yield bad(_WHAT, str(error))
        return
    if mode is not None and stat.S_ISDIR(mode):
        yield bad(_WHAT, f"{path} is a directory; name a file in it")
    elif folder_mode is None or not stat.S_ISDIR(folder_mode):
        yield bad(_WHAT, f"{path} can't be made: {folder} is no folder; set store to another path")
    elif problem := refusal(SqliteAddress(path)):
        yield bad(_WHAT, problem, code=ExitCode.SETTINGS)
    elif not os.access(folder, os.W_OK | os.X_OK):
        yield bad(
            _WHAT,
            f"{path} can't be used: the folder {folder} can't be written by this user, and the store's lock lies beside"
            " it; set store, or give the right to write there",
        )
    elif mode is not None and not os.access(path, os.R_OK | os.W_OK):
        yield bad(_WHAT, f"{path} can't be written by this user; give it the right to")


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
