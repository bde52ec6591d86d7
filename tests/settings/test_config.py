"""Rules of the settings: which place wins, what is refused and how it is told, lanes, secrets, the state folder."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from consumer import file_safety, settings_sources
from consumer.config import LaneSettings, QueueSettings, Settings, load
from consumer.errors import ExitCode, SettingsError
from consumer.policy import LeasePolicy, RetryPolicy, UnroutedPolicy

Toml = Callable[[str], Path]
Credentials = Callable[[str, str], Path]

A = "mns://1234.mns.cn-hangzhou.aliyuncs.com/queues/a"
B = "mns://1234.mns.cn-hangzhou.aliyuncs.com/queues/b"
KEYS = {"access_key_id": "LTAI-ID", "access_key_secret": "hunter2"}


def problems(flags: dict[str, Any] | None = None, path: Path | None = None) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load(flags or {}, path)
    assert caught.value.exit_code is ExitCode.SETTINGS
    return list(caught.value.problems)


PLACES = ["flag", "environment", "file variable", "credentials directory", "run secrets", "settings file", "default"]
"""The places of settings, the strongest first."""


@pytest.mark.parametrize(
    ("places", "strongest"),
    [(PLACES[at:], place) for at, place in enumerate(PLACES)]
    + [([place, "default"], place) for place in PLACES[:-1]]
    + [(["environment", "settings file"], "environment"), (["flag", "run secrets"], "flag")],
    ids=lambda value: value if isinstance(value, str) else "+".join(value),
)
def test_the_strongest_place_wins(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, toml: Toml, places: list[str], strongest: str
) -> None:
    """The value of the strongest place counts; ``PLACES`` is the order that README documents."""
    values = {place: 10 + at for at, place in enumerate(PLACES)} | {"default": 64}
    folders = {"credentials directory": tmp_path / "credentials", "run secrets": tmp_path / "secrets"}
    for place, folder in folders.items():
        folder.mkdir()
        if place in places:
            (folder / "mns_consumer_slots").write_text(f"{values[place]}\n", encoding="utf-8")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(folders["credentials directory"]))
    monkeypatch.setattr(settings_sources, "RUN_SECRETS", folders["run secrets"])
    if "environment" in places:
        monkeypatch.setenv("MNS_CONSUMER_SLOTS", str(values["environment"]))
    elif "file variable" in places:
        file = tmp_path / "slots.txt"
        file.write_text(str(values["file variable"]), encoding="utf-8")
        monkeypatch.setenv("MNS_CONSUMER_SLOTS_FILE", str(file))
    path = toml(f"slots = {values['settings file']}") if "settings file" in places else None
    assert load({"slots": values["flag"]} if "flag" in places else {}, path).slots == values[strongest]


def test_a_value_and_a_file_for_one_setting_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Which of the two is meant is not clear, so it is an error; an empty variable counts as not set."""
    file = tmp_path / "slots.txt"
    file.write_text("3", encoding="utf-8")
    monkeypatch.setenv("MNS_CONSUMER_SLOTS", "4")
    monkeypatch.setenv("MNS_CONSUMER_SLOTS_FILE", str(file))
    assert problems() == [
        "MNS_CONSUMER_SLOTS and MNS_CONSUMER_SLOTS_FILE are both set; expected one of them",
    ]
    monkeypatch.setenv("MNS_CONSUMER_SLOTS", "")
    assert load({}).slots == 3
    monkeypatch.setenv("MNS_CONSUMER_SLOTS", "4")
    monkeypatch.setenv("MNS_CONSUMER_SLOTS_FILE", "")
    assert load({}).slots == 4


def test_a_setting_whose_name_ends_in_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """``MNS_CONSUMER_CA_FILE`` is the setting ``ca_file`` itself; a file that holds its value is ``..._FILE_FILE``."""
    monkeypatch.setenv("MNS_CONSUMER_CA_FILE", "/etc/ca.pem")
    assert load({}).ca_file == Path("/etc/ca.pem")
    monkeypatch.delenv("MNS_CONSUMER_CA_FILE")
    (tmp_path / "ca.txt").write_text("/etc/other.pem\n", encoding="utf-8")
    monkeypatch.setenv("MNS_CONSUMER_CA_FILE_FILE", str(tmp_path / "ca.txt"))
    assert load({}).ca_file == Path("/etc/other.pem")


@pytest.mark.parametrize("mode", [0o646, 0o664])
def test_a_file_that_a_variable_names_is_checked_like_any_other(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, mode: int
) -> None:
    """A secret file that others can change is refused, and a bad value in it is reported with its path."""
    file = tmp_path / "slots.txt"
    file.write_text("many", encoding="utf-8")
    monkeypatch.setenv("MNS_CONSUMER_SLOTS_FILE", str(file))
    assert problems()[0].startswith(f"slots ({file}): expected a valid integer")
    file.chmod(mode)
    assert problems()[0].startswith(f"slots: {file}: expected that only root and user ")
    file.unlink()
    assert problems() == [f"slots ({file}): can't be read: No such file or directory"]


def test_every_setting_may_come_from_a_file_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Lists and lanes are written in a secret file as in the environment."""
    monkeypatch.setattr(settings_sources, "RUN_SECRETS", tmp_path)
    (tmp_path / "mns_consumer_notify_url").write_text(f"{A}\n", encoding="utf-8")
    (tmp_path / "mns_consumer_lanes").write_text(json.dumps([{"notify_url": B, "slots": 2}]), encoding="utf-8")
    (tmp_path / "mns_consumer_access_key_id").write_text("LTAI-ID", encoding="utf-8")
    (tmp_path / "mns_consumer_access_key_secret").write_text("hunter2", encoding="utf-8")
    assert [(lane.url.queue, lane.slots) for lane in load({}).all_lanes()] == [("a", 64), ("b", 2)]


def test_places_add_up(monkeypatch: pytest.MonkeyPatch, toml: Toml, credentials: Credentials) -> None:
    """A place that does not name a setting leaves it to the weaker ones; foreign files beside the keys do no harm."""
    credentials("mns_consumer_access_key_secret", "hunter2\n")
    credentials("some-other-service.pem", "x")
    monkeypatch.setenv("MNS_CONSUMER_ACCESS_KEY_ID", "LTAI-ID")
    settings = load({"slots": 2}, toml("wait_s = 5"))
    assert settings.access_key_secret is not None
    assert settings.access_key_secret.get_secret_value() == "hunter2"
    assert (settings.slots, settings.wait_s) == (2, 5)


def test_the_environment_names_the_file(monkeypatch: pytest.MonkeyPatch, toml: Toml, tmp_path: Path) -> None:
    """``MNS_CONSUMER_CONFIG`` names the settings file, unless the command line names another; empty names none."""
    monkeypatch.setenv("MNS_CONSUMER_CONFIG", str(toml("slots = 7")))
    assert load({}).slots == 7
    other = tmp_path / "other.toml"
    other.write_text("slots = 8", encoding="utf-8")
    assert load({}, other).slots == 8
    monkeypatch.setenv("MNS_CONSUMER_CONFIG", "")
    assert load({}).slots == 64


@pytest.mark.parametrize(
    "text",
    [f"{A},{B}", f"{A}, {B}", f" {A}\n{B} ", f"{A},{B},"],
    ids=["comma", "comma and blank", "lines", "last comma"],
)
def test_lists_of_the_environment(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """A list in the environment is separated by commas or blanks, with no quoting and no JSON."""
    monkeypatch.setenv("MNS_CONSUMER_NOTIFY_URL", text)
    monkeypatch.setenv("MNS_CONSUMER_HANDLER_MODULES", "a.b,c")
    monkeypatch.setenv("MNS_CONSUMER_ADMIN_ALLOWED_HOSTS", "films, .svc.cluster.local")
    settings = load({})
    assert settings.notify_url == (A, B)
    assert settings.handler_modules == ("a.b", "c")
    assert settings.admin_allowed_hosts == ("films", ".svc.cluster.local")


def test_empty_variables_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty variable, as service files have it, leaves the default in force."""
    monkeypatch.setenv("MNS_CONSUMER_SLOTS", "")
    monkeypatch.setenv("MNS_CONSUMER_NOTIFY_URL", "")
    assert (load({}).slots, load({}).notify_url) == (64, ())


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("slotz = 3", "slotz ({path}): no such setting; did you mean slots?"),
        ("qqqqqq = 3", "qqqqqq ({path}): no such setting; see the table of settings in the README"),
        ('_env_file = "x"', "_env_file ({path}): no such setting"),
        ('_secrets_dir = "x"', "_secrets_dir ({path}): no such setting"),
        (f'[[lanes]]\nnotify_url = "{A}"\nslotz = 3', "lanes.0.slotz ({path}): no such setting; did you mean slots?"),
    ],
    ids=["near", "far", "a switch of the reader", "another switch", "in a lane"],
)
def test_unknown_keys_of_the_file(toml: Toml, text: str, told: str) -> None:
    """An unknown key stops the start with its place and the nearest name that there is."""
    path = toml(text)
    (line,) = problems({}, path)
    assert line.startswith(told.format(path=path))


def test_unknown_flags_and_variables_are_told_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every unknown name of every place is told at once, with the values beside it left out."""
    monkeypatch.setenv("MNS_CONSUMER_ACCESS_KEY_SECRT", "hunter2")
    told = problems({"slotz": 3})
    assert told == [
        "MNS_CONSUMER_ACCESS_KEY_SECRT (environment): no such setting; did you mean MNS_CONSUMER_ACCESS_KEY_SECRET?",
        "slotz (command line): no such setting; did you mean slots?",
    ]
    assert problems() == told[:1]


@pytest.mark.parametrize(
    "name",
    [
        "MNS_CONSUMER_SERVICE_HOST",
        "MNS_CONSUMER_SERVICE_PORT",
        "MNS_CONSUMER_SERVICE_PORT_METRICS",
        "MNS_CONSUMER_PORT",
        "MNS_CONSUMER_PORT_9464_TCP",
        "MNS_CONSUMER_PORT_9464_TCP_ADDR",
    ],
)
def test_what_kubernetes_sets_for_a_service_of_our_name_is_let_pass(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A Service named mns-consumer puts such variables into every pod; they are no mistyped settings."""
    monkeypatch.setenv(name, "tcp://10.0.0.1:9464")
    assert load({}).slots == 64


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        ({"slots": 0}, ("slots (command line): expected greater than or equal to 1", "got '0'")),
        ({"slots": "many"}, ("slots (command line): expected a valid integer", "got 'many'")),
        ({"wait_s": 31}, ("wait_s (command line): expected less than or equal to 30", "got '31'")),
        ({"retry_base_s": "nan"}, ("retry_base_s (command line): expected", "got 'nan'")),
        ({"log_level": "loud"}, ("log_level (command line): expected 'debug', 'info'", "got 'loud'")),
        ({"unrouted": "keep"}, ("unrouted (command line): expected 'set_aside' or 'drop'", "got 'keep'")),
        ({"admin_port": 65_536}, ("admin_port (command line): expected less than or equal to 65535", "got '65536'")),
        (
            {"admin_allowed_hosts": ["http://films"]},
            ("admin_allowed_hosts (command line): expected names without scheme and port", "not 'http://films'"),
        ),
        ({"mps_rate": 101}, ("mps_rate (command line): expected less than or equal to 100", "got '101'")),
        ({"endpoint": "ftp://h"}, ("endpoint (command line): expected http://HOST:PORT", "got 'ftp://h'")),
        ({"endpoint": "http://h/path"}, ("endpoint (command line): expected http://HOST:PORT", "without a path")),
        (
            {"endpoint": "http://h:70000"},
            ("endpoint (command line): expected http://HOST:PORT", "got 'http://h:70000'"),
        ),
        ({"notify_url": ["http://h/q"]}, ("notify_url (command line): NotifyUrl 'http://h/q' is not", "mns://ACCOUNT")),
        (
            {"lanes": [{"notify_url": "x"}]},
            ("lanes.0.notify_url (command line): NotifyUrl 'x' is not", "mns://ACCOUNT"),
        ),
        ({"lanes": [{"slots": 2}]}, ("lanes.0.notify_url (command line): ", "required")),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_values(flags: dict[str, Any], parts: tuple[str, ...]) -> None:
    """A bad value gives one line with the setting, the place, what was expected and what came."""
    (line,) = problems(flags)
    for part in parts:
        assert part in line


def test_bad_values_say_where_they_stood(monkeypatch: pytest.MonkeyPatch, toml: Toml) -> None:
    """Each bad value is told with its own place, all of them at once."""
    monkeypatch.setenv("MNS_CONSUMER_WAIT_S", "long")
    path = toml("max_polls = 0")
    told = problems({"slots": 0}, path)
    assert len(told) == 3
    for start in (f"max_polls ({path}): ", "slots (command line): ", "wait_s (environment MNS_CONSUMER_WAIT_S): "):
        assert [line for line in told if line.startswith(start)], (start, told)


def test_a_bad_value_of_the_credentials_directory_is_told_with_it(credentials: Credentials) -> None:
    """A bad value from the credentials directory is not blamed on the environment."""
    folder = credentials("mns_consumer_slots", "many")
    (line,) = problems()
    assert line.startswith("slots (")
    assert str(folder) in line


def test_broken_json_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lanes in the environment are JSON; what does not parse is told without its text."""
    monkeypatch.setenv("MNS_CONSUMER_LANES", '[{"access_key_secret": "hunter2"')
    assert problems() == ["lanes (environment MNS_CONSUMER_LANES): expected JSON, an array of objects"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        pytest.param(None, "can't be read: No such file", id="missing"),
        pytest.param(b"slots = ", "is not TOML: ", id="no TOML"),
        pytest.param(b"a = '\xff'", "is not TOML: ", id="no UTF-8"),
    ],
)
def test_a_broken_settings_file(tmp_path: Path, content: bytes | None, said: str) -> None:
    """A settings file that can't be read or parsed is told with its path."""
    path = tmp_path / "broken.toml"
    if content is not None:
        path.write_bytes(content)
    (line,) = problems({}, path)
    assert line.startswith(f"settings file {path} {said}")


@pytest.mark.parametrize(
    ("flags", "told"),
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
def test_settings_that_contradict_each_other(flags: dict[str, Any], told: list[str]) -> None:
    """Values that are fine alone and wrong together give one line for each contradiction."""
    assert problems(flags) == told


def test_values_that_just_agree() -> None:
    """Equal times are no contradiction."""
    settings = load(
        {"max_hold_s": 60, "lease_step_s": 60, "handler_timeout_s": 60, "retry_base_s": 9, "retry_cap_s": 9}
    )
    assert settings.lease == LeasePolicy(step_s=60, max_s=60)
    assert settings.retry == RetryPolicy(max_failures=10, base_s=9, cap_s=9)
    assert settings.unrouted is UnroutedPolicy.SET_ASIDE


def test_a_lane_has_its_own(toml: Toml) -> None:
    """A lane uses its own slots, endpoints and keys; what it leaves out is the daemon's."""
    own = f'[[lanes]]\nnotify_url = "{B}"\nslots = 3\nendpoint = "http://127.0.0.1:1/"\n'
    own += 'access_key_id = "OTHER"\naccess_key_secret = "swordfish"\n'
    path = toml(
        f'notify_url = "{A}"\nslots = 5\naccess_key_id = "ID"\naccess_key_secret = "S"\nsecurity_token = "T"\n{own}'
    )
    plain, lane = load({}, path).all_lanes()
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
def test_which_endpoint_holds(of_daemon: dict[str, str], of_lane: dict[str, str], mns: str | None, mps: str) -> None:
    """A lane's endpoint beats the daemon's, that beats the NotifyUrl's; MPS follows MNS unless it has its own."""
    (lane,) = load({**of_daemon, "lanes": [{"notify_url": A, **of_lane}]}).all_lanes()
    assert lane.endpoint == (mns or lane.url.endpoint)
    assert lane.mps_endpoint == mps


def test_lanes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lanes can be given as JSON in the environment."""
    monkeypatch.setenv("MNS_CONSUMER_LANES", json.dumps([{"notify_url": A, "slots": 2}]))
    assert [(lane.url.queue, lane.slots) for lane in load({}).all_lanes()] == [("a", 2)]


def test_no_secret_in_a_repr() -> None:
    """Neither keys nor the database's password show when settings are printed or logged."""
    lane = {"notify_url": A, "access_key_id": "LANE-ID", "access_key_secret": "swordfish"}
    settings = load({**KEYS, "security_token": "TOKEN", "store": "postgresql://u:opensesame@h/db", "lanes": [lane]})
    shown = repr(settings) + str(settings) + repr(settings.all_lanes()) + repr(settings.lanes)
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
    """Whatever is wrong with a setting that may hold a secret, the error does not repeat it."""
    told = problems(flags)
    assert told
    assert "hunter2" not in "\n".join(told)


def test_the_store_is_where_it_was_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The setting wins, then the service manager's first state folder, then the user's own."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert Path(str(load({}).store_target())).name == "mns-consumer.db"
    assert Path(str(load({}).store_target())).is_relative_to(tmp_path)
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/one:/var/lib/two")
    assert str(load({}).store_target()) == "/var/lib/one/mns-consumer.db"
    assert str(load({"store": "postgresql://h/db"}).store_target()) == "postgresql://h:5432/db"


def test_every_setting_is_described() -> None:
    """Each field says what it is, for the tables and for ``--help``."""
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


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
def test_entry_points_are_switched_or_listed(
    monkeypatch: pytest.MonkeyPatch, toml: Toml, text: str, value: object
) -> None:
    """All, none or a list: in the environment and on the command line as text, in a file also as TOML says it."""
    monkeypatch.setenv("MNS_CONSUMER_HANDLER_ENTRY_POINTS", text)
    assert load({}).handler_entry_points == value
    monkeypatch.delenv("MNS_CONSUMER_HANDLER_ENTRY_POINTS")
    assert load({"handler_entry_points": text}).handler_entry_points == value
    written = json.dumps(value)
    assert load({}, toml(f"handler_entry_points = {written}")).handler_entry_points == value


def test_anything_else_for_entry_points_is_told() -> None:
    """A value that is neither switch nor list gives one line."""
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
def test_plain_http_to_elsewhere_must_be_allowed(endpoint: str, name: str, in_lane: bool) -> None:  # noqa: FBT001 - a parameter
    """An unencrypted endpoint off this machine stops the start, unless the setting says that it is meant."""
    flags: dict[str, Any] = {"lanes": [{"notify_url": A, name: endpoint}]} if in_lane else {name: endpoint}
    (told,) = problems(flags)
    assert told.startswith(f"{'lanes.0.' if in_lane else ''}{name}: expected https://, got {endpoint}")
    assert "allow_insecure_endpoint = true" in told
    assert load({**flags, "allow_insecure_endpoint": "true"}).allow_insecure_endpoint


def test_an_endpoint_of_one_command_is_checked_too() -> None:
    """What a command gives a lane beside the settings is held to the same rule."""
    own = LaneSettings.model_construct(notify_url=A, mps_endpoint="http://10.0.0.1:1")
    with pytest.raises(SettingsError, match="allow_insecure_endpoint"):
        QueueSettings(settings=own, of=load({}))
    assert QueueSettings(settings=own, of=load({"allow_insecure_endpoint": True})).mps_endpoint == "http://10.0.0.1:1"


@pytest.mark.parametrize("level", ["file", "folder"])
def test_a_settings_file_that_others_can_change_is_refused(toml: Toml, level: str) -> None:
    """Whoever may write the settings runs code as the daemon: the file and its folder must be closed."""
    path = toml("slots = 3")
    changed = path if level == "file" else path.parent
    changed.chmod(changed.stat().st_mode | 0o020)
    (told,) = problems({}, path)
    assert told.startswith(f"settings file {changed}: expected that only root and user ")
    assert f"run `chmod go-w {changed}`" in told


@pytest.mark.parametrize("level", ["file", "folder"])
def test_a_credential_that_others_can_change_is_refused(credentials: Credentials, level: str) -> None:
    """The same holds for the service manager's folder and each file that is read from it."""
    folder = credentials("mns_consumer_slots", "3")
    changed = folder if level == "folder" else folder / "mns_consumer_slots"
    changed.chmod(changed.stat().st_mode | 0o002)
    (told,) = problems()
    assert told.startswith(f"slots: {changed}: expected that only root and user ")


def test_what_systemd_mounts_is_taken(credentials: Credentials) -> None:
    """A folder of 0500 with files of 0400 or, where an access list gives the service its right, 0440."""
    folder = credentials("mns_consumer_access_key_id", "LTAI-ID")
    credentials("mns_consumer_access_key_secret", "hunter2")
    (folder / "mns_consumer_access_key_id").chmod(0o400)
    (folder / "mns_consumer_access_key_secret").chmod(0o440)
    folder.chmod(0o500)
    secret = load({}).access_key_secret
    assert secret is not None
    assert secret.get_secret_value() == "hunter2"


@pytest.fixture
def open_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everybody may pass the folders above the test's own, which pytest closes."""
    steps = file_safety._steps

    def opened(path: Path) -> Iterator[tuple[Path, os.stat_result]]:
        for step, found in steps(path):
            above = stat.S_ISDIR(found.st_mode) and tmp_path.is_relative_to(step)
            yield step, os.stat_result((found.st_mode | 0o001, *found[1:])) if above else found

    monkeypatch.setattr(file_safety, "_steps", opened)


@pytest.mark.usefixtures("open_way")
@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ('access_key_id = "a"\naccess_key_secret = "hunter2"', "access_key_secret"),
        ('store = "postgresql://u:hunter2@h/d"', "store"),
        (f'[[lanes]]\nnotify_url = "{A}"\naccess_key_id = "a"\naccess_key_secret = "hunter2"', "lanes"),
    ],
    ids=["key", "store", "lane"],
)
def test_a_settings_file_with_a_secret_is_not_for_everybody(toml: Toml, text: str, secret: str) -> None:
    """A secret that every user of the machine can read stops the start; the group may read it."""
    path = toml(text)
    path.chmod(0o644)
    (told,) = problems({}, path)
    assert told.startswith(
        f"settings file {path} holds {secret}, and every user of this machine can read it; run `chmod"
    )
    assert "hunter2" not in told
    path.chmod(0o640)
    load({}, path)
    path.write_text("slots = 3", encoding="utf-8")
    path.chmod(0o644)
    assert load({}, path).slots == 3


@pytest.mark.usefixtures("open_way")
def test_a_credential_that_everybody_can_read_is_refused(credentials: Credentials) -> None:
    """A secret in the service manager's folder is for the service alone; another setting may be read by all."""
    folder = credentials("mns_consumer_slots", "3")
    assert load({}).slots == 3
    credentials("mns_consumer_security_token", "hunter2")
    path = folder / "mns_consumer_security_token"
    path.chmod(0o644)
    assert problems() == [f"security_token: every user of this machine can read {path}; run `chmod o-r {path}`"]


def test_lanes_and_empty_files_of_the_credentials_directory(credentials: Credentials) -> None:
    """Lanes in a file are JSON; an empty file leaves its setting as it is; what is no text or JSON is told by name."""
    credentials("mns_consumer_slots", "\n")
    folder = credentials("MNS_CONSUMER_LANES", json.dumps([{"notify_url": A, "slots": 2}]))
    assert [lane.slots for lane in load({}).all_lanes()] == [2]
    credentials("MNS_CONSUMER_LANES", '[{"access_key_secret": "hunter2"')
    assert problems() == [f"lanes ({folder}/MNS_CONSUMER_LANES): expected JSON, an array of objects"]
    (folder / "MNS_CONSUMER_LANES").write_bytes(b"\xff")
    assert problems() == [f"lanes ({folder}/MNS_CONSUMER_LANES): expected UTF-8 text"]


def test_a_credentials_directory_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A mistyped folder stops the start instead of leaving the keys out."""
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path / "nowhere"))
    (told,) = problems()
    assert "nowhere can't be read: No such file" in told
