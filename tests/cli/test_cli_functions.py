"""functions: the handler of each FunctionName, and the fields of its result."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, RootModel

from consumer.cli.functions import fields_of
from consumer.functions.catalogue import documented
from consumer.plugin.handler import Handler, build, notes
from mns_consumer import Job, handler

Cli = Callable[..., Any]


class Point(BaseModel):
    """A part of a result."""

    x: float
    next: Point | None = None


class Drawing(BaseModel):
    """A result in a result."""

    points: list[Point]
    first: Point
    tags: dict[str, int] = {}


class Anything(RootModel[Any]):
    """A result of any shape."""


def _handler(annotation: Any) -> Handler:
    async def take(job: Any) -> None: ...

    take.__annotations__["job"] = annotation
    marked = handler("X")(take)
    return build(marked, notes(marked)[0])


@pytest.mark.parametrize(
    ("annotation", "names"),
    [
        pytest.param(Job, [], id="no result"),
        pytest.param(Job[Any], [], id="any JSON"),
        pytest.param(Job[Anything], [], id="a model of any shape"),
        pytest.param(
            Job[Drawing],
            ["points", "points[].x", "points[].next", "first", "first.x", "first.next", "tags"],
            id="models in models, one that holds itself too",
        ),
    ],
)
def test_fields(annotation: Any, names: list[str]) -> None:
    """The fields of a result by path, those of a list's items included."""
    assert [field["name"] for field in fields_of(_handler(annotation))] == names


def test_types_read_as_written() -> None:
    """A field's type is named without its module."""
    types = {field["name"]: field["type"] for field in fields_of(_handler(Job[Drawing]))}
    assert types["points"] == "list[Point]"
    assert types["first.next"] == "Point | None"
    assert types["tags"] == "dict[str, int]"


def test_shipped(cli: Cli) -> None:
    """Every documented FunctionName is listed with its shipped handler, without any queue set."""
    ran = cli("functions", "--shipped", "--json")
    rows = {row["function"]: row for row in map(json.loads, ran.out.splitlines())}
    assert ran.code == 0
    assert [(row["function"], row["title"], row["input"], row["output"]) for row in rows.values()] == [
        (function.name, function.title, function.input, function.output) for function in documented()
    ]
    assert all(row["found_in"] == "shipped" for row in rows.values())
    assert {"name": "stills[].url", "type": "str"}.items() <= rows["Cover"]["result_fields"][3].items()


def test_own_handlers_are_stronger(cli: Cli, handlers_dir: Path) -> None:
    """A drop-in handler replaces the shipped one, and is listed with its path and line."""
    flags = ("--shipped", "--handlers", str(handlers_dir))
    table = cli("functions", *flags)
    assert table.code == 0
    assert "my_cover" in table.out
    assert "drop-in folder" in table.out
    # The table folds a long path.
    rows = {row["function"]: row for row in map(json.loads, cli("functions", *flags, "--json").out.splitlines())}
    assert rows["Cover"]["origin"].startswith(f"{handlers_dir / 'cover.py'}:")


def test_names_without_a_handler(cli: Cli, handlers_dir: Path) -> None:
    """A name without a handler is shown as unrouted; other names with a handler come after the documented ones."""
    (handlers_dir / "other.py").write_text(
        'from mns_consumer import Job, handler\n\n@handler("Transcode")\ndef transcode(job: Job) -> None: ...\n',
        encoding="utf-8",
    )
    table = cli("functions", "--handlers", str(handlers_dir))
    rows_of = [line.split() for line in table.out.splitlines()]
    assert ["AudioBeatDetection", *"-----"] in rows_of
    ran = cli("functions", "--handlers", str(handlers_dir), "--json")
    rows = [json.loads(line) for line in ran.out.splitlines()]
    assert rows[-1]["function"] == "Transcode"
    assert [row["function"] for row in rows if row["handler"]] == ["Cover", "Transcode"]


def test_nothing_to_list(cli: Cli) -> None:
    """Without any source of handlers it names the places that are searched."""
    ran = cli("functions")
    assert ran.code == 78
    assert "shipped = true" in ran.err


def test_the_hook_of_dead_letters_is_listed(cli: Cli, tmp_path: Path) -> None:
    """The function of ``@on_dead_letter`` comes last, with its file and line, as JSON and in the table."""
    (tmp_path / "films").mkdir(mode=0o755)
    path = tmp_path / "films" / "notify.py"
    path.write_text(
        "from mns_consumer import Job, Letter, handler, on_dead_letter\n"
        '@handler("Cover")\nasync def cover(job: Job) -> None: ...\n'
        "@on_dead_letter\nasync def notify(letter: Letter) -> None: ...\n"
    )
    rows = [json.loads(line) for line in cli("functions", "--handlers", str(path.parent), "--json").out.splitlines()]
    assert rows[-1] | {"title": ""} == {
        "function": "@on_dead_letter",
        "title": "",
        "input": None,
        "output": None,
        "handler": "notify",
        "found_in": "drop-in folder",
        "origin": f"{path}:4",
        "result_type": None,
        "result_fields": [],
    }
    assert "@on_dead_letter" in cli("functions", "--handlers", str(path.parent)).out
