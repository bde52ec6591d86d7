"""The installed version of this program."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version


def version() -> str:
    """The distribution's version; ``0+unknown`` in a checkout that is not installed."""
    try:
        return installed_version("mns-consumer")
    except PackageNotFoundError:
        return "0+unknown"
