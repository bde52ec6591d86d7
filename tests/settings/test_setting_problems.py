"""What is said of a wrong setting: in this program's words, with what was expected, what came and where it stands."""

from __future__ import annotations

import re

import pytest

from consumer.config import Settings, load
from consumer.errors import SettingsError
from tests.settings.rig import A, Toml, problems

PYDANTICS_WORDS = re.compile(
    r"input should|\bvalid (integer|number|string|boolean|tuple|dictionary|list)|unable to|parse string|field required"
    r"|<class|pydantic|https://errors|type=|extra inputs|instance of|tuple\[|value error|string should",
    re.IGNORECASE,
)
IN_TOML = (
    ('slots = "many"', "slots", "expected a whole number, got 'many'"),
    ("slots = 1.5", "slots", "expected a whole number, got '1.5'"),
    ("slots = true", "slots", "expected a number, got true"),
    ("slots = [1]", "slots", "expected a whole number, got '[1]'"),
    ("slots = {a = 1}", "slots", "expected a whole number"),
    ("slots = 0", "slots", "expected a number of at least 1, got '0'"),
    ("slots = 5000", "slots", "expected a number of at most 4096, got '5000'"),
    ("dead_letters_max_bytes = 1", "dead_letters_max_bytes", "expected a number of at least 100000, got '1'"),
    ('wait_s = "soon"', "wait_s", "expected whole seconds, or a time such as 90s, 30m or 2h, got 'soon'"),
    ('wait_s = "1.5s"', "wait_s", "expected whole seconds, or a time such as 90s, 30m or 2h, got '1.5'"),
    ("wait_s = 31", "wait_s", "expected a number of at most 30, got '31'"),
    ('retry_base_s = "x"', "retry_base_s", "expected seconds, or a time such as 90s, 30m or 2h, got 'x'"),
    ('retry_base_s = "5y"', "retry_base_s", "expected seconds, or a time such as 90s, 30m or 2h, got '5y'"),
    ("retry_base_s = 0", "retry_base_s", "expected a number above 0, got '0'"),
    ("retry_base_s = nan", "retry_base_s", "expected a number above 0, got 'nan'"),
    ("retry_base_s = inf", "retry_base_s", "expected a number of at most 31536000, got 'inf'"),
    ("retry_base_s = false", "retry_base_s", "expected a number, got false"),
    ("retry_base_s = 1979-05-27", "retry_base_s", "expected seconds, or a time such as 90s, 30m or 2h"),
    ("mps_rate = 101", "mps_rate", "expected a number of at most 100, got '101'"),
    ("mps_rate = true", "mps_rate", "expected a number, got true"),
    ('mps_rate = "fast"', "mps_rate", "expected a number, got 'fast'"),
    ("admin = 3", "admin", "expected true or false, got '3'"),
    ('admin = "maybe"', "admin", "expected true or false, got 'maybe'"),
    ("admin = []", "admin", "expected true or false, got '[]'"),
    ('admin_host = ""', "admin_host", "expected a text that is not empty, got ''"),
    ("admin_host = 3", "admin_host", "expected a text, got '3'"),
    ("admin_port = 65536", "admin_port", "expected a number of at most 65535, got '65536'"),
    ("admin_port = -1", "admin_port", "expected a number of at least 0, got '-1'"),
    ('admin_allowed_hosts = ["http://x"]', "admin_allowed_hosts", "expected names without scheme and port, such as"),
    ("admin_allowed_hosts = [3]", "admin_allowed_hosts.0", "expected a text, got '3'"),
    ("notify_url = 3", "notify_url", "expected a list of texts, got '3'"),
    ("notify_url = {a = 1}", "notify_url", "expected a list of texts"),
    (f'notify_url = ["{A}", 3]', "notify_url.1", "expected a text, got '3'"),
    (
        'notify_url = "http://x"',
        "notify_url",
        "expected a NotifyUrl, mns://ACCOUNT.mns.REGION.aliyuncs.com/queues/NAME",
    ),
    ("lanes = 3", "lanes", "expected a list of tables, each with notify_url"),
    ('lanes = "x"', "lanes", "expected a JSON array of objects: Expecting value"),
    ("lanes = [3]", "lanes.0", "expected a table of settings"),
    ("[lanes]\nslots = 3", "lanes", "expected a list of tables, each with notify_url"),
    ("[[lanes]]\nslots = 3", "lanes.0.notify_url", "expected a value, got none; every entry of lanes needs it"),
    ("[[lanes]]\nnotify_url = 3", "lanes.0.notify_url", "expected a text, got '3'"),
    (f'[[lanes]]\nnotify_url = "{A}"\nslots = "x"', "lanes.0.slots", "expected a whole number, got 'x'"),
    (f'[[lanes]]\nnotify_url = "{A}"\nslots = true', "lanes.0.slots", "expected a number, got true"),
    (f'[[lanes]]\nnotify_url = "{A}"\nsignature = "v3"', "lanes.0.signature", "expected 'v2' or 'v4', got 'v3'"),
    (f'[[lanes]]\nnotify_url = "{A}"\nslot = 4', "lanes.0.slot", "no such setting; did you mean slots?"),
    (
        f'[[lanes]]\nnotify_url = "{A}"\naccess_key_id = "x"',
        "lanes.0",
        "access_key_id and access_key_secret: expected both or neither, got one of them",
    ),
    ("handlers_dir = 3", "handlers_dir", "expected a path, got '3'"),
    ('handlers_dir = ""', "handlers_dir", "expected a path, got ''"),
    ("ca_file = true", "ca_file", "expected a path, got 'true'"),
    ("control_socket = [1]", "control_socket", "expected a path, got '[1]'"),
    ('control_socket = "a\\u0000b"', "control_socket", "expected a path"),
    ("handler_modules = 3", "handler_modules", "expected a list of texts, got '3'"),
    ("handler_entry_points = 3", "handler_entry_points", "expected true, false or a list of distributions, got '3'"),
    ("handler_entry_points = [3]", "handler_entry_points", "expected true, false or a list of distributions"),
    ("handler_entry_points = {}", "handler_entry_points", "expected true, false or a list of distributions"),
    ("store = 3", "store", "expected a text, got one of another kind (int)"),
    ('store = "mysql://x"', "store", "expected a path, sqlite:///PATH (three slashes) or postgresql://"),
    ("endpoint = 3", "endpoint", "expected a text, got '3'"),
    ('endpoint = "ftp://x"', "endpoint", "expected http://HOST:PORT or https://HOST[:PORT] without a path, got 'ftp"),
    ("access_key_id = 3", "access_key_id", "expected a text"),
    ('unrouted = "keep"', "unrouted", "expected 'set_aside' or 'drop', got 'keep'"),
    ("verify = 1", "verify", "expected 'results' or 'always', got '1'"),
    ('signature = "v3"', "signature", "expected 'v2' or 'v4', got 'v3'"),
    ('log_format = "xml"', "log_format", "expected 'auto', 'json' or 'console', got 'xml'"),
    ('log_level = "loud"', "log_level", "expected 'debug', 'info', 'warning' or 'error', got 'loud'"),
    ("log_levels = 3", "log_levels", "expected a table of names and values, got '3'"),
    ('log_levels = "x"', "log_levels", 'expected a JSON object such as {"myapp": "debug"}: Expecting value'),
    ('log_levels = "[1]"', "log_levels", "expected a table of names and values, got '[1]'"),
    ('[log_levels]\nmyapp = "loud"', "log_levels.myapp", "expected 'debug', 'info', 'warning' or 'error', got 'loud'"),
    ("[log_levels]\nmyapp = 3", "log_levels.myapp", "expected 'debug', 'info', 'warning' or 'error', got '3'"),
    ("sloots = 1", "sloots", "no such setting; did you mean slots?"),
    ("zzz = 1", "zzz", "no such setting; see `mns-consumer docs settings`"),
)


@pytest.mark.parametrize(("text", "name", "said"), IN_TOML, ids=[row[0] for row in IN_TOML])
def test_wrong_settings_in_a_file(toml: Toml, text: str, name: str, said: str) -> None:
    """A wrong setting of a file is one plain line: the setting, the file, what was expected and what came."""
    path = toml(text)
    (line,) = problems({}, path)
    assert line.startswith(f"{name} ({path}): {said}")
    assert not PYDANTICS_WORDS.search(line)


def test_no_secret_is_repeated(toml: Toml) -> None:
    """A line about a setting that may hold a secret never shows what came."""
    for text in ("access_key_id = 31415", 'store = "mysql://31415"', 'lanes = "31415"', "lanes = [31415]"):
        assert not any("31415" in line for line in problems({}, toml(text)))


@pytest.mark.parametrize("written", ["3", "x", "[", "{}", "\udcff", "9" * 400, " ", "\u0663", "1e999", "-0", "\n"])
def test_any_text_for_any_setting_is_taken_or_refused_plainly(written: str) -> None:
    """No text for a setting raises anything else than an error of the settings, in plain words."""
    for name in Settings.model_fields:
        try:
            load({name: written})
        except SettingsError as error:
            for line in error.problems:
                assert name in line
                assert not PYDANTICS_WORDS.search(line)


def test_levels_take_either_case(monkeypatch: pytest.MonkeyPatch, toml: Toml) -> None:
    """Levels of loggers are read as ``log_level`` is, from a file, a variable and a flag."""
    assert load({}, toml('[log_levels]\nmyapp = "DEBUG"')).log_levels == {"myapp": "debug"}
    assert load({"log_levels": '{"myapp": "Error"}'}).log_levels == {"myapp": "error"}
    monkeypatch.setenv("MNS_CONSUMER_LOG_LEVELS", '{"myapp": "WARNING"}')
    assert load({}).log_levels == {"myapp": "warning"}
