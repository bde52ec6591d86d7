"""What an installation downloads: each file by its hash, wheels except for one package, no known vulnerability."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Final

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT: Final = Path(__file__).resolve().parents[2]
LOCKS: Final = (".build/constraints.txt", "constraints.txt", "tests/constraints.txt")
SOURCE_ALONE: Final = {"alibabacloud-tea"}
"""Published without a wheel."""
FIXED: Final = {
    "aiohttp": "3.14.3",
    "anyio": "4.14.2",
    "cryptography": "50.0.0",
    "pydantic-settings": "2.14.2",
    "python-dotenv": "1.2.2",
    "setuptools": "78.1.1",
}
"""The first release without a known vulnerability, by the advisories known when this was written."""
INSTALLS: Final = ("README.md", "consumer/docs/deploy.md", "consumer/docs/upgrade.md", "Dockerfile", "tests/run.sh")

each_lock = pytest.mark.parametrize("name", LOCKS)


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def packages(name: str) -> dict[str, str]:
    """Each package of a lock file with the lines below it."""
    blocks = re.split(r"^(?=[A-Za-z0-9])", text_of(name), flags=re.MULTILINE)[1:]
    return {block.partition("==")[0]: block for block in blocks}


@each_lock
def test_every_package_is_pinned_and_hashed(name: str) -> None:
    """Each entry has one version and at least one hash, and the file names no index."""
    for package, block in packages(name).items():
        assert re.match(r"[A-Za-z0-9._-]+==\S+( ; .+)? \\\n    --hash=sha256:[0-9a-f]{64}", block), package
    assert not re.search(r"https?://|^\s*(-i|--index-url|--extra-index-url|--find-links)", text_of(name), re.MULTILINE)


@each_lock
def test_the_locks_first_lines_say_how_it_is_made(name: str) -> None:
    """Each lock contains the command that renews it, with wheels only, except for packages without one."""
    command = text_of(name).splitlines()[1]
    assert command.startswith(
        "#    uv pip compile --universal --python-version 3.11 --no-emit-index-url --generate-hashes"
    )
    assert "--only-binary :all:" in command
    assert command.endswith(f"-o {name}")
    assert set(re.findall(r"--no-binary (\S+)", command)) == (set() if name.startswith(".build") else SOURCE_ALONE)


def test_what_builds_is_not_what_runs() -> None:
    """The image removes the builders again: none of them is a package that the daemon needs."""
    assert not packages(".build/constraints.txt").keys() & packages("constraints.txt").keys()
    assert {"hatchling", "setuptools"} <= packages(".build/constraints.txt").keys()


def test_the_tests_run_what_is_shipped() -> None:
    """The tests' lock has the same releases as the daemon's."""
    tested = packages("tests/constraints.txt")
    shipped = packages("constraints.txt")
    assert {name: tested[name].split()[0] for name in shipped} == {name: shipped[name].split()[0] for name in shipped}


@pytest.mark.parametrize("name", INSTALLS)
def test_every_way_to_install_goes_by_hash(name: str) -> None:
    """Each place installs in three steps: the builders, the dependencies, and this package without dependencies."""
    text = re.sub(r'", "', " ", text_of(name))
    steps = re.findall(r"--(?:require-hashes|no-deps) [^\n&]*?(?:-r [\w./]*constraints\.txt| \.(?=[\s\"]))", text)
    own = (
        "--no-deps --no-build-isolation --editable ." if name == "tests/run.sh" else "--no-deps --no-build-isolation ."
    )
    lock = "tests/constraints.txt" if name == "tests/run.sh" else "constraints.txt"
    alone = "".join(f" --no-binary {package}" for package in sorted(SOURCE_ALONE))
    expected = [
        "--require-hashes --only-binary :all: -r .build/constraints.txt",
        f"--require-hashes --no-build-isolation --only-binary :all:{alone} -r {lock}",
        own,
    ]
    assert steps == expected


def test_nothing_is_below_a_known_vulnerability() -> None:
    """Neither the locks nor the package's own lower bounds allow a release with a known vulnerability."""
    locked = {name: re.findall(r"==(\S+)", block)[0] for lock in LOCKS for name, block in packages(lock).items()}
    assert {name: locked[name] for name, fixed in FIXED.items() if Version(locked[name]) < Version(fixed)} == {}
    project = tomllib.loads(text_of("pyproject.toml"))
    wanted = [*project["project"]["dependencies"], *project["dependency-groups"]["build"]]
    floors = {each.name: each.specifier for each in map(Requirement, wanted)}
    too_low = [name for name, fixed in FIXED.items() if name in floors and f">={fixed}" not in str(floors[name])]
    assert too_low == []


def test_the_workflow_runs_all_of_it() -> None:
    """The workflow runs all checks on every supported Python and audits each lock; its actions are pinned."""
    workflow = text_of(".github/workflows/ci.yml")
    classifiers = re.findall(r"Python :: (3\.\d+)", text_of("pyproject.toml"))
    assert re.findall(r'"(3\.\d+)"', workflow.partition("matrix:")[2].partition("\n    steps")[0]) == classifiers
    assert "bash .ci/run" in workflow
    for name in LOCKS:
        assert f"pip-audit --disable-pip --require-hashes -r {name}\n" in workflow
    for used in re.findall(r"uses: (\S+)", workflow):
        assert re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", used), used


def test_the_base_image_can_be_pinned() -> None:
    """The base image is an argument, the page shows how to pin it by digest, and the image is labelled with it."""
    dockerfile, page = text_of("Dockerfile"), text_of("consumer/docs/deploy.md")
    assert 'org.opencontainers.image.base.name="${PYTHON_IMAGE}"' in dockerfile
    assert dockerfile.count("\nARG PYTHON_IMAGE") == 2
    assert "--build-arg PYTHON_IMAGE=docker.io/library/python:3.13-slim@$digest" in page
