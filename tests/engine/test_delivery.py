"""Only a delivery's own methods change it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import consumer
from consumer.engine.delivery import Delivery

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
        # A lane has rules and a retention too, which a reload and the upkeep replace.
        if node.attr in NAMES and ast.unparse(node.value) not in {"self", "lane"}
    ]
    assert found == []
