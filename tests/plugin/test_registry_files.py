"""The drop-in folder: which files are loaded, what is refused, and that no other module is hidden."""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import json
import os
import py_compile
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from consumer.errors import ExitCode, HandlersError
from consumer.plugin import registry as registry_module
from consumer.plugin.handler import Strength
from consumer.plugin.registry import Registry, Sources, discover, forget

Write = Callable[[str, str], Path]

COVER = """
from mns_consumer import Job, handler

@handler("Cover")
async def cover(job: Job) -> None: ...
"""


def find(folder: Path, *, shipped: bool = False) -> Registry:
    return discover(Sources(directory=folder, use_entry_points=False, shipped=shipped))


def refused(folder: Path) -> str:
    with pytest.raises(HandlersError) as caught:
        find(folder)
    assert caught.value.exit_code is ExitCode.SETTINGS
    return str(caught.value)


def test_files_and_packages_are_taken(folder: Path, write: Write) -> None:
    """Every file and every package of the folder is loaded; each handler's origin is its own line."""
    path = write("mine.py", COVER)
    write("more/__init__.py", COVER.replace("Cover", "VideoClip"))
    found = find(folder)
    assert {name: held.strength for name, held in found.handlers.items()} == {
        "Cover": Strength.DIRECTORY,
        "VideoClip": Strength.DIRECTORY,
    }
    assert found.handlers["Cover"].origin == f"{path}:3"
    assert found.empty == ()


@pytest.mark.parametrize(
    "name", ["_shared.py", ".hidden.py", "notes.txt", "cover.py.bak", "data/cover.py", "__pycache__/cover.py"]
)
def test_what_is_no_module_of_the_folder_is_left_alone(folder: Path, write: Write, name: str) -> None:
    """Private and hidden files, other kinds of files, and folders that are no packages are not imported."""
    write("mine.py", COVER)
    write(name, "raise RuntimeError('imported')")
    assert list(find(folder).handlers) == ["Cover"]


def test_one_function_may_take_several_names(folder: Path, write: Write) -> None:
    """Stacked decorators register the same function under each name, each with its own limits."""
    write("mine.py", COVER.replace("@handler", '@handler("VideoClip", concurrency=2)\n@handler'))
    found = find(folder)
    assert sorted(found.handlers) == ["Cover", "VideoClip"]
    assert found.handlers["Cover"].function is found.handlers["VideoClip"].function
    assert [found.handlers[name].limits.concurrency for name in ("Cover", "VideoClip")] == [None, 2]


def test_an_own_name_comes_before_the_rest(folder: Path, write: Write) -> None:
    """``*`` takes every name that has no handler of its own; without it such a name has none."""
    path = write("mine.py", COVER)
    assert find(folder).find("Unheard") is None
    write("rest.py", COVER.replace("Cover", "*"))
    found = find(folder)
    own, rest = found.find("Cover"), found.find("Unheard")
    assert own is not None
    assert rest is not None
    assert own.origin == f"{path}:3"
    assert rest.name == "*"


def test_string_annotations_and_plain_functions(folder: Path, write: Write) -> None:
    """String annotations are evaluated in the file's own namespace; a plain function is not async."""
    write(
        "mine.py",
        """
        from __future__ import annotations
        from pydantic import BaseModel
        from mns_consumer import Job, handler
        class Mine(BaseModel):
            score: float
        @handler("Cover")
        def cover(job: Job[Mine, dict[str, int]]) -> None: ...
        """,
    )
    held = find(folder).handlers["Cover"]
    assert not held.is_async
    assert held.result is not None
    assert held.result.validate({"score": 1}).score == 1.0
    assert held.user_data is not None
    assert held.user_data.validate({"a": 1}) == {"a": 1}


def test_files_of_one_folder_share_modules(folder: Path, write: Write) -> None:
    """``from . import _shared`` and ``from ._shared import X`` work between the folder's files."""
    write("_shared.py", "NAME = 'Cover'\n")
    write(
        "mine.py",
        COVER.replace('"Cover"', "_shared.NAME").replace("from mns", "from . import _shared\nfrom mns"),
    )
    write("more.py", COVER.replace('"Cover"', "'*'").replace("from mns", "from ._shared import NAME\nfrom mns"))
    assert sorted(find(folder).handlers) == ["*", "Cover"]


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("from mine_shared import cover as theirs", id="a handler that is installed"),
        pytest.param("import mine_shared as other", id="a module with a handler"),
        pytest.param("from .other import taken, Model", id="a neighbour's"),
    ],
)
def test_what_is_imported_registers_nothing(folder: Path, write: Write, tmp_path: Path, line: str) -> None:
    """Only the file that defines a handler registers it: one that it imports does not count."""
    write("other.py", COVER.replace("Cover", "VideoClip").replace("cover(", "taken(") + "\nclass Model: ...\n")
    write("mine.py", f"{line}\n{COVER}")
    installed = tmp_path / "site"
    installed.mkdir()
    (installed / "mine_shared.py").write_text(COVER, encoding="utf-8")
    sys.path.insert(0, str(installed))
    found = find(folder)
    assert {name: held.origin.rpartition("/")[2].partition(":")[0] for name, held in found.handlers.items()} == {
        "Cover": "mine.py",
        "VideoClip": "other.py",
    }


def test_an_alias_is_no_second_handler(folder: Path, write: Write) -> None:
    """A function that has two names in its file is registered once."""
    write("mine.py", f"{COVER}\nagain = cover\n")
    assert list(find(folder).handlers) == ["Cover"]


@pytest.mark.parametrize("name", ["cover", "json", "handlers", "consumer", "structlog"])
def test_a_users_file_hides_no_module(folder: Path, write: Write, name: str) -> None:
    """A drop-in file or package of any name hides no other module of that name."""
    write(f"{name}.py", COVER)
    write("package/__init__.py", COVER.replace("Cover", "VideoClip"))
    before = sys.modules.get(name)
    find(folder)
    assert sys.modules.get(name) is before
    assert str(folder) not in sys.path
    assert "package" not in sys.modules
    assert json.dumps(1) == "1"


def test_a_users_own_package_handlers_leaves_the_shipped_ones(folder: Path, write: Write) -> None:
    """Beside a user's package ``handlers`` the shipped ones are still found, and are weaker."""
    write("handlers/__init__.py", COVER)
    found = find(folder, shipped=True)
    assert found.handlers["Cover"].strength is Strength.DIRECTORY
    assert found.handlers["VideoClip"].strength is Strength.SHIPPED
    assert len(found.handlers) == 16


def test_two_for_one_name_are_refused(folder: Path, write: Write) -> None:
    """Two handlers for one name are refused, and the error names both places."""
    first, second = write("a.py", COVER), write("b.py", COVER)
    error = refused(folder)
    assert error == f"two handlers for 'Cover': {first}:3 and {second}:3; remove or rename one of them"


def test_every_problem_is_reported_at_once(folder: Path, write: Write) -> None:
    """The error names every broken file, and a doubled name as well."""
    write("a.py", COVER)
    write("b.py", COVER)
    write("c.py", "import nowhere_to_be_found")
    write("d.py", COVER.replace("job: Job", "job: int").replace("Cover", "VideoClip"))
    error = refused(folder)
    assert "two handlers for 'Cover'" in error
    assert "No module named 'nowhere_to_be_found'" in error
    assert "the handler for 'VideoClip' takes <class 'int'>" in error


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        pytest.param("x = 1\ndef broken(:\n", 2, "SyntaxError: invalid syntax", id="SyntaxError"),
        pytest.param(
            "X = 1\nimport nowhere_to_be_found\n", 2, "ModuleNotFoundError: No module named", id="ImportError"
        ),
        pytest.param("from mns_consumer import Jobs\n", 1, "cannot import name 'Jobs'", id="wrong name of the face"),
        pytest.param("def f():\n    1 / 0\nf()\n", 2, "ZeroDivisionError: division by zero", id="exception"),
        pytest.param("import sys\nsys.exit(3)\n", 2, "SystemExit: 3", id="SystemExit"),
        pytest.param(
            "from mns_consumer import handler\n@handler('Cover', timeout_s=0)\ndef f(job): ...\n",
            2,
            "ValueError: @handler(timeout_s=0): expected seconds from 0.001 to 43200",
            id="limit out of range",
        ),
    ],
)
def test_a_broken_file_is_named(folder: Path, write: Write, text: str, line: int, said: str) -> None:
    """The first line names file, error and line; the traceback below it has the user's line and none of ours."""
    path = write("mine.py", text)
    head, *below = refused(folder).splitlines()
    assert head.startswith(f"{path}: can't be loaded: ")
    assert said in head
    assert f"{path}:{line}" in head
    assert f'File "{path}", line {line}' in "\n".join(below)
    assert "registry.py" not in "\n".join(below)
    assert "importlib" not in "\n".join(below)


def test_a_folder_named_like_the_import_machinery_is_shown(tmp_path: Path) -> None:
    """The traceback shows a user's file even if its folder's name resembles a module of Python."""
    folder = tmp_path / "importlib-handlers"
    folder.mkdir(mode=0o755)
    (folder / "mine.py").write_text("\n1 / 0\n", encoding="utf-8")
    assert f"{folder}/mine.py:2" in refused(folder)


def test_a_file_that_is_no_text_is_named(folder: Path) -> None:
    """A file that is no text is named in the error, without a line number."""
    path = folder / "mine.py"
    path.write_bytes(b"x = '\x00\xff'\n")
    error = refused(folder)
    assert error.startswith(f"{path}: can't be loaded: ")
    assert "None:None" not in error


@pytest.mark.parametrize("name", ["my-cover.py", "2cover.py", "a.b.py"])
def test_a_name_that_no_module_can_have_is_refused(folder: Path, write: Write, name: str) -> None:
    """A file whose name can't be a module's is refused, not skipped silently."""
    path = write(name, COVER)
    assert refused(folder).startswith(f"{path}: '{path.stem}' can't be a module's name; expected letters, digits")


@pytest.mark.parametrize("kind", ["missing", "a file"])
def test_a_mistyped_folder_refuses_even_with_the_shipped_ones(tmp_path: Path, kind: str) -> None:
    """A ``handlers_dir`` that is no folder is refused, even with the shipped handlers: they would log and delete."""
    path = tmp_path / "handlres"
    if kind == "a file":
        path.write_text(COVER, encoding="utf-8")
    with pytest.raises(HandlersError, match=f"handlers_dir: {path} is not a folder; expected one that holds"):
        find(path, shipped=True)


def test_no_handler_at_all_refuses(folder: Path, write: Write) -> None:
    """Without any handler the error lists every kind of source."""
    write("mine.py", "X = 1\n")
    error = refused(folder)
    assert all(word in error for word in ("handlers_dir", "handler_modules", "mns_consumer.handlers", "shipped = true"))


def test_empty_files_are_reported(folder: Path, write: Write) -> None:
    """A file without handlers is listed for a warning if another source has some."""
    path = write("mine.py", "X = 1\n")
    assert find(folder, shipped=True).empty == (str(path),)


def test_an_empty_folder_is_reported(folder: Path) -> None:
    """A folder without any file is listed for a warning if the shipped handlers are used."""
    assert find(folder, shipped=True).empty == (str(folder),)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(".", id="the folder"),
        pytest.param("mine.py", id="a file"),
        pytest.param("more", id="a package's folder"),
        pytest.param("more/__init__.py", id="a package"),
        pytest.param("more/inner.py", id="a file inside a package"),
        pytest.param("_shared.py", id="a private file that others import"),
    ],
)
def test_what_others_may_write_to_is_refused(folder: Path, write: Write, name: str) -> None:
    """What can be imported from the folder must not be writable by others; the error says which command to run."""
    write("mine.py", COVER)
    write("_shared.py", "")
    write("more/__init__.py", "from . import inner")
    write("more/inner.py", "")
    assert list(find(folder).handlers) == ["Cover"]
    path = folder / name
    path.chmod(path.stat().st_mode | 0o002)
    error = refused(folder)
    assert error.startswith(f"handlers_dir: {path.resolve()}: expected that only root and user ")
    assert f"run `chmod go-w {path.resolve()}`" in error


def test_a_link_to_an_unsafe_file_is_refused(folder: Path, tmp_path: Path) -> None:
    """The target of a link is checked."""
    target = tmp_path / "elsewhere.py"
    target.write_text(COVER, encoding="utf-8")
    (folder / "mine.py").symlink_to(target)
    target.chmod(0o644)
    assert list(find(folder).handlers) == ["Cover"]
    target.chmod(0o646)
    assert f"handlers_dir: {target}: " in refused(folder)


def test_nothing_of_an_unsafe_folder_is_run(folder: Path, write: Write) -> None:
    """The folder is checked before anything is imported."""
    write("mine.py", "import os\nos.environ['MINE_RAN'] = '1'\n").chmod(0o646)
    refused(folder)
    assert "MINE_RAN" not in os.environ


def test_a_file_that_changes_hands_after_the_check_is_refused(
    folder: Path, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file is checked again while it is read: it may change between the folder's check and the import."""
    path = write("mine.py", COVER)

    def safe_for_now(_: Path) -> list[str]:
        path.chmod(0o646)
        return []

    monkeypatch.setattr("consumer.plugin.registry.problems_of_folder", safe_for_now)
    error = refused(folder)
    assert error.startswith(f"{path}: can't be loaded: ")
    assert "may write to it" in error


def test_byte_code_is_not_believed(folder: Path, write: Write) -> None:
    """Byte code in ``__pycache__`` is neither loaded nor written."""
    path = write("mine.py", COVER)
    planted = write("planted.py", COVER.replace("Cover", "VideoClip"))
    cache = Path(importlib.util.cache_from_source(str(path)))
    unchecked = py_compile.PycInvalidationMode.UNCHECKED_HASH
    py_compile.compile(str(planted), str(cache), invalidation_mode=unchecked)
    planted.unlink()
    assert list(find(folder).handlers) == ["Cover"]
    cache.unlink()
    sys.dont_write_bytecode = False
    find(folder)
    assert not list(cache.parent.iterdir())


@pytest.mark.parametrize("suffix", [".pyc", importlib.machinery.EXTENSION_SUFFIXES[0], ".abi3.so"])
@pytest.mark.parametrize("name", ["_fast", "_fast/__init__"])
def test_compiled_code_is_not_loaded(folder: Path, write: Write, name: str, suffix: str) -> None:
    """Importing a compiled file is refused; beside a source of its name it is ignored."""
    write("mine.py", "from . import _fast\n" + COVER)
    source = write(f"{name}.py", "X = 1")
    compiled = Path(py_compile.compile(str(source), str(source.with_suffix(suffix)), doraise=True) or "")
    assert list(find(folder).handlers) == ["Cover"]
    source.unlink()
    error = refused(folder)
    assert f"{compiled} is compiled code, which is not loaded from a drop-in folder; expected _fast.py" in error


def test_files_import_each_other(folder: Path, write: Write) -> None:
    """Files, packages and plain folders of the drop-in folder import each other; a missing one raises ImportError."""
    write("_shared.py", "X = 1")
    write("data/names.py", "Y = 2")
    write("more/__init__.py", "from .inner import Z")
    write("more/inner.py", "from .. import _shared\nZ = _shared.X + 2")
    write("mine.py", "from .data import names\nfrom .more import Z\nassert (names.Y, Z) == (2, 3)\n" + COVER)
    assert list(find(folder).handlers) == ["Cover"]
    write("other.py", "from . import _nothing")
    assert "cannot import name '_nothing'" in refused(folder)


def test_a_forgotten_package_is_gone(folder: Path, write: Write) -> None:
    """A package that is forgotten can't be imported from any more."""
    write("mine.py", COVER)
    registry = find(folder)
    assert set(registry.packages) <= set(registry_module._finder.folders)
    forget(registry.packages)
    assert not set(registry.packages) & set(registry_module._finder.folders)
