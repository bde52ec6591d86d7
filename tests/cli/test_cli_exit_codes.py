"""One wrong value of a setting has one exit code and one line, from whichever place it comes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Cli = Callable[..., Any]
FLAGS = {
    "slots": "--slots",
    "notify_url": "--notify-url",
    "endpoint": "--endpoint",
    "store": "--store",
    "log_level": "--log-level",
    "log_format": "--log-format",
    "admin_port": "--admin-port",
}
WRONG = (
    ("slots", "many"),
    ("slots", "0"),
    ("notify_url", "http://x/q"),
    ("endpoint", "ftp://x"),
    ("store", "mysql://x"),
    ("log_level", "loud"),
    ("log_format", "xml"),
    ("admin_port", "70000"),
    ("retry_base_s", "soon"),
    ("unrouted", "keep"),
    ("lanes", "[{"),
    ("log_levels", "{"),
    ("max_hold_s", "1"),
    ("nonsense_name", "1"),
)


@pytest.mark.parametrize(("name", "value"), WRONG, ids=[f"{name}={value}" for name, value in WRONG])
def test_a_wrong_setting_ends_alike_from_every_place(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, value: str
) -> None:
    """From a flag, ``--set``, a variable and a file it is exit code 78, and the lines differ in the place alone."""
    file = tmp_path / "settings.toml"
    file.write_text(f"{name} = '{value}'\n", encoding="utf-8")
    ways = [["--set", f"{name}={value}"], ["--config", str(file)]]
    ways += [[FLAGS[name], value]] if name in FLAGS else []
    ran = [cli("run", "--shipped", *words) for words in ways]
    if name != "nonsense_name":  # such a variable is another program's, and a warning
        monkeypatch.setenv(f"MNS_CONSUMER_{name.upper()}", value)
        ran.append(cli("run", "--shipped"))
    places = ("command line", str(file), f"environment MNS_CONSUMER_{name.upper()}")
    said = set()
    for one in ran:
        assert one.code == 78
        lines = [line for line in one.err.splitlines() if "expected at least one queue" not in line]
        for place in places:
            lines = [line.replace(f" ({place})", "") for line in lines]
        said.add("\n".join(lines))
    (text,) = said
    assert text.startswith(f"error: {name}")


@pytest.mark.parametrize(("flag", "value"), [("--notify-url", "http://x/q"), ("--endpoint", "mns:x")])
def test_submit_refuses_the_settings_that_it_takes_as_others_do(cli: Cli, flag: str, value: str) -> None:
    """The queue and the address of a submission are settings too: wrong ones are exit code 78."""
    ran = cli("submit", "--function", "Cover", flag, value)
    assert ran.code == 78
    assert f"error: {flag[2:].replace('-', '_')} (command line): expected " in ran.err
    assert ran.out == ""


@pytest.mark.parametrize(
    "argv",
    [
        ["jobs", "list", "--limit", "-1"],
        ["jobs", "list", "--state", "asleep"],
        ["jobs", "list", "--since", "yesterday"],
        ["dead-letters", "list", "--reason", "bad"],
        ["dead-letters", "show", "0"],
        ["dead-letters", "replay"],
        ["queue", "peek", "--count", "99"],
        ["submit", "--function", "Co ver"],
        ["run", "--set", "slots"],
        ["run", "--nonsense"],
        ["nonsense"],
    ],
    ids=" ".join,
)
def test_a_wrong_word_of_a_command_is_usage(cli: Cli, argv: list[str]) -> None:
    """What is no setting is a word of the command alone: exit code 2."""
    assert cli(*argv).code == 2
