"""The version of this program."""

from __future__ import annotations

from importlib.metadata import version as installed_version

import pytest

import consumer.version
from consumer.version import version


def test_the_version_is_the_installed_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The version is the distribution's; a checkout that is not installed has ``0+unknown``."""
    known = installed_version("pytest")
    monkeypatch.setattr(consumer.version, "installed_version", lambda _: installed_version("pytest"))
    assert version() == known
    monkeypatch.setattr(consumer.version, "installed_version", lambda _: installed_version("never-installed-dist"))
    assert version() == "0+unknown"
