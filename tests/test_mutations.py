"""The mutations that show that each guarantee has its test still fit the code."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

from tests.mutate import ROOT, TargetGoneError, constant, drop, in_text, mutated, rewrite, swap
from tests.mutations import MUTATIONS, Mutation


@cache
def as_it_is(path: Path) -> str:
    """A file, written as ``mutated`` writes it."""
    return ast.unparse(ast.parse(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.guarantee)
def test_each_mutation_has_its_place(mutation: Mutation) -> None:
    """The code of each guarantee is found once, its removal changes the program, and its tests exist."""
    path, source = mutated(mutation.place, mutation.change)
    ast.parse(source)
    assert source != as_it_is(path)
    assert all((ROOT / test).exists() for test in mutation.tests)


def test_each_sentence_is_one() -> None:
    """No two mutations remove the same guarantee."""
    assert len({mutation.guarantee for mutation in MUTATIONS}) == len(MUTATIONS)


SOURCE = """
LIMIT = 3
QUERY = f"SELECT {LIMIT} WHERE owner = 1"


class Settler:
    def settle(self, delivery):
        if not (
            self.ledger.done(delivery)  # stored first
        ):
            return False
        self.delete(delivery)
        return True


def settle():
    check()
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "consumer" / "engine"
    folder.mkdir(parents=True)
    (folder / "a.py").write_text(SOURCE)
    (folder / "b.py").write_text("def other():\n    check()\n    check()\n")
    return tmp_path


def test_changes_follow_the_tree(root: Path) -> None:
    """Each kind of change is made where its pattern fits, whatever the formatting."""
    for place, change, expected in (
        ("engine: Settler.settle", swap("self.ledger.done(_)", "self.delete(_)"), "delivery)\n        if not"),
        ("engine: Settler", rewrite("not self._.done(_1)", "_1"), None),
        ("engine: Settler", rewrite("not _.done(_1)", "_1.gone"), "if delivery.gone:"),
        ("engine: Settler", drop("self.delete(_)"), "pass\n        return True"),
        ("engine: LIMIT", constant(99), "LIMIT = 99"),
        ("engine/a: QUERY", in_text("owner = 1", "true"), "WHERE true"),
    ):
        if expected is None:
            with pytest.raises(TargetGoneError, match="found it 0 times"):
                mutated(place, change, root)
        else:
            assert expected in mutated(place, change, root)[1]


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("engine: gone", r"found \[\]"),
        ("engine/c: settle", r"found \[\]"),
        ("engine: settle", "found .*a.py.*a.py"),
        ("engine: other", "found it 2 times"),
    ],
)
def test_a_target_that_is_gone_fails(root: Path, place: str, message: str) -> None:
    """A place that is not there or not the only one, and a pattern that fits twice, name themselves."""
    with pytest.raises(TargetGoneError, match=message):
        mutated(place, drop("check()"), root)
