"""The command line as a whole: help, version, exit codes, plain lines instead of tracebacks."""

from __future__ import annotations

import ast
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NoReturn

import pytest
import typer

from consumer.cli import main as main_module
from consumer.cli.options import SettingsFlags, parse_assignments, takes_settings
from consumer.config import Settings, info_of
from consumer.errors import ConsumerError, SettingsError, StoreBusyError, UsageError

Cli = Callable[..., Any]

URL: Final = "mns://1234567890123456.mns.cn-hangzhou.aliyuncs.com/queues/jobs"
COMMANDS = (
    "run",
    "check",
    "demo",
    "sandbox",
    "submit",
    "functions",
    "jobs",
    "dead-letters",
    "queue",
    "store",
    "migrate",
)


def test_version(process: Cli) -> None:
    """A process prints the version in one line."""
    ran = process("--version")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith("mns-consumer ")


def test_help_names_every_command(cli: Cli) -> None:
    """The help lists every command and an example."""
    ran = cli("--help")
    assert ran.code == 0
    assert all(f" {command} " in ran.out for command in COMMANDS)
    assert "mns-consumer demo" in ran.out


@pytest.mark.parametrize("command", [*COMMANDS, "jobs run"])
def test_help_of_each_command(cli: Cli, command: str) -> None:
    """Each command explains itself."""
    ran = cli(*command.split(), "--help")
    assert ran.code == 0
    assert "Usage: mns-consumer" in ran.out


@pytest.mark.parametrize("command", main_module._COMMANDS, ids=lambda command: command.name)
def test_help_line_of_each_command(command: Any) -> None:
    """The line for a command that is not loaded is the first line of its own help."""
    loaded = main_module._LazyCommand(command).load()
    assert " ".join(loaded.help.split("\n\n")[0].split()) == command.help


def test_every_reading_command_prints_json() -> None:
    """Each command that reads takes ``--json``; those without it write files, serve, or print what is no record."""
    commands = [main_module._LazyCommand(command) for command in main_module._COMMANDS]
    without = {
        row.name
        for row, command in zip(main_module._COMMANDS, commands, strict=True)
        if not any("--json" in parameter.opts for parameter in command.load().params)
    }
    serving = {"run", "jobs run", "demo", "sandbox"}
    writing = {"dead-letters export", "store backup", "migrate"}
    assert without == {*serving, *writing, "docs", "manifests"}


def test_no_command_is_a_call_for_help(process: Cli) -> None:
    """Without a command the help is shown, and that is a wrong command line."""
    ran = process()
    assert ran.code == 2
    assert "Usage: mns-consumer" in ran.out + ran.err
    assert "Traceback" not in ran.err


def test_imports_stand_at_the_top() -> None:
    """Commands are loaded lazily in one place: few functions have imports, each for a quick ``--help``."""
    found = [
        f"{path.name}: {ast.unparse(node)}"
        for path in Path(main_module.__file__).parent.glob("*.py")
        for function in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    assert len(found) <= 6, found


COMPLETIONS: Final = {
    ("dead-letters", "re"): ["replay"],
    ("jobs", "list", "--sta"): ["--state"],
    ("jobs", "list", "--function", "Co"): ["Cover"],
    ("jobs", "list", "--queue", ""): ["1234567890123456/cn-hangzhou/jobs"],
    ("submit", "--function", "VideoC"): ["VideoClip"],
    ("run", "--set", "ret"): ["retry_base_s=", "retry_cap_s="],
    ("run", "--log-level", ""): ["debug", "info", "warning", "error"],
    ("docs", "de"): ["deploy", "dead-letters"],
}


@pytest.mark.timeout(150)
def test_completion_in_bash(tmp_path: Path) -> None:
    """After ``--install-completion`` bash completes commands, flags and values."""
    calls = "".join(f"complete_words {shlex.join(words)}\n" for words in COMPLETIONS)
    script = f"""
        mns-consumer --install-completion > /dev/null || exit 1
        . ~/.bashrc
        complete_words() {{
            COMP_WORDS=(mns-consumer "$@"); COMP_CWORD=$#
            _mns_consumer_completion mns-consumer
            echo "${{COMPREPLY[*]}}"
        }}
        {calls}
    """
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = {**os.environ, "HOME": str(tmp_path), "PATH": path, "MNS_CONSUMER_NOTIFY_URL": URL}
    ran = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=env, check=True)
    found = [line.split() for line in ran.stdout.splitlines()]
    assert (dict(zip(COMPLETIONS, found, strict=True)), ran.stderr) == (COMPLETIONS, "")


def test_completion_loads_no_client_of_the_cloud() -> None:
    """Completion of a flag's value imports neither an SDK nor an HTTP library."""
    code = (
        "import sys\nfrom consumer.cli.main import main\nmain([])\n"
        "print([name for name in sys.modules if name.split('.')[0] in"
        " {'mns', 'aiohttp', 'alibabacloud_credentials', 'alibabacloud_tea_openapi'}], file=sys.stderr)"
    )
    words = {"_MNS_CONSUMER_COMPLETE": "complete_bash", "COMP_WORDS": "mns-consumer jobs list --function ImageH"}
    env = {**os.environ, **words, "COMP_CWORD": "4"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    assert (done.stdout.split(), done.stderr.strip()) == (["ImageH2V"], "[]")


@pytest.mark.parametrize("flag", ["--version", "--help"])
def test_quick_start(flag: str) -> None:
    """Neither the version nor the help loads an HTTP library, an SDK, pydantic, a store or a command."""
    heavy = "aiohttp mns alibabacloud_credentials alibabacloud_tea_openapi pydantic structlog"
    heavy += " consumer.app consumer.config consumer.store.sqlite.database consumer.cli.daemon consumer.cli.records"
    code = (
        f"import sys\nfrom consumer.cli.main import main\nmain([{flag!r}])\n"
        f"print([name for name in {heavy.split()} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=15)
    assert done.stderr.strip() == "[]"


@pytest.mark.parametrize(
    "argv",
    [
        pytest.param(["nonsense"], id="no such command"),
        pytest.param(["run", "--nonsense"], id="no such flag"),
        pytest.param(["submit"], id="a flag is missing"),
        pytest.param(["run", "--set", "slots"], id="no assignment"),
        pytest.param(["run", "--set", "_env_file=x"], id="the reader's own switch"),
        pytest.param(["jobs", "list", "--limit", "many"], id="no number"),
    ],
)
def test_wrong_command_line(cli: Cli, argv: list[str]) -> None:
    """A wrong command line ends with 2 and says so."""
    ran = cli(*argv)
    assert ran.code == 2
    assert ran.err
    assert "Traceback" not in ran.err


@pytest.mark.parametrize(
    ("error", "code", "lines"),
    [
        pytest.param(UsageError("say x"), 2, ["error: say x"], id="usage"),
        pytest.param(SettingsError("a", "b"), 78, ["error: a", "error: b"], id="each problem is a line"),
        pytest.param(StoreBusyError("taken"), 75, ["error: taken"], id="the store has another owner"),
        pytest.param(ConsumerError("no"), 1, ["error: no"], id="anything else"),
        pytest.param(ExceptionGroup("g", [ExceptionGroup("h", [UsageError("x")])]), 2, ["error: x"], id="in a group"),
        pytest.param(KeyboardInterrupt(), 130, [], id="Ctrl-C"),
        pytest.param(SystemExit(), 0, [], id="an end without a code"),
        pytest.param(SystemExit("text"), 1, [], id="an end with a text"),
    ],
)
def test_exit_codes(
    error: BaseException, code: int, lines: list[str], cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each error's exit code, and one line for each problem."""

    def fail(**_: object) -> NoReturn:
        raise error

    monkeypatch.setattr(main_module, "app", fail)
    ran = cli("run")
    assert (ran.code, ran.err.splitlines()) == (code, lines)


def test_a_bug_is_no_plain_line(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unexpected error keeps its traceback, alone and in a group."""
    for error in (ZeroDivisionError(), ExceptionGroup("g", [UsageError("x"), ZeroDivisionError()])):

        def fail(error: Exception = error, **_: object) -> NoReturn:
            raise error

        monkeypatch.setattr(main_module, "app", fail)
        with pytest.raises(type(error)):
            cli("run")


def test_no_queue_and_no_handler(cli: Cli) -> None:
    """Without a queue and a handler it does not start, and says both at once."""
    ran = cli("run")
    assert ran.code == 78
    assert "notify_url: expected at least one queue" in ran.err
    assert "no handler found" in ran.err
    assert "Traceback" not in ran.err


def test_no_queue(cli: Cli) -> None:
    """With handlers alone it does not start either."""
    ran = cli("run", "--shipped")
    assert ran.code == 78
    assert ran.err.count("error:") == 1
    assert "--notify-url mns://ACCOUNT" in ran.err


def test_every_settings_problem_is_a_line(cli: Cli) -> None:
    """Each wrong setting has a line of its own with its name."""
    ran = cli("run", "--slots", "0", "--set", "retry_base_s=x", "--set", "nonsense=1", "--notify-url", "http://x/q")
    assert ran.code == 78
    lines = ran.err.splitlines()
    assert len(lines) == 4
    for name in ("slots", "retry_base_s", "nonsense", "notify_url"):
        assert any(line.startswith(f"error: {name}") for line in lines)


def test_a_wrong_notify_url(cli: Cli) -> None:
    """A flag that is no NotifyUrl is a wrong setting, and the line names what was expected."""
    ran = cli("run", "--shipped", "--notify-url", "http://x/q")
    assert ran.code == 78
    assert "expected a NotifyUrl, mns://ACCOUNT.mns.REGION.aliyuncs.com/queues/NAME" in ran.err


def test_a_settings_file(cli: Cli, tmp_path: Path) -> None:
    """A file is read by --config, and a flag beats it."""
    path = tmp_path / "settings.toml"
    path.write_text('slots = 0\nlog_level = "loud"\n', encoding="utf-8")
    ran = cli("run", "--config", str(path), "--slots", "3")
    assert ran.code == 78
    assert "log_level" in ran.err
    assert "slots" not in ran.err


def test_a_broken_handler_file(cli: Cli, tmp_path: Path, queue_url: Callable[[str], str]) -> None:
    """A broken handler file stops the start with its path and line."""
    (tmp_path / "broken.py").write_text("import nothing_of_this_name\n", encoding="utf-8")
    ran = cli("run", "--handlers", str(tmp_path), "--notify-url", queue_url("q"))
    assert ran.code == 78
    assert f"{tmp_path / 'broken.py'}:1" in ran.err


def test_the_flags_of_the_settings_are_those_of_their_fields() -> None:
    """A command that takes settings has the flag of each ``SettingInfo``, ``--config`` and ``--set``, and no other."""

    @takes_settings()
    def command(flags: SettingsFlags) -> None:
        """Has no flags of its own."""

    app = typer.Typer(add_completion=False)
    app.command()(command)
    parameters: Any = typer.main.get_command(app).params
    made = {"/".join((*each.opts, *each.secondary_opts)) for each in parameters}
    flags = {info.flag for field in Settings.model_fields.values() if (info := info_of(field)).flag}
    assert made - {"--help"} == {*flags, "--instance", "--config", "--set"}


@pytest.mark.parametrize(
    ("word", "advice"),
    [
        ("dlq", "dead-letters list"),
        ("retry", "dead-letters replay"),
        ("logs", "journalctl"),
        ("tail", "journalctl"),
        ("ps", "status"),
        ("list", "jobs list"),
        ("jobs retry", "dead-letters replay --job-id"),
        ("dead-letters redrive", "dead-letters replay"),
    ],
)
def test_words_of_other_tools(cli: Cli, word: str, advice: str) -> None:
    """A command by another tool's name is exit code 2, with the one that is meant."""
    ran = cli(*word.split())
    assert ran.code == 2
    assert f"no such command: {word}; " in ran.err
    assert advice in ran.err


def test_a_flag_before_its_command(cli: Cli) -> None:
    """A flag of the commands that stands before the command is refused with the order that works."""
    for words in (["--instance", "songs", "status"], ["--instance=songs", "status"]):
        ran = cli(*words)
        assert (ran.code, ran.out) == (2, "")
        assert "--instance comes after the command: mns-consumer COMMAND --instance VALUE" in ran.err


def test_a_wrong_choice(cli: Cli) -> None:
    """A word that is none of a flag's choices is refused with the choices, and in this program's words alone."""
    ran = cli("jobs", "list", "--state", "foo")
    assert (ran.code, ran.out) == (2, "")
    assert "'foo' is not one of 'running'" in ran.err
    assert "Value error" not in ran.err


def test_assignments() -> None:
    """Assignments give settings by name, as texts that the settings decode."""
    found = parse_assignments(["retry-base-s=10", "store=a=b", 'lanes=[{"slots": 1}]'])
    assert found == {"retry_base_s": "10", "store": "a=b", "lanes": '[{"slots": 1}]'}


@pytest.mark.parametrize("program", ["module", "script"])
def test_nothing_is_imported_from_the_current_folder(tmp_path: Path, program: str) -> None:
    """A file there that is named like a library is not taken in its place, neither by ``-m`` nor by the script."""
    root = Path(main_module.__file__).resolve().parents[2]
    for name in ("typer", "rich", "pydantic", "json", "platformdirs", "anyio"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('taken from the current folder')", encoding="utf-8")
    argv = (
        [sys.executable, "-m", "consumer"]
        if program == "module"
        else [str(Path(sys.executable).parent / "mns-consumer")]
    )
    for folder in (tmp_path, root):
        done = subprocess.run([*argv, "functions", "--help"], cwd=folder, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")


def test_a_checkout_runs_from_its_own_folder(tmp_path: Path) -> None:
    """A checkout that is not installed runs from its own folder, and still takes no library from there."""
    root = Path(main_module.__file__).resolve().parents[2]
    shutil.copytree(root / "consumer", tmp_path / "consumer", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "consumer" / "cli" / "functions.py").write_text(
        "def functions() -> None:\n    import sys\n    print(__file__, sys.path)\n", encoding="utf-8"
    )
    (tmp_path / "typing_extensions.py").write_text("raise SystemExit('taken')", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "consumer", "functions"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    assert done.stdout.startswith(str(tmp_path / "consumer"))
    assert f"'{tmp_path}'" not in done.stdout


@pytest.mark.parametrize("words", [["status"], ["run", "--shipped"]], ids=" ".join)
def test_ctrl_c_while_modules_are_imported(tmp_path: Path, words: list[str]) -> None:
    """Ctrl-C before the command line is loaded ends with 130 and prints nothing."""
    text = "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(9)\n"
    (tmp_path / "typer.py").write_text(text, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "consumer", *words],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_a_failed_start_is_an_error_in_the_journal(tmp_path: Path) -> None:
    """Where stderr is the journal's each line of an error has the priority of errors; elsewhere it has none."""
    for is_named in (True, False):
        with (tmp_path / "journal").open("w+", encoding="utf-8") as stderr:
            found = os.fstat(stderr.fileno())
            env = {**os.environ, "JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino if is_named else 1}"}
            command = [sys.executable, "-m", "consumer", "run", "--shipped", "--set", "slotts=1", "--slots", "0"]
            done = subprocess.run(command, stderr=stderr, env=env, check=False)
            stderr.seek(0)
            lines = stderr.read().splitlines()
        assert done.returncode == 78
        assert "error: slotts (command line): no such setting" in "".join(lines)
        assert {line.startswith("<3>error: ") for line in lines} == {is_named}
