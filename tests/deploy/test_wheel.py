"""The wheel, installed into an environment of its own, beside files of the user's that have names like ours."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import anyio
import anyio.to_thread
import pytest

from consumer.sandbox import Sandbox, SandboxJob
from tests.engine.rig import QUEUE

ROOT: Final = Path(__file__).resolve().parents[2]
HANDLER: Final = """
import sys
from mns_consumer import Job, handler
from mns_consumer.functions import CoverResult

@handler("Cover")
async def my_cover(job: Job[CoverResult]) -> None:
    print("stills", len(job.result.stills), "of", sys.modules["consumer"].__file__, flush=True)
"""
LOUD: Final = "raise RuntimeError('a file of the user was imported')\n"

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """The user's folder: a package ``handlers``, a ``consumer_test.py``, and a folder of drop-in files."""
    folder = tmp_path / "theirs"
    (folder / "handlers").mkdir(parents=True)
    (folder / "handlers" / "__init__.py").write_text(LOUD, encoding="utf-8")
    (folder / "handlers" / "cover.py").write_text(LOUD, encoding="utf-8")
    (folder / "consumer_test.py").write_text(LOUD, encoding="utf-8")
    (folder / "films").mkdir()
    (folder / "films" / "cover.py").write_text(HANDLER, encoding="utf-8")
    return folder


def environment(folder: Path) -> Mapping[str, str]:
    """With the user's folder on the import path, before the installed packages."""
    return {**os.environ, "HOME": str(folder), "PYTHONPATH": str(folder)}


def run(scripts: Path, folder: Path, *argv: str) -> str:
    done = subprocess.run(
        [scripts / argv[0], *argv[1:]], cwd=folder, env=environment(folder), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def functions(scripts: Path, folder: Path, *flags: str) -> list[dict[str, Any]]:
    """The rows of ``mns-consumer functions``."""
    return [
        json.loads(line) for line in run(scripts, folder, "mns-consumer", "functions", "--json", *flags).splitlines()
    ]


def test_what_the_wheel_holds(wheel: Path) -> None:
    """The wheel has two import names, both typed, and the shipped handlers inside ours; no file is in it twice."""
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0] for name in names} == {"consumer", "mns_consumer", "mns_consumer-0.1.0.dist-info"}
    assert {"consumer/py.typed", "mns_consumer/py.typed", "mns_consumer/functions.py"} <= set(names)
    shipped = {f"consumer/handlers/{path.name}" for path in (ROOT / "handlers").glob("*.py")}
    assert {name for name in names if "/handlers/" in name} == shipped
    assert not [name for name in names if "/public/" in name]


@pytest.mark.parametrize("program", [("mns-consumer",), ("python", "-m", "consumer")], ids=["script", "module"])
def test_the_demo_passes(scripts: Path, theirs: Path, program: tuple[str, ...]) -> None:
    """The demo runs in the user's folder with all 16 shipped handlers, and imports no file of the user's."""
    assert "16 of 16 results arrived typed" in run(scripts, theirs, *program, "demo")


def test_a_users_handler_and_the_shipped_ones(scripts: Path, theirs: Path) -> None:
    """A drop-in file handles its function; every other function has the installed shipped handler."""
    flags = ("--handlers", str(theirs / "films"), "--shipped")
    rows = functions(scripts, theirs, *flags)
    assert len(rows) == 16
    origins = {row["function"]: row["origin"].rpartition(":")[0] for row in rows}
    assert origins.pop("Cover") == str(theirs / "films" / "cover.py")
    assert all(origin.startswith(f"{scripts.parent}/lib/") for origin in origins.values())
    assert all("/site-packages/consumer/handlers/" in origin for origin in origins.values())


def test_a_users_own_package_handlers_is_an_import_path(scripts: Path, theirs: Path) -> None:
    """``handler_modules = ["handlers"]`` loads the user's package."""
    (theirs / "handlers" / "__init__.py").write_text(HANDLER, encoding="utf-8")
    (theirs / "handlers" / "cover.py").write_text("", encoding="utf-8")
    flags = ("--set", "handler_modules=handlers", "--shipped")
    rows = functions(scripts, theirs, *flags)
    assert {row["function"]: row["handler"] for row in rows}["Cover"] == "my_cover"
    assert {row["found_in"] for row in rows} == {"import path", "shipped"}


async def test_a_users_handler_handles_a_job(scripts: Path, theirs: Path) -> None:
    """The installed daemon calls the user's handler with a typed result, deletes the message, and ends with 0."""
    async with Sandbox.on_free_port() as sandbox:
        sandbox.account.ensure(QUEUE)
        sandbox.add_job(SandboxJob(job_id="a" * 32, notify_queue=QUEUE))
        settings = {
            "notify_url": sandbox.notify_url(QUEUE),
            "endpoint": sandbox.url,
            "handlers_dir": theirs / "films",
            "store": theirs / "ledger.db",
            "admin_port": 0,
        }
        process = subprocess.Popen(  # noqa: ASYNC220 - it begins at once
            [scripts / "mns-consumer", "run", *(f"--set={name}={value}" for name, value in settings.items())],
            cwd=theirs,
            env={
                **environment(theirs),
                "ALIBABA_CLOUD_ECS_METADATA_DISABLED": "true",
                "MNS_CONSUMER_ACCESS_KEY_ID": "sandbox",
                "MNS_CONSUMER_ACCESS_KEY_SECRET": "sandbox",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            with anyio.fail_after(30):
                while sandbox.messages(QUEUE):  # noqa: ASYNC110 - another process's affair
                    await anyio.sleep(0.05)
            process.send_signal(signal.SIGTERM)
            output, _ = await anyio.to_thread.run_sync(process.communicate)
        finally:
            process.kill()
    assert process.returncode == 0, output
    assert f"stills 5 of {scripts.parent}" in output
