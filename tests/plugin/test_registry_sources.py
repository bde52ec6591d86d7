"""The sources: import paths, entry points of a real distribution, the shipped handlers, and which of them wins."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest

from consumer.errors import HandlersError
from consumer.plugin.handler import Strength
from consumer.plugin.registry import ENTRY_POINT_GROUP, Sources, discover

Write = Callable[[str, str], Path]


def cover(said: str, name: str = "Cover") -> str:
    return f"from mns_consumer import Job, handler\n@handler({name!r})\nasync def {said}(job: Job) -> None: ...\n"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder on ``sys.path``, as installed packages are."""
    made = tmp_path / "site"
    made.mkdir()
    sys.path.insert(0, str(made))
    return made


def module(site: Path, name: str, text: str) -> None:
    path = site / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text), encoding="utf-8")


def install(site: Path, *lines: str, name: str = "mine-dist") -> None:
    """Write the metadata that an installer writes for a distribution with entry points."""
    info = site / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text("\n".join([f"[{ENTRY_POINT_GROUP}]", *lines, ""]), encoding="utf-8")


def test_the_stronger_source_hides_the_weaker(site: Path, folder: Path, write: Write) -> None:
    """For one name the folder wins over import paths, those over entry points, those over the shipped ones."""
    write("mine.py", cover("of_folder"))
    module(site, "mine_path.py", cover("of_path"))
    module(site, "mine_point.py", cover("of_point"))
    install(site, "all = mine_point")
    sources = [
        Sources(shipped=True, use_entry_points=False),
        Sources(shipped=True),
        Sources(shipped=True, modules=["mine_path"]),
        Sources(shipped=True, modules=["mine_path"], directory=folder),
    ]
    found = [discover(each) for each in sources]
    assert [each.handlers["Cover"].function.__name__ for each in found] == ["cover", "of_point", "of_path", "of_folder"]
    assert [each.handlers["Cover"].strength for each in found] == list(Strength)
    assert {each.handlers["VideoClip"].strength for each in found} == {Strength.SHIPPED}


def test_nothing_found_refuses() -> None:
    """Without any source the start is refused: a daemon without handlers would set every message aside."""
    with pytest.raises(HandlersError, match="no handler found: expected a drop-in folder"):
        discover(Sources(use_entry_points=False))


def test_a_module_by_its_import_path(site: Path) -> None:
    """An import path loads a module; of a package, the modules inside it as well."""
    module(site, "mine_pack/__init__.py", cover("top"))
    module(site, "mine_pack/clip.py", "from mine_pack import top\n" + cover("clip", "VideoClip"))
    found = discover(Sources(modules=["mine_pack"], use_entry_points=False))
    assert {name: held.function.__name__ for name, held in found.handlers.items()} == {
        "Cover": "top",
        "VideoClip": "clip",
    }


def test_a_packages_program_is_not_run(site: Path) -> None:
    """Loading a package does not import its ``__main__``."""
    module(site, "mine_tool/__init__.py", cover("top"))
    module(site, "mine_tool/__main__.py", "raise SystemExit('the program was run')\n")
    assert list(discover(Sources(modules=["mine_tool"], use_entry_points=False)).handlers) == ["Cover"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        pytest.param("mine_nowhere", "No module named 'mine_nowhere'", id="missing"),
        pytest.param("", "Empty module name", id="empty"),
        pytest.param(".mine", "TypeError", id="relative"),
    ],
)
def test_a_wrong_import_path_is_named(name: str, said: str) -> None:
    """The error of a wrong import path has the setting's name and its value."""
    with pytest.raises(HandlersError, match=f"handler_modules: {name}.*: can't be loaded: .*{said}"):
        discover(Sources(modules=[name], use_entry_points=False))


def test_a_broken_module_of_a_package_is_named(site: Path) -> None:
    """The error names the inner module and the line."""
    module(site, "mine_half/__init__.py", cover("top"))
    module(site, "mine_half/bad.py", "\n1 / 0\n")
    with pytest.raises(HandlersError) as caught:
        discover(Sources(modules=["mine_half"], use_entry_points=False))
    assert str(caught.value).startswith("handler_modules: mine_half.bad: can't be loaded: ZeroDivisionError")
    assert f"{site}/mine_half/bad.py:2" in str(caught.value)


def test_two_import_paths_for_one_name_are_refused(site: Path) -> None:
    """Two modules of equal strength for one name are refused."""
    module(site, "mine_a.py", cover("a"))
    module(site, "mine_b.py", cover("b"))
    with pytest.raises(HandlersError, match=r"two handlers for 'Cover': .*mine_a\.py:2 and .*mine_b\.py:2; remove"):
        discover(Sources(modules=["mine_a", "mine_b"], use_entry_points=False))


def test_entry_points_name_modules_or_functions(site: Path) -> None:
    """An entry point loads a module's handlers, or one function wherever it was defined."""
    module(site, "mine_inner.py", cover("deep", "VideoClip"))
    module(site, "mine_outer.py", "from mine_inner import deep\n" + cover("own"))
    install(site, "module = mine_outer", "function = mine_outer:deep")
    found = discover(Sources())
    assert {name: held.function.__name__ for name, held in found.handlers.items()} == {
        "Cover": "own",
        "VideoClip": "deep",
    }
    assert {held.strength for held in found.handlers.values()} == {Strength.ENTRY_POINT}


def test_entry_points_can_be_left_out(site: Path, folder: Path, write: Write) -> None:
    """With the setting off no distribution's code is imported."""
    write("mine.py", cover("of_folder", "VideoClip"))
    module(site, "mine_loud.py", "raise RuntimeError('imported')\n")
    install(site, "all = mine_loud")
    assert list(discover(Sources(directory=folder, use_entry_points=False)).handlers) == ["VideoClip"]


@pytest.mark.parametrize(
    ("text", "value", "said"),
    [
        pytest.param("1 / 0\n", "mine_bad", "can't be loaded: ZeroDivisionError", id="exception"),
        pytest.param("raise SystemExit(0)\n", "mine_bad", "can't be loaded: SystemExit", id="SystemExit"),
        pytest.param("x = 1\n", "mine_bad:gone", "can't be loaded: AttributeError", id="no such name"),
        pytest.param(
            "x = 1\n", "mine_bad:x", "expected a module or a function marked with @handler, got 1", id="value"
        ),
        pytest.param("def f(job): ...\n", "mine_bad:f", "expected a module or a function marked", id="unmarked"),
    ],
)
def test_a_broken_entry_point_is_named(site: Path, text: str, value: str, said: str) -> None:
    """An entry point that loads no handler is refused with its name and value."""
    module(site, "mine_bad.py", text)
    install(site, f"all = {value}")
    with pytest.raises(HandlersError) as caught:
        discover(Sources())
    assert str(caught.value).startswith(f"entry point all = {value}: ")
    assert said in str(caught.value)


def test_an_entry_point_without_handlers_is_reported(site: Path) -> None:
    """An entry point whose module has no handlers is listed for a warning."""
    module(site, "mine_empty.py", "x = 1\n")
    install(site, "all = mine_empty")
    assert discover(Sources(shipped=True)).empty == ("entry point all = mine_empty",)


def test_two_distributions_for_one_name_are_refused(site: Path) -> None:
    """Two distributions with a handler for one name are refused."""
    for each in ("a", "b"):
        module(site, f"mine_{each}.py", cover(each))
        install(site, f"x = mine_{each}", name=f"mine-{each}")
    with pytest.raises(HandlersError, match="two handlers for 'Cover'"):
        discover(Sources())


def test_only_listed_distributions_are_asked(site: Path) -> None:
    """A list of names loads those distributions alone, in any spelling of the names; others are not imported."""
    module(site, "mine_a.py", cover("a"))
    module(site, "mine_loud.py", "raise RuntimeError('imported')\n")
    install(site, "x = mine_a", name="Mine_A")
    install(site, "x = mine_loud", name="mine-loud")
    found = discover(Sources(use_entry_points=["mine.a"]))
    assert list(found.handlers) == ["Cover"]
    assert found.handlers["Cover"].provider == "Mine_A 1.0"


def test_a_listed_distribution_must_be_there(site: Path) -> None:
    """A name without an installed distribution is refused; the error lists the names that exist."""
    module(site, "mine_a.py", cover("a"))
    install(site, "x = mine_a", name="mine-a")
    with pytest.raises(HandlersError) as caught:
        discover(Sources(use_entry_points=["mine-a", "mine-b"]))
    assert str(caught.value) == (
        "handler_entry_points: no installed distribution 'mine-b' has entry points 'mns_consumer.handlers'; "
        "those that have: mine-a"
    )


def test_a_handler_for_everything_must_be_listed(site: Path, folder: Path, write: Write) -> None:
    """``*`` of a distribution counts only if the distribution is listed; otherwise it is skipped with a reason."""
    module(site, "mine_all.py", cover("rest", "*") + cover("clip", "VideoClip"))
    install(site, "x = mine_all", name="mine-all")
    found = discover(Sources())
    assert list(found.handlers) == ["VideoClip"]
    (reason,) = found.skipped
    assert reason.startswith("entry point x = mine_all of mine-all 1.0 has a handler for '*' (")
    assert reason.endswith("list the distribution in handler_entry_points")
    assert list(discover(Sources(use_entry_points=["mine-all"])).handlers) == ["*", "VideoClip"]
    write("mine.py", cover("of_folder", "*"))
    assert discover(Sources(directory=folder)).handlers["*"].function.__name__ == "of_folder"


def test_a_skipped_handler_alone_is_no_handler(site: Path) -> None:
    """If nothing else is found the start is refused, and the line about the skipped one comes first."""
    module(site, "mine_all.py", cover("rest", "*"))
    install(site, "x = mine_all", name="mine-all")
    with pytest.raises(HandlersError, match="has a handler for '\\*'") as caught:
        discover(Sources())
    assert len(caught.value.problems) == 2


def test_each_handlers_provider(site: Path, folder: Path, write: Write) -> None:
    """A provider is a folder, an import path, or a distribution with its version."""
    write("mine.py", cover("of_folder"))
    module(site, "mine_path.py", cover("of_path", "VideoClip"))
    module(site, "mine_point.py", cover("of_point", "ImageH2V"))
    install(site, "x = mine_point")
    found = discover(Sources(directory=folder, modules=["mine_path"], shipped=True))
    assert {name: found.handlers[name].provider for name in ("Cover", "VideoClip", "ImageH2V", "VideoH2V")} == {
        "Cover": str(folder),
        "VideoClip": "import path mine_path",
        "ImageH2V": "mine-dist 1.0",
        "VideoH2V": f"mns-consumer {version('mns-consumer')}, shipped",
    }
