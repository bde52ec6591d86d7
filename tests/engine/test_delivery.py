"""Only a delivery's own methods change it, and only its own interruption ends its run alone."""

from __future__ import annotations

import ast
import asyncio
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

import consumer
from consumer.engine.delivery import Delivery
from consumer.engine.outcome import Interrupted
from tests.engine.rig import delivery

NAMES = {field.name for field in fields(Delivery)}


def assignments(tree: ast.AST) -> Iterator[ast.Attribute]:
    """Every attribute that is assigned to, also by ``with`` and ``for``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node


def test_no_other_module_assigns_to_its_fields() -> None:
    """Outside ``delivery`` no module assigns to a field of anything but its own ``self``."""
    root = Path(consumer.__file__).parent
    found = [
        f"{path.relative_to(root)}:{node.lineno}: {ast.unparse(node)}"
        for path in [*sorted((root / "engine").glob("*.py")), root / "app.py", root / "daemon.py"]
        if path.name != "delivery.py"
        for node in assignments(ast.parse(path.read_text(encoding="utf-8")))
        # A lane has rules and a retention too, which a reload and ``watch_attributes`` replace.
        if node.attr in NAMES and ast.unparse(node.value) not in {"self", "lane"}
    ]
    assert found == []


@pytest.mark.parametrize("is_cancelled_besides", [False, True])
async def test_only_its_own_interruption_lets_the_task_go_on(*, is_cancelled_besides: bool) -> None:
    """A run that ``interrupt`` has cancelled is settled; one that is cancelled besides, as by the deadline, is not."""
    running = delivery()

    async def run() -> bool:
        was_interrupted = False
        running.run_in_this_task()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            was_interrupted = running.take_interruption()
        await asyncio.sleep(0)
        return was_interrupted

    task = asyncio.create_task(run())
    await asyncio.sleep(0)
    running.interrupt(Interrupted.STOPPING)
    running.interrupt(Interrupted.LEASE_LOST)
    if is_cancelled_besides:
        task.cancel()
    assert await task is not is_cancelled_besides
    assert running.interruption is Interrupted.STOPPING
