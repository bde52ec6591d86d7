"""Where settings come from: which place wins, which files are trusted, and what errors say of a place."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from consumer import file_safety, settings_sources
from consumer.config import load
from tests.settings.rig import A, B, Credentials, Toml, problems

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
    """The value of the strongest place counts; ``PLACES`` is the order that the documentation gives."""
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
    """A setting given by value and by file is an error; an empty variable counts as not set."""
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


def test_a_setting_whose_name_ends_in_file_keeps_its_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
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
    assert problems()[0].startswith(f"slots ({file}): expected a whole number")
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
    assert [(lane.url.queue, lane.slots) for lane in load({}).queues()] == [("a", 64), ("b", 2)]


def test_places_add_up(monkeypatch: pytest.MonkeyPatch, toml: Toml, credentials: Credentials) -> None:
    """A setting that a place does not give comes from a weaker one; files of other programs are ignored."""
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
    """A list in the environment is separated by commas or blanks, without quotes or JSON."""
    monkeypatch.setenv("MNS_CONSUMER_NOTIFY_URL", text)
    monkeypatch.setenv("MNS_CONSUMER_HANDLER_MODULES", "a.b,c")
    monkeypatch.setenv("MNS_CONSUMER_ADMIN_ALLOWED_HOSTS", "films, .svc.cluster.local")
    settings = load({})
    assert settings.notify_url == (A, B)
    assert settings.handler_modules == ("a.b", "c")
    assert settings.admin_allowed_hosts == ("films", ".svc.cluster.local")


def test_an_empty_variable_counts_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """The default applies, as service files with empty variables expect."""
    monkeypatch.setenv("MNS_CONSUMER_SLOTS", "")
    monkeypatch.setenv("MNS_CONSUMER_NOTIFY_URL", "")
    assert (load({}).slots, load({}).notify_url) == (64, ())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("slotz = 3", "slotz ({path}): no such setting; did you mean slots?"),
        ("qqqqqq = 3", "qqqqqq ({path}): no such setting; see `mns-consumer docs settings`"),
        ('_env_file = "x"', "_env_file ({path}): no such setting"),
        ('_secrets_dir = "x"', "_secrets_dir ({path}): no such setting"),
        (f'[[lanes]]\nnotify_url = "{A}"\nslotz = 3', "lanes.0.slotz ({path}): no such setting; did you mean slots?"),
    ],
    ids=["near", "far", "an option of pydantic-settings", "another", "in a lane"],
)
def test_unknown_keys_of_the_file(toml: Toml, text: str, expected: str) -> None:
    """An unknown key is an error with its place and the most similar known name."""
    path = toml(text)
    (line,) = problems({}, path)
    assert line.startswith(expected.format(path=path))


def test_all_unknown_names_are_reported_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unknown flags and variables are reported together, without their values."""
    monkeypatch.setenv("MNS_CONSUMER_ACCESS_KEY_SECRT", "hunter2")
    found = problems({"slotz": 3})
    assert found == [
        "MNS_CONSUMER_ACCESS_KEY_SECRT (environment): no such setting; did you mean MNS_CONSUMER_ACCESS_KEY_SECRET?",
        "slotz (command line): no such setting; did you mean slots?",
    ]
    assert problems() == found[:1]


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
def test_variables_of_a_kubernetes_service_are_ignored(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Kubernetes sets such variables in every pod beside a Service mns-consumer; they are not misspelt settings."""
    monkeypatch.setenv(name, "tcp://10.0.0.1:9464")
    assert load({}).slots == 64


def test_each_bad_value_names_its_place(monkeypatch: pytest.MonkeyPatch, toml: Toml) -> None:
    """All bad values are reported at once, each with its own place."""
    monkeypatch.setenv("MNS_CONSUMER_WAIT_S", "long")
    path = toml("max_polls = 0")
    found = problems({"slots": 0}, path)
    assert len(found) == 3
    for start in (f"max_polls ({path}): ", "slots (command line): ", "wait_s (environment MNS_CONSUMER_WAIT_S): "):
        assert [line for line in found if line.startswith(start)], (start, found)


def test_a_bad_value_in_the_credentials_directory_names_the_file(credentials: Credentials) -> None:
    """The error names the file, not the environment."""
    folder = credentials("mns_consumer_slots", "many")
    (line,) = problems()
    assert line.startswith("slots (")
    assert str(folder) in line


def test_broken_json_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lanes in the environment are JSON; the error does not show a text that does not parse."""
    monkeypatch.setenv("MNS_CONSUMER_LANES", '[{"access_key_secret": "hunter2"')
    (line,) = problems()
    assert line.startswith("lanes (environment MNS_CONSUMER_LANES): expected a JSON array of objects: ")
    assert "hunter2" not in line


@pytest.mark.parametrize(
    ("content", "said"),
    [
        pytest.param(None, "can't be read: No such file", id="missing"),
        pytest.param(b"slots = ", "is not TOML: ", id="no TOML"),
        pytest.param(b"a = '\xff'", "is not TOML: ", id="no UTF-8"),
    ],
)
def test_a_broken_settings_file(tmp_path: Path, content: bytes | None, said: str) -> None:
    """The error for a settings file that can't be read or parsed names its path."""
    path = tmp_path / "broken.toml"
    if content is not None:
        path.write_bytes(content)
    (line,) = problems({}, path)
    assert line.startswith(f"settings file {path} {said}")


def test_lanes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lanes can be given as JSON in the environment."""
    monkeypatch.setenv("MNS_CONSUMER_LANES", json.dumps([{"notify_url": A, "slots": 2}]))
    assert [(lane.url.queue, lane.slots) for lane in load({}).queues()] == [("a", 2)]


@pytest.mark.parametrize("level", ["file", "folder"])
def test_a_settings_file_that_others_can_change_is_refused(toml: Toml, level: str) -> None:
    """Settings decide which code runs, so no other user may write to the file or its folder."""
    path = toml("slots = 3")
    changed = path if level == "file" else path.parent
    changed.chmod(changed.stat().st_mode | 0o020)
    (line,) = problems({}, path)
    assert line.startswith(f"settings file {changed}: expected that only root and user ")
    assert f"run `chmod go-w {changed}`" in line


@pytest.mark.parametrize("level", ["file", "folder"])
def test_a_credential_that_others_can_change_is_refused(credentials: Credentials, level: str) -> None:
    """The same holds for the credentials directory and each file that is read from it."""
    folder = credentials("mns_consumer_slots", "3")
    changed = folder if level == "folder" else folder / "mns_consumer_slots"
    changed.chmod(changed.stat().st_mode | 0o002)
    (line,) = problems()
    assert line.startswith(f"slots: {changed}: expected that only root and user ")


def test_credentials_as_systemd_mounts_them_are_read(credentials: Credentials) -> None:
    """Systemd makes the folder 0500 and its files 0400, or 0440 where an access list grants the service access."""
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
    """Let every user pass the folders above the test's own, which pytest closes."""
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
def test_a_settings_file_with_a_secret_must_not_be_public(toml: Toml, text: str, secret: str) -> None:
    """A secret that every user of the machine can read is an error; the group may read it."""
    path = toml(text)
    path.chmod(0o644)
    (line,) = problems({}, path)
    assert line.startswith(
        f"settings file {path} holds {secret}, and every user of this machine can read it; run `chmod"
    )
    assert "hunter2" not in line
    path.chmod(0o640)
    load({}, path)
    path.write_text("slots = 3", encoding="utf-8")
    path.chmod(0o644)
    assert load({}, path).slots == 3


@pytest.mark.usefixtures("open_way")
def test_a_public_credential_is_refused(credentials: Credentials) -> None:
    """A secret in the credentials directory must not be readable by every user; another setting may be."""
    folder = credentials("mns_consumer_slots", "3")
    assert load({}).slots == 3
    credentials("mns_consumer_security_token", "hunter2")
    path = folder / "mns_consumer_security_token"
    path.chmod(0o644)
    assert problems() == [f"security_token: every user of this machine can read {path}; run `chmod o-r {path}`"]


def test_lanes_and_empty_files_of_the_credentials_directory(credentials: Credentials) -> None:
    """Lanes in a file are JSON, an empty file counts as not set, and errors name the setting and the file."""
    credentials("mns_consumer_slots", "\n")
    folder = credentials("MNS_CONSUMER_LANES", json.dumps([{"notify_url": A, "slots": 2}]))
    assert [lane.slots for lane in load({}).queues()] == [2]
    credentials("MNS_CONSUMER_LANES", '[{"access_key_secret": "hunter2"')
    (line,) = problems()
    assert line.startswith(f"lanes ({folder}/MNS_CONSUMER_LANES): expected a JSON array of objects: ")
    assert "hunter2" not in line
    (folder / "MNS_CONSUMER_LANES").write_bytes(b"\xff")
    assert problems() == [f"lanes ({folder}/MNS_CONSUMER_LANES): expected UTF-8 text"]


def test_a_missing_credentials_directory_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A misspelt folder is an error, so that keys are not silently missing."""
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path / "nowhere"))
    (line,) = problems()
    assert "nowhere can't be read: No such file" in line
