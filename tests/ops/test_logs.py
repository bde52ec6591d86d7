"""Log lines: each event is one line, in JSON or readable, for any fields and any stream."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import math
import os
import select
import socket
import subprocess
import sys
import time
import timeit
import warnings
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from consumer.ops import logs
from consumer.ops.logs import EXCEPTION_LIMIT, LINE_LIMIT_BYTES, TEXT_LIMIT, LogFields, processors, render
from consumer.ops.metrics import SettledAs
from consumer.ops.sanitize import SECRETS, Secrets
from tests.untraced import untraced


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        """As it says."""
        return True


class Unshowable:
    """A value that can't show itself."""

    def __repr__(self) -> str:
        raise RuntimeError("no")


class Colour(Enum):
    """An enumeration of texts."""

    RED = "red"


class Text(str):
    """A text of another class."""

    __slots__ = ()


def read(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def line_of(fields: Mapping[str, Any], *, terminal: bool = False, secrets: Secrets | None = None) -> bytes:
    return render(processors(secrets or Secrets(), terminal=terminal), "info", dict(fields))


def test_a_line() -> None:
    """A line off the terminal is one JSON object with UTC time, level and event first."""
    stream = io.StringIO()
    logs.configure(stream=stream)
    before = datetime.now(UTC)
    structlog.get_logger().info("job done", job_id="88c6", seconds=0.25, missing=None, text="日本")
    (line,) = read(stream)
    assert list(line)[:3] == ["timestamp", "level", "event"]
    stamp = datetime.fromisoformat(line.pop("timestamp"))
    assert abs((stamp - before).total_seconds()) < 5
    assert line == {
        "level": "info", "event": "job done", "job_id": "88c6", "seconds": 0.25, "missing": None, "text": "日本",
    }  # fmt: skip
    assert "日本" in stream.getvalue()


def test_times_rise() -> None:
    """Times keep their form and never fall while the second changes."""
    chain = processors(Secrets(), terminal=False)
    stamps = [json.loads(render(chain, "info", {"event": "x"}))["timestamp"] for _ in range(200)]
    assert stamps == sorted(stamps)
    assert all(len(stamp) == 27 and stamp.endswith("Z") for stamp in stamps)
    assert stamps[0] > "2020"


def test_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal lines are for reading, coloured unless NO_COLOR is set."""
    for no_color in ("", "1"):
        monkeypatch.setenv("NO_COLOR", no_color)
        stream = Terminal()
        logs.configure(stream=stream)
        structlog.get_logger().warning("retry scheduled", job_id="88c6")
        assert "retry scheduled" in stream.getvalue()
        assert "88c6" in stream.getvalue()
        assert ("\x1b[" in stream.getvalue()) == (no_color == "")


def test_format_by_choice() -> None:
    """The format can be set for any stream."""
    stream = Terminal()
    logs.configure(stream=stream, json=True)
    structlog.get_logger().info("x")
    logs.configure(stream=stream, json=False)
    structlog.get_logger().info("y")
    first, second = stream.getvalue().splitlines()
    assert json.loads(first)["event"] == "x"
    assert not second.startswith("{")


def test_level_reaches_loggers_in_use() -> None:
    """A changed level holds for loggers that have logged before, in both directions."""
    stream = io.StringIO()
    log = structlog.stdlib.get_logger("consumer.engine")
    logs.configure(stream=stream)
    bound = log.bind(queue="jobs")
    for level in ("info", "debug", "error"):
        logs.configure(level, stream=stream)
        for logger in (log, bound, log.bind(queue="jobs")):
            logger.debug("debug", at=level)
            logger.info("info", at=level)
            logger.error("error", at=level)
    seen = [f"{line['event']} at {line['at']}" for line in read(stream)]
    assert set(seen) == {"info at info", "error at info", "debug at debug", "info at debug", "error at debug",
                         "error at error"}  # fmt: skip
    assert seen.count("error at error") == 3


def test_fields_of_a_task() -> None:
    """Fields put around a block stand on each of its lines, of either kind of logger, and on none after it."""
    stream = io.StringIO()
    logs.configure(stream=stream)
    log = structlog.get_logger()
    with LogFields(trace_id="t1"), LogFields(job_id="j1"):
        log.info("inside", job_id="own")
        logging.getLogger("aiohttp").error("inside too")
    log.info("after")
    first, second, third = read(stream)
    assert (first["trace_id"], first["job_id"]) == ("t1", "own")
    assert (second["trace_id"], second["job_id"]) == ("t1", "j1")
    assert "trace_id" not in third


def test_fields_of_a_job() -> None:
    """What a handler logs has its job's fields: by either kind of logger, with bound ones, in a worker thread."""
    stream = io.StringIO()
    logs.configure(stream=stream)

    def handler() -> None:
        structlog.get_logger().info("seen", film=7)
        logging.getLogger("handlers.cover").info("seen by %s", "logging")
        with structlog.contextvars.bound_contextvars(song=3):
            structlog.get_logger("acme").bind(attempt="own").info("bound")
            logging.getLogger("handlers.cover").info("bound by logging")

    job = {"function": "Cover", "job_id": "j1", "message_id": "m1", "queue": "jobs", "attempt": 2}

    async def run() -> None:
        logs.log_job("Cover", "j1", message_id="m1", queue="jobs", attempt=2)
        await anyio.to_thread.run_sync(handler)

    anyio.run(run)
    seen, by_logging, bound, bound_by_logging = read(stream)
    assert seen.items() >= {**job, "event": "seen", "level": "info", "film": 7}.items()
    assert by_logging.items() >= {**job, "event": "seen by logging", "logger": "handlers.cover"}.items()
    assert bound.items() >= {**job, "attempt": "own", "song": 3}.items()
    assert bound_by_logging.items() >= {**job, "song": 3}.items()


def test_other_libraries() -> None:
    """Other libraries' lines come from WARNING upwards, whatever their loggers are set to; handlers' own sooner."""
    stream = io.StringIO()
    logs.configure("debug", stream=stream, own=["acme.handlers"])
    for name in ("aiohttp", "credentials", "handlersome"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.DEBUG)
        logger.debug("Authorization: %s", "secret")
        logger.info("chatter")
        logger.warning("trouble %d", 1)
        logger.setLevel(logging.NOTSET)
    logging.getLogger("acme.handlers.cover").debug("mine")
    logging.getLogger("handlers.cover").debug("shipped")
    logging.getLogger("_mns_consumer_handlers_0a1b.cover").info("dropped in")
    seen = [(line["logger"], line["level"], line["event"]) for line in read(stream)]
    assert seen == [
        ("aiohttp", "warning", "trouble 1"),
        ("credentials", "warning", "trouble 1"),
        ("handlersome", "warning", "trouble 1"),
        ("acme.handlers.cover", "debug", "mine"),
        ("handlers.cover", "debug", "shipped"),
        ("_mns_consumer_handlers_0a1b.cover", "info", "dropped in"),
    ]
    logs.configure("error", stream=stream)
    logging.getLogger("aiohttp").warning("not at this level")
    assert len(read(stream)) == len(seen)


def test_one_bridge_however_often() -> None:
    """Configuring again doubles no line, and takes over from a plain StreamHandler."""
    stream, plain = io.StringIO(), io.StringIO()
    logging.getLogger().addHandler(logging.StreamHandler(plain))
    for _ in range(3):
        logs.configure(stream=stream)
    logging.getLogger("x").error("once")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old thing", DeprecationWarning, stacklevel=1)
    assert [line["logger"] for line in read(stream)] == ["x", "py.warnings"]
    assert plain.getvalue() == ""


@pytest.mark.parametrize(
    ("text", "shown"),
    [("%d of %d", "%d of %d (TypeError"), (Unshowable(), "<Unshowable that can't be shown> (RuntimeError")],
)
def test_a_wrong_format_string(text: object, shown: str) -> None:
    """A library's log call that doesn't format still gives a line, and no error."""
    stream = io.StringIO()
    logs.configure(stream=stream)
    (bridge,) = [handler for handler in logging.getLogger().handlers if isinstance(handler, logs._StdlibHandler)]
    bridge.handle(logging.LogRecord("x", logging.ERROR, __file__, 1, text, ("a",), None))
    (line,) = read(stream)
    assert line["event"].startswith(shown)


def fail(text: str) -> None:
    raise ValueError(text)


@pytest.mark.parametrize("how", ["exception", "instance", "tuple", "stdlib"])
def test_exceptions(how: str) -> None:
    """An exception is on the one JSON line with its traceback, however it is passed."""
    stream = io.StringIO()
    logs.configure(stream=stream)
    log = structlog.get_logger()
    try:
        fail("first line\nsecond line")
    except ValueError as error:
        match how:
            case "exception":
                log.exception("handler failed")
            case "instance":
                log.warning("handler failed", exc_info=error)
            case "tuple":
                log.warning("handler failed", exc_info=sys.exc_info())
            case _:
                logging.getLogger("x").exception("handler failed")
    (line,) = read(stream)
    assert line["level"] == ("error" if how in {"exception", "stdlib"} else "warning")
    (raised,) = line["exception"]
    assert (raised["exc_type"], raised["exc_value"]) == ("ValueError", "first line\nsecond line")
    assert [frame["name"] for frame in raised["frames"]] == ["test_exceptions", "fail"]
    assert "locals" not in str(line)
    assert "exc_info" not in line


def test_long_exceptions_keep_their_end() -> None:
    """A traceback without end is cut in its middle: where it was raised and what was raised stay."""
    error = ValueError("a" * 50_000 + "the end")
    line = json.loads(line_of({"event": "x", "exc_info": error}))
    shown = line["exception"][0]["exc_value"]
    assert len(shown) < EXCEPTION_LIMIT + 100
    assert shown.startswith("aaa")
    assert shown.endswith("the end")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        pytest.param(SettledAs.DONE, "done", id="word"),
        pytest.param(Colour.RED, "red", id="enumeration"),
        pytest.param(Text("x"), "x", id="text of another class"),
        pytest.param(Path("/a/b"), "/a/b", id="path"),
        pytest.param(Decimal("1.50"), "1.50", id="decimal"),
        pytest.param(datetime(2026, 1, 2, tzinfo=UTC), "2026-01-02 00:00:00+00:00", id="time"),
        pytest.param(b"\xff", "b'\\xff'", id="bytes"),
        pytest.param(ValueError("no"), "ValueError: no", id="exception"),
        pytest.param(Unshowable(), "<Unshowable that can't be shown>", id="unshowable"),
        pytest.param({"a": (1, {"b"})}, {"a": [1, ["b"]]}, id="nested"),
        pytest.param({Unshowable(): 1}, {"<Unshowable that can't be shown>": 1}, id="unshowable key"),
        pytest.param([[[[1]]]], [[["[1]"]]], id="too deep"),
        pytest.param(list(range(99)), list(range(50)), id="too many"),
        pytest.param(math.inf, "Infinity", id="infinity"),
        pytest.param("\ud800", "\ud800", id="lone surrogate"),
        pytest.param(2**70, 2**70, id="big integer"),
        pytest.param((x for x in "ab"), None, id="generator"),
    ],
)
def test_values(value: object, shown: object) -> None:
    """Each kind of value is shown, bounded, and never an error."""
    line = json.loads(line_of({"event": "x", "value": value}))
    assert "unrenderable" not in line
    if shown is None:
        assert line["value"].startswith("<generator object")
    else:
        assert line["value"] == shown


def test_a_generator_is_not_used_up() -> None:
    """Logging a generator takes nothing out of it."""
    numbers = (x for x in range(3))
    line_of({"event": "x", "value": numbers})
    assert list(numbers) == [0, 1, 2]


def test_long_texts_are_cut() -> None:
    """A text of a megabyte gives a line of a few kilobytes that shows its beginning and end."""
    line = json.loads(line_of({"event": "x", "body": "begin" + "x" * 1_000_000 + "end"}))
    assert len(line["body"]) < TEXT_LIMIT + 100
    assert line["body"].startswith("begin")
    assert line["body"].endswith("end")


def test_a_line_is_bounded() -> None:
    """Many long fields, or a number without end, give a line of bounded length that shows the beginning of each."""
    texts = {f"field{number}": ["begin" + "x" * 3_000] * 40 for number in range(200)}
    rendered = line_of({"event": "job done", **texts})
    assert len(rendered) < LINE_LIMIT_BYTES
    line = json.loads(rendered)
    assert line["event"] == "job done"
    assert line["field0"].startswith("['begin")
    line = json.loads(line_of({"event": "job done", "number": 10**100_000}))
    assert line["number"] == "<int that can't be shown>"


class Broken(Mapping[str, object]):
    """A mapping that can't be read."""

    def __getitem__(self, key: str) -> object:
        raise KeyError(key)

    def __iter__(self) -> Iterator[str]:
        raise OSError("gone")

    def __len__(self) -> int:
        return 1


@pytest.mark.parametrize("terminal", [False, True])
def test_what_can_not_be_rendered(terminal: bool) -> None:  # noqa: FBT001  # a parameter of the test
    """A field that can't be read is named; all others are shown."""
    line = line_of({"event": "job done", "value": Broken(), "other": "seen"}, terminal=terminal).decode()
    assert "<Broken that can't be shown>" in line
    assert "job done" in line
    assert "seen" in line


def test_a_fault_of_a_processor() -> None:
    """A line that can't be made is replaced by one with its event; nothing is raised into the caller."""

    def broken(_logger: object, _level: str, _event: object) -> bytes:
        raise OSError("gone")

    line = json.loads(render((broken,), "info", {"event": "job done"}))
    assert (line["event"], line["unrenderable"]) == ("job done", "OSError")


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=()))
    | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)


@given(st.dictionaries(st.text(st.characters(exclude_categories=())), ANYTHING), st.booleans())
def test_rendering_is_total(values: dict[str, Any], terminal: bool) -> None:  # noqa: FBT001  # drawn by hypothesis
    """Any fields give a line, JSON ones one valid line; no control character reaches a terminal."""
    rendered = line_of({**values, "event": "x"} if "exc_info" not in values else {"event": "x"}, terminal=terminal)
    assert rendered.endswith(b"\n")
    if not terminal:
        assert rendered.count(b"\n") == 1
        json.loads(rendered)
    else:
        _ours, *rest = rendered.decode().splitlines()
        assert all(line.startswith(("    ", "=====")) for line in rest if line)
        assert b"\x1b" not in rendered


def test_no_steering_of_a_terminal() -> None:
    """An escape sequence in a field or an exception's text is shown, not obeyed; a traceback keeps its lines."""
    shown = line_of({"event": "x\x1b[2J", "text": "a\x1b[2Jb", "exc_info": ValueError("\x1b[2J")}, terminal=True)
    assert b"\x1b" not in shown
    assert b"\\x1b[2J" in shown
    assert shown.count(b"\n") >= 2


FORGING = "x\n2026-01-01T00:00:00Z [info     ] forged\r\x85\u2028\u202e\x7f\x9b2J\u200b"


def test_no_line_of_ours_is_forged_on_a_terminal() -> None:
    """Line breaks in a field, a traceback or a stack begin no line at the margin."""
    nasty = {"user_data": FORGING, "stack": FORGING, "exc_info": ValueError(FORGING)}
    shown = line_of({"event": "job failed", "nested": {"a": [FORGING]}, **nasty}, terminal=True).decode()
    ours, *rest = shown.splitlines()
    assert ours.count("forged") == 2
    assert [line for line in rest if line and not line.startswith(("    ", "====="))] == []
    assert not set(shown) & set("\r\x85\u2028\u202e\x7f\x9b\u200b")


def test_json_lines_hide_nothing() -> None:
    """Control and hidden characters are escaped in a JSON line, which has the same value."""
    rendered = line_of({"event": "x", "text": FORGING, FORGING: "\ud800\x7f", "letters": "封面\u3000"})
    assert json.loads(rendered)["text"] == FORGING
    assert json.loads(rendered)[FORGING] == "\ud800\x7f"
    assert len(rendered.decode().splitlines()) == 1
    assert b"\x7f" not in rendered
    assert not set(rendered.decode()) & set("\x85\u2028\u202e\x9b\u200b")
    rendered = line_of({"event": "x", "text": FORGING, "letters": "封面\u3000"})
    assert "封面\u3000" in rendered.decode()
    assert not set(rendered.decode()) & set("\x85\u2028\u202e\x7f\x9b\u200b")


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize("secret", ["pass\x7fword", "ab\u202ecd\x9bef", "密\u3000钥\u200b匙字母"])
def test_secrets_with_hidden_characters(secret: str, terminal: bool) -> None:  # noqa: FBT001  # parameter
    """A secret that is shown with escapes is masked too, in a text and in one that a library has escaped."""
    secrets = Secrets()
    secrets.protect(secret)
    shown = line_of({"event": "x", "a": f"-{secret}-", "b": {"c": secret}}, terminal=terminal, secrets=secrets).decode()
    assert shown.count("***") == 2
    assert secret[:4] not in shown


def test_no_exception_under_way() -> None:
    """Asking for the current exception where there is none gives a line without one."""
    assert list(json.loads(line_of({"event": "x", "exc_info": True}))) == ["timestamp", "level", "event"]


class Writes(io.StringIO):
    """A stream that records each write."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[str] = []

    def write(self, text: str) -> int:
        """Record it."""
        self.pieces.append(text)
        return super().write(text)


async def _one_turn(count: int, *, in_between: bool) -> None:
    for number in range(count):
        logs.gather("info", event="job done", number=number)
    if in_between:
        structlog.stdlib.get_logger("consumer.x").warning("at once")
    logs.gather("debug", event="below the level")
    logs.gather("info", event="last")
    await asyncio.sleep(0)


def test_gathered_lines_are_written_together() -> None:
    """Lines of one turn of the loop share a write, up to what a pipe takes in one piece, and none is torn."""
    stream = Writes()
    logs.configure("info", json=True, stream=stream)
    asyncio.run(_one_turn(100, in_between=False))
    assert [line["event"] for line in read(stream)] == ["job done"] * 100 + ["last"]
    pieces = [piece for piece in stream.pieces if piece]
    assert 1 < len(pieces) < 10
    assert all(piece.endswith("\n") and len(piece) <= select.PIPE_BUF for piece in pieces)


def test_a_line_that_is_written_at_once_keeps_its_place() -> None:
    """A line that is written at once follows those gathered before it."""
    stream = Writes()
    logs.configure("info", json=True, stream=stream)
    asyncio.run(_one_turn(2, in_between=True))
    assert [line["event"] for line in read(stream)] == ["job done", "job done", "at once", "last"]


def test_lost_gathered_lines_are_counted_one_by_one() -> None:
    """A piece that could not be written counts as many lines as were in it."""
    stream = Writes()
    lost: list[int] = []
    logs.configure("info", json=True, stream=stream, on_drop=lost.append)
    stream.close()
    asyncio.run(_one_turn(4, in_between=False))
    assert sum(lost) == 5
    logs.configure("info", json=True, stream=(again := Writes()))
    asyncio.run(_one_turn(0, in_between=False))
    assert [line.get("lines") for line in read(again)] == [None, 5]


def test_silent_before_configured() -> None:
    """A line before logging is set up goes nowhere and raises nothing."""
    logs._log.write(b"x\n")


def test_cost_of_a_line(tmp_path: Path) -> None:
    """A message's line to a file costs some microseconds (bound: 60, for slow machines)."""
    with (tmp_path / "log").open("w") as stream:
        logs.configure(stream=stream)
        log = structlog.stdlib.get_logger("consumer.engine.process")
        values = {
            "queue": "jobs", "job_id": "88c6ca184c0e47098a5b665e2a126797", "function": "Cover", "attempt": 1,
            "message_id": "5F290C926D472878-2-14D9529A8FA-200000001", "outcome": "done", "seconds": 0.0123,
        }  # fmt: skip
        with untraced():
            runs = timeit.repeat(
                lambda: log.info("job done", **values), timer=time.process_time, number=2_000, repeat=5
            )
        best_s = min(runs) / 2_000
        logs._log.stream = None
    print(f"{best_s * 1e6:.2f} us a line")  # noqa: T201  # the figure is wanted in the test's output
    assert (tmp_path / "log").read_bytes().count(b"\n") == 10_000
    assert best_s < 60e-6


DAEMON = """
import sys, structlog
from consumer.ops import logs
logs.configure(stream=getattr(sys, sys.argv[1]))
log = structlog.get_logger()
for number in range(int(sys.argv[2])):
    log.info("line", number=number, pad="x" * 500)
open(sys.argv[3], "w").write("lived")
"""


def test_a_reader_that_leaves(tmp_path: Path) -> None:
    """A process whose log pipe is closed by its reader runs to its end."""
    end = tmp_path / "end"
    process = subprocess.Popen([sys.executable, "-c", DAEMON, "stdout", "2000", str(end)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(15) == 0
    assert end.read_text() == "lived"


def test_levels_of_other_loggers() -> None:
    """A logger that the settings name passes at its level, children included; the longest name counts."""
    stream = io.StringIO()
    logs.configure(stream=stream, levels={"myapp": "debug", "myapp.noisy": "error", "handlers": "warning"})
    for name in ("myapp", "myapp.db", "myapp.noisy.sql", "myapps", "handlers.cover", "consumer.engine"):
        for level in ("debug", "info", "warning", "error"):
            getattr(logging.getLogger(name), level)(level)
    found = [(line["logger"], line["event"]) for line in read(stream)]
    assert [event for name, event in found if name == "myapp"] == ["debug", "info", "warning", "error"]
    assert [event for name, event in found if name == "myapp.db"] == ["debug", "info", "warning", "error"]
    assert [event for name, event in found if name == "myapp.noisy.sql"] == ["error"]
    assert [event for name, event in found if name == "myapps"] == ["warning", "error"]
    assert [event for name, event in found if name == "handlers.cover"] == ["warning", "error"]
    assert [event for name, event in found if name == "consumer.engine"] == ["info", "warning", "error"]
    again = io.StringIO()
    logs.configure(stream=again)
    logging.getLogger("myapp").info("as before")
    assert not again.getvalue()


def test_extra_fields_are_kept() -> None:
    """What a handler adds by ``extra`` stands on its line, and secrets in it are masked."""
    stream = io.StringIO()
    logs.configure(stream=stream)
    SECRETS.protect("hush-hush", slot="test")
    logging.getLogger("handlers.mine").info("uploaded", extra={"film": 7, "key": "hush-hush"})
    (line,) = read(stream)
    assert (line["film"], line["key"]) == (7, "***")


def test_a_field_of_the_line_replaces_the_jobs() -> None:
    """A field that a line itself has replaces the job's field of that name on this line alone."""
    stream = io.StringIO()
    logs.configure(stream=stream)
    with logs.LogFields(queue="jobs", job_id="J-1"):
        logging.getLogger("handlers.mine").info("uploaded", extra={"queue": "mine"})
        structlog.get_logger().info("sent", queue="ours")
        structlog.get_logger().info("done")
    assert [(line["queue"], line["job_id"]) for line in read(stream)] == [
        ("mine", "J-1"),
        ("ours", "J-1"),
        ("jobs", "J-1"),
    ]


def test_the_journal_learns_priorities(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where stderr is the journal's own socket each line begins with its priority; elsewhere none does."""
    ours, journal = socket.socketpair()
    with ours, journal, journal.makefile("w", encoding="utf-8") as stream:
        found = os.fstat(journal.fileno())
        for named, begins in ((f"{found.st_dev}:{found.st_ino}", ["{", "<4>{", "<3>{"]), ("1:2", ["{", "{", "{"])):
            monkeypatch.setenv("JOURNAL_STREAM", named)
            logs.configure(stream=stream)
            structlog.get_logger().info("x")
            structlog.get_logger().warning("x")
            logging.getLogger("x").error("x")
            lines = ours.recv(65_536).decode().splitlines()
            assert [line.partition('"')[0] for line in lines] == begins
