"""A secret that is given in a wrong way, or the wrong secret: no output of any command repeats it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Cli = Callable[..., Any]

CANARY = "c4n4ry-Secret/+="
QUOTED = "c4n4ry-Secret%2F%2B%3D"
URL = "mns://1234.mns.cn-hangzhou.aliyuncs.com/queues/a"
STORE = f"postgresql://u:{QUOTED}@127.0.0.1/d"
LANES = json.dumps([{"notify_url": URL, "access_key_id": "a", "access_key_secret": CANARY}])


def assert_hidden(ran: Any) -> None:
    assert ran.code != 0
    assert ran.err
    shown = ran.out + ran.err
    assert "c4n4ry" not in shown


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("access_key_secret", ["--set", f"access_key_secret={CANARY}"]),
        ("access_key_secret", [f"--set=access_key_secret={CANARY}"]),
        ("access_key_secret", ["--set", f"ACCESS-KEY-SECRET={CANARY}"]),
        ("access_key_secret", ["--set", f"access_key_secert={CANARY}"]),
        ("access_key_secret", ["--set", f"accesskeysecret={CANARY}"]),
        ("access_key_secret", ["--set", f" access_key_secret = {CANARY}"]),
        ("access_key_secret", ["--set", f"access_key_secret: {CANARY}"]),
        ("access_key_secret", ["--set", "access_key_secret", CANARY]),
        ("access_key_secret", [f"access_key_secret={CANARY}"]),
        ("access_key_secret", ["--access-key-secret", CANARY]),
        ("access_key_secret", [f"--access-key-secret={CANARY}"]),
        ("access_key_secret", ["--access-key-secert", CANARY]),
        ("security_token", ["--set", f"security_token={CANARY}"]),
        ("security_token", ["--security-token", CANARY]),
        ("store", ["--store", STORE]),
        ("store", [f"--store={STORE}"]),
        ("store", ["--set", f"store={STORE}"]),
        ("store", ["--store", f"postgresql://u@h/d?password={CANARY}"]),
        ("lanes", ["--set", f"lanes={LANES}"]),
        ("lanes", ["--set", f"lanes={LANES[:-2]}"]),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else None,
)
def test_a_secret_on_the_command_line_is_refused(cli: Cli, setting: str, words: list[str]) -> None:
    """It is refused by the setting's name with the safe ways, however it is written; nothing repeats it."""
    ran = cli("run", *words)
    assert_hidden(ran)
    assert ran.code == 2
    assert ran.err.startswith(f"error: {setting}: a secret is not taken from the command line")
    for way in (f"MNS_CONSUMER_{setting.upper()}", f"mns_consumer_{setting}", "--config", "role"):
        assert way in ran.err


@pytest.mark.parametrize("command", [["check"], ["dead-letters", "list"], ["submit", "--function", "Cover"]])
def test_no_command_takes_an_address_with_one(cli: Cli, command: list[str]) -> None:
    """An address with a password is refused as well, though these commands read it in their own way."""
    assert_hidden(cli(*command, "--endpoint", f"http://u:{QUOTED}@h"))


@pytest.mark.parametrize("command", [["check"], ["dead-letters", "list"], ["submit", "--function", "Cover"]])
def test_no_command_takes_one(cli: Cli, command: list[str]) -> None:
    """Other commands refuse it in the same way."""
    ran = cli(*command, "--access-key-secret", CANARY)
    assert_hidden(ran)
    assert ran.code == 2
    assert "not taken from the command line" in ran.err


@pytest.mark.parametrize(
    "words",
    [
        ["--set", f"={CANARY}"],
        ["--set", CANARY],
        ["--set", f"_x={CANARY}"],
        ["--set", f"lanes={CANARY}"],
        ["--set", f"secret_key={CANARY}"],
        ["--endpoint", f"https://u:{QUOTED}@h"],
        ["--endpoint", f"https://u:{CANARY}@h"],
        ["--endpoint", f"https://h?token={CANARY}"],
        ["--notify-url", f"mns://u:{QUOTED}@h/queues/a"],
    ],
)
def test_a_slip_on_the_command_line_does_not_repeat_it(cli: Cli, words: list[str]) -> None:
    """The error for a misspelt or misplaced secret has its name or its place, never the value."""
    assert_hidden(cli("run", *words))


@pytest.mark.parametrize(
    "text",
    [
        f'access_key_secret = "{CANARY}"',
        f'access_key_secert = "{CANARY}"',
        f'access_key_secret = ["{CANARY}"]',
        f'access_key_secret = "{CANARY}',
        f"access_key_secret = {CANARY}",
        f"access_key_secret: {CANARY}",
        f'access_key_secret "{CANARY}"',
        f'access_key_id = "a"\naccess_key_secret = "{CANARY}"\naccess_key_secret = "{CANARY}"',
        f'security_token = "{CANARY}"',
        f'lanes = "access_key_secret={CANARY}"',
        f'lanes = ["{CANARY}"]',
        f'[lanes]\naccess_key_secret = "{CANARY}"',
        f'[[lanes]]\naccess_key_secret = "{CANARY}"',
        f'[[lanes]]\nnotify_url = "{URL}"\naccess_key_secert = "{CANARY}"',
        f'[[lanes]]\nnotify_url = "{URL}"\nsecurity_token = {{ value = "{CANARY}" }}',
        f'[[lanes]]\nnotify_url = "{URL}"\nendpoint = "http://u:{CANARY}@h"',
        f'store = ["{STORE}"]',
        f'store = {{ url = "{STORE}" }}',
        f'slots = "{CANARY}"\nstore = 5'.replace(CANARY, "many"),
        f'mps_endpoint = "http://u:{CANARY}@h"',
    ],
)
def test_a_broken_settings_file_does_not_repeat_it(cli: Cli, tmp_path: Path, text: str) -> None:
    """Whatever is wrong with a settings file, its secrets stay in it."""
    path = tmp_path / "settings.toml"
    path.write_text(text, encoding="utf-8")
    ran = cli("run", "--config", str(path))
    assert_hidden(ran)
    assert ran.code == 78


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ACCESS_KEY_SECRET", CANARY),
        ("ACCESS_KEY_SECERT", CANARY),
        ("SECURITY_TOKEN", CANARY),
        ("LANES", LANES[:-2]),
        ("LANES", json.dumps(CANARY)),
        ("LANES", json.dumps([{"access_key_secret": [CANARY]}])),
        ("LANES", json.dumps([{"notify_url": URL, "secret": CANARY}])),
        ("ENDPOINT", f"http://u:{CANARY}@h"),
    ],
)
def test_a_wrong_value_elsewhere_does_not_repeat_it(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    """Neither the environment's nor the credentials directory's values show in an error."""
    with monkeypatch.context() as environment:
        environment.setenv(f"MNS_CONSUMER_{name}", value)
        assert_hidden(cli("run"))
    (tmp_path / f"mns_consumer_{name.lower()}").write_text(value, encoding="utf-8")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert_hidden(cli("run"))


def test_the_sandboxs_own_keys_may_be_flags(cli: Cli) -> None:
    """They are made up and known to all, and so is an id; a store without a password is no secret."""
    assert cli("sandbox", "--access-key-secret", "made-up", "--help").code == 0
    assert cli("run", "--set", "access_key_id=a", "--help").code == 0
    assert cli("run", "--store", "postgresql://u@127.0.0.1:5432/d", "--help").code == 0
