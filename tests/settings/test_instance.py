"""Commands find the settings, the keys and the store of the daemons that systemd runs on this machine."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from consumer import instance
from consumer.cli.main import main
from consumer.cli.options import SettingsFlags
from consumer.config import Settings
from consumer.errors import ConsumerError, SettingsError
from consumer.store_address import SqliteAddress

ROOT = Path(__file__).resolve().parents[2]
URL = "mns://1234567890123456.mns.cn-hangzhou.aliyuncs.com/queues/{}"


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without any daemon."""
    monkeypatch.setattr(instance, "SETTINGS_FOLDER", tmp_path / "etc")
    monkeypatch.setattr(instance, "STATE_FOLDER", tmp_path / "var")
    monkeypatch.setattr(instance, "RUNTIME_FOLDER", tmp_path / "run")
    for name in ("RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR", "MNS_CONSUMER_CONTROL_SOCKET"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "etc").mkdir(mode=0o755)
    return tmp_path


def set_up(machine: Path, name: str) -> None:
    """Set a daemon up as the documentation says."""
    (machine / "etc" / f"{name}.toml").write_text(f'notify_url = ["{URL.format(name)}"]\n', encoding="utf-8")
    keys = machine / "etc" / ("credentials" if name == instance.PLAIN else f"{name}.credentials")
    keys.mkdir(mode=0o700)
    for setting in ("access_key_id", "access_key_secret"):
        file = keys / setting
        file.write_text(f"{name} {setting}\n", encoding="utf-8")
        file.chmod(0o600)


def found(name: str | None = None, **flags: object) -> Settings:
    """The settings of a command."""
    return SettingsFlags(flags, None, name).load()


def test_the_units_keep_their_files_there() -> None:
    """The units name the same files, folders and state as the commands look for."""
    for unit, name in (("mns-consumer.service", instance.PLAIN), ("mns-consumer@.service", "%i")):
        text = (ROOT / "systemd" / unit).read_text(encoding="utf-8")
        said = instance._instance(name)
        etc, state, run = Path("/etc/mns-consumer"), Path("/var/lib"), Path("/run")
        assert re.findall("--config (.*)", text) == [str(etc / said.settings_file.name)]
        assert re.findall("LoadCredential=mns_consumer:(.*)", text) == [str(etc / said.credentials.name)]
        assert [state / one for one in re.findall("StateDirectory=(.*)", text)] == [state / said.store.parent.name]
        assert [run / one for one in re.findall("RuntimeDirectory=(.*)", text)] == [run / said.socket.parent.name]
        assert re.findall("ExecReload=.* reload --instance (.*)", text) == [name]


def test_the_only_daemon_is_found(machine: Path) -> None:
    """Without any flag the settings, keys and store are those of the one daemon of the machine."""
    set_up(machine, instance.PLAIN)
    settings = found()
    assert settings.queues()[0].url.queue == instance.PLAIN
    assert settings.access_key_id is not None
    assert settings.access_key_id.get_secret_value() == "mns-consumer access_key_id"
    assert settings.store_address() == SqliteAddress(machine / "var" / "mns-consumer" / "mns-consumer.db")


def test_one_of_several_is_named(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several daemons one is named; without a name the command says which there are, and nothing is guessed."""
    set_up(machine, "films")
    set_up(machine, "songs")
    settings = found("films")
    assert settings.queues()[0].url.queue == "films"
    assert settings.store_address() == SqliteAddress(machine / "var" / "mns-consumer-films" / "mns-consumer.db")
    with pytest.raises(
        SettingsError, match="several daemons are set up here: films, songs; say which: --instance NAME"
    ):
        found()
    for name in ("books", "../films", "a/b", ""):
        with pytest.raises(SettingsError, match=f"--instance {re.escape(repr(name))}: .* known: films, songs"):
            found(name)
    monkeypatch.setenv("MNS_CONSUMER_SLOTS", "7")
    assert (found("films").slots, found("films", slots=8).slots) == (7, 8)


@pytest.mark.parametrize("given", ["flag", "variable", "unit", "run"])
def test_what_is_given_is_not_mixed_with_a_daemons_files(
    machine: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    """A command with a setting of its own, a unit, and a daemon that is about to run take no other daemon's files."""
    set_up(machine, instance.PLAIN)
    flags: dict[str, object] = {}
    match given:
        case "flag":
            flags = {"slots": 7}
        case "variable":
            monkeypatch.setenv("MNS_CONSUMER_SLOTS", "7")
        case "unit":
            monkeypatch.setenv("STATE_DIRECTORY", str(machine))
    settings = SettingsFlags(flags, None).load(for_run=given == "run")
    assert (settings.queues(), settings.access_key_id) == ([], None)
    assert machine / "var" not in Path(str(settings.store_address())).parents


def test_a_store_that_the_settings_name(machine: Path) -> None:
    """A store of the settings file or of the credentials is stronger than the state folder."""
    set_up(machine, "films")
    file = machine / "etc" / "films.credentials" / "mns_consumer_store"
    file.write_text("postgresql://u:pw@db.example/x", encoding="utf-8")
    file.chmod(0o600)
    assert str(found("films").store_address()).startswith("postgresql://")


def test_keys_that_only_root_reads(machine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A user who may not read the keys' folder gets one line that says so."""
    set_up(machine, instance.PLAIN)
    folder = machine / "etc" / "credentials"
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    assert main(["jobs", "list"]) == 78
    error = capsys.readouterr().err
    assert "the folder of credentials" in error
    assert "run this as root" in error
    assert error.count("\n") == 1


def test_a_stray_variable_is_a_warning(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A variable that is like no setting is a warning; one that misspells a setting is an error."""
    monkeypatch.setenv("MNS_CONSUMER_TEAM_CONTACT", "films@example.com")
    assert found().strays == ["MNS_CONSUMER_TEAM_CONTACT"]
    assert "warning: MNS_CONSUMER_TEAM_CONTACT is set, and no setting has this name" in capsys.readouterr().err
    monkeypatch.setenv("MNS_CONSUMER_SLOTZ", "3")
    with pytest.raises(SettingsError, match=r"MNS_CONSUMER_SLOTZ .*: no such setting; did you mean MNS_CONSUMER_SLOTS"):
        found()


def test_the_running_daemon_is_found(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its socket is that of the name, of the settings file even if that is wrong, of the variables, of the only one."""
    with pytest.raises(ConsumerError, match="no daemon runs: looked for "):
        instance.find_socket(None)
    set_up(machine, "films")
    assert instance.find_socket(None) == machine / "run" / "mns-consumer-films" / "control.sock"
    assert found("films").socket_path() == instance.find_socket("films")
    set_up(machine, "songs")
    with pytest.raises(SettingsError, match="say which: --instance NAME"):
        instance.find_socket(None)
    (machine / "etc" / "songs.toml").write_text('control_socket = "/run/s"\nno_setting = 1\n', encoding="utf-8")
    assert instance.find_socket("songs") == Path("/run/s")
    own = machine / "mns-consumer" / "control.sock"
    own.parent.mkdir()
    own.touch()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(machine))
    assert instance.find_socket(None) == own
    monkeypatch.setenv("MNS_CONSUMER_CONTROL_SOCKET", "/run/x")
    assert instance.find_socket(None) == Path("/run/x")
    monkeypatch.delenv("MNS_CONSUMER_CONTROL_SOCKET")
    monkeypatch.setenv("RUNTIME_DIRECTORY", "/run/mns-consumer-songs")
    assert instance.default_socket() == Path("/run/mns-consumer-songs/control.sock")


def test_no_daemon_is_one_line(machine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where none runs, both commands end with 1 and one line that says where they looked."""
    set_up(machine, "films")
    for command in ("status", "reload"):
        assert main([command]) == 1
        assert capsys.readouterr().err == (
            f"error: no daemon runs: none listens on {machine / 'run' / 'mns-consumer-films' / 'control.sock'}\n"
        )


def test_a_daemon_left_aside_is_named(
    machine: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A setting that names no place still turns the search off, and a warning says so and what to say."""
    found(log_level="info")
    assert capsys.readouterr().err == ""
    set_up(machine, "films")
    monkeypatch.setenv("MNS_CONSUMER_LOG_LEVEL", "info")
    assert found().queues() == []
    assert capsys.readouterr().err == (
        "warning: log_level given, so nothing is taken from the installed daemon films; say --instance films\n"
    )
    found("films")
    found(store=str(machine / "other.db"))
    SettingsFlags({}, None).load(for_run=True)
    assert capsys.readouterr().err == ""
    set_up(machine, "songs")
    found(slots=7)
    assert "log_level, slots given, " in (err := capsys.readouterr().err)
    assert "daemon films or songs; say --instance NAME" in err
