"""Installs the tools that the deployment tests need, if they are missing: ``DEPLOY_TESTS=1``, as root."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable

import pytest

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
