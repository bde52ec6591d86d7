"""What operators change: dead letters are replayed and purged, while the daemon runs.

A replay has two phases, because queue and store share no transaction:

    begin_replay   one transaction: the letter is ``replaying``, and its key is open again
    (send)         its body goes to its queue
    finish_replay  the letter is ``replayed``
    cancel_replay  instead, when certainly nothing was sent: letter and key are as before

A crash between the phases leaves a letter that is ``replaying``; its replay may be begun again. A caller passes what it
saw of the letter, and a letter that has changed since stays as it is: of two commands at once one sends. A replayed job
that dies again is a new letter.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from sqlalchemy import Delete, Insert, Update, delete, select, update

from consumer.errors import UsageError
from consumer.store.ledger import NEVER_REPLAYED, Begun, Filter, LetterState, Progress, StoredJob, StoredLetter
from consumer.store.queries.reader import Reader
from consumer.store.session import Session

_PURGE_STEP: Final = 200


class Operators(Reader):
    """The operators' access to a store: a ``Reader`` that also changes dead letters.

    A call about a letter raises ``UsageError`` when there is none of this number.
    """

    async def begin_replay(
        self, letter_id: int, *, seen: Progress = NEVER_REPLAYED, force: bool = False
    ) -> Begun | None:
        """Mark a letter as ``replaying`` and open its key again, without failures and starts.

        A letter that is ``replaying`` may have been sent. If its job has been done since, it was: then the letter
        becomes ``replayed`` and its key stays closed, so that the job does not run once more.

        Args:
            letter_id: Its number.
            seen: The letter's progress when it was chosen.
            force: Also replay a letter that was replayed, or whose job was done since.

        Returns:
            ``None`` when its job was done since, without ``force``: send nothing.

        Raises:
            UsageError: Its progress is not what was seen, or it was replayed, without ``force``. Nothing changes.
        """
        engine = self._engine

        async def begin(session: Session) -> Begun | None:
            found = await self._get(session, letter_id, lock=True)
            _demand_unchanged(found, seen)
            if found.state is LetterState.REPLAYED and not force:
                raise replayed_already(letter_id, found.replayed_at)
            key = found.letter.job.key
            ended, now = await self._find_ended(session, key), await session.now()
            # The first begin opened the key, so whatever closed it came later.
            done_since = found.state is LetterState.REPLAYING and ended is not None and not ended.dead
            if done_since and not force:
                await self._set_progress(session, letter_id, Progress(LetterState.REPLAYED, now))
                return None
            await self._set_progress(session, letter_id, Progress(LetterState.REPLAYING, now))
            is_ended = engine.has_key(key) & engine.jobs.c.dead.is_not(None)
            await self._execute(session, delete(engine.jobs).where(is_ended))
            await self._execute(session, engine.forget_attempts(key))
            return Begun(found, now, ended)

        return await self._database.run(begin, atomic=True)

    async def finish_replay(self, letter_id: int) -> None:
        """Mark a letter as ``replayed``. Idempotent.

        Raises:
            UsageError: Its replay was never begun.
        """

        async def finish(session: Session) -> None:
            state = (await self._get(session, letter_id, lock=True)).state
            if state is LetterState.SET_ASIDE:
                raise UsageError(
                    f"dead letter {letter_id} is {state.value}, expected replaying; begin its replay first"
                )
            if state is LetterState.REPLAYING:
                await self._set_progress(session, letter_id, Progress(LetterState.REPLAYED, await session.now()))

        await self._database.run(finish, atomic=True)

    async def cancel_replay(self, begun: Begun) -> None:
        """Undo the begin of a replay whose body was certainly not sent.

        The letter is as before. A key that was closed is closed again in the same way, unless it has been claimed
        since: then that run ends it. A key that was open stays open: a message of an earlier replay may be on its way.

        Raises:
            UsageError: The letter is gone or in another replay. Nothing changes.
        """

        async def cancel(session: Session) -> None:
            before = begun.before
            found = await self._get(session, before.id, lock=True)
            if found.progress != Progress(LetterState.REPLAYING, begun.began_at):
                raise UsageError(
                    f"dead letter {found.id} is {found.state.value} by another command since its replay was begun;"
                    " it is left alone"
                )
            await self._set_progress(session, before.id, before.progress)
            ended, engine = begun.ended, self._engine
            if ended is not None and await self._execute(session, engine.close(ended, await session.now())):
                await self._execute(session, engine.forget_attempts(ended.record.key))

        await self._database.run(cancel, atomic=True)

    async def purge(self, wanted: Filter) -> int:
        """Remove the dead letters that match now, in small steps; returns their number. Their keys stay closed."""
        letters, newest = self._engine.letters, await self._newest_letter()
        number, matching = letters.c.id, self._matching(letters, wanted)
        purged = last = 0
        while True:
            # Looked for before it is removed: a daemon waits for the removal, but for no search.
            step = select(number).where(*matching, number > last, number <= newest).order_by(number).limit(_PURGE_STEP)
            found = [row[0] for row in await self._fetch(step)]
            if not found:
                return purged
            purged += len(await self._fetch(delete(letters).where(*matching, number.in_(found)).returning(number)))
            last = found[-1]

    async def _execute(self, session: Session, statement: Update | Delete | Insert) -> int:
        return await session.execute(*self._engine.written(statement))

    async def _find_ended(self, session: Session, key: str) -> StoredJob | None:
        """How a key has ended; ``None`` while it is open. Of several rows the last one counts."""
        statement = self._latest_first(self._jobs.where(self._engine.has_key(key))).limit(1)
        rows = await session.fetch(*self._engine.written(statement.with_for_update()))
        return self._stored_job(rows[0]) if rows else None

    async def _set_progress(self, session: Session, letter_id: int, progress: Progress) -> None:
        letters = self._engine.letters
        marks = {"replay": progress.state.value, "replayed_at": progress.replayed_at}
        await self._execute(session, update(letters).where(letters.c.id == letter_id).values(marks))


def replayed_already(letter_id: int, replayed_at: float | None) -> UsageError:
    """The error for a letter that was replayed, when ``--force`` is missing."""
    when = "before" if replayed_at is None else f"at {datetime.fromtimestamp(replayed_at, UTC):%Y-%m-%d %H:%M:%S} UTC"
    return UsageError(f"dead letter {letter_id} was replayed {when}; say --force to send it once more")


def _demand_unchanged(found: StoredLetter, seen: Progress) -> None:
    if found.progress == seen:
        return
    now = f"and is {found.state.value} now"
    if found.state is seen.state:
        now = "and another command has begun its replay once more since"
    raise UsageError(f"dead letter {found.id} was {seen.state.value} when it was chosen {now}; it is left alone")
