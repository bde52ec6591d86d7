"""The documentation agrees with the program: every table is made from the code, every example is run.

Where a table differs, the failure prints the expected one, ready to be pasted.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from enum import Enum, StrEnum
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_origin

import pytest
from pydantic.fields import FieldInfo

from consumer import policy, rights
from consumer.cli import main as command_line
from consumer.config import LaneSettings, Settings, info_of, load, setting_fields
from consumer.errors import ExitCode
from consumer.functions.catalogue import documented
from consumer.functions.face_beauty import BeautyParams
from consumer.ops.metrics import OTHER, Metrics
from consumer.plugin.registry import Sources, discover
from consumer.policy import Reason
from consumer.sandbox import Fault, control
from consumer.sandbox.faults import Kind
from consumer.sandbox.jobs import JobOrders
from consumer.settings_sources import variable

ROOT: Final = Path(__file__).resolve().parents[1]
README: Final = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES: Final = [ROOT / "README.md", *sorted((ROOT / "consumer" / "docs").glob("*.md"))]
"""What users read."""
TEXT: Final = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
MOST_LINES: Final = 200
DEMO: Final = (
    "python3 -m venv .venv && .venv/bin/pip install --quiet --require-hashes --only-binary :all: "
    "-r .build/constraints.txt && .venv/bin/pip install --quiet --require-hashes --no-build-isolation "
    "--only-binary :all: --no-binary alibabacloud-tea -r constraints.txt && .venv/bin/pip install --quiet --no-deps "
    "--no-build-isolation . && .venv/bin/mns-consumer demo"
)
TESTS: Final = "bash tests/run.sh"

Row = tuple[str, ...]


def section(heading: str) -> str:
    """The text under a heading, up to the next chapter."""
    match = re.search(rf"^(#+) {re.escape(heading)}$(.*?)(?=^#{{1,2}} |\Z)", TEXT, re.MULTILINE | re.DOTALL)
    assert match, f"no page has a heading {heading!r}"
    return match[2]


def rows_of(heading: str) -> list[Row]:
    """The rows of the first table under a heading, its head first, its rule left out."""
    rows: list[Row] = []
    for line in section(heading).splitlines():
        if line.startswith("|"):
            rows.append(tuple(cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]))
        elif rows:
            break
    assert len(rows) > 2, f"no page has a table under {heading!r}"
    return [rows[0], *rows[2:]]


def written(rows: Iterable[Row]) -> str:
    head, *rest = rows
    lines = [head, tuple("---" for _ in head), *rest]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def code(text: object) -> str:
    return f"`{text}`"


def listed(values: Iterable[object]) -> str:
    return ", ".join(code(value) for value in values)


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


# The tables, as the code has them.


def settings_table() -> Iterator[Row]:
    yield ("Setting", "Environment variable", "Flag", "Unit", "Default", "Range", "Reload", "Meaning")
    for name, field in setting_fields().items():
        info = info_of(field)
        yield (
            code(name),
            code(variable(name)),
            code(info.flag) if info.flag else "",
            info.unit,
            default(field),
            allowed(field),
            "yes" if info.reloadable else "restart",
            str(field.description),
        )


def default(field: FieldInfo) -> str:
    value = field.default
    if value is None or value == ():
        return "none"
    if isinstance(value, Enum):
        return code(value.value)
    return code(str(value).lower() if isinstance(value, bool) else value)


def allowed(field: FieldInfo) -> str:
    kind: Any = field.annotation
    if get_origin(kind) is Literal:
        return listed(get_args(kind))
    if kind is bool:
        return listed(("true", "false"))
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return listed(kind)
    bounds = {
        name: getattr(part, name) for part in field.metadata for name in ("ge", "gt", "le") if hasattr(part, name)
    }
    if not bounds:
        return ""
    low = f"from {bounds['ge']:g}" if "ge" in bounds else f"above {bounds['gt']:g}"
    return f"{low} to {bounds['le']}"


def metrics_table() -> Iterator[Row]:
    yield ("Metric", "Type", "Labels", "Help")
    for info in Metrics().catalogue:
        yield (code(info.name), info.type, listed(info.labels), info.help)


def labels_table() -> Iterator[Row]:
    yield ("Metric and label", "Words")
    for info in Metrics().catalogue:
        for label, values in info.fixed.items():
            yield (f"{code(info.name)} {code(label)}", listed(values))


def commands_table() -> Iterator[Row]:
    yield ("Command", "What it does")
    for name, text in commands(command_line.app, "mns-consumer"):
        yield (code(name), text)


def commands(command: Any, name: str) -> Iterator[tuple[str, str]]:
    """Each command that does something, with the first sentence of its help."""
    below = getattr(command, "commands", None)
    if below is None:
        yield name, " ".join(str(command.help).split("\n\n", maxsplit=1)[0].split())
        return
    for word, inner in below.items():
        yield from commands(inner, f"{name} {word}")


def exit_codes() -> dict[str, str]:
    codes = {str(int(code)): code.name for code in ExitCode}
    return codes | {str(command_line._INTERRUPTED): "INTERRUPTED"}


def reasons_table() -> Iterator[Row]:
    """The reasons with the sentences below them in the code."""
    tree = ast.parse(Path(policy.__file__).read_text(encoding="utf-8"))
    body = next(node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Reason")
    yield ("Reason", "Why the message was set aside")
    for member, sentence in itertools.pairwise(body):
        if isinstance(member, ast.Assign) and isinstance(sentence, ast.Expr):
            yield (
                code(ast.literal_eval(member.value)),
                " ".join(ast.literal_eval(sentence.value).split()).replace("``", "`"),
            )


def shipped_table() -> Iterator[Row]:
    yield ("FunctionName", "File", "Result model", "What the job does")
    registry = discover(Sources(use_entry_points=False, shipped=True))
    for function in documented():
        path = Path(registry.handlers[function.name].origin.rpartition(":")[0])
        yield (code(function.name), code(f"handlers/{path.name}"), code(function.result.__name__), function.title)


def files_table() -> Iterator[Row]:
    yield ("FunctionName", "Input", "Output", "Its parameters in Python")
    for function in documented():
        row = (code(function.name), function.input, function.output or "none", code(function.params.__name__))
        yield tuple(re.sub(r"\{\w+\}", lambda found: code(found[0]), cell) for cell in row)


def parameters_table() -> Iterator[Row]:
    """Every parameter as MPS spells it; a function without any has one row."""
    yield ("FunctionName", "Parameter", "Meaning")
    for function in documented():
        names = function.params.wire_names()
        for name, field in function.params.model_fields.items():
            yield (code(function.name), code(names[name]), str(field.description))
        if not names:
            is_open = function.params.model_config.get("extra") == "allow"
            yield (code(function.name), "any" if is_open else "none", "not documented" if is_open else "")


def beauty_table() -> Iterator[Row]:
    yield ("Name", "Meaning")
    for name, field in BeautyParams.model_fields.items():
        yield (code(name), str(field.description))


def rights_table() -> Iterator[Row]:
    """Every call with its rights and the commands that make it."""
    yield ("Call", "RAM actions", "Resource", "Needed by")
    for call, right in rights.RIGHTS.items():
        resource = right.resource.format(region="REGION", account="ACCOUNT", queue="NAME")
        commands_of = [command for command, calls in rights.COMMANDS.items() if call in calls]
        yield (code(call), listed(right.actions), code(resource), listed(commands_of))


# Of the sandbox.


def attributes_of(described: type) -> dict[str, str]:
    """The attributes that a class describes in its docstring, each with its text."""
    text = inspect.cleandoc(str(described.__doc__)).partition("Attributes:\n")[2]
    entries = re.findall(r"^ {4}(\w+): (.+(?:\n {8}.+|\n$)*)", text, re.MULTILINE)
    return {name: " ".join(words.split()).replace("``", "`") for name, words in entries}


def orders_table() -> Iterator[Row]:
    texts = attributes_of(JobOrders)
    yield ("Order", "Default", "Meaning")
    for name, field in JobOrders.model_fields.items():
        yield (code(name), default(field), texts[name])


def sandbox_flags_table() -> Iterator[Row]:
    yield ("Flag", "Default", "Meaning")
    command: Any = command_line.app
    for flag in command.commands["sandbox"].load().params:
        words = " ".join(filter(None, [*flag.opts, flag.metavar]))
        yield (code(words), "" if flag.default is None or flag.default is False else code(flag.default), flag.help)


def fault_options_table() -> Iterator[Row]:
    texts = attributes_of(Fault)
    yield ("Option", "Default", "Meaning")
    for name, field in Fault.model_fields.items():
        if name != "kind":
            yield (code(name), default(field), texts[name])


def control_table() -> Iterator[Row]:
    """The calls that the module of the control API lists."""
    yield ("Call", "What it does")
    for call, text in re.findall(r"^    ([A-Z]+ +/_sandbox/\S+) +(.+)$", str(control.__doc__), re.MULTILINE):
        yield (code(" ".join(call.split())), text)


@pytest.mark.parametrize(
    ("heading", "expected"),
    [
        pytest.param("Settings", list(settings_table()), id="settings"),
        pytest.param("Metrics", list(metrics_table()), id="metrics"),
        pytest.param("Label values", list(labels_table()), id="label values"),
        pytest.param("Commands", list(commands_table()), id="commands"),
        pytest.param("Dead-letter reasons", list(reasons_table()), id="reasons"),
        pytest.param("Shipped handlers", list(shipped_table()), id="shipped handlers"),
        pytest.param("Input and Output", list(files_table()), id="input and output"),
        pytest.param("Parameters of each function", list(parameters_table()), id="parameters"),
        pytest.param("What FaceBeauty changes", list(beauty_table()), id="beauty"),
        pytest.param("Least rights", list(rights_table()), id="least rights"),
        pytest.param("Orders", list(orders_table()), id="orders of the sandbox"),
        pytest.param("Flags of the sandbox", list(sandbox_flags_table()), id="flags of the sandbox"),
        pytest.param("Options of a fault", list(fault_options_table()), id="options of a fault"),
        pytest.param("Control API", list(control_table()), id="control API of the sandbox"),
    ],
)
def test_table_is_what_the_code_says(heading: str, expected: Sequence[Row]) -> None:
    """Each table of the documentation is, cell by cell, what the code says."""
    found = rows_of(heading)
    assert found == list(expected), f"under {heading!r} should stand:\n\n{written(expected)}\n"


def test_every_kind_of_fault_is_described() -> None:
    """The table of faults has each kind of the sandbox, in the order of the code, and no other."""
    rows = rows_of("Faults")[1:]
    assert [row[0].strip("`") for row in rows] == list(get_args(Kind))
    assert all(row[1] for row in rows)


def test_every_reason_has_a_sentence() -> None:
    """The reasons read from the source are all there are."""
    assert [row[0].strip("`") for row in list(reasons_table())[1:]] == list(Reason)


def test_shipped_handlers_are_all_files() -> None:
    """The table of shipped handlers names each of the 16 files, and no other is shipped."""
    named = {row[1].strip("`") for row in rows_of("Shipped handlers")[1:]}
    there = {f"handlers/{path.name}" for path in (ROOT / "handlers").glob("*.py")}
    assert named == there
    assert len(named) == 16


def test_exit_codes() -> None:
    """The table of exit codes has each code with its name, and no other."""
    rows = rows_of("Exit codes")[1:]
    assert {row[0].strip("`"): row[1].strip("`") for row in rows} == exit_codes()
    assert all(row[2] for row in rows)


def test_rights_name_real_commands() -> None:
    """The commands of the table of rights exist, and the page names each word of ``check --also``."""
    known = {name for name, _ in commands(command_line.app, "mns-consumer")}
    assert {f"mns-consumer {command}" for command in rights.COMMANDS} <= known
    assert [word for word in rights.ALSO if f"`--also {word}`" not in section("Least rights")] == []


def test_label_words_name_known_metrics() -> None:
    """Each row of label values names a metric and a label of the catalogue; every label of fixed words has a row."""
    fixed = {
        (info.name, label)
        for info in Metrics().catalogue
        for label in info.labels
        if label not in {"queue", "function", "operation", "version", "python"}
    }
    rows = [re.findall(r"`([^`]+)`", row[0]) for row in rows_of("Label values")[1:]]
    assert {(name, label) for name, label in rows} == fixed
    assert code(OTHER) in section("Metrics")


def test_outages_have_the_events_of_the_code() -> None:
    """The table of outages has the two log events of each circuit breaker, and no other."""
    engine = (ROOT / "consumer" / "engine").glob("*.py")
    calls = [
        [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
        for path in engine
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "Breaker"
    ]
    assert {tuple(cell.strip("`") for cell in row) for row in rows_of("Outages")[1:]} == {tuple(call) for call in calls}
    assert all(len(call) == 2 for call in calls)


def test_lane_settings() -> None:
    """Every setting that a lane may have of its own is named where lanes are described."""
    text = section("A queue with settings of its own")
    assert [name for name in LaneSettings.model_fields if code(name) not in text] == []


# The commands and the examples.


@pytest.mark.parametrize("command", [DEMO, TESTS], ids=["demo", "tests"])
def test_the_two_commands_stand_as_they_are_run(command: str) -> None:
    """Both commands are in the README, each on one line, ready to be copied."""
    assert command in README.splitlines()


def test_files_of_the_two_commands_exist() -> None:
    """The files in the two commands exist."""
    for name in ("tests/run.sh", "constraints.txt", "tests/constraints.txt"):
        assert (ROOT / name).is_file(), name


def slug(heading: str) -> str:
    """A heading's anchor, as GitHub makes it."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return {slug(heading) for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)}


@pytest.mark.parametrize(
    "page", [*PAGES, ROOT / "consumer" / "README.md", ROOT / ".github" / "CONTRIBUTING.md"], ids=lambda page: page.name
)
def test_links_lead_somewhere(page: Path) -> None:
    """Each link of a page names a file that is there, and a heading of that file."""
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]+))?\)", page.read_text(encoding="utf-8")):
        there = (page.parent / target).resolve() if target else page
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), f"{target}#{anchor}"


@pytest.mark.parametrize("page", ["consumer/README.md", ".github/CONTRIBUTING.md"])
def test_named_files_exist(page: str) -> None:
    """Each file and folder that a page for contributors names is there, seen from the project or from ``consumer``."""
    names = re.findall(r"`([a-z_./]+(?:\.py|\.md|\.toml|/))`", (ROOT / page).read_text(encoding="utf-8"))
    assert names
    assert [name for name in names if not ((ROOT / name).exists() or (ROOT / "consumer" / name).exists())] == []


def test_the_readme_is_short() -> None:
    """The README has at most 200 lines, and links to every page."""
    assert len(README.splitlines()) <= MOST_LINES
    assert [page.name for page in PAGES[1:] if f"(consumer/docs/{page.name})" not in README] == []


def test_named_commands_and_flags_exist() -> None:
    """Every ``mns-consumer`` command of a block or in a sentence exists, and every flag after it is its own."""
    known = {name.split(" ", 1)[1] for name, _ in commands(command_line.app, "mns-consumer")}
    text = "\n".join([*blocks("(?:console|sh)"), *re.findall(r"`(mns-consumer [^`]+)`", TEXT.replace("\n", " "))])
    named = re.findall(r"mns-consumer ((?:(?:jobs|queue|dead-letters|store) )?[a-z]+)([^|&\n]*)", text)
    assert len(named) > 50
    root: Any = command_line.app
    for name, arguments in named:
        assert name in known
        command = root
        for word in name.split():
            command = command.commands[word]
        flags = {flag for parameter in command.load().params for flag in (*parameter.opts, *parameter.secondary_opts)}
        assert set(re.findall(r"(?<!\S)--[a-z0-9-]+", arguments)) <= flags | {"--help"}, name


def test_settings_file_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings file of the documentation is TOML that the daemon takes."""
    for name in ("config", *Settings.model_fields):
        monkeypatch.delenv(variable(name), raising=False)
    (example,) = blocks("toml")
    path = tmp_path / "mns-consumer.toml"
    path.write_text(example, encoding="utf-8")
    settings = load({}, path)
    assert len(settings.queues()) == len(settings.notify_url) + len(tomllib.loads(example)["lanes"])


# What no file may say.


def files() -> list[Path]:
    """Every file of the project."""
    if (ROOT / ".git").exists() and shutil.which("git"):
        listing = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        return [path for name in listing.split("\0") if name and (path := ROOT / name).is_file()]
    return [path for part in ("consumer", "handlers", "tests") for path in (ROOT / part).rglob("*") if path.is_file()]


@pytest.mark.parametrize("name", ["constraints.txt", "tests/constraints.txt"])
def test_constraints_name_no_place(name: str) -> None:
    """A file of constraints names packages, versions and hashes: no host, no path, no package without a hash."""
    text = (ROOT / name).read_text(encoding="utf-8")
    assert not re.search(r"://|@ |--index|--find-links|--trusted-host|(?:^|[\s=])[/~]", text, re.MULTILINE)
    entries = [entry for entry in re.split(r"\n(?=\S)", text) if not entry.startswith("#")]
    assert len(entries) > 20
    for entry in entries:
        assert re.match(r"[a-z0-9._-]+(?:\[[a-z,]+\])?==\S+ ", entry), entry
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), entry


def test_no_file_names_a_machine() -> None:
    """No file of the tree holds a path of the machine that it was made on."""
    # Spelt so that this file does not find itself. An entity that names /etc/passwd is an attack in a test, no place.
    places = re.compile(rb"file://[/](?!etc/passwd)|(?<![\w.*{}-])/(?:work|root)[/]|/tmp[/]v")
    found = [
        f"{path.relative_to(ROOT)}: {match[0]!r}" for path in files() for match in places.finditer(path.read_bytes())
    ]
    assert found == []
