"""The wheel and an environment that holds it; tools that the deployment tests need (``DEPLOY_TESTS=1``, as root)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {
    "debootstrap": "debootstrap",
    "systemd-nspawn": "systemd-container",
    "systemd-analyze": "systemd",
    "nsenter": "util-linux",
    "buildah": "buildah",
    "podman": "podman",
    "runc": "runc",
    "prometheus": "prometheus",
    "promtool": "prometheus",
}
"""Debian's package of each tool."""


def run(*argv: str) -> str:
    """Run a command that must succeed; returns its output."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{argv}: {done.stdout[-2000:]} {done.stderr[-2000:]}"
    return done.stdout


@pytest.fixture(scope="session")
def tools() -> Callable[..., None]:
    """Installs tools that are missing."""

    def see_to(*names: str) -> None:
        if os.geteuid() != 0:
            pytest.skip("only root installs packages, boots machines and builds images")
        if missing := sorted({PACKAGES[name] for name in names if shutil.which(name) is None}):
            run("apt-get", "update", "--quiet")
            # No service that a package brings is to be started by its being installed.
            install = ("apt-get", "install", "--yes", "--quiet", "--no-install-recommends", *missing)
            run("env", "DEBIAN_FRONTEND=noninteractive", "RUNLEVEL=1", *install)

    return see_to


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    build = (
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        str(folder),
        str(ROOT),
    )
    subprocess.run([sys.executable, *build], check=True)
    (made,) = folder.glob("*.whl")
    return made


@pytest.fixture(scope="session")
def scripts(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of programs of a new environment that holds the wheel; its dependencies are borrowed from ours."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    install = ("-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index", str(wheel))
    subprocess.run([sys.executable, *install], check=True)
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(subprocess.run([python, "-c", ask], check=True, capture_output=True, text=True).stdout.strip())
    # Python reads no .pth file of a folder that is added so: our editable installation is not seen.
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    return folder / "bin"
