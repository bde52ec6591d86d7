"""What the documentation says to type works as it stands, in the order of each page, with a sandbox as the cloud.

Each shell block of the pages is run, except those of ``NOT_RUN``. Only the two ports differ from what the page says.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import anyio.to_thread
import pytest

from consumer.sandbox import Sandbox

ROOT: Final = Path(__file__).resolve().parents[2]
PAGES: Final = {path.stem: path for path in (ROOT / "README.md", *sorted((ROOT / "consumer" / "docs").glob("*.md")))}
NOT_RUN: Final = {
    "python3 -m venv": "installs packages; tests/deploy installs by the same steps",
    ".venv/bin/pip install": "the same",
    "bash tests/run.sh": "runs this test",
    ". .venv/bin/activate\nmns-consumer sandbox": "another sandbox stands in, on a free port",
    "mns-consumer sandbox": "the same",
    ". .venv/bin/activate\nexport ALIBABA_CLOUD": "needs an account of the cloud",
    "sudo ": "changes the machine; tests/deploy runs the commands of deploy.md on a machine of its own",
    "docker ": "needs images of a registry; tests/deploy builds the image",
    "digest=": "the same",
}
"""Why a block that begins so is not run."""
SELF_CONTAINED: Final = frozenset({"README", "deploy", "handlers", "sandbox"})
"""Pages whose blocks set all variables and start the daemon that they need, if any."""
SHOWN: Final = {
    "README": ("cover made", "job done", "job_failed", "Bad.Input"),
    "handlers": ("cover made", "no cover", '"event":"stopped"'),
    "sandbox": ("Bad.Input", '"faults_applied"', "clock_offset_ms"),
    "operations": ("job_failed", '"event":"stopped"'),
    "store": ("is whole", '"event":"stopped"'),
    "submit": ("FunctionName: CaptionExtraction",),
    "dead-letters": ("job_failed", "no picture"),
    "deploy": (),
    "metrics": ("mns_consumer_jobs_total",),
}
"""By page with blocks to run: words of their output."""
HELPERS: Final = """
set -eu -o pipefail -o monitor
ready() {  # a reader waits for the daemon's line
    for attempt in $(seq 200); do mns-consumer health --ready >health.txt 2>&1 && return; done
    echo 'the daemon is not ready'; cat health.txt; exit 1
}
settled() {  # and for a job that was submitted
    for attempt in $(seq 300); do
        state=$(curl --silent $MNS_CONSUMER_ENDPOINT/_sandbox/state)
        [[ $state == *'"active": 0, "inactive": 0'*'"Queuing": 0, "Analysing": 0'* ]] && return
        sleep 0.1
    done
    echo "messages or jobs are left: $state"; exit 1
}
"""
DAEMON: Final = """
export MNS_CONSUMER_ENDPOINT=http://127.0.0.1:8420
export MNS_CONSUMER_ACCESS_KEY_ID=sandbox MNS_CONSUMER_ACCESS_KEY_SECRET=sandbox
export MNS_CONSUMER_NOTIFY_URL=mns://1234567890123456.mns.cn-hangzhou.aliyuncs.com/queues/jobs
export MNS_CONSUMER_HANDLERS_DIR=films MNS_CONSUMER_STORE=films.db
mns-consumer run &
BUCKET=oss://demo.oss-cn-hangzhou.aliyuncs.com
COVER="--function Cover --input $BUCKET/film.mp4 --output $BUCKET/{sequenceId}.jpg"
JOBID=$(mns-consumer submit $COVER --notify-url $MNS_CONSUMER_NOTIFY_URL)
FAIL='{"sandbox": {"fail": {"message": "no picture"}}}'
mns-consumer submit $COVER --notify-url $MNS_CONSUMER_NOTIFY_URL --params "$FAIL"
"""
"""The README's daemon, with one job done and one set aside: what the pages for operators begin with."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGES[page].read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def to_run(page: str) -> list[str]:
    return [block for block in blocks(page, "sh") if not block.startswith(tuple(NOT_RUN))]


def script(page: str) -> str:
    """The page's blocks in order; after each command that takes a while it waits, as a reader does."""
    typed = "".join(to_run(page))
    if page not in SELF_CONTAINED:
        typed = f"{DAEMON}{typed.replace('JOBID', '$JOBID')}kill %1\n"
    lines = [HELPERS]
    for line in typed.splitlines():
        lines.append(line)
        if line.startswith("mns-consumer run") and line.endswith("&"):
            lines.append("ready")
        elif re.match(r"mns-consumer (submit|dead-letters replay)", line) and "ready" in lines:
            lines.append("settled")
        elif line == "kill %1":
            lines.append("wait %1")
    return "\n".join(lines) + "\n"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def save_handlers(page: str, folder: Path) -> None:
    """Save each Python file of a page, and the README's on every page, where a reader does."""
    (folder / "films").mkdir()
    for number, text in enumerate(blocks(page, "python") or blocks("README", "python")):
        (folder / "films" / f"handlers_{number}.py").write_text(text, encoding="utf-8")
    (folder / ".venv").symlink_to(sys.prefix)


@pytest.fixture
def runtime() -> Iterator[Path]:
    """A folder for the control socket: the path of a socket must be short."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def run(text: str, folder: Path, runtime: Path) -> tuple[int, str]:
    """Run a script; returns its exit code and output. Nothing that it started is left behind."""
    environment = {
        "PATH": os.pathsep.join((str(Path(sys.prefix) / "bin"), os.environ["PATH"])),
        "PYTHONPATH": os.environ["PYTHONPATH"],
        "HOME": str(folder),
        "XDG_RUNTIME_DIR": str(runtime),
        "ALIBABA_CLOUD_ECS_METADATA_DISABLED": "true",
    }
    # Into a file: a daemon that a failing script leaves running would keep a pipe open.
    output = folder / "output.txt"
    with output.open("w", encoding="utf-8") as out:
        process = subprocess.Popen(
            ["bash", "-c", f"umask 022\n{text}"],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = process.wait(timeout=150)
        finally:
            # A job of the monitor mode is a process group of its own, in the script's session.
            subprocess.run(["pkill", "--signal", "KILL", "--session", str(process.pid)], check=False)
    return code, output.read_text(encoding="utf-8")


@pytest.mark.parametrize("page", SHOWN)
async def test_the_commands_of_a_page_work(page: str, tmp_path: Path, runtime: Path) -> None:
    """Each command of the page ends with 0, in the order of the page, and shows what the page promises."""
    save_handlers(page, tmp_path)
    async with Sandbox.on_free_port(job_s=0.05) as sandbox:
        sandbox.account.ensure("jobs")
        admin = free_port()
        text = script(page).replace("127.0.0.1:8420", f"127.0.0.1:{sandbox.port}").replace("9464", str(admin))
        text = f"export MNS_CONSUMER_ADMIN_PORT={admin}\n{text}"
        code, output = await anyio.to_thread.run_sync(run, text, tmp_path, runtime)
    assert code == 0, f"{text}\n{output[-6000:]}"
    assert [words for words in SHOWN[page] if words not in output] == [], output


def test_every_block_is_run_or_has_a_reason() -> None:
    """Each page with shell blocks to run is among those whose output is checked; each reason not to run one is used."""
    assert {page for page in PAGES if to_run(page)} == set(SHOWN)
    every = [block for page in PAGES for block in blocks(page, "sh")]
    assert [start for start in NOT_RUN if not any(block.startswith(start) for block in every)] == []
