"""Change one place of a program's syntax tree, whatever its formatting.

A place is a package or module below ``consumer`` and, after a colon, a function, class or constant in it: the file may
be moved within its package and reformatted. A pattern is Python source; the name ``_`` in it stands for any expression,
``_1`` and ``_2`` for expressions that the new source may use again. Each change must fit exactly once.
"""

from __future__ import annotations

import ast
import copy
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent

Change = Callable[[ast.AST], int]
"""Changes a tree in place; returns in how many places."""
_HOLE: Final = re.compile(r"_\d*")


class TargetGoneError(Exception):
    """The place or its code is gone: give the mutation its new place."""


def mutated(place: str, change: Change, root: Path = ROOT) -> tuple[Path, str]:
    """The file of a place, and its source with the change made.

    Raises:
        TargetGoneError: The place is gone or there are several of it; the change fits nowhere or more than once.
    """
    path, tree, target = _find(place, root)
    times = change(target)
    if times != 1:
        raise TargetGoneError(f"{place}: expected the pattern once, found it {times} times in {path}")
    return path, ast.unparse(ast.fix_missing_locations(tree))


def _find(place: str, root: Path) -> tuple[Path, ast.Module, ast.AST]:
    where, _, name = (part.strip() for part in place.partition(":"))
    base = root / "consumer" / where
    paths = sorted(base.rglob("*.py")) if base.is_dir() else [base.with_suffix(".py")]
    found: list[Path] = []
    for path in paths:
        if path.is_file():
            found += [path] * sum(1 for _ in _named(_parsed(path), name))
    if len(found) != 1:
        raise TargetGoneError(f"{place}: expected one place, found {[str(path) for path in found]}")
    tree = ast.parse(found[0].read_text(encoding="utf-8"))
    return found[0], tree, next(_named(tree, name))


@cache
def _parsed(path: Path) -> ast.Module:
    """Read only: a tree to change is parsed anew."""
    return ast.parse(path.read_text(encoding="utf-8"))


def _named(tree: ast.AST, name: str, above: str = "") -> Iterator[ast.AST]:
    """The definitions of a name: a bare one, or a dotted one such as ``Class.method``."""
    if not name:
        yield tree
        return
    for node in ast.iter_child_nodes(tree):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                dotted = f"{above}.{node.name}" if above else node.name
                if name in {node.name, dotted}:
                    yield node
                else:
                    yield from _named(node, name, dotted)
            case ast.Assign(targets=[ast.Name(id=target)]) | ast.AnnAssign(target=ast.Name(id=target)) if (
                target == name
            ):
                yield node


# The changes.


def rewrite(old: str, new: str) -> Change:
    """Replace one expression by another."""
    pattern, wanted = ast.parse(old, mode="eval").body, ast.parse(new, mode="eval").body

    def change(tree: ast.AST) -> int:
        rewriter = _Rewriter(pattern, wanted)
        rewriter.visit(tree)
        return rewriter.times

    return change


def drop(statement: str) -> Change:
    """Remove a statement."""
    (pattern,) = ast.parse(statement).body

    def change(tree: ast.AST) -> int:
        times = 0
        for block in _blocks(tree):
            for at, one in enumerate(block):
                if _match(pattern, one) is not None:
                    block[at] = ast.Pass()
                    times += 1
        return times

    return change


def swap(first: str, second: str) -> Change:
    """Move a statement with the expression ``second`` before the one with ``first``, in one block."""
    patterns = [ast.parse(text, mode="eval").body for text in (first, second)]

    def change(tree: ast.AST) -> int:
        times = 0
        for block in _blocks(tree):
            places = [[at for at, one in enumerate(block) if _holds(one, pattern)] for pattern in patterns]
            if all(len(at) == 1 for at in places) and places[0][0] < places[1][0]:
                block.insert(places[0][0], block.pop(places[1][0]))
                times += 1
        return times

    return change


def in_text(old: str, new: str) -> Change:
    """Change a part of a string, such as a statement in SQL."""

    def change(tree: ast.AST) -> int:
        times = 0
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and old in node.value:
                times += node.value.count(old)
                node.value = node.value.replace(old, new)
        return times

    return change


def constant(value: int | str) -> Change:
    """Give a constant of a module another value."""

    def change(node: ast.AST) -> int:
        assert isinstance(node, ast.Assign | ast.AnnAssign)
        node.value = ast.Constant(value)
        return 1

    return change


def _blocks(tree: ast.AST) -> Iterator[list[ast.stmt]]:
    for node in ast.walk(tree):
        for _, value in ast.iter_fields(node):
            if isinstance(value, list) and value and isinstance(value[0], ast.stmt):
                yield value


def _holds(statement: ast.stmt, pattern: ast.expr) -> bool:
    return any(_match(pattern, node) is not None for node in ast.walk(statement))


class _Rewriter(ast.NodeTransformer):
    def __init__(self, pattern: ast.expr, wanted: ast.expr) -> None:
        self._pattern = pattern
        self._wanted = wanted
        self.times = 0

    def visit(self, node: ast.AST) -> ast.AST:
        if (found := _match(self._pattern, node)) is not None:
            self.times += 1
            return _filled(self._wanted, found)
        self.generic_visit(node)
        return node


def _match(pattern: object, node: object) -> dict[str, ast.AST] | None:
    """The values of a pattern's holes in a node; ``None`` if it does not fit."""
    if isinstance(pattern, ast.Name) and _HOLE.fullmatch(pattern.id) and isinstance(node, ast.expr):
        return {pattern.id: node}
    if isinstance(pattern, ast.AST):
        if type(pattern) is not type(node):
            return None
        names = [name for name in pattern._fields if name not in {"ctx", "kind", "type_comment"}]
        return _match([getattr(pattern, name, None) for name in names], [getattr(node, name, None) for name in names])
    if isinstance(pattern, list):
        if not isinstance(node, list) or len(pattern) != len(node):
            return None
        found: dict[str, ast.AST] = {}
        for one, other in zip(pattern, node, strict=True):
            inner = _match(one, other)
            if inner is None:
                return None
            found |= inner
        return found
    return {} if pattern == node else None


def _filled(wanted: ast.expr, found: dict[str, ast.AST]) -> ast.AST:
    """A copy of the new source with its holes filled."""

    class Filler(ast.NodeTransformer):
        def visit_Name(self, node: ast.Name) -> ast.AST:
            return found.get(node.id, node)

    filled: ast.AST = Filler().visit(copy.deepcopy(wanted))
    return filled
