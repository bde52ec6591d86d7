"""The rules of the house, checked in every file: floors, public face, SDKs, sandbox, sizes, names, words.

Imports inside functions, under ``TYPE_CHECKING`` and by ``import_module("...")`` count like any other. ``breach`` has
the rules about imports; the first tests show that it finds each violation.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).resolve().parents[1]
FLOORS: Final = {
    "__main__": 11,
    "cli": 10,
    "app": 8,
    "daemon": 8,
    "status": 8,
    "engine": 7,
    "submissions": 6,
    "replay": 5,
    "public": 8,
    "client": 8,
    "plugin": 4,
    "store": 3,
    "cloud": 3,
    "ops": 3,
    "functions": 2,
    "message": 2,
    "config": 1,
    "errors": 1,
    "file_safety": 1,
    "instance": 1,
    "job_state": 1,
    "notify_url": 1,
    "policy": 1,
    "rights": 1,
    "setting_problems": 1,
    "setting_values": 1,
    "settings_sources": 1,
    "store_address": 1,
}
SDKS: Final = ("mns", "alibabacloud", "aliyun", "darabonba", "Tea")
MOST_LINES: Final = 500
"""A longer module is rarely one idea."""
MOST_FUNCTION_LINES: Final = 60
BANNED_NAMES: Final = frozenset({"utils", "util", "base", "common", "helpers", "helper", "misc"})
DIALECT: Final = {
    r"knock(s|ed|ing)?\b": "probe",
    r"\bdice\b": "jitter",
    r"\bpacing\b": "backoff",
    r"\bgate\b": "circuit breaker",
    r"\badrift\b": "ORPHANED",
    r"\b(\w+_)?book\b": "ledger",
    # The name of the system's account, in quotes, is allowed.
    r"\b(some|every|any)body\b|(?<!\")\bnobody\b|\bwhoever\b": "who it is: a client, a process, an operator",
    r"\bso (many|long)\b": "the number",
    r"\btold\b|\btells?\b|\btelling\b": "logged, said, given, named, shown",
    r"\binsist": "raise, require",
    r"\bgo again\b|\bgood names?\b|\bno news\b|\bhad better\b|\bat hand\b": "what it means, in plain words",
    r"^Elsewhere:": "nothing: where things are stands in consumer/README.md and in package docstrings",
}
"""Words that a reader has to guess, and what to write instead."""
ANY_DIALECT: Final = re.compile(rf"\b(?:{'|'.join(DIALECT)})", re.IGNORECASE | re.MULTILINE)
"""Finds texts with any of them in one search; each pattern matches from the begin of a word."""


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def files() -> list[Path]:
    return sorted([*(ROOT / "consumer").rglob("*.py"), *(ROOT / "handlers").rglob("*.py")])


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(source: str | ast.Module, module: str, *, is_package: bool = False) -> Iterator[tuple[int, str]]:
    """Every import of a source, as line and dotted name; ``from a import b`` gives ``a.b``."""
    home = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(ast.parse(source) if isinstance(source, str) else source):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = home[: len(home) - node.level + 1] if node.level else []
            start = ".".join([*above, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{start}.{alias.name}") for alias in node.names)
        else:
            match node:
                case ast.Call(
                    func=ast.Name(id="import_module" | "__import__") | ast.Attribute(attr="import_module"),
                    args=[ast.Constant(value=str(target)), *_],
                ):
                    yield node.lineno, target


def part_of(dotted: str) -> str | None:
    """The part of ``consumer`` that a name belongs to; ``None`` for a name of no module."""
    parts = dotted.split(".")
    known = len(parts) > 1 and (parts[1] in FLOORS or parts[1] == "sandbox")
    return parts[1] if known else None


def breach(module: str, target: str) -> str | None:
    """The rule that an import breaks, ``None`` for none."""
    root, to = module.partition(".")[0], target.partition(".")[0]
    if to.startswith(SDKS) and not (module.startswith("consumer.cloud.") or to == "mns_consumer"):
        return "only consumer/cloud imports an SDK"
    if root == "handlers":
        if to == "handlers":
            return "a handler imports no other handler"
        return "a handler imports only mns_consumer" if to == "consumer" else None
    if to in {"handlers", "mns_consumer"}:
        return f"consumer never imports {to}"
    if to != "consumer" or module == "consumer":
        return None
    here, there = part_of(module), part_of(target)
    if here is None or there is None:
        return "consumer itself exports no name"
    if here == "sandbox":
        return None if there in {"sandbox", "job_state", "functions"} else "the sandbox imports nothing of the daemon"
    if there == "sandbox":
        return None if here == "cli" else "only the command line imports the sandbox"
    if FLOORS[there] > FLOORS[here]:
        return "imports never point up"
    both_packages = all((ROOT / "consumer" / part).is_dir() for part in (here, there))
    if FLOORS[there] == FLOORS[here] and here != there and both_packages:
        return "imports never point sideways"
    return None


@pytest.mark.parametrize(
    ("module", "source", "rule"),
    [
        pytest.param("consumer.store.x", "from consumer.engine import outcome", "up", id="up"),
        pytest.param("consumer.message.x", "import consumer.cloud.mns", "up", id="up by plain import"),
        pytest.param(
            "consumer.store.x", "def f():\n    from consumer.cloud.mns import Q", "sideways", id="in a function"
        ),
        pytest.param("consumer.ops.x", "if TYPE_CHECKING:\n    import consumer.store.open", "sideways", id="for types"),
        pytest.param("consumer.cloud.x", "from ..engine import poll", "up", id="relative"),
        pytest.param("consumer.cloud.x", "import_module('consumer.app')", "up", id="by name"),
        pytest.param("consumer.policy", "import consumer.message.notification", "up", id="from the lowest floor"),
        pytest.param("consumer.cloud.x", "from consumer import Job", "exports no name", id="a name of the root"),
        pytest.param("consumer.engine.x", "from mns.account import Account", "SDK", id="an SDK outside cloud"),
        pytest.param("handlers.x", "import alibabacloud_tea_openapi", "SDK", id="an SDK in a handler"),
        pytest.param(
            "consumer.cli.x", "from handlers.cover import CoverResult", "never imports", id="handlers by name"
        ),
        pytest.param("handlers.x", "from handlers.cover import CoverResult", "no other", id="handler to handler"),
        pytest.param("handlers.x", "from . import cover", "no other", id="handler to handler, relative"),
        pytest.param("handlers.x", "from consumer.errors import Fault", "only mns_consumer", id="behind the face"),
        pytest.param("handlers.x", "from consumer import Job", "only mns_consumer", id="the implementation's name"),
        pytest.param("consumer.cli.x", "from mns_consumer import Job", "never imports", id="the face from inside"),
        pytest.param("consumer.sandbox.x", "from consumer.errors import Fault", "nothing of", id="sandbox to daemon"),
        pytest.param("consumer.engine.x", "from consumer.sandbox import Sandbox", "only the command", id="to sandbox"),
    ],
)
def test_a_wrong_import_is_found(module: str, source: str, rule: str) -> None:
    """Each kind of wrong import is found, at every place in a file."""
    found = [breach(module, target) for _, target in imports(source, module)]
    assert [text for text in found if text is not None and rule in text], found


@pytest.mark.parametrize(
    ("module", "source"),
    [
        pytest.param("consumer.cli.x", "from consumer.sandbox import Sandbox", id="command line to sandbox"),
        pytest.param("consumer.cloud.clients", "from consumer.config import QueueSettings", id="cloud to settings"),
        pytest.param("consumer.cloud.x", "from mns.account import Account", id="cloud to SDK"),
        pytest.param("consumer.config", "from consumer.errors import SettingsError", id="module to module of a floor"),
        pytest.param("consumer.daemon", "from consumer.app import App", id="daemon to app"),
        pytest.param("handlers.x", "from mns_consumer import Job, handler\nimport structlog", id="handler to face"),
        pytest.param("consumer.store.x", "from . import ledger", id="within a package"),
    ],
)
def test_a_right_import_breaks_no_rule(module: str, source: str) -> None:
    """Imports that point down, stay inside a package or use the public face break no rule."""
    found = list(imports(source, module))
    assert found
    assert [breach(module, target) for _, target in found] == [None] * len(found)


def test_imports_point_down() -> None:
    """No file imports upwards, sideways, an SDK, the sandbox or a handler that it must not."""
    wrong = []
    for path in files():
        module = name_of(path)
        found = imports(parsed(path), module, is_package=path.name == "__init__.py")
        checked = [(line, target, breach(module, target)) for line, target in found]
        wrong += [f"{path}:{line} {target}: {rule}" for line, target, rule in checked if rule]
    assert wrong == []


def test_nothing_below_app_takes_the_settings() -> None:
    """Below ``app`` a module gets a ``Policy``, a queue's settings or a value, never all settings and their secrets."""
    settings = {"consumer.config", "consumer.config.Settings", "consumer.config.load"}
    below = [path for path in files() if FLOORS.get(part_of(name_of(path)) or "", 0) < FLOORS["app"]]
    found = {path: {target for _, target in imports(parsed(path), name_of(path))} for path in below}
    assert [path for path, targets in found.items() if targets & settings and path.stem != "config"] == []


def test_only_the_settings_parse_the_stores_address() -> None:
    """Every other module gets the address as a value."""
    parser = "consumer.store_address.parse_store_address"
    found = {name_of(path) for path in files() if parser in {t for _, t in imports(parsed(path), name_of(path))}}
    assert found == {"consumer.setting_values"}


def test_every_part_has_a_floor() -> None:
    """Every module and folder directly in consumer/ is on a floor, so that no new one escapes the rules."""
    inside = {path.stem for path in (ROOT / "consumer").iterdir() if path.suffix == ".py"}
    inside |= {path.relative_to(ROOT / "consumer").parts[0] for path in (ROOT / "consumer").glob("*/**/*.py")}
    assert inside - {"__init__"} == {*FLOORS, "sandbox"}


def test_single_modules_of_one_floor_have_no_import_cycle() -> None:
    """Modules that may import each other sideways do so in one direction only."""
    edges = {
        part: {
            part_of(target)
            for _, target in imports((ROOT / "consumer" / f"{part}.py").read_text(encoding="utf-8"), f"consumer.{part}")
            if target.startswith("consumer.")
        }
        for part in FLOORS
        if (ROOT / "consumer" / f"{part}.py").is_file()
    }
    while leaves := [part for part, onto in edges.items() if not onto & edges.keys()]:
        for part in leaves:
            del edges[part]
    assert edges == {}


@pytest.mark.parametrize("path", [p for p in files() if p.name == "__init__.py"], ids=lambda p: p.parent.name)
def test_init_files_only_hand_names_on(path: Path) -> None:
    """An ``__init__.py`` has a docstring, imports and ``__all__``."""
    first, *rest = parsed(path).body
    assert isinstance(first, ast.Expr), "a docstring opens the file"
    for node in rest:
        match node:
            case ast.Import() | ast.ImportFrom():
                pass
            case ast.Assign(targets=[ast.Name(id="__all__")]):
                pass
            case _:
                pytest.fail(f"{path}:{node.lineno}: {ast.unparse(node)[:80]} is more than handing a name on")


def test_sizes_and_names() -> None:
    """No file and no function is too long, and no module has a name that says nothing."""
    for path in files():
        text = path.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= MOST_LINES, path
        assert BANNED_NAMES.isdisjoint(path.relative_to(ROOT).with_suffix("").parts), path
        functions = [n for n in ast.walk(parsed(path)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
        sizes = {node.name: (node.end_lineno or 0) - node.lineno + 1 for node in functions}
        assert {name: size for name, size in sizes.items() if size > MOST_FUNCTION_LINES} == {}, path


def test_a_class_name_means_one_thing() -> None:
    """No two classes of the package have the same name; the sandbox models the services and has its own."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in files():
        if "sandbox" not in path.parts:
            for node in ast.walk(parsed(path)):
                if isinstance(node, ast.ClassDef):
                    found[node.name].append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert {name: places for name, places in found.items() if len(places) > 1} == {}


def dialect(text: str) -> list[str]:
    """Every word of the dialect in a text, with its line and what to write instead."""
    if not ANY_DIALECT.search(text):
        return []
    return [
        f"{number}: {match[0]!r}: write {instead}"
        for number, line in enumerate(text.splitlines(), 1)
        for word, instead in DIALECT.items()
        if (match := re.search(word, line, re.IGNORECASE))
    ]


def pages() -> list[Path]:
    """The pages for people."""
    return [
        ROOT / "README.md",
        *sorted((ROOT / "consumer").rglob("*.md")),
        *sorted((ROOT / ".github").glob("*.md")),
    ]


def test_the_dialect_is_found() -> None:
    """Each word is found as a word, and not inside another one."""
    assert dialect("plain\nit knocks so long, somebody told") == [
        "2: 'knocks': write probe",
        "2: 'somebody': write who it is: a client, a process, an operator",
        "2: 'so long': write the number",
        "2: 'told': write logged, said, given, named, shown",
    ]
    assert dialect("bookkeeping, retold, gateway, stolden, at handlers, tellers") == []
    assert dialect("line\nElsewhere: in another module") != []
    assert dialect('user = "nobody"') == []


def test_the_words_are_plain() -> None:
    """Code, comments, messages and pages use the words of the glossary."""
    for path in [*files(), *pages()]:
        text = path.read_text(encoding="utf-8")
        if path.name == "__init__.py":
            text = text.replace("Elsewhere:", "")
        assert dialect(text) == [], path


def test_the_tests_words_are_plain() -> None:
    """The tests, the benchmark and the chaos suite use them too; this file has the words that it forbids."""
    paths = [path for suffix in ("py", "c", "sh") for path in sorted((ROOT / "tests").rglob(f"*.{suffix}"))]
    found = {path: dialect(path.read_text(encoding="utf-8")) for path in paths if path != Path(__file__)}
    assert {str(path.relative_to(ROOT)): words for path, words in found.items() if words} == {}


@pytest.mark.parametrize("path", pages(), ids=lambda path: str(path.relative_to(ROOT)))
def test_pages_show_the_public_face_alone(path: Path) -> None:
    """The Python that a page shows imports the program as its users do; ``consumer`` is the implementation."""
    text = path.read_text(encoding="utf-8")
    shown = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    found = [target for source in shown for _, target in imports(source, "page")]
    assert [target for target in found if target.partition(".")[0] in {"consumer", "handlers"}] == []


def loaded_by(statement: str) -> set[str]:
    """The modules that a fresh process holds after a statement."""
    code = f"{statement}\nimport sys\nprint(*sys.modules, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_sandbox_stands_alone() -> None:
    """Importing the sandbox in a fresh process loads nothing of the daemon and no SDK."""
    loaded = loaded_by("import consumer.sandbox")
    own = {name for name in loaded if name.startswith("consumer.")}
    assert "consumer.sandbox.server" in own
    assert {part_of(name) for name in own} <= {"sandbox", "job_state", "functions"}
    assert {name for name in loaded if name.partition(".")[0].startswith(SDKS)} == set()


def test_the_face_alone_loads_nothing() -> None:
    """Importing ``consumer`` loads none of its parts."""
    assert {name for name in loaded_by("import consumer") if name.startswith("consumer.")} == set()


def test_a_handler_loads_only_what_a_handler_sees() -> None:
    """Importing a handler's file loads the face and what stands below it, nothing that runs the daemon."""
    loaded = loaded_by("import handlers.cover, mns_consumer.functions")
    assert "consumer.plugin.handler" in loaded
    assert {part_of(name) for name in loaded if name.startswith("consumer.")} <= {
        "plugin",
        "functions",
        "errors",
        "policy",
    }
