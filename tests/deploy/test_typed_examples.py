"""Every handler of the documentation is accepted by the strict type checkers, beside the installed wheel."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).resolve().parents[2]
PAGES: Final = [ROOT / "README.md", *sorted((ROOT / "consumer" / "docs").glob("*.md"))]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder outside the project with each Python file of the pages; pyright's mode is set there."""
    folder = tmp_path_factory.mktemp("examples")
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for number, example in enumerate(re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL), 1):
            (folder / f"{page.stem.lower().replace('-', '_')}_{number}.py").write_text(example, encoding="utf-8")
    assert {path.stem for path in folder.iterdir()} >= {"readme_1", "handlers_1"}
    (folder / "pyrightconfig.json").write_text(json.dumps({"typeCheckingMode": "strict"}), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    "checker",
    [
        pytest.param(["mypy", "--strict", "--config-file=", "--cache-dir=cache", "--python-executable"], id="mypy"),
        pytest.param(["basedpyright", "--warnings", "--pythonpath"], id="pyright"),
    ],
)
def test_examples_are_typed(checker: Sequence[str], scripts: Path, examples: Path) -> None:
    """``mypy --strict`` and pyright's strict mode find nothing in an example, with the types of the installed wheel."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}  # names this checkout
    done = subprocess.run(
        [sys.executable, "-m", *checker, scripts / "python", "."],
        cwd=examples,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
