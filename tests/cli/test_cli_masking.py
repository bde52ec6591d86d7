"""Operators' commands print no secret of the settings, also if it was stored before it was known."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from consumer.ops import sanitize
from tests.cli.letters_rig import fill, letter, record

Cli = Callable[..., Any]
SECRET = "swordfish+hunter/2"
PLAIN = json.dumps({"JobId": "J", "UserData": f"key={SECRET}"}).encode()
BODIES = (PLAIN, base64.b64encode(PLAIN), b"\xff" + SECRET.encode(), b'{"clean": 1}')


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key in the settings; what other tests know is not known here."""
    monkeypatch.setattr(sanitize.SECRETS, "_fixed", set())
    monkeypatch.setattr(sanitize.SECRETS, "_texts", ())
    monkeypatch.setenv("MNS_CONSUMER_ACCESS_KEY_ID", "LTAI")
    monkeypatch.setenv("MNS_CONSUMER_ACCESS_KEY_SECRET", SECRET)


@pytest.fixture
def store(tmp_path: Path) -> str:
    """Letters and a job that were stored with the secret in every text and body."""
    target = str(tmp_path / "ledger.db")
    letters = [letter(str(number), body, error=f"refused {SECRET}") for number, body in enumerate(BODIES)]
    letters = [replace(one, traceback=f"Traceback: {SECRET}\nat {SECRET!r}") for one in letters]
    done = replace(record("done"), user_data=f"key={SECRET}", result=json.dumps([SECRET]), message=SECRET)
    fill(target, letters, [done])
    return target


@pytest.mark.parametrize(
    "argv",
    [
        ["dead-letters", "list"],
        ["dead-letters", "list", "--json"],
        *[["dead-letters", "show", str(number), *flags] for number in (1, 2, 3) for flags in ([], ["--json"])],
        ["jobs", "list"],
        ["jobs", "list", "--json"],
        ["jobs", "show", "J-done"],
        ["jobs", "show", "J-done", "--json"],
    ],
    ids=" ".join,
)
def test_nothing_shown_holds_a_secret(cli: Cli, store: str, argv: list[str]) -> None:
    """Tables, fields, JSON and decoded bodies have the mask in place of the secret, also in base64."""
    ran = cli(*argv, "--store", store)
    assert ran.code == 0
    assert "***" in ran.out
    assert SECRET not in ran.out
    assert SECRET not in ran.out.replace("\\/", "/")
    for word in ran.out.replace('"', " ").split():
        if len(word) > 20 and word.isascii():
            assert SECRET.encode() not in decoded(word)


def decoded(word: str) -> bytes:
    try:
        return base64.b64decode(word)
    except ValueError:
        return b""


def test_a_body_without_a_secret_is_shown_whole(cli: Cli, store: str) -> None:
    """Only a body with a secret is shown without its bytes."""
    found = json.loads(cli("dead-letters", "show", "4", "--json", "--store", store).out)
    assert found["body"] == '{"clean": 1}'
    for number in ("2", "3"):
        hidden = json.loads(cli("dead-letters", "show", number, "--json", "--store", store).out)
        assert hidden["body_base64"] is None
        assert "***" in hidden["body"]


def test_an_export_keeps_the_bytes_and_masks_the_texts(cli: Cli, store: str) -> None:
    """A body can be sent again from its copy, so its bytes are as they are; every text beside it is masked."""
    lines = [json.loads(line) for line in cli("dead-letters", "export", "--store", store).out.splitlines()]
    assert [base64.b64decode(line.pop("body_base64")) for line in lines] == list(BODIES)
    assert SECRET not in json.dumps(lines)
    assert all(line["error"] == "refused ***" for line in lines)
