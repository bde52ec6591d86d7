"""Which version this is, as it was installed."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version


def version() -> str:
    """The distribution's version; ``0+unknown`` when it runs from a checkout without being installed."""
    try:
        return installed_version("mns-consumer")
    except PackageNotFoundError:
        return "0+unknown"
