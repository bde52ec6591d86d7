"""Hostile handlers and validators: each ends as in the table, and other messages are handled as usual.

Whatever user code raises or does is a counted end of that one run.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import posix
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, NoReturn

import anyio
import pytest
from pydantic import AfterValidator, BaseModel, BeforeValidator, field_validator, model_validator

from consumer.plugin.handler import Job, Limits, Note, Reject, Retry, build
from consumer.plugin.registry import Registry
from consumer.policy import Reason
from consumer.sandbox import Sandbox, SandboxJob
from consumer.store.ledger import Filter, StoredLetter
from tests.engine.rig import QUEUE, Serve, body
from tests.stores import operators_at

DONE: Final = "done"
NEIGHBOURS: Final = 100


class Panic(BaseException):
    """As compiled code raises it."""


class MuteError(Exception):
    """An exception that can't be shown."""

    def __str__(self) -> str:
        raise ValueError("no words")

    __repr__ = __str__


class DeafMuteError(BaseException):
    """An exception of the worst base that can't be shown, and raises the worst when it is tried."""

    def __str__(self) -> str:
        raise KeyboardInterrupt

    __repr__ = __str__


class OddError(Exception):
    """An exception that answers no question about itself."""


def refuse_to_answer(_error: OddError) -> NoReturn:
    raise Panic("no answer")


for _name in ("args", "__cause__", "__context__", "__traceback__", "__notes__"):
    setattr(OddError, _name, property(refuse_to_answer))


@dataclass(frozen=True)
class Case:
    """One handler.

    Args:
        function: It.
        end: How its message ends: ``done`` or a dead letter's reason.
        error: What the dead letter's error holds.
        limits: The handler's own.
    """

    function: Callable[[Job[Any, Any]], object]
    end: str
    error: str = ""
    limits: Limits = field(default_factory=Limits)


def raising(make: Callable[[], BaseException]) -> Callable[[Job], object]:
    async def handle(job: Job) -> None:
        raise make()

    return handle


def raising_in_a_thread(make: Callable[[], BaseException]) -> Callable[[Job], object]:
    def handle(job: Job) -> None:
        raise make()

    return handle


def nan_retry() -> BaseException:
    retry = Retry("never a number")
    retry.after_s = float("nan")
    return retry


EXHAUSTED, REJECTED, ILL_TYPED, STUCK = (
    str(r) for r in (Reason.EXHAUSTED, Reason.REJECTED, Reason.ILL_TYPED, Reason.STUCK)
)
RAISED: Final[Mapping[str, tuple[Callable[[], BaseException], str]]] = {
    "Exception": (lambda: Exception("plain"), "Exception: plain"),
    "BaseException": (lambda: BaseException("base"), "BaseException: base"),
    "Panic": (lambda: Panic("of compiled code"), "Panic: of compiled code"),
    "KeyboardInterrupt": (KeyboardInterrupt, "KeyboardInterrupt"),
    "SystemExit": (lambda: SystemExit(3), "SystemExit: 3"),
    "GeneratorExit": (GeneratorExit, "GeneratorExit"),
    "StopIteration": (StopIteration, "StopIteration"),
    "StopAsyncIteration": (StopAsyncIteration, "StopAsyncIteration"),
    "CancelledError": (asyncio.CancelledError, "cancelled"),
    "TimeoutError": (TimeoutError, "TimeoutError"),
    "MemoryError": (MemoryError, "MemoryError"),
    "RecursionError": (RecursionError, "RecursionError"),
    "ExceptionGroup": (lambda: ExceptionGroup("several", [ValueError("one")]), "several"),
    "BaseExceptionGroup": (lambda: BaseExceptionGroup("worst", [KeyboardInterrupt()]), "worst"),
    "MuteError": (MuteError, "its str() raises"),
    "DeafMuteError": (DeafMuteError, "its str() raises"),
    "OddError": (OddError, "OddError"),
    "RetryAfterNan": (nan_retry, "never a number"),
    "UnicodeError": (lambda: UnicodeDecodeError("utf-8", b"\xff", 0, 1, "\ud800 lone"), "lone"),
}


async def swallows_and_returns(job: Job) -> None:
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.sleep(60)


async def swallows_for_ever(job: Job) -> None:
    until = time.monotonic() + 3
    while time.monotonic() < until:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(until - time.monotonic())


async def fails_while_it_cleans_up(job: Job) -> None:
    try:
        await asyncio.sleep(60)
    finally:
        raise ValueError("rollback failed")


async def blocks_the_loop(job: Job) -> None:
    time.sleep(0.3)  # noqa: ASYNC251 - the very mistake


async def runs_a_loop_inside(job: Job) -> None:
    work = asyncio.sleep(0)
    try:
        asyncio.run(work)
    finally:
        work.close()


def runs_a_loop_in_its_thread(job: Job) -> None:
    async def cancelled() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(1)

    asyncio.run(cancelled())


def forks(job: Job) -> None:
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)


def forks_and_returns_twice(job: Job) -> None:
    if child := os.fork():
        os.waitpid(child, 0)


async def forks_a_loop(job: Job) -> None:
    if child := os.fork():
        os.waitpid(child, 0)  # noqa: ASYNC222 - the child has ended already


async def leaves_a_thread(job: Job) -> None:
    threading.Thread(target=time.sleep, args=(0.5,), daemon=True).start()


async def leaves_a_task(job: Job) -> None:
    async def fails() -> None:
        raise ValueError("no task awaits it")

    task = asyncio.get_running_loop().create_task(fails())
    await asyncio.sleep(0)
    task.exception()


def hands_a_coroutine_on(job: Job) -> object:
    return swallows_and_returns(job)


async def returns_a_coroutine(job: Job) -> object:
    return swallows_and_returns(job)


async def iterates(job: Job) -> None:
    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            raise ValueError("the generator's own end")

    async for _ in numbers():
        break
    await asyncio.sleep(0)


async def cancels_itself(job: Job) -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(1)


async def cancels_a_scope_of_its_own(job: Job) -> None:
    with anyio.CancelScope() as scope:
        scope.cancel()
        await anyio.sleep(1)


async def cancels_its_task(job: Job) -> None:
    tasks = [task for task in asyncio.all_tasks() if task is asyncio.current_task()]
    for task in tasks:
        task.cancel()
    await asyncio.sleep(1)


async def recurses(job: Job) -> None:
    await recurses(job)


async def returns_nonsense(job: Job) -> object:
    return object()


def exits_its_thread(job: Job) -> None:
    sys.exit("out")


def raises_from_a_class(job: Job) -> None:
    raise Reject(MuteError())  # type: ignore[arg-type]  # the very mistake


QUICK: Final = Limits(timeout_s=0.2)
HANDLERS: Final[Mapping[str, Case]] = {
    **{f"Async{name}": Case(raising(make), EXHAUSTED, error) for name, (make, error) in RAISED.items()},
    **{
        f"Plain{name}": Case(raising_in_a_thread(make), EXHAUSTED, error)
        for name, (make, error) in RAISED.items()
        if name != "CancelledError"
    },
    "PlainCancelledError": Case(raising_in_a_thread(asyncio.CancelledError), EXHAUSTED, "CancelledError"),
    "SwallowsAndReturns": Case(swallows_and_returns, DONE, limits=QUICK),
    "SwallowsForEver": Case(swallows_for_ever, STUCK, "still runs after 1 s", Limits(timeout_s=0.2, max_hold_s=1)),
    "FailsWhileItCleansUp": Case(fails_while_it_cleans_up, EXHAUSTED, "took longer than its 0.2 s", QUICK),
    "BlocksTheLoop": Case(blocks_the_loop, DONE),
    "RunsALoopInside": Case(runs_a_loop_inside, EXHAUSTED, "asyncio.run() cannot be called"),
    "RunsALoopInItsThread": Case(runs_a_loop_in_its_thread, EXHAUSTED, "CancelledError"),
    "Forks": Case(forks, DONE),
    "ForksAndReturnsTwice": Case(forks_and_returns_twice, DONE),
    "ForksALoop": Case(forks_a_loop, DONE),
    "LeavesAThread": Case(leaves_a_thread, DONE),
    "LeavesATask": Case(leaves_a_task, DONE),
    "HandsACoroutineOn": Case(hands_a_coroutine_on, EXHAUSTED, "make it `async def`"),
    "ReturnsACoroutine": Case(returns_a_coroutine, EXHAUSTED, "await it"),
    "CancelsItself": Case(cancels_itself, EXHAUSTED, "cancelled"),
    "CancelsAScope": Case(cancels_a_scope_of_its_own, DONE),
    "CancelsItsTask": Case(cancels_its_task, EXHAUSTED, "cancelled"),
    "Recurses": Case(recurses, EXHAUSTED, "RecursionError"),
    "ReturnsNonsense": Case(returns_nonsense, DONE),
    "ExitsItsThread": Case(exits_its_thread, EXHAUSTED, "SystemExit: out"),
    "RejectsWithoutWords": Case(raises_from_a_class, REJECTED, "its str() raises"),
}


def validator(make: Callable[[], BaseException], *, before: bool = False) -> Any:
    def check(value: object) -> object:
        raise make()

    return Annotated[Any, BeforeValidator(check) if before else AfterValidator(check)]


class RaisesInAField(BaseModel):
    """A model whose field's validator has a bug."""

    film: int

    @field_validator("film")
    @classmethod
    def _look_up(cls, value: int) -> int:
        return {1: 1}[value]


class RaisesAsAWhole(BaseModel):
    """A model whose own validator has a bug."""

    film: int

    @model_validator(mode="after")
    def _check(self) -> RaisesAsAWhole:
        raise Panic("as a whole")


class RaisesWithoutWords(BaseModel):
    """A model whose error can't be shown."""

    film: int

    @field_validator("film")
    @classmethod
    def _check(cls, _value: int) -> int:
        class WordlessError(ValueError):
            def __str__(self) -> str:
                raise Panic("no words")

        raise WordlessError


VALIDATORS: Final[Mapping[str, Any]] = {
    "RaisesInAField": RaisesInAField,
    "RaisesAsAWhole": RaisesAsAWhole,
    "RaisesWithoutWords": RaisesWithoutWords,
    **{f"After{name}": validator(make) for name, (make, _) in RAISED.items()},
    **{f"Before{name}": validator(make, before=True) for name, (make, _) in RAISED.items()},
}


def validating(user_data: Any) -> Callable[[Job[Any, Any]], object]:
    async def handle(job: Any) -> None:
        raise AssertionError("its UserData fits nothing")

    handle.__annotations__["job"] = Job[None, user_data]
    return handle


def validating_result(result: Any) -> Callable[[Job[Any, Any]], object]:
    async def handle(job: Any) -> None:
        raise AssertionError("its result fits nothing")

    handle.__annotations__["job"] = Job[result]
    return handle


async def ends_of(store: str) -> list[StoredLetter]:
    operators = operators_at(store)
    try:
        return list(await operators.list_letters(Filter(), limit=1000))
    finally:
        await operators.close()


@pytest.mark.timeout(60)
async def test_whatever_user_code_does_ends_its_own_run(
    sandbox: Sandbox, serve: Serve, store: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each hostile handler and validator ends as in the table, and all messages between them are handled."""
    # Forked children end at once: coverage replaces this to save its data first, by locks that another thread may hold.
    monkeypatch.setattr("os._exit", posix._exit)
    neighbours: list[str] = []

    async def cover(job: Job) -> None:
        neighbours.append(job.job_id)

    cases = {
        **HANDLERS,
        **{name: Case(validating(wanted), ILL_TYPED) for name, wanted in VALIDATORS.items()},
        **{f"Result{name}": Case(validating_result(wanted), ILL_TYPED) for name, wanted in VALIDATORS.items()},
    }
    registry = Registry(
        {
            "Cover": build(cover, Note("Cover", Limits())),
            **{name: build(case.function, Note(name, case.limits)) for name, case in cases.items()},
        }
    )
    for number, name in enumerate(cases):
        if name.startswith("Result"):
            sandbox.add_job(SandboxJob(job_id=name, function=name, user_data='{"film": 7}', result='{"film": 7}'))
        sandbox.put(QUEUE, body(name, name, UserData='{"film": 7}').decode())
        if number < NEIGHBOURS:
            sandbox.put(QUEUE, body(f"n{number}").decode())
    async with serve(registry, max_failures=1, cancel_grace_s=0.1, lease_step_s=10, **store) as daemon:
        await daemon.emptied(30)
        letters = await ends_of(store.get("store", str(daemon.store)))
        assert not daemon.ended.is_set()
    ends = {letter.letter.job.function: letter.letter for letter in letters}
    assert {name: str(ends[name].reason) if name in ends else DONE for name in cases} == {
        name: case.end for name, case in cases.items()
    }
    assert [name for name, case in cases.items() if case.error and case.error not in ends[name].error] == []
    assert [name for name in RAISED if not ends[f"Async{name}"].traceback] == []
    assert len(neighbours) == min(NEIGHBOURS, len(cases))
