"""Secrets: no rendered line has one, in any spelling, whole or cut."""

from __future__ import annotations

import io
import json
import logging
import time
import timeit
from collections.abc import Iterable, Iterator, Mapping
from urllib.parse import quote, quote_plus

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from consumer.ops import logs
from consumer.ops.logs import TEXT_LIMIT, processors, render
from consumer.ops.sanitize import MASK, MIN_LENGTH, SECRETS, Secrets, json_escaped
from tests.untraced import untraced

KEY = "LTAI5tQhexample0123456789secret"
TOKEN = "CAIS/wF1q6Ft5B2yfSjIr5fk+example=="

# A secret of asterisks looks like the mask.
SECRET = st.text(st.characters(exclude_categories=(), exclude_characters="*"), min_size=MIN_LENGTH, max_size=40)


def as_rendered(texts: Iterable[str]) -> Iterator[bytes]:
    """Each text as a line may hold it: as it is, or escaped by JSON."""
    for text in texts:
        for spelling in (text, json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1]):
            yield from (form.encode("utf-8", "backslashreplace") for form in (spelling, json_escaped(spelling)))


@given(SECRET, st.text(max_size=20), st.booleans())
def test_no_secret_survives(secret: str, around: str, terminal: bool) -> None:  # noqa: FBT001  # drawn by hypothesis
    """A secret in any part of a line is written in none of its spellings."""
    secrets = Secrets()
    assert secrets.protect(secret)
    text = f"{around}{secret}{around}"
    readable = secret.encode("utf-8", "replace")
    fields = {
        "event": text,
        "text": text,
        "nested": {"list": [text, {secret: 1}]},
        "repr": repr(text),
        "repr_of_list": repr([text]),
        "object": b"x" + secret.encode("utf-8", "replace"),
        "json": json.dumps({"k": text}),
        "json_readable": json.dumps({"k": text}, ensure_ascii=False),
        "url": f"https://h/?s={quote(readable)}&t={quote_plus(readable)}&u={quote(readable, safe='')}",
        "exc_info": ValueError(text),
        "long": "x" * (TEXT_LIMIT // 2 - 3) + text + "x" * TEXT_LIMIT,
    }
    line = render(processors(secrets, terminal=terminal), "info", fields)
    assert not [pattern for pattern in as_rendered(secrets._texts) if pattern in line]
    assert secret.encode("utf-8", "surrogatepass") not in line
    if not terminal:
        assert line.count(b"\n") == 1


@pytest.mark.parametrize("around", ["", "'", '"', "'\""], ids=["bare", "single", "double", "both"])
@pytest.mark.parametrize("secret", ["pass'word", 'pass"word', "pa's\"s\\word", "päss\nwörd"])
def test_quoted(secret: str, around: str) -> None:
    """A secret with quotes is found in any quoting of ``repr``."""
    secrets = Secrets()
    secrets.protect(secret)
    for text in (repr(around + secret), json.dumps(around + secret)):
        line = render(processors(secrets, terminal=False), "info", {"event": "x", "text": text})
        assert "word" not in json.loads(line)["text"]
        assert "wörd" not in json.loads(line)["text"]
        assert MASK.encode() in line


class Unreadable(Mapping[str, object]):
    """A mapping that can't be read."""

    def __getitem__(self, key: str) -> object:
        raise KeyError(key)

    def __iter__(self) -> Iterator[str]:
        raise OSError("gone")

    def __len__(self) -> int:
        return 1


def test_a_line_that_can_not_be_rendered() -> None:
    """A line whose fields can't be read has no secret either."""
    secrets = Secrets()
    secrets.protect(KEY)
    line = render(processors(secrets, terminal=False), "info", {"event": f"with {KEY}", "value": Unreadable()})
    assert json.loads(line)["event"] == f"with {MASK}"
    assert json.loads(line)["value"] == "<Unreadable that can't be shown>"


@given(st.from_regex(r"\A[A-Za-z0-9+/=]{8,40}\Z"))
def test_masked_lines_stay_json(secret: str) -> None:
    """A masked line is a JSON object still, with everything but the secret."""
    secrets = Secrets()
    secrets.protect(secret)
    line = render(processors(secrets, terminal=False), "info", {"event": f"got {secret}", "n": 1, "deep": [secret]})
    seen = json.loads(line)
    assert (seen["event"], seen["n"], seen["deep"]) == (f"got {MASK}", 1, [MASK])


def test_a_number_that_shows_a_secret() -> None:
    """A secret that is a number is masked where a field holds that number, and the line stays JSON."""
    secrets = Secrets()
    secrets.protect("1234567890123456")
    line = render(processors(secrets, terminal=False), "info", {"event": "x", "n": 1234567890123456, "m": None})
    assert json.loads(line)["n"] == MASK


def test_a_cut_does_not_hide_a_secret() -> None:
    """A secret across the place where a long text is cut doesn't leave its half there."""
    secrets = Secrets()
    secrets.protect(KEY)
    for at in range(TEXT_LIMIT // 2 - len(KEY), TEXT_LIMIT // 2 + 1):
        fields = {"event": "x", "body": "x" * at + KEY + "x" * 10_000}
        line = render(processors(secrets, terminal=False), "info", fields)
        assert KEY[:8].encode() not in line
        assert KEY[-8:].encode() not in line


def test_all_loggers() -> None:
    """Secrets are masked for both kinds of loggers, tracebacks included, from when they are known."""
    stream = io.StringIO()
    logs.configure(stream=stream)
    SECRETS.protect(KEY)
    SECRETS.protect(TOKEN, slot="lane.token")
    structlog.get_logger().info("called", authorization=f"MNS x:{KEY}")
    logging.getLogger("credentials").error("token %s", TOKEN)
    try:
        int(f"bad key {KEY}")
    except ValueError:
        logging.getLogger("asyncio").exception("task failed")
    seen = stream.getvalue()
    assert KEY not in seen
    assert TOKEN not in seen
    assert seen.count(MASK) == 3


def test_changing_secrets() -> None:
    """Of a value that changes the newest two stay protected; what was protected for good stays so."""
    secrets = Secrets()
    secrets.protect("password-for-good")
    for number in range(100):
        secrets.protect(f"token-{number:04}", slot="token")
        secrets.protect(f"token-{number:04}", slot="token")
    assert secrets.mask("password-for-good token-0097 token-0098 token-0099") == "*** token-0097 *** ***"
    assert len(secrets._texts) == 3


def test_short_values() -> None:
    """A value too short to be a secret is refused, so that lines stay readable."""
    secrets = Secrets()
    assert not secrets.protect("")
    assert not secrets.protect("x" * (MIN_LENGTH - 1))
    assert secrets.mask("xxxxx") == "xxxxx"


def test_longest_first() -> None:
    """A secret within another doesn't leave the rest of the longer one."""
    secrets = Secrets()
    secrets.protect("secret")
    secrets.protect("secret-and-more")
    assert secrets.mask("secret-and-more") == MASK
    assert secrets.redact(None, "info", {"a": "secret-and-more"}) == {"a": MASK}


@pytest.mark.parametrize("known", [0, 3, 12])
def test_cost_of_looking(known: int) -> None:
    """Looking for a daemon's few secrets takes about a microsecond a line (bound: 20, for slow machines)."""
    secrets = Secrets()
    for number in range(known):
        secrets.protect(f"{TOKEN}{number}")
    event: dict[str, object] = {f"job_id{number}": "88c6ca184c0e47098a5b665e2a126797" for number in range(7)}

    def looked() -> None:
        secrets.redact(None, "info", event)

    with untraced():
        best_s = min(timeit.repeat(looked, timer=time.process_time, number=2_000, repeat=5)) / 2_000
    print(f"{known} secrets: {best_s * 1e6:.2f} us")  # noqa: T201  # the figure is wanted in the test's output
    assert best_s < 20e-6
