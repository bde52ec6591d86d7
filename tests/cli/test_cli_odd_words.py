"""Whatever is typed, the command ends with a documented code and plain lines, never with a traceback."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

Cli = Callable[..., Any]
URL: Final = "mns://1234567890123456.mns.cn-hangzhou.aliyuncs.com/queues/jobs"
BYTES: Final = "\udcff"
"""A word that is no UTF-8, as Python gives it to a program."""
LONG: Final = "x" * 5_000
STORES: Final = (
    *("", " ", "DIR", "FILE", "BINARY", "/dev/null", "/nowhere/x/y.db", "FILE/x.db", "~nobody9/x", ":memory:", "a\0b"),
    *("postgres://", "postgresql://", "postgresql:///", "postgresql://u@[::1/x", "postgresql://u@::1/x"),
    *("postgres://u@[::1]:1/x", "postgresql://u@127.0.0.1:99999/x", "postgresql://u u@h/x", "http://x", "file:x"),
    *("sqlite:", "sqlite://", "sqlite:///", "sqlite://x", "sqlite:x", LONG, BYTES),
)
WORDS: Final = (
    *(("jobs", "list", "--store", store) for store in STORES),
    *(("jobs", "list", "--config", path) for path in ("", "DIR", "BINARY", "/nowhere", "DEEP", BYTES, "a\0b", LONG)),
    *(("functions", "--handlers", path) for path in ("", "FILE", "/nowhere", BYTES, "a\0b", LONG)),
    *(("functions", "--handler-module", name) for name in ("", ".", "a..b", "x y", BYTES, LONG)),
    *(("dead-letters", "show", number) for number in ("", "-1", "0", "9" * 20, "1e3", "x")),
    *(("jobs", "list", "--limit", number) for number in ("", "-1", "9" * 20, "1e3")),
    *(("jobs", "list", "--since", time) for time in ("", "9" * 30 + "d", "999999999w", "2026-02-30", BYTES)),
    *(("jobs", "list", "--queue", queue) for queue in ("", "a\0b", BYTES, LONG, "mns:", "mns://", URL + "?x")),
    *(("dead-letters", "list", "--error", text) for text in ("", "a\0b", BYTES, LONG)),
    *(("dead-letters", "export", "--out", path) for path in ("", "DIR", "/nowhere/x", "a\0b", LONG)),
    *(("health", "--url", url) for url in ("", "x", "http://", "http://[::1", "http://127.0.0.1:99999", "http://a b")),
    *(
        ("queue", "stats", "--notify-url", URL, "--endpoint", url)
        for url in ("", "x", "http://", "http://[::1", "http://a:99999", f"http://{BYTES}")
    ),
    *(("status", "--socket", path) for path in ("", "DIR", "FILE", "a\0b", LONG)),
    *(("status", "--instance", name) for name in ("", "..", "/", BYTES, LONG)),
    *(
        ("submit", "--function", "Cover", "--region", "cn-hangzhou", "--params", text)
        for text in ("[" * 100_000, BYTES)
    ),
    ("submit", "--function", "Cover", "--pipeline-id", "p", "--region", "cn-hangzhou", "--user-data", BYTES),
    ("queue", "send", "--notify-url", URL, "--file", "DIR"),
    ("queue", "send", "--notify-url", URL, ""),
    ("functions", "--set", "lanes=" + "[" * 100_000),
    ("functions", "--set", '{"a":' * 10),
    ("dead-letters", "replay", "--all", "--rate", "nan"),
    ("docs", ""),
    ("docs", "../x"),
    ("docs", BYTES),
    ("manifests", ""),
    ("",),
    (BYTES,),
    ("jobs", ""),
)


@pytest.mark.parametrize("words", WORDS, ids=lambda words: ascii(" ".join(words))[:60])
def test_odd_words(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]) -> None:
    """A word that makes no sense ends with 1, 2 or 78 and says what is wrong; nothing but an exit leaves ``main``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MNS_CONSUMER_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("MNS_CONSUMER_ACCESS_KEY_SECRET", "not a secret")
    (tmp_path / "DIR").mkdir()
    (tmp_path / "FILE").write_text("x", encoding="utf-8")
    (tmp_path / "BINARY").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "DEEP").write_text("a = " + "[" * 5_000, encoding="utf-8")
    ran = cli(*words)
    assert ran.code in {1, 2, 78}
    assert "Traceback" not in ran.err
    assert ran.out + ran.err


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("PROGRAM docs settings | head -n 1", 0, ""),
        ("set -o pipefail; PROGRAM functions --shipped --json | true", 0, ""),
        ("set -o pipefail; PROGRAM check --notify-url mns://bad | true", 78, ""),
        ("set -o pipefail; PROGRAM check --shipped | head -n 1 >/dev/null", 78, ""),
        ("PROGRAM functions --shipped >&-", 0, ""),
        ("PROGRAM functions --shipped >/dev/full", 1, "error: the output can't be written: No space left on device\n"),
        ("COLUMNS=1 PROGRAM jobs list --help", 0, ""),
        ("LC_ALL=C PYTHONIOENCODING=ascii PROGRAM docs settings", 0, ""),
    ],
    ids=["head", "a reader that goes", "an async reader goes", "after a line", "closed", "full", "one column", "ascii"],
)
def test_odd_outputs(line: str, code: int, said: str) -> None:
    """A pipe that is closed, no stdout, a full disk and a narrow terminal are no faults of the program.

    Whatever its reader took, a command ends with its own exit code.
    """
    program = f"{shlex.quote(sys.executable)} -m consumer"
    env = {**os.environ, "PYTHONUTF8": "0"}
    done = subprocess.run(
        ["bash", "-c", line.replace("PROGRAM", program)], capture_output=True, text=True, env=env, check=False
    )
    assert (done.returncode, done.stderr) == (code, said)
