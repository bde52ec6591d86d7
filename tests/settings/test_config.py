"""The settings: their checks, lanes, secrets and defaults."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import SecretStr

from consumer.config import LaneSettings, QueueSettings, Settings, info_of, load
from consumer.errors import SettingsError
from consumer.policy import RetryPolicy, UnroutedPolicy
from consumer.settings_sources import SECRETS
from tests.settings.rig import A, B, Toml, problems

KEYS = {"access_key_id": "LTAI-ID", "access_key_secret": "hunter2"}


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        ({"slots": 0}, ("slots (command line): expected a number of at least 1", "got '0'")),
        ({"slots": "many"}, ("slots (command line): expected a whole number", "got 'many'")),
        ({"wait_s": 31}, ("wait_s (command line): expected a number of at most 30", "got '31'")),
        ({"retry_base_s": "nan"}, ("retry_base_s (command line): expected", "got 'nan'")),
        ({"log_level": "loud"}, ("log_level (command line): expected 'debug', 'info'", "got 'loud'")),
        ({"unrouted": "keep"}, ("unrouted (command line): expected 'set_aside' or 'drop'", "got 'keep'")),
        ({"admin_port": 65_536}, ("admin_port (command line): expected a number of at most 65535", "got '65536'")),
        (
            {"admin_allowed_hosts": ["http://films"]},
            ("admin_allowed_hosts (command line): expected names without scheme and port", "got 'http://films'"),
        ),
        ({"mps_rate": 101}, ("mps_rate (command line): expected a number of at most 100", "got '101'")),
        ({"endpoint": "ftp://h"}, ("endpoint (command line): expected http://HOST:PORT", "got 'ftp://h'")),
        ({"endpoint": "http://h/path"}, ("endpoint (command line): expected http://HOST:PORT", "without a path")),
        (
            {"endpoint": "http://h:70000"},
            ("endpoint (command line): expected http://HOST:PORT", "got 'http://h:70000'"),
        ),
        (
            {"notify_url": ["http://h/q"]},
            ("notify_url (command line): expected a NotifyUrl, mns://ACCOUNT", "got 'http://h/q'"),
        ),
        (
            {"lanes": [{"notify_url": "x"}]},
            ("lanes.0.notify_url (command line): expected a NotifyUrl, mns://ACCOUNT", "got 'x'"),
        ),
        ({"lanes": [{"slots": 2}]}, ("lanes.0.notify_url (command line): expected a value", "got none")),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_values(flags: dict[str, Any], parts: tuple[str, ...]) -> None:
    """A bad value gives one line with the setting, its place, what was expected and what came."""
    (line,) = problems(flags)
    for part in parts:
        assert part in line


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (
            {"retry_base_s": 50, "retry_cap_s": 20},
            ["retry_cap_s: expected at least retry_base_s (50), got 20"],
        ),
        (
            {"max_hold_s": 100},
            ["max_hold_s: expected at least handler_timeout_s (300), got 100"],
        ),
        (
            {"max_hold_s": 50, "handler_timeout_s": 40},
            ["max_hold_s: expected at least lease_step_s (60), got 50"],
        ),
        (
            {"max_hold_s": 30, "retry_cap_s": 1},
            [
                "retry_cap_s: expected at least retry_base_s (30), got 1",
                "max_hold_s: expected at least handler_timeout_s (300), got 30",
                "max_hold_s: expected at least lease_step_s (60), got 30",
            ],
        ),
        (
            {"notify_url": [A, B, A.replace(".aliyuncs", "-internal.aliyuncs")]},
            ["notify_url: the queue 1234/cn-hangzhou/a is named 2 times; name each once"],
        ),
        (
            {"notify_url": [A], "lanes": [{"notify_url": A}]},
            ["notify_url: the queue 1234/cn-hangzhou/a is named 2 times; name each once"],
        ),
        (
            {"access_key_id": "x"},
            ["access_key_id and access_key_secret: expected both or neither, got one of them"],
        ),
        (
            {"security_token": "x"},
            ["security_token: expected access_key_id and access_key_secret beside it"],
        ),
    ],
)
def test_settings_that_contradict_each_other(flags: dict[str, Any], expected: list[str]) -> None:
    """Values that are valid alone but not together give one line for each contradiction."""
    assert problems(flags) == expected


def test_equal_times_do_not_contradict_each_other() -> None:
    """A time may equal its limit."""
    settings = load(
        {"max_hold_s": 60, "lease_step_s": 60, "handler_timeout_s": 60, "retry_base_s": 9, "retry_cap_s": 9}
    )
    assert (settings.lease_step_s, settings.max_hold_s) == (60, 60)
    assert settings.retry == RetryPolicy(max_failures=10, base_s=9, cap_s=9)
    assert settings.unrouted is UnroutedPolicy.SET_ASIDE


def test_a_lane_overrides_the_daemon(toml: Toml) -> None:
    """A lane uses its own slots, endpoints and keys, and the daemon's for what it leaves out."""
    own = f'[[lanes]]\nnotify_url = "{B}"\nslots = 3\nendpoint = "http://127.0.0.1:1/"\n'
    own += 'access_key_id = "OTHER"\naccess_key_secret = "swordfish"\n'
    path = toml(
        f'notify_url = "{A}"\nslots = 5\naccess_key_id = "ID"\naccess_key_secret = "S"\nsecurity_token = "T"\n{own}'
    )
    plain, lane = load({}, path).queues()
    assert (plain.url.queue, plain.slots) == ("a", 5)
    assert plain.endpoint == "https://1234.mns.cn-hangzhou.aliyuncs.com"
    assert plain.mps_endpoint == "https://mts.cn-hangzhou.aliyuncs.com"
    assert plain.security_token is not None
    assert plain.security_token.get_secret_value() == "T"
    assert (lane.url.queue, lane.slots) == ("b", 3)
    assert (lane.endpoint, lane.mps_endpoint) == ("http://127.0.0.1:1", "http://127.0.0.1:1")
    assert lane.access_key_id is not None
    assert lane.access_key_id.get_secret_value() == "OTHER"
    assert lane.security_token is None, "the daemon's token belongs to the daemon's key"


@pytest.mark.parametrize(
    ("of_daemon", "of_lane", "mns", "mps"),
    [
        pytest.param({}, {"mps_endpoint": "https://m:1"}, None, "https://m:1", id="lane's MPS alone"),
        pytest.param({"endpoint": "https://d:1"}, {}, "https://d:1", "https://d:1", id="daemon's for both"),
        pytest.param(
            {"endpoint": "https://d:1", "mps_endpoint": "https://m:1"},
            {},
            "https://d:1",
            "https://m:1",
            id="daemon's, each",
        ),
        pytest.param(
            {"endpoint": "https://d:1"},
            {"endpoint": "https://[::1]:9"},
            "https://[::1]:9",
            "https://[::1]:9",
            id="lane's",
        ),
    ],
)
def test_which_endpoint_applies(of_daemon: dict[str, str], of_lane: dict[str, str], mns: str | None, mps: str) -> None:
    """A lane's endpoint overrides the daemon's, that the NotifyUrl's; MPS follows MNS unless it has its own."""
    (lane,) = load({**of_daemon, "lanes": [{"notify_url": A, **of_lane}]}).queues()
    assert lane.endpoint == (mns or lane.url.endpoint)
    assert lane.mps_endpoint == mps


def test_no_secret_in_a_repr() -> None:
    """Printed or logged settings show neither keys nor the database's password."""
    lane = {"notify_url": A, "access_key_id": "LANE-ID", "access_key_secret": "swordfish"}
    settings = load({**KEYS, "security_token": "TOKEN", "store": "postgresql://u:opensesame@h/db", "lanes": [lane]})
    shown = repr(settings) + str(settings) + repr(settings.queues()) + repr(settings.lanes)
    assert [word for word in ("hunter2", "swordfish", "TOKEN", "opensesame") if word in shown] == []


@pytest.mark.parametrize(
    "flags",
    [
        {"access_key_id": "x", "access_key_secret": ["hunter2"]},
        {"access_key_secret": "hunter2"},
        {**KEYS, "security_token": {"a": "hunter2"}},
        {"lanes": [{"access_key_secret": "hunter2"}]},
        {"lanes": {"access_key_secret": "hunter2"}},
        {"lanes": [{"notify_url": A, "access_key_id": "x", "access_key_secret": ["hunter2"]}]},
        {"store": ["postgresql://u:hunter2@h/db"]},
        {"store": "postgresql://u:hunter2@h:port/db"},
        {"store": "mysql://u:hunter2@h/db"},
        {"endpoint": "http://u:hunter2@127.0.0.1:1"},
        {"acess_key_secret": "hunter2"},
    ],
    ids=[
        "key",
        "half",
        "token",
        "lane",
        "no list",
        "lane's key",
        "store",
        "store's port",
        "store's scheme",
        "endpoint",
        "misspelt",
    ],
)
def test_no_secret_in_an_error(flags: dict[str, Any]) -> None:
    """An error in a setting that may hold a secret does not show its value."""
    found = problems(flags)
    assert found
    assert "hunter2" not in "\n".join(found)


def test_the_default_store_is_in_the_state_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without a setting the store is in the service manager's first state folder, else in the user's."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert Path(str(load({}).store_address())).name == "mns-consumer.db"
    assert Path(str(load({}).store_address())).is_relative_to(tmp_path)
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/one:/var/lib/two")
    assert str(load({}).store_address()) == "/var/lib/one/mns-consumer.db"
    assert str(load({"store": "postgresql://h/db"}).store_address()) == "postgresql://h:5432/db"


def test_every_setting_is_described() -> None:
    """Each field has a description, for the documentation's table and ``--help``."""
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_a_duration_has_the_unit_of_its_name() -> None:
    """Names that end in ``_s`` are in seconds, and no other name is."""
    seconds = {name for name, field in Settings.model_fields.items() if info_of(field).unit == "s"}
    assert seconds == {name for name in Settings.model_fields if name.endswith("_s")}


def test_every_secret_setting_is_known() -> None:
    """The settings whose value is never shown are those that the command line refuses, and the key's id."""
    hidden = {name for name, field in Settings.model_fields.items() if SecretStr in get_args(field.annotation)}
    assert hidden == {*SECRETS, "access_key_id"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("No", False),
        ("0", False),
        ("films", ("films",)),
        ("films, more-films", ("films", "more-films")),
        ("films more", ("films", "more")),
    ],
)
def test_entry_points_are_a_switch_or_a_list(
    monkeypatch: pytest.MonkeyPatch, toml: Toml, text: str, value: object
) -> None:
    """All, none or a list: as text in the environment and on the command line, as text or TOML values in a file."""
    monkeypatch.setenv("MNS_CONSUMER_HANDLER_ENTRY_POINTS", text)
    assert load({}).handler_entry_points == value
    monkeypatch.delenv("MNS_CONSUMER_HANDLER_ENTRY_POINTS")
    assert load({"handler_entry_points": text}).handler_entry_points == value
    written = json.dumps(value)
    assert load({}, toml(f"handler_entry_points = {written}")).handler_entry_points == value


def test_other_values_for_entry_points_are_refused() -> None:
    """A value that is neither a switch nor a list is an error."""
    assert problems({"handler_entry_points": 5}) == [
        "handler_entry_points (command line): expected true, false or a list of distributions, got '5'"
    ]


@pytest.mark.parametrize(
    "endpoint",
    ["http://127.0.0.1:8420", "http://127.9.9.9:1", "http://localhost:1", "http://LOCALHOST", "http://[::1]:1"],
)
def test_plain_http_stays_on_this_machine(endpoint: str) -> None:
    """Loopback addresses need no encryption."""
    assert load({"endpoint": endpoint, "mps_endpoint": endpoint}).endpoint == endpoint


@pytest.mark.parametrize(
    "endpoint",
    ["http://10.0.0.1:1", "http://mns.internal", "http://localhost.evil:1", "http://0.0.0.0:1", "http://[::2]:1"],
)
@pytest.mark.parametrize("name", ["endpoint", "mps_endpoint"])
@pytest.mark.parametrize("in_lane", [False, True], ids=["daemon", "lane"])
def test_plain_http_to_another_machine_must_be_allowed(endpoint: str, name: str, in_lane: bool) -> None:  # noqa: FBT001 - a parameter
    """An unencrypted endpoint on another machine is an error unless ``allow_insecure_endpoint`` is set."""
    flags: dict[str, Any] = {"lanes": [{"notify_url": A, name: endpoint}]} if in_lane else {name: endpoint}
    (line,) = problems(flags)
    assert line.startswith(f"{'lanes.0.' if in_lane else ''}{name}: expected https://, got {endpoint}")
    assert "allow_insecure_endpoint = true" in line
    assert load({**flags, "allow_insecure_endpoint": "true"}).allow_insecure_endpoint


def test_an_endpoint_of_one_command_is_checked_too() -> None:
    """The same rule holds for an endpoint that a command gives for itself."""
    own = LaneSettings.model_construct(notify_url=A, mps_endpoint="http://10.0.0.1:1")
    with pytest.raises(SettingsError, match="allow_insecure_endpoint"):
        QueueSettings(settings=own, of=load({}))
    assert QueueSettings(settings=own, of=load({"allow_insecure_endpoint": True})).mps_endpoint == "http://10.0.0.1:1"


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("90s", 90), ("1.5m", 90), ("2h", 7200), ("1 d", 86_400)])
def test_durations(text: str, seconds: float) -> None:
    """A setting in seconds is given as a number, or with its unit, also where it is a whole number."""
    settings = load({"retry_base_s": text, "retry_cap_s": "3d", "lease_step_s": "1m"})
    assert (settings.retry_base_s, settings.lease_step_s) == (seconds, 60)


def test_levels_and_formats_in_upper_case() -> None:
    """A level or a format is taken in upper case; an error quotes another value as it was typed."""
    settings = load({"log_level": "INFO", "log_format": "JSON"})
    assert (settings.log_level, settings.log_format) == ("info", "json")
    for name in ("log_level", "log_format"):
        (problem,) = problems({name: "Loud"})
        assert "got 'Loud'" in problem


@pytest.mark.parametrize("text", ["m", "1w", "1m30s", "-1m", "\u0661m", "1e3m"])
def test_what_is_no_duration(text: str) -> None:
    """Another text is refused by name."""
    with pytest.raises(SettingsError, match=r"retry_base_s \(command line\): .*(number|seconds)"):
        load({"retry_base_s": text})
