"""What a reload changes in a running daemon, and what it does not."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from pydantic import SecretStr

from consumer.config import Settings, info_of
from consumer.daemon import reload, takes_restart
from consumer.plugin.handler import Job, Limits, Note, build
from consumer.plugin.registry import Registry, Sources, discover
from consumer.sandbox import Sandbox
from tests.engine.rig import QUEUE, Daemon, Serve, body, handlers

ROOT = Path(__file__).resolve().parents[2]


def changed(settings: Settings, **values: object) -> Settings:
    return settings.model_copy(update=values)


def read(settings: Settings, registry: Registry) -> Callable[[], tuple[Settings, Registry]]:
    return lambda: (settings, registry)


def one_at_a_time(function: Callable[[Job[Any, Any]], object]) -> Registry:
    return Registry({"Cover": build(function, Note("Cover", Limits(concurrency=1)))})


async def nothing(job: Job) -> None:
    """Is done at once."""


async def test_a_handler_s_own_limit_holds_across_a_reload(sandbox: Sandbox, serve: Serve) -> None:
    """With concurrency 1 the new function waits for its turn until the old one has ended."""
    running, most, go_on = 0, 0, anyio.Event()

    async def old(job: Job) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await go_on.wait()
        running -= 1

    async def new(job: Job) -> None:
        nonlocal most
        most = max(most, running + 1)

    async with serve(one_at_a_time(old)) as daemon:
        sandbox.put(QUEUE, body("1" * 32).decode())
        await daemon.until(lambda: running == 1)
        assert not await reload(daemon.app, read(daemon.app.settings, one_at_a_time(new)))
        sandbox.put(QUEUE, body("2" * 32).decode())
        await anyio.sleep(0.3)
        go_on.set()
        await daemon.emptied()
    assert most == 1


async def test_new_keys_are_used(sandbox: Sandbox, serve: Serve) -> None:
    """Keys that were rotated are used from the next request on; nothing is lost meanwhile."""
    async with serve(handlers(Cover=nothing), access_key_secret="of-yesterday") as daemon:
        sandbox.put(QUEUE, body().decode())
        await daemon.until(lambda: daemon.app.lanes[0].progress.fault is not None)
        right = changed(daemon.app.settings, access_key_secret=SecretStr("sandbox"))
        assert not await reload(daemon.app, read(right, daemon.app.registry))
        await daemon.emptied(20)
        assert daemon.count("reloads_total", result="applied") == 1


async def test_rules_change_for_what_comes(sandbox: Sandbox, serve: Serve) -> None:
    """After a reload the new number of failures sets a message aside."""

    async def fails(job: Job) -> None:
        raise ValueError("no")

    registry = handlers(Cover=fails)
    async with serve(registry, retry_base_s=1, retry_cap_s=1) as daemon:
        sandbox.put(QUEUE, body("1" * 32).decode())
        await daemon.until(lambda: daemon.count("jobs_total", queue=QUEUE, function="Cover", outcome="retry") == 1)
        assert not await reload(daemon.app, read(changed(daemon.app.settings, max_failures=2), registry))
        await daemon.emptied(20)
        (letter,) = await daemon.letters()
        assert letter.letter.error.startswith("failed 2 times")


async def test_what_takes_a_restart_is_refused_whole(serve: Serve) -> None:
    """A change of the queue's slots is refused by name, and the new handlers are not taken either."""
    async with serve(handlers(Cover=nothing)) as daemon:
        before = daemon.app.registry
        settings = changed(daemon.app.settings, slots=3, max_failures=2)
        assert await reload(daemon.app, read(settings, handlers(VideoClip=nothing)))
        assert daemon.app.registry is before
        assert daemon.app.settings.max_failures == 10
        assert daemon.count("reloads_total", result="refused") == 1


async def test_a_fault_of_our_own_ends_no_daemon(sandbox: Sandbox, serve: Serve) -> None:
    """Any error of the reload leaves the old handlers in place."""

    def broken() -> tuple[Settings, Registry]:
        raise ZeroDivisionError

    async with serve(handlers(Cover=nothing)) as daemon:
        assert await reload(daemon.app, broken)
        sandbox.put(QUEUE, body().decode())
        await daemon.emptied()


def test_each_setting_says_whether_a_reload_changes_it() -> None:
    """A change of any setting is refused unless its ``SettingInfo`` says that a reload changes it."""
    before = Settings()
    for name, field in Settings.model_fields.items():
        if name != "access_key_id":
            refused = takes_restart(before, changed(before, **{name: object()}))
            assert bool(refused) is not info_of(field).reloadable, name


@pytest.mark.parametrize("name", ["access_key_id", "slots"])
def test_what_takes_a_restart(name: str) -> None:
    """Going from the default chain to given keys takes a restart, as a setting of the queues does; secrets stay out."""
    value: object = SecretStr("a-secret") if name == "access_key_id" else 5
    before = Settings()
    (line,) = takes_restart(before, changed(before, **{name: value}))
    assert line.startswith(f"{name}: it has changed")
    assert "a-secret" not in line


def test_files_are_loaded_anew_and_old_ones_stay_for_running_handlers(tmp_path: Path) -> None:
    """Each load of a folder reads its files anew; a broken file leaves no module behind."""
    mine = tmp_path / "mine.py"
    head = "from mns_consumer import Job, handler\n\n@handler('Cover')\n"
    text = head + "async def cover(job: Job) -> str:\n    return {!r}\n"
    found = []
    for word in ("one", "two"):
        mine.write_text(text.format(word))
        found.append(discover(Sources(directory=tmp_path, use_entry_points=False)))
    first, second = (registry.handlers["Cover"].function.__module__ for registry in found)
    assert first != second
    assert {first, second} <= sys.modules.keys()
    assert "two" in (found[1].handlers["Cover"].function.__code__.co_consts or ())
    known = set(sys.modules)
    mine.write_text("def broken(:\n")
    with pytest.raises(Exception, match="SyntaxError"):
        discover(Sources(directory=tmp_path, use_entry_points=False))
    assert set(sys.modules) <= known
    assert not list(tmp_path.rglob("*.pyc"))


async def test_modules_of_two_reloads_ago_are_forgotten(serve: Serve, tmp_path: Path) -> None:
    """Replaced modules stay until the next reload, for the handlers that still run; refused ones go at once."""
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "mine.py").write_text("from mns_consumer import handler\n\n@handler('Cover')\nasync def f(job): ...\n")
    sources = Sources(directory=folder, use_entry_points=False)

    async def again(daemon: Daemon) -> str:
        registry = discover(sources)
        assert not await reload(daemon.app, read(daemon.app.settings, registry))
        return registry.packages[0]

    async with serve(discover(sources)) as daemon:
        refused = discover(sources)
        assert await reload(daemon.app, read(changed(daemon.app.settings, slots=3), refused))
        assert refused.packages[0] not in sys.modules
        packages = [daemon.app.registry.packages[0], await again(daemon), await again(daemon)]
        assert [package in sys.modules for package in packages] == [False, True, True]
