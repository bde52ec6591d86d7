"""The image, built and run: as a user without rights, with a read-only root and little memory.

Switched on by ``DEPLOY_TESTS=1``, as root on Debian, in about three minutes. The base is a Debian that is made here
under the name of the Dockerfile's default, since it is the same Python and no registry is asked.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import anyio
import anyio.to_thread
import pytest

from consumer.sandbox import Sandbox
from tests.deploy.conftest import run
from tests.engine.rig import QUEUE, body

ROOT: Final = Path(__file__).resolve().parents[2]
BASE: Final = "docker.io/library/python:3.13-slim"
IMAGE: Final = "localhost/mns-consumer"
CERTIFICATES: Final = "/etc/ssl/certs/ca-certificates.crt"
MOST_MIB: Final = 200
LOCKED: Final = (
    *("--network", "host", "--ulimit", "nofile=4096:4096", "--ulimit", "nproc=4096:4096", "--read-only"),
    *("--tmpfs", "/tmp", "--cap-drop=ALL", "--security-opt", "no-new-privileges", "-m", "256m"),
)
HANDLER: Final = """
import asyncio
from mns_consumer import Job, handler

@handler("Cover")
async def cover(job: Job) -> None:
    print("begun", flush=True)
    await asyncio.sleep(3)
"""

pytestmark = [
    pytest.mark.skipif(os.environ.get("DEPLOY_TESTS") != "1", reason="DEPLOY_TESTS=1 switches it on"),
    pytest.mark.timeout(900),
]


class Podman:
    """Images and containers in a folder of their own.

    Args:
        folder: Where.
    """

    def __init__(self, folder: Path) -> None:
        storage = folder / "storage.conf"
        storage.write_text(
            f'[storage]\ndriver = "overlay"\ngraphroot = "{folder}/graph"\nrunroot = "{folder}/run"\n',
            encoding="utf-8",
        )
        self.environ = {**os.environ, "CONTAINERS_STORAGE_CONF": str(storage)}

    def ask(self, *argv: str, program: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        program = program or ("podman", "--runtime", "runc", "--cgroup-manager", "cgroupfs")
        return subprocess.run((*program, *argv), capture_output=True, text=True, check=False, env=self.environ)

    def must(self, *argv: str, program: tuple[str, ...] = ()) -> str:
        done = self.ask(*argv, program=program)
        assert done.returncode == 0, f"{argv}: {done.stdout[-3000:]} {done.stderr[-3000:]}"
        return done.stdout

    def build(self, folder: Path, tag: str) -> None:
        mounted = f"{CERTIFICATES}:{CERTIFICATES}:ro"
        flags = (
            "--isolation",
            "chroot",
            "--format",
            "docker",
            "--network",
            "host",
            "--pull=never",
            "--volume",
            mounted,
        )
        self.must("bud", *flags, "-t", tag, str(folder), program=("buildah",))

    def inspected(self, image: str) -> dict[str, Any]:
        found: list[dict[str, Any]] = json.loads(self.must("image", "inspect", image))
        return found[0]


@pytest.fixture(scope="module")
def podman(tmp_path_factory: pytest.TempPathFactory, tools: Callable[..., None]) -> Iterator[Podman]:
    """The image, built."""
    tools("debootstrap", "buildah", "podman", "runc")
    folder = tmp_path_factory.mktemp("image")
    debian, packed = folder / "debian", folder / "debian.tar"
    packages = "python3,python3-venv,ca-certificates,passwd,netbase,tzdata"
    run("debootstrap", "--variant=minbase", f"--include={packages}", "trixie", str(debian))
    (debian / "usr" / "bin" / "python").symlink_to("python3")
    run("tar", "-C", str(debian), "-cf", str(packed), ".")
    made = Podman(folder)
    made.must("import", "-q", str(packed), BASE)
    made.build(ROOT, IMAGE)
    yield made
    made.ask("rm", "--all", "--force", "--time", "0")
    # Mounts below the folder would prevent its removal.
    made.ask("system", "reset", "--force")


def test_its_contents(podman: Podman) -> None:
    """The image adds less than 200 MiB to its base, runs as a numeric user, and has no tool that builds or installs."""
    base, image = podman.inspected(BASE), podman.inspected(IMAGE)
    added_mib = (image["Size"] - base["Size"]) / 2**20
    print(f"{added_mib:.0f} MiB beyond the base")  # noqa: T201 - the figure is wanted in the test's output
    assert added_mib < MOST_MIB
    settings = image["Config"]
    assert settings["User"] == "65532:65532"
    assert settings["StopSignal"] == "SIGTERM"
    assert settings["Entrypoint"] == ["/opt/mns-consumer/bin/mns-consumer"]
    assert settings["Labels"]["org.opencontainers.image.title"] == "mns-consumer"
    look = "for tool in pip pip3 gcc make; do command -v $tool; done; ls /opt/mns-consumer/bin; ls -d ~root/.cache"
    found = podman.ask("run", "--rm", "--entrypoint", "sh", *LOCKED, IMAGE, "-c", look).stdout.split()
    assert "mns-consumer" in found
    assert not {"gcc", "make", ".cache"} & {Path(name).name for name in found}
    assert not [name for name in found if Path(name).name.startswith("pip")]


def test_the_demo_passes_in_it(podman: Podman) -> None:
    """All 16 functions are handled, with 256 MiB, a read-only root and no capability."""
    assert "16 of 16" in podman.must("run", "--rm", *LOCKED, IMAGE, "demo")


def test_a_wrong_setting_ends_it(podman: Podman) -> None:
    """One line names the setting; the exit code is 78."""
    done = podman.ask("run", "--rm", *LOCKED, "-e", "MNS_CONSUMER_SLOTZ=3", IMAGE)
    assert done.returncode == 78
    assert "did you mean MNS_CONSUMER_SLOTS?" in done.stderr + done.stdout


def test_an_image_of_two_lines_has_its_handlers(podman: Podman, tmp_path: Path) -> None:
    """Handlers that a derived image copies to /handlers are found."""
    films = tmp_path / "films"
    films.mkdir()
    (films / "cover.py").write_text(HANDLER, encoding="utf-8")
    (tmp_path / "Dockerfile").write_text(f"FROM {IMAGE}\nCOPY films /handlers\n", encoding="utf-8")
    podman.build(tmp_path, "localhost/films")
    assert "/handlers/cover.py" in podman.must("run", "--rm", *LOCKED, "localhost/films", "functions")


async def test_it_is_healthy_and_a_stop_drains_it(podman: Podman, tmp_path: Path) -> None:
    """The health check passes; a stop drains the message in flight and ends with exit code 0."""
    films = tmp_path / "films"
    films.mkdir()
    (films / "cover.py").write_text(HANDLER, encoding="utf-8")
    films.chmod(0o755)
    async with Sandbox.on_free_port() as sandbox:
        sandbox.account.ensure(QUEUE)
        settings = {
            "NOTIFY_URL": sandbox.notify_url(QUEUE),
            "ENDPOINT": sandbox.url,
            "ACCESS_KEY_ID": "sandbox",
            "ACCESS_KEY_SECRET": "sandbox",
        }
        flags = [part for name, value in settings.items() for part in ("-e", f"MNS_CONSUMER_{name}={value}")]
        mounts = ("-v", f"{films}:/handlers:ro", "-v", "state:/var/lib/mns-consumer")

        async def ask(*argv: str) -> subprocess.CompletedProcess[str]:
            return await anyio.to_thread.run_sync(lambda: podman.ask(*argv))

        begun = await ask("run", "-d", "--name", "films", *LOCKED, *flags, *mounts, IMAGE)
        assert begun.returncode == 0, begun.stderr
        with anyio.fail_after(30):
            while (await ask("healthcheck", "run", "films")).returncode != 0:  # noqa: ASYNC110 - another process's affair
                await anyio.sleep(0.5)
        sandbox.put(QUEUE, body().decode())
        with anyio.fail_after(10):
            while "begun" not in (await ask("logs", "films")).stdout:  # noqa: ASYNC110 - the same
                await anyio.sleep(0.1)
        stopped = await ask("stop", "-t", "45", "films")
        assert stopped.returncode == 0, stopped.stderr
        state = json.loads((await ask("container", "inspect", "films")).stdout)[0]["State"]
        assert (state["ExitCode"], state["OOMKilled"]) == (0, False)
        logs = await ask("logs", "films")
        assert '"event":"job done"' in logs.stdout + logs.stderr
        assert not sandbox.messages(QUEUE)
