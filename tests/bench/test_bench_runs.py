"""The benchmark works: a tiny comparison runs, and its output is complete and plausible."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.bench import __main__ as bench
from tests.bench import bars, footprint, plan
from tests.bench.bars import BARS, Bar, Verdict
from tests.bench.contestants import ALL, SQLITE, Rig, started
from tests.bench.measurements import Measurements, Spread, in_turn
from tests.bench.process import BenchError, Cores
from tests.bench.server import Server

BATCH: Final = "sdk_batch"
UNPINNED: Final = Cores(None, None)

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="CPU clocks of processes and cores are Linux's"),
    pytest.mark.timeout(60),
]


@pytest.fixture
def _signals_as_before() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with Server(UNPINNED) as server:
        yield Rig(server, UNPINNED, tmp_path)


@pytest.mark.timeout(120)
@pytest.mark.usefixtures("_signals_as_before")
def test_a_tiny_comparison(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One command measures two contestants in turn and writes JSON with every figure, every bar and the machine."""
    cores_before = os.sched_getaffinity(0)
    what = ["--only", "throughput", "--contestant", BATCH, "--contestant", SQLITE]
    sizes = ["--messages", "320", "--rounds", "2", "--seconds", "10"]
    assert bench.main([*what, *sizes, "--unpinned", "--out", str(tmp_path)]) == 0
    assert os.sched_getaffinity(0) == cores_before
    written: dict[str, Any] = json.loads((tmp_path / "bench.json").read_text())
    figures = {(one["contestant"], one["figure"]): one for one in written["figures"]}
    assert {name for name, _ in figures} == {BATCH, SQLITE}
    for name in (BATCH, SQLITE):
        for one in (found for (contestant, _), found in figures.items() if contestant == name):
            assert len(one["values"]) == 2
            assert 0 < one["min"] <= one["median"] <= one["max"]
        assert 10 < figures[name, "messages_per_s"]["median"] < 1e6
        assert 5 < figures[name, "cpu_us_per_message"]["median"] < 1e5
        assert 0.12 <= figures[name, "requests_per_message"]["min"] < 1
        assert 5 < figures[name, "rss_start_mib"]["median"] < 1000
    measured = {bar["figure"]: bar for bar in written["bars"] if bar["reached"] is not None}
    assert f"CPU a message, {SQLITE} to {BATCH}" in measured
    assert len(written["bars"]) == len(BARS)
    assert written["failures"] == []
    assert written["surroundings"]["cores"]["all"] >= 1
    out = capsys.readouterr().out
    assert "not measured" in out
    assert str(tmp_path / "bench.json") in out


def poisoned(rig: Rig) -> None:
    """Give a daemon one message that is no notification."""
    with rig.run() as run, started(SQLITE, run) as contestant:
        contestant.wait()
        rig.server.ask("put", queue=run.queue, text="no notification")
        assert rig.server.ask("emptied", queue=run.queue, within_s=10).answer["left"] == 0


def test_a_failed_contestant_is_an_error(rig: Rig) -> None:
    """A contestant that dies or logs a problem gives no figures, and an error with the end of its log."""
    with rig.run() as run:
        (run.folder / "ledger.db").write_text("no database at all")
        with pytest.raises(BenchError, match="is no SQLite database"), started(SQLITE, run) as contestant:
            contestant.wait()
    with pytest.raises(BenchError, match="moved to dead letters"):
        poisoned(rig)
    with rig.run() as run, pytest.raises(BenchError, match="no contestant 'me'"), started("me", run):
        pass


def test_a_failed_command_of_the_server_is_an_error(rig: Rig) -> None:
    """A command that the server does not know is an error, and so is a server that has ended."""
    with pytest.raises(BenchError, match="could not dance"):
        rig.server.ask("dance")
    rig.server._process.kill()
    with pytest.raises(BenchError, match="ended by itself"):
        rig.server.ask("look")


def test_ratios_are_of_medians_and_spreads_of_rounds() -> None:
    """A ratio is that of the medians; its spread that of the values measured in the same round."""
    assert list(in_turn(2, "a", "b")) == ["a", "b", "a", "b"]
    lines: list[str] = []
    measurements = Measurements(lines.append)
    for mine, theirs in ((2.0, 1.0), (4.0, 4.0), (9.0, 3.0)):
        measurements.add("p", "mine", x=mine)
        measurements.add("p", "theirs", x=theirs)
    assert measurements.ratio("p", "mine", "theirs", "x") == Spread(4 / 3, 1, 3)
    assert measurements.difference("p", "mine", "theirs", "x") == Spread(1, 0, 6)
    assert measurements.ratio("p", "mine", "other", "x") is None
    assert measurements.parts() == ["p"]
    assert lines[0] == "p: mine x=2"


@pytest.mark.parametrize(
    ("bar", "value", "reached"),
    [
        pytest.param(Bar("", "at most", 1.3, "x", lambda _: None), 1.3, True, id="at most, met"),
        pytest.param(Bar("", "at most", 1.3, "x", lambda _: None), 1.31, False, id="at most, missed"),
        pytest.param(Bar("", "at least", 30, "x", lambda _: None), 30, True, id="at least, met"),
        pytest.param(Bar("", "at least", 30, "x", lambda _: None), 29.9, False, id="at least, missed"),
    ],
)
def test_a_bar(bar: Bar, value: float, *, reached: bool) -> None:
    """A bar is a least or a greatest value; one that was not measured is neither reached nor missed."""
    assert Verdict(bar, Spread(value, value, value)).reached is reached
    assert Verdict(bar, None).reached is None


def test_bars_read_what_was_measured() -> None:
    """Growth of memory is the difference of its two marks; one Throttling answer in any round misses the bar."""
    measurements = Measurements()
    for figure, value in ((footprint.rss_figure(100_000), 80.0), (footprint.rss_figure(1_000_000), 83.0)):
        measurements.add(footprint.MEMORY, SQLITE, **{figure: value})
    for answers in (0, 0, 1):
        measurements.add("results over http", SQLITE, results_per_s=97, throttling_answers=answers)
    reached = {verdict.bar.name: verdict.reached for verdict in bars.judged(measurements)}
    assert reached["RSS from 100,000 to 1,000,000 messages"] is False
    assert reached["results over http"] is True
    assert reached["Throttling answers over http"] is False
    assert reached["results over https"] is None


def test_which_parts_run() -> None:
    """The ablation runs by name, long parts with ``--long``, and ``--quick`` leaves out what can't be quick."""
    everything = [part for part in plan.PARTS if part != "ablation"]
    assert plan.chosen([], quick=False, long=True) == everything
    assert plan.chosen(["ablation"], quick=False, long=False) == ["ablation"]
    assert set(everything) - set(plan.chosen([], quick=False, long=False)) == {"ledger"}
    assert set(everything) - set(plan.chosen([], quick=True, long=False)) == {"ledger", "idle"}
    assert plan.chosen(["ledger", "idle"], quick=True, long=False) == ["idle", "ledger"]
    assert set(ALL) >= {BATCH, SQLITE}
