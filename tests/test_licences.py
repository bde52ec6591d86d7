"""Every package of an installation has a permissive licence, and the documentation says which."""

from __future__ import annotations

import re
from email.message import Message
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Final, cast

import pytest

ROOT: Final = Path(__file__).resolve().parents[1]
PERMISSIVE: Final = {
    "Apache-2.0": ("apache-2.0", "apache software license", "apache license 2.0", "apache 2.0", "apache"),
    "MIT": ("mit", "mit license"),
    "MIT-0": ("mit-0",),
    "BSD": ("bsd-3-clause", "bsd-2-clause", "bsd license", "bsd", "3-clause bsd license"),
    "ISC": ("isc", "isc license", "isc license (iscl)"),
    "PSF-2.0": ("psf-2.0", "python software foundation license"),
    "MPL-2.0": ("mpl-2.0", "mozilla public license 2.0 (mpl 2.0"),
}
"""How packages name each licence. MPL-2.0 asks only that changes to its own files stay open."""


def installed(lock: str) -> dict[str, Distribution]:
    """What a lock file names, as far as it is for this machine."""
    names = re.findall(r"^([A-Za-z0-9._-]+)==", (ROOT / lock).read_text(encoding="utf-8"), re.MULTILINE)
    found = {}
    for name in names:
        try:
            found[name] = distribution(name)
        except PackageNotFoundError:
            continue
    return found


def licence_of(package: Distribution) -> str:
    """Its licence, by one of the names above, else as its metadata says."""
    metadata = cast("Message", package.metadata)
    said = [
        *re.split(r" AND | OR ", metadata.get("License-Expression") or ""),
        *(line.rpartition(" :: ")[2] for line in metadata.get_all("Classifier") or () if line.startswith("License ::")),
        (metadata.get("License") or "").strip().splitlines()[0] if metadata.get("License") else "",
    ]
    for text in filter(None, said):
        for name, spellings in PERMISSIVE.items():
            if text.strip("() ").lower() in spellings:
                return name
    return f"unknown: {said}"


def listed(lock: str) -> str:
    """The lines of the documentation, as they should be."""
    by_licence: dict[str, list[str]] = {}
    for name, package in installed(lock).items():
        by_licence.setdefault(licence_of(package), []).append(name)
    return "\n".join(f"* {licence}: {', '.join(sorted(names))}." for licence, names in sorted(by_licence.items()))


@pytest.mark.parametrize("lock", ["constraints.txt", ".build/constraints.txt"])
def test_every_licence_is_permissive_and_listed(lock: str) -> None:
    """No package has a licence that is not on the list, and the documentation lists each under its licence."""
    if "hatchling" not in installed(".build/constraints.txt") and lock.startswith(".build"):
        pytest.skip("what builds the package is not installed here")
    expected = listed(lock)
    assert "unknown" not in expected
    text = " ".join((ROOT / "consumer/docs/deploy.md").read_text(encoding="utf-8").split())
    for line in expected.splitlines():
        assert line in text, f"the documentation should say:\n{expected}"
