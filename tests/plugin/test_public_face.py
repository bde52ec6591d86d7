"""Rules of the public import name ``mns_consumer``: it is short to use, and typed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from consumer.plugin.registry import Sources, discover

ROOT = Path(__file__).resolve().parents[2]
Write = Callable[[str, str], Path]


def test_a_handler_for_a_new_function_is_short(write: Write) -> None:
    """A drop-in handler whose model extends a shared form gets a result of that form."""
    path = write(
        "image_matting.py",
        """
        from mns_consumer import Job, handler
        from mns_consumer.functions import FilesResult

        class ImageMattingResult(FilesResult):
            pass

        @handler("ImageMatting")
        async def image_matting(job: Job[ImageMattingResult]) -> None: ...
        """,
    )
    registry = discover(Sources(directory=path.parent, use_entry_points=False))
    assert list(registry.handlers) == ["ImageMatting"]
    wanted = registry.handlers["ImageMatting"].result
    assert wanted is not None
    assert wanted.validate({"result": [{"file": "oss://b/1"}]}).first_url == "oss://b/1"


@pytest.mark.slow
def test_a_handlers_file_is_typed(tmp_path: Path) -> None:
    """``mypy --strict`` accepts a user's file, knows the models' fields, and finds a misspelt name."""
    # Kept for the next time: to read all that the face imports takes ten seconds.
    cache = ROOT / ".mypy_cache" / "of_a_handler"
    path = tmp_path / "films.py"
    path.write_text(
        """
from mns_consumer import Job, Reject, handler
from mns_consumer.functions import CoverResult, CoverResults


@handler("Cover", timeout_s=30)
async def cover(job: Job[CoverResult, dict[str, int]]) -> None:
    reveal_type(job.result.stills[0].score)
    reveal_type(job.user_data["film"])
    raise Reject("no stills")
""",
        encoding="utf-8",
    )
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file=", f"--cache-dir={cache}", str(path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    *lines, end = [line.partition(": ")[2] or line for line in done.stdout.splitlines()]
    assert lines == [
        'error: Module "mns_consumer.functions" has no attribute "CoverResults"; maybe "CoverResult"?  [attr-defined]',
        'note: Revealed type is "float"',
        'note: Revealed type is "int"',
    ]
    assert end == "Found 1 error in 1 file (checked 1 source file)"
