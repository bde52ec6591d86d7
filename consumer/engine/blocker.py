"""Find out what blocks an event loop: the stack of its thread, and the job whose run stands there."""

from __future__ import annotations

import linecache
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Final

from consumer.engine.delivery import Delivery
from consumer.engine.lane import Lane
from consumer.engine.work import Work
from consumer.plugin.job import Job

_MOST_FRAMES: Final = 20


@dataclass(frozen=True, slots=True)
class Blocker:
    """What blocks the loop, as far as it can be seen.

    Args:
        stack: The innermost frames as text, from the handler on where one was found.
        function: The job's FunctionName; empty where no job was found.
        job_id: Its id.
        message_id: Its message.
        delivery: That message's delivery.
    """

    stack: str
    function: str = ""
    job_id: str = ""
    message_id: str = ""
    delivery: Delivery | None = None


def find(innermost: FrameType, lanes: Sequence[Lane]) -> Blocker:
    """Look at the frames of a thread that is blocked; called from another thread.

    Args:
        innermost: Where it is now.
        lanes: Whose deliveries to look among.
    """
    frames = [frame for frame, _ in traceback.walk_stack(innermost)][::-1]
    live = {held.message.message_id: held for lane in lanes for held in tuple(lane.live)}
    found: tuple[str, str, str] | None = None
    first = max(0, len(frames) - _MOST_FRAMES)
    for number, frame in enumerate(frames):
        # The innermost run counts: the frames around it are those of the loop and of this program.
        if (run := _run_in(frame.f_locals.values())) and found != run:
            found, first = run, max(first, number + 1)
    if found is None:
        # A handler may block in a task of its own making; where only one runs, it is this one.
        running = [held for held in live.values() if held.cancel_handler is not None]
        message_id = running[0].message.message_id if len(running) == 1 else ""
        return Blocker(_text(frames[first:]), message_id=message_id, delivery=live.get(message_id))
    return Blocker(_text(frames[first:] or frames[-1:]), *found, delivery=live.get(found[2]))


def _run_in(values: Iterable[object]) -> tuple[str, str, str] | None:
    """FunctionName, job id and message id of a run that one of a frame's variables shows."""
    for value in values:
        # Not isinstance(): it may run code of the user's.
        if type(value) is Job:
            return value.function, value.job_id, value.message_id
        if type(value) is Work:
            seen = value.notification
            return seen.route, seen.job_id or "", value.delivery.message.message_id
    return None


def _text(frames: Sequence[FrameType]) -> str:
    """As a traceback prints them, without asking the file system twice for the same file."""
    lines = []
    for frame in frames:
        code, number = frame.f_code, frame.f_lineno
        lines.append(f'  File "{code.co_filename}", line {number}, in {code.co_name}')
        if source := linecache.getline(code.co_filename, number or 0, frame.f_globals).strip():
            lines.append(f"    {source}")
    return "\n".join(lines)
